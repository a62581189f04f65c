//! Inserts items exactly once, into the first of its shards that is there.
//!
//! The thread pushes into the [`Outbox`](crate::outbox::Outbox) of the shard in use, behind one lock; a task for each shard
//! sends from its outbox, trims it by the shard's acknowledgements, and after a lost connection sends
//! again what the shard does not have. The rate limiter reaches the thread this way too: the server
//! holds an acknowledgement back, the outbox fills, and [`Writer::push`] blocks.
//!
//! When the shard in use stays away, what was never sent to it moves to another shard with everything
//! pushed from then on. What was sent and not acknowledged stays: only that shard knows whether it has
//! stored it, and says so when it is back. So a change of shards doubles nothing either.

use std::sync::Arc;
use std::time::Duration;

use pmpo_types::{ColumnBatch, Signature, StepBatch};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lanes::Lanes;
use crate::{ClientError, WriterConfig};

/// Larger batches are split into messages of about this size, far below the limit of a message.
const MAX_CHUNK_BYTES: usize = 4 << 20;

/// A numbered stream of items into one table. Dropping it abandons what is not acknowledged;
/// [`flush`](Self::flush) first.
pub struct Writer {
    lanes: Arc<Lanes>,
    signature: Signature,
    sequence_length: usize,
    max_in_flight_steps: usize,
    max_chunk_steps: usize,
    shutdown: CancellationToken,
}

impl Writer {
    /// A writer of items with `signature` into a table of the service whose shards are at `addresses`
    /// (`host:port` each, in the order of preference, see [`preference`](crate::preference)), under a
    /// new random id. Does not wait for the server; its refusals reach the next call.
    ///
    /// # Errors
    /// The configuration or an address cannot be used.
    pub fn new(
        addresses: &[String],
        config: WriterConfig,
        signature: Signature,
        runtime: &Handle,
        shutdown: &CancellationToken,
    ) -> Result<Self, ClientError> {
        config.validate()?;
        let shutdown = shutdown.child_token();
        let step_bytes = signature.item_bytes().max(1);
        let max_in_flight_steps = config
            .max_in_flight_items
            .min((config.max_in_flight_bytes / step_bytes).max(1));
        let lanes = Lanes::start(addresses, &config, &signature, runtime, &shutdown)?;
        Ok(Self {
            lanes,
            signature,
            sequence_length: config.sequence_length,
            max_in_flight_steps,
            max_chunk_steps: (MAX_CHUNK_BYTES / step_bytes).clamp(1, max_in_flight_steps),
            shutdown,
        })
    }

    /// Hands over steps each of which is an item; otherwise as [`push_steps`](Self::push_steps).
    ///
    /// # Errors
    /// As [`push_steps`](Self::push_steps).
    pub fn push(&mut self, batch: ColumnBatch) -> Result<(), ClientError> {
        self.push_steps(&StepBatch::transitions(batch))
    }

    /// Hands over the next steps and the items that end in them; blocks while it would exceed the bound
    /// of steps in flight. An item may begin with steps of earlier batches.
    ///
    /// # Errors
    /// The batch does not fit the signature or the configured `sequence_length` (nothing of it is
    /// taken), the server has refused for good, or the shutdown token was cancelled.
    pub fn push_steps(&mut self, batch: &StepBatch) -> Result<(), ClientError> {
        self.check(batch)?;
        let mut start = 0;
        while start < batch.len() {
            let end = batch.len().min(start + self.max_chunk_steps);
            self.lanes
                .push(batch.slice(start..end), self.max_in_flight_steps)?;
            start = end;
        }
        Ok(())
    }

    /// Waits until the next `steps` steps can be handed over without a wait, at most for `timeout`; answers
    /// whether they can.
    ///
    /// # Errors
    /// The server has refused for good, or the shutdown token was cancelled.
    pub fn wait_for_room(&self, steps: usize, timeout: Duration) -> Result<bool, ClientError> {
        let steps = steps.min(self.max_in_flight_steps);
        self.lanes
            .wait_for_room(steps, self.max_in_flight_steps, timeout)
    }

    /// Waits until everything pushed is acknowledged, at most for `timeout`.
    ///
    /// # Errors
    /// As [`push`](Self::push), or time is up.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), ClientError> {
        self.lanes.flush(timeout)
    }

    /// Whether a shard has accepted the writer, now or before.
    pub fn opened(&self) -> watch::Receiver<bool> {
        self.lanes.opened()
    }

    /// Items the server has stored since the writer's beginning.
    pub fn acknowledged_items(&self) -> u64 {
        self.lanes.acknowledged_items()
    }

    /// Items of several steps that were never stored, because a shard that came back without its
    /// memory had lost the steps they begin with.
    pub fn lost_items(&self) -> u64 {
        self.lanes.lost_items()
    }

    /// Steps pushed and not yet acknowledged.
    pub fn in_flight_steps(&self) -> usize {
        self.lanes.in_flight_steps()
    }

    /// Why a shard makes the writer wait, in its own words, if it has done so for longer than
    /// `blocked_timeout_s` and has acknowledged nothing since.
    pub fn blocked(&self) -> Option<String> {
        self.lanes.blocked()
    }

    fn check(&self, batch: &StepBatch) -> Result<(), ClientError> {
        if batch.ends().is_none() != (self.sequence_length == 1) {
            let expected = self.sequence_length;
            return Err(ClientError::Batch(format!(
                "batch: expected items of {expected} steps each"
            )));
        }
        if let Some(length) = batch.lengths().iter().max()
            && *length as usize > self.sequence_length
        {
            let most = self.sequence_length;
            return Err(ClientError::Batch(format!(
                "batch: expected items of at most {most} steps, got {length}"
            )));
        }
        let batch = batch.steps();
        let specs = &self.signature.columns;
        let fits = batch.columns().len() == specs.len()
            && batch
                .columns()
                .iter()
                .zip(specs)
                .all(|(data, spec)| data.len() == spec.item_bytes() * batch.len());
        if fits {
            return Ok(());
        }
        let expected: Vec<usize> = specs
            .iter()
            .map(|spec| spec.item_bytes() * batch.len())
            .collect();
        let got: Vec<usize> = batch.columns().iter().map(bytes::Bytes::len).collect();
        Err(ClientError::Batch(format!(
            "batch of {} items: expected columns of {expected:?} bytes, got {got:?}",
            batch.len()
        )))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
