//! The preference-based policy improvement of "Preference Optimization as Probabilistic Inference"
//! (PMPO), eq. 10:
//!
//! `J(theta; x) = alpha E_a[ln pi(y|x)] - (1 - alpha) E_r[ln pi(y|x)] - beta KL(pi_ref || pi; x)`
//!
//! where the expectations are over the accepted and over the rejected samples of the reference
//! policy. The loss is `-J`, averaged over the states of a batch.
//!
//! Choices the paper leaves open:
//! - Preferences ("Extracting preferences") are by rank: of a state's `N` samples the `accepted` of
//!   highest value are preferred, the `rejected` of lowest value dis-preferred, the rest unused.
//! - Each expectation is the mean over its own samples, so unbalanced splits need no reweighting. A
//!   log-likelihood is the sum over the action's dimensions.
//! - The Gaussian's KL is decoupled into mean and standard deviation, each with its own beta.

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{ConfigError, DiagonalGaussian, decoupled_kl};

/// Configuration of the PMPO loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PmpoConfig {
    /// Weight of the accepted samples; the rejected ones have `1 - alpha`. In [0, 1].
    pub alpha: f64,
    /// Weight of the KL between the means.
    pub beta_mean: f64,
    /// Weight of the KL between the standard deviations.
    pub beta_std: f64,
    /// How many of a state's samples are accepted: those of highest value.
    pub accepted: usize,
    /// How many of a state's samples are rejected: those of lowest value.
    pub rejected: usize,
}

impl Default for PmpoConfig {
    fn default() -> Self {
        Self {
            alpha: 0.5,
            beta_mean: 1.0,
            beta_std: 100.0,
            accepted: 2,
            rejected: 2,
        }
    }
}

impl PmpoConfig {
    /// Refuses contradictions, given the number of action samples a state.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, samples: usize) -> Result<(), ConfigError> {
        if !(0.0..=1.0).contains(&self.alpha) {
            return Err(ConfigError::new("alpha", "a number in [0, 1]", self.alpha));
        }
        for (field, beta) in [("beta_mean", self.beta_mean), ("beta_std", self.beta_std)] {
            if !(beta >= 0.0 && beta.is_finite()) {
                return Err(ConfigError::new(field, "a finite number, at least 0", beta));
            }
        }
        for (field, count, weight) in [
            ("accepted", self.accepted, self.alpha),
            ("rejected", self.rejected, 1.0 - self.alpha),
        ] {
            if count == 0 && weight > 0.0 {
                let expected = format!("at least 1, since alpha is {}", self.alpha);
                return Err(ConfigError::new(field, expected, count));
            }
        }
        if self.accepted + self.rejected > samples {
            let expected = format!("at most the {samples} actions per state");
            let got = format!("{} + {}", self.accepted, self.rejected);
            return Err(ConfigError::new("accepted + rejected", expected, got));
        }
        Ok(())
    }
}

/// What there is to know about one evaluation of the loss; scalars on the device, read when wanted.
#[derive(Clone, Debug)]
pub struct PmpoStats {
    /// Mean of `sum_n w_n ln pi(a_n)`: eq. 10 without its KL.
    pub preference: Tensor<1>,
    /// Mean KL between the means.
    pub kl_mean: Tensor<1>,
    /// Mean KL between the standard deviations.
    pub kl_std: Tensor<1>,
}

/// The loss and its statistics.
#[derive(Clone, Debug)]
pub struct PmpoLossOutput {
    /// `-J`, to minimise: `[1]`.
    pub loss: Tensor<1>,
    /// Its parts.
    pub stats: PmpoStats,
}

/// The factor of each sample's log-likelihood in eq. 10, from the values `[N, B]` of the samples:
/// `alpha / accepted` for the accepted, `-(1 - alpha) / rejected` for the rejected, else 0; `[N, B]`.
/// Of samples with equal values the first ranks higher.
pub fn preference_weights(values: Tensor<2>, config: &PmpoConfig) -> Tensor<2> {
    let [samples, batch] = values.dims();
    assert!(
        config.accepted + config.rejected <= samples,
        "accepted + rejected must be at most N = {samples}"
    );
    let values = values.without_autodiff();
    let (dtype, device) = (values.dtype(), values.device());
    // better[i, j, b]: sample j of state b ranks above sample i. Ranks by counting need no sort and
    // no read-back; N is small.
    let of = values.clone().reshape([samples, 1, batch]);
    let against = values.reshape([1, samples, batch]);
    let earlier = Tensor::<2>::ones([samples, samples], (&device, dtype))
        .tril(-1)
        .reshape([samples, samples, 1]);
    let better = against.clone().greater(of.clone()).float().cast(dtype)
        + against.equal(of).float().cast(dtype) * earlier;
    let rank = better.sum_dim(1).reshape([samples, batch]);
    let mask = |chosen: Tensor<2, burn::tensor::Bool>| chosen.float().cast::<DType>(dtype);
    let accepted = mask(rank.clone().lower_scalar(config.accepted as f64));
    let rejected = mask(rank.greater_equal_scalar((samples - config.rejected) as f64));
    let share = |weight: f64, count: usize| {
        if count == 0 {
            0.0
        } else {
            weight / count as f64
        }
    };
    accepted * share(config.alpha, config.accepted)
        - rejected * share(1.0 - config.alpha, config.rejected)
}

/// The loss of `policy` on `actions` `[N, B, A]` that were drawn from `reference` and have the
/// `values` `[N, B]`.
pub fn pmpo_loss(
    config: &PmpoConfig,
    policy: &DiagonalGaussian,
    reference: &DiagonalGaussian,
    actions: Tensor<3>,
    values: Tensor<2>,
) -> PmpoLossOutput {
    let [batch, size] = policy.dims();
    let [samples, b, a] = actions.dims();
    assert_eq!([b, a], [batch, size], "actions must be [N, B, A]");
    assert_eq!(values.dims(), [samples, batch], "values must be [N, B]");

    let weights = preference_weights(values, config);
    let log_prob = policy.log_prob(actions.without_autodiff());
    let preference = (weights * log_prob).sum() / batch as f64;
    let kl = decoupled_kl(reference, policy);
    let (kl_mean, kl_std) = (kl.mean.mean(), kl.std.mean());
    let penalty = kl_mean.clone() * config.beta_mean + kl_std.clone() * config.beta_std;
    PmpoLossOutput {
        loss: penalty - preference.clone(),
        stats: PmpoStats {
            preference: preference.without_autodiff(),
            kl_mean: kl_mean.without_autodiff(),
            kl_std: kl_std.without_autodiff(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, constant, gradient_check, values};

    fn config() -> PmpoConfig {
        PmpoConfig::default()
    }

    /// Policy `[B, A]` from a vector of means and then standard deviations.
    fn policy(x: Tensor<1>, dims: [usize; 2]) -> DiagonalGaussian {
        let count = dims[0] * dims[1];
        DiagonalGaussian {
            mean: x.clone().slice(0..count).reshape(dims),
            std: x.slice(count..2 * count).reshape(dims),
        }
    }

    /// Two states, four samples each, columns `[0.3, 1, -2, 0.5]` and `[5, 5, 5, 1]`.
    #[test]
    fn the_best_are_accepted_and_the_worst_rejected() {
        let q = constant(&[0.3, 5.0, 1.0, 5.0, -2.0, 5.0, 0.5, 1.0], [4, 2]);
        let weights = values(preference_weights(q.clone(), &config()));
        let expected = [-0.25, 0.25, 0.25, 0.25, -0.25, -0.25, 0.25, -0.25];
        assert_close(&weights, &expected, 1e-12);

        let unbalanced = PmpoConfig {
            alpha: 0.75,
            accepted: 1,
            ..config()
        };
        let weights = values(preference_weights(q, &unbalanced));
        let expected = [-0.125, 0.75, 0.75, 0.0, -0.125, -0.125, 0.0, -0.125];
        assert_close(&weights, &expected, 1e-12);
    }

    /// Accept-only (alpha 1) and reject-only (alpha 0), eq. 6 and eq. 9.
    #[test]
    fn alpha_one_and_zero_leave_one_side() {
        let q = constant(&[1.0, 4.0, 3.0, 2.0], [4, 1]);
        for (alpha, accepted, rejected, expected) in [
            (1.0, 2, 0, [0.0, 0.5, 0.5, 0.0]),
            (0.0, 0, 2, [-0.5, 0.0, 0.0, -0.5]),
        ] {
            let config = PmpoConfig {
                alpha,
                accepted,
                rejected,
                ..config()
            };
            config.validate(4).unwrap();
            let weights = values(preference_weights(q.clone(), &config));
            assert_close(&weights, &expected, 1e-12);
        }
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
        let config = PmpoConfig {
            beta_mean: 2.0,
            beta_std: 3.0,
            accepted: 1,
            rejected: 1,
            ..config()
        };
        let reference = policy(constant(&[0.0, 0.5], [2]), [1, 1]);
        let actions = constant(&[-0.5, 0.5], [2, 1, 1]);
        let q = constant(&[1.0, 2.0], [2, 1]);
        let loss = |x: Tensor<1>| {
            pmpo_loss(
                &config,
                &policy(x, [1, 1]),
                &reference,
                actions.clone(),
                q.clone(),
            )
        };
        let output = loss(constant(&[0.2, 1.0], [2]));
        let kl_std = 2f64.ln() + 0.125 - 0.5;
        assert_close(&values(output.stats.preference), &[0.1], 1e-12);
        assert_close(&values(output.stats.kl_mean), &[0.08], 1e-12);
        assert_close(&values(output.stats.kl_std), &[kl_std], 1e-12);
        let expected = -0.1 + 2.0 * 0.08 + 3.0 * kl_std;
        assert_close(&values(output.loss), &[expected], 1e-12);

        let gradient = gradient_check(&[0.2, 1.0], |x| loss(x).loss);
        assert_close(&gradient, &[-0.5 + 1.6, 0.2 + 2.25], 1e-9);
    }

    #[test]
    fn gradient_equals_finite_differences_on_a_batch() {
        let reference = policy(
            constant(&[0.1, -0.4, 0.2, 0.9, 0.7, 0.3, 0.5, 1.1], [8]),
            [2, 2],
        );
        let noise: Vec<f64> = (0..20)
            .map(|i| f64::from(i * 7 % 20) / 10.0 - 1.0)
            .collect();
        let actions = reference.sample(constant(&noise, [5, 2, 2]));
        let q: Vec<f64> = (0..10).map(|i| f64::from(i * 3 % 10)).collect();
        let q = constant(&q, [5, 2]);
        for (alpha, beta_std) in [(0.5, 100.0), (1.0, 0.0), (0.0, 2.0)] {
            let config = PmpoConfig {
                alpha,
                beta_std,
                ..config()
            };
            gradient_check(&[0.2, -0.1, 0.4, 0.8, 0.6, 0.4, 0.9, 0.7], |x| {
                pmpo_loss(
                    &config,
                    &policy(x, [2, 2]),
                    &reference,
                    actions.clone(),
                    q.clone(),
                )
                .loss
            });
        }
    }

    /// Reference, samples and values may come out of a graph; the loss must not lead back into it.
    #[test]
    fn gradients_stop_at_reference_samples_and_values() {
        let leaf = |x: &[f64]| constant::<1>(x, [x.len()]).autodiff().require_grad();
        let (theta, behind) = (leaf(&[0.2, 0.8]), leaf(&[0.0, 0.5, 1.0, 2.0, -0.5, 0.5]));
        let reference = policy(behind.clone().slice(0..2), [1, 1]);
        let q = behind.clone().slice(2..4).reshape([2, 1]);
        let actions = behind.clone().slice(4..6).reshape([2, 1, 1]);
        let config = PmpoConfig {
            accepted: 1,
            rejected: 1,
            ..config()
        };
        let output = pmpo_loss(
            &config,
            &policy(theta.clone(), [1, 1]),
            &reference,
            actions,
            q,
        );
        let gradients = output.loss.backward();
        assert!(theta.grad(&gradients).is_some());
        assert!(behind.grad(&gradients).is_none());
    }

    #[test]
    fn refuses_contradictions_and_quotes_them() {
        let refused = |change: fn(&mut PmpoConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate(4).unwrap_err().to_string()
        };
        config().validate(4).unwrap();
        let cases = [
            (
                refused(|c| c.alpha = 1.5),
                "alpha: expected a number in [0, 1], got 1.5",
            ),
            (
                refused(|c| c.beta_std = f64::NAN),
                "beta_std: expected a finite number, at least 0, got NaN",
            ),
            (
                refused(|c| c.rejected = 0),
                "rejected: expected at least 1, since alpha is 0.5, got 0",
            ),
            (
                refused(|c| c.accepted = 3),
                "accepted + rejected: expected at most the 4 actions per state, got 3 + 2",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }

    #[test]
    #[should_panic(expected = "values must be [N, B]")]
    fn transposed_values_are_refused() {
        let gaussian = policy(constant(&[0.0, 0.0, 0.5, 0.5], [4]), [2, 1]);
        let actions = constant(&[0.0; 8], [4, 2, 1]);
        let q = constant(&[0.0; 8], [2, 4]);
        pmpo_loss(&config(), &gaussian, &gaussian, actions, q);
    }
}
