//! Ball in cup. Source: dm_control's `suite/ball_in_cup.py`.

use crate::error::SuiteError;
use crate::numpy::RandomState;
use crate::observation::Observation;
use crate::physics::Physics;
use crate::task::{Setup, Task, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 20.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.02;

pub(crate) fn catch() -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("ball_in_cup.xml")?;
    let (target, ball) = (physics.site("target")?, physics.geom("ball")?);
    let target_size = physics.model().site_size()[target];
    let ball_radius = physics.model().geom_size()[ball][0];
    let task = BallInCup {
        ball: physics.body("ball")?,
        ball_x: physics.joint_position("ball_x")?,
        ball_z: physics.joint_position("ball_z")?,
        target,
        slack: [target_size[0] - ball_radius, target_size[2] - ball_radius],
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

struct BallInCup {
    ball: usize,
    ball_x: usize,
    ball_z: usize,
    target: usize,
    /// Metres in x and z that the ball may be away from the target's centre.
    slack: [f64; 2],
}

impl Task for BallInCup {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        loop {
            physics.qpos_mut()[self.ball_x] = random.uniform(-0.2, 0.2);
            physics.qpos_mut()[self.ball_z] = random.uniform(0.2, 0.5);
            physics.after_reset()?;
            if !physics.in_contact() {
                return Ok(());
            }
        }
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        observation.field("position", physics.qpos());
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let (target, ball) = (physics.site_xpos()[self.target], physics.xpos()[self.ball]);
        let within = |axis: usize, slack: f64| (target[axis] - ball[axis]).abs() < slack;
        f64::from(within(0, self.slack[0]) && within(2, self.slack[1]))
    }
}
