//! Chains of masses on springs, drawn with the task. Source: dm_control's `suite/lqr.py`.

use std::f64::consts::SQRT_2;

use mujoco_rs::wrappers::mj_editing::{MjSpec, SpecItem};

use crate::edit;
use crate::error::SuiteError;
use crate::numpy::{RandomState, dot, norm};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::task::{Setup, Task, Timing};

/// Newtons a metre: the range of the springs' stiffness.
const STIFFNESS: [f64; 2] = [15.0, 25.0];
/// Newton seconds a metre: the range of the dampers' damping.
const DAMPING: [f64; 2] = [0.0, 0.0];
/// Weight of the controls against the positions.
const CONTROL_COST: f64 = 0.1;
/// Norm of the state below which the episode ends.
const TERMINAL_TOLERANCE: f64 = 1e-6;

pub(crate) fn lqr_2_1(random: &mut RandomState) -> Result<Setup, SuiteError> {
    setup(2, 1, random)
}

pub(crate) fn lqr_6_2(random: &mut RandomState) -> Result<Setup, SuiteError> {
    setup(6, 2, random)
}

fn setup(bodies: usize, actuators: usize, random: &mut RandomState) -> Result<Setup, SuiteError> {
    let physics = Physics::from_edited("lqr.xml", |spec| {
        add_bodies(spec, bodies, actuators, random)
    })?;
    Ok(Setup::new(
        physics,
        LinearQuadratic,
        Timing::limit(f64::INFINITY),
    ))
}

/// Makes the chain: one body on a spring after the other, the first ones with motors.
fn add_bodies(
    spec: &mut MjSpec,
    bodies: usize,
    actuators: usize,
    random: &mut RandomState,
) -> Result<(), SuiteError> {
    let mut parent = "world".to_owned();
    for index in 0..bodies {
        let name = |part: &str| format!("{part}_{index}");
        let body = edit::body(spec, &parent)?.add_body();
        let height = if index == 0 { 0.1 } else { 0.0 };
        body.with_name(&name("body")).with_pos([0.25, 0.0, height]);
        let joint = body.add_joint().with_name(&name("joint"));
        joint.stiffness_mut()[0] = random.uniform(STIFFNESS[0], STIFFNESS[1]);
        joint.damping_mut()[0] = random.uniform(DAMPING[0], DAMPING[1]);
        body.add_geom().with_name(&name("geom"));
        body.add_site().with_name(&name("site"));
        if index < actuators {
            edit::add_motor(spec, &name("motor"), &name("joint"));
        }
        if index + 1 < bodies {
            // Drawn only: it exerts no force.
            let tendon = spec.add_tendon().with_name(&name("tendon"));
            tendon.wrap_site(&name("site"));
            tendon.wrap_site(&format!("site_{}", index + 1));
        }
        parent = name("body");
    }
    Ok(())
}

struct LinearQuadratic;

impl Task for LinearQuadratic {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        let qpos = physics.qpos_mut();
        qpos.fill_with(|| random.standard_normal());
        let length = norm(qpos);
        for position in qpos {
            *position = SQRT_2 * *position / length;
        }
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        observation.field("position", physics.qpos());
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let state_cost = 0.5 * dot(physics.qpos(), physics.qpos());
        let control_cost = 0.5 * dot(physics.ctrl(), physics.ctrl());
        1.0 - (state_cost + control_cost * CONTROL_COST)
    }

    fn termination(&self, physics: &Physics) -> Option<f64> {
        // The norm of the whole state. Summed in two parts, which only matters near the tolerance.
        let square = dot(physics.qpos(), physics.qpos()) + dot(physics.qvel(), physics.qvel());
        (square.sqrt() < TERMINAL_TOLERANCE).then_some(0.0)
    }
}
