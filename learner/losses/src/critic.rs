//! The critic's losses: temporal differences with the target policy's actions averaged, as in MPO
//! (Abdolmaleki et al. 2018) with n-step targets.
//!
//! `y = r + d mean_n Q_target(s', a_n)`, `a_n ~ pi_target(.|s')`, where `r` is the n-step discounted
//! sum of scaled rewards and `d` the product of the environment's discounts and `gamma^n`. The critic
//! says a number, or a distribution over returns (`c51.rs`), whose target is `y` in distribution.
//! Several critics' predictions may be combined first ([`Combination`]).

use burn::tensor::Tensor;
use pmpo_kernels::fused::{cross_entropy, expectation, softmax};
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::{C51Config, Support};

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
        #[serde(default = "default_delta")]
        delta: f64,
    },
    /// A categorical distribution over returns.
    Categorical(C51Config),
}

/// Where Huber's linear part begins, if nobody says.
fn default_delta() -> f64 {
    1.0
}

impl Default for CriticLoss {
    fn default() -> Self {
        Self::Mse {}
    }
}

impl CriticLoss {
    /// What computes it, for returns of scaled rewards within `range`.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn head(&self, range: [f64; 2]) -> Result<CriticHead, ConfigError> {
        match self {
            Self::Mse {} => Ok(CriticHead::Value { delta: None }),
            Self::Huber { delta } => {
                ConfigError::positive("delta", *delta)?;
                Ok(CriticHead::Value {
                    delta: Some(*delta),
                })
            }
            Self::Categorical(config) => config.support(range).map(CriticHead::Distribution),
        }
    }

    /// The biases `[K]` that the outputs of an untrained critic with this head have; absent: 0.
    pub fn init_bias(&self, head: &CriticHead) -> Option<Vec<f32>> {
        match (self, head) {
            (Self::Categorical(config), CriticHead::Distribution(support)) => {
                config.init_logits(support)
            }
            _ => None,
        }
    }
}

/// How the predictions of several critics become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combination {
    /// Their mean; of distributions, the mixture.
    #[default]
    Mean,
    /// The one of the lowest value (Fujimoto et al. 2018).
    Minimum,
}

/// What a critic's outputs mean.
#[derive(Clone, Debug, PartialEq)]
pub enum CriticHead {
    /// A number.
    Value {
        /// Where the loss becomes linear; absent, nowhere.
        delta: Option<f64>,
    },
    /// A distribution over the support's atoms, by its logits.
    Distribution(Support),
}

/// What critics say of some actions; constants.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// Values `[rows]`.
    pub values: Tensor<1>,
    /// Distributions `[rows, K]`, of a distributional critic.
    pub distributions: Option<Tensor<2>>,
}

impl CriticHead {
    /// Outputs `K` of the critic's network.
    pub fn outputs(&self) -> usize {
        match self {
            Self::Value { .. } => 1,
            Self::Distribution(support) => support.atoms,
        }
    }

    /// The values `[rows]` that outputs `[rows, K]` stand for, on their graph.
    pub fn values(&self, outputs: Tensor<2>) -> Tensor<1> {
        let [rows, k] = outputs.dims();
        assert_eq!(k, self.outputs(), "outputs must be [rows, K]");
        match self {
            Self::Value { .. } => outputs.reshape([rows]),
            Self::Distribution(support) => {
                let atoms = support.values(&outputs).reshape([k]).without_autodiff();
                expectation(outputs, atoms)
            }
        }
    }

    /// What the outputs `[rows, K]` of one critic say.
    pub fn predict(&self, outputs: Tensor<2>) -> Prediction {
        let [rows, k] = outputs.dims();
        assert_eq!(k, self.outputs(), "outputs must be [rows, K]");
        let outputs = outputs.without_autodiff();
        match self {
            Self::Value { .. } => Prediction {
                values: outputs.reshape([rows]),
                distributions: None,
            },
            Self::Distribution(support) => {
                let distributions = softmax(outputs);
                Prediction {
                    values: support.mean(distributions.clone()),
                    distributions: Some(distributions),
                }
            }
        }
    }

    /// One prediction out of several of the same rows.
    ///
    /// # Panics
    /// If there is none.
    pub fn combine(&self, predictions: Vec<Prediction>, combination: Combination) -> Prediction {
        let count = predictions.len() as f64;
        let combined = predictions
            .into_iter()
            .reduce(|left, right| match combination {
                Combination::Mean => Prediction {
                    values: left.values + right.values,
                    distributions: both(left.distributions, right.distributions, |l, r| l + r),
                },
                Combination::Minimum => {
                    let lower = right.values.clone().lower(left.values.clone());
                    let rows = lower.clone().unsqueeze_dim::<2>(1);
                    Prediction {
                        values: left.values.mask_where(lower, right.values),
                        distributions: both(left.distributions, right.distributions, |l, r| {
                            let shape = l.dims();
                            l.mask_where(rows.expand(shape), r)
                        }),
                    }
                }
            })
            .expect("at least one critic");
        match combination {
            Combination::Mean if count > 1.0 => Prediction {
                values: combined.values / count,
                distributions: combined.distributions.map(|sum| sum / count),
            },
            _ => combined,
        }
    }

    /// The target from scaled rewards and discounts `[B]` and what the target critics say of the target
    /// policy's actions in the next states, `[N * B]`, samples first.
    pub fn target(&self, reward: Tensor<1>, discount: Tensor<1>, next: Prediction) -> CriticTarget {
        let [batch] = reward.dims();
        assert_eq!(discount.dims(), [batch], "discount must be [B]");
        let [rows] = next.values.dims();
        assert_eq!(rows % batch, 0, "next values must be [N * B]");
        match (self, next.distributions) {
            (Self::Distribution(support), Some(next)) => {
                CriticTarget::Distribution(support.target(reward, discount, next))
            }
            (Self::Value { .. }, None) => {
                let next_value = next
                    .values
                    .reshape([rows / batch, batch])
                    .mean_dim(0)
                    .reshape([batch]);
                CriticTarget::Values((reward + discount * next_value).without_autodiff())
            }
            _ => panic!("a prediction of another head"),
        }
    }

    /// The loss of the online critic's `outputs` `[B, K]` against the target, averaged over the batch,
    /// each with its weight of `[B]` if there are weights.
    pub fn loss(
        &self,
        outputs: Tensor<2>,
        target: CriticTarget,
        weights: Option<Tensor<1>>,
    ) -> CriticLossOutput {
        let value = self.predict(outputs.clone()).values;
        let (losses, errors, target) = match (self, target) {
            (Self::Distribution(support), CriticTarget::Distribution(target)) => {
                assert_eq!(outputs.dims(), target.dims(), "targets must be [B, K]");
                let mean = support.mean(target.clone());
                let losses = cross_entropy(outputs, target.clone());
                // Errors are wanted of weighted batches alone, and the entropy costs a logarithm.
                let divergence = match &weights {
                    Some(_) => losses.clone() - Support::entropy(target),
                    None => losses.clone(),
                };
                (losses, divergence, mean)
            }
            (Self::Value { delta }, CriticTarget::Values(target)) => {
                assert_eq!(target.dims(), value.dims(), "targets must be [B]");
                let target = target.without_autodiff();
                let difference = target.clone() - outputs.reshape(value.dims());
                (penalise(*delta, difference.clone()), difference, target)
            }
            _ => panic!("a target of another head"),
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
}

fn both<T>(left: Option<T>, right: Option<T>, f: impl FnOnce(T, T) -> T) -> Option<T> {
    left.zip(right).map(|(left, right)| f(left, right))
}

fn penalise(delta: Option<f64>, difference: Tensor<1>) -> Tensor<1> {
    match delta {
        Some(delta) => {
            // With c the difference clipped to [-delta, delta]: c (difference - c / 2).
            let clipped = difference.clone().clamp(-delta, delta);
            clipped.clone() * (difference - clipped * 0.5)
        }
        None => difference.square() * 0.5,
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

    const MSE: CriticHead = CriticHead::Value { delta: None };

    fn target(reward: Tensor<1>, discount: Tensor<1>, next: Tensor<2>) -> Tensor<1> {
        match MSE.target(reward, discount, MSE.predict(next)) {
            CriticTarget::Values(target) => target,
            CriticTarget::Distribution(_) => panic!("a number was asked for"),
        }
    }

    fn two_atoms() -> CriticHead {
        CriticHead::Distribution(Support {
            atoms: 2,
            min_value: 0.0,
            max_value: 1.0,
        })
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
            (MSE, 2.3125, [-0.25, 1.5]),
            (CriticHead::Value { delta: Some(1.0) }, 1.3125, [-0.25, 0.5]),
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
            MSE.loss(q.reshape([2, 1]), target.clone(), Some(weights))
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
        let config = two_atoms();
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
        let config = two_atoms();
        let target = config.target(
            constant(&[0.25], [1]),
            constant(&[0.0], [1]),
            config.predict(constant(&[0.3, -0.3], [1, 2])),
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

    /// Values 1 and 3, and 5 and 2; of distributions the lower one as it is, or the mixture.
    #[test]
    fn critics_are_combined_by_mean_or_minimum() {
        let values_of = |outputs: &[f64]| MSE.predict(constant(outputs, [2, 1]));
        let combined = |how| {
            let both = vec![values_of(&[1.0, 5.0]), values_of(&[3.0, 2.0])];
            values(MSE.combine(both, how).values)
        };
        assert_close(&combined(Combination::Mean), &[2.0, 3.5], 1e-12);
        assert_close(&combined(Combination::Minimum), &[1.0, 2.0], 1e-12);

        let head = two_atoms();
        let says = |upper: &[f64]| {
            let logits: Vec<f64> = upper
                .iter()
                .flat_map(|p| [(1.0 - p).ln(), p.ln()])
                .collect();
            head.predict(constant(&logits, [2, 2]))
        };
        let combined = |how| {
            let both = vec![says(&[0.2, 0.9]), says(&[0.6, 0.5])];
            let combined = head.combine(both, how);
            (
                values(combined.values),
                values(combined.distributions.unwrap()),
            )
        };
        let (means, mixtures) = combined(Combination::Mean);
        assert_close(&means, &[0.4, 0.7], 1e-12);
        assert_close(&mixtures, &[0.6, 0.4, 0.3, 0.7], 1e-12);
        let (lowest, theirs) = combined(Combination::Minimum);
        assert_close(&lowest, &[0.2, 0.5], 1e-12);
        assert_close(&theirs, &[0.8, 0.2, 0.5, 0.5], 1e-12);
    }

    #[test]
    fn no_gradient_reaches_the_target() {
        let leaf = |x: &[f64]| constant::<1>(x, [x.len()]).autodiff().require_grad();
        let (online, behind) = (leaf(&[0.5, 0.1]), leaf(&[2.0, 1.0]));
        for config in [MSE, two_atoms()] {
            let k = config.outputs();
            let next = config.predict(behind.clone().slice(0..k).reshape([1, k]));
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
        MSE.loss(constant(&[0.0, 1.0], [2, 1]), target, None);
    }

    #[test]
    fn refuses_a_delta_that_is_not_positive() {
        assert_eq!(CriticLoss::default().head([0.0, 1.0]), Ok(MSE));
        let message = CriticLoss::Huber { delta: 0.0 }.head([0.0, 1.0]);
        let message = message.unwrap_err();
        assert_eq!(
            message.to_string(),
            "delta: expected a finite number above 0, got 0"
        );
    }
}
