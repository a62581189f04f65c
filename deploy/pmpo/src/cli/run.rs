//! What says which run it is, whether it goes on, and as whom to take part in it.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::ConfigArgs;

/// What `train` and `learner` share.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Task, as `domain-task`; with `--resume` the run's own.
    pub(crate) task: Option<String>,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Folder of the run; default: a new one under `runs/`.
    #[arg(long)]
    pub(crate) run_dir: Option<PathBuf>,
    /// Seed of the run.
    #[arg(long)]
    seed: Option<u64>,
    /// End after this many environment steps.
    #[arg(long)]
    env_steps: Option<u64>,
    /// End after this many learner steps.
    #[arg(long)]
    learner_steps: Option<u64>,
    /// End after this many minutes of training.
    #[arg(long)]
    max_minutes: Option<f64>,
    /// End when an evaluation's mean return reaches this.
    #[arg(long, allow_negative_numbers = true)]
    stop_at_return: Option<f64>,
    /// Device of the learner: cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long)]
    device: Option<String>,
    /// Go on from the newest checkpoint in the run's folder; with `auto` only if there is one.
    #[arg(
        long,
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_value = "never",
        default_missing_value = "always",
        hide_default_value = true
    )]
    resume: Resume,
}

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Resume {
    /// A new run.
    Never,
    /// The run in the folder, which must be there.
    Always,
    /// The run in the folder if there is one, else a new one.
    Auto,
}

impl RunArgs {
    /// Whether the run in the folder goes on.
    pub(crate) fn resumes(&self) -> bool {
        match (self.resume, &self.run_dir) {
            (Resume::Auto, Some(run_dir)) => pmpo_learner::checkpoint::any(run_dir),
            (Resume::Auto, None) => false,
            (resume, _) => resume == Resume::Always,
        }
    }

    /// The flags as assignments, after those of `--set`.
    pub(crate) fn assignments(&self) -> Vec<String> {
        let flags = [
            ("run.task", self.task.as_ref().map(|v| format!("\"{v}\""))),
            ("run.seed", self.seed.map(|v| v.to_string())),
            ("run.env_steps", self.env_steps.map(|v| v.to_string())),
            (
                "run.learner_steps",
                self.learner_steps.map(|v| v.to_string()),
            ),
            (
                "run.max_minutes",
                self.max_minutes.map(|v| format!("{v:?}")),
            ),
            (
                "run.stop_at_return",
                self.stop_at_return.map(|v| format!("{v:?}")),
            ),
            (
                "run.device",
                self.device.as_ref().map(|v| format!("\"{v}\"")),
            ),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        self.config.set.iter().cloned().chain(flags).collect()
    }
}

/// A number in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Index {
    /// The learner allots it.
    Auto,
    /// This one.
    Given(u64),
}

impl Index {
    pub(crate) fn given(self) -> Option<u64> {
        match self {
            Self::Auto => None,
            Self::Given(index) => Some(index),
        }
    }
}

impl FromStr for Index {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number = text.parse().map(Self::Given);
        number.map_err(|_| "expected a number or auto".to_owned())
    }
}
