//! Prioritized replay (Schaul et al. 2016): what surprised the critic is drawn more often, and counts
//! less in its loss to make up for it.
//!
//! An item's priority is the size of its temporal-difference error, for a distributional critic the KL
//! divergence of its distribution from the target's (Hessel et al. 2018); of a sequence, most of its largest
//! and a little of its mean error (Kapturowski et al. 2019, section 2.3). How priorities become
//! probabilities is the table's business (`priority_exponent`).

use burn::tensor::{Device, Tensor};
use pmpo_replay_client::{SampledBatch, Sampler};
use serde::{Deserialize, Serialize};

use crate::{Batch, ConfigError, LearnerError};

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
        let shares = [
            ("importance_exponent", config.importance_exponent),
            ("largest_share", config.largest_share),
        ];
        for (field, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                let field = format!("priorities.{field}");
                return Err(ConfigError::new(field, "a number in [0, 1]", value));
            }
        }
        if !(config.offset >= 0.0 && config.offset.is_finite()) {
            let expected = "a finite number, at least 0";
            let field = "priorities.offset";
            return Err(ConfigError::new(field, expected, config.offset));
        }
        Ok(())
    }

    /// `batch`, with the weights of what was sampled where there are any.
    pub(crate) fn weigh(&self, batch: Batch, sampled: &SampledBatch, device: &Device) -> Batch {
        match self {
            Self::None {} => batch,
            Self::TdError(config) => {
                let weights = sampled.importance_weights(config.importance_exponent);
                batch.weighted(&weights, device)
            }
        }
    }
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

/// The newest step's errors, on their way to the table. They are read back when the next step begins: a
/// GPU works while the next batch is waited for, and no longer ahead than that.
#[derive(Debug, Default)]
pub(crate) struct PriorityUpdates {
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    shard: usize,
    keys: Vec<u64>,
    /// `[rows]`, on the device.
    errors: Tensor<1>,
}

impl PriorityUpdates {
    /// Takes in what a step found of its batch.
    pub(crate) fn push(&mut self, sampled: &SampledBatch, errors: Tensor<1>) {
        self.pending = Some(Pending {
            shard: sampled.shard,
            keys: sampled.items.keys.clone(),
            errors,
        });
    }

    /// Passes on what there is, to the shard it came from.
    pub(crate) fn deliver(
        &mut self,
        config: &Priorities,
        sampler: &Sampler,
    ) -> Result<(), LearnerError> {
        let (Some(pending), Priorities::TdError(config)) = (self.pending.take(), config) else {
            return Ok(());
        };
        let errors = pending.errors.into_data().try_into_vec::<f32>();
        let errors = errors.expect("errors are f32");
        // The check of the statistics ends the run with a better message.
        if errors.iter().all(|error| error.is_finite()) {
            let priorities = config.of(&errors, pending.keys.len());
            sampler.update_priorities(pending.shard, &pending.keys, &priorities)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
