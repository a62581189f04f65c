//! `pmpo bench`: one station at a time.

pub(crate) mod actor;
pub(crate) mod broadcast;
mod learner;
mod partner;
mod replay;
mod replay_client;

use std::time::Duration;

use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::cli::BenchCommand;
use crate::failure::Usage;
use crate::output::answer;

/// Measures and prints; with `--json` one object on the last line.
pub(crate) fn bench(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Env {
            task,
            envs,
            threads,
            seconds,
            json,
        } => {
            let options = pmpo_suite::bench::Options {
                task,
                environments: envs,
                threads,
                duration: duration(seconds)?,
            };
            anyhow::ensure!(
                (1..=envs).contains(&threads),
                Usage::new(anyhow!(
                    "--threads: expected 1 to --envs = {envs}, got {threads}"
                ))
            );
            let report = pmpo_suite::bench::run(&options).map_err(Usage::new)?;
            print(json, &EnvReport::from(report))
        }
        BenchCommand::Actor(args) => actor::run(&args),
        BenchCommand::Replay(args) => print(args.json, &replay::run(&args)?),
        BenchCommand::ReplayClient(args) => replay_client::run(&args),
        BenchCommand::Broadcast(args) => print(args.json, &broadcast::run(&args)?),
        BenchCommand::BroadcastPart(part) => broadcast::part(part),
        BenchCommand::Learner {
            case,
            threads,
            seconds,
            device,
            json,
        } => {
            let case = case.parse().map_err(Usage::new)?;
            let device = device.parse().map_err(Usage::new)?;
            let report = learner::run(case, threads, duration(seconds)?, device)?;
            print(json, &report)
        }
    }
}

/// Control steps a second, of the suite and of a bare `mj_step` loop on the same models.
#[derive(Serialize)]
struct EnvReport {
    steps_per_s: f64,
    steps_per_cpu_s: f64,
    raw_steps_per_s: f64,
    raw_steps_per_cpu_s: f64,
}

impl From<pmpo_suite::bench::Report> for EnvReport {
    fn from(report: pmpo_suite::bench::Report) -> Self {
        Self {
            steps_per_s: report.steps_per_s,
            steps_per_cpu_s: report.steps_per_cpu_s,
            raw_steps_per_s: report.raw_steps_per_s,
            raw_steps_per_cpu_s: report.raw_steps_per_cpu_s,
        }
    }
}

impl std::fmt::Display for EnvReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} steps/s, {:.0} steps/CPU-s; bare mj_step {:.0} steps/CPU-s; ratio {:.3}",
            self.steps_per_s,
            self.steps_per_cpu_s,
            self.raw_steps_per_cpu_s,
            self.steps_per_cpu_s / self.raw_steps_per_cpu_s
        )
    }
}

fn duration(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| Usage::new(anyhow!("--seconds: expected more than 0, got {seconds}")).into())
}

fn print<R: Serialize + std::fmt::Display>(json: bool, report: &R) -> Result<()> {
    if json {
        answer!("{}", serde_json::to_string(report)?)?;
    } else {
        answer!("{report}")?;
    }
    Ok(())
}
