//! Planar stacker. Source: dm_control's `suite/stacker.py`.

use std::f64::consts::PI;

use super::planar_arm::{Arm, planar_pose, site_distance};
use crate::edit;
use crate::error::SuiteError;
use crate::numpy::{RandomState, log1p};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::rewards::Tolerance;
use crate::task::{Setup, Task, Timing};

/// Seconds.
const TIME_LIMIT: f64 = 10.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.01;
/// Metres below which things are close.
const CLOSE: f64 = 0.01;
/// Metres from the target from which on the hand is out of the way.
const HAND_AWAY: f64 = 0.1;
/// Boxes in the model.
const ALL_BOXES: usize = 4;

pub(crate) fn stack_2() -> Result<Setup, SuiteError> {
    setup(2)
}

pub(crate) fn stack_4() -> Result<Setup, SuiteError> {
    setup(4)
}

fn setup(count: usize) -> Result<Setup, SuiteError> {
    let physics = Physics::from_edited("stacker.xml", |spec| {
        (count..ALL_BOXES)
            .try_for_each(|index| edit::remove(edit::body(spec, &format!("box{index}"))?))
    })?;
    let boxes: Result<Vec<StackedBox>, SuiteError> = (0..count)
        .map(|index| StackedBox::new(&physics, index))
        .collect();
    let box_size = physics.model().geom_size()[physics.geom("target")?][0];
    let task = Stack {
        arm: Arm::new(&physics)?,
        boxes: boxes?,
        box_size,
        hand: physics.body("hand")?,
        target: physics.body("target")?,
        target_site: physics.site("target")?,
        grasp: physics.site("grasp")?,
        box_is_close: Tolerance::at(0.0).margin(2.0 * box_size),
        hand_is_far: Tolerance::at_least(HAND_AWAY).margin(CLOSE),
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

struct StackedBox {
    body: usize,
    site: usize,
    /// Coordinates x, y (the angle about y) and z, in the order of the observation.
    joints: [usize; 3],
    velocities: [usize; 3],
}

impl StackedBox {
    fn new(physics: &Physics, index: usize) -> Result<Self, SuiteError> {
        let name = format!("box{index}");
        let (mut joints, mut velocities) = ([0; 3], [0; 3]);
        for (position, dimension) in ["x", "y", "z"].iter().enumerate() {
            let joint = format!("{name}_{dimension}");
            joints[position] = physics.joint_position(&joint)?;
            velocities[position] = physics.joint_velocity(&joint)?;
        }
        Ok(Self {
            body: physics.body(&name)?,
            site: physics.site(&name)?,
            joints,
            velocities,
        })
    }

    fn randomize(&self, physics: &mut Physics, random: &mut RandomState) {
        let [x, y, z] = self.joints;
        let qpos = physics.qpos_mut();
        qpos[x] = random.uniform(0.1, 0.3);
        qpos[z] = random.uniform(0.0, 0.7);
        qpos[y] = random.uniform(0.0, 2.0 * PI);
    }
}

struct Stack {
    arm: Arm,
    boxes: Vec<StackedBox>,
    /// Half the edge of a box, in metres.
    box_size: f64,
    hand: usize,
    target: usize,
    target_site: usize,
    grasp: usize,
    box_is_close: Tolerance,
    hand_is_far: Tolerance,
}

impl Task for Stack {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        loop {
            self.arm.randomize(physics, random);
            let height = 2 * random.below(self.boxes.len() as u32) + 1;
            let position = &mut physics.model_mut().body_pos_mut()[self.target];
            position[2] = self.box_size * f64::from(height);
            position[0] = random.uniform(-0.37, 0.37);
            for stacked in &self.boxes {
                stacked.randomize(physics, random);
            }
            physics.after_reset()?;
            if !physics.in_contact() {
                return Ok(());
            }
        }
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        let boxes = self.boxes.iter();
        self.arm.observe(physics, observation);
        observation.field(
            "touch",
            physics.sensordata().iter().map(|force| log1p(*force)),
        );
        observation.field("hand_pos", planar_pose(physics, self.hand));
        observation.field(
            "box_pos",
            boxes
                .clone()
                .flat_map(|stacked| planar_pose(physics, stacked.body)),
        );
        let velocities = boxes.flat_map(|stacked| stacked.velocities);
        observation.field(
            "box_vel",
            velocities.map(|velocity| physics.qvel()[velocity]),
        );
        let [x, _, z] = physics.xpos()[self.target];
        observation.field("target_pos", [x, z]);
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let distances = self
            .boxes
            .iter()
            .map(|stacked| site_distance(physics, stacked.site, self.target_site));
        let box_is_close = self
            .box_is_close
            .of(distances.fold(f64::INFINITY, f64::min));
        let hand_to_target = site_distance(physics, self.grasp, self.target_site);
        box_is_close * self.hand_is_far.of(hand_to_target)
    }
}
