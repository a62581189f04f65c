//! What a domain implements, and what the environment is built from.

use crate::error::SuiteError;
use crate::numpy::RandomState;
use crate::observation::Observation;
use crate::physics::Physics;

/// A control problem on a model. Source: dm_control's `suite/base.py` and `rl/control.py`.
pub(crate) trait Task: Send {
    /// Draws the initial state. The physics was reset before the call, and everything that depends
    /// on the state is recomputed after it.
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError>;

    /// Writes the observation, fields in dm_control's order.
    fn observe(&self, physics: &Physics, observation: &mut Observation);

    /// The reward of the transition into the present state.
    fn reward(&self, physics: &Physics) -> f64;

    /// The final discount if the task itself ends the episode here.
    fn termination(&self, _physics: &Physics) -> Option<f64> {
        None
    }
}

/// A task with its model and its timing.
pub(crate) struct Setup {
    pub(crate) physics: Physics,
    pub(crate) task: Box<dyn Task>,
    pub(crate) timing: Timing,
}

/// Durations of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Seconds until the time limit; infinite for none.
    pub(crate) time_limit: f64,
    /// Seconds between actions; `None` for the model's own timestep.
    pub(crate) control_timestep: Option<f64>,
}

impl Timing {
    /// One action each step of the model.
    pub(crate) fn limit(time_limit: f64) -> Self {
        Self {
            time_limit,
            control_timestep: None,
        }
    }

    /// One action each `control_timestep` seconds.
    pub(crate) fn new(time_limit: f64, control_timestep: f64) -> Self {
        Self {
            time_limit,
            control_timestep: Some(control_timestep),
        }
    }
}

impl Setup {
    /// Bundles a task with its model.
    pub(crate) fn new(physics: Physics, task: impl Task + 'static, timing: Timing) -> Self {
        Self {
            physics,
            task: Box::new(task),
            timing,
        }
    }
}
