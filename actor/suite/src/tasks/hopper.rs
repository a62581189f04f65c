//! One-legged hopper. Source: dm_control's `suite/hopper.py`.

use crate::error::SuiteError;
use crate::numpy::{RandomState, log1p, mean};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::randomizers::randomize_joints;
use crate::rewards::{Sigmoid, Tolerance};
use crate::task::{Setup, Task, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 20.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.02;
/// Metres of the torso above the foot between which the hopper stands.
const STAND_HEIGHTS: [f64; 2] = [0.6, 2.0];
/// Metres a second.
const HOP_SPEED: f64 = 2.0;

pub(crate) fn stand() -> Result<Setup, SuiteError> {
    setup(Goal::Still(Tolerance::at(0.0).falling(
        1.0,
        Sigmoid::Quadratic,
        0.0,
    )))
}

pub(crate) fn hop() -> Result<Setup, SuiteError> {
    let hopping = Tolerance::at_least(HOP_SPEED).falling(HOP_SPEED / 2.0, Sigmoid::Linear, 0.5);
    setup(Goal::Hopping(hopping))
}

fn setup(goal: Goal) -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("hopper.xml")?;
    let [low, high] = STAND_HEIGHTS;
    let task = Hopper {
        goal,
        standing: Tolerance::between(low, high),
        torso: physics.body("torso")?,
        foot: physics.body("foot")?,
        velocity: physics.sensor("torso_subtreelinvel")?,
        touch: [physics.sensor("touch_toe")?, physics.sensor("touch_heel")?],
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

/// What is rewarded beside standing.
enum Goal {
    /// Small controls.
    Still(Tolerance),
    /// Forward speed.
    Hopping(Tolerance),
}

struct Hopper {
    goal: Goal,
    standing: Tolerance,
    torso: usize,
    foot: usize,
    /// Sensor of the velocity of the centre of mass.
    velocity: usize,
    touch: [usize; 2],
}

impl Task for Hopper {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        randomize_joints(physics, random);
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        observation.field("position", &physics.qpos()[1..]);
        observation.field("velocity", physics.qvel());
        observation.field(
            "touch",
            self.touch.map(|sensor| log1p(physics.sensordata()[sensor])),
        );
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let height = physics.xipos()[self.torso][2] - physics.xipos()[self.foot][2];
        let standing = self.standing.of(height);
        match &self.goal {
            Goal::Hopping(hopping) => standing * hopping.of(physics.sensordata()[self.velocity]),
            Goal::Still(small) => {
                let small = mean(physics.ctrl().iter().map(|control| small.of(*control)));
                standing * ((small + 4.0) / 5.0)
            }
        }
    }
}
