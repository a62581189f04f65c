//! Acrobot. Source: dm_control's `suite/acrobot.py`.

use std::f64::consts::PI;

use crate::error::SuiteError;
use crate::numpy::{RandomState, norm};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::physics::axis::{XZ, ZZ};
use crate::rewards::Tolerance;
use crate::task::{Setup, Task, Timing};
use crate::vector::difference;

/// Seconds.
const TIME_LIMIT: f64 = 10.0;
/// Metres from the target at which the smooth reward has fallen to 0.1.
const MARGIN: f64 = 1.0;

pub(crate) fn swingup() -> Result<Setup, SuiteError> {
    setup(|reached| reached.margin(MARGIN))
}

pub(crate) fn swingup_sparse() -> Result<Setup, SuiteError> {
    setup(|reached| reached)
}

fn setup(soften: impl Fn(Tolerance) -> Tolerance) -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("acrobot.xml")?;
    let target = physics.site("target")?;
    let target_radius = physics.model().site_size()[target][0];
    let task = Balance {
        arms: [physics.body("upper_arm")?, physics.body("lower_arm")?],
        joints: [
            physics.joint_position("shoulder")?,
            physics.joint_position("elbow")?,
        ],
        tip: physics.site("tip")?,
        target,
        reached: soften(Tolerance::between(0.0, target_radius)),
    };
    Ok(Setup::new(physics, task, Timing::limit(TIME_LIMIT)))
}

struct Balance {
    arms: [usize; 2],
    joints: [usize; 2],
    tip: usize,
    target: usize,
    reached: Tolerance,
}

impl Task for Balance {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        for joint in self.joints {
            physics.qpos_mut()[joint] = random.uniform(-PI, PI);
        }
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        let [upper, lower] = self.arms.map(|arm| &physics.xmat()[arm]);
        observation.field("orientations", [upper[XZ], lower[XZ], upper[ZZ], lower[ZZ]]);
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let to_target = difference(
            physics.site_xpos()[self.target],
            physics.site_xpos()[self.tip],
        );
        self.reached.of(norm(&to_target))
    }
}
