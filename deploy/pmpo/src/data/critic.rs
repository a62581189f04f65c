//! The critic of a run as a judge of a data set's actions.

use std::path::Path;

use anyhow::{Context, Result};
use pmpo_data::Episode;
use pmpo_learner::checkpoint::{self, Identity};
use pmpo_update::{DeviceChoice, TrainState};

use super::DataSource;
use crate::config::{Config, Source};
use crate::failure::Usage;
use crate::run_folder;

/// A critic, and how it sees a data set.
pub(crate) struct Critic {
    state: TrainState,
    source: DataSource,
}

impl Critic {
    /// The newest critic of a run, for the data set in `data`.
    pub(crate) fn load(run: &Path, data: &Path) -> Result<Self> {
        let (_, subject) = checkpoint::newest(run).map_err(Usage::new)?;
        let place = || run.display().to_string();
        let spec = subject.spec.with_context(place)?;
        let data = data
            .canonicalize()
            .with_context(|| data.display().to_string())?;
        let config = Config::for_learner(Source {
            file: Some(&run.join(run_folder::CONFIG)),
            assignments: &[
                format!("data.path={data:?}"),
                "data.share=1.0".to_owned(),
                // Episodes are given to it one by one.
                "data.memory_bytes=1".to_owned(),
            ],
            ..Source::default()
        })?;
        let identity = Identity {
            run_id: subject.run_id,
            task: subject.task,
            seed: config.run.seed,
            agent: config.agent(),
            spec,
        };
        let sizes = [
            identity.spec.observation_size(),
            identity.spec.action_size(),
        ];
        let state = TrainState::new(
            &identity.agent,
            sizes,
            identity.seed,
            &DeviceChoice::Cpu.open()?,
        )?;
        let source = DataSource::open(&config, &identity.spec, None)?;
        Ok(Self {
            state: checkpoint::networks(run, &identity, state).map_err(Usage::new)?,
            source: source.expect("the configuration has a data set"),
        })
    }

    /// The advantage of each step of an episode, [`TrainState::advantages`].
    pub(crate) fn advantages(&mut self, episode: Episode, samples: usize) -> Vec<f32> {
        let windows = self.source.windows(episode);
        self.state.advantages(&windows, samples)
    }
}
