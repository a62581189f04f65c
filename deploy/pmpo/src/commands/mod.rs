//! The tools around a run.

mod bandit;
mod bench;
mod certs;
mod data;
mod eval;
mod export;
mod health;
mod render;
mod tables;
mod tasks;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pmpo_figures::FigureError;

use crate::failure::{self, Usage};
use crate::output::{answer, complain};

pub(crate) use bandit::{BanditArgs, bandit};
pub(crate) use bench::actor::BenchActorArgs;
pub(crate) use bench::bench;
pub(crate) use bench::broadcast::{BroadcastBenchArgs, BroadcastPart};
pub(crate) use certs::certs;
pub(crate) use data::{DataCommand, data};
pub(crate) use eval::eval;
pub(crate) use export::{ExportArgs, export};
pub(crate) use health::health;
pub(crate) use render::render;
pub(crate) use tables::tables;
pub(crate) use tasks::tasks;

/// Draws learning curves.
pub(crate) fn plot(run_dirs: &[PathBuf], out: &Path) -> Result<()> {
    crate::curve::plot(run_dirs, out).map_err(|error| match error {
        error if error.is::<FigureError>() => error,
        error => Usage::new(error).into(),
    })?;
    answer!("{}", out.display())?;
    Ok(())
}

/// Steps one episode with given actions.
pub(crate) fn trace(task: &str, seed: u64, actions: &Path, out: &Path) -> Result<()> {
    let input = File::open(actions)
        .with_context(|| format!("--actions {}", actions.display()))
        .map_err(Usage::new)?;
    let mut trace = Vec::new();
    let left = pmpo_suite::trace::run(task, seed, input, &mut trace).map_err(Usage::new)?;
    if left > 0 {
        complain!("the episode ended before the last {left} actions, which were not taken");
    }
    pmpo_service::files::write_atomically(out, &trace).map_err(failure::storage(out))
}
