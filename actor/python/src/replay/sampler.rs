//! Batches out of a table, as arrays.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pmpo_proto::replay::v1::{BlockedReason, TableInfo};
use pmpo_replay_client::{Compression, SampledBatch, Sampler as Source, SamplerConfig};
use pmpo_types::{DType, Signature};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tokio_util::sync::CancellationToken;

use crate::replay::columns::{of_keys, of_priorities};
use crate::replay::link::Link;
use crate::replay::process::{Deadline, OfProcess, wait};
use crate::replay::{buffer, error, tables};

/// Draws batches from a table, ahead of their use: `for batch in sampler`, or `sampler.next(timeout=1)`.
///
/// It waits for the table's first step, since only then the table has a signature. A lost connection is made again
/// by itself. Threads may share one; each batch goes to one of them.
#[pyclass(module = "pmpo.replay", frozen)]
pub(crate) struct Sampler(OfProcess<Inner>);

/// What `Client.sampler` is told.
pub(crate) struct SamplerOptions {
    config: SamplerConfig,
    timeout: Option<f64>,
    /// Of items that have lengths of their own: whether a batch is filled up with zeros.
    pub(crate) padded: bool,
}

impl SamplerOptions {
    pub(crate) fn new(
        table: String,
        batch_size: usize,
        prefetch: usize,
        compression: &str,
        timeout: Option<f64>,
    ) -> PyResult<Self> {
        Deadline::after(timeout)?;
        let compression = match compression {
            "none" => Compression::None,
            "lz4" => Compression::Lz4,
            "zstd" => Compression::Zstd,
            other => {
                let message = format!("compression: expected none, lz4 or zstd, got `{other}`");
                return Err(PyValueError::new_err(message));
            }
        };
        let config = SamplerConfig {
            table,
            batch_size,
            prefetch_batches: prefetch,
            compression,
            ..SamplerConfig::default()
        };
        config
            .validate()
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self {
            config,
            timeout,
            padded: true,
        })
    }
}

struct Inner {
    link: Arc<Link>,
    options: SamplerOptions,
    /// Only looked at while the interpreter is detached: whoever holds it may wait.
    state: Mutex<State>,
}

enum State {
    /// The table had no signature yet.
    Unopened,
    Open(Open),
    Closed,
}

struct Open {
    source: Source,
    layout: Arc<Layout>,
}

struct Layout {
    signature: Signature,
    sequence_length: usize,
    padded: bool,
}

/// Items that were drawn together. All arrays are the reader's own, to be written to as well.
#[pyclass(module = "pmpo.replay", frozen, get_all)]
pub(crate) struct Batch {
    /// The columns: `{name: array}`, `[batch_size, ...]` of each, and `[batch_size, sequence_length, ...]` where an
    /// item has several steps. Where items have lengths of their own: the same with zeros behind an item's end, or
    /// of a sampler with `padded=False` `[sum(lengths), ...]`, item behind item.
    data: Py<PyDict>,
    /// Steps of each item, uint32 `[batch_size]`; None where all have the table's `sequence_length`.
    lengths: Option<Py<PyAny>>,
    /// Which steps are an item's and not filled up, bool `[batch_size, sequence_length]`; None where none are.
    mask: Option<Py<PyAny>>,
    /// For `update_priorities` and `delete_items`, uint64 `[batch_size]`.
    keys: Py<PyAny>,
    /// Of drawing each item, when it was drawn, float64 `[batch_size]`.
    probabilities: Py<PyAny>,
    /// When it was drawn, float64 `[batch_size]`; None where no selector of the table uses any.
    priorities: Option<Py<PyAny>>,
    /// This time included, uint32 `[batch_size]`.
    times_sampled: Py<PyAny>,
    /// Items that the table held right after the draw.
    size: u64,
    /// Items ever inserted by then.
    inserts: u64,
    /// Items ever sampled by then.
    samples: u64,
}

#[pymethods]
impl Sampler {
    /// The next batch.
    ///
    /// Args:
    ///     timeout: seconds; None: for ever.
    ///
    /// Raises:
    ///     Blocked: the rate limiter has held it back for so long.
    ///     Refused: the table cannot give such batches.
    #[pyo3(signature = (timeout=None))]
    fn next(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Batch> {
        match self.take(py, timeout)? {
            Some(batch) => Ok(batch),
            None => Err(error::closed(py, "Sampler")),
        }
    }

    /// Sets priorities of items of a batch, without waiting: they are passed on in the background, and dropped
    /// where that fails. `Client.update_priorities` waits and answers.
    ///
    /// Args:
    ///     keys: as `Batch.keys`, uint64 `[items]`.
    ///     priorities: one for each key, from 0 to 1e30, float `[items]`.
    fn update_priorities(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        priorities: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let inner = self.0.get(py)?;
        let (keys, priorities) = (of_keys(keys)?, of_priorities(priorities)?);
        let updated = py.detach(|| match &*inner.lock() {
            State::Open(open) => Some(open.source.update_priorities(0, &keys, &priorities)),
            State::Unopened | State::Closed => None,
        });
        match updated {
            Some(updated) => updated.map_err(|error| error::of_client(py, &error)),
            None => Err(error::closed(py, "Sampler")),
        }
    }

    /// Ends it; what iterates over it ends, too.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.0.get(py)?;
        py.detach(|| *inner.lock() = State::Closed);
        Ok(())
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        self.take(py, self.0.get(py)?.options.timeout)
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }
}

impl Sampler {
    pub(crate) fn new(py: Python<'_>, link: Arc<Link>, options: SamplerOptions) -> PyResult<Self> {
        let inner = Inner {
            link,
            options,
            state: Mutex::new(State::Unopened),
        };
        // Whoever makes one hears at once of a table that is not there.
        let info = inner.link.table(py, &inner.options.config.table)?;
        inner.open(py, &info)?;
        Ok(Self(OfProcess::new("Sampler", inner)))
    }

    /// The next batch; `None` once it is closed.
    fn take(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Batch>> {
        let inner = self.0.get(py)?;
        let deadline = Deadline::after(timeout)?;
        let table = &inner.options.config.table;
        if py.detach(|| matches!(*inner.lock(), State::Unopened)) {
            match inner.link.table_with_signature(py, table, deadline)? {
                Some(info) => inner.open(py, &info)?,
                None => return Err(inner.late(py)),
            }
        }
        let taken = wait(py, deadline, |slice| match &mut *inner.lock() {
            State::Open(open) => {
                let batch = open.source.next_timeout(slice)?;
                Ok(batch.map(|batch| Some((batch, Arc::clone(&open.layout)))))
            }
            State::Unopened | State::Closed => Ok(Some(None)),
        })?;
        match taken {
            Ok(Some(Some((batch, layout)))) => layout.batch(py, batch).map(Some),
            Ok(Some(None)) => Ok(None),
            Ok(None) => Err(inner.late(py)),
            Err(error) => Err(error::of_client(py, &error)),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to draw, if the table has a signature.
    fn open(&self, py: Python<'_>, info: &TableInfo) -> PyResult<()> {
        let Some(signature) = tables::signature(info)? else {
            return Ok(());
        };
        let of_table = info
            .config
            .as_ref()
            .map_or(1, |config| config.sequence_length());
        let sequence_length = of_table.max(1) as usize;
        let least = info
            .config
            .as_ref()
            .map_or(1, |config| config.min_sequence_length());
        let config = SamplerConfig {
            sequence_length,
            ragged: (least as usize) < sequence_length,
            credentials: self.link.credentials.clone(),
            ..self.options.config.clone()
        };
        let source = Source::new(
            std::slice::from_ref(&self.link.address),
            config,
            signature.clone(),
            &self.link.runtime,
            &CancellationToken::new(),
        )
        .map_err(|error| error::of_client(py, &error))?;
        let layout = Arc::new(Layout {
            signature,
            sequence_length,
            padded: self.options.padded,
        });
        py.detach(|| {
            let mut state = self.lock();
            if matches!(*state, State::Unopened) {
                *state = State::Open(Open { source, layout });
            }
        });
        Ok(())
    }

    fn late(&self, py: Python<'_>) -> PyErr {
        let table = &self.options.config.table;
        let what = format!("sampler of table `{table}`");
        let reasons = [BlockedReason::MinSize, BlockedReason::Inserts];
        self.link.late(py, table, &reasons, &what)
    }
}

impl Layout {
    fn batch(&self, py: Python<'_>, batch: SampledBatch) -> PyResult<Batch> {
        let items = batch.items;
        let lengths = &items.lengths;
        let padded = self.padded && !lengths.is_empty();
        let leading = match self.sequence_length {
            1 => vec![items.keys.len()],
            _ if !lengths.is_empty() && !padded => vec![batch.columns.len()],
            steps => vec![items.keys.len(), steps],
        };
        let mask = padded.then(|| self.mask(py, lengths)).transpose()?;
        let data = PyDict::new(py);
        let columns = self
            .signature
            .columns
            .iter()
            .zip(batch.columns.into_columns());
        for (spec, column) in columns {
            let shape = leading.iter().chain(&spec.shape).copied().collect();
            let column = match padded {
                true => filled_up(&column, lengths, self.sequence_length, spec.item_bytes()),
                false => column,
            };
            data.set_item(&spec.name, buffer::column(py, spec.dtype, shape, column)?)?;
        }
        let prioritized = !items.priorities.is_empty();
        let priorities = prioritized
            .then(|| buffer::numbers(py, items.priorities))
            .transpose()?;
        let ragged = !items.lengths.is_empty();
        let lengths = ragged
            .then(|| buffer::numbers(py, items.lengths))
            .transpose()?;
        Ok(Batch {
            data: data.unbind(),
            lengths: lengths.map(Bound::unbind),
            mask,
            keys: buffer::numbers(py, items.keys)?.unbind(),
            probabilities: buffer::numbers(py, items.probabilities)?.unbind(),
            priorities: priorities.map(Bound::unbind),
            times_sampled: buffer::numbers(py, items.times_sampled)?.unbind(),
            size: batch.counters.size,
            inserts: batch.counters.inserts,
            samples: batch.counters.samples,
        })
    }

    /// Which steps of a batch that is filled up are an item's.
    fn mask(&self, py: Python<'_>, lengths: &[u32]) -> PyResult<Py<PyAny>> {
        let steps = self.sequence_length;
        let ones = vec![1; lengths.iter().map(|&length| length as usize).sum()];
        let mask = filled_up(&ones, lengths, steps, 1);
        let shape = vec![lengths.len(), steps];
        buffer::column(py, DType::Bool, shape, mask).map(Bound::unbind)
    }
}

/// Items of so many steps, of `step_bytes` each, with zeros behind the end of each up to `steps` of them.
fn filled_up(column: &[u8], lengths: &[u32], steps: usize, step_bytes: usize) -> Bytes {
    let item_bytes = steps * step_bytes;
    let mut all = vec![0; lengths.len() * item_bytes];
    let mut rest = column;
    for (item, &length) in all.chunks_exact_mut(item_bytes).zip(lengths) {
        let (own, after) = rest.split_at(length as usize * step_bytes);
        item[..own.len()].copy_from_slice(own);
        rest = after;
    }
    all.into()
}
