//! Where a run in lockstep begins, or goes on: what its checkpoints hold beside the usual.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use pmpo_actor::noise::{Noise, NoiseRepeat};
use pmpo_learner::checkpoint::{self, Checkpoints, Identity};
use pmpo_learner::encode_policy;
use pmpo_learner::progress::Progress;
use pmpo_replay_core::Table;
use pmpo_types::EnvironmentSpec;
use pmpo_update::{DeviceChoice, TrainState};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::source::TableSource;
use crate::config::Config;
use crate::data::{DataConfig, DataSource};
use crate::failure::Usage;
use crate::output::complain;
use crate::run_folder;

/// Files of a checkpoint beside the usual ones: the table, what was drawn of a data set, the policy that acts,
/// and the rest.
pub(super) const TABLE: &str = "table.bin";
pub(super) const DATA: &str = "data.bin";
pub(super) const ACTING: &str = "acting.safetensors";
pub(super) const LOCKSTEP: &str = "lockstep.bin";

/// What a checkpoint holds besides the update, the table and the policy that acts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Progressed {
    /// Environment steps.
    pub(super) env_steps: u64,
    /// Episodes begun.
    pub(super) episodes: u64,
    /// Steps, when the newest of them began, until a window begins.
    pub(super) until_window: usize,
    /// Its actions so far, as they were drawn; none between episodes.
    pub(super) actions: Vec<Vec<f32>>,
    /// The generator of their noise, before what it has yet to repeat.
    pub(super) noise: ChaCha8Rng,
    /// Returns of the episodes that ended last.
    pub(super) returns: VecDeque<f64>,
    /// Version of the policy that acts, and its learner step.
    pub(super) policy_version: u64,
    pub(super) policy_step: u64,
    /// Learner steps at the next publication and at the next evaluation.
    pub(super) next_publication: u64,
    pub(super) next_evaluation: u64,
    pub(super) evaluations: u64,
    /// Steps that the noise is yet to be repeated for. The last of all: it is not in what was written
    /// before noise could be repeated.
    pub(super) noise_left: u32,
}

impl Progressed {
    fn new(config: &Config) -> Self {
        Self {
            env_steps: 0,
            episodes: 0,
            until_window: 0,
            actions: Vec::new(),
            noise: ChaCha8Rng::seed_from_u64(0),
            returns: VecDeque::new(),
            policy_version: 1,
            policy_step: 0,
            next_publication: config.learner.publish_period_steps,
            next_evaluation: 0,
            evaluations: 0,
            noise_left: 0,
        }
    }

    /// An older file ends before [`noise_left`](Self::noise_left), which was 0 then.
    fn decode(mut bytes: Vec<u8>) -> postcard::Result<Self> {
        bytes.push(0);
        postcard::from_bytes(&bytes)
    }

    /// The noise of the actions to come.
    pub(super) fn noise(&self, config: &Config) -> Noise {
        Noise::resumed(
            config.actor.noise_repeat,
            self.noise.clone(),
            self.noise_left,
        )
    }
}

/// Where a run begins, or goes on.
pub(super) struct Start {
    pub(super) state: TrainState,
    pub(super) checkpoints: Checkpoints,
    pub(super) progress: Progress,
    pub(super) progressed: Progressed,
    pub(super) source: TableSource,
    pub(super) acting: Bytes,
    pub(super) seconds_before: f64,
}

impl Start {
    pub(super) fn fresh(
        config: &Config,
        run_dir: &Path,
        identity: &Identity,
        mut state: TrainState,
    ) -> Result<Self> {
        if let Some(from) = &config.run.from {
            state = checkpoint::networks(from, identity, state).map_err(Usage::new)?;
        }
        let source = TableSource::new(config, &identity.spec, None)?;
        if let Some(data) = &source.data {
            for returns in data.returns(config.update.discount.gamma()) {
                state.observe_episode(&returns);
            }
            if let Some(advice) = DataConfig::advice(&config.update, data.rejected()) {
                complain!("{advice}");
            }
        }
        let kept = config.learner.checkpoints_kept;
        Ok(Self {
            checkpoints: Checkpoints::create(run_dir, identity.clone(), kept)?,
            progress: Progress::create(run_dir)?,
            progressed: Progressed::new(config),
            acting: encode_policy(&config.policy, &identity.spec, &state)?,
            source,
            state,
            seconds_before: 0.0,
        })
    }

    pub(super) fn resumed(
        config: &Config,
        run_dir: &Path,
        identity: &Identity,
        state: TrainState,
    ) -> Result<Self> {
        let kept = config.learner.checkpoints_kept;
        let (checkpoints, resumed) = Checkpoints::resume(run_dir, identity.clone(), kept, state)?;
        let saved = Saved::read(config, &resumed.path, &identity.spec)?;
        Ok(Self {
            progress: Progress::resume(run_dir, resumed.totals.learner_steps)?,
            checkpoints,
            progressed: saved.progressed,
            source: saved.source,
            acting: saved.acting,
            state: resumed.state,
            seconds_before: resumed.totals.training_seconds,
        })
    }
}

/// What a checkpoint of a run in lockstep has beside the usual.
struct Saved {
    progressed: Progressed,
    source: TableSource,
    acting: Bytes,
}

impl Saved {
    fn read(config: &Config, folder: &Path, spec: &EnvironmentSpec) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).with_context(|| {
                let path = path.display();
                format!("--lockstep: expected the checkpoint of a run in lockstep, but no {path}")
            })
        };
        let path = folder.join(LOCKSTEP);
        let progressed = Progressed::decode(read(LOCKSTEP)?)
            .map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let action_size = spec.action_size();
        let period = config.update.window().period;
        let mut actions = progressed.actions.iter();
        ensure!(
            progressed.until_window < period
                && actions.all(|action| action.len() == action_size)
                && progressed.noise_left < NoiseRepeat::MAX,
            "{}: expected actions of {action_size}, a window within {period} steps and noise that ends, \
             got others",
            path.display()
        );
        let data = match config.data.path {
            Some(_) => Some(postcard::from_bytes(&read(DATA)?).with_context(|| {
                let path = folder.join(DATA);
                path.display().to_string()
            })?),
            None => None,
        };
        let source = TableSource::new(config, spec, Some((&read(TABLE)?, data)))
            .with_context(|| folder.join(TABLE).display().to_string())?;
        Ok(Self {
            progressed,
            source,
            acting: read(ACTING)?.into(),
        })
    }
}

/// The table in the folder of a checkpoint.
pub(crate) fn table(config: &Config, folder: &Path, spec: &EnvironmentSpec) -> Result<Table> {
    let path = folder.join(TABLE);
    let place = || path.display().to_string();
    let saved = fs::read(&path).with_context(|| {
        format!(
            "expected a checkpoint of a run in lockstep, but no {}",
            path.display()
        )
    })?;
    let alone = Config {
        data: DataConfig::default(),
        ..config.clone()
    };
    let source = TableSource::new(&alone, spec, Some((&saved, None))).with_context(place)?;
    Ok(source.table)
}

/// Refuses a resumption that cannot be, before anything is changed.
pub(crate) fn check(config: &Config, run_dir: &Path, spec: &EnvironmentSpec) -> Result<()> {
    let (folder, _) = checkpoint::newest(run_dir)?;
    Saved::read(config, &folder, spec).map_err(Usage::new)?;
    Ok(())
}

/// The same of a run that begins.
pub(crate) fn check_fresh(config: &Config, run_dir: &Path, spec: &EnvironmentSpec) -> Result<()> {
    DataSource::check(config, spec)?;
    let Some(from) = &config.run.from else {
        return Ok(());
    };
    let identity = Identity {
        run_id: run_folder::name(run_dir)?,
        task: config.run.task.clone(),
        seed: config.run.seed,
        spec: spec.clone(),
        agent: config.agent(),
    };
    let device = DeviceChoice::Cpu.open()?;
    let state = TrainState::new(&identity.agent, sizes(&identity), 0, &device)?;
    checkpoint::networks(from, &identity, state)
        .map_err(Usage::new)
        .context("run.from")?;
    Ok(())
}

pub(super) fn sizes(identity: &Identity) -> [usize; 2] {
    [
        identity.spec.observation_size(),
        identity.spec.action_size(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_noise_could_be_repeated_is_read() {
        let mut progressed = Progressed::new(&Config::default());
        progressed.actions = vec![vec![0.5]];
        progressed.evaluations = 3;
        for left in [0, 5, 999] {
            progressed.noise_left = left;
            let bytes = postcard::to_allocvec(&progressed).unwrap();
            let read = Progressed::decode(bytes).unwrap();
            assert_eq!((read.noise_left, read.evaluations), (left, 3));
        }
        progressed.noise_left = 0;
        let mut older = postcard::to_allocvec(&progressed).unwrap();
        older.pop();
        let read = Progressed::decode(older).unwrap();
        assert_eq!((read.noise_left, read.evaluations), (0, 3));
        assert_eq!(read.actions, [[0.5]]);
    }
}
