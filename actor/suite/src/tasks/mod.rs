//! The domains, one file each.

pub(crate) mod acrobot;
pub(crate) mod ball_in_cup;
pub(crate) mod cartpole;
pub(crate) mod cheetah;
pub(crate) mod dog;
pub(crate) mod finger;
pub(crate) mod fish;
pub(crate) mod hopper;
pub(crate) mod humanoid;
pub(crate) mod humanoid_cmu;
pub(crate) mod lqr;
pub(crate) mod manipulator;
pub(crate) mod pendulum;
mod planar_arm;
pub(crate) mod point_mass;
pub(crate) mod quadruped;
pub(crate) mod reacher;
pub(crate) mod stacker;
pub(crate) mod swimmer;
pub(crate) mod walker;
