//! `pmpo data info`: what a data set holds.

use std::path::Path;

use anyhow::Result;
use pmpo_data::DataSet;
use serde::Serialize;

use crate::failure::Usage;
use crate::output::answer;

#[derive(Serialize)]
struct Report {
    task: String,
    layout: &'static str,
    episodes: usize,
    steps: u64,
    observation_size: usize,
    action_size: usize,
    return_mean: f64,
    return_least: f64,
    return_largest: f64,
    terminated: usize,
    accepted: usize,
    rejected: usize,
}

/// Reads all of it, which is also a check of all of it.
pub(super) fn info(path: &Path, json: bool) -> Result<()> {
    let set = DataSet::open(path).map_err(Usage::new)?;
    let (mut returns, mut labels, mut terminated) = (Vec::new(), [0, 0], 0);
    for number in 0..set.len() {
        let episode = set.read(number).map_err(Usage::new)?;
        returns.push(episode.undiscounted_return());
        terminated += usize::from(episode.terminated);
        for label in episode.labels.iter().flatten() {
            labels[usize::from(!label)] += 1;
        }
    }
    let spec = set.spec();
    let report = Report {
        task: spec.task.clone(),
        layout: set.layout(),
        episodes: set.len(),
        steps: set.steps(),
        observation_size: spec.observation_size(),
        action_size: spec.action_size(),
        return_mean: returns.iter().sum::<f64>() / returns.len().max(1) as f64,
        return_least: returns.iter().copied().fold(f64::INFINITY, f64::min),
        return_largest: returns.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        terminated,
        accepted: labels[0],
        rejected: labels[1],
    };
    if json {
        answer!("{}", serde_json::to_string(&report)?)?;
        return Ok(());
    }
    answer!(
        "{} ({}): {} episodes, {} steps, observations of {}, actions of {}",
        report.task,
        report.layout,
        report.episodes,
        report.steps,
        report.observation_size,
        report.action_size
    )?;
    answer!(
        "returns {:.1} to {:.1}, mean {:.1}; {} episodes end in a termination",
        report.return_least,
        report.return_largest,
        report.return_mean,
        report.terminated
    )?;
    answer!("labels: {} accepted, {} rejected", report.accepted, report.rejected)?;
    Ok(())
}
