//! Humanoid. Source: dm_control's `suite/humanoid.py`.
//!
//! dm_control repeats the task for its CMU humanoid; here [`super::humanoid_cmu`] describes that
//! body and uses the same task.

use crate::error::SuiteError;
use crate::numpy::{RandomState, into_frame, mean, norm};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::physics::axis::{ZX, ZZ};
use crate::randomizers::randomize_joints;
use crate::rewards::{Sigmoid, Tolerance};
use crate::task::{Setup, Task, Timing};
use crate::vector::difference;

/// Seconds.
const TIME_LIMIT: f64 = 25.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.025;
/// Metres of the head above ground from which on the humanoid stands.
const STAND_HEIGHT: f64 = 1.4;
/// Metres a second.
pub(crate) const WALK_SPEED: f64 = 1.0;
/// Metres a second.
pub(crate) const RUN_SPEED: f64 = 10.0;

pub(crate) fn stand() -> Result<Setup, SuiteError> {
    setup(None, View::Features)
}

pub(crate) fn walk() -> Result<Setup, SuiteError> {
    setup(Some(WALK_SPEED), View::Features)
}

pub(crate) fn run() -> Result<Setup, SuiteError> {
    setup(Some(RUN_SPEED), View::Features)
}

pub(crate) fn run_pure_state() -> Result<Setup, SuiteError> {
    setup(Some(RUN_SPEED), View::PureState)
}

fn setup(speed: Option<f64>, view: View) -> Result<Setup, SuiteError> {
    let anatomy = Anatomy {
        model: "humanoid.xml",
        torso: "torso",
        up: ZZ,
        velocity: "torso_subtreelinvel",
        limbs: ["left_hand", "left_foot", "right_hand", "right_foot"],
    };
    humanoid(
        &anatomy,
        speed,
        view,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    )
}

/// What a model calls the parts that the task reads.
pub(crate) struct Anatomy {
    pub(crate) model: &'static str,
    pub(crate) torso: &'static str,
    /// Element of the torso's rotation matrix that is one when the torso is upright.
    pub(crate) up: usize,
    /// Sensor of the velocity of the centre of mass.
    pub(crate) velocity: &'static str,
    pub(crate) limbs: [&'static str; 4],
}

/// What the agent observes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Features,
    PureState,
}

/// A humanoid that stands still (`speed` is `None`) or moves at `speed` metres a second.
pub(crate) fn humanoid(
    anatomy: &Anatomy,
    speed: Option<f64>,
    view: View,
    timing: Timing,
) -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite(anatomy.model)?;
    let mut limbs = [0; 4];
    for (limb, name) in limbs.iter_mut().zip(anatomy.limbs) {
        *limb = physics.body(name)?;
    }
    let task = Humanoid {
        view,
        torso: physics.body(anatomy.torso)?,
        up: anatomy.up,
        head: physics.body("head")?,
        velocity: physics.sensor(anatomy.velocity)?,
        limbs,
        standing: Tolerance::at_least(STAND_HEIGHT).margin(STAND_HEIGHT / 4.0),
        upright: Tolerance::at_least(0.9).falling(1.9, Sigmoid::Linear, 0.0),
        small_control: Tolerance::at(0.0).falling(1.0, Sigmoid::Quadratic, 0.0),
        still: Tolerance::at(0.0).margin(2.0),
        moving: speed.map(|speed| Tolerance::at_least(speed).falling(speed, Sigmoid::Linear, 0.0)),
    };
    Ok(Setup::new(physics, task, timing))
}

struct Humanoid {
    view: View,
    torso: usize,
    up: usize,
    head: usize,
    velocity: usize,
    limbs: [usize; 4],
    standing: Tolerance,
    upright: Tolerance,
    small_control: Tolerance,
    still: Tolerance,
    /// Reward of the horizontal speed; `None` for standing still.
    moving: Option<Tolerance>,
}

impl Humanoid {
    fn head_height(&self, physics: &Physics) -> f64 {
        physics.xpos()[self.head][2]
    }

    fn velocity<'p>(&self, physics: &'p Physics) -> &'p [f64] {
        &physics.sensordata()[self.velocity..self.velocity + 3]
    }
}

impl Task for Humanoid {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        loop {
            randomize_joints(physics, random);
            physics.after_reset()?;
            if !physics.in_contact() {
                return Ok(());
            }
        }
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        if self.view == View::PureState {
            observation.field("position", physics.qpos());
            observation.field("velocity", physics.qvel());
            return;
        }
        let (positions, torso) = (physics.xpos(), &physics.xmat()[self.torso]);
        let extremities = self.limbs.iter().flat_map(|limb| {
            into_frame(difference(positions[*limb], positions[self.torso]), torso)
        });
        observation.field("joint_angles", &physics.qpos()[7..]);
        observation.field("head_height", [self.head_height(physics)]);
        observation.field("extremities", extremities);
        observation.field("torso_vertical", &torso[ZX..=ZZ]);
        observation.field("com_velocity", self.velocity(physics));
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let standing = self.standing.of(self.head_height(physics));
        let stand = standing * self.upright.of(physics.xmat()[self.torso][self.up]);
        let controls = physics.ctrl().iter();
        let small_control = mean(controls.map(|control| self.small_control.of(*control)));
        let small_control = (4.0 + small_control) / 5.0;
        let horizontal = &self.velocity(physics)[..2];
        match &self.moving {
            None => {
                let still = mean(horizontal.iter().map(|velocity| self.still.of(*velocity)));
                small_control * stand * still
            }
            Some(moving) => {
                let moving = (5.0 * moving.of(norm(horizontal)) + 1.0) / 6.0;
                small_control * stand * moving
            }
        }
    }
}
