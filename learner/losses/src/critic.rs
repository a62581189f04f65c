//! The critic's losses: temporal differences with the target policy's actions averaged, as in MPO
//! (Abdolmaleki et al. 2018) with Acme's n-step transitions.
//!
//! `y = r + d mean_n Q_target(s', a_n)`, `a_n ~ pi_target(.|s')`, where `r` is the n-step discounted
//! sum of rewards and `d` the product of the environment's discounts and `gamma^n`. The critic says a
//! number, or a distribution over returns (`c51.rs`), whose target is `y` in distribution.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{C51Config, ConfigError};

/// What the critic says, and how its error is penalised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CriticLoss {
    /// A number; half the mean of the squares.
    // With braces it refuses another kind's keys; a unit would ignore them.
    Mse {},
    /// A number; quadratic up to `delta`, linear beyond (Huber 1964).
    Huber {
        /// Where the linear part begins.
        delta: f64,
    },
    /// A categorical distribution over returns.
    Categorical(C51Config),
}

impl Default for CriticLoss {
    fn default() -> Self {
        Self::Mse {}
    }
}

impl CriticLoss {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Mse {} => Ok(()),
            Self::Huber { delta } if *delta > 0.0 && delta.is_finite() => Ok(()),
            Self::Huber { delta } => {
                Err(ConfigError::new("delta", "a finite number above 0", delta))
            }
            Self::Categorical(config) => config.validate(),
        }
    }

    /// Outputs `K` of the critic's network.
    pub fn outputs(&self) -> usize {
        match self {
            Self::Mse {} | Self::Huber { .. } => 1,
            Self::Categorical(config) => config.atoms,
        }
    }

    /// The values `[rows]` that the critic's outputs `[rows, K]` stand for.
    pub fn values(&self, outputs: Tensor<2>) -> Tensor<1> {
        let [rows, k] = outputs.dims();
        assert_eq!(k, self.outputs(), "outputs must be [rows, K]");
        match self {
            Self::Mse {} | Self::Huber { .. } => outputs.reshape([rows]),
            Self::Categorical(config) => config.values(outputs),
        }
    }

    /// The target from rewards and discounts `[B]` and the target critic's outputs `[N * B, K]` for the
    /// target policy's actions in the next states, samples first.
    pub fn target(
        &self,
        reward: Tensor<1>,
        discount: Tensor<1>,
        next_outputs: Tensor<2>,
    ) -> CriticTarget {
        let [batch] = reward.dims();
        assert_eq!(discount.dims(), [batch], "discount must be [B]");
        let [rows, _] = next_outputs.dims();
        assert_eq!(rows % batch, 0, "next outputs must be [N * B, K]");
        match self {
            Self::Mse {} | Self::Huber { .. } => {
                let next_value = self
                    .values(next_outputs)
                    .reshape([rows / batch, batch])
                    .mean_dim(0)
                    .reshape([batch]);
                CriticTarget::Values((reward + discount * next_value).without_autodiff())
            }
            Self::Categorical(config) => {
                CriticTarget::Distribution(config.target(reward, discount, next_outputs))
            }
        }
    }

    /// The loss of the online critic's `outputs` `[B, K]` against the target, averaged over the batch;
    /// of experience drawn by priority each with its importance weight, `[B]`.
    pub fn loss(
        &self,
        outputs: Tensor<2>,
        target: CriticTarget,
        weights: Option<Tensor<1>>,
    ) -> CriticLossOutput {
        let value = self.values(outputs.clone().without_autodiff());
        let (losses, errors, target) = match (self, target) {
            (Self::Categorical(config), CriticTarget::Distribution(target)) => {
                assert_eq!(outputs.dims(), target.dims(), "targets must be [B, K]");
                let mean = config.mean(target.clone());
                let losses = C51Config::cross_entropy(outputs, target.clone());
                // Without weights nobody reads it.
                let divergence = match &weights {
                    Some(_) => losses.clone() - C51Config::entropy(target),
                    None => losses.clone(),
                };
                (losses, divergence, mean)
            }
            (Self::Mse {} | Self::Huber { .. }, CriticTarget::Values(target)) => {
                assert_eq!(target.dims(), value.dims(), "targets must be [B]");
                let target = target.without_autodiff();
                let difference = target.clone() - self.values(outputs);
                (self.penalise(difference.clone()), difference, target)
            }
            _ => panic!("a target made by another loss"),
        };
        let stats = CriticStats {
            value: value.clone().mean(),
            target: target.mean(),
        };
        let Some(weights) = weights else {
            let (loss, errors) = (losses.mean(), None);
            return CriticLossOutput {
                loss,
                errors,
                stats,
            };
        };
        assert_eq!(weights.dims(), value.dims(), "weights must be [B]");
        CriticLossOutput {
            loss: (losses * weights).mean(),
            errors: Some(errors.without_autodiff().abs()),
            stats,
        }
    }

    fn penalise(&self, difference: Tensor<1>) -> Tensor<1> {
        match self {
            Self::Huber { delta } => {
                // With c the difference clipped to [-delta, delta]: c (difference - c / 2).
                let clipped = difference.clone().clamp(-delta, *delta);
                clipped.clone() * (difference - clipped * 0.5)
            }
            Self::Mse {} | Self::Categorical(_) => difference.square() * 0.5,
        }
    }
}

/// What the critic should have said, in `B` states; constants.
#[derive(Clone, Debug)]
pub enum CriticTarget {
    /// Values `[B]`.
    Values(Tensor<1>),
    /// Distributions over the critic's atoms, `[B, K]`.
    Distribution(Tensor<2>),
}

/// What there is to know about one evaluation of the loss; scalars on the device, read when wanted.
#[derive(Clone, Debug)]
pub struct CriticStats {
    /// Mean value of the batch's actions, in the units of the rewards given.
    pub value: Tensor<1>,
    /// Mean target.
    pub target: Tensor<1>,
}

/// The loss and its statistics.
#[derive(Clone, Debug)]
pub struct CriticLossOutput {
    /// To minimise: `[1]`.
    pub loss: Tensor<1>,
    /// How wrong the critic was, `[B]`, where weights were given: the size of the difference, or for a
    /// distribution the KL divergence from the target (Hessel et al. 2018); a constant.
    pub errors: Option<Tensor<1>>,
    /// Its parts.
    pub stats: CriticStats,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, constant, gradient_check, values};

    fn target(reward: Tensor<1>, discount: Tensor<1>, next: Tensor<2>) -> Tensor<1> {
        match CriticLoss::default().target(reward, discount, next) {
            CriticTarget::Values(target) => target,
            CriticTarget::Distribution(_) => panic!("a number was asked for"),
        }
    }

    /// State 0: `1 + 0.9 (2 + 4) / 2 = 3.7`; state 1 has terminated: its reward alone.
    #[test]
    fn targets_average_the_actions_and_stop_at_termination() {
        let target = target(
            constant(&[1.0, -2.0], [2]),
            constant(&[0.9, 0.0], [2]),
            constant(&[2.0, 100.0, 4.0, 300.0], [4, 1]),
        );
        assert_close(&values(target), &[3.7, -2.0], 1e-12);
    }

    /// Differences 0.5 and -3. MSE: `(0.125 + 4.5) / 2`; Huber with delta 1: `(0.125 + 3 - 0.5) / 2`.
    #[test]
    fn loss_and_gradient_by_hand() {
        let target = CriticTarget::Values(constant(&[1.0, -2.0], [2]));
        for (config, loss, gradient) in [
            (CriticLoss::Mse {}, 2.3125, [-0.25, 1.5]),
            (CriticLoss::Huber { delta: 1.0 }, 1.3125, [-0.25, 0.5]),
        ] {
            let q = [0.5, 1.0];
            let output = config.loss(constant(&q, [2, 1]), target.clone(), None);
            assert_close(&values(output.loss), &[loss], 1e-12);
            assert_close(&values(output.stats.value), &[0.75], 1e-12);
            assert_close(&values(output.stats.target), &[-0.5], 1e-12);
            let got = gradient_check(&q, |q| {
                config.loss(q.reshape([2, 1]), target.clone(), None).loss
            });
            assert_close(&got, &gradient, 1e-9);
        }
    }

    /// Schaul et al. 2016, algorithm 1: each loss times its weight, then averaged; errors 0.5 and 3.
    #[test]
    fn weights_scale_losses_and_come_with_errors() {
        let target = CriticTarget::Values(constant(&[1.0, -2.0], [2]));
        let weighted = |q: Tensor<1>| {
            let weights = constant(&[1.0, 0.5], [2]);
            CriticLoss::Mse {}.loss(q.reshape([2, 1]), target.clone(), Some(weights))
        };
        let output = weighted(constant(&[0.5, 1.0], [2]));
        assert_close(&values(output.loss), &[(0.125 + 0.5 * 4.5) / 2.0], 1e-12);
        assert_close(&values(output.errors.unwrap()), &[0.5, 3.0], 1e-12);
        let gradient = gradient_check(&[0.5, 1.0], |q| weighted(q).loss);
        assert_close(&gradient, &[-0.25, 0.75], 1e-9);
    }

    /// Hessel et al. 2018: what the critic has learned exactly has no priority, however wide it is. The
    /// other says a half each where the target is (3/4, 1/4): `3/4 ln 3/2 + 1/4 ln 1/2`.
    #[test]
    fn a_distribution_that_is_right_has_no_error() {
        let config = CriticLoss::Categorical(C51Config {
            atoms: 2,
            min_value: 0.0,
            max_value: 1.0,
        });
        let target =
            CriticTarget::Distribution(constant(&[0.75, 0.25, 0.75, 0.25, 1.0, 0.0], [3, 2]));
        let logits = [0.75f64.ln(), 0.25f64.ln(), 0.0, 0.0, 40.0, 0.0];
        let weights = constant(&[1.0, 1.0, 1.0], [3]);
        let output = config.loss(constant(&logits, [3, 2]), target, Some(weights));
        let half = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert_close(&values(output.errors.unwrap()), &[0.0, half, 0.0], 1e-12);
    }

    /// Two atoms, 0 and 1; the critic says a half each, the target is 0.25: `ln 2`, and the gradient of
    /// the logits is `p - y`.
    #[test]
    fn a_distributional_critic_by_hand() {
        let config = CriticLoss::Categorical(C51Config {
            atoms: 2,
            min_value: 0.0,
            max_value: 1.0,
        });
        let target = config.target(
            constant(&[0.25], [1]),
            constant(&[0.0], [1]),
            constant(&[0.3, -0.3], [1, 2]),
        );
        let output = config.loss(constant(&[0.0, 0.0], [1, 2]), target.clone(), None);
        assert_close(&values(output.loss), &[2f64.ln()], 1e-12);
        assert_close(&values(output.stats.value), &[0.5], 1e-12);
        assert_close(&values(output.stats.target), &[0.25], 1e-12);
        let gradient = gradient_check(&[0.0, 0.0], |x| {
            config.loss(x.reshape([1, 2]), target.clone(), None).loss
        });
        assert_close(&gradient, &[0.5 - 0.75, 0.5 - 0.25], 1e-9);
    }

    #[test]
    fn no_gradient_reaches_the_target() {
        let leaf = |x: &[f64]| constant::<1>(x, [x.len()]).autodiff().require_grad();
        let (online, behind) = (leaf(&[0.5, 0.1]), leaf(&[2.0, 1.0]));
        let two_atoms = C51Config {
            atoms: 2,
            ..C51Config::default()
        };
        for config in [CriticLoss::Mse {}, CriticLoss::Categorical(two_atoms)] {
            let k = config.outputs();
            let next = behind.clone().slice(0..k).reshape([1, k]);
            let target = config.target(constant(&[1.0], [1]), constant(&[0.9], [1]), next);
            let outputs = online.clone().slice(0..k).reshape([1, k]);
            let gradients = config.loss(outputs, target, None).loss.backward();
            assert!(online.grad(&gradients).is_some());
            assert!(behind.grad(&gradients).is_none());
        }
    }

    #[test]
    #[should_panic(expected = "targets must be [B]")]
    fn a_target_that_would_broadcast_is_refused() {
        let target = CriticTarget::Values(constant(&[0.0], [1]));
        CriticLoss::default().loss(constant(&[0.0, 1.0], [2, 1]), target, None);
    }

    #[test]
    fn refuses_a_delta_that_is_not_positive() {
        assert!(CriticLoss::default().validate().is_ok());
        let message = CriticLoss::Huber { delta: 0.0 }.validate().unwrap_err();
        assert_eq!(
            message.to_string(),
            "delta: expected a finite number above 0, got 0"
        );
    }
}
