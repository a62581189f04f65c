//! The update's statistics: kept on the device step by step, read back a window at a time, which is
//! also when it is checked that all of them are finite.

use std::fmt;
use std::ops::RangeInclusive;

use burn::tensor::Tensor;

use crate::NotFinite;

/// What one update tells: scalars by name. A gradient that is not finite shows in its norm.
#[derive(Clone, Debug)]
pub struct UpdateStatistics {
    names: Vec<&'static str>,
    /// `[names]`, on the device.
    values: Tensor<1>,
    /// Sizes of the critic's errors, `[B]`, of a weighted batch; on the device.
    errors: Option<Tensor<1>>,
}

impl UpdateStatistics {
    pub(crate) fn new(
        statistics: Vec<(&'static str, Tensor<1>)>,
        errors: Option<Tensor<1>>,
    ) -> Self {
        let (names, values) = statistics.into_iter().unzip();
        Self {
            names,
            values: Tensor::cat(values, 0),
            errors,
        }
    }

    /// Takes the errors out: sizes of how wrong the critic was, `[B]`, of a weighted batch.
    pub fn take_errors(&mut self) -> Option<Tensor<1>> {
        self.errors.take()
    }

    /// Reads the statistics back.
    pub fn read(self) -> Vec<(&'static str, f32)> {
        let values: Vec<f32> = to_host(self.values);
        self.names.into_iter().zip(values).collect()
    }
}

/// Which batch a step took, for a message to name it.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchName {
    /// Policy versions that acted in it, oldest to newest.
    pub policy_versions: RangeInclusive<i64>,
    /// Least and largest reward, as sampled.
    pub rewards: RangeInclusive<f32>,
}

impl BatchName {
    pub(crate) fn new(versions: &[i64], rewards: &[f32]) -> Self {
        let oldest = versions.iter().copied().min().unwrap_or_default();
        let newest = versions.iter().copied().max().unwrap_or_default();
        let least = rewards.iter().copied().fold(f32::INFINITY, f32::min);
        let largest = rewards.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Self {
            policy_versions: oldest..=newest,
            rewards: least..=largest,
        }
    }
}

impl fmt::Display for BatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (versions, rewards) = (&self.policy_versions, &self.rewards);
        write!(
            f,
            "policy versions {} to {}, rewards {} to {}",
            versions.start(),
            versions.end(),
            rewards.start(),
            rewards.end()
        )
    }
}

/// Statistics of steps that have not been read back.
#[derive(Debug, Default)]
pub struct Statistics {
    pending: Vec<(UpdateStatistics, BatchName)>,
}

impl Statistics {
    /// Takes in what an update returned, and which batch it had.
    pub fn push(&mut self, statistics: UpdateStatistics, batch: BatchName) {
        self.pending.push((statistics, batch));
    }

    /// Steps not read back.
    pub fn pending(&self) -> u64 {
        self.pending.len() as u64
    }

    /// Reads the pending steps, the last of which was `step`, back: the means by name, none if there
    /// are no steps.
    ///
    /// # Errors
    /// A statistic is not finite; the error names the first step it was seen at and its batch.
    pub fn read(&mut self, step: u64) -> Result<Vec<(&'static str, f32)>, NotFinite> {
        let (steps, batches): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().unzip();
        let first = step + 1 - steps.len() as u64;
        let Some(names) = steps
            .first()
            .map(|step: &UpdateStatistics| step.names.clone())
        else {
            return Ok(Vec::new());
        };
        let tensors = steps.into_iter().map(|step| step.values).collect();
        let values: Vec<f32> = to_host(Tensor::cat(tensors, 0));
        let mut sums = vec![0.0; names.len()];
        for ((row, step), batch) in values.chunks_exact(names.len()).zip(first..).zip(&batches) {
            for ((&value, &statistic), sum) in row.iter().zip(&names).zip(&mut sums) {
                if !value.is_finite() {
                    return Err(NotFinite {
                        step,
                        statistic,
                        value,
                        batch: batch.clone(),
                    });
                }
                *sum += value;
            }
        }
        let count = batches.len() as f32;
        Ok(names
            .into_iter()
            .zip(sums.into_iter().map(|sum| sum / count))
            .collect())
    }
}

fn to_host(values: Tensor<1>) -> Vec<f32> {
    values
        .into_data()
        .try_into_vec()
        .expect("statistics are f32")
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn row(first: f32, last: f32) -> UpdateStatistics {
        let scalar = |value: f32| Tensor::from_floats([value], &Device::flex());
        let scalars = vec![("policy_loss", scalar(first)), ("target", scalar(last))];
        UpdateStatistics::new(scalars, None)
    }

    fn batch(version: i64) -> BatchName {
        BatchName {
            policy_versions: version..=version + 1,
            rewards: 0.0..=1.0,
        }
    }

    #[test]
    fn means_are_over_the_steps_since_the_last_reading() {
        let mut statistics = Statistics::default();
        assert!(statistics.read(0).unwrap().is_empty());
        statistics.push(row(1.0, 4.0), batch(1));
        statistics.push(row(2.0, 0.0), batch(1));
        let means = statistics.read(2).unwrap();
        assert_eq!(means, [("policy_loss", 1.5), ("target", 2.0)]);
        assert_eq!(statistics.pending(), 0);
    }

    #[test]
    fn the_first_step_that_is_not_finite_is_named_with_its_batch() {
        let mut statistics = Statistics::default();
        statistics.push(row(1.0, 1.0), batch(1));
        statistics.push(row(1.0, f32::NAN), batch(7));
        statistics.push(row(f32::INFINITY, 1.0), batch(9));
        let message = statistics.read(103).unwrap_err().to_string();
        assert!(
            message.starts_with(
                "learner step 102: target is NaN; its batch: policy versions 7 to 8, rewards 0 to 1"
            ),
            "{message}"
        );
    }
}
