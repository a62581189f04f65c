//! Gaussians with a diagonal covariance, and their KL divergence, joint or decoupled into mean and
//! standard deviation as in MPO (Abdolmaleki et al. 2018b, "Relative Entropy Regularized Policy Iteration",
//! section 4.2.1; Acme's `MPO` loss).
//!
//! With one joint KL a step that shrinks the standard deviation can pay for a step of the mean;
//! splitting it gives each its own weight.

use burn::tensor::Tensor;

/// `ln(2 pi) / 2`.
const HALF_LN_TAU: f64 = 0.918_938_533_204_672_7;

/// One Gaussian over actions for each state of a batch.
#[derive(Clone, Debug)]
pub struct DiagonalGaussian {
    /// Means, `[B, A]`.
    pub mean: Tensor<2>,
    /// Standard deviations, `[B, A]`, positive.
    pub std: Tensor<2>,
}

impl DiagonalGaussian {
    /// Asserts that means and standard deviations have the same shape; returns `[B, A]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        let dims = self.mean.dims();
        assert_eq!(self.std.dims(), dims, "std must be [B, A] as the mean");
        dims
    }

    /// The same distribution as constants: no gradient flows into it.
    #[must_use]
    pub fn detach(self) -> Self {
        Self {
            mean: self.mean.without_autodiff(),
            std: self.std.without_autodiff(),
        }
    }

    /// The actions `mean + std * noise` for standard normal `noise`, `[N, B, A]`.
    pub fn sample(&self, noise: Tensor<3>) -> Tensor<3> {
        let [batch, size] = self.dims();
        let [_, b, a] = noise.dims();
        assert_eq!([b, a], [batch, size], "noise must be [N, B, A]");
        self.mean.clone().unsqueeze::<3>() + self.std.clone().unsqueeze::<3>() * noise
    }

    /// `ln pi(a)` of `actions` `[N, B, A]`, summed over the action's dimensions: `[N, B]`.
    pub fn log_prob(&self, actions: Tensor<3>) -> Tensor<2> {
        let [batch, size] = self.dims();
        let [samples, b, a] = actions.dims();
        assert_eq!([b, a], [batch, size], "actions must be [N, B, A]");
        let std = self.std.clone().unsqueeze::<3>();
        let z = (actions - self.mean.clone().unsqueeze::<3>()) / std;
        let quadratic = z.square().sum_dim(2).reshape([samples, batch]) * 0.5;
        let normaliser = self.std.clone().log().sum_dim(1).reshape([1, batch]);
        -(quadratic + normaliser) - HALF_LN_TAU * size as f64
    }
}

/// `KL(reference || policy)` in two parts, for each dimension of the action.
#[derive(Clone, Debug)]
pub struct DecoupledKl {
    /// `KL(N(mu_ref, std_ref) || N(mu, std_ref))`, `[B, A]`.
    pub mean: Tensor<2>,
    /// `KL(N(mu_ref, std_ref) || N(mu_ref, std))`, `[B, A]`.
    pub std: Tensor<2>,
}

/// The KL divergence from `reference` to `policy` in closed form, in the paper's order (reference
/// first, eq. 10), with only the mean and only the standard deviation moved. No gradient flows into
/// the reference.
pub fn decoupled_kl(reference: &DiagonalGaussian, policy: &DiagonalGaussian) -> DecoupledKl {
    let reference = constant_like(reference, policy);
    let shift = (policy.mean.clone() - reference.mean) / reference.std.clone();
    DecoupledKl {
        mean: shift.square() * 0.5,
        std: width_kl(reference.std / policy.std.clone()),
    }
}

/// `KL(reference || policy)` in closed form for each dimension of the action, `[B, A]`, in the paper's
/// order. No gradient flows into the reference.
pub fn gaussian_kl(reference: &DiagonalGaussian, policy: &DiagonalGaussian) -> Tensor<2> {
    let reference = constant_like(reference, policy);
    let shift = (policy.mean.clone() - reference.mean) / policy.std.clone();
    shift.square() * 0.5 + width_kl(reference.std / policy.std.clone())
}

fn constant_like(reference: &DiagonalGaussian, policy: &DiagonalGaussian) -> DiagonalGaussian {
    assert_eq!(
        reference.dims(),
        policy.dims(),
        "reference must be [B, A] as the policy"
    );
    reference.clone().detach()
}

/// `ln(std / std_ref) + std_ref^2 / (2 std^2) - 1/2`, by `ratio = std_ref / std`.
fn width_kl(ratio: Tensor<2>) -> Tensor<2> {
    ratio.clone().square() * 0.5 - ratio.log() - 0.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, constant, gradient_check, values};

    fn gaussian(mean: &[f64], std: &[f64], dims: [usize; 2]) -> DiagonalGaussian {
        DiagonalGaussian {
            mean: constant(mean, dims),
            std: constant(std, dims),
        }
    }

    /// `ln N(1; 0, 2) = -1/8 - ln 2 - ln(2 pi)/2` and `ln N(-1; 0.5, 0.5) = -9/2 + ln 2 - ln(2 pi)/2`.
    #[test]
    fn log_prob_by_hand() {
        let policy = gaussian(&[0.0, 0.5], &[2.0, 0.5], [1, 2]);
        let log_prob = policy.log_prob(constant(&[1.0, -1.0, 0.0, 0.5], [2, 1, 2]));
        assert_eq!(log_prob.dims(), [2, 1]);
        let tau = std::f64::consts::TAU.ln();
        assert_close(&values(log_prob), &[-0.125 - 4.5 - tau, -tau], 1e-12);
    }

    /// Means 1 apart in units of the reference's 0.5: (1 / 0.5)^2 / 2 = 2. Widths 0.5 and 1:
    /// ln 2 + 1/8 - 1/2. The other order would give 1/2 and 2 - 1/2 - ln 2.
    #[test]
    fn kl_by_hand_is_from_the_reference_to_the_policy() {
        let reference = gaussian(&[0.0], &[0.5], [1, 1]);
        let policy = gaussian(&[1.0], &[1.0], [1, 1]);
        let kl = decoupled_kl(&reference, &policy);
        assert_close(&values(kl.mean), &[2.0], 1e-12);
        assert_close(&values(kl.std), &[2f64.ln() + 0.125 - 0.5], 1e-12);
        // With both moved at once, the means are 1 apart in units of the policy's 1.
        let joint = gaussian_kl(&reference, &policy);
        assert_close(&values(joint), &[2f64.ln() + 0.125], 1e-12);
    }

    #[test]
    fn kl_of_a_policy_to_itself_is_zero_and_flat() {
        let parameters = [0.3, -0.2, 0.7, 0.4];
        let reference = gaussian(&parameters[..2], &parameters[2..], [1, 2]);
        let gradient = gradient_check(&parameters, |x| {
            let policy = DiagonalGaussian {
                mean: x.clone().slice(0..2).reshape([1, 2]),
                std: x.slice(2..4).reshape([1, 2]),
            };
            let kl = decoupled_kl(&reference, &policy);
            kl.mean.sum() + kl.std.sum() + gaussian_kl(&reference, &policy).sum()
        });
        assert_close(&gradient, &[0.0; 4], 1e-12);
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let reference = gaussian(&[0.1, -0.4, 0.2, 0.9], &[0.7, 0.3, 0.5, 1.1], [2, 2]);
        let actions = constant(&[0.5, -1.2, 0.1, 0.9, -0.3, 0.4], [1, 3, 2]);
        gradient_check(&[0.2, -0.1, 0.4, 0.8, 0.6, 0.4, 0.9, 0.7], |x| {
            let policy = DiagonalGaussian {
                mean: x.clone().slice(0..4).reshape([2, 2]),
                std: x.slice(4..8).reshape([2, 2]),
            };
            let kl = decoupled_kl(&reference, &policy);
            let joint = gaussian_kl(&reference, &policy);
            kl.mean.sum() + kl.std.sum() * 3.0 + joint.sum() * 0.5
        });
        gradient_check(
            &[0.2, -0.1, 0.4, 0.8, 0.3, 0.1, 0.6, 0.4, 0.9, 0.7, 0.5, 0.2],
            |x| {
                let policy = DiagonalGaussian {
                    mean: x.clone().slice(0..6).reshape([3, 2]),
                    std: x.slice(6..12).reshape([3, 2]),
                };
                policy.log_prob(actions.clone()).sum()
            },
        );
    }

    #[test]
    fn no_gradient_reaches_the_reference() {
        let policy = gaussian(&[0.1], &[0.5], [1, 1]);
        let x = constant::<1>(&[0.2, 0.7], [2]).autodiff().require_grad();
        let reference = DiagonalGaussian {
            mean: x.clone().slice(0..1).reshape([1, 1]),
            std: x.slice(1..2).reshape([1, 1]),
        };
        let kl = decoupled_kl(&reference, &policy);
        assert!(!kl.mean.is_autodiff() && !kl.std.is_autodiff());
        assert!(!gaussian_kl(&reference, &policy).is_autodiff());
    }

    #[test]
    #[should_panic(expected = "actions must be [N, B, A]")]
    fn a_shape_that_would_broadcast_is_refused() {
        let policy = gaussian(&[0.1, 0.2], &[0.5, 0.5], [2, 1]);
        policy.log_prob(constant(&[0.1, 0.2, 0.3], [3, 1, 1]));
    }
}
