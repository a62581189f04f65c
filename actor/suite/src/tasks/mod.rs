//! The domains, one file each.

pub(crate) mod cartpole;
pub(crate) mod cheetah;
pub(crate) mod pendulum;
pub(crate) mod point_mass;
pub(crate) mod reacher;
pub(crate) mod walker;
