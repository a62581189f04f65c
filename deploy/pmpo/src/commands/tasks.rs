//! `pmpo tasks`.

use anyhow::Result;
use serde::Serialize;

use crate::environments;
use crate::output::answer;

#[derive(Serialize)]
struct Row {
    name: String,
    observation_size: usize,
    action_size: usize,
    control_timestep_s: f64,
    /// Control steps of an episode; none for a task without a time limit.
    episode_length: Option<usize>,
}

/// Prints every task of the suite, as a table or as one JSON array.
pub(crate) fn tasks(json: bool) -> Result<()> {
    let mut rows = Vec::new();
    for task in pmpo_suite::tasks() {
        let environment = environments::load(task.name, 1, 0)?;
        let spec = environment.spec();
        rows.push(Row {
            name: spec.task.clone(),
            observation_size: spec.observation_size(),
            action_size: spec.action_size(),
            control_timestep_s: spec.control_timestep,
            episode_length: spec.step_limit,
        });
    }
    if json {
        answer!("{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    answer!(
        "{:width$}  observation  action  timestep_s  episode",
        "task"
    )?;
    for row in rows {
        let length = row
            .episode_length
            .map_or("-".to_owned(), |steps| steps.to_string());
        answer!(
            "{:width$}  {:>11}  {:>6}  {:>10}  {length:>7}",
            row.name,
            row.observation_size,
            row.action_size,
            row.control_timestep_s
        )?;
    }
    Ok(())
}
