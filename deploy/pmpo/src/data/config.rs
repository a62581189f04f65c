//! Configuration of what is learned from besides, or in place of, what actors bring.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use pmpo_update::{Priorities, Targets, UpdateConfig};
use serde::{Deserialize, Serialize};

/// A data set to learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DataConfig {
    /// The data set, a folder of `pmpo data`; not set: none. In lockstep only.
    pub(crate) path: Option<PathBuf>,
    /// Share of each batch that comes from it, above 0. With 1 nothing else is learned from, and nobody acts.
    pub(crate) share: f64,
    /// Bytes of its steps that are held in memory at a time. Of a larger one, episodes come and go in an order
    /// that is drawn.
    pub(crate) memory_bytes: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: None,
            share: 1.0,
            memory_bytes: 2 << 30,
        }
    }
}

impl DataConfig {
    /// Refuses what cannot be, alone or with the update.
    pub(crate) fn validate(&self, update: &UpdateConfig) -> Result<()> {
        let share = self.share;
        ensure!(
            share > 0.0 && share <= 1.0,
            "share: expected a number above 0, at most 1, got {share}"
        );
        ensure!(
            self.memory_bytes > 0,
            "memory_bytes: expected at least 1, got 0"
        );
        if self.path.is_some() {
            ensure!(
                matches!(update.targets, Targets::NStep {}),
                "path: expected no data set with update.targets.kind = retrace, for nobody knows the densities \
                 that its behaviour had"
            );
            ensure!(
                matches!(update.priorities, Priorities::None {}),
                "path: expected no data set with update.priorities.kind = td_error, for its steps are drawn \
                 alike"
            );
        }
        Ok(())
    }
}
