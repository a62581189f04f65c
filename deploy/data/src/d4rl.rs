//! D4RL's layout: one HDF5 file of flat arrays over the steps of all episodes.
//!
//! An episode ends where `terminals` or `timeouts` says so. Where the file has no `next_observations`, nobody
//! recorded what the last action of an episode led to; the last observation then stands for it. All of
//! D4RL's environments take actions in [-1, 1], which the file does not say.

use std::ops::Range;
use std::path::Path;

use pmpo_types::{ActionSpec, ConfigError, EnvironmentSpec, ObservationField};

use crate::episode::{Episode, check_spec};
use crate::error::{DataError, InFile, refused};
use crate::hdf5::Hdf5;

/// An open file.
#[derive(Debug)]
pub(crate) struct D4rl {
    file: Hdf5,
    spec: EnvironmentSpec,
    /// The steps of each episode, and whether it was terminated.
    episodes: Vec<(Range<usize>, bool)>,
    steps: usize,
    has_next: bool,
}

impl D4rl {
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let file = Hdf5::open(path)?;
        let (steps, observation) = file.shape("observations")?;
        let (_, action) = file.shape("actions")?;
        ConfigError::at_least_one("observations", steps as u64).in_file(path)?;
        let terminals = file.flags("terminals", 0..steps, steps)?;
        let timeouts = file.flags("timeouts", 0..steps, steps)?;
        let mut episodes = Vec::new();
        let mut start = 0;
        for step in 0..steps {
            if terminals[step] || timeouts[step] || step + 1 == steps {
                episodes.push((start..step + 1, terminals[step]));
                start = step + 1;
            }
        }
        let spec = EnvironmentSpec {
            task: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            observation: vec![ObservationField {
                name: "observation".to_owned(),
                size: observation,
            }],
            action: ActionSpec {
                minimum: vec![-1.0; action],
                maximum: vec![1.0; action],
            },
            control_timestep: 0.0,
            step_limit: None,
            action_repeat: 1,
        };
        check_spec(&spec).in_file(path)?;
        let has_next = file.has("next_observations");
        Ok(Self {
            file,
            spec,
            episodes,
            steps,
            has_next,
        })
    }

    pub(crate) fn spec(&self) -> &EnvironmentSpec {
        &self.spec
    }

    pub(crate) fn len(&self) -> usize {
        self.episodes.len()
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps as u64
    }

    pub(crate) fn read(&self, episode: usize) -> Result<Episode, DataError> {
        let Some((rows, terminated)) = self.episodes.get(episode).cloned() else {
            let expected = format!("below {}", self.episodes.len());
            return refused(self.file.path(), "episode", expected, episode);
        };
        let width = self.spec.observation_size();
        let numbers = |name: &str, rows: Range<usize>, width: usize| {
            self.file.numbers(name, rows, (self.steps, width))
        };
        let mut observations = numbers("observations", rows.clone(), width)?;
        let last = rows.end - 1..rows.end;
        let end = match self.has_next {
            true => numbers("next_observations", last, width)?,
            false => observations[observations.len() - width..].to_vec(),
        };
        observations.extend(end);
        let read = Episode {
            observations,
            actions: numbers("actions", rows.clone(), self.spec.action_size())?,
            rewards: self
                .file
                .numbers("rewards", rows.clone(), (self.steps, 1))?,
            terminated,
            labels: Vec::new(),
        };
        let after = format!("after step {}", rows.start);
        read.check(&self.spec)
            .map_err(|error| error.within(&after))
            .in_file(self.file.path())?;
        Ok(read)
    }

    /// Its columns are of all episodes at once, which nobody has asked for as labels.
    pub(crate) fn column(&self, name: &str) -> Result<Vec<Option<bool>>, DataError> {
        refused(
            self.file.path(),
            name,
            "a layout of tables: import it first",
            "D4RL's",
        )
    }
}
