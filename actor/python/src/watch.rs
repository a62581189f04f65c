//! Watches over calls into environments: one that hangs cannot be ended from within, so its process is.
//!
//! What had been handed to the replay by then are whole windows of valid steps; the rest goes with the process.
//! Whoever supervises it starts it anew.

use std::ffi::c_int;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Time between looks at the calls under way.
const LOOK: Duration = Duration::from_millis(200);
/// The exit code of a role that fails.
const FAILED: c_int = 1;

unsafe extern "C" {
    /// Ends the process without a word to its threads, one of which hangs.
    fn _exit(code: c_int) -> !;
}

/// An environment that is watched while it is called.
pub(crate) struct Watched(Arc<Call>);

struct Call {
    task: String,
    timeout: Duration,
    since: Mutex<Option<Instant>>,
}

impl Call {
    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn hangs(&self) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() > self.timeout)
    }
}

/// Ends the watch over one call.
pub(crate) struct Watch(Arc<Call>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

type Calls = Mutex<Vec<Weak<Call>>>;

impl Watched {
    pub(crate) fn new(task: &str, timeout: Duration) -> Self {
        static CALLS: OnceLock<Calls> = OnceLock::new();
        let call = Arc::new(Call {
            task: task.to_owned(),
            timeout,
            since: Mutex::new(None),
        });
        let calls = CALLS.get_or_init(|| {
            std::thread::spawn(|| watch(&CALLS));
            Mutex::default()
        });
        let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(Arc::downgrade(&call));
        Self(call)
    }

    /// A call begins; it ends when what this answers is dropped.
    pub(crate) fn begin(&self) -> Watch {
        self.0.set(Some(Instant::now()));
        Watch(self.0.clone())
    }
}

fn watch(calls: &OnceLock<Calls>) {
    loop {
        std::thread::sleep(LOOK);
        let Some(calls) = calls.get() else {
            continue;
        };
        let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.retain(|call| call.strong_count() > 0);
        let mut alive = calls.iter().filter_map(Weak::upgrade);
        if let Some(call) = alive.find(|call| call.hangs()) {
            let (task, timeout) = (&call.task, call.timeout);
            tracing::error!(
                task,
                "{task}: hangs, no answer for {timeout:?} (environment_timeout_s); the episode is void and this \
                 process ends"
            );
            // SAFETY: it only ends the process.
            unsafe { _exit(FAILED) };
        }
    }
}
