//! Configuration of the learner as a service; the update has its own.

use pmpo_replay_client::{Compression, SamplerConfig};
use pmpo_types::ConfigError;
use pmpo_update::UpdateConfig;
use serde::{Deserialize, Serialize};

/// Where the learner's data come from, what it publishes and keeps, and whom it waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LearnerConfig {
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
    /// Checkpoints kept, the newest; the best is kept beside them.
    pub checkpoints_kept: usize,
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
            table: "replay".to_owned(),
            prefetch_batches: 2,
            batch_compression: Compression::default(),
            publish_period_steps: 100,
            stats_period_steps: 100,
            checkpoint_period_s: 60.0,
            checkpoints_kept: 3,
            train_return_episodes: 20,
            lease_s: 10.0,
            shutdown_grace_s: 2.0,
        }
    }
}

impl LearnerConfig {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, update: &UpdateConfig) -> Result<(), ConfigError> {
        for (field, count) in [
            ("prefetch_batches", self.prefetch_batches as u64),
            ("publish_period_steps", self.publish_period_steps),
            ("stats_period_steps", self.stats_period_steps),
            ("checkpoints_kept", self.checkpoints_kept as u64),
            ("train_return_episodes", self.train_return_episodes as u64),
        ] {
            ConfigError::at_least_one(field, count)?;
        }
        ConfigError::positive("checkpoint_period_s", self.checkpoint_period_s)?;
        if !(0.1..=3600.0).contains(&self.lease_s) {
            let expected = "0.1 to 3600 seconds";
            return Err(ConfigError::new("lease_s", expected, self.lease_s));
        }
        if !(0.0..=3600.0).contains(&self.shutdown_grace_s) {
            let (expected, got) = ("0 to 3600 seconds", self.shutdown_grace_s);
            return Err(ConfigError::new("shutdown_grace_s", expected, got));
        }
        self.sampler(update)
            .validate()
            .map_err(|error| ConfigError::new("table and prefetch_batches", "usable ones", error))
    }

    /// How batches are drawn.
    pub(crate) fn sampler(&self, update: &UpdateConfig) -> SamplerConfig {
        SamplerConfig {
            table: self.table.clone(),
            batch_size: update.batch_size,
            prefetch_batches: self.prefetch_batches,
            compression: self.batch_compression,
            sequence_length: update.window().rows(),
            ..SamplerConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_work_and_quotes_it() {
        let update = UpdateConfig::default();
        LearnerConfig::default().validate(&update).unwrap();
        let refused = |change: fn(&mut LearnerConfig)| {
            let mut config = LearnerConfig::default();
            change(&mut config);
            config.validate(&update).unwrap_err().to_string()
        };
        assert_eq!(
            refused(|c| c.checkpoints_kept = 0),
            "checkpoints_kept: expected at least 1, got 0"
        );
        assert_eq!(
            refused(|c| c.checkpoint_period_s = f64::NAN),
            "checkpoint_period_s: expected a finite number above 0, got NaN"
        );
        assert_eq!(
            refused(|c| c.lease_s = 0.0),
            "lease_s: expected 0.1 to 3600 seconds, got 0"
        );
        assert!(refused(|c| c.table.clear()).contains("expected a name"));
    }
}
