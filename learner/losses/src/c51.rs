//! The distributional critic C51 (Bellemare, Dabney and Munos, 2017), as Acme's DMPO uses it: a
//! categorical distribution over returns on a fixed support, `K` atoms evenly spaced from its least to
//! its largest value.
//!
//! The target is the mixture of the target critic's distributions for the sampled actions, moved by
//! `r + d z`, clipped to the support and projected back on its atoms; the loss is the cross-entropy.

use burn::tensor::{Device, IndexingUpdateOp, Tensor};
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

/// The support of the distributions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct C51Config {
    /// Atoms, `K`.
    pub atoms: usize,
    /// Value of the first atom, in units of scaled rewards; absent: the least return there can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_value: Option<f64>,
    /// Value of the last atom; absent: the largest return there can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_value: Option<f64>,
    /// Standard deviation of an untrained critic's distribution, a Gaussian around 0 but for a remnant everywhere;
    /// absent: all atoms have the same probability, and targets become narrower by gamma alone, each time they are
    /// learned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_std: Option<f64>,
}

/// An atom's least logit at first. From there it is learned within some thousand steps.
const LEAST_LOGIT: f64 = -10.0;

impl Default for C51Config {
    fn default() -> Self {
        Self {
            atoms: 51,
            min_value: None,
            max_value: None,
            init_std: None,
        }
    }
}

impl C51Config {
    /// The logits of an untrained critic, but for what its weights add.
    pub(crate) fn init_logits(&self, support: &Support) -> Option<Vec<f32>> {
        let std = self.init_std?;
        let logit = |atom| {
            let value = support.min_value + atom as f64 * support.spacing();
            (-0.5 * (value / std).powi(2)).max(LEAST_LOGIT) as f32
        };
        Some((0..support.atoms).map(logit).collect())
    }

    /// The support for returns within `range`, in units of scaled rewards.
    ///
    /// # Errors
    /// A bound of this configuration leaves a part of the range out, where all would gather on the last
    /// atom and values could not be told apart; or there is no support at all.
    pub(crate) fn support(&self, range: [f64; 2]) -> Result<Support, ConfigError> {
        if !(2..=1001).contains(&self.atoms) {
            return Err(ConfigError::new("atoms", "2 to 1001", self.atoms));
        }
        if let Some(std) = self.init_std {
            ConfigError::positive("init_std", std)?;
        }
        let [least, largest] = range;
        // Who says 20 means what 0.1 / (1 - 0.995) comes to.
        let rounding = 1e-9 * (largest - least).abs();
        let min_value = self.min_value.unwrap_or(least);
        if !(min_value <= least + rounding && min_value.is_finite()) {
            let expected = format!("at most {least}, the least return of scaled rewards");
            return Err(ConfigError::new("min_value", expected, min_value));
        }
        let max_value = self.max_value.unwrap_or(largest);
        if !(max_value >= largest - rounding && max_value.is_finite()) {
            let expected = format!("at least {largest}, the largest return of scaled rewards");
            return Err(ConfigError::new("max_value", expected, max_value));
        }
        if max_value <= min_value {
            let expected = format!("a number above min_value = {min_value}");
            return Err(ConfigError::new("max_value", expected, max_value));
        }
        Ok(Support {
            atoms: self.atoms,
            min_value,
            max_value,
        })
    }
}

/// Evenly spaced atoms.
#[derive(Clone, Debug, PartialEq)]
pub struct Support {
    /// Atoms, `K`.
    pub atoms: usize,
    /// Value of the first atom.
    pub min_value: f64,
    /// Value of the last atom.
    pub max_value: f64,
}

impl Support {
    /// Distance between neighbouring atoms.
    fn spacing(&self) -> f64 {
        (self.max_value - self.min_value) / (self.atoms - 1) as f64
    }

    /// The atoms' values `[1, K]`, like `tensor` in device and kind.
    pub(crate) fn values(&self, tensor: &Tensor<2>) -> Tensor<2> {
        let index = Tensor::<1, burn::tensor::Int>::arange(0..self.atoms as i64, &tensor.device());
        (index.float().cast(tensor.dtype()) * self.spacing() + self.min_value)
            .reshape([1, self.atoms])
    }

    /// Means `[rows]` of distributions `[rows, K]`.
    pub(crate) fn mean(&self, distribution: Tensor<2>) -> Tensor<1> {
        let [rows, _] = distribution.dims();
        let values = self.values(&distribution);
        (distribution * values).sum_dim(1).reshape([rows])
    }

    /// The target distribution `[B, K]` from rewards and discounts `[B]` and the target critic's
    /// distributions `[N * B, K]` in the next states, samples first. A constant.
    pub(crate) fn target(
        &self,
        reward: Tensor<1>,
        discount: Tensor<1>,
        next: Tensor<2>,
    ) -> Tensor<2> {
        let [batch] = reward.dims();
        let [rows, atoms] = next.dims();
        assert_eq!(rows % batch, 0, "next distributions must be [N * B, K]");
        let mixture = next
            .without_autodiff()
            .reshape([rows / batch, batch, atoms])
            .mean_dim(0)
            .reshape([batch, atoms]);
        let values = self.values(&mixture);
        let moved = reward.reshape([batch, 1]) + discount.reshape([batch, 1]) * values;
        let place = (moved
            .without_autodiff()
            .clamp(self.min_value, self.max_value)
            - self.min_value)
            / self.spacing();
        if mixture.device() == Device::flex() {
            scattered(mixture, place)
        } else {
            gathered(mixture, place)
        }
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
}

/// Shares each atom's mass `[B, K]` between the two atoms around the place it has moved to, in units of
/// the spacing: `K` additions a state.
fn scattered(mixture: Tensor<2>, place: Tensor<2>) -> Tensor<2> {
    let [batch, atoms] = mixture.dims();
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

/// The same from the other side: what each atom gets of all, `sum_j p_j max(0, 1 - |place_j - k|)`. `K`
/// times as much work, but one reduction, in a fixed order, where additions by index would be atomic
/// and their sums differ from run to run.
fn gathered(mixture: Tensor<2>, place: Tensor<2>) -> Tensor<2> {
    let [batch, atoms] = mixture.dims();
    let index = Tensor::<1, burn::tensor::Int>::arange(0..atoms as i64, &mixture.device());
    let index = index.float().cast(mixture.dtype()).reshape([1, atoms, 1]);
    let distance = (place.reshape([batch, 1, atoms]) - index).abs();
    let share = (-distance + 1.0).clamp_min(0.0);
    (share * mixture.reshape([batch, 1, atoms]))
        .sum_dim(2)
        .reshape([batch, atoms])
}

#[cfg(test)]
mod tests {
    use pmpo_kernels::fused::cross_entropy;

    use super::*;
    use crate::testing::{assert_close, constant, gradient_check, values};

    /// Atoms 0, 1, 2, 3.
    fn support() -> Support {
        Support {
            atoms: 4,
            min_value: 0.0,
            max_value: 3.0,
        }
    }

    fn distributions(probabilities: &[f64], rows: usize) -> Tensor<2> {
        constant(probabilities, [rows, probabilities.len() / rows])
    }

    #[test]
    fn the_value_is_the_mean_over_the_support() {
        let got = support().mean(distributions(&[0.1, 0.2, 0.3, 0.4], 1));
        assert_close(&values(got), &[0.2 + 0.6 + 1.2], 1e-12);
    }

    /// `0.25 + 0.5 z`: atoms go to 0.25, 0.75, 1.25 and 1.75, each shared by its two neighbours.
    #[test]
    fn the_projection_by_hand() {
        let target = support().target(
            constant(&[0.25], [1]),
            constant(&[0.5], [1]),
            distributions(&[0.1, 0.2, 0.3, 0.4], 1),
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
        let target = support().target(
            constant(&[10.0, -4.0, 1.0, 0.0], [4]),
            constant(&[1.0, 0.5, 0.0, 1.0], [4]),
            distributions(&[p, p, p, p].concat(), 4),
        );
        let mut expected = vec![0.0, 0.0, 0.0, 1.0];
        expected.extend([1.0, 0.0, 0.0, 0.0]);
        expected.extend([0.0, 1.0, 0.0, 0.0]);
        expected.extend(p);
        assert_close(&values(target), &expected, 1e-12);
    }

    /// What GPUs compute, at the ends of the support and between.
    #[test]
    fn both_projections_are_the_same() {
        let p = [0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1];
        let mixture = distributions(&p, 2);
        let place = constant(&[0.0, 0.25, 3.0, 2.999, 1.0, 1.5, 0.0, 3.0], [2, 4]);
        let scattered = scattered(mixture.clone(), place.clone());
        assert_close(&values(gathered(mixture, place)), &values(scattered), 1e-12);
    }

    /// Two samples of one state: the mixture's mean is the mean of their means.
    #[test]
    fn samples_are_mixed() {
        let next = distributions(&[0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.7], 2);
        let target = support().target(constant(&[0.0], [1]), constant(&[1.0], [1]), next);
        assert_close(&values(target), &[0.4, 0.1, 0.1, 0.4], 1e-12);
    }

    #[test]
    fn the_gradient_of_the_cross_entropy_is_that_of_softmax() {
        let target = [0.1, 0.2, 0.3, 0.4];
        let x = [0.5, -0.3, 0.2, 0.9];
        let gradient = gradient_check(&x, |x| {
            cross_entropy(x.reshape([1, 4]), constant(&target, [1, 4]))
        });
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        let expected: Vec<f64> = x
            .iter()
            .zip(target)
            .map(|(x, t)| x.exp() / sum - t)
            .collect();
        assert_close(&gradient, &expected, 1e-9);
    }

    /// The logits of an untrained critic are those of a Gaussian around 0, and none is so low that it would have to be
    /// learned for long.
    #[test]
    fn an_untrained_distribution_is_as_wide_as_it_is_said_to_be() {
        let config = C51Config {
            atoms: 101,
            init_std: Some(0.25),
            ..C51Config::default()
        };
        let support = config.support([-5.0, 5.0]).unwrap();
        let logits = config.init_logits(&support).unwrap();
        let weights: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
        let total: f64 = weights.iter().sum();
        let moment = |power| {
            let atoms = weights.iter().enumerate();
            let terms = atoms.map(|(atom, weight)| weight * (atom as f64 * 0.1 - 5.0).powi(power));
            terms.sum::<f64>() / total
        };
        assert!(moment(1).abs() < 1e-6);
        assert!(
            (moment(2).sqrt() - 0.25).abs() < 0.02,
            "{}",
            moment(2).sqrt()
        );
        assert_eq!((logits[0], logits[50]), (-10.0, 0.0));
        assert!(C51Config::default().init_logits(&support).is_none());
        let refused = C51Config {
            init_std: Some(0.0),
            ..config
        };
        let refused = refused.support([-5.0, 5.0]).unwrap_err().to_string();
        assert!(refused.starts_with("init_std: expected"), "{refused}");
    }

    /// Whatever is worth more than the last atom would tie with it.
    #[test]
    fn a_support_covers_the_returns_there_can_be() {
        let config = C51Config::default();
        let covered = config.support([0.0, 20.0]).unwrap();
        assert_eq!((covered.min_value, covered.max_value), (0.0, 20.0));
        let with = |min_value, max_value| {
            let config = C51Config {
                min_value,
                max_value,
                ..C51Config::default()
            };
            let support = config.support([0.0, 200.0]);
            support.map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(with(Some(-1.0), Some(201.0)), Ok(()));
        let cases = [
            (
                with(None, Some(20.0)),
                "max_value: expected at least 200, the largest return of scaled rewards, got 20",
            ),
            (
                with(Some(1.0), None),
                "min_value: expected at most 0, the least return of scaled rewards, got 1",
            ),
        ];
        for (got, expected) in cases {
            assert_eq!(got, Err(expected.to_owned()));
        }
        let message = config.support([0.0, 0.0]).unwrap_err().to_string();
        assert_eq!(
            message,
            "max_value: expected a number above min_value = 0, got 0"
        );
    }
}
