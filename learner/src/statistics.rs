//! The update's statistics: kept on the device step by step, read back a window at a time, which is
//! also when it is checked that all of them are finite.

use burn::tensor::Tensor;

use crate::LearnerError;

/// What [`TrainState::update`](crate::update::TrainState::update) returns, in order. A gradient that
/// is not finite shows in its norm.
pub const STATISTICS: [&str; 9] = [
    "policy_loss",
    "critic_loss",
    "policy_gradient_norm",
    "critic_gradient_norm",
    "preference",
    "kl_mean",
    "kl_std",
    "value",
    "target",
];

/// Statistics of steps that have not been read back.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    pending: Vec<Tensor<1>>,
}

impl Statistics {
    /// Takes in what an update returned.
    pub(crate) fn push(&mut self, statistics: Tensor<1>) {
        self.pending.push(statistics);
    }

    /// Steps not read back.
    pub(crate) fn pending(&self) -> u64 {
        self.pending.len() as u64
    }

    /// Reads the pending steps, the last of which was `step`, back: their means, `None` if there are
    /// none.
    ///
    /// # Errors
    /// A statistic is not finite; the error names the first step it was seen at.
    pub(crate) fn read(
        &mut self,
        step: u64,
    ) -> Result<Option<[f32; STATISTICS.len()]>, LearnerError> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let steps = std::mem::take(&mut self.pending);
        let first = step + 1 - steps.len() as u64;
        let values: Vec<f32> = Tensor::cat(steps, 0)
            .into_data()
            .try_into_vec()
            .expect("statistics are f32");
        let rows = values.chunks_exact(STATISTICS.len());
        let mut sums = [0.0; STATISTICS.len()];
        for (row, step) in rows.clone().zip(first..) {
            for ((&value, statistic), sum) in row.iter().zip(STATISTICS).zip(&mut sums) {
                if !value.is_finite() {
                    return Err(LearnerError::NotFinite {
                        step,
                        statistic,
                        value,
                    });
                }
                *sum += value;
            }
        }
        let count = rows.len() as f32;
        Ok(Some(sums.map(|sum| sum / count)))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn row(first: f32, last: f32) -> Tensor<1> {
        let mut values = [0.0; STATISTICS.len()];
        (values[0], values[STATISTICS.len() - 1]) = (first, last);
        Tensor::from_floats(values, &Device::flex())
    }

    #[test]
    fn means_are_over_the_steps_since_the_last_reading() {
        let mut statistics = Statistics::default();
        assert!(statistics.read(0).unwrap().is_none());
        statistics.push(row(1.0, 4.0));
        statistics.push(row(2.0, 0.0));
        let means = statistics.read(2).unwrap().unwrap();
        assert_eq!((means[0], means[STATISTICS.len() - 1]), (1.5, 2.0));
        assert_eq!(statistics.pending(), 0);
    }

    #[test]
    fn the_first_step_that_is_not_finite_is_named() {
        let mut statistics = Statistics::default();
        statistics.push(row(1.0, 1.0));
        statistics.push(row(1.0, f32::NAN));
        statistics.push(row(f32::INFINITY, 1.0));
        let message = statistics.read(103).unwrap_err().to_string();
        assert!(
            message.starts_with("learner step 102: target is NaN"),
            "{message}"
        );
    }
}
