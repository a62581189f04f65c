//! Minari's HDF5 file: a group `episode_N` of datasets for each episode.

use std::path::Path;

use pmpo_types::{ConfigError, EnvironmentSpec};

use super::space::Part;
use super::{side_by_side, terminated};
use crate::episode::Episode;
use crate::error::{DataError, InFile};
use crate::hdf5::Hdf5;

/// The file.
#[derive(Debug)]
pub(super) struct Store(Hdf5);

impl Store {
    /// Of a file that has so many episodes.
    pub(super) fn open(path: &Path, episodes: u64) -> Result<Self, DataError> {
        let file = Hdf5::open(path)?;
        file.shape(&format!("episode_{}/rewards", episodes.saturating_sub(1)))?;
        Ok(Self(file))
    }

    pub(super) fn read(
        &self,
        episode: usize,
        spec: &EnvironmentSpec,
        parts: &[Part],
    ) -> Result<Episode, DataError> {
        let group = format!("episode_{episode}");
        let of = |name: &str| format!("{group}/{name}");
        let (steps, _) = self.0.shape(&of("rewards"))?;
        ConfigError::at_least_one(&of("rewards"), steps as u64).in_file(self.0.path())?;
        let column = |part: &Part| {
            let keys: Vec<&str> = part.keys.iter().map(String::as_str).collect();
            let name = [&[group.as_str(), "observations"], keys.as_slice()]
                .concat()
                .join("/");
            self.0.numbers(&name, 0..steps + 1, (steps + 1, part.size))
        };
        let columns = parts.iter().map(column).collect::<Result<Vec<_>, _>>()?;
        let terminations = self.0.flags(&of("terminations"), 0..steps, steps)?;
        let truncations = self.0.flags(&of("truncations"), 0..steps, steps)?;
        let read = Episode {
            observations: side_by_side(columns, parts, steps + 1),
            actions: self
                .0
                .numbers(&of("actions"), 0..steps, (steps, spec.action_size()))?,
            rewards: self.0.numbers(&of("rewards"), 0..steps, (steps, 1))?,
            terminated: terminated((&terminations, &truncations))
                .map_err(|error| error.within(&group))
                .in_file(self.0.path())?,
            labels: Vec::new(),
        };
        let checked = read.check(spec).map_err(|error| error.within(&group));
        checked.in_file(self.0.path())?;
        Ok(read)
    }
}
