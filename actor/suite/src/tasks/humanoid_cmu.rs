//! Humanoid of the CMU motion capture database. Source: dm_control's `suite/humanoid_CMU.py`.

use super::humanoid::{Anatomy, RUN_SPEED, View, WALK_SPEED, humanoid};
use crate::error::SuiteError;
use crate::physics::axis::ZY;
use crate::task::{Setup, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 20.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.02;

pub(crate) fn stand() -> Result<Setup, SuiteError> {
    setup(None)
}

pub(crate) fn walk() -> Result<Setup, SuiteError> {
    setup(Some(WALK_SPEED))
}

pub(crate) fn run() -> Result<Setup, SuiteError> {
    setup(Some(RUN_SPEED))
}

fn setup(speed: Option<f64>) -> Result<Setup, SuiteError> {
    let anatomy = Anatomy {
        model: "humanoid_CMU.xml",
        torso: "thorax",
        up: ZY,
        velocity: "thorax_subtreelinvel",
        limbs: ["lhand", "lfoot", "rhand", "rfoot"],
    };
    humanoid(
        &anatomy,
        speed,
        View::Features,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    )
}
