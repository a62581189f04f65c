//! Planar walker. Source: dm_control's `suite/walker.py`.

use crate::error::SuiteError;
use crate::numpy::RandomState;
use crate::observation::Observation;
use crate::physics::Physics;
use crate::physics::axis::{XX, XZ, ZZ};
use crate::randomizers::randomize_joints;
use crate::rewards::{Sigmoid, Tolerance};
use crate::task::{Setup, Task, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 25.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.025;
/// Metres of the torso above ground from which on the walker stands.
const STAND_HEIGHT: f64 = 1.2;
/// Metres a second.
const WALK_SPEED: f64 = 1.0;
/// Metres a second.
const RUN_SPEED: f64 = 8.0;

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
    let physics = Physics::from_suite("walker.xml")?;
    let moving = |speed| Tolerance::at_least(speed).falling(speed / 2.0, Sigmoid::Linear, 0.5);
    let task = PlanarWalker {
        torso: physics.body("torso")?,
        velocity: physics.sensor("torso_subtreelinvel")?,
        standing: Tolerance::at_least(STAND_HEIGHT).margin(STAND_HEIGHT / 2.0),
        moving: speed.map(moving),
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

struct PlanarWalker {
    torso: usize,
    /// Sensor of the velocity of the centre of mass.
    velocity: usize,
    standing: Tolerance,
    /// Reward of the horizontal velocity; `None` for standing still.
    moving: Option<Tolerance>,
}

impl PlanarWalker {
    fn torso_height(&self, physics: &Physics) -> f64 {
        physics.xpos()[self.torso][2]
    }
}

impl Task for PlanarWalker {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        randomize_joints(physics, random);
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        let bodies = physics.xmat()[1..].iter();
        observation.field("orientations", bodies.flat_map(|body| [body[XX], body[XZ]]));
        observation.field("height", [self.torso_height(physics)]);
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let standing = self.standing.of(self.torso_height(physics));
        let upright = (1.0 + physics.xmat()[self.torso][ZZ]) / 2.0;
        let stand = (3.0 * standing + upright) / 4.0;
        match &self.moving {
            None => stand,
            Some(moving) => {
                let moving = moving.of(physics.sensordata()[self.velocity]);
                stand * (5.0 * moving + 1.0) / 6.0
            }
        }
    }
}
