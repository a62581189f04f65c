//! Planar cheetah. Source: dm_control's `suite/cheetah.py`.

use crate::error::SuiteError;
use crate::numpy::RandomState;
use crate::observation::Observation;
use crate::physics::Physics;
use crate::rewards::{Sigmoid, Tolerance};
use crate::task::{Setup, Task, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 10.0;
/// Metres a second.
const RUN_SPEED: f64 = 10.0;
/// Steps of the model that let the randomised body settle.
const SETTLING_STEPS: usize = 200;

pub(crate) fn run() -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("cheetah.xml")?;
    let task = Cheetah {
        velocity: physics.sensor("torso_subtreelinvel")?,
        running: Tolerance::at_least(RUN_SPEED).falling(RUN_SPEED, Sigmoid::Linear, 0.0),
    };
    Ok(Setup::new(physics, task, Timing::limit(TIME_LIMIT)))
}

struct Cheetah {
    /// Sensor of the velocity of the centre of mass.
    velocity: usize,
    running: Tolerance,
}

impl Task for Cheetah {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        // All joints have one coordinate, so a joint's index is its coordinate's.
        for joint in 0..physics.model().jnt_limited().len() {
            if physics.model().jnt_limited()[joint] {
                let [low, high] = physics.model().jnt_range()[joint];
                physics.qpos_mut()[joint] = random.uniform(low, high);
            }
        }
        physics.step(SETTLING_STEPS)?;
        physics.set_time(0.0);
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        observation.field("position", &physics.qpos()[1..]);
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        self.running.of(physics.sensordata()[self.velocity])
    }
}
