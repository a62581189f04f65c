//! Random joint configurations. Source: dm_control's `suite/utils/randomizers.py`.

use std::f64::consts::PI;

use mujoco_rs::wrappers::mj_model::MjtJoint;

use crate::numpy::{RandomState, norm};
use crate::physics::Physics;

/// Draws limited hinges and slides within their limits, free hinges in [-pi, pi], and the
/// orientation of ball and free joints.
///
/// No model of the suite has a limited ball joint, so their rule is left out.
pub(crate) fn randomize_joints(physics: &mut Physics, random: &mut RandomState) {
    for joint in 0..physics.model().jnt_type().len() {
        let kind = physics.model().jnt_type()[joint];
        let limited = physics.model().jnt_limited()[joint];
        let [low, high] = physics.model().jnt_range()[joint];
        let address = physics.model().jnt_qposadr()[joint] as usize;
        let qpos = &mut physics.qpos_mut()[address..];
        match kind {
            MjtJoint::mjJNT_HINGE | MjtJoint::mjJNT_SLIDE if limited => {
                qpos[0] = random.uniform(low, high);
            }
            MjtJoint::mjJNT_HINGE => qpos[0] = random.uniform(-PI, PI),
            MjtJoint::mjJNT_SLIDE => {}
            MjtJoint::mjJNT_BALL => {
                let quaternion: [f64; 4] = random.normals();
                qpos[..4].copy_from_slice(&unit(quaternion));
            }
            // Uniform draws, not normal ones: dm_control keeps them for the sake of its benchmarks.
            MjtJoint::mjJNT_FREE => {
                let quaternion: [f64; 4] = std::array::from_fn(|_| random.standard_uniform());
                qpos[3..7].copy_from_slice(&unit(quaternion));
            }
        }
    }
}

/// `vector / np.linalg.norm(vector)`.
pub(crate) fn unit<const N: usize>(vector: [f64; N]) -> [f64; N] {
    let length = norm(&vector);
    vector.map(|element| element / length)
}
