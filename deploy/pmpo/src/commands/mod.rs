//! The tools around a run.

mod bench;
mod eval;
mod tasks;

use std::path::{Path, PathBuf};

use anyhow::Result;
use pmpo_suite::Environment;

use crate::failure::Usage;

pub(crate) use bench::bench;
pub(crate) use eval::eval;
pub(crate) use tasks::tasks;

/// Loads a task; an unknown one is the caller's error, with near misses named.
pub(crate) fn load_task(task: &str, seed: u64) -> Result<Environment> {
    pmpo_suite::load(task, seed).map_err(|error| Usage::new(error).into())
}

/// Draws learning curves.
pub(crate) fn plot(run_dirs: &[PathBuf], out: &Path) -> Result<()> {
    pmpo_learner::curve::plot(run_dirs, out).map_err(Usage::new)?;
    println!("{}", out.display());
    Ok(())
}
