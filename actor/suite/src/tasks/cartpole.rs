//! Cart and poles. Source: dm_control's `suite/cartpole.py`.

use std::f64::consts::PI;

use mujoco_rs::wrappers::mj_editing::{MjSpec, SpecItem};

use crate::edit;
use crate::error::SuiteError;
use crate::numpy::{RandomState, mean};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::physics::axis::{XZ, ZZ};
use crate::rewards::{Sigmoid, Tolerance};
use crate::task::{Setup, Task, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 10.0;
/// Metres from the middle of the rail that the sparse task tolerates.
const CART_RANGE: f64 = 0.25;
/// Least cosine of a pole's angle that the sparse task tolerates.
const LEAST_COSINE: f64 = 0.995;

/// Index of the cart's slider in `qpos`.
const SLIDER: usize = 0;
/// Index of the first pole's hinge in `qpos` and `qvel`.
const FIRST_HINGE: usize = 1;
/// Index of the first pole's body, after the world and the cart.
const FIRST_POLE: usize = 2;

pub(crate) fn balance() -> Result<Setup, SuiteError> {
    setup(1, Start::Upright, Reward::Smooth)
}

pub(crate) fn balance_sparse() -> Result<Setup, SuiteError> {
    setup(1, Start::Upright, Reward::Sparse)
}

pub(crate) fn swingup() -> Result<Setup, SuiteError> {
    setup(1, Start::Hanging, Reward::Smooth)
}

pub(crate) fn swingup_sparse() -> Result<Setup, SuiteError> {
    setup(1, Start::Hanging, Reward::Sparse)
}

pub(crate) fn two_poles() -> Result<Setup, SuiteError> {
    setup(2, Start::Hanging, Reward::Smooth)
}

pub(crate) fn three_poles() -> Result<Setup, SuiteError> {
    setup(3, Start::Hanging, Reward::Smooth)
}

fn setup(poles: usize, start: Start, reward: Reward) -> Result<Setup, SuiteError> {
    let physics = Physics::from_edited("cartpole.xml", |spec| add_poles(spec, poles))?;
    let task = Balance {
        start,
        reward,
        centered: Tolerance::at(0.0).margin(2.0),
        small_control: Tolerance::at(0.0).falling(1.0, Sigmoid::Quadratic, 0.0),
        small_velocity: Tolerance::at(0.0).margin(5.0),
    };
    Ok(Setup::new(physics, task, Timing::limit(TIME_LIMIT)))
}

/// Hangs further poles onto the first, lowers the floor and moves the cameras back.
fn add_poles(spec: &mut MjSpec, poles: usize) -> Result<(), SuiteError> {
    if poles == 1 {
        return Ok(());
    }
    for number in 2..=poles {
        let parent = edit::body(spec, &format!("pole_{}", number - 1))?;
        let pole = parent.add_body();
        pole.with_name(&format!("pole_{number}"))
            .with_pos([0.0, 0.0, 1.0]);
        pole.add_joint_with_class("pole")
            .map_err(edit::refused)?
            .with_name(&format!("hinge_{number}"));
        pole.add_geom_with_class("pole")
            .map_err(edit::refused)?
            .with_name(&format!("pole_{number}"));
    }
    let poles = poles as f64;
    *edit::geom(spec, "floor")?.pos_mut() = [0.0, 0.0, 1.0 - poles - 0.05];
    *edit::camera(spec, "fixed")?.pos_mut() = [0.0, -1.0 - 2.0 * poles, 1.0];
    *edit::camera(spec, "lookatcart")?.pos_mut() = [0.0, -2.0 * poles, 2.0];
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Upright,
    Hanging,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reward {
    Smooth,
    Sparse,
}

struct Balance {
    start: Start,
    reward: Reward,
    centered: Tolerance,
    small_control: Tolerance,
    small_velocity: Tolerance,
}

impl Task for Balance {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        let qpos = physics.qpos_mut();
        match self.start {
            Start::Hanging => {
                qpos[SLIDER] = 0.01 * random.standard_normal();
                qpos[FIRST_HINGE] = PI + 0.01 * random.standard_normal();
                for angle in &mut qpos[FIRST_HINGE + 1..] {
                    *angle = 0.1 * random.standard_normal();
                }
            }
            Start::Upright => {
                qpos[SLIDER] = random.uniform(-0.1, 0.1);
                for angle in &mut qpos[FIRST_HINGE..] {
                    *angle = random.uniform(-0.034, 0.034);
                }
            }
        }
        for velocity in physics.qvel_mut() {
            *velocity = 0.01 * random.standard_normal();
        }
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        let poles = physics.xmat()[FIRST_POLE..].iter();
        let angles = poles.flat_map(|pole| [pole[ZZ], pole[XZ]]);
        observation.field(
            "position",
            [physics.qpos()[SLIDER]].into_iter().chain(angles),
        );
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let cart = physics.qpos()[SLIDER];
        let cosines = physics.xmat()[FIRST_POLE..].iter().map(|pole| pole[ZZ]);
        if self.reward == Reward::Sparse {
            let cart_in_bounds = Tolerance::between(-CART_RANGE, CART_RANGE).of(cart);
            let angle_in_bounds = Tolerance::between(LEAST_COSINE, 1.0);
            return cosines
                .map(|cosine| angle_in_bounds.of(cosine))
                .product::<f64>()
                * cart_in_bounds;
        }
        let upright = mean(cosines.map(|cosine| (cosine + 1.0) / 2.0));
        let centered = (1.0 + self.centered.of(cart)) / 2.0;
        let small_control = (4.0 + self.small_control.of(physics.ctrl()[0])) / 5.0;
        let velocities = physics.qvel()[FIRST_HINGE..].iter();
        let small_velocity = velocities
            .map(|velocity| self.small_velocity.of(*velocity))
            .fold(1.0, f64::min);
        upright * small_control * ((1.0 + small_velocity) / 2.0) * centered
    }
}
