//! The whole configuration: a section a crate, and `run` for what belongs to all of them.

use anyhow::{Context, Result};
use pmpo_actor::{ActorConfig, EvaluatorConfig};
use pmpo_learner::{DeviceChoice, LearnerConfig, Limits};
use pmpo_policy::NetworkConfig;
use pmpo_replay::ReplayConfig;
use serde::{Deserialize, Serialize};

use crate::cli::ConfigArgs;
use crate::failure::Usage;

/// Every setting of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) run: RunConfig,
    pub(crate) policy: NetworkConfig,
    pub(crate) learner: LearnerConfig,
    pub(crate) replay: ReplayConfig,
    pub(crate) actor: ActorConfig,
    pub(crate) evaluator: EvaluatorConfig,
}

/// What a run is, and when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunConfig {
    /// Task, as `domain-task`.
    pub(crate) task: String,
    /// Every generator of the run is seeded from this.
    pub(crate) seed: u64,
    /// Actor processes that `train` starts.
    pub(crate) actors: u64,
    /// Device of the learner: cpu, cuda[:N] or vulkan[:N].
    pub(crate) device: String,
    /// End after this many environment steps.
    pub(crate) env_steps: Option<u64>,
    /// End after this many learner steps.
    pub(crate) learner_steps: Option<u64>,
    /// End after this many minutes of training.
    pub(crate) max_minutes: Option<f64>,
    /// End when an evaluation's mean return reaches this.
    pub(crate) stop_at_return: Option<f64>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            task: "cartpole-swingup".to_owned(),
            seed: 0,
            actors: 1,
            device: "cpu".to_owned(),
            env_steps: None,
            learner_steps: None,
            max_minutes: None,
            stop_at_return: None,
        }
    }
}

impl Config {
    /// Resolves all layers and refuses contradictions.
    pub(crate) fn load(args: &ConfigArgs) -> Result<Self> {
        Self::from_layers(args.config.as_deref(), &args.set)
    }

    /// As [`Config::load`], from a file and assignments.
    pub(crate) fn from_layers(
        file: Option<&std::path::Path>,
        assignments: &[String],
    ) -> Result<Self> {
        let config: Self = pmpo_service::config::load(file, assignments).map_err(Usage::new)?;
        config.validate().map_err(Usage::new)?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        self.run.validate().context("run")?;
        self.policy.validate().context("policy")?;
        self.learner
            .validate(&self.policy.head)
            .context("learner")?;
        self.replay.validate().context("replay")?;
        self.actor.validate().context("actor")?;
        self.evaluator.validate().context("evaluator")?;
        Ok(())
    }

    /// TOML with every key; the keys without a value are listed in comments.
    pub(crate) fn to_toml(&self) -> Result<String> {
        let mut text = toml::to_string(self)?;
        let json = serde_json::to_value(self)?;
        for (section, keys) in json.as_object().into_iter().flatten() {
            for (key, _) in keys
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, value)| value.is_null())
            {
                text.push_str(&format!("# {section}.{key} is not set\n"));
            }
        }
        Ok(text)
    }
}

impl RunConfig {
    fn validate(&self) -> Result<()> {
        anyhow::ensure!(self.actors > 0, "actors: expected at least 1, got 0");
        let minutes = self.max_minutes.unwrap_or(1.0);
        anyhow::ensure!(
            minutes > 0.0,
            "max_minutes: expected more than 0, got {minutes}"
        );
        let stop = self.stop_at_return.unwrap_or(0.0);
        anyhow::ensure!(
            stop.is_finite(),
            "stop_at_return: expected a finite number, got {stop}"
        );
        self.device()?;
        Ok(())
    }

    pub(crate) fn device(&self) -> Result<DeviceChoice> {
        self.device.parse().context("device")
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            env_steps: self.env_steps,
            learner_steps: self.learner_steps,
            max_minutes: self.max_minutes,
            stop_at_return: self.stop_at_return,
        }
    }
}
