//! The KL term of the paper's losses, `beta KL(pi_ref || pi)` (eq. 9 and 10), reference first.
//!
//! Where the reference is the behaviour that a data set was collected with, its density is not known and its
//! actions are: `KL(behaviour || pi) = -E_all[ln pi(a)]` and a constant, which is behaviour cloning (the paper,
//! "Offline RL").
//!
//! A Gaussian's KL may be decoupled into mean and standard deviation, each with a beta of its own, as
//! in MPO: with one joint KL a step that shrinks the standard deviation pays for a step of the mean.

use burn::tensor::Tensor;
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::{
    ActionDistribution, Family, Improvement, PolicyStats, categorical_kl, decoupled_kl, gaussian_kl,
};

/// Which KL, and its weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum KlPenalty {
    /// Of the distributions as they are; for every head.
    Joint(JointKl),
    /// Mean and standard deviation apart; for Gaussians.
    Decoupled(DecoupledWeights),
    /// To the behaviour that all actions of a data set come from: behaviour cloning.
    Behaviour(JointKl),
}

/// Weight of the joint KL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JointKl {
    /// Beta.
    pub beta: f64,
}

/// Weights of the decoupled KL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecoupledWeights {
    /// Weight of the KL between the means.
    pub beta_mean: f64,
    /// Weight of the KL between the standard deviations.
    pub beta_std: f64,
}

impl Default for JointKl {
    fn default() -> Self {
        Self { beta: 1.0 }
    }
}

impl Default for DecoupledWeights {
    fn default() -> Self {
        Self {
            beta_mean: 1.0,
            beta_std: 100.0,
        }
    }
}

impl Default for KlPenalty {
    fn default() -> Self {
        Self::Decoupled(DecoupledWeights::default())
    }
}

impl KlPenalty {
    /// Refuses weights that cannot be, and what the policy's head has not.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, family: Family) -> Result<(), ConfigError> {
        let betas = match self {
            Self::Joint(JointKl { beta }) | Self::Behaviour(JointKl { beta }) => {
                vec![("kl.beta", *beta)]
            }
            Self::Decoupled(_) if family == Family::Categorical => {
                let expected = "joint, since a categorical head has no mean and deviation";
                return Err(ConfigError::new("kl.kind", expected, "decoupled"));
            }
            Self::Decoupled(DecoupledWeights {
                beta_mean,
                beta_std,
            }) => vec![("kl.beta_mean", *beta_mean), ("kl.beta_std", *beta_std)],
        };
        for (field, beta) in betas {
            ConfigError::not_negative(field, beta)?;
        }
        Ok(())
    }

    /// The penalty, averaged over the states, `[1]`, and its KLs as statistics.
    ///
    /// # Panics
    /// If the distributions are not of one family, or not of the one this was validated for.
    pub(crate) fn penalty(&self, improvement: &Improvement<'_>) -> (Tensor<1>, PolicyStats) {
        use ActionDistribution::{Categorical, Gaussian};
        let [samples, batch, _] = improvement.dims();
        let per_state = |kl: Tensor<2>| improvement.weigh_rows(kl).sum() / batch as f64;
        match (self, improvement.reference, improvement.policy) {
            (Self::Joint(JointKl { beta }), Gaussian(reference), Gaussian(policy)) => {
                weighted([("kl", *beta, per_state(gaussian_kl(reference, policy)))])
            }
            (Self::Joint(JointKl { beta }), Categorical(reference), Categorical(policy)) => {
                weighted([("kl", *beta, per_state(categorical_kl(reference, policy)))])
            }
            (Self::Decoupled(weights), Gaussian(reference), Gaussian(policy)) => {
                let kl = decoupled_kl(reference, policy);
                weighted([
                    ("kl_mean", weights.beta_mean, per_state(kl.mean)),
                    ("kl_std", weights.beta_std, per_state(kl.std)),
                ])
            }
            (Self::Behaviour(JointKl { beta }), ..) => {
                let log_prob = improvement.weigh(improvement.log_prob()).sum();
                weighted([("cross_entropy", *beta, -log_prob / (samples * batch) as f64)])
            }
            _ => panic!("reference, policy and KL must be of one family"),
        }
    }
}

fn weighted<const K: usize>(
    terms: [(&'static str, f64, Tensor<1>); K],
) -> (Tensor<1>, PolicyStats) {
    let stats = terms
        .iter()
        .map(|(name, _, kl)| (*name, kl.clone().without_autodiff()))
        .collect();
    let penalty = terms
        .into_iter()
        .map(|(_, beta, kl)| kl * beta)
        .reduce(|sum, term| sum + term);
    (penalty.expect("at least one term"), stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_categorical_head_wants_the_joint_kl_and_betas_are_not_negative() {
        KlPenalty::default().validate(Family::Gaussian).unwrap();
        let message = KlPenalty::default()
            .validate(Family::Categorical)
            .unwrap_err();
        assert_eq!(
            message.to_string(),
            "kl.kind: expected joint, since a categorical head has no mean and deviation, \
             got decoupled"
        );
        let joint = KlPenalty::Joint(JointKl { beta: f64::NAN });
        let message = joint.validate(Family::Categorical).unwrap_err();
        assert_eq!(
            message.to_string(),
            "kl.beta: expected a finite number, at least 0, got NaN"
        );
    }
}
