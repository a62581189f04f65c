//! Maximum a posteriori policy optimisation (Abdolmaleki et al., 2018a; 2018b, "Relative Entropy
//! Regularized Policy Iteration"), the paper's strong baseline, with the dual variables and the action
//! penalty of Acme's `MPO` loss.
//!
//! - E-step: `q_n ∝ exp(Q(s, a_n) / eta)` over a state's samples; the temperature `eta` minimises
//!   `eta (epsilon + mean_s ln mean_n exp(Q(s, a_n) / eta))`.
//! - M-step: maximise `sum_n q_n ln pi(a_n)` under trust regions on `KL(pi_ref || pi)`. A Gaussian's is
//!   decoupled: the likelihood is taken once with the reference's standard deviation and once with its
//!   mean, and each part has its epsilon and its multiplier `alpha`, one for each dimension of the
//!   action if wished. A categorical policy has one epsilon.
//! - Samples outside the canonical range cost their distance to it, weighed by a softmax with a
//!   temperature and an epsilon of its own (Acme's `action_penalization`, after Abdolmaleki et al.,
//!   2020); bins never leave the range, so a categorical policy has none.
//!
//! A dual variable `x` stands for `softplus(x) + 1e-8`, kept above [`LEAST_DUAL`] by the optimiser's
//! owner.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::policy_loss::positive;
use crate::{
    ActionDistribution, ConfigError, DiagonalGaussian, Family, Improvement, PolicyLossOutput,
    PolicyStats, categorical_kl, decoupled_kl,
};

/// Dual variables are kept at or above this, so that they can grow again.
pub const LEAST_DUAL: f64 = -18.0;

const LEAST_MULTIPLIER: f64 = 1e-8;

/// Configuration of the MPO loss; the defaults are Acme's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MpoConfig {
    /// Bound of the E-step's KL.
    pub epsilon: f64,
    /// Bound of the KL between a Gaussian's means.
    pub epsilon_mean: f64,
    /// Bound of the KL between a Gaussian's standard deviations.
    pub epsilon_std: f64,
    /// Bound of the KL between categorical policies.
    pub epsilon_policy: f64,
    /// Whether the bounds hold for each dimension of the action, or for their sum.
    pub per_dimension: bool,
    /// Whether a Gaussian's samples outside the canonical range are penalised.
    pub action_penalty: bool,
    /// Bound of the penalty's KL.
    pub epsilon_penalty: f64,
    /// Initial dual variable of the temperatures, before the softplus.
    pub init_log_temperature: f64,
    /// Initial dual variable of the means' multiplier, or of the categorical policy's.
    pub init_log_alpha_mean: f64,
    /// Initial dual variable of the standard deviations' multiplier.
    pub init_log_alpha_std: f64,
    /// Adam's learning rate for the dual variables.
    pub dual_learning_rate: f64,
}

impl Default for MpoConfig {
    fn default() -> Self {
        Self {
            epsilon: 0.1,
            epsilon_mean: 0.0025,
            epsilon_std: 1e-6,
            epsilon_policy: 0.0025,
            per_dimension: true,
            action_penalty: true,
            epsilon_penalty: 0.001,
            init_log_temperature: 10.0,
            init_log_alpha_mean: 10.0,
            init_log_alpha_std: 1000.0,
            dual_learning_rate: 1e-2,
        }
    }
}

impl MpoConfig {
    /// Refuses what cannot be, given the number of action samples a state.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, samples: usize) -> Result<(), ConfigError> {
        if samples < 2 {
            let expected = "pmpo, since a single action has all the weight";
            let got = format!("{samples} action per state");
            return Err(ConfigError::new("kind", expected, got));
        }
        for (field, value) in [
            ("epsilon", self.epsilon),
            ("epsilon_mean", self.epsilon_mean),
            ("epsilon_std", self.epsilon_std),
            ("epsilon_policy", self.epsilon_policy),
            ("epsilon_penalty", self.epsilon_penalty),
            ("dual_learning_rate", self.dual_learning_rate),
        ] {
            positive(field, value)?;
        }
        for (field, value) in [
            ("init_log_temperature", self.init_log_temperature),
            ("init_log_alpha_mean", self.init_log_alpha_mean),
            ("init_log_alpha_std", self.init_log_alpha_std),
        ] {
            if !(value >= LEAST_DUAL && value.is_finite()) {
                let expected = format!("a finite number, at least {LEAST_DUAL}");
                return Err(ConfigError::new(field, expected, value));
            }
        }
        Ok(())
    }

    /// Initial dual variables, in the order of [`Duals`].
    pub(crate) fn initial_duals(&self, action_size: usize, family: Family) -> Vec<f32> {
        let bounds = if self.per_dimension { action_size } else { 1 };
        let mut duals = vec![self.init_log_temperature as f32];
        let alphas = |init: f64| std::iter::repeat_n(init as f32, bounds);
        if self.penalises(family) {
            duals.push(self.init_log_temperature as f32);
        }
        duals.extend(alphas(self.init_log_alpha_mean));
        if family == Family::Gaussian {
            duals.extend(alphas(self.init_log_alpha_std));
        }
        duals
    }

    fn penalises(&self, family: Family) -> bool {
        self.action_penalty && family == Family::Gaussian
    }
}

/// The dual variables one after the other, taken apart.
struct Duals {
    temperature: Tensor<1>,
    penalty_temperature: Option<Tensor<1>>,
    /// `[1, D]`, where `D` is the number of bounds; for means, or for the categorical policy.
    alpha: Tensor<2>,
    /// `[1, D]`; Gaussians only.
    alpha_std: Option<Tensor<2>>,
}

impl Duals {
    fn new(config: &MpoConfig, duals: &Tensor<1>, action_size: usize, family: Family) -> Self {
        let expected = config.initial_duals(action_size, family).len();
        assert_eq!(duals.dims(), [expected], "dual variables");
        let positive = activation::softplus(duals.clone(), 1.0) + LEAST_MULTIPLIER;
        let mut taken = 0;
        let mut take = |count: usize| {
            taken += count;
            positive.clone().slice(taken - count..taken)
        };
        let bounds = if config.per_dimension { action_size } else { 1 };
        Self {
            temperature: take(1),
            penalty_temperature: config.penalises(family).then(|| take(1)),
            alpha: take(bounds).reshape([1, bounds]),
            alpha_std: (family == Family::Gaussian).then(|| take(bounds).reshape([1, bounds])),
        }
    }
}

/// The loss of policy and dual variables in one; either's gradient is its own alone. Statistics:
/// `temperature`, the multipliers' means, and the KLs, a state's sum over the dimensions.
pub fn mpo_loss(
    config: &MpoConfig,
    improvement: &Improvement<'_>,
    duals: &Tensor<1>,
) -> PolicyLossOutput {
    let [_, _, action_size] = improvement.dims();
    let family = improvement.policy.family();
    let duals = Duals::new(config, duals, action_size, family);

    let values = improvement.values.clone().without_autodiff();
    let (mut weights, mut loss) = e_step(values, config.epsilon, duals.temperature.clone());
    if let Some(temperature) = duals.penalty_temperature.clone() {
        let cost = -excess(improvement.actions.clone().without_autodiff());
        let (penalty, dual) = e_step(cost, config.epsilon_penalty, temperature);
        weights = weights + penalty;
        loss = loss + dual;
    }
    let mut stats = vec![("temperature", duals.temperature.clone().without_autodiff())];

    for part in parts(config, improvement, &duals) {
        let fit = -(weights.clone() * part.log_prob).sum_dim(0).mean();
        loss = loss + fit + trust_region(part.kl, part.epsilon, part.alpha, part.names, &mut stats);
    }
    PolicyLossOutput { loss, stats }
}

/// A part of the policy with its own likelihood and its own trust region.
struct Part {
    /// `[N, B]`.
    log_prob: Tensor<2>,
    /// `[B, A]`.
    kl: Tensor<2>,
    epsilon: f64,
    alpha: Tensor<2>,
    /// Of the KL and of the multiplier.
    names: [&'static str; 2],
}

fn parts(config: &MpoConfig, improvement: &Improvement<'_>, duals: &Duals) -> Vec<Part> {
    let actions = improvement.actions.clone().without_autodiff();
    match (improvement.policy, improvement.reference) {
        (ActionDistribution::Gaussian(policy), ActionDistribution::Gaussian(reference)) => {
            let kl = decoupled_kl(reference, policy);
            let reference = reference.clone().detach();
            let moved_mean = DiagonalGaussian {
                mean: policy.mean.clone(),
                std: reference.std,
            };
            let moved_std = DiagonalGaussian {
                mean: reference.mean,
                std: policy.std.clone(),
            };
            let alpha_std = duals.alpha_std.clone().expect("Gaussians have two");
            vec![
                Part {
                    log_prob: moved_mean.log_prob(actions.clone()),
                    kl: kl.mean,
                    epsilon: config.epsilon_mean,
                    alpha: duals.alpha.clone(),
                    names: ["kl_mean", "alpha_mean"],
                },
                Part {
                    log_prob: moved_std.log_prob(actions),
                    kl: kl.std,
                    epsilon: config.epsilon_std,
                    alpha: alpha_std,
                    names: ["kl_std", "alpha_std"],
                },
            ]
        }
        (ActionDistribution::Categorical(policy), ActionDistribution::Categorical(reference)) => {
            vec![Part {
                log_prob: policy.log_prob(actions),
                kl: categorical_kl(reference, policy),
                epsilon: config.epsilon_policy,
                alpha: duals.alpha.clone(),
                names: ["kl", "alpha"],
            }]
        }
        _ => panic!("reference and policy must be of one family"),
    }
}

/// The non-parametric policy's weights `[N, B]`, constants, and the temperature's loss `[1]`.
fn e_step(values: Tensor<2>, epsilon: f64, temperature: Tensor<1>) -> (Tensor<2>, Tensor<1>) {
    let [samples, _] = values.dims();
    let tempered = values / temperature.clone().reshape([1, 1]);
    let weights = activation::softmax(tempered.clone().without_autodiff(), 0);
    let largest = tempered.clone().without_autodiff().max_dim(0);
    let log_sum = (tempered - largest.clone()).exp().sum_dim(0).log() + largest;
    let dual = log_sum.mean() + (epsilon - (samples as f64).ln());
    (weights, temperature * dual)
}

/// How far each action `[N, B, A]` is outside the canonical range: Euclidean, `[N, B]`.
fn excess(actions: Tensor<3>) -> Tensor<2> {
    let [samples, batch, _] = actions.dims();
    let outside = actions.clone() - actions.clamp(-1.0, 1.0);
    outside.square().sum_dim(2).sqrt().reshape([samples, batch])
}

/// `alpha KL` for the policy and `alpha (epsilon - KL)` for the multiplier, of the KLs `[B, A]`.
fn trust_region(
    kl: Tensor<2>,
    epsilon: f64,
    alpha: Tensor<2>,
    [kl_name, alpha_name]: [&'static str; 2],
    stats: &mut PolicyStats,
) -> Tensor<1> {
    let [_, bounds] = alpha.dims();
    let mean = kl.mean_dim(0);
    stats.push((kl_name, mean.clone().without_autodiff().sum()));
    stats.push((alpha_name, alpha.clone().without_autodiff().mean()));
    let mean = if bounds == 1 { mean.sum_dim(1) } else { mean };
    let penalty = alpha.clone().without_autodiff() * mean.clone();
    let dual = alpha * (-mean.without_autodiff() + epsilon);
    penalty.sum() + dual.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        assert_close, categorical, constant, gaussian, gradient_check, stat, values,
    };

    fn softplus(x: f64) -> f64 {
        x.exp().ln_1p() + LEAST_MULTIPLIER
    }

    fn config() -> MpoConfig {
        MpoConfig {
            epsilon: 0.1,
            epsilon_mean: 0.02,
            epsilon_std: 0.01,
            epsilon_policy: 0.03,
            action_penalty: false,
            ..MpoConfig::default()
        }
    }

    /// Values ln 1 and ln 3 at temperature 1: weights 1/4 and 3/4, and the temperature's loss
    /// `0.1 + ln((1 + 3) / 2)`.
    #[test]
    fn the_e_step_by_hand() {
        let q = constant(&[0.0, 3f64.ln()], [2, 1]);
        let (weights, dual) = e_step(q, 0.1, constant(&[1.0], [1]));
        assert_close(&values(weights), &[0.25, 0.75], 1e-12);
        assert_close(&values(dual), &[0.1 + 2f64.ln()], 1e-12);
    }

    /// Shifting all values shifts the temperature's loss by as much and no weight.
    #[test]
    fn the_e_step_survives_large_values() {
        let q = constant(&[1000.0, 1000.0 + 3f64.ln()], [2, 1]);
        let (weights, dual) = e_step(q, 0.1, constant(&[1.0], [1]));
        assert_close(&values(weights), &[0.25, 0.75], 1e-9);
        assert_close(&values(dual), &[1000.0 + 0.1 + 2f64.ln()], 1e-9);
    }

    /// One state, one dimension, reference N(0, 0.5), policy N(0.2, 1), samples -0.5 and 0.5 with
    /// weights 1/4 and 3/4:
    /// - d/dmu: `-(sum_n w_n (a_n - mu)) / std_ref^2 + alpha_mean mu / std_ref^2`
    ///   `= -(0.25 * -0.7 + 0.75 * 0.3) / 0.25 + 0.8 alpha_mean = -0.2 + 0.8 alpha_mean`;
    /// - d/dstd: `-(sum_n w_n (a_n - mu_ref)^2 / std^3 - 1 / std) + alpha_std (1 - 0.25)`
    ///   `= 0.75 + 0.75 alpha_std`;
    /// - d/dx of a dual: `sigmoid(x) (epsilon - KL)`.
    #[test]
    fn gradients_of_policy_and_multipliers_by_hand() {
        let reference = gaussian(constant(&[0.0, 0.5], [2]), [1, 1]);
        let temperature = (1f64 - LEAST_MULTIPLIER).exp_m1().ln();
        let x = [0.2, 1.0, temperature, 0.3, -0.4];
        let leaf = constant::<1>(&x, [5]).autodiff().require_grad();
        let improvement = Improvement {
            policy: &gaussian(leaf.clone().slice(0..2), [1, 1]),
            reference: &reference,
            actions: constant(&[-0.5, 0.5], [2, 1, 1]),
            values: constant(&[0.0, 3f64.ln()], [2, 1]),
        };
        let output = mpo_loss(&config(), &improvement, &leaf.clone().slice(2..5));
        let (kl_mean, kl_std) = (0.08, 2f64.ln() + 0.125 - 0.5);
        assert_close(&stat(&output, "temperature"), &[1.0], 1e-12);
        assert_close(&stat(&output, "kl_mean"), &[kl_mean], 1e-12);
        assert_close(&stat(&output, "kl_std"), &[kl_std], 1e-12);
        assert_close(&stat(&output, "alpha_mean"), &[softplus(0.3)], 1e-12);

        let gradients = output.loss.backward();
        let gradient = values(leaf.grad(&gradients).unwrap());
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        // d/dT of T (0.1 - ln 2 + ln(1 + 3^(1/T))) at 1: 0.1 + ln 2 - 3/4 ln 3.
        let dual = 0.1 + 2f64.ln() - 0.75 * 3f64.ln();
        let expected = [
            -0.2 + 0.8 * softplus(0.3),
            0.75 + 0.75 * softplus(-0.4),
            sigmoid(temperature) * dual,
            sigmoid(0.3) * (0.02 - kl_mean),
            sigmoid(-0.4) * (0.01 - kl_std),
        ];
        assert_close(&gradient, &expected, 1e-9);
    }

    /// The temperature's gradient is that of its own loss, for values and for the penalty.
    #[test]
    fn the_temperatures_gradients_equal_finite_differences() {
        let q = constant(&[1.0, -0.5, 2.0, 0.3, 0.1, 1.7], [3, 2]);
        gradient_check(&[0.7], |x| e_step(q.clone(), 0.1, x).1);
    }

    /// One bound for the sum of two dimensions' KLs against a bound for each.
    #[test]
    fn bounds_are_for_each_dimension_or_for_their_sum() {
        let reference = gaussian(constant(&[0.0, 0.0, 1.0, 1.0], [4]), [1, 2]);
        let policy = gaussian(constant(&[0.2, 0.4, 1.0, 1.0], [4]), [1, 2]);
        let gradient = |per_dimension: bool| {
            let config = MpoConfig {
                per_dimension,
                ..config()
            };
            let initial = vec![0.0; config.initial_duals(2, Family::Gaussian).len()];
            let duals = constant::<1>(&initial, [initial.len()])
                .autodiff()
                .require_grad();
            let improvement = Improvement {
                policy: &policy,
                reference: &reference,
                actions: constant(&[0.1, 0.2, 0.3, 0.4], [2, 1, 2]),
                values: constant(&[0.0, 1.0], [2, 1]),
            };
            let gradients = mpo_loss(&config, &improvement, &duals).loss.backward();
            values(duals.grad(&gradients).unwrap())[1..].to_vec()
        };
        // sigmoid(0) = 1/2; KLs of the means 0.02 and 0.08, of the deviations 0.
        assert_close(&gradient(true), &[0.0, -0.03, 0.005, 0.005], 1e-9);
        assert_close(&gradient(false), &[-0.04, 0.005], 1e-9);
    }

    /// Samples 0.5 and 3 outside by 0 and 2, values equal: the penalty's weights are
    /// `(1, e^-2) / (1 + e^-2)` at temperature 1, and pull the mean inwards.
    #[test]
    fn samples_outside_the_range_are_penalised() {
        let reference = gaussian(constant(&[0.0, 1.0], [2]), [1, 1]);
        let temperature = (1f64 - LEAST_MULTIPLIER).exp_m1().ln();
        let gradient = |action_penalty: bool| {
            let config = MpoConfig {
                action_penalty,
                ..config()
            };
            let count = config.initial_duals(1, Family::Gaussian).len();
            let duals = constant(&vec![temperature; count], [count]);
            gradient_check_of_mean(&config, &reference, &duals)
        };
        let far = 1.0 / (1.0 + 2f64.exp());
        let extra = -((1.0 - far) * 0.5 + far * 3.0);
        let difference = gradient(true) - gradient(false);
        assert!((difference - extra).abs() < 1e-7, "{difference}, {extra}");
    }

    fn gradient_check_of_mean(
        config: &MpoConfig,
        reference: &ActionDistribution,
        duals: &Tensor<1>,
    ) -> f64 {
        let leaf = constant::<1>(&[0.0, 1.0], [2]).autodiff().require_grad();
        let improvement = Improvement {
            policy: &gaussian(leaf.clone(), [1, 1]),
            reference,
            actions: constant(&[0.5, 3.0], [2, 1, 1]),
            values: constant(&[1.0, 1.0], [2, 1]),
        };
        let gradients = mpo_loss(config, &improvement, duals).loss.backward();
        values(leaf.grad(&gradients).unwrap())[0]
    }

    /// d/dlogits of a categorical policy: `p - q` of the fit and `alpha (p - p_ref)` of the KL.
    #[test]
    fn a_categorical_policy_by_hand() {
        let reference = categorical(constant(&[0.0, 0.0], [2]), [1, 1, 2]);
        let temperature = (1f64 - LEAST_MULTIPLIER).exp_m1().ln();
        let logits = [0.6f64.ln(), 0.4f64.ln()];
        let leaf = constant::<1>(&logits, [2]).autodiff().require_grad();
        let improvement = Improvement {
            policy: &categorical(leaf.clone(), [1, 1, 2]),
            reference: &reference,
            actions: constant(&[-1.0, 1.0], [2, 1, 1]),
            values: constant(&[0.0, 3f64.ln()], [2, 1]),
        };
        let duals = constant(&[temperature, 0.3], [2]);
        let gradients = mpo_loss(&config(), &improvement, &duals).loss.backward();
        let expected = [
            0.6 - 0.25 + softplus(0.3) * 0.1,
            0.4 - 0.75 - softplus(0.3) * 0.1,
        ];
        assert_close(&values(leaf.grad(&gradients).unwrap()), &expected, 1e-9);
    }

    #[test]
    fn there_are_as_many_duals_as_the_options_want() {
        let count = |config: MpoConfig, family| config.initial_duals(6, family).len();
        assert_eq!(count(MpoConfig::default(), Family::Gaussian), 1 + 1 + 6 + 6);
        assert_eq!(count(MpoConfig::default(), Family::Categorical), 1 + 6);
        let summed = MpoConfig {
            per_dimension: false,
            ..config()
        };
        assert_eq!(count(summed, Family::Gaussian), 1 + 1 + 1);
    }

    #[test]
    fn refuses_what_cannot_be() {
        MpoConfig::default().validate(4).unwrap();
        let message = MpoConfig {
            epsilon: 0.0,
            ..MpoConfig::default()
        };
        assert_eq!(
            message.validate(4).unwrap_err().to_string(),
            "epsilon: expected a finite number above 0, got 0"
        );
        assert!(MpoConfig::default().validate(1).is_err());
    }
}
