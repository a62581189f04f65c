//! Configuration of the learner.

use pmpo_losses::{CriticLoss, Family, PolicyLoss};
use pmpo_policy::HeadConfig;
use pmpo_replay_client::{Compression, SamplerConfig};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Priorities, Targets};

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct ConfigError {
    /// The field, within its section.
    pub field: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was given.
    pub got: String,
}

impl ConfigError {
    pub(crate) fn new(
        field: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self {
            field: field.into(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

/// Everything about the update, its data and its publications. The defaults learn the Control
/// Suite's small tasks; they follow Acme's MPO where the paper is silent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LearnerConfig {
    /// Transitions in a batch, or sequences.
    pub batch_size: usize,
    /// Actions drawn from the target policy in every state of a batch.
    pub actions_per_state: usize,
    /// Adam's learning rate for the policy.
    pub policy_learning_rate: f64,
    /// Adam's learning rate for the critic.
    pub critic_learning_rate: f64,
    /// Gamma, for each control step; actors compute n-step rewards with it.
    pub discount: f64,
    /// Factor of all rewards before the critic learns from them. Preferences do not change with it;
    /// how far the critic's outputs must move, against Adam's fixed stride, does.
    pub reward_scale: f64,
    /// Control steps a transition spans; of the targets `n_step`.
    pub n_step: usize,
    /// The critic's targets.
    pub targets: Targets,
    /// Largest Euclidean norm of a network's gradient; a longer one is shortened to it. 0 leaves
    /// gradients as they are.
    pub max_gradient_norm: f64,
    /// Learner steps between copies of the online networks to the target networks. The target policy
    /// is also the reference policy of the policy's loss.
    pub target_period_steps: u64,
    /// The policy's loss.
    pub policy_loss: PolicyLoss,
    /// The critic's loss.
    pub critic_loss: CriticLoss,
    /// Who sets the priorities of the replay table's items.
    pub priorities: Priorities,
    /// Name of the replay table.
    pub table: String,
    /// Batches asked for ahead of their use.
    pub prefetch_batches: usize,
    /// How batches come over the network.
    pub batch_compression: Compression,
    /// Learner steps between publications of the policy.
    pub publish_period_steps: u64,
    /// Learner steps between readings of the losses, for metrics and for the check that all is
    /// finite (which also precedes every publication and checkpoint).
    pub stats_period_steps: u64,
    /// Seconds between checkpoints.
    pub checkpoint_period_s: f64,
    /// Checkpoints kept, the newest.
    pub checkpoints_kept: usize,
    /// Threads of the update on the CPU.
    pub threads: usize,
    /// Newest training episodes that `train_return_mean` averages.
    pub train_return_episodes: usize,
    /// Seconds that an actor or evaluator may be silent before its place in the run is given away.
    pub lease_s: f64,
    /// Seconds that connections may take to end when the learner stops, after its last checkpoint.
    pub shutdown_grace_s: f64,
}

impl Default for LearnerConfig {
    fn default() -> Self {
        Self {
            batch_size: 256,
            actions_per_state: 4,
            policy_learning_rate: 1e-3,
            critic_learning_rate: 1e-3,
            discount: 0.995,
            reward_scale: 0.1,
            n_step: 5,
            targets: Targets::default(),
            max_gradient_norm: 0.0,
            target_period_steps: 100,
            policy_loss: PolicyLoss::default(),
            critic_loss: CriticLoss::default(),
            priorities: Priorities::default(),
            table: "replay".to_owned(),
            prefetch_batches: 2,
            batch_compression: Compression::default(),
            publish_period_steps: 100,
            stats_period_steps: 100,
            checkpoint_period_s: 60.0,
            checkpoints_kept: 3,
            threads: 1,
            train_return_episodes: 20,
            lease_s: 10.0,
            shutdown_grace_s: 2.0,
        }
    }
}

impl LearnerConfig {
    /// Refuses values that cannot work, alone or with the policy's head.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, head: &HeadConfig) -> Result<(), ConfigError> {
        let counts = [
            ("batch_size", self.batch_size as u64),
            ("actions_per_state", self.actions_per_state as u64),
            ("n_step", self.n_step as u64),
            ("target_period_steps", self.target_period_steps),
            ("prefetch_batches", self.prefetch_batches as u64),
            ("publish_period_steps", self.publish_period_steps),
            ("stats_period_steps", self.stats_period_steps),
            ("checkpoints_kept", self.checkpoints_kept as u64),
            ("threads", self.threads as u64),
            ("train_return_episodes", self.train_return_episodes as u64),
        ];
        for (field, count) in counts {
            if count == 0 {
                return Err(ConfigError::new(field, "at least 1", count));
            }
        }
        let positive = [
            ("policy_learning_rate", self.policy_learning_rate),
            ("critic_learning_rate", self.critic_learning_rate),
            ("reward_scale", self.reward_scale),
            ("checkpoint_period_s", self.checkpoint_period_s),
        ];
        for (field, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(ConfigError::new(field, "a finite number above 0", value));
            }
        }
        if !(0.1..=3600.0).contains(&self.lease_s) {
            return Err(ConfigError::new(
                "lease_s",
                "0.1 to 3600 seconds",
                self.lease_s,
            ));
        }
        if !(0.0..=3600.0).contains(&self.shutdown_grace_s) {
            return Err(ConfigError::new(
                "shutdown_grace_s",
                "0 to 3600 seconds",
                self.shutdown_grace_s,
            ));
        }
        if !(0.0..=1.0).contains(&self.discount) {
            return Err(ConfigError::new(
                "discount",
                "a number in [0, 1]",
                self.discount,
            ));
        }
        if u32::try_from(self.n_step).is_err() {
            return Err(ConfigError::new("n_step", "at most 2^32 - 1", self.n_step));
        }
        if !(self.max_gradient_norm >= 0.0 && self.max_gradient_norm.is_finite()) {
            return Err(ConfigError::new(
                "max_gradient_norm",
                "a finite number, at least 0",
                self.max_gradient_norm,
            ));
        }
        self.policy_loss
            .validate(self.actions_per_state, family(head))
            .map_err(|error| nested("policy_loss", error))?;
        self.critic_loss
            .validate()
            .map_err(|error| nested("critic_loss", error))?;
        self.targets.validate()?;
        self.priorities.validate()?;
        if let (Targets::Retrace(_), CriticLoss::Categorical(_)) =
            (&self.targets, &self.critic_loss)
        {
            let expected = "n_step with critic_loss.kind = categorical, since retrace corrects values, \
                            not distributions";
            return Err(ConfigError::new("targets.kind", expected, "retrace"));
        }
        self.sampler()
            .validate()
            .map_err(|error| ConfigError::new("table and prefetch_batches", "usable ones", error))
    }

    /// How batches are drawn.
    pub(crate) fn sampler(&self) -> SamplerConfig {
        SamplerConfig {
            table: self.table.clone(),
            batch_size: self.batch_size,
            prefetch_batches: self.prefetch_batches,
            compression: self.batch_compression,
            sequence_length: self.targets.steps_per_item(),
            ..SamplerConfig::default()
        }
    }
}

/// The family of distributions that a head gives.
pub(crate) fn family(head: &HeadConfig) -> Family {
    match head {
        HeadConfig::Gaussian(_) => Family::Gaussian,
        HeadConfig::Categorical(_) => Family::Categorical,
    }
}

fn nested(section: &str, error: pmpo_losses::ConfigError) -> ConfigError {
    ConfigError {
        field: format!("{section}.{}", error.field),
        expected: error.expected,
        got: error.got,
    }
}

#[cfg(test)]
mod tests {
    use pmpo_losses::C51Config;
    use pmpo_policy::{CategoricalHead, NetworkConfig};

    use super::*;
    use crate::RetraceTargets;

    #[test]
    fn refuses_what_cannot_work_and_quotes_it() {
        let head = NetworkConfig::default().head;
        LearnerConfig::default().validate(&head).unwrap();
        let refused = |change: fn(&mut LearnerConfig)| {
            let mut config = LearnerConfig::default();
            change(&mut config);
            config.validate(&head).unwrap_err().to_string()
        };
        let cases = [
            (
                refused(|c| c.threads = 0),
                "threads: expected at least 1, got 0",
            ),
            (
                refused(|c| c.discount = 1.1),
                "discount: expected a number in [0, 1], got 1.1",
            ),
            (
                refused(|c| c.critic_learning_rate = f64::NAN),
                "critic_learning_rate: expected a finite number above 0, got NaN",
            ),
            (
                refused(|c| c.actions_per_state = 3),
                "policy_loss.preference.accepted + rejected: expected at most the 3 actions per \
                 state, got 2 + 2",
            ),
            (
                refused(|c| c.critic_loss = CriticLoss::Huber { delta: -1.0 }),
                "critic_loss.delta: expected a finite number above 0, got -1",
            ),
            (
                refused(|c| {
                    c.critic_loss = CriticLoss::Categorical(C51Config::default());
                    c.targets = Targets::Retrace(RetraceTargets::default());
                }),
                "targets.kind: expected n_step with critic_loss.kind = categorical, since retrace \
                 corrects values, not distributions, got retrace",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
        assert!(refused(|c| c.table.clear()).contains("expected a name"));
    }

    #[test]
    fn sequences_must_be_possible() {
        let head = NetworkConfig::default().head;
        let with = |lambda, sequence_length, sequence_period| {
            let targets = Targets::Retrace(RetraceTargets {
                lambda,
                sequence_length,
                sequence_period,
            });
            let config = LearnerConfig {
                targets,
                ..LearnerConfig::default()
            };
            config.validate(&head).map_err(|error| error.to_string())
        };
        for (lambda, length, period) in [(1.0, 8, 4), (0.0, 8, 8), (0.5, 1, 1), (1.0, 1000, 2)] {
            assert_eq!(with(lambda, length, period), Ok(()));
        }
        let cases = [
            (
                with(1.5, 8, 4),
                "targets.lambda: expected a number in [0, 1], got 1.5",
            ),
            (
                with(1.0, 0, 1),
                "targets.sequence_length: expected 1 to 1000, got 0",
            ),
            (
                with(1.0, 8, 9),
                "targets.sequence_period: expected 2 to targets.sequence_length = 8, got 9",
            ),
            (
                with(1.0, 8, 1),
                "targets.sequence_period: expected 2 to targets.sequence_length = 8, got 1",
            ),
        ];
        for (got, expected) in cases {
            assert_eq!(got, Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_kind_refuses_the_keys_of_another() {
        let parse = |text: &str| toml::from_str::<LearnerConfig>(text).map_err(|e| e.to_string());
        parse("critic_loss = { kind = \"huber\", delta = 2.0 }").unwrap();
        for foreign in [
            "critic_loss = { kind = \"mse\", delta = 2.0 }",
            "targets = { kind = \"n_step\", lambda = 0.5 }",
            "policy_loss = { kind = \"dpo\", alpha = 0.5 }",
        ] {
            assert!(
                parse(foreign).unwrap_err().contains("unknown field"),
                "{foreign}"
            );
        }
    }

    #[test]
    fn the_loss_must_fit_the_head() {
        let head = HeadConfig::Categorical(CategoricalHead::default());
        let message = LearnerConfig::default().validate(&head).unwrap_err();
        assert_eq!(
            message.to_string(),
            "policy_loss.kl.kind: expected joint, since a categorical head has no mean and \
             deviation, got decoupled"
        );
    }
}
