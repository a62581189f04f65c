//! `pmpo sweep`: a list of configurations, each trained with several seeds, and drawn together.
//!
//! A run is a child process: `pmpo train`, as a user would type it, in a folder of its own. What has
//! been done is read off those folders and nowhere else, so a sweep may be interrupted at any time,
//! and the same command goes on with it.

mod figures;
mod file;
mod job;
mod results;
mod schedule;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use pmpo_service::files::write_atomically;

use crate::failure::{self, Usage};
use crate::output::tell;
use file::SweepFile;
use job::{Job, State};
use results::Results;

#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// TOML file with the configurations.
    file: PathBuf,
    /// Runs side by side.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Run only the configuration with this name; repeatable.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Stop after this many minutes; the same command goes on later.
    #[arg(long)]
    max_minutes: Option<f64>,
    /// Folder of the runs and results; default: the file's `out`, or `runs/<name of the file>`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Run nothing; collect and draw what is there.
    #[arg(long)]
    collect_only: bool,
}

/// Runs what is not finished yet, then collects and draws all of it.
pub(crate) fn run(args: &SweepArgs) -> Result<()> {
    let file = SweepFile::read(&args.file).map_err(Usage::new)?;
    ensure!(
        args.jobs > 0,
        Usage::new(anyhow!("--jobs: expected at least 1, got 0"))
    );
    let limit = args.max_minutes.map(minutes).transpose()?;
    let out = out_folder(args, &file)?;
    let jobs = file.jobs(&out).map_err(Usage::new)?;
    let names = || file.configurations.iter().map(|c| c.name.as_str());
    if let Some(unknown) = args.only.iter().find(|o| !names().any(|n| n == *o)) {
        let known = names().collect::<Vec<_>>().join(", ");
        return Err(Usage::new(anyhow!("--only {unknown}: expected one of {known}")).into());
    }
    let mut failed = Vec::new();
    if !args.collect_only {
        let mut waiting = Vec::new();
        for job in &jobs {
            let chosen = args.only.is_empty() || args.only.contains(&job.configuration);
            if chosen && !matches!(job.state().map_err(Usage::new)?, State::Finished(_)) {
                waiting.push(job);
            }
        }
        let [all, left] = [jobs.len(), waiting.len()];
        tell!("{}: {all} runs, {left} to do", out.display());
        tell!("watch them with: pmpo watch {}", out.display());
        failed = schedule::run(waiting, args.jobs, limit, || collect(&file, &jobs, &out))?;
    }
    let results = collect(&file, &jobs, &out)?;
    tell!("{}", results.markdown().trim_end());
    let left = unfinished(&jobs)?;
    if left > 0 {
        tell!("{left} of {} runs are not finished", jobs.len());
    }
    if !failed.is_empty() {
        bail!("failed runs: {}", failed.join(", "));
    }
    Ok(())
}

/// Reads all runs, and writes tables and figures.
fn collect(file: &SweepFile, jobs: &[Job], out: &Path) -> Result<Results> {
    let results = Results::collect(file, jobs)?;
    std::fs::create_dir_all(out).map_err(failure::storage(out))?;
    for (name, text) in [
        ("results.csv", results.csv()?),
        ("results.md", results.markdown()),
    ] {
        let path = out.join(name);
        write_atomically(&path, text.as_bytes()).map_err(failure::storage(&path))?;
    }
    figures::curves(file, &results).write(&out.join(&file.figure))?;
    if let Some(summary) = &file.summary {
        figures::summary(file, summary, &results).write(&out.join(&summary.figure))?;
    }
    Ok(results)
}

fn unfinished(jobs: &[Job]) -> Result<usize> {
    let states = jobs.iter().map(Job::state).collect::<Result<Vec<_>>>()?;
    let finished = |state: &&State| matches!(state, State::Finished(_));
    Ok(states.len() - states.iter().filter(finished).count())
}

fn out_folder(args: &SweepArgs, file: &SweepFile) -> Result<PathBuf> {
    if let Some(out) = args.out.as_ref().or(file.out.as_ref()) {
        return Ok(out.clone());
    }
    let name = args.file.file_stem().context("the file has no name")?;
    Ok(Path::new("runs").join(name))
}

fn minutes(minutes: f64) -> Result<Duration> {
    let error = || anyhow!("--max-minutes: expected more than 0, got {minutes}");
    Duration::try_from_secs_f64(60.0 * minutes)
        .ok()
        .filter(|limit| !limit.is_zero())
        .ok_or_else(|| Usage::new(error()).into())
}
