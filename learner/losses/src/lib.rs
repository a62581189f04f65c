//! Losses of policy and critic. Tensors in, a scalar to minimise and its statistics out: no networks,
//! no optimisers, no sampling.
//!
//! Shape legend, used throughout: `B` batch of states, `N` action samples a state, `A` action size, `K`
//! bins of an action or atoms of a value, `T` steps of a trajectory.
//! Samples come first, `[N, B, ..]`, as in Acme's MPO. Every function asserts its shapes first, and
//! gradients flow into the online policy or critic only: references, samples, values and targets are
//! constants.

mod c51;
mod categorical;
mod critic;
mod distribution;
mod dpo;
mod gaussian;
mod ipo;
mod kl_penalty;
mod mpo;
mod pmpo;
mod policy_loss;
mod preference;
mod retrace;

pub use c51::{C51Config, Support};
pub use categorical::{CategoricalActions, categorical_kl};
pub use critic::{
    Combination, CriticHead, CriticLoss, CriticLossOutput, CriticStats, CriticTarget, Prediction,
};
pub use distribution::{ActionDistribution, Family};
pub use dpo::{DpoConfig, dpo_loss};
pub use gaussian::{DecoupledKl, DiagonalGaussian, decoupled_kl, gaussian_kl};
pub use ipo::{IpoConfig, ipo_loss};
pub use kl_penalty::{DecoupledWeights, JointKl, KlPenalty};
pub use mpo::{LEAST_DUAL, MpoConfig, mpo_loss};
pub use pmpo::{PmpoConfig, pmpo_loss};
pub use policy_loss::{Improvement, Judgement, PolicyLoss, PolicyLossOutput, PolicyStats};
pub use preference::{
    BaselinePreference, BaselineStatistic, Preference, RankPreference, preference_weights,
};
pub use retrace::{Trajectory, retrace};

#[cfg(test)]
mod testing;
