//! What a sampler hands out.

use pmpo_types::{ColumnBatch, SampledItems, TableCounters, TraceContext};

/// Items drawn from one shard of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledBatch {
    /// The items' steps, item by item: row `i * sequence_length + t` is step `t` of item `i`.
    pub columns: ColumnBatch,
    /// The counters of the shard's table right after the draw.
    pub counters: TableCounters,
    /// The items; their keys are the shard's.
    pub items: SampledItems,
    /// Position of the shard in the sampler's list of addresses.
    pub shard: usize,
    /// The trace of one of its items, which whoever learns from the batch continues.
    pub trace: Option<TraceContext>,
}

impl SampledBatch {
    pub(crate) fn new(
        batch: pmpo_types::SampledBatch,
        shard: usize,
        trace: Option<TraceContext>,
    ) -> Self {
        let pmpo_types::SampledBatch {
            columns,
            counters,
            items,
        } = batch;
        Self {
            columns,
            counters,
            items,
            shard,
            trace,
        }
    }

    /// Importance weights `(N P(i))^-beta`, divided by the batch's largest (Schaul et al. 2016, section
    /// 3.4); `beta` 0 corrects nothing, 1 corrects wholly.
    ///
    /// Over shards `N` is the sum of their sizes and `P(i)` the share of the shard, its size over `N`,
    /// times the probability of the item in the shard; so `N P(i)` is the shard's size times that
    /// probability, and no other shard needs to be known.
    pub fn importance_weights(&self, beta: f64) -> Vec<f32> {
        let size = self.counters.size as f64;
        let weight = |&probability: &f64| (size * probability).powf(-beta);
        let weights: Vec<f64> = self.items.probabilities.iter().map(weight).collect();
        let largest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        weights.iter().map(|w| (w / largest) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::{ColumnSpec, DType, Signature};

    use super::*;

    fn batch(size: u64, probabilities: &[f64]) -> SampledBatch {
        let column = ColumnSpec::new("id", DType::I64, &[]);
        let signature = Signature {
            columns: vec![column],
        };
        let items = probabilities.len();
        let columns = vec![vec![0; 8 * items].into()];
        SampledBatch {
            columns: ColumnBatch::new(&signature, items, columns).unwrap(),
            counters: TableCounters {
                size,
                ..TableCounters::default()
            },
            items: SampledItems {
                probabilities: probabilities.to_vec(),
                ..SampledItems::default()
            },
            shard: 0,
            trace: None,
        }
    }

    /// `(N P(i))^-beta / max`, Schaul et al. 2016, section 3.4.
    #[test]
    fn weights_undo_the_priorities() {
        let batch = batch(10, &[0.1, 0.4, 0.025]);
        assert_eq!(batch.importance_weights(0.0), [1.0, 1.0, 1.0]);
        assert_eq!(batch.importance_weights(1.0), [0.25, 0.0625, 1.0]);
        assert_eq!(batch.importance_weights(0.5), [0.5, 0.25, 1.0]);
    }

    /// Two shards of 30 and 10 items: whichever an item of global probability p is in, its weight
    /// before the division is (40 p)^-1.
    #[test]
    fn the_share_of_a_shard_cancels() {
        for (size, within) in [(30, 0.02), (10, 0.06)] {
            let global = size as f64 / 40.0 * within;
            let even = 1.0 / size as f64;
            let weights = batch(size, &[within, even]).importance_weights(1.0);
            let expected = (40.0 * global).recip() / f64::max(1.0, (40.0 * global).recip());
            assert!(
                (f64::from(weights[0]) - expected).abs() < 1e-6,
                "{weights:?}"
            );
        }
    }
}
