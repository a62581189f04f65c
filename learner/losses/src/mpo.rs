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
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::{
    ActionDistribution, DiagonalGaussian, Family, Improvement, PolicyLossOutput, PolicyStats,
    categorical_kl, decoupled_kl,
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
    /// Initial temperatures, in the units of the values, that is of scaled rewards; unlike Acme's, which
    /// starts near 10 for unscaled ones.
    pub initial_temperature: f64,
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
            initial_temperature: 1.0,
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
            ("initial_temperature", self.initial_temperature),
            ("dual_learning_rate", self.dual_learning_rate),
        ] {
            ConfigError::positive(field, value)?;
        }
        for (field, value) in [
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
        let temperature = dual_variable(self.initial_temperature);
        let mut duals = vec![temperature];
        let alphas = |init: f64| std::iter::repeat_n(init as f32, bounds);
        if self.penalises(family) {
            duals.push(temperature);
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

/// The dual variable that stands for a multiplier: the inverse of the softplus.
fn dual_variable(multiplier: f64) -> f32 {
    // ln(e^m - 1), which for large m is m itself.
    (multiplier + (-(-multiplier).exp()).ln_1p()).max(LEAST_DUAL) as f32
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

    let mean = |per_state: Tensor<2>| improvement.weigh(per_state).mean();
    let values = improvement.values();
    let temperature = duals.temperature.clone();
    let (mut weights, mut loss) = e_step(values, config.epsilon, temperature, mean);
    if let Some(temperature) = duals.penalty_temperature.clone() {
        let cost = -excess(improvement.actions.clone().without_autodiff());
        let (penalty, dual) = e_step(cost, config.epsilon_penalty, temperature, mean);
        weights = weights + penalty;
        loss = loss + dual;
    }
    let mut stats = vec![("temperature", duals.temperature.clone().without_autodiff())];

    for part in parts(config, improvement, &duals) {
        let fit = (weights.clone() * part.log_prob).sum_dim(0);
        loss = loss - improvement.weigh(fit).mean();
        let kl = improvement.weigh_rows(part.kl);
        loss = loss + trust_region(kl, part.epsilon, part.alpha, part.names, &mut stats);
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

/// The non-parametric policy's weights `[N, B]`, constants, and the temperature's loss `[1]`; `mean` is over
/// the states, of `[1, B]`.
fn e_step(
    values: Tensor<2>,
    epsilon: f64,
    temperature: Tensor<1>,
    mean: impl FnOnce(Tensor<2>) -> Tensor<1>,
) -> (Tensor<2>, Tensor<1>) {
    let [samples, _] = values.dims();
    let tempered = values / temperature.clone().reshape([1, 1]);
    let weights = activation::softmax(tempered.clone().without_autodiff(), 0);
    let largest = tempered.clone().without_autodiff().max_dim(0);
    let log_sum = (tempered - largest.clone()).exp().sum_dim(0).log() + largest;
    let dual = mean(log_sum) + (epsilon - (samples as f64).ln());
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
mod tests;
