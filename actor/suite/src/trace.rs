//! One episode with given actions, as text, for comparing with other implementations.
//!
//! Actions come as CSV without a header, a row a control step. The trace is CSV with the header
//! `step,step_type,reward,discount,obs_0,...`: row 0 is the reset, without reward and discount, and
//! every number has the shortest form that reads back to the same f64.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use pmpo_types::TimeStep;

use crate::environment::Environment;
use crate::error::SuiteError;

/// What can go wrong with a trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The task cannot be loaded or started.
    #[error(transparent)]
    Suite(#[from] SuiteError),
    /// A row of the actions cannot be taken.
    #[error("actions, row {row}: {error}")]
    Action {
        /// Number of the row, from one.
        row: usize,
        /// What is wrong with it.
        error: SuiteError,
    },
    /// A field of the actions is not a number.
    #[error("actions, row {row}: {field:?} is not a number")]
    NotANumber {
        /// Number of the row, from one.
        row: usize,
        /// The field as it was read.
        field: String,
    },
    /// The actions cannot be read.
    #[error("cannot read the actions: {0}")]
    Read(#[source] io::Error),
    /// The trace cannot be written.
    #[error("cannot write the trace: {0}")]
    Write(#[source] io::Error),
}

/// Plays the first episode of `task` with seed `seed` until its last step or until `actions` end,
/// and writes it to `out`. All actions are checked before anything is written.
///
/// Answers how many actions were left when the episode ended.
///
/// # Errors
/// See [`TraceError`]. A diverging simulation is an error of the row that led to it.
pub fn run(
    task: &str,
    seed: u64,
    actions: impl Read,
    out: impl Write,
) -> Result<usize, TraceError> {
    let mut environment = crate::load(task, seed)?;
    let actions = read_actions(&environment, actions)?;
    let mut out = BufWriter::new(out);
    write_header(&mut out, environment.spec().observation_size()).map_err(TraceError::Write)?;
    write_row(&mut out, 0, &environment.reset()?).map_err(TraceError::Write)?;
    let mut taken = 0;
    for (index, action) in actions.iter().enumerate() {
        let row = index + 1;
        taken = row;
        let step = environment
            .step(action)
            .map_err(|error| TraceError::Action { row, error })?;
        write_row(&mut out, row, &step).map_err(TraceError::Write)?;
        if step.is_last() {
            break;
        }
    }
    out.flush().map_err(TraceError::Write)?;
    Ok(actions.len() - taken)
}

fn read_actions(
    environment: &Environment,
    actions: impl Read,
) -> Result<Vec<Vec<f64>>, TraceError> {
    let mut rows = Vec::new();
    for (index, line) in BufReader::new(actions).lines().enumerate() {
        let row = index + 1;
        let line = line.map_err(TraceError::Read)?;
        let action: Result<Vec<f64>, TraceError> = line
            .split(',')
            .map(|field| {
                let not_a_number = |_| TraceError::NotANumber {
                    row,
                    field: field.to_owned(),
                };
                field.trim().parse().map_err(not_a_number)
            })
            .collect();
        let action = action?;
        environment
            .check(&action)
            .map_err(|error| TraceError::Action { row, error })?;
        rows.push(action);
    }
    Ok(rows)
}

fn write_header(out: &mut impl Write, observation_size: usize) -> io::Result<()> {
    write!(out, "step,step_type,reward,discount")?;
    for index in 0..observation_size {
        write!(out, ",obs_{index}")?;
    }
    writeln!(out)
}

fn write_row(out: &mut impl Write, index: usize, step: &TimeStep<'_>) -> io::Result<()> {
    write!(out, "{index},{}", step.step_type.as_str())?;
    for value in [step.reward, step.discount] {
        match value {
            Some(value) => write!(out, ",{value:?}")?,
            None => write!(out, ",")?,
        }
    }
    for value in step.observation {
        write!(out, ",{value:?}")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(task: &str, actions: &str) -> Result<String, TraceError> {
        let mut out = Vec::new();
        run(task, 1, actions.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).expect("ascii"))
    }

    #[test]
    fn a_trace_has_the_reset_and_a_row_for_each_action() {
        let text = trace("cartpole-swingup", "0.5\n-1\n 1e-3\n").unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "step,step_type,reward,discount,obs_0,obs_1,obs_2,obs_3,obs_4"
        );
        assert!(lines[1].starts_with("0,FIRST,,,"));
        assert!(lines[2].starts_with("1,MID,") && lines[2].split(',').nth(3) == Some("1.0"));
        assert_eq!(lines.len(), 5);
        for field in lines[3].split(',').skip(2) {
            let value: f64 = field.parse().unwrap();
            assert_eq!(format!("{value:?}"), field);
        }
    }

    #[test]
    fn a_trace_ends_with_the_episode() {
        let text = trace("cartpole-balance", &"0\n".repeat(1200)).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("1000,LAST,") && last.split(',').nth(3) == Some("1.0"));
    }

    #[test]
    fn bad_actions_are_refused_with_their_row_before_anything_is_written() {
        for (actions, message) in [
            (
                "0\n1.5\n",
                "actions, row 2: action[0] is 1.5, outside [-1, 1]",
            ),
            ("NaN\n", "actions, row 1: action[0] is NaN, outside [-1, 1]"),
            (
                "0,0\n",
                "actions, row 1: the action has 2 elements, but the task takes 1",
            ),
            ("0\nleft\n", "actions, row 2: \"left\" is not a number"),
            ("0\n\n0\n", "actions, row 2: \"\" is not a number"),
        ] {
            let mut out = Vec::new();
            let error = run("cartpole-swingup", 1, actions.as_bytes(), &mut out).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(out.is_empty());
        }
    }

    #[test]
    fn an_unknown_task_is_refused_with_near_misses() {
        let error = trace("cartpol-swingup", "").unwrap_err().to_string();
        assert!(error.contains("did you mean cartpole-swingup"), "{error}");
    }
}
