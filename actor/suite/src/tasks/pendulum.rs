//! Pendulum. Source: dm_control's `suite/pendulum.py`.

use std::f64::consts::PI;

use crate::error::SuiteError;
use crate::numpy::RandomState;
use crate::observation::Observation;
use crate::physics::Physics;
use crate::physics::axis::{XZ, ZZ};
use crate::rewards::{Tolerance, radians};
use crate::task::{Setup, Task, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 20.0;
/// Degrees from the vertical that are rewarded.
const ANGLE_BOUND: f64 = 8.0;

pub(crate) fn swingup() -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("pendulum.xml")?;
    let upright = Tolerance::between(radians(ANGLE_BOUND).cos(), 1.0);
    let task = SwingUp {
        pole: physics.body("pole")?,
        upright,
    };
    Ok(Setup::new(physics, task, Timing::limit(TIME_LIMIT)))
}

struct SwingUp {
    pole: usize,
    upright: Tolerance,
}

impl Task for SwingUp {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        physics.qpos_mut()[0] = random.uniform(-PI, PI);
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        let pole = &physics.xmat()[self.pole];
        observation.field("orientation", [pole[ZZ], pole[XZ]]);
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        self.upright.of(physics.xmat()[self.pole][ZZ])
    }
}
