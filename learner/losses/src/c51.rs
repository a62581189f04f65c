//! The distributional critic C51 (Bellemare, Dabney and Munos, 2017), as Acme's DMPO uses it: a
//! categorical distribution over returns on a fixed support, `K` atoms evenly spaced from `min_value`
//! to `max_value`.
//!
//! The target is the mixture of the target critic's distributions for the sampled actions, moved by
//! `r + d z`, clipped to the support and projected back on its atoms; the loss is the cross-entropy.

use burn::tensor::{IndexingUpdateOp, Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// The support of the distributions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct C51Config {
    /// Atoms, `K`.
    pub atoms: usize,
    /// Value of the first atom.
    pub min_value: f64,
    /// Value of the last atom.
    pub max_value: f64,
}

impl Default for C51Config {
    /// Rewards of the Control Suite are in [0, 1]: scaled by 0.1 and with a discount of 0.995, the
    /// learner's defaults, no return exceeds 20.
    fn default() -> Self {
        Self {
            atoms: 51,
            min_value: 0.0,
            max_value: 20.0,
        }
    }
}

impl C51Config {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if !(2..=1001).contains(&self.atoms) {
            return Err(ConfigError::new("atoms", "2 to 1001", self.atoms));
        }
        if !self.min_value.is_finite() {
            let expected = "a finite number";
            return Err(ConfigError::new("min_value", expected, self.min_value));
        }
        if !(self.max_value > self.min_value && self.max_value.is_finite()) {
            let expected = format!("a finite number above min_value = {}", self.min_value);
            return Err(ConfigError::new("max_value", expected, self.max_value));
        }
        Ok(())
    }

    /// Distance between neighbouring atoms.
    fn spacing(&self) -> f64 {
        (self.max_value - self.min_value) / (self.atoms - 1) as f64
    }

    /// The atoms' values `[1, K]`, like `tensor` in device and kind.
    fn support(&self, tensor: &Tensor<2>) -> Tensor<2> {
        let index = Tensor::<1, burn::tensor::Int>::arange(0..self.atoms as i64, &tensor.device());
        (index.float().cast(tensor.dtype()) * self.spacing() + self.min_value)
            .reshape([1, self.atoms])
    }

    /// Expected values `[rows]` of distributions with these logits `[rows, K]`.
    pub(crate) fn values(&self, logits: Tensor<2>) -> Tensor<1> {
        self.mean(activation::softmax(logits, 1))
    }

    /// Means `[rows]` of distributions `[rows, K]`.
    pub(crate) fn mean(&self, distribution: Tensor<2>) -> Tensor<1> {
        let [rows, _] = distribution.dims();
        let support = self.support(&distribution);
        (distribution * support).sum_dim(1).reshape([rows])
    }

    /// The target distribution `[B, K]` from rewards and discounts `[B]` and the target critic's logits
    /// `[N * B, K]` in the next states, samples first. A constant.
    pub(crate) fn target(
        &self,
        reward: Tensor<1>,
        discount: Tensor<1>,
        next_logits: Tensor<2>,
    ) -> Tensor<2> {
        let [batch] = reward.dims();
        let [rows, atoms] = next_logits.dims();
        assert_eq!(rows % batch, 0, "next logits must be [N * B, K]");
        let mixture = activation::softmax(next_logits.without_autodiff(), 1)
            .reshape([rows / batch, batch, atoms])
            .mean_dim(0)
            .reshape([batch, atoms]);
        let support = self.support(&mixture);
        let moved = reward.reshape([batch, 1]) + discount.reshape([batch, 1]) * support;
        let place = (moved
            .without_autodiff()
            .clamp(self.min_value, self.max_value)
            - self.min_value)
            / self.spacing();
        // The last atom is reached from the one before it, with all the weight on the upper side.
        let lower = place.clone().floor().clamp(0.0, (atoms - 2) as f64);
        let upper_share = (place - lower.clone()).clamp(0.0, 1.0);
        let lower = lower.int();
        let upper_mass = mixture.clone() * upper_share;
        Tensor::zeros([batch, atoms], (&mixture.device(), mixture.dtype()))
            .scatter(
                1,
                lower.clone(),
                mixture - upper_mass.clone(),
                IndexingUpdateOp::Add,
            )
            .scatter(1, lower + 1, upper_mass, IndexingUpdateOp::Add)
    }

    /// Entropy of distributions `[B, K]`, for each: `[B]`.
    pub(crate) fn entropy(distribution: Tensor<2>) -> Tensor<1> {
        let [batch, _] = distribution.dims();
        // 0 ln 0 is 0.
        let logarithm = distribution
            .clone()
            .clamp_min(f64::from(f32::MIN_POSITIVE))
            .log();
        -(distribution * logarithm).sum_dim(1).reshape([batch])
    }

    /// Cross-entropy of the logits `[B, K]` under the target `[B, K]`, for each state: `[B]`.
    pub(crate) fn cross_entropy(logits: Tensor<2>, target: Tensor<2>) -> Tensor<1> {
        let [batch, _] = logits.dims();
        -(target.without_autodiff() * activation::log_softmax(logits, 1))
            .sum_dim(1)
            .reshape([batch])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, constant, gradient_check, values};

    /// Atoms 0, 1, 2, 3.
    fn config() -> C51Config {
        C51Config {
            atoms: 4,
            min_value: 0.0,
            max_value: 3.0,
        }
    }

    fn logits(probabilities: &[f64], rows: usize) -> Tensor<2> {
        let values: Vec<f64> = probabilities.iter().map(|p| p.ln()).collect();
        constant(&values, [rows, values.len() / rows])
    }

    #[test]
    fn the_value_is_the_mean_over_the_support() {
        let got = config().values(logits(&[0.1, 0.2, 0.3, 0.4], 1));
        assert_close(&values(got), &[0.2 + 0.6 + 1.2], 1e-12);
    }

    /// `0.25 + 0.5 z`: atoms go to 0.25, 0.75, 1.25 and 1.75, each shared by its two neighbours.
    #[test]
    fn the_projection_by_hand() {
        let target = config().target(
            constant(&[0.25], [1]),
            constant(&[0.5], [1]),
            logits(&[0.1, 0.2, 0.3, 0.4], 1),
        );
        let expected = [
            0.1 * 0.75 + 0.2 * 0.25,
            0.1 * 0.25 + 0.2 * 0.75 + 0.3 * 0.75 + 0.4 * 0.25,
            0.3 * 0.25 + 0.4 * 0.75,
            0.0,
        ];
        assert_close(&values(target), &expected, 1e-12);
    }

    /// Beyond the support everything gathers at its end; at discount 0 only the reward counts; an
    /// undisturbed distribution is left as it is.
    #[test]
    fn the_ends_of_the_support() {
        let p = [0.1, 0.2, 0.3, 0.4];
        let target = config().target(
            constant(&[10.0, -4.0, 1.0, 0.0], [4]),
            constant(&[1.0, 0.5, 0.0, 1.0], [4]),
            logits(&[p, p, p, p].concat(), 4),
        );
        let mut expected = vec![0.0, 0.0, 0.0, 1.0];
        expected.extend([1.0, 0.0, 0.0, 0.0]);
        expected.extend([0.0, 1.0, 0.0, 0.0]);
        expected.extend(p);
        assert_close(&values(target), &expected, 1e-12);
    }

    /// Two samples of one state: the mixture's mean is the mean of their means.
    #[test]
    fn samples_are_mixed() {
        let next = logits(&[0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.7], 2);
        let target = config().target(constant(&[0.0], [1]), constant(&[1.0], [1]), next);
        assert_close(&values(target), &[0.4, 0.1, 0.1, 0.4], 1e-12);
    }

    #[test]
    fn the_gradient_of_the_cross_entropy_is_that_of_softmax() {
        let target = [0.1, 0.2, 0.3, 0.4];
        let x = [0.5, -0.3, 0.2, 0.9];
        let gradient = gradient_check(&x, |x| {
            C51Config::cross_entropy(x.reshape([1, 4]), constant(&target, [1, 4]))
        });
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        let expected: Vec<f64> = x
            .iter()
            .zip(target)
            .map(|(x, t)| x.exp() / sum - t)
            .collect();
        assert_close(&gradient, &expected, 1e-9);
    }

    #[test]
    fn refuses_an_empty_support() {
        C51Config::default().validate().unwrap();
        let config = C51Config {
            max_value: 0.0,
            ..C51Config::default()
        };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "max_value: expected a finite number above min_value = 0, got 0"
        );
    }
}
