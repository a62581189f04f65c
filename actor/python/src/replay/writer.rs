//! Steps into a table, one after the other, and the items that end with them.
//!
//! What is appended is gathered into messages here, and sent when one is full, when nothing more comes for a
//! moment, or by `flush`; from there on it is the product's own writer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pmpo_proto::replay::v1::BlockedReason;
use pmpo_replay_client::{ClientError, Writer as Sender, WriterConfig};
use pmpo_types::{Signature, check_priorities};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PySlice, PyTuple};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::replay::link::Link;
use crate::replay::message::Message;
use crate::replay::process::{Deadline, OfProcess, wait};
use crate::replay::{columns, columns::Layout, error};

/// How long a step waits for others.
const LINGER: Duration = Duration::from_millis(5);

/// Writes steps into a table, exactly once: a lost connection loses and doubles nothing.
///
/// In a table with `sequence_length` 1 each step is an item. In others an item is the `sequence_length` steps that
/// end with the one appended last when `create_item` is called, or in a table with a `min_sequence_length` as many as
/// that says; items that overlap share their steps.
///
/// `append` takes a step over and does not wait for the network, but for the rate limiter, once
/// `max_in_flight_steps` steps wait. As a context manager, it is flushed and closed at the end; what was not flushed
/// when it goes otherwise may not be stored.
#[pyclass(module = "pmpo.replay", frozen)]
pub(crate) struct Writer(OfProcess<Arc<Inner>>);

/// What `Client.writer` is told.
pub(crate) struct WriterOptions {
    pub(crate) table: String,
    pub(crate) max_in_flight_steps: usize,
    pub(crate) timeout: Option<f64>,
}

struct Inner {
    link: Arc<Link>,
    options: WriterOptions,
    sequence_length: usize,
    /// Fewest steps of an item.
    min_sequence_length: usize,
    /// Something has been gathered, or the writer is gone.
    gathered: Arc<Notify>,
    state: Mutex<State>,
}

enum State {
    /// Nothing has been appended that would say what a step is.
    Unopened,
    Open(Box<Open>),
    Closed(Counts),
}

#[derive(Clone, Copy, Default)]
struct Counts {
    acknowledged_items: u64,
    lost_items: u64,
    in_flight_steps: usize,
}

struct Open {
    sender: Sender,
    layout: Arc<Layout>,
    message: Message,
    /// Appended since the episode began.
    episode_steps: usize,
}

#[pymethods]
impl Writer {
    /// Appends a step.
    ///
    /// Args:
    ///     step: `{name: value}` with a value for each column of the signature: an array of its shape, or a number for
    ///         one without axes. What is not of the column's dtype is converted as NumPy's "same_kind" allows.
    ///     priority: of the item, in a table where each step is one; None: the largest so far, at first 1.
    ///
    /// Raises:
    ///     ValueError: the step is not of the signature, or holds what is not finite; nothing of it is taken.
    ///     Blocked: the rate limiter has held the writer back for its timeout; nothing of it is taken.
    ///     Refused: the server will not take what was written.
    #[pyo3(signature = (step, priority=None))]
    fn append(
        &self,
        py: Python<'_>,
        step: &Bound<'_, PyAny>,
        priority: Option<f64>,
    ) -> PyResult<()> {
        let inner = self.0.get(py)?;
        let copied;
        let step = match step.cast::<PyDict>() {
            Ok(step) => step,
            Err(_) => {
                copied = as_dict(step)?;
                &copied
            }
        };
        if let Some(priority) = priority {
            if inner.sequence_length > 1 {
                let (table, steps) = (&inner.options.table, inner.sequence_length);
                return Err(PyValueError::new_err(format!(
                    "priority: an item of table `{table}` is {steps} steps: give its priority to create_item"
                )));
            }
            check_priority(priority)?;
        }
        let row = inner.layout(py, step)?.row(py, step)?;
        inner.make_room(py, |message| {
            // In tables with longer items a step alone has no priority.
            let mixes = inner.sequence_length == 1 && message.mixes(priority);
            if mixes || message.is_full() {
                message.steps
            } else {
                0
            }
        })?;
        if let State::Open(open) = &mut *inner.lock() {
            open.message.append(&open.layout.signature, &row, priority);
            open.episode_steps += 1;
            if open.message.steps == 1 {
                inner.gathered.notify_one();
            }
            return Ok(());
        }
        Err(error::closed(py, "Writer"))
    }

    /// Makes an item of the newest steps, in a table with `sequence_length` above 1.
    ///
    /// Args:
    ///     num_steps: how many, or `slice(-num_steps, None)`: the table's `sequence_length`, or where it has a
    ///         `min_sequence_length`, from that to it. None: `sequence_length`, or where items may have fewer, all
    ///         steps since the episode began, as far as an item can hold them.
    ///     priority: from 0 to 1e30; None: the largest so far, at first 1.
    ///
    /// Raises:
    ///     ValueError: the item cannot be, and why not.
    ///     Blocked: the rate limiter has held the writer back for its timeout; the item was not made.
    #[pyo3(signature = (num_steps=None, priority=None))]
    fn create_item(
        &self,
        py: Python<'_>,
        num_steps: Option<&Bound<'_, PyAny>>,
        priority: Option<f64>,
    ) -> PyResult<()> {
        let inner = self.0.get(py)?;
        let refuse = |reason: String| {
            let table = &inner.options.table;
            Err(PyValueError::new_err(format!(
                "item of table `{table}`: {reason}"
            )))
        };
        let (least, most) = (inner.min_sequence_length, inner.sequence_length);
        if most == 1 {
            let reason =
                "each step is one by itself (sequence_length is 1): give its priority to append";
            return refuse(reason.to_owned());
        }
        let asked = match num_steps {
            None => None,
            Some(steps) => match newest(steps)? {
                Some(length) if (least..=most).contains(&length) => Some(length),
                _ if least == most => {
                    return refuse(format!(
                        "expected the {most} steps that end with the newest, {most} or slice(-{most}, None), got \
                         {steps}"
                    ));
                }
                _ => {
                    return refuse(format!(
                        "expected {least} to {most} steps that end with the newest, a number or slice(-number, \
                         None), got {steps}"
                    ));
                }
            },
        };
        priority.map_or(Ok(()), check_priority)?;
        inner.make_room(py, |message| match message.mixes(priority) {
            true => message.sendable(),
            false => 0,
        })?;
        let made = match &mut *inner.lock() {
            State::Open(open) => {
                let all = open.episode_steps.clamp(least, most);
                let length = asked.unwrap_or(all);
                Some(open.create_item(length, least < most, priority))
            }
            State::Unopened => Some(Err(format!("expected {least} steps, got 0"))),
            State::Closed(_) => None,
        };
        let Some(made) = made else {
            return Err(error::closed(py, "Writer"));
        };
        inner.gathered.notify_one();
        made.or_else(refuse)
    }

    /// Begins another episode: no item holds steps of two.
    fn end_episode(&self, py: Python<'_>) -> PyResult<()> {
        if let State::Open(open) = &mut *self.0.get(py)?.lock() {
            open.episode_steps = 0;
        }
        Ok(())
    }

    /// Sends what was appended, and waits until the server has stored it all.
    ///
    /// Args:
    ///     timeout: seconds; None: for ever.
    ///
    /// Raises:
    ///     Blocked: the rate limiter has held the writer back for so long; what was appended stays, and is sent.
    ///     Refused: the server will not take what was written.
    #[pyo3(signature = (timeout=None))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let inner = self.0.get(py)?;
        let deadline = Deadline::after(timeout)?;
        let flushed = wait(py, deadline, |slice| {
            let State::Open(open) = &mut *inner.lock() else {
                return Ok(Some(()));
            };
            let steps = open.message.steps;
            if !open.send(steps, slice)? {
                return Ok(None);
            }
            match open.sender.flush(slice) {
                Err(ClientError::Deadline { .. }) => Ok(None),
                done => done.map(Some),
            }
        })?;
        inner.in_time(py, flushed)
    }

    /// Flushes and closes; may be called again.
    #[pyo3(signature = (timeout=None))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let flushed = self.flush(py, timeout);
        self.0.get(py)?.close();
        flushed
    }

    /// Items that the server has stored.
    #[getter]
    fn acknowledged_items(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.0.get(py)?.counts().acknowledged_items)
    }

    /// Items of several steps that are lost, for a server that came back without its memory had lost the steps that
    /// they begin with.
    #[getter]
    fn lost_items(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.0.get(py)?.counts().lost_items)
    }

    /// Steps appended and not known to be stored.
    #[getter]
    fn in_flight_steps(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.0.get(py)?.counts().in_flight_steps)
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*exception))]
    fn __exit__(&self, py: Python<'_>, exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        if exception.get_item(0)?.is_none() {
            return self.close(py, None);
        }
        self.0.get(py)?.close();
        Ok(())
    }
}

impl Writer {
    pub(crate) fn new(
        py: Python<'_>,
        link: Arc<Link>,
        options: WriterOptions,
        signature: Option<Signature>,
    ) -> PyResult<Self> {
        Deadline::after(options.timeout)?;
        let config = link.table(py, &options.table)?.config.unwrap_or_default();
        let inner = Arc::new(Inner {
            link,
            options,
            sequence_length: config.sequence_length().max(1) as usize,
            min_sequence_length: config.min_sequence_length() as usize,
            gathered: Arc::default(),
            state: Mutex::new(State::Unopened),
        });
        if let Some(signature) = signature {
            inner.open_with(py, signature)?;
        }
        Ok(Self(OfProcess::new("Writer", inner)))
    }
}

impl Inner {
    /// Never held while Python is called, which might let another thread run that wants it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> Counts {
        match &*self.lock() {
            State::Unopened => Counts::default(),
            State::Open(open) => open.counts(),
            State::Closed(counts) => *counts,
        }
    }

    fn close(&self) {
        let counts = self.counts();
        *self.lock() = State::Closed(counts);
    }

    /// What a step is; the first one says it, where nobody has before.
    fn layout(self: &Arc<Self>, py: Python<'_>, step: &Bound<'_, PyDict>) -> PyResult<Arc<Layout>> {
        if matches!(*self.lock(), State::Unopened) {
            self.open_with(py, columns::signature(step)?)?;
        }
        if let State::Open(open) = &*self.lock() {
            return Ok(Arc::clone(&open.layout));
        }
        Err(error::closed(py, "Writer"))
    }

    fn open_with(self: &Arc<Self>, py: Python<'_>, signature: Signature) -> PyResult<()> {
        let link = &self.link;
        let config = WriterConfig {
            table: self.options.table.clone(),
            max_in_flight_items: self.options.max_in_flight_steps,
            sequence_length: self.sequence_length,
            credentials: link.credentials.clone(),
            ..WriterConfig::default()
        };
        let sender = Sender::new(
            std::slice::from_ref(&link.address),
            config,
            signature.clone(),
            &link.runtime,
            &CancellationToken::new(),
        )
        .map_err(|error| error::of_client(py, &error))?;
        let in_flight = self.options.max_in_flight_steps;
        let message = Message::new(&signature, self.sequence_length, in_flight);
        *self.lock() = State::Open(Box::new(Open {
            sender,
            layout: Arc::new(Layout::new(py, signature)),
            message,
            episode_steps: 0,
        }));
        let (writer, gathered) = (Arc::downgrade(self), Arc::clone(&self.gathered));
        link.runtime.spawn(send_what_lingers(writer, gathered));
        Ok(())
    }

    /// Sends as many of the first steps as are in the way of what comes next.
    fn make_room(
        &self,
        py: Python<'_>,
        in_the_way: impl Fn(&Message) -> usize + Sync,
    ) -> PyResult<()> {
        if let State::Open(open) = &*self.lock()
            && in_the_way(&open.message) == 0
        {
            return Ok(());
        }
        let sent = wait(py, Deadline::after(self.options.timeout)?, |slice| {
            let State::Open(open) = &mut *self.lock() else {
                return Ok(Some(()));
            };
            let steps = in_the_way(&open.message);
            Ok(open.send(steps, slice)?.then_some(()))
        })?;
        self.in_time(py, sent)
    }

    fn in_time(&self, py: Python<'_>, done: Result<Option<()>, ClientError>) -> PyResult<()> {
        match done {
            Ok(Some(())) => Ok(()),
            Ok(None) => {
                let what = format!("writer of table `{}`", self.options.table);
                Err(self
                    .link
                    .late(py, &self.options.table, &[BlockedReason::Samples], &what))
            }
            Err(error) => Err(error::of_client(py, &error)),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.gathered.notify_one();
    }
}

/// Sends what has been gathered when nothing has filled its message for a moment.
async fn send_what_lingers(writer: Weak<Inner>, gathered: Arc<Notify>) {
    loop {
        gathered.notified().await;
        tokio::time::sleep(LINGER).await;
        let Some(writer) = writer.upgrade() else {
            return;
        };
        // Whoever holds it sends, or waits for the limiter.
        let Ok(mut state) = writer.state.try_lock() else {
            gathered.notify_one();
            continue;
        };
        let State::Open(open) = &mut *state else {
            continue;
        };
        let steps = open.message.sendable();
        // What has ended the writer, its next call says.
        if let Ok(false) = open.send(steps, Duration::ZERO) {
            gathered.notify_one();
        }
    }
}

impl Open {
    fn counts(&self) -> Counts {
        Counts {
            acknowledged_items: self.sender.acknowledged_items(),
            lost_items: self.sender.lost_items(),
            in_flight_steps: self.sender.in_flight_steps() + self.message.steps,
        }
    }

    /// Makes an item of the newest steps, or says why not.
    fn create_item(
        &mut self,
        length: usize,
        ragged: bool,
        priority: Option<f64>,
    ) -> Result<(), String> {
        let got = self.episode_steps;
        if got < length {
            return Err(format!(
                "expected {length} steps since the episode began, got {got}"
            ));
        }
        let own = ragged.then_some(length as u32);
        self.message.end_item(own, priority)
    }

    /// Sends the first steps; answers whether there was room for them within `timeout`.
    fn send(&mut self, steps: usize, timeout: Duration) -> Result<bool, ClientError> {
        if steps == 0 {
            return Ok(true);
        }
        if !self.sender.wait_for_room(steps, timeout)? {
            return Ok(false);
        }
        let batch = self.message.take(&self.layout.signature, steps);
        self.sender.push_steps(&batch)?;
        Ok(true)
    }
}

fn check_priority(priority: f64) -> PyResult<()> {
    check_priorities(&[priority])
        .map_err(|_| PyValueError::new_err(format!("priority: expected 0 to 1e30, got {priority}")))
}

/// Any mapping as a dictionary.
fn as_dict<'py>(step: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let made = step.py().get_type::<PyDict>().call1((step,));
    let made = made.map_err(|_| PyTypeError::new_err("step: expected {name: array}"))?;
    Ok(made.cast_into::<PyDict>()?)
}

/// How many of the newest steps a number or a slice says, if it says that.
fn newest(steps: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    if !steps.is_instance_of::<PySlice>() {
        return Ok(steps.extract::<usize>().ok());
    }
    let part = |name| -> PyResult<Option<isize>> { steps.getattr(name)?.extract() };
    let start = part("start")?.filter(|&start| start < 0);
    let to_the_end = part("stop")?.is_none() && part("step")?.is_none_or(|step| step == 1);
    Ok(start.filter(|_| to_the_end).map(isize::unsigned_abs))
}
