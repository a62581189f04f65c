//! Configuration of the update.

use pmpo_losses::{KlPenalty, PolicyLoss};
use pmpo_policy::NetworkConfig;
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::candidates::Candidates;
use crate::critic::CriticConfig;
use crate::discount::Discount;
use crate::optimizer::OptimizerConfig;
use crate::policy::{family, squashes};
use crate::priorities::Priorities;
use crate::reward_scale::RewardScaleConfig;
use crate::targets::{Targets, Window};

/// Labels need no preference by rank, whatever numbers of it are configured.
const MOST_PREFERRED: usize = 1 << 20;

/// What a learner step does. The defaults learn the Control Suite's small tasks fast on the clock; they
/// follow Acme's MPO where the paper is silent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateConfig {
    /// Windows in a batch.
    pub batch_size: usize,
    /// Actions drawn from the reference policy in every state that the policy is improved in.
    pub actions_per_state: usize,
    /// Gamma, for each step of the policy: a number, or `"episode_length"`.
    pub discount: Discount,
    /// Factor of all rewards before the critic learns from them: a number, or `"returns"`, which follows
    /// the returns. Preferences do not change with it; how far the critic's outputs must move, against
    /// Adam's fixed stride, does.
    pub reward_scale: RewardScaleConfig,
    /// Least and largest reward of a step as the environment gives it, where a distributional critic's
    /// support is derived from a fixed scale.
    pub reward_range: [f64; 2],
    /// Control steps that n-step targets span.
    pub n_step: usize,
    /// The critic's targets.
    pub targets: Targets,
    /// The actions that are compared.
    pub candidates: Candidates,
    /// The policy's loss.
    pub policy_loss: PolicyLoss,
    /// How the policy is moved.
    pub policy: OptimizerConfig,
    /// How the critics are moved.
    pub critic: OptimizerConfig,
    /// Learner steps between movements of the target critics towards the online critics.
    pub target_period_steps: u64,
    /// How far they move: 1 is a copy; less, every step, is an average that forgets (Lillicrap et al. 2016).
    pub target_share: f64,
    /// Learner steps between copies of the online policy to the reference policy, which actions are
    /// drawn from and which the policy loss's KL is to.
    pub reference_period_steps: u64,
    /// Who sets the priorities of the replay table's items.
    pub priorities: Priorities,
    /// Threads of the update on the CPU. Results do not depend on their number.
    pub threads: usize,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            batch_size: 256,
            actions_per_state: 4,
            discount: Discount::default(),
            reward_scale: RewardScaleConfig::default(),
            reward_range: [0.0, 1.0],
            n_step: 5,
            targets: Targets::default(),
            candidates: Candidates::default(),
            policy_loss: PolicyLoss::default(),
            policy: OptimizerConfig::default(),
            critic: OptimizerConfig::default(),
            target_period_steps: 100,
            target_share: 1.0,
            reference_period_steps: 100,
            priorities: Priorities::default(),
            threads: 1,
        }
    }
}

/// All that describes an update: its networks and its step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentConfig {
    /// The policy's network.
    pub policy: NetworkConfig,
    /// The critics.
    pub critic: CriticConfig,
    /// The step.
    pub update: UpdateConfig,
}

impl AgentConfig {
    /// Refuses values that cannot work, alone or together.
    ///
    /// # Errors
    /// [`ConfigError`] names the field, with its section, and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.policy
            .validate()
            .map_err(|error| error.within("policy"))?;
        self.update
            .validate(&self.policy)
            .map_err(|error| error.within("update"))?;
        self.critic
            .validate(self.update.return_range())
            .map_err(|error| error.within("critic"))?;
        let distributional = matches!(self.critic.loss, pmpo_losses::CriticLoss::Categorical(_));
        if distributional && matches!(self.update.targets, Targets::Retrace(_)) {
            let expected = "n_step with critic.loss.kind = categorical, since retrace corrects values, \
                            not distributions";
            return Err(ConfigError::new("update.targets.kind", expected, "retrace"));
        }
        Ok(())
    }
}

impl UpdateConfig {
    fn validate(&self, policy: &NetworkConfig) -> Result<(), ConfigError> {
        for (field, count) in [
            ("batch_size", self.batch_size as u64),
            ("actions_per_state", self.actions_per_state as u64),
            ("target_period_steps", self.target_period_steps),
            ("reference_period_steps", self.reference_period_steps),
            ("threads", self.threads as u64),
        ] {
            ConfigError::at_least_one(field, count)?;
        }
        self.discount.validate()?;
        ConfigError::share("target_share", self.target_share)?;
        ConfigError::positive("target_share", self.target_share)?;
        self.reward_scale.validate()?;
        let [least, largest] = self.reward_range;
        if !(least <= largest && least.is_finite() && largest.is_finite()) {
            let expected = "two finite numbers, the lower one first";
            let got = format!("{:?}", self.reward_range);
            return Err(ConfigError::new("reward_range", expected, got));
        }
        self.policy
            .validate()
            .map_err(|error| error.within("policy"))?;
        self.critic
            .validate()
            .map_err(|error| error.within("critic"))?;
        self.validate_improvement(policy)?;
        self.targets.validate(self.n_step)?;
        self.priorities.validate()
    }

    /// The actions that are compared, and what is made of the comparison.
    fn validate_improvement(&self, policy: &NetworkConfig) -> Result<(), ConfigError> {
        self.candidates.validate(&policy.head)?;
        if let (Candidates::Data(_), Targets::Retrace(_)) = (&self.candidates, &self.targets) {
            let expected =
                "n_step with candidates.kind = data, whose behaviour has no known densities";
            return Err(ConfigError::new("targets.kind", expected, "retrace"));
        }
        let refined = matches!(self.candidates, Candidates::Refined(_));
        let data = matches!(self.candidates, Candidates::Data(_));
        match &self.policy_loss {
            PolicyLoss::Pmpo(pmpo) if !data && matches!(pmpo.kl, KlPenalty::Behaviour(_)) => {
                let expected = "joint or decoupled, but with candidates.kind = data, whose actions are the \
                                behaviour's";
                return Err(ConfigError::new(
                    "policy_loss.kl.kind",
                    expected,
                    "behaviour",
                ));
            }
            PolicyLoss::Mpo(_) | PolicyLoss::Dpo(_) | PolicyLoss::Ipo(_) if data => {
                let expected = "pmpo with candidates.kind = data, which has labels and no pairs";
                let got = self.policy_loss.kind();
                return Err(ConfigError::new("policy_loss.kind", expected, got));
            }
            PolicyLoss::Mpo(_) if refined => {
                let expected =
                    "pmpo, dpo or ipo with candidates.kind = refined, which gives labels";
                return Err(ConfigError::new("policy_loss.kind", expected, "mpo"));
            }
            PolicyLoss::Mpo(mpo) if mpo.action_penalty && squashes(&policy.head) => {
                let expected = "false with policy.head.squash = true: nothing is out of range";
                return Err(ConfigError::new(
                    "policy_loss.action_penalty",
                    expected,
                    true,
                ));
            }
            PolicyLoss::Dpo(_) | PolicyLoss::Ipo(_) if refined && self.actions_per_state > 1 => {
                let expected = "1 with candidates.kind = refined, which makes a pair of each";
                return Err(ConfigError::new(
                    "actions_per_state",
                    expected,
                    self.actions_per_state,
                ));
            }
            _ => {}
        }
        // Labels compare with nothing, and each refined sample has what it is compared with.
        let samples = if refined || data {
            self.actions_per_state.max(MOST_PREFERRED)
        } else {
            self.actions_per_state
        };
        self.policy_loss
            .validate(samples, family(&policy.head))
            .map_err(|error| error.within("policy_loss"))
    }

    /// Bounds of the scaled returns.
    pub(crate) fn return_range(&self) -> [f64; 2] {
        self.reward_scale
            .return_range(self.reward_range, self.discount.gamma())
    }

    /// The windows that it learns from.
    pub fn window(&self) -> Window {
        self.targets.window(self.n_step)
    }
}

#[cfg(test)]
mod tests {
    use pmpo_losses::{C51Config, CriticLoss, IpoConfig, JointKl, PmpoConfig};
    use pmpo_policy::{CategoricalHead, HeadConfig};

    use super::*;
    use crate::{DataCandidates, RetraceTargets};

    fn refused(change: fn(&mut AgentConfig)) -> String {
        let mut config = AgentConfig::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn refuses_what_cannot_work_and_quotes_it() {
        AgentConfig::default().validate().unwrap();
        let cases = [
            (
                refused(|c| c.update.threads = 0),
                "update.threads: expected at least 1, got 0",
            ),
            (
                refused(|c| c.update.discount = Discount::Fixed(1.1)),
                "update.discount: expected a number in [0, 1], got 1.1",
            ),
            (
                refused(|c| c.update.critic.learning_rate = f64::NAN),
                "update.critic.learning_rate: expected a finite number above 0, got NaN",
            ),
            (
                refused(|c| c.update.actions_per_state = 3),
                "update.policy_loss.preference.accepted + rejected: expected at most the 3 actions \
                 per state, got 2 + 2",
            ),
            (
                refused(|c| c.critic.loss = CriticLoss::Huber { delta: -1.0 }),
                "critic.loss.delta: expected a finite number above 0, got -1",
            ),
            (
                refused(|c| {
                    let beta = JointKl::default();
                    c.update.policy_loss = PolicyLoss::Pmpo(PmpoConfig {
                        kl: KlPenalty::Behaviour(beta),
                        ..PmpoConfig::default()
                    });
                }),
                "update.policy_loss.kl.kind: expected joint or decoupled, but with candidates.kind = data, \
                 whose actions are the behaviour's, got behaviour",
            ),
            (
                refused(|c| {
                    c.update.candidates = Candidates::Data(DataCandidates::default());
                    c.update.policy_loss = PolicyLoss::Ipo(IpoConfig::default());
                }),
                "update.policy_loss.kind: expected pmpo with candidates.kind = data, which has labels and no \
                 pairs, got ipo",
            ),
            (
                refused(|c| {
                    c.update.candidates = Candidates::Data(DataCandidates::default());
                    c.update.targets = Targets::Retrace(RetraceTargets::default());
                }),
                "update.targets.kind: expected n_step with candidates.kind = data, whose behaviour has no \
                 known densities, got retrace",
            ),
            (
                refused(|c| c.critic.torso.hidden_sizes.clear()),
                "critic.torso.hidden_sizes: expected 1 to 16 layers, got 0",
            ),
            (
                refused(|c| {
                    c.critic.loss = CriticLoss::Categorical(C51Config::default());
                    c.update.targets = Targets::Retrace(RetraceTargets::default());
                }),
                "update.targets.kind: expected n_step with critic.loss.kind = categorical, since \
                 retrace corrects values, not distributions, got retrace",
            ),
            (
                refused(|c| {
                    c.critic.loss = CriticLoss::Categorical(C51Config {
                        max_value: Some(20.0),
                        ..C51Config::default()
                    });
                    c.update.reward_scale = RewardScaleConfig::Fixed(1.0);
                }),
                "critic.loss.max_value: expected at least 200, the largest return of scaled rewards, \
                 got 20",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn windows_must_be_possible() {
        let with = |lambda, sequence_length, sequence_period| {
            let mut config = AgentConfig::default();
            config.update.targets = Targets::Retrace(RetraceTargets {
                lambda,
                sequence_length,
                sequence_period,
            });
            config.validate().map_err(|error| error.to_string())
        };
        for (lambda, length, period) in [(1.0, 8, 4), (0.0, 8, 8), (0.5, 1, 1), (1.0, 1000, 1)] {
            assert_eq!(with(lambda, length, period), Ok(()));
        }
        let cases = [
            (
                with(1.5, 8, 4),
                "update.targets.lambda: expected a number in [0, 1], got 1.5",
            ),
            (
                with(1.0, 0, 1),
                "update.targets.sequence_length: expected 1 to 1000, got 0",
            ),
            (
                with(1.0, 8, 9),
                "update.targets.sequence_period: expected 1 to targets.sequence_length = 8, got 9",
            ),
        ];
        for (got, expected) in cases {
            assert_eq!(got, Err(expected.to_owned()));
        }
        assert_eq!(
            refused(|c| c.update.n_step = 0),
            "update.n_step: expected 1 to 1000, got 0"
        );
    }

    #[test]
    fn a_kind_alone_brings_its_own_defaults() {
        for kind in ["mse", "huber", "categorical"] {
            let text = format!("loss = {{ kind = \"{kind}\" }}");
            let critic = toml::from_str::<CriticConfig>(&text).unwrap();
            let config = AgentConfig {
                critic,
                ..AgentConfig::default()
            };
            assert_eq!(config.validate(), Ok(()), "{kind}");
        }
    }

    #[test]
    fn a_kind_refuses_the_keys_of_another() {
        let parse = |text: &str| toml::from_str::<UpdateConfig>(text).map_err(|e| e.to_string());
        parse("targets = { kind = \"retrace\", lambda = 0.5 }").unwrap();
        for foreign in [
            "targets = { kind = \"n_step\", lambda = 0.5 }",
            "policy_loss = { kind = \"dpo\", alpha = 0.5 }",
        ] {
            let message = parse(foreign).unwrap_err();
            assert!(message.contains("unknown field"), "{foreign}: {message}");
        }
        let foreign = "loss = { kind = \"mse\", delta = 2.0 }";
        let message = toml::from_str::<CriticConfig>(foreign)
            .unwrap_err()
            .to_string();
        assert!(message.contains("unknown field"), "{message}");
    }

    #[test]
    fn the_loss_must_fit_the_head() {
        let mut config = AgentConfig::default();
        config.policy.head = HeadConfig::Categorical(CategoricalHead::default());
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "update.policy_loss.kl.kind: expected joint, since a categorical head has no mean and \
             deviation, got decoupled"
        );
    }
}
