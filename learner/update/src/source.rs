//! Where experience comes from: the seam between a step of the update and a replay service, a table in
//! the same process, or files.

use std::time::Duration;

use pmpo_types::{SampledBatch, TraceContext};

/// A batch with where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Windows, with the keys and probabilities of their items.
    pub batch: SampledBatch,
    /// Which of several tables or shards it comes from; the items' keys are that one's.
    pub origin: usize,
    /// What its items count beside those of other origins, in (0, 1]: less where batches come from this one
    /// more often than its size would have it.
    pub weight: f64,
    /// The trace of one of its items, which whoever learns from the batch continues.
    pub trace: Option<TraceContext>,
}

/// A source of batches of windows (`pmpo_types::step`).
pub trait BatchSource {
    /// Why there will be no more.
    type Error;

    /// The next batch; `None` if there is none within `timeout`.
    ///
    /// # Errors
    /// There will be no more.
    fn next_batch(&mut self, timeout: Duration) -> Result<Option<Drawn>, Self::Error>;

    /// Takes back what the critic's errors make of the priorities of a batch's items: `keys` and
    /// `origin` are the batch's.
    ///
    /// # Errors
    /// There will be no more.
    fn update_priorities(
        &mut self,
        origin: usize,
        keys: &[u64],
        priorities: &[f64],
    ) -> Result<(), Self::Error>;
}
