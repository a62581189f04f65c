//! What can go wrong in the suite.

use std::fmt;
use std::path::PathBuf;

/// Error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// No task has this name.
    #[error("unknown task {name:?}{}", suggestion(.near_misses))]
    UnknownTask {
        /// The name that was asked for.
        name: String,
        /// Names of tasks that resemble it, the nearest first.
        near_misses: Vec<&'static str>,
    },
    /// The Control Suite's model files are not where they are expected.
    #[error(
        "the Control Suite's models are missing (looked in {}); run `make setup`, or beside the Python package: \
         pip install dm_control==1.0.50",
        paths(.searched)
    )]
    MissingAssets {
        /// The folders that were searched.
        searched: Vec<PathBuf>,
    },
    /// The MuJoCo library is not there.
    #[error(
        "MuJoCo's library is missing ({message}); run `make setup`, name its folder in PMPO_MUJOCO, or \
         beside the Python package: pip install mujoco=={} dm_control==1.0.50",
        crate::physics::MUJOCO_VERSION
    )]
    MissingMujoco {
        /// What the system said.
        message: String,
    },
    /// The MuJoCo library is not the version that the suite is defined by.
    #[error("MuJoCo {found} is loaded, but the suite needs {expected}; run `make setup`")]
    WrongMujoco {
        /// Version that was found.
        found: String,
        /// Version that is needed.
        expected: &'static str,
    },
    /// MuJoCo refused a model.
    #[error("model {model}: {message}")]
    Model {
        /// The model's file.
        model: String,
        /// MuJoCo's message.
        message: String,
    },
    /// A model lacks an element that its task reads.
    #[error("the model has no {kind} named {name:?}; run `make setup` to fetch the right models")]
    MissingElement {
        /// Kind of element, for example `body`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The action has the wrong number of elements.
    #[error("the action has {found} elements, but the task takes {expected}")]
    ActionSize {
        /// Number of elements received.
        found: usize,
        /// Number of elements of the task's action.
        expected: usize,
    },
    /// An element of the action is not finite or outside its bounds.
    #[error("action[{index}] is {value}, outside [{minimum}, {maximum}]")]
    ActionValue {
        /// Index of the element.
        index: usize,
        /// The value received.
        value: f64,
        /// Its lower bound.
        minimum: f64,
        /// Its upper bound.
        maximum: f64,
    },
    /// The simulation diverged: the episode is void. `reset` starts another.
    #[error(transparent)]
    Physics(#[from] PhysicsError),
    /// A task found no valid initial state.
    #[error("no collision-free initial state was found in {attempts} attempts")]
    NoInitialState {
        /// Number of attempts.
        attempts: usize,
    },
}

/// MuJoCo raised a warning, so the state of the simulation is invalid.
///
/// The counterpart of dm_control's `PhysicsError`: nothing of the episode should be learned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the physics state is invalid and the episode void; MuJoCo warned of {}", Warnings(.raised))]
pub struct PhysicsError {
    pub(crate) raised: [bool; WARNINGS.len()],
}

/// MuJoCo's names of its warnings, in the order of its `mjtWarning`.
pub(crate) const WARNINGS: [&str; 7] = [
    "mjWARN_INERTIA",
    "mjWARN_CONTACTFULL",
    "mjWARN_CNSTRFULL",
    "mjWARN_BADQPOS",
    "mjWARN_BADQVEL",
    "mjWARN_BADQACC",
    "mjWARN_BADCTRL",
];

struct Warnings<'a>(&'a [bool; WARNINGS.len()]);

impl fmt::Display for Warnings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = WARNINGS.iter().zip(self.0).filter(|(_, raised)| **raised);
        for (position, (name, _)) in names.enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{name}")?;
        }
        Ok(())
    }
}

fn suggestion(near_misses: &[&str]) -> String {
    match near_misses {
        [] => "; `pmpo tasks` lists them all".to_owned(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

fn paths(searched: &[PathBuf]) -> String {
    let shown: Vec<String> = searched
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    shown.join(", ")
}
