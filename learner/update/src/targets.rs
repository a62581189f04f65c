//! What the critic is taught: the targets of its values, and with them the windows they are made of.

use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

/// Longest window: as many steps as the Control Suite's episodes have.
const MAX_WINDOW: usize = 1000;

/// The critic's targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Targets {
    /// Rewards over `n_step` steps and the value of the state after them, whatever policy acted in
    /// between; the window's first step is learned from.
    // With braces it refuses the other's keys; a unit would ignore them.
    NStep {},
    /// Retrace(lambda), which goes on along a window as far as the target policy might have acted like
    /// the one that did; all of its steps are learned from.
    Retrace(RetraceTargets),
}

/// Retrace, and the windows it wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetraceTargets {
    /// How far corrections reach, in [0, 1].
    pub lambda: f64,
    /// Steps of a window that are learned from. One more is stored, for its observation.
    pub sequence_length: usize,
    /// Environment steps for each window.
    pub sequence_period: usize,
}

impl Default for RetraceTargets {
    fn default() -> Self {
        Self {
            lambda: 1.0,
            sequence_length: 8,
            sequence_period: 4,
        }
    }
}

/// The windows that items of the replay table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Steps of a window. Its rows are one more, for the state after the last step.
    pub steps: usize,
    /// Environment steps for each window.
    pub period: usize,
}

impl Window {
    /// Rows of a window.
    pub fn rows(&self) -> usize {
        self.steps + 1
    }
}

impl RetraceTargets {
    fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::share("targets.lambda", self.lambda)?;
        let length = self.sequence_length;
        if !(1..=MAX_WINDOW).contains(&length) {
            let expected = format!("1 to {MAX_WINDOW}");
            return Err(ConfigError::new(
                "targets.sequence_length",
                expected,
                length,
            ));
        }
        if !(1..=length).contains(&self.sequence_period) {
            let expected = format!("1 to targets.sequence_length = {length}");
            let got = self.sequence_period;
            return Err(ConfigError::new("targets.sequence_period", expected, got));
        }
        Ok(())
    }
}

impl Default for Targets {
    fn default() -> Self {
        Self::NStep {}
    }
}

impl Targets {
    /// Refuses values that cannot be.
    pub(crate) fn validate(&self, n_step: usize) -> Result<(), ConfigError> {
        if !(1..=MAX_WINDOW).contains(&n_step) {
            let expected = format!("1 to {MAX_WINDOW}");
            return Err(ConfigError::new("n_step", expected, n_step));
        }
        match self {
            Self::NStep {} => Ok(()),
            Self::Retrace(config) => config.validate(),
        }
    }

    /// The windows to learn from, with n-step targets over `n_step` steps.
    pub(crate) fn window(&self, n_step: usize) -> Window {
        match self {
            Self::NStep {} => Window {
                steps: n_step,
                period: 1,
            },
            Self::Retrace(config) => Window {
                steps: config.sequence_length,
                period: config.sequence_period,
            },
        }
    }
}
