//! Configuration of the service.

use std::time::Duration;

use pmpo_replay_core::TableConfig;
use serde::{Deserialize, Serialize};

use crate::ReplayError;

/// What the service serves, and its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// The run's seed, from which the table's draws follow. No key of its own: whoever starts the
    /// service passes the run's on.
    #[serde(skip)]
    pub seed: u64,
    /// Commands that may wait for the table's thread; beyond it, streams wait to give theirs.
    pub command_queue: usize,
    /// Seconds a stream may take to send its first message.
    pub open_timeout_s: f64,
    /// The table.
    pub table: TableConfig,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            command_queue: 1_024,
            open_timeout_s: 10.0,
            table: TableConfig::default(),
        }
    }
}

const MAX_OPEN_TIMEOUT_S: f64 = 3_600.0;

impl ReplayConfig {
    /// How long a stream may take to send its first message.
    pub(crate) fn open_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.open_timeout_s)
    }

    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// The message names the field, what was expected and the value.
    pub fn validate(&self) -> Result<(), ReplayError> {
        if self.command_queue == 0 {
            return Err(ReplayError::Config(
                "command_queue: expected at least 1, got 0".to_owned(),
            ));
        }
        let timeout = self.open_timeout_s;
        if !(timeout > 0.0 && timeout <= MAX_OPEN_TIMEOUT_S) {
            let message = format!(
                "open_timeout_s: expected more than 0 and at most {MAX_OPEN_TIMEOUT_S}, got {timeout}"
            );
            return Err(ReplayError::Config(message));
        }
        Ok(self.table.validate()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_work_and_names_it() {
        assert!(ReplayConfig::default().validate().is_ok());
        let refused = |change: fn(&mut ReplayConfig)| {
            let mut config = ReplayConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let cases = [
            (
                refused(|c| c.command_queue = 0),
                "command_queue: expected at least 1, got 0",
            ),
            (
                refused(|c| c.open_timeout_s = 0.0),
                "open_timeout_s: expected more than 0 and at most 3600, got 0",
            ),
            (
                refused(|c| c.table.name.clear()),
                "table.name: expected a name, got an empty one",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }
}
