//! Heads: the distributions over actions that a policy network can end in.
//!
//! A new head is a file here, a variant of [`HeadConfig`], of
//! [`HeadPlan`] and of the two enums below, and its layers in
//! [`NetworkConfig::plan`].

mod categorical;
mod gaussian;

use categorical::CategoricalNetwork;
pub use categorical::{CategoricalHead, CategoricalOutput};
use gaussian::GaussianNetwork;
pub use gaussian::{GaussianHead, GaussianOutput};
use rand::Rng;

use crate::snapshot::Tensors;
use crate::torso::linear;
use crate::{HeadConfig, HeadPlan, LinearOp, NetworkConfig, PolicyPlan, SnapshotError};

/// A head's output for one observation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeadOutput<'a> {
    /// Of a Gaussian head.
    Gaussian(GaussianOutput<'a>),
    /// Of a categorical head.
    Categorical(CategoricalOutput<'a>),
}

/// A head with its weights and its output for one observation.
#[derive(Clone, Debug)]
pub(crate) enum HeadNetwork {
    Gaussian(GaussianNetwork),
    Categorical(CategoricalNetwork),
}

impl HeadNetwork {
    pub(crate) fn new(
        network: &NetworkConfig,
        plan: &PolicyPlan,
        tensors: &Tensors<'_>,
    ) -> Result<Self, SnapshotError> {
        let linear = |ops: &[LinearOp]| linear(&plan.network, ops, tensors);
        Ok(match (&network.head, plan.head) {
            (HeadConfig::Gaussian(head), HeadPlan::Gaussian { mean, std }) => {
                // Side by side: one pass over the features.
                Self::Gaussian(GaussianNetwork::new(
                    head,
                    plan.network.tensors[mean.bias].elements(),
                    linear(&[mean, std])?,
                ))
            }
            (HeadConfig::Categorical(head), HeadPlan::Categorical { logits }) => {
                Self::Categorical(CategoricalNetwork::new(
                    head,
                    plan.network.tensors[logits.bias].elements(),
                    linear(&[logits])?,
                ))
            }
            _ => unreachable!("a plan has the head of its network"),
        })
    }

    /// Computes [`Self::output`] from the torso's features.
    #[inline(always)]
    pub(crate) fn forward<const FMA: bool>(&mut self, features: &[f32]) {
        match self {
            Self::Gaussian(head) => head.forward::<FMA>(features),
            Self::Categorical(head) => head.forward::<FMA>(features),
        }
    }

    pub(crate) fn output(&self) -> HeadOutput<'_> {
        match self {
            Self::Gaussian(head) => HeadOutput::Gaussian(head.output()),
            Self::Categorical(head) => HeadOutput::Categorical(head.output()),
        }
    }

    /// Draws an action, not clipped, and returns the logarithm of its density or probability.
    pub(crate) fn sample<R: Rng + ?Sized>(&self, rng: &mut R, action: &mut [f32]) -> f32 {
        match self {
            Self::Gaussian(head) => head.sample(rng, action),
            Self::Categorical(head) => head.sample(rng, action),
        }
    }

    /// The most likely action, not clipped.
    pub(crate) fn mode(&self, action: &mut [f32]) {
        match self {
            Self::Gaussian(head) => head.mode(action),
            Self::Categorical(head) => head.mode(action),
        }
    }
}
