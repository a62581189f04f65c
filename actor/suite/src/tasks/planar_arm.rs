//! The planar arm with a gripper that the manipulator and the stacker share. Source: dm_control's
//! `suite/manipulator.py` and `suite/stacker.py`.

use std::f64::consts::PI;

use crate::error::SuiteError;
use crate::numpy::{RandomState, norm};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::vector::difference;

const JOINTS: [&str; 8] = [
    "arm_root",
    "arm_shoulder",
    "arm_elbow",
    "arm_wrist",
    "finger",
    "fingertip",
    "thumb",
    "thumbtip",
];

/// The arm's joints.
pub(crate) struct Arm {
    positions: [usize; JOINTS.len()],
    velocities: [usize; JOINTS.len()],
    limits: [[f64; 2]; JOINTS.len()],
    finger: usize,
    thumb: usize,
}

impl Arm {
    pub(crate) fn new(physics: &Physics) -> Result<Self, SuiteError> {
        let mut arm = Self {
            positions: [0; JOINTS.len()],
            velocities: [0; JOINTS.len()],
            limits: [[-PI, PI]; JOINTS.len()],
            finger: physics.joint_position("finger")?,
            thumb: physics.joint_position("thumb")?,
        };
        for (index, name) in JOINTS.iter().enumerate() {
            let joint = physics.joint(name)?;
            arm.positions[index] = physics.joint_position(name)?;
            arm.velocities[index] = physics.joint_velocity(name)?;
            if physics.model().jnt_limited()[joint] {
                arm.limits[index] = physics.model().jnt_range()[joint];
            }
        }
        Ok(arm)
    }

    /// Draws the joints' angles and makes the hand symmetric.
    pub(crate) fn randomize(&self, physics: &mut Physics, random: &mut RandomState) {
        let qpos = physics.qpos_mut();
        for (position, [low, high]) in self.positions.iter().zip(self.limits) {
            qpos[*position] = random.uniform(low, high);
        }
        qpos[self.finger] = qpos[self.thumb];
    }

    /// Sines, cosines and velocities of the joints.
    pub(crate) fn observe(&self, physics: &Physics, observation: &mut Observation) {
        let angles = self
            .positions
            .iter()
            .map(|position| physics.qpos()[*position]);
        observation.field(
            "arm_pos",
            angles.flat_map(|angle| [angle.sin(), angle.cos()]),
        );
        observation.field(
            "arm_vel",
            self.velocities.map(|velocity| physics.qvel()[velocity]),
        );
    }
}

/// x and z of a body and its rotation about y (w and y of its quaternion).
pub(crate) fn planar_pose(physics: &Physics, body: usize) -> [f64; 4] {
    let [x, _, z] = physics.xpos()[body];
    let [w, _, y, _] = physics.xquat()[body];
    [x, z, w, y]
}

/// Metres between two sites.
pub(crate) fn site_distance(physics: &Physics, a: usize, b: usize) -> f64 {
    norm(&difference(physics.site_xpos()[a], physics.site_xpos()[b]))
}
