//! Configuration of what is learned from besides, or in place of, what actors bring.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use pmpo_losses::{JointKl, KlPenalty};
use pmpo_update::{Candidates, DataCandidates, PolicyLoss, Priorities, Targets, UpdateConfig};
use serde::{Deserialize, Serialize};

/// A data set to learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DataConfig {
    /// The data set, a folder of `pmpo data`; not set: none. In lockstep only.
    pub(crate) path: Option<PathBuf>,
    /// Share of each batch that comes from it, above 0. With 1 nothing else is learned from, and nobody acts.
    pub(crate) share: f64,
    /// Bytes of its steps that are held in memory at a time. Of a larger one, episodes come and go in an order
    /// that is drawn.
    pub(crate) memory_bytes: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: None,
            share: 1.0,
            memory_bytes: 2 << 30,
        }
    }
}

impl DataConfig {
    /// Windows of a batch that come from the data set: of a share below 1 at least one, and not all.
    pub(crate) fn windows(&self, batch_size: usize) -> usize {
        if self.share >= 1.0 {
            return batch_size;
        }
        let windows = (self.share * batch_size as f64).round() as usize;
        windows.min(batch_size - 1).max(1)
    }

    /// What there is to say of the weights of a loss over a data set of which this share is rejected.
    pub(crate) fn advice(update: &UpdateConfig, rejected: f64) -> Option<String> {
        let Candidates::Data(DataCandidates { labels: true }) = update.candidates else {
            return None;
        };
        let PolicyLoss::Pmpo(loss) = &update.policy_loss else {
            return None;
        };
        let KlPenalty::Behaviour(JointKl { beta }) = loss.kl else {
            return None;
        };
        // A rejected step counts (1 - alpha) / rejected against it and beta for it, each of all steps.
        let least = (1.0 - loss.alpha) / rejected;
        (rejected > 0.0 && beta < least).then(|| {
            format!(
                "update.policy_loss.kl.beta: {beta} is less than (1 - alpha) / (share of the steps that are \
                 rejected) = {least:.2}: where most steps are rejected, nothing holds the policy back"
            )
        })
    }

    /// Refuses what cannot be, alone or with the update.
    pub(crate) fn validate(&self, update: &UpdateConfig) -> Result<()> {
        let share = self.share;
        ensure!(
            share > 0.0 && share <= 1.0,
            "share: expected a number above 0, at most 1, got {share}"
        );
        ensure!(
            self.memory_bytes > 0,
            "memory_bytes: expected at least 1, got 0"
        );
        if self.path.is_some() {
            ensure!(
                matches!(update.targets, Targets::NStep {}),
                "path: expected no data set with update.targets.kind = retrace, for nobody knows the densities \
                 that its behaviour had"
            );
            ensure!(
                matches!(update.priorities, Priorities::None {}),
                "path: expected no data set with update.priorities.kind = td_error, for its steps are drawn \
                 alike"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pmpo_losses::PmpoConfig;

    use super::*;

    #[test]
    fn a_share_is_neither_nothing_nor_all() {
        let windows = |share| {
            let config = DataConfig {
                share,
                ..DataConfig::default()
            };
            config.windows(256)
        };
        assert_eq!([1.0, 0.5, 0.001, 0.9999].map(windows), [256, 128, 1, 255]);
    }

    /// A fifth is rejected, and alpha is 1/2: `0.5 / 0.2`.
    #[test]
    fn a_beta_that_rejection_outweighs_is_named() {
        let advice = |beta, rejected| {
            let update = UpdateConfig {
                candidates: Candidates::Data(DataCandidates::default()),
                policy_loss: PolicyLoss::Pmpo(PmpoConfig {
                    kl: KlPenalty::Behaviour(JointKl { beta }),
                    ..PmpoConfig::default()
                }),
                ..UpdateConfig::default()
            };
            DataConfig::advice(&update, rejected)
        };
        assert!(advice(2.0, 0.2).unwrap().contains("= 2.50"));
        assert_eq!(advice(2.6, 0.2), None);
        assert_eq!(advice(0.0, 0.0), None);
        assert_eq!(DataConfig::advice(&UpdateConfig::default(), 0.2), None);
    }
}
