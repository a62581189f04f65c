//! Planar manipulator. Source: dm_control's `suite/manipulator.py`.

use std::f64::consts::PI;

use mujoco_rs::wrappers::mj_editing::MjSpec;

use super::planar_arm::{Arm, planar_pose, site_distance};
use crate::edit;
use crate::error::SuiteError;
use crate::numpy::{RandomState, arctan2, log1p};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::physics::axis::{XX, ZX};
use crate::rewards::Tolerance;
use crate::task::{Setup, Task, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 10.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.01;
/// Metres below which things are close.
const CLOSE: f64 = 0.01;
/// Probabilities that an episode begins with the object in the hand, at the target, elsewhere.
const START_PROBABILITIES: [f64; 3] = [0.1, 0.1, 1.0 - 0.1 - 0.1];
const IN_HAND: usize = 0;
const IN_TARGET: usize = 1;
const PROPS: [&str; 6] = ["ball", "target_ball", "cup", "peg", "target_peg", "slot"];
const TOUCH_SENSORS: [&str; 5] = [
    "palm_touch",
    "finger_touch",
    "thumb_touch",
    "fingertip_touch",
    "thumbtip_touch",
];

const BALL: Prop = Prop {
    object: "ball",
    target: "target_ball",
    receptacle: "cup",
    joints: ["ball_x", "ball_z", "ball_y"],
};
const PEG: Prop = Prop {
    object: "peg",
    target: "target_peg",
    receptacle: "slot",
    joints: ["peg_x", "peg_z", "peg_y"],
};

pub(crate) fn bring_ball() -> Result<Setup, SuiteError> {
    setup(&BALL, false)
}

pub(crate) fn bring_peg() -> Result<Setup, SuiteError> {
    setup(&PEG, false)
}

pub(crate) fn insert_ball() -> Result<Setup, SuiteError> {
    setup(&BALL, true)
}

pub(crate) fn insert_peg() -> Result<Setup, SuiteError> {
    setup(&PEG, true)
}

fn setup(prop: &Prop, insert: bool) -> Result<Setup, SuiteError> {
    let physics = Physics::from_edited("manipulator.xml", |spec| keep(spec, prop, insert))?;
    let mut joints = [0; 3];
    for (joint, name) in joints.iter_mut().zip(prop.joints) {
        *joint = physics.joint_position(name)?;
    }
    let mut velocities = [0; 3];
    for (velocity, name) in velocities.iter_mut().zip(prop.joints) {
        *velocity = physics.joint_velocity(name)?;
    }
    let mut touch = [0; TOUCH_SENSORS.len()];
    for (sensor, name) in touch.iter_mut().zip(TOUCH_SENSORS) {
        *sensor = physics.sensor(name)?;
    }
    let task = Bring {
        arm: Arm::new(&physics)?,
        hand: physics.body("hand")?,
        object: physics.body(prop.object)?,
        target: physics.body(prop.target)?,
        receptacle: if insert {
            Some(physics.body(prop.receptacle)?)
        } else {
            None
        },
        joints,
        velocities,
        touch,
        grasp: physics.site("grasp")?,
        goal: Goal::new(&physics, prop)?,
        close: Tolerance::between(0.0, CLOSE).margin(2.0 * CLOSE),
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

/// What is manipulated.
struct Prop {
    object: &'static str,
    target: &'static str,
    receptacle: &'static str,
    joints: [&'static str; 3],
}

/// Removes the bodies that the task does not use.
fn keep(spec: &mut MjSpec, prop: &Prop, insert: bool) -> Result<(), SuiteError> {
    let used = |name: &str| {
        name == prop.object || name == prop.target || (insert && name == prop.receptacle)
    };
    PROPS
        .iter()
        .filter(|name| !used(name))
        .try_for_each(|name| edit::remove(edit::body(spec, name)?))
}

/// The pairs of sites whose distances are rewarded.
enum Goal {
    Ball([usize; 2]),
    Peg {
        grasp: [usize; 2],
        pinch: [usize; 2],
        bring: [usize; 2],
        bring_tip: [usize; 2],
    },
}

impl Goal {
    fn new(physics: &Physics, prop: &Prop) -> Result<Self, SuiteError> {
        let pair = |a, b| Ok::<_, SuiteError>([physics.site(a)?, physics.site(b)?]);
        if prop.object == BALL.object {
            return Ok(Self::Ball(pair("ball", "target_ball")?));
        }
        Ok(Self::Peg {
            grasp: pair("peg_grasp", "grasp")?,
            pinch: pair("peg_pinch", "pinch")?,
            bring: pair("peg", "target_peg")?,
            bring_tip: pair("target_peg_tip", "peg_tip")?,
        })
    }
}

struct Bring {
    arm: Arm,
    hand: usize,
    object: usize,
    target: usize,
    /// What the object is inserted into, if it is.
    receptacle: Option<usize>,
    /// Coordinates of the object: x, z and the angle about y.
    joints: [usize; 3],
    velocities: [usize; 3],
    touch: [usize; TOUCH_SENSORS.len()],
    grasp: usize,
    goal: Goal,
    close: Tolerance,
}

impl Bring {
    /// Places the target (and the receptacle); returns its x, z and angle.
    fn place_target(&self, physics: &mut Physics, random: &mut RandomState) -> [f64; 3] {
        let (x, z) = (random.uniform(-0.4, 0.4), random.uniform(0.1, 0.4));
        let widest = if self.receptacle.is_some() {
            PI / 3.0
        } else {
            PI
        };
        let angle = random.uniform(-widest, widest);
        let model = physics.model_mut();
        for body in self.receptacle.into_iter().chain([self.target]) {
            let position = &mut model.body_pos_mut()[body];
            (position[0], position[2]) = (x, z);
            let quaternion = &mut model.body_quat_mut()[body];
            (quaternion[0], quaternion[2]) = ((angle / 2.0).cos(), (angle / 2.0).sin());
        }
        [x, z, angle]
    }

    /// Draws where the object begins: x, z and angle.
    fn draw_object(
        &self,
        physics: &mut Physics,
        random: &mut RandomState,
        target: [f64; 3],
    ) -> Result<[f64; 3], SuiteError> {
        match random.choice(START_PROBABILITIES) {
            IN_TARGET => Ok(target),
            IN_HAND => {
                physics.after_reset()?;
                let [x, _, z] = physics.site_xpos()[self.grasp];
                let frame = physics.site_xmat()[self.grasp];
                Ok([x, z, PI - arctan2(frame[ZX], frame[XX])])
            }
            _ => {
                let (x, z) = (random.uniform(-0.5, 0.5), random.uniform(0.0, 0.7));
                let angle = random.uniform(0.0, 2.0 * PI);
                physics.qvel_mut()[self.velocities[0]] = random.uniform(-5.0, 5.0);
                Ok([x, z, angle])
            }
        }
    }
}

impl Task for Bring {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        loop {
            self.arm.randomize(physics, random);
            let target = self.place_target(physics, random);
            let object = self.draw_object(physics, random, target)?;
            for (joint, value) in self.joints.iter().zip(object) {
                physics.qpos_mut()[*joint] = value;
            }
            physics.after_reset()?;
            if !physics.in_contact() {
                return Ok(());
            }
        }
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        self.arm.observe(physics, observation);
        observation.field(
            "touch",
            self.touch.map(|sensor| log1p(physics.sensordata()[sensor])),
        );
        observation.field("hand_pos", planar_pose(physics, self.hand));
        observation.field("object_pos", planar_pose(physics, self.object));
        observation.field(
            "object_vel",
            self.velocities.map(|velocity| physics.qvel()[velocity]),
        );
        observation.field("target_pos", planar_pose(physics, self.target));
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let close = |[a, b]: [usize; 2]| self.close.of(site_distance(physics, a, b));
        match self.goal {
            Goal::Ball(pair) => close(pair),
            Goal::Peg {
                grasp,
                pinch,
                bring,
                bring_tip,
            } => {
                let grasping = (close(grasp) + close(pinch)) / 2.0;
                let bringing = (close(bring) + close(bring_tip)) / 2.0;
                bringing.max(grasping / 3.0)
            }
        }
    }
}
