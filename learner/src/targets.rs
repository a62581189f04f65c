//! What the critic is taught: the targets of its values, and with them the experience they are made of.

use pmpo_proto::v1;
use pmpo_types::{Signature, step, transition};
use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// Longest sequence: as many steps as the Control Suite's episodes have.
const MAX_SEQUENCE_LENGTH: usize = 1000;

/// The critic's targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Targets {
    /// Of transitions: rewards over `n_step` steps and the value of the state after them, whatever
    /// policy acted in between.
    // With braces it refuses the other's keys; a unit would ignore them.
    NStep {},
    /// Of sequences: Retrace(lambda), which goes on along a sequence as far as the target policy might
    /// have acted like the one that did.
    Retrace(RetraceTargets),
}

/// Retrace, and the sequences it wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetraceTargets {
    /// How far corrections reach, in [0, 1].
    pub lambda: f64,
    /// Steps of a sequence that are learned from. One more is stored, for its observation.
    pub sequence_length: usize,
    /// Environment steps for each sequence.
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

impl RetraceTargets {
    fn validate(&self) -> Result<(), ConfigError> {
        if !(0.0..=1.0).contains(&self.lambda) {
            return Err(ConfigError::new(
                "targets.lambda",
                "a number in [0, 1]",
                self.lambda,
            ));
        }
        let length = self.sequence_length;
        if !(1..=MAX_SEQUENCE_LENGTH).contains(&length) {
            return Err(ConfigError::new(
                "targets.sequence_length",
                format!("1 to {MAX_SEQUENCE_LENGTH}"),
                length,
            ));
        }
        // With one sequence a step, those owed since an episode's beginning would never be made up for.
        let least = length.min(2);
        if !(least..=length).contains(&self.sequence_period) {
            return Err(ConfigError::new(
                "targets.sequence_period",
                format!("{least} to targets.sequence_length = {length}"),
                self.sequence_period,
            ));
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
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::NStep {} => Ok(()),
            Self::Retrace(config) => config.validate(),
        }
    }

    /// Steps that are stored for an item of the replay table.
    pub fn steps_per_item(&self) -> usize {
        match self {
            Self::NStep {} => 1,
            Self::Retrace(config) => config.sequence_length + 1,
        }
    }

    /// Environment steps for each item of the replay table.
    pub(crate) fn environment_steps_per_item(&self) -> u64 {
        match self {
            Self::NStep {} => 1,
            Self::Retrace(config) => config.sequence_period as u64,
        }
    }

    /// The columns of the replay table.
    pub(crate) fn signature(&self, observation_size: usize, action_size: usize) -> Signature {
        match self {
            Self::NStep {} => transition::signature(observation_size, action_size),
            Self::Retrace(_) => step::signature(observation_size, action_size),
        }
    }

    /// What actors are told to write.
    pub(crate) fn experience(&self, n_step: usize) -> v1::run_info::Experience {
        match self {
            Self::NStep {} => v1::run_info::Experience::NStep(n_step as u32),
            Self::Retrace(config) => v1::run_info::Experience::Sequences(v1::Sequences {
                length: config.sequence_length as u32,
                period: config.sequence_period as u32,
            }),
        }
    }
}
