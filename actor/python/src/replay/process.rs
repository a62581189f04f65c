//! What belongs to one process: threads, and all that waits for them. `fork` copies neither, so whatever is used
//! in a process that was forked from its maker's is refused, and never dropped there: a lock that one of those
//! threads held would be held for ever.

use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::process;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle};

use crate::replay::error;

/// How long a wait goes on before Python may handle a signal, for instance Ctrl-C.
const SLICE: Duration = Duration::from_millis(50);
/// Sockets and little else.
const WORKERS: usize = 2;

/// Of the process that made it alone.
pub(crate) struct OfProcess<T> {
    value: ManuallyDrop<T>,
    pid: u32,
    name: &'static str,
}

impl<T> OfProcess<T> {
    /// `name` is what errors call it.
    pub(crate) fn new(name: &'static str, value: T) -> Self {
        Self {
            value: ManuallyDrop::new(value),
            pid: process::id(),
            name,
        }
    }

    /// Refuses a process that was forked from the one that made it.
    pub(crate) fn get(&self, py: Python<'_>) -> PyResult<&T> {
        if self.pid == process::id() {
            return Ok(self.value.deref());
        }
        Err(error::forked(py, self.name, self.pid))
    }
}

impl<T> Drop for OfProcess<T> {
    fn drop(&mut self) {
        if self.pid == process::id() {
            // SAFETY: nobody uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

/// The runtime of this process's clients. It is asked for while the interpreter is attached, and `os.fork` is
/// called with it attached: so no fork finds the lock taken.
pub(crate) fn runtime(_: Python<'_>) -> PyResult<Handle> {
    static RUNTIME: Mutex<Option<(u32, Handle)>> = Mutex::new(None);
    let mut known = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((pid, handle)) = &*known
        && *pid == process::id()
    {
        return Ok(handle.clone());
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("pmpo-replay")
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    // It lives as long as the process; one that a fork has copied is of threads that are not here.
    mem::forget(runtime);
    mem::forget(known.replace((process::id(), handle.clone())));
    Ok(handle)
}

/// Until when to wait; `None`: for ever.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// A timeout as Python gives it, in seconds.
    pub(crate) fn after(timeout: Option<f64>) -> PyResult<Self> {
        let Some(seconds) = timeout else {
            return Ok(Self(None));
        };
        let duration = Duration::try_from_secs_f64(seconds);
        let deadline = duration
            .ok()
            .and_then(|duration| Instant::now().checked_add(duration));
        match deadline {
            Some(deadline) => Ok(Self(Some(deadline))),
            None => Err(PyValueError::new_err(format!(
                "timeout: expected seconds, at least 0, or None, got {seconds}"
            ))),
        }
    }

    pub(crate) fn passed(self) -> bool {
        self.0.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// How long a wait may go on at a stretch.
    pub(crate) fn slice(self) -> Duration {
        self.0.map_or(SLICE, |deadline| {
            SLICE.min(deadline.saturating_duration_since(Instant::now()))
        })
    }
}

/// Attempts, without the interpreter, what takes as long as it is given and answers `None` where that was not
/// enough; `None` when the deadline has passed, and whatever a handler of a signal raises.
pub(crate) fn wait<T: Send, E: Send>(
    py: Python<'_>,
    deadline: Deadline,
    mut attempt: impl FnMut(Duration) -> Result<Option<T>, E> + Send,
) -> PyResult<Result<Option<T>, E>> {
    loop {
        let slice = deadline.slice();
        match py.detach(|| attempt(slice)) {
            Ok(None) if deadline.passed() => return Ok(Ok(None)),
            Ok(None) => py.check_signals()?,
            done => return Ok(done),
        }
    }
}
