//! Point mass. Source: dm_control's `suite/point_mass.py`.

use mujoco_rs::wrappers::MjModel;

use crate::error::SuiteError;
use crate::numpy::{RandomState, dot, mean, norm};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::randomizers::{randomize_joints, unit};
use crate::rewards::{Sigmoid, Tolerance};
use crate::task::{Setup, Task, Timing};
use crate::vector::difference;

/// Seconds.
const TIME_LIMIT: f64 = 20.0;
/// Cosine above which two actuation directions are too parallel.
const PARALLEL: f64 = 0.9;

pub(crate) fn easy() -> Result<Setup, SuiteError> {
    setup(false)
}

pub(crate) fn hard() -> Result<Setup, SuiteError> {
    setup(true)
}

fn setup(randomize_gains: bool) -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("point_mass.xml")?;
    let target = physics.geom("target")?;
    let target_size = physics.model().geom_size()[target][0];
    let task = PointMass {
        randomize_gains,
        target,
        mass: physics.geom("pointmass")?,
        near_target: Tolerance::between(0.0, target_size).margin(target_size),
        small_control: Tolerance::at(0.0).falling(1.0, Sigmoid::Quadratic, 0.0),
    };
    Ok(Setup::new(physics, task, Timing::limit(TIME_LIMIT)))
}

struct PointMass {
    /// Whether each control pushes into a direction drawn anew each episode.
    randomize_gains: bool,
    target: usize,
    mass: usize,
    near_target: Tolerance,
    small_control: Tolerance,
}

impl Task for PointMass {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        randomize_joints(physics, random);
        if self.randomize_gains {
            let first: [f64; 2] = unit(random.normals());
            let second = loop {
                let second = unit(random.normals());
                if dot(&first, &second).abs() <= PARALLEL {
                    break second;
                }
            };
            set_directions(physics.model_mut(), first, second);
        }
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        observation.field("position", physics.qpos());
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let to_target = difference(
            physics.geom_xpos()[self.target],
            physics.geom_xpos()[self.mass],
        );
        let near_target = self.near_target.of(norm(&to_target));
        let control = mean(
            physics
                .ctrl()
                .iter()
                .map(|control| self.small_control.of(*control)),
        );
        near_target * ((control + 4.0) / 5.0)
    }
}

/// Writes the joints' coefficients in the two tendons that the actuators pull.
fn set_directions(model: &mut MjModel, first: [f64; 2], second: [f64; 2]) {
    // SAFETY: all wraps of this model are joints, whose parameter is a coefficient, not an index.
    let coefficients = unsafe { model.wrap_prm_mut() };
    coefficients[..2].copy_from_slice(&first);
    coefficients[2..4].copy_from_slice(&second);
}
