//! Losses of policy and critic. Tensors in, a scalar to minimise and its statistics out: no networks,
//! no optimisers, no sampling.
//!
//! Shape legend, used throughout: `B` batch of states, `N` action samples a state, `A` action size.
//! Samples come first, `[N, B, ..]`, as in Acme's MPO. Every function asserts its shapes first, and
//! gradients flow into the online policy or critic only: references, samples, values and targets are
//! constants.

mod critic;
mod gaussian;
mod pmpo;

pub use critic::{CriticLoss, CriticLossOutput, CriticStats, critic_loss, td_target};
pub use gaussian::{DecoupledKl, DiagonalGaussian, decoupled_kl};
pub use pmpo::{PmpoConfig, PmpoLossOutput, PmpoStats, pmpo_loss, preference_weights};

use thiserror::Error;

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct ConfigError {
    /// The field, within its section.
    pub field: &'static str,
    /// What would have been accepted.
    pub expected: String,
    /// What was given.
    pub got: String,
}

impl ConfigError {
    fn new(field: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self {
            field,
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

#[cfg(test)]
mod testing;
