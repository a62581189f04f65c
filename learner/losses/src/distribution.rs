//! The distributions over actions that a policy may end in, behind one face: what the losses need of
//! a policy, whatever its head.

use burn::tensor::Tensor;

use crate::{CategoricalActions, DiagonalGaussian};

/// The kinds of [`ActionDistribution`], for configurations to be checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// [`DiagonalGaussian`].
    Gaussian,
    /// [`CategoricalActions`].
    Categorical,
}

/// One distribution over canonical actions for each state of a batch.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "handles of tensors, moved a few times a step"
)]
pub enum ActionDistribution {
    /// A Gaussian with a diagonal covariance.
    Gaussian(DiagonalGaussian),
    /// A categorical distribution over bins for every dimension of the action.
    Categorical(CategoricalActions),
}

impl ActionDistribution {
    /// Which kind it is.
    pub fn family(&self) -> Family {
        match self {
            Self::Gaussian(_) => Family::Gaussian,
            Self::Categorical(_) => Family::Categorical,
        }
    }

    /// `[B, A]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Gaussian(gaussian) => gaussian.dims(),
            Self::Categorical(categorical) => categorical.dims(),
        }
    }

    /// Actions `[N, B, A]` from noise of that shape: standard normal for a Gaussian, uniform over
    /// [0, 1) for a categorical distribution.
    pub fn sample(&self, noise: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Gaussian(gaussian) => gaussian.sample(noise),
            Self::Categorical(categorical) => categorical.sample(noise),
        }
    }

    /// `ln pi(a)` of `actions` `[N, B, A]`, summed over the action's dimensions: `[N, B]`.
    pub fn log_prob(&self, actions: Tensor<3>) -> Tensor<2> {
        match self {
            Self::Gaussian(gaussian) => gaussian.log_prob(actions),
            Self::Categorical(categorical) => categorical.log_prob(actions),
        }
    }

    /// The same distribution as constants: no gradient flows into it.
    #[must_use]
    pub fn detach(self) -> Self {
        match self {
            Self::Gaussian(gaussian) => Self::Gaussian(gaussian.detach()),
            Self::Categorical(categorical) => Self::Categorical(categorical.detach()),
        }
    }

    /// How much the distributions explore, as one statistic with its name: the mean standard deviation of
    /// Gaussians, the mean entropy of a dimension of categorical distributions (nats); `[1]`.
    pub fn exploration(&self) -> (&'static str, Tensor<1>) {
        match self {
            Self::Gaussian(gaussian) => {
                ("policy_std", gaussian.std.clone().without_autodiff().mean())
            }
            Self::Categorical(categorical) => ("policy_entropy", categorical.entropy().mean()),
        }
    }
}
