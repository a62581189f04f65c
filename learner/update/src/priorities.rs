//! Prioritized replay (Schaul et al. 2016): what surprised the critic is drawn more often, and counts
//! less in its loss to make up for it.
//!
//! An item's priority is the size of its temporal-difference error, for a distributional critic the KL
//! divergence of its distribution from the target's (Hessel et al. 2018); of a sequence, most of its largest
//! and a little of its mean error (Kapturowski et al. 2019, section 2.3). How priorities become
//! probabilities is the table's business (`priority_exponent`).

use burn::tensor::Tensor;
use pmpo_types::{ConfigError, SampledBatch};
use serde::{Deserialize, Serialize};

use crate::{BatchSource, Drawn};

/// Whose errors make priorities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Priorities {
    /// Nobody's: the learner leaves priorities alone.
    // With braces it refuses the other's keys; a unit would ignore them.
    None {},
    /// The critic's.
    TdError(TdErrorPriorities),
}

/// Priorities from temporal-difference errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TdErrorPriorities {
    /// How far importance weights undo the priorities' bias: 0 not at all, 1 wholly.
    pub importance_exponent: f64,
    /// Added to every error, so that nothing is out of reach for ever.
    pub offset: f64,
    /// Share of a sequence's largest error in its priority; the rest is its mean.
    pub largest_share: f64,
}

impl Default for TdErrorPriorities {
    fn default() -> Self {
        Self {
            importance_exponent: 0.4,
            offset: 1e-6,
            largest_share: 0.9,
        }
    }
}

impl Default for Priorities {
    fn default() -> Self {
        Self::None {}
    }
}

impl Priorities {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let Self::TdError(config) = self else {
            return Ok(());
        };
        ConfigError::share("priorities.importance_exponent", config.importance_exponent)?;
        ConfigError::share("priorities.largest_share", config.largest_share)?;
        ConfigError::not_negative("priorities.offset", config.offset)
    }
}

/// The weights of a batch's items in the critic's losses; none where all count alike.
///
/// `(N P(i))^-beta`, divided by the batch's largest (Schaul et al. 2016, section 3.4); `beta` 0 corrects
/// nothing, 1 corrects wholly. `N` and `P(i)` are those of the batch's origin; what that one counts beside
/// others, `origin_weight`, has the same exponent. Without priorities that alone is left, and corrects wholly.
pub(crate) fn importance_weights(
    priorities: &Priorities,
    sampled: &SampledBatch,
    origin_weight: f64,
) -> Option<Vec<f32>> {
    let Priorities::TdError(config) = priorities else {
        let items = sampled.items.probabilities.len();
        return (origin_weight < 1.0).then(|| vec![origin_weight as f32; items]);
    };
    let size = sampled.counters.size as f64;
    let probabilities = sampled.items.probabilities.iter();
    let weights: Vec<f64> = probabilities
        .map(|&probability| (size * probability).powf(-config.importance_exponent))
        .collect();
    let largest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let scale = origin_weight.powf(config.importance_exponent) / largest;
    Some(weights.iter().map(|w| (w * scale) as f32).collect())
}

impl TdErrorPriorities {
    /// Priorities of items from the errors of their rows, item by item.
    fn of(&self, errors: &[f32], items: usize) -> Vec<f64> {
        let rows = errors.len() / items;
        let priority = |errors: &[f32]| {
            let largest = errors.iter().copied().fold(0.0, f32::max);
            let mean = errors.iter().sum::<f32>() / rows as f32;
            let share = self.largest_share;
            share * f64::from(largest) + (1.0 - share) * f64::from(mean) + self.offset
        };
        errors.chunks_exact(rows).map(priority).collect()
    }
}

/// The newest step's errors, on their way to where the batch came from. They are read back when the next
/// step begins: a GPU works while the next batch is waited for, and no longer ahead than that.
#[derive(Debug, Default)]
pub struct PriorityUpdates {
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    origin: usize,
    keys: Vec<u64>,
    /// `[rows]`, on the device.
    errors: Tensor<1>,
}

impl PriorityUpdates {
    /// Takes in what a step found of its batch.
    pub fn push(&mut self, drawn: &Drawn, errors: Tensor<1>) {
        self.pending = Some(Pending {
            origin: drawn.origin,
            keys: drawn.batch.items.keys.clone(),
            errors,
        });
    }

    /// Passes on what there is.
    ///
    /// # Errors
    /// The source takes none any more.
    pub fn deliver<S: BatchSource>(
        &mut self,
        priorities: &Priorities,
        source: &mut S,
    ) -> Result<(), S::Error> {
        let (Some(pending), Priorities::TdError(config)) = (self.pending.take(), priorities) else {
            return Ok(());
        };
        let errors = pending.errors.into_data().try_into_vec::<f32>();
        let errors = errors.expect("errors are f32");
        // The check of the statistics ends the run with a better message.
        if errors.iter().all(|error| error.is_finite()) {
            let priorities = config.of(&errors, pending.keys.len());
            source.update_priorities(pending.origin, &pending.keys, &priorities)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::{ColumnBatch, ColumnSpec, DType, SampledItems, Signature, TableCounters};

    use super::*;

    /// `(N P(i))^-beta / max`, Schaul et al. 2016, section 3.4; and a batch of which there are too many.
    #[test]
    fn weights_undo_the_priorities_and_uneven_shares() {
        let signature = Signature {
            columns: vec![ColumnSpec::new("id", DType::I64, &[])],
        };
        let sampled = SampledBatch {
            columns: ColumnBatch::new(&signature, 3, vec![vec![0; 24].into()]).unwrap(),
            counters: TableCounters {
                size: 10,
                ..TableCounters::default()
            },
            items: SampledItems {
                probabilities: vec![0.1, 0.4, 0.025],
                ..SampledItems::default()
            },
        };
        let weights = |importance_exponent, origin_weight| {
            let priorities = Priorities::TdError(TdErrorPriorities {
                importance_exponent,
                ..TdErrorPriorities::default()
            });
            importance_weights(&priorities, &sampled, origin_weight).unwrap()
        };
        assert_eq!(weights(0.0, 0.25), [1.0, 1.0, 1.0]);
        assert_eq!(weights(1.0, 1.0), [0.25, 0.0625, 1.0]);
        assert_eq!(weights(0.5, 1.0), [0.5, 0.25, 1.0]);
        assert_eq!(weights(0.5, 0.25), [0.25, 0.125, 0.5]);
        let alike =
            |origin_weight| importance_weights(&Priorities::None {}, &sampled, origin_weight);
        assert_eq!(alike(1.0), None);
        assert_eq!(alike(0.25), Some(vec![0.25; 3]));
    }

    #[test]
    fn a_transition_has_its_error_and_a_sequence_most_of_its_largest() {
        let config = TdErrorPriorities {
            offset: 0.5,
            largest_share: 0.75,
            ..TdErrorPriorities::default()
        };
        assert_eq!(config.of(&[1.0, 0.0, 3.0], 3), [1.5, 0.5, 3.5]);
        // 0.75 x 4 + 0.25 x 3, and 0.75 x 2 + 0.25 x 1.
        assert_eq!(config.of(&[2.0, 4.0, 0.0, 2.0], 2), [4.25, 2.25]);
    }

    #[test]
    fn refuses_what_cannot_work() {
        let with = |importance_exponent, offset| {
            let config = TdErrorPriorities {
                importance_exponent,
                offset,
                ..TdErrorPriorities::default()
            };
            let refused = Priorities::TdError(config).validate();
            refused.map_err(|error| error.to_string())
        };
        assert_eq!(with(1.0, 0.0), Ok(()));
        assert_eq!(
            with(1.5, 0.0).unwrap_err(),
            "priorities.importance_exponent: expected a number in [0, 1], got 1.5"
        );
        assert_eq!(
            with(0.4, f64::NAN).unwrap_err(),
            "priorities.offset: expected a finite number, at least 0, got NaN"
        );
    }
}
