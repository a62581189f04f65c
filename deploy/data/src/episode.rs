//! One episode, and what makes it usable.

use std::cmp::Ordering;

use pmpo_types::{ConfigError, EnvironmentSpec};

/// One episode of T steps, in the environment's own units; O is the observation's size, A the action's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Episode {
    /// `[T + 1, O]`, flat, the fields in the specification's order; the last one is where the episode ended.
    pub observations: Vec<f32>,
    /// `[T, A]`, flat.
    pub actions: Vec<f32>,
    /// `[T]`
    pub rewards: Vec<f64>,
    /// Whether the last step ended the task; otherwise a time limit or a cut did.
    pub terminated: bool,
    /// `[T]`: accepted, rejected or neither; empty where there is no label column.
    pub labels: Vec<Option<bool>>,
}

impl Episode {
    /// T, at least 1 in an episode of a data set.
    pub fn steps(&self) -> usize {
        self.rewards.len()
    }

    /// The undiscounted sum of rewards.
    pub fn undiscounted_return(&self) -> f64 {
        self.rewards.iter().sum()
    }

    /// Refuses lengths that do not fit together and values that are not finite.
    pub(crate) fn check(&self, spec: &EnvironmentSpec) -> Result<(), ConfigError> {
        let steps = self.steps();
        ConfigError::at_least_one("steps", steps as u64)?;
        let (rows, width) = (steps + 1, spec.observation_size());
        length("observations", self.observations.len(), rows, width)?;
        length("actions", self.actions.len(), steps, spec.action_size())?;
        if !self.labels.is_empty() {
            length("labels", self.labels.len(), steps, 1)?;
        }
        finite("observations", width, &self.observations)?;
        finite("actions", spec.action_size(), &self.actions)?;
        match self.rewards.iter().position(|reward| !reward.is_finite()) {
            Some(row) => not_finite(row, "rewards", self.rewards[row]),
            None => Ok(()),
        }
    }
}

fn length(column: &str, got: usize, rows: usize, width: usize) -> Result<(), ConfigError> {
    if got == rows * width {
        return Ok(());
    }
    let expected = format!("{rows} rows of {width}");
    Err(ConfigError::new(column, expected, format!("{got} values")))
}

fn finite(column: &str, width: usize, values: &[f32]) -> Result<(), ConfigError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => not_finite(at / width, column, f64::from(values[at])),
        None => Ok(()),
    }
}

fn not_finite(row: usize, column: &str, value: f64) -> Result<(), ConfigError> {
    let place = format!("row {row} of {column}");
    Err(ConfigError::new(place, "a finite number", value))
}

/// Refuses a specification that no episode can be laid out by.
pub(crate) fn check_spec(spec: &EnvironmentSpec) -> Result<(), ConfigError> {
    ConfigError::at_least_one("observation", spec.observation.len() as u64)?;
    let mut size: usize = 0;
    for (index, field) in spec.observation.iter().enumerate() {
        ConfigError::at_least_one(&field.name, field.size as u64)?;
        size = size.saturating_add(field.size);
        if spec.observation[..index]
            .iter()
            .any(|f| f.name == field.name)
        {
            return Err(ConfigError::new(
                "observation",
                "one field of each name",
                &field.name,
            ));
        }
    }
    let expected = format!("at most {MAX_WIDTH} values");
    if size > MAX_WIDTH {
        return Err(ConfigError::new("observation", expected, size));
    }
    let (minimum, maximum) = (&spec.action.minimum, &spec.action.maximum);
    if minimum.is_empty() || minimum.len() > MAX_WIDTH || minimum.len() != maximum.len() {
        let got = format!("{} and {}", minimum.len(), maximum.len());
        return Err(ConfigError::new(
            "action",
            "as many lower as upper bounds",
            got,
        ));
    }
    for (low, high) in minimum.iter().zip(maximum) {
        if low.partial_cmp(high) != Some(Ordering::Less) {
            let got = format!("{low} and {high}");
            return Err(ConfigError::new(
                "action",
                "lower bounds below the upper ones",
                got,
            ));
        }
    }
    ConfigError::not_negative("control_timestep", spec.control_timestep)?;
    ConfigError::at_least_one("action_repeat", spec.action_repeat as u64)
}

/// Values of an observation or an action at most, so that no product of sizes overflows.
pub(crate) const MAX_WIDTH: usize = 1 << 24;
