//! One run of a sweep: what it was asked to be, and how far its folder says it has come.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pmpo_learner::{EndReason, RunOutcome};

use crate::config::Config;
use crate::train;

/// A configuration with a seed.
pub(crate) struct Job {
    pub(crate) configuration: String,
    pub(crate) seed: u64,
    pub(crate) run_dir: PathBuf,
    /// What `pmpo train` says, beside the run's folder: that one belongs to the run.
    pub(crate) log: PathBuf,
    arguments: Vec<String>,
    config: Config,
}

/// How far a run has come.
#[derive(Debug, PartialEq)]
pub(crate) enum State {
    /// Nothing that could be gone on with.
    Fresh,
    /// There is a checkpoint.
    Interrupted,
    /// It has reached a limit.
    Finished(RunOutcome),
}

impl Job {
    pub(crate) fn new(
        (configuration, seed): (&str, u64),
        out: &Path,
        arguments: Vec<String>,
        config: Config,
    ) -> Self {
        let folder = out.join(configuration);
        Self {
            configuration: configuration.to_owned(),
            seed,
            run_dir: folder.join(format!("seed-{seed}")),
            log: folder.join(format!("seed-{seed}.log")),
            arguments,
            config,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{} seed {}", self.configuration, self.seed)
    }

    /// Reads the run's folder; refuses one of other settings. Other limits are no other settings: a
    /// finished run goes on to them.
    pub(crate) fn state(&self) -> Result<State> {
        let path = self.run_dir.join("config.toml");
        if !path.is_file() {
            return Ok(State::Fresh);
        }
        let place = || path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(place)?;
        let stored: Config = toml::from_str(&text).with_context(place)?;
        let [own, stored] = [&self.config, &stored].map(without_reports);
        let same = own == stored;
        ensure!(
            same || without_limits(&own) == without_limits(&stored),
            "{}: holds a run with other settings than the sweep's file now says; move it away or \
             choose another --out",
            self.run_dir.display()
        );
        let outcome = train::read_outcome(&self.run_dir)?;
        Ok(match outcome {
            Some(outcome) if same && outcome.reason != EndReason::Shutdown => {
                State::Finished(outcome)
            }
            _ if self.has_checkpoint()? => State::Interrupted,
            _ => State::Fresh,
        })
    }

    fn has_checkpoint(&self) -> Result<bool> {
        let folder = self.run_dir.join("checkpoints");
        if !folder.is_dir() {
            return Ok(false);
        }
        let place = || folder.display().to_string();
        for entry in std::fs::read_dir(&folder).with_context(place)? {
            let name = entry.with_context(place)?.file_name();
            if name.to_string_lossy().starts_with("step-") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The arguments of `pmpo` that begin this run or go on with it.
    pub(crate) fn command(&self, state: &State) -> Vec<String> {
        let run_dir = self.run_dir.display().to_string();
        let mut command = vec!["train".to_owned(), "--run-dir".to_owned(), run_dir];
        command.extend(self.arguments.iter().cloned());
        if *state != State::Fresh {
            command.push("--resume".to_owned());
        }
        command
    }
}

/// What is told of a run is no part of it.
fn without_reports(config: &Config) -> Config {
    let mut config = config.clone();
    let (page, record) = (String::new(), false);
    (config.run.dashboard_listen, config.run.tensorboard) = (page, record);
    config
}

fn without_limits(config: &Config) -> Config {
    let mut config = config.clone();
    let run = &mut config.run;
    (run.env_steps, run.learner_steps) = (None, None);
    (run.max_minutes, run.stop_at_return) = (None, None);
    config
}
