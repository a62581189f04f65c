//! Two-link reacher. Source: dm_control's `suite/reacher.py`.

use std::f64::consts::PI;

use crate::error::SuiteError;
use crate::numpy::{RandomState, norm};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::randomizers::randomize_joints;
use crate::rewards::Tolerance;
use crate::task::{Setup, Task, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 20.0;
/// Radius in metres.
const BIG_TARGET: f64 = 0.05;
/// Radius in metres.
const SMALL_TARGET: f64 = 0.015;

pub(crate) fn easy() -> Result<Setup, SuiteError> {
    setup(BIG_TARGET)
}

pub(crate) fn hard() -> Result<Setup, SuiteError> {
    setup(SMALL_TARGET)
}

fn setup(target_size: f64) -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("reacher.xml")?;
    let (target, finger) = (physics.geom("target")?, physics.geom("finger")?);
    let radii = target_size + physics.model().geom_size()[finger][0];
    let task = Reacher {
        target_size,
        target,
        finger,
        reached: Tolerance::between(0.0, radii),
    };
    Ok(Setup::new(physics, task, Timing::limit(TIME_LIMIT)))
}

struct Reacher {
    target_size: f64,
    target: usize,
    finger: usize,
    reached: Tolerance,
}

impl Reacher {
    fn finger_to_target(&self, physics: &Physics) -> [f64; 2] {
        let (target, finger) = (
            physics.geom_xpos()[self.target],
            physics.geom_xpos()[self.finger],
        );
        [target[0] - finger[0], target[1] - finger[1]]
    }
}

impl Task for Reacher {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        physics.model_mut().geom_size_mut()[self.target][0] = self.target_size;
        randomize_joints(physics, random);
        let angle = random.uniform(0.0, 2.0 * PI);
        let radius = random.uniform(0.05, 0.20);
        let position = &mut physics.model_mut().geom_pos_mut()[self.target];
        position[0] = radius * angle.sin();
        position[1] = radius * angle.cos();
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        observation.field("position", physics.qpos());
        observation.field("to_target", self.finger_to_target(physics));
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        self.reached.of(norm(&self.finger_to_target(physics)))
    }
}
