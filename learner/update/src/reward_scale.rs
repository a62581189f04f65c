//! What rewards are multiplied by before the critic learns from them.
//!
//! A fixed factor, or one that follows the returns (Lee et al. 2025, SimbaV2, section 4.3): with `G_t`
//! the discounted return from step `t` of an episode on,
//!
//! `1 / max(sqrt(Var G), max |G| / G_max)`,
//!
//! so that returns have about the spread of one and none leaves the support `[-G_max, G_max]` of a
//! distributional critic. Episodes are reported by whoever acts ([`EpisodeReturns`]). Preferences do
//! not change with the scale; how well they can be told apart does.

use pmpo_types::{ConfigError, EpisodeReturns};
use serde::{Deserialize, Serialize};

/// Bound of the scaled returns, as in SimbaV2.
pub(crate) const MAX_SCALED_RETURN: f64 = 5.0;

/// Newest episodes' weight in the running moments.
const NEWEST: f64 = 0.02;

/// Largest factor: what returns of less than a ten-thousandth have.
const MAX_FACTOR: f64 = 1e4;

/// The factor of rewards: a number, or `"returns"`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RewardScaleConfig {
    /// This one.
    Fixed(f64),
    /// By the returns so far.
    Running(RunningScale),
}

/// The rule by which a factor follows what is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunningScale {
    /// By the spread and the largest size of discounted returns.
    Returns,
}

impl Default for RewardScaleConfig {
    fn default() -> Self {
        Self::Fixed(0.1)
    }
}

impl RewardScaleConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Fixed(factor) => ConfigError::positive("reward_scale", *factor),
            Self::Running(RunningScale::Returns) => Ok(()),
        }
    }

    /// Bounds of the scaled returns, where rewards are within `reward_range` and are discounted by
    /// `discount`.
    pub(crate) fn return_range(&self, reward_range: [f64; 2], discount: f64) -> [f64; 2] {
        match self {
            Self::Fixed(factor) => {
                let bound = |reward: f64| {
                    // Rounded, for 0.1 / (1 - 0.995) is not quite 20.
                    let bound = factor * reward / (1.0 - discount);
                    (bound * 1e9).round() / 1e9
                };
                [
                    bound(reward_range[0].min(0.0)),
                    bound(reward_range[1].max(0.0)),
                ]
            }
            Self::Running(RunningScale::Returns) => [-MAX_SCALED_RETURN, MAX_SCALED_RETURN],
        }
    }
}

/// The factor and what it follows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RewardScale {
    config: RewardScaleConfig,
    /// Largest size of a return.
    pub(crate) largest: f64,
    /// Running mean of the returns, and of their squares.
    pub(crate) mean: f64,
    pub(crate) square: f64,
    /// Episodes taken in.
    pub(crate) episodes: u64,
}

impl RewardScale {
    pub(crate) fn new(config: RewardScaleConfig) -> Self {
        Self {
            config,
            largest: 0.0,
            mean: 0.0,
            square: 0.0,
            episodes: 0,
        }
    }

    /// An episode has ended.
    pub(crate) fn observe(&mut self, episode: &EpisodeReturns) {
        self.largest = self.largest.max(episode.largest);
        self.episodes += 1;
        // The plain mean at first, then one that forgets.
        let new = NEWEST.max(1.0 / self.episodes as f64);
        self.mean += new * (episode.mean - self.mean);
        self.square += new * (episode.square - self.square);
    }

    /// The factor now.
    pub(crate) fn factor(&self) -> f64 {
        match self.config {
            RewardScaleConfig::Fixed(factor) => factor,
            RewardScaleConfig::Running(RunningScale::Returns) => {
                if self.episodes == 0 {
                    return 1.0;
                }
                let deviation = (self.square - self.mean * self.mean).max(0.0).sqrt();
                let width = deviation.max(self.largest / MAX_SCALED_RETURN);
                1.0 / width.max(1.0 / MAX_FACTOR)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(mean: f64, square: f64, largest: f64) -> EpisodeReturns {
        EpisodeReturns {
            mean,
            square,
            largest,
        }
    }

    /// Returns of spread 3 and at most 10 are divided by 3; once one of 50 was seen, by 10.
    #[test]
    fn the_spread_counts_until_the_largest_would_leave_the_support() {
        let mut scale = RewardScale::new(RewardScaleConfig::Running(RunningScale::Returns));
        assert_eq!(scale.factor(), 1.0);
        scale.observe(&episode(4.0, 25.0, 10.0));
        assert!((scale.factor() - 1.0 / 3.0).abs() < 1e-12);
        scale.observe(&episode(4.0, 25.0, 50.0));
        assert!((scale.factor() - 0.1).abs() < 1e-12);
    }

    #[test]
    fn returns_of_nothing_are_not_divided_by_nothing() {
        let mut scale = RewardScale::new(RewardScaleConfig::Running(RunningScale::Returns));
        scale.observe(&episode(0.0, 0.0, 0.0));
        assert_eq!(scale.factor(), MAX_FACTOR);
    }

    /// Rewards of the Control Suite scaled by a tenth, discounted by 0.995: 20.
    #[test]
    fn the_range_of_returns_follows_from_scale_and_discount() {
        let fixed = RewardScaleConfig::Fixed(0.1);
        assert_eq!(fixed.return_range([0.0, 1.0], 0.995), [0.0, 20.0]);
        assert_eq!(fixed.return_range([-2.0, -1.0], 0.9), [-2.0, 0.0]);
        let running = RewardScaleConfig::Running(RunningScale::Returns);
        assert_eq!(running.return_range([0.0, 1.0], 0.995), [-5.0, 5.0]);
    }

    #[test]
    fn is_written_as_a_number_or_a_rule() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Section {
            reward_scale: RewardScaleConfig,
        }
        for (text, scale) in [
            ("reward_scale = 0.1", RewardScaleConfig::Fixed(0.1)),
            (
                "reward_scale = \"returns\"",
                RewardScaleConfig::Running(RunningScale::Returns),
            ),
        ] {
            let section: Section = toml::from_str(text).unwrap();
            assert_eq!(section.reward_scale, scale);
            assert_eq!(toml::to_string(&section).unwrap().trim(), text);
        }
        assert!(toml::from_str::<Section>("reward_scale = \"rewards\"").is_err());
    }
}
