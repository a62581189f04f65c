//! `pmpo data info`.

use std::path::Path;

use anyhow::Result;
use pmpo_data::{DataSet, Episode};
use pmpo_types::{ActionSpec, ObservationField};
use serde::Serialize;

use super::failed;
use crate::output::answer;

#[derive(Serialize)]
struct Summary<'a> {
    layout: &'static str,
    task: &'a str,
    observation: &'a [ObservationField],
    action: &'a ActionSpec,
    episodes: usize,
    steps: usize,
    terminated_episodes: usize,
    return_minimum: f64,
    return_mean: f64,
    return_maximum: f64,
    accepted_steps: usize,
    rejected_steps: usize,
}

/// Reads everything, so that what is damaged is found.
pub(super) fn info(path: &Path, json: bool) -> Result<()> {
    let data = DataSet::open(path).map_err(failed)?;
    let spec = data.spec();
    let mut summary = Summary {
        layout: data.layout(),
        task: &spec.task,
        observation: &spec.observation,
        action: &spec.action,
        episodes: data.len(),
        steps: 0,
        terminated_episodes: 0,
        return_minimum: f64::INFINITY,
        return_mean: 0.0,
        return_maximum: f64::NEG_INFINITY,
        accepted_steps: 0,
        rejected_steps: 0,
    };
    for episode in 0..data.len() {
        summary.add(&data.read(episode).map_err(failed)?);
    }
    if json {
        answer!("{}", serde_json::to_string(&summary)?)?;
        return Ok(());
    }
    summary.print()
}

impl Summary<'_> {
    fn add(&mut self, episode: &Episode) {
        let labelled = |as_what: bool| {
            let labels = episode.labels.iter();
            labels.filter(|label| **label == Some(as_what)).count()
        };
        let sum = episode.undiscounted_return();
        self.steps += episode.steps();
        self.terminated_episodes += usize::from(episode.terminated);
        self.return_minimum = self.return_minimum.min(sum);
        self.return_mean += sum / self.episodes as f64;
        self.return_maximum = self.return_maximum.max(sum);
        self.accepted_steps += labelled(true);
        self.rejected_steps += labelled(false);
    }

    fn print(&self) -> Result<()> {
        let fields = self.observation.iter();
        let fields: Vec<_> = fields
            .map(|field| format!("{} {}", field.name, field.size))
            .collect();
        answer!("{}: {}", self.task, self.layout)?;
        answer!("  observation: {}", fields.join(", "))?;
        answer!(
            "  action: {:?} to {:?}",
            self.action.minimum,
            self.action.maximum
        )?;
        answer!(
            "  {} episodes, {} of them terminated; {} steps",
            self.episodes,
            self.terminated_episodes,
            self.steps
        )?;
        answer!(
            "  return: {:.3} at least, {:.3} in the mean, {:.3} at most",
            self.return_minimum,
            self.return_mean,
            self.return_maximum
        )?;
        answer!(
            "  labels: {} steps accepted, {} rejected, {} neither",
            self.accepted_steps,
            self.rejected_steps,
            self.steps - self.accepted_steps - self.rejected_steps
        )?;
        Ok(())
    }
}
