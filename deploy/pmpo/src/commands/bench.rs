//! `pmpo bench`: one station at a time.

use std::time::Duration;

use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::cli::BenchCommand;
use crate::failure::Usage;

/// Measures and prints; with `--json` one object on the last line.
pub(crate) fn bench(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Learner {
            case,
            threads,
            seconds,
            device,
            json,
        } => {
            let case = case.parse().map_err(Usage::new)?;
            let device = device.parse().map_err(Usage::new)?;
            let report = pmpo_learner::bench::run(case, threads, duration(seconds)?, device)?;
            print(json, &report)
        }
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
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}
