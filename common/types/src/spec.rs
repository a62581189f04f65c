//! What an environment promises about its observations and actions. Follows `dm_env.specs`.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One named field of the flat observation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservationField {
    /// The task's own name of the field, for example `orientations`.
    pub name: String,
    /// Number of scalars it takes in the flat observation.
    pub size: usize,
}

/// Bounds of the action, element by element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionSpec {
    /// Lower bounds, `[action_size]`; may be infinite.
    #[serde(with = "exact")]
    pub minimum: Vec<f64>,
    /// Upper bounds, `[action_size]`; may be infinite.
    #[serde(with = "exact")]
    pub maximum: Vec<f64>,
}

/// Numbers as texts, which are read back to the bit and may be infinite; a JSON's numbers are neither.
mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &[f64], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(f64::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
        let number = |text: String| {
            let refused = |_| D::Error::custom(format!("expected a number as text, got {text:?}"));
            text.parse().map_err(refused)
        };
        Vec::<String>::deserialize(from)?
            .into_iter()
            .map(number)
            .collect()
    }
}

/// Specification of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentSpec {
    /// `domain-task`, with dashes for underscores.
    pub task: String,
    /// Fields of the flat observation, in order.
    pub observation: Vec<ObservationField>,
    /// Action bounds.
    pub action: ActionSpec,
    /// Seconds of simulated time a control step takes.
    pub control_timestep: f64,
    /// Control steps until the time limit; `None` for a task without one.
    pub step_limit: Option<usize>,
    /// Control steps for which an action is carried out, at least 1; fewer where the episode ends.
    pub action_repeat: usize,
}

/// Digest of everything a policy must agree on with its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecDigest(pub [u8; 32]);

impl EnvironmentSpec {
    /// Length of the flat observation.
    pub fn observation_size(&self) -> usize {
        self.observation.iter().map(|field| field.size).sum()
    }

    /// Length of an action.
    pub fn action_size(&self) -> usize {
        self.action.minimum.len()
    }

    /// Steps of the policy until the time limit; `None` for a task without one.
    pub fn decision_limit(&self) -> Option<usize> {
        self.step_limit
            .map(|steps| steps.div_ceil(self.action_repeat))
    }

    /// SHA-256 over the task's name, its observation fields, its action bounds, and how often an action is
    /// repeated if it is.
    pub fn digest(&self) -> SpecDigest {
        let mut hash = Sha256::new();
        hash.update(self.task.as_bytes());
        for field in &self.observation {
            hash.update([0]);
            hash.update(field.name.as_bytes());
            hash.update((field.size as u64).to_le_bytes());
        }
        for bound in self.action.minimum.iter().chain(&self.action.maximum) {
            hash.update(bound.to_le_bytes());
        }
        if self.action_repeat > 1 {
            hash.update((self.action_repeat as u64).to_le_bytes());
        }
        SpecDigest(hash.finalize().into())
    }
}
