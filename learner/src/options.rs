//! What a learner is told when it starts, and what it tells when it ends.

use std::fmt;
use std::path::PathBuf;

use pmpo_service::security::Credentials;
use pmpo_types::EnvironmentSpec;
use pmpo_update::{AgentConfig, DeviceChoice};
use serde::{Deserialize, Serialize};

use crate::LearnerConfig;

/// A run, from the learner's side.
#[derive(Clone, Debug)]
pub struct LearnerOptions {
    /// Name of the run, for logs and actors.
    pub run_id: String,
    /// What tells it from others of its name.
    pub run_uid: String,
    /// Task, as `domain-task`.
    pub task: String,
    /// Every generator of the run is seeded from this.
    pub seed: u64,
    /// The task's observations and actions.
    pub spec: EnvironmentSpec,
    /// Networks and update.
    pub agent: AgentConfig,
    /// The service.
    pub learner: LearnerConfig,
    /// When the run ends.
    pub limits: Limits,
    /// Addresses of the replay service's shards, `host:port` each.
    pub replay_addresses: Vec<String>,
    /// What those are shown.
    pub credentials: Credentials,
    /// Folder for checkpoints, progress and curve; created if absent.
    pub run_dir: PathBuf,
    /// Go on from the newest checkpoint in `run_dir`.
    pub resume: bool,
    /// Where the update runs.
    pub device: DeviceChoice,
}

/// When a run ends; it ends at the first limit that is reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Environment steps, over all resumptions.
    pub env_steps: Option<u64>,
    /// Learner steps, over all resumptions.
    pub learner_steps: Option<u64>,
    /// Minutes since this process began to serve, waiting for data included: a resumed run gets its
    /// minutes anew.
    pub max_minutes: Option<f64>,
    /// Mean return of an evaluation.
    pub stop_at_return: Option<f64>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// [`Limits::env_steps`].
    EnvSteps,
    /// [`Limits::learner_steps`].
    LearnerSteps,
    /// [`Limits::max_minutes`].
    MaxMinutes,
    /// [`Limits::stop_at_return`], with the mean return that reached it.
    StopAtReturn(f64),
    /// It was told to stop.
    Shutdown,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnvSteps => f.write_str("reached its limit of environment steps"),
            Self::LearnerSteps => f.write_str("reached its limit of learner steps"),
            Self::MaxMinutes => f.write_str("reached its limit of minutes"),
            Self::StopAtReturn(mean) => write!(f, "reached a mean return of {mean:.1}"),
            Self::Shutdown => f.write_str("stopped"),
        }
    }
}

/// How a run ended, cleanly and with a checkpoint of its last step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunOutcome {
    /// Why.
    pub reason: EndReason,
    /// Learner steps, over all resumptions.
    pub learner_steps: u64,
    /// Environment steps, over all resumptions.
    pub env_steps: u64,
    /// The newest policy version.
    pub policy_version: u64,
    /// Seconds of training, over all resumptions.
    pub training_seconds: f64,
    /// Mean return of the newest evaluation.
    pub last_return_mean: Option<f64>,
}

impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            learner_steps,
            env_steps,
            training_seconds,
            ..
        } = self;
        write!(
            f,
            "{reason} after {env_steps} environment steps and {learner_steps} learner steps in \
             {training_seconds:.0} s"
        )?;
        if let Some(mean) = self.last_return_mean {
            write!(f, "; last evaluation {mean:.1}")?;
        }
        Ok(())
    }
}
