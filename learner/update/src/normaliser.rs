//! Observations less their running mean, over their running standard deviation (Lee et al. 2025,
//! SimbaV2, section 4.1; Andrychowicz et al. 2021).
//!
//! Statistics are of the states that were learned from, batch by batch, merged by the formula of Chan,
//! Golub and LeVeque (1979). They move before a batch is normalised and never within it: policy and
//! critics, online and target, see the same numbers. The mean and the variance are tensors of the
//! policy, so they travel with it: in snapshots, checkpoints and exports, and to actors.

use pmpo_policy::{normalised, normaliser_scale};

/// Running statistics of observations `[O]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ObservationNormaliser {
    pub(crate) mean: Vec<f64>,
    pub(crate) variance: Vec<f64>,
    /// Observations taken in.
    pub(crate) count: f64,
}

impl ObservationNormaliser {
    pub(crate) fn new(observation_size: usize) -> Self {
        Self {
            mean: vec![0.0; observation_size],
            variance: vec![1.0; observation_size],
            count: 0.0,
        }
    }

    /// Takes in observations `[rows, O]`.
    pub(crate) fn observe(&mut self, rows: &[f32]) {
        let size = self.mean.len();
        let count = (rows.len() / size) as f64;
        if count == 0.0 {
            return;
        }
        let mut mean = vec![0.0; size];
        for row in rows.chunks_exact(size) {
            mean.iter_mut()
                .zip(row)
                .for_each(|(m, &x)| *m += f64::from(x));
        }
        mean.iter_mut().for_each(|m| *m /= count);
        let mut squares = vec![0.0; size];
        for row in rows.chunks_exact(size) {
            for ((square, &x), m) in squares.iter_mut().zip(row).zip(&mean) {
                *square += (f64::from(x) - m).powi(2);
            }
        }
        let total = self.count + count;
        let (kept, new) = (self.count / total, count / total);
        let old = self.mean.iter_mut().zip(&mut self.variance);
        for ((old_mean, variance), (mean, squares)) in old.zip(mean.into_iter().zip(squares)) {
            let shift = mean - *old_mean;
            *variance = kept * *variance + squares / total + kept * new * shift * shift;
            *old_mean += new * shift;
        }
        self.count = total;
    }

    /// Mean and variance as a policy has them.
    pub(crate) fn tensors(&self) -> [Vec<f32>; 2] {
        [&self.mean, &self.variance].map(|values| values.iter().map(|&x| x as f32).collect())
    }

    /// Normalises observations `[rows, O]` in place, as actors do.
    pub(crate) fn normalise(&self, rows: &mut [f32]) {
        let [mean, variance] = self.tensors();
        let scale: Vec<f32> = variance.into_iter().map(normaliser_scale).collect();
        for row in rows.chunks_exact_mut(mean.len()) {
            for ((x, mean), scale) in row.iter_mut().zip(&mean).zip(&scale) {
                *x = normalised(*x, *mean, *scale);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the numbers 1, 2, 3, 4 in two batches: mean 2.5 and variance 1.25; a constant has variance 0.
    #[test]
    fn batches_add_up_to_the_statistics_of_all() {
        let mut normaliser = ObservationNormaliser::new(2);
        normaliser.observe(&[1.0, 7.0]);
        normaliser.observe(&[2.0, 7.0, 3.0, 7.0, 4.0, 7.0]);
        assert_eq!(normaliser.count, 4.0);
        let close = |got: &[f64], expected: [f64; 2]| {
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-12, "{got} against {expected}");
            }
        };
        close(&normaliser.mean, [2.5, 7.0]);
        close(&normaliser.variance, [1.25, 0.0]);
        let mut rows = [2.5 + 1.25f32.sqrt(), 7.0, 1e9, 7.0];
        normaliser.normalise(&mut rows);
        assert!((rows[0] - 1.0).abs() < 1e-3);
        assert_eq!(rows[1..], [0.0, 10.0, 0.0]);
    }

    #[test]
    fn nothing_changes_observations_before_the_first_batch() {
        let normaliser = ObservationNormaliser::new(1);
        let mut row = [0.5];
        normaliser.normalise(&mut row);
        assert!((row[0] - 0.5).abs() < 1e-4);
    }
}
