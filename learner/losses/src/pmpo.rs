//! Preference optimisation as probabilistic inference (Abdolmaleki et al., 2024), eq. 10:
//!
//! `J = alpha E_{a ~ D_a}[ln pi(a)] - (1 - alpha) E_{a ~ D_r}[ln pi(a)] - beta KL(pi_ref || pi)`,
//!
//! averaged over the states of a batch; the loss is `-J`. With `alpha` 1 it learns from accepted samples
//! alone (eq. 6 and a KL), with 0 from rejected ones alone (eq. 9).
//!
//! - Actions are drawn from the reference policy and divided into accepted and rejected by their values
//!   ([`Preference`]); both sets may be of any size.
//! - Each expectation is the mean over its own samples, so unbalanced splits need no reweighting. A
//!   log-likelihood is the sum over the action's dimensions.
//! - A Gaussian's KL may be decoupled into mean and standard deviation ([`KlPenalty`]).

use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::preference::label_weights;
use crate::{
    Family, Improvement, Judgement, KlPenalty, PolicyLossOutput, Preference, preference_weights,
};

/// Configuration of the PMPO loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PmpoConfig {
    /// Weight of the accepted samples; the rejected ones have `1 - alpha`. In [0, 1].
    pub alpha: f64,
    /// How samples are divided into accepted and rejected.
    pub preference: Preference,
    /// The KL to the reference policy.
    pub kl: KlPenalty,
}

impl Default for PmpoConfig {
    fn default() -> Self {
        Self {
            alpha: 0.5,
            preference: Preference::default(),
            kl: KlPenalty::default(),
        }
    }
}

impl PmpoConfig {
    /// Refuses contradictions, given the number of action samples a state and the policy's head.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, samples: usize, family: Family) -> Result<(), ConfigError> {
        ConfigError::share("alpha", self.alpha)?;
        self.preference.validate(samples, self.alpha)?;
        self.kl.validate(family)
    }
}

/// The loss; its statistic `preference` is the mean of `sum_n w_n ln pi(a_n)`, eq. 10 without its KL.
pub fn pmpo_loss(config: &PmpoConfig, improvement: &Improvement<'_>) -> PolicyLossOutput {
    let [_, batch, _] = improvement.dims();
    let (weights, count) = match &improvement.judgement {
        Judgement::Values(values) => {
            let weights = preference_weights(values.clone(), &config.preference, config.alpha);
            (weights, batch as f64)
        }
        Judgement::Labels { accepted, rejected } => {
            let weights = label_weights(accepted.clone(), rejected.clone(), config.alpha);
            (weights, 1.0)
        }
    };
    let preference = improvement.weigh(weights * improvement.log_prob()).sum() / count;
    let (penalty, kls) = config.kl.penalty(improvement);
    let mut stats = vec![("preference", preference.clone().without_autodiff())];
    stats.extend(kls);
    PolicyLossOutput {
        loss: penalty - preference,
        stats,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::*;
    use crate::testing::{
        assert_close, categorical, constant, gaussian, gradient_check, stat, values,
    };
    use crate::{ActionDistribution, DecoupledWeights, JointKl, RankPreference};

    fn config(alpha: f64, accepted: usize, rejected: usize, kl: KlPenalty) -> PmpoConfig {
        PmpoConfig {
            alpha,
            preference: Preference::Rank(RankPreference {
                accepted,
                rejected,
                ..RankPreference::default()
            }),
            kl,
        }
    }

    fn decoupled(beta_mean: f64, beta_std: f64) -> KlPenalty {
        KlPenalty::Decoupled(DecoupledWeights {
            beta_mean,
            beta_std,
        })
    }

    fn loss(
        config: &PmpoConfig,
        policy: &ActionDistribution,
        reference: &ActionDistribution,
        actions: &Tensor<3>,
        values: &Tensor<2>,
    ) -> PolicyLossOutput {
        let improvement = Improvement {
            policy,
            reference,
            actions: actions.clone(),
            judgement: Judgement::Values(values.clone()),
            state_weights: None,
        };
        pmpo_loss(config, &improvement)
    }

    /// One state, one dimension, reference N(0, 0.5), policy N(0.2, 1), samples 0.5 and -0.5 accepted
    /// and rejected once each, alpha 0.5:
    /// - `ln pi(0.5) - ln pi(-0.5) = (0.7^2 - 0.3^2) / 2 = 0.2`, times 1/2: 0.1;
    /// - KL of the means `0.2^2 / (2 * 0.25) = 0.08`, of the widths `ln 2 + 1/8 - 1/2`.
    ///
    /// d/dmu: `-(0.5 - 0.2)/2 + (-0.5 - 0.2)/2 + beta_mean 0.2/0.25 = -0.5 + 0.8 beta_mean`.
    /// d/dstd: `-(0.3^2 - 0.7^2)/2 + beta_std (1 - 0.25) = 0.2 + 0.75 beta_std`.
    #[test]
    fn loss_and_gradient_by_hand() {
        let config = config(0.5, 1, 1, decoupled(2.0, 3.0));
        let reference = gaussian(constant(&[0.0, 0.5], [2]), [1, 1]);
        let actions = constant(&[-0.5, 0.5], [2, 1, 1]);
        let q = constant(&[1.0, 2.0], [2, 1]);
        let loss = |x| loss(&config, &gaussian(x, [1, 1]), &reference, &actions, &q);
        let output = loss(constant(&[0.2, 1.0], [2]));
        let kl_std = 2f64.ln() + 0.125 - 0.5;
        assert_close(&stat(&output, "preference"), &[0.1], 1e-12);
        assert_close(&stat(&output, "kl_mean"), &[0.08], 1e-12);
        assert_close(&stat(&output, "kl_std"), &[kl_std], 1e-12);
        let expected = -0.1 + 2.0 * 0.08 + 3.0 * kl_std;
        assert_close(&values(output.loss), &[expected], 1e-12);

        let gradient = gradient_check(&[0.2, 1.0], |x| loss(x).loss);
        assert_close(&gradient, &[-0.5 + 1.6, 0.2 + 2.25], 1e-9);
    }

    /// The joint KL of the same: `ln 2 + (0.25 + 0.04) / 2 - 1/2`.
    #[test]
    fn the_joint_kl_by_hand() {
        let config = config(0.5, 1, 1, KlPenalty::Joint(JointKl { beta: 2.0 }));
        let reference = gaussian(constant(&[0.0, 0.5], [2]), [1, 1]);
        let policy = gaussian(constant(&[0.2, 1.0], [2]), [1, 1]);
        let actions = constant(&[-0.5, 0.5], [2, 1, 1]);
        let q = constant(&[1.0, 2.0], [2, 1]);
        let output = loss(&config, &policy, &reference, &actions, &q);
        let kl = 2f64.ln() + 0.145 - 0.5;
        assert_close(&stat(&output, "kl"), &[kl], 1e-12);
        assert_close(&values(output.loss), &[-0.1 + 2.0 * kl], 1e-12);
    }

    /// Two bins with probabilities 0.6 and 0.4, uniform reference: accepted is the second, rejected
    /// the first. `-(ln 0.4 - ln 0.6) / 2 + beta (ln 0.5 - (ln 0.6 + ln 0.4) / 2)`. With logits `l`,
    /// the gradient of the first term is `(0.5, -0.5)`, of the KL `p - 1/2`.
    #[test]
    fn a_categorical_policy_by_hand() {
        let config = config(0.5, 1, 1, KlPenalty::Joint(JointKl { beta: 3.0 }));
        let reference = categorical(constant(&[0.0, 0.0], [2]), [1, 1, 2]);
        let actions = constant(&[-1.0, 1.0], [2, 1, 1]);
        let q = constant(&[1.0, 2.0], [2, 1]);
        let logits = [0.6f64.ln(), 0.4f64.ln()];
        let loss = |x| {
            loss(
                &config,
                &categorical(x, [1, 1, 2]),
                &reference,
                &actions,
                &q,
            )
            .loss
        };
        let kl = 0.5f64.ln() - 0.5 * (0.6f64.ln() + 0.4f64.ln());
        let expected = -0.5 * (0.4f64 / 0.6).ln() + 3.0 * kl;
        assert_close(&values(loss(constant(&logits, [2]))), &[expected], 1e-12);
        let gradient = gradient_check(&logits, loss);
        assert_close(&gradient, &[0.5 + 0.3, -0.5 - 0.3], 1e-9);
    }

    /// The objective of offline learning, with all parts: two states, policy N(0.2, 1), 0.5 accepted in the first
    /// and -0.5 rejected in the second, alpha 1/4, beta 2. With `c = ln sqrt(2 pi)`, `ln pi` of them is
    /// `-0.045 - c` and `-0.245 - c`:
    /// - `J_labels = (-0.045 - c) / 4 - 3 (-0.245 - c) / 4 = 0.1725 + c / 2`;
    /// - `E_all = -0.145 - c`, and the loss `2 (0.145 + c) - 0.1725 - c / 2 = 0.1175 + 1.5 c`.
    ///
    /// d/dmu: `-(1/4 + 1) 0.3` and `(3/4 - 1) (-0.7)`; d/dstd with `(a - mu)^2 - 1`, -0.91 and -0.51:
    /// `(1/4 + 1) 0.91` and `(3/4 - 1) (-0.51)`.
    #[test]
    fn labels_and_behaviour_by_hand() {
        let config = config(0.25, 1, 1, KlPenalty::Behaviour(JointKl { beta: 2.0 }));
        let reference = gaussian(constant(&[0.0, 0.0, 0.5, 0.5], [4]), [2, 1]);
        let loss = |x| {
            let policy = gaussian(x, [2, 1]);
            let improvement = Improvement {
                policy: &policy,
                reference: &reference,
                actions: constant(&[0.5, -0.5], [1, 2, 1]),
                judgement: Judgement::Labels {
                    accepted: constant(&[1.0, 0.0], [1, 2]),
                    rejected: constant(&[0.0, 1.0], [1, 2]),
                },
                state_weights: None,
            };
            pmpo_loss(&config, &improvement)
        };
        let output = loss(constant(&[0.2, 0.2, 1.0, 1.0], [4]));
        let c = 0.5 * std::f64::consts::TAU.ln();
        assert_close(&stat(&output, "preference"), &[0.1725 + 0.5 * c], 1e-12);
        assert_close(&stat(&output, "cross_entropy"), &[0.145 + c], 1e-12);
        assert_close(&values(output.loss), &[0.1175 + 1.5 * c], 1e-12);
        let gradient = gradient_check(&[0.2, 0.2, 1.0, 1.0], |x| loss(x).loss);
        assert_close(&gradient, &[-0.375, 0.175, 1.1375, 0.1275], 1e-9);
    }

    #[test]
    fn gradients_equal_finite_differences_on_a_batch() {
        let reference = gaussian(
            constant(&[0.1, -0.4, 0.2, 0.9, 0.7, 0.3, 0.5, 1.1], [8]),
            [2, 2],
        );
        let noise: Vec<f64> = (0..20)
            .map(|i| f64::from(i * 7 % 20) / 10.0 - 1.0)
            .collect();
        let actions = reference.sample(constant(&noise, [5, 2, 2]));
        let q: Vec<f64> = (0..10).map(|i| f64::from(i * 3 % 10)).collect();
        let q = constant(&q, [5, 2]);
        for (alpha, kl) in [
            (0.5, decoupled(1.0, 100.0)),
            (1.0, decoupled(1.0, 0.0)),
            (0.0, KlPenalty::Joint(JointKl { beta: 2.0 })),
        ] {
            let config = config(alpha, 2, 2, kl);
            gradient_check(&[0.2, -0.1, 0.4, 0.8, 0.6, 0.4, 0.9, 0.7], |x| {
                loss(&config, &gaussian(x, [2, 2]), &reference, &actions, &q).loss
            });
        }
    }

    /// Reference, samples and values may come out of a graph; the loss must not lead back into it.
    #[test]
    fn gradients_stop_at_reference_samples_and_values() {
        let leaf = |x: &[f64]| constant::<1>(x, [x.len()]).autodiff().require_grad();
        let (theta, behind) = (leaf(&[0.2, 0.8]), leaf(&[0.0, 0.5, 1.0, 2.0, -0.5, 0.5]));
        let reference = gaussian(behind.clone().slice(0..2), [1, 1]);
        let q = behind.clone().slice(2..4).reshape([2, 1]);
        let actions = behind.clone().slice(4..6).reshape([2, 1, 1]);
        let config = config(0.5, 1, 1, decoupled(1.0, 1.0));
        let policy = gaussian(theta.clone(), [1, 1]);
        let gradients = loss(&config, &policy, &reference, &actions, &q)
            .loss
            .backward();
        assert!(theta.grad(&gradients).is_some());
        assert!(behind.grad(&gradients).is_none());
    }

    #[test]
    fn refuses_contradictions_and_quotes_them() {
        let refused = |config: PmpoConfig| {
            let error = config.validate(4, Family::Gaussian).unwrap_err();
            error.to_string()
        };
        PmpoConfig::default().validate(4, Family::Gaussian).unwrap();
        let cases = [
            (
                refused(config(1.5, 2, 2, KlPenalty::default())),
                "alpha: expected a number in [0, 1], got 1.5",
            ),
            (
                refused(config(0.5, 2, 2, decoupled(1.0, f64::NAN))),
                "kl.beta_std: expected a finite number, at least 0, got NaN",
            ),
            (
                refused(config(0.5, 2, 0, KlPenalty::default())),
                "preference.rejected: expected at least 1, since alpha is 0.5, got 0",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }

    #[test]
    #[should_panic(expected = "values must be [N, B]")]
    fn transposed_values_are_refused() {
        let policy = gaussian(constant(&[0.0, 0.0, 0.5, 0.5], [4]), [2, 1]);
        let actions = constant(&[0.0; 8], [4, 2, 1]);
        let q = constant(&[0.0; 8], [2, 4]);
        loss(&PmpoConfig::default(), &policy, &policy, &actions, &q);
    }
}
