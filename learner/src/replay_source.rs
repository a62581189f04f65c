//! The replay service as a source of batches.

use std::time::Duration;

use pmpo_replay_client::Sampler;
use pmpo_types::SampledBatch;
use pmpo_update::{BatchSource, Drawn};

use crate::LearnerError;

/// A sampler of the replay service's table; a batch's origin is its shard.
pub(crate) struct ReplaySource(pub(crate) Sampler);

impl BatchSource for ReplaySource {
    type Error = LearnerError;

    fn next_batch(&mut self, timeout: Duration) -> Result<Option<Drawn>, LearnerError> {
        let sampled = self.0.next_timeout(timeout)?;
        Ok(sampled.map(|sampled| Drawn {
            origin: sampled.shard,
            weight: sampled.weight,
            trace: sampled.trace,
            batch: SampledBatch {
                columns: sampled.columns,
                counters: sampled.counters,
                items: sampled.items,
            },
        }))
    }

    fn update_priorities(
        &mut self,
        origin: usize,
        keys: &[u64],
        priorities: &[f64],
    ) -> Result<(), LearnerError> {
        Ok(self.0.update_priorities(origin, keys, priorities)?)
    }
}
