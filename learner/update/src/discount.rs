//! Gamma: a number, or a rule that takes it from the task (Hansen et al. 2024, TD-MPC2, whose rule SimBa,
//! SimbaV2 and XQC use).
//!
//! With `T` the decisions of an episode, its control steps over those that an action is repeated for,
//!
//! `gamma = clip((T/5 - 1) / (T/5), 0.95, 0.995)`,
//!
//! a horizon of a fifth of the episode: 0.995 for 1000 decisions, 0.99 for 500. The rule gives way to its
//! number where a configuration meets a task; what learns, and what a run records, is the number alone.

use pmpo_types::{ConfigError, EnvironmentSpec};
use serde::{Deserialize, Serialize};

/// Horizons in an episode, and the least and the largest gamma.
const HORIZONS: f64 = 5.0;
const LEAST: f64 = 0.95;
const LARGEST: f64 = 0.995;

/// Gamma, for each step of the policy: a number, or `"episode_length"`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Discount {
    /// This one.
    Fixed(f64),
    /// By what the task is.
    Rule(DiscountRule),
}

/// What gamma is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscountRule {
    /// The decisions of an episode.
    EpisodeLength,
}

impl Default for Discount {
    fn default() -> Self {
        Self::Fixed(0.995)
    }
}

impl Discount {
    /// The number that it is in a task.
    ///
    /// # Errors
    /// The task's episodes have no length.
    pub fn resolved(self, spec: &EnvironmentSpec) -> Result<Self, ConfigError> {
        match self {
            Self::Fixed(_) => Ok(self),
            Self::Rule(DiscountRule::EpisodeLength) => {
                let decisions = spec.decision_limit().ok_or_else(|| {
                    let expected = format!("a number, since {} has no time limit", spec.task);
                    ConfigError::new("update.discount", expected, "episode_length")
                })?;
                let horizon = decisions as f64 / HORIZONS;
                let gamma = (horizon - 1.0) / horizon;
                Ok(Self::Fixed(gamma.clamp(LEAST, LARGEST)))
            }
        }
    }

    pub(crate) fn validate(self) -> Result<(), ConfigError> {
        match self {
            Self::Fixed(gamma) => ConfigError::share("discount", gamma),
            Self::Rule(DiscountRule::EpisodeLength) => {
                let expected = "a number where no task is known";
                Err(ConfigError::new("discount", expected, "episode_length"))
            }
        }
    }

    /// Gamma.
    ///
    /// # Panics
    /// If it is a rule yet, which a configuration's validation refuses.
    pub fn gamma(self) -> f64 {
        match self {
            Self::Fixed(gamma) => gamma,
            Self::Rule(_) => panic!("update.discount is a number once it is validated"),
        }
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::ActionSpec;

    use super::*;

    fn task(step_limit: Option<usize>, action_repeat: usize) -> EnvironmentSpec {
        EnvironmentSpec {
            task: "walker-run".to_owned(),
            observation: vec![],
            action: ActionSpec {
                minimum: vec![],
                maximum: vec![],
            },
            control_timestep: 0.025,
            step_limit,
            action_repeat,
        }
    }

    #[test]
    fn follows_the_decisions_of_an_episode_within_bounds() {
        let rule = Discount::Rule(DiscountRule::EpisodeLength);
        for (control_steps, repeat, gamma) in [
            (1000, 1, 0.995),
            (1000, 2, 0.99),
            (1000, 4, 0.98),
            (250, 1, 0.98),
            // 501 decisions, the last of a single control step.
            (1001, 2, 1.0 - 5.0 / 501.0),
            (4000, 1, 0.995),
            (5, 1, 0.95),
            (1, 1, 0.95),
        ] {
            let resolved = rule.resolved(&task(Some(control_steps), repeat)).unwrap();
            let got = resolved.gamma();
            assert!(
                (got - gamma).abs() < 1e-15,
                "{control_steps}, {repeat}: {got}"
            );
            resolved.validate().unwrap();
        }
        let fixed = Discount::Fixed(0.9);
        assert_eq!(fixed.resolved(&task(None, 1)), Ok(fixed));
    }

    #[test]
    fn a_rule_needs_a_task_with_a_time_limit() {
        let rule = Discount::Rule(DiscountRule::EpisodeLength);
        assert_eq!(
            rule.resolved(&task(None, 1)).unwrap_err().to_string(),
            "update.discount: expected a number, since walker-run has no time limit, got episode_length"
        );
        assert_eq!(
            rule.validate().unwrap_err().to_string(),
            "discount: expected a number where no task is known, got episode_length"
        );
    }
}
