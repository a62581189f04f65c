//! Categorical distributions over bins of the canonical range, one for each dimension of the action:
//! the discretised policies of the paper ("Full online RL: control suite").
//!
//! Bin `k` of `K` stands for the action `-1 + 2 k / (K - 1)`. Actions are carried as those numbers, so
//! that critics and replay need not know which head acted; any other action counts as its nearest bin.

use burn::tensor::{Int, Tensor, activation};

/// One categorical distribution for each dimension of the action and each state of a batch.
#[derive(Clone, Debug)]
pub struct CategoricalActions {
    /// Normalised, `[B, A, K]`.
    log_probs: Tensor<3>,
}

impl CategoricalActions {
    /// The distributions with these logits `[B, A, K]`, `K` at least 2.
    pub fn new(logits: Tensor<3>) -> Self {
        assert!(logits.dims()[2] >= 2, "at least two bins");
        Self {
            log_probs: activation::log_softmax(logits, 2),
        }
    }

    /// `[B, A]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        let [batch, size, _] = self.log_probs.dims();
        [batch, size]
    }

    /// Probabilities of the bins, `[B, A, K]`.
    pub fn probabilities(&self) -> Tensor<3> {
        self.log_probs.clone().exp()
    }

    fn bins(&self) -> usize {
        self.log_probs.dims()[2]
    }

    /// The same distribution as constants: no gradient flows into it.
    #[must_use]
    pub fn detach(self) -> Self {
        Self {
            log_probs: self.log_probs.without_autodiff(),
        }
    }

    /// Actions `[N, B, A]` by inversion: with `u` of `noise` `[N, B, A]`, uniform over [0, 1), the bin
    /// is the number of cumulative probabilities that `u` has passed.
    pub fn sample(&self, noise: Tensor<3>) -> Tensor<3> {
        let [batch, size] = self.dims();
        let [samples, b, a] = noise.dims();
        assert_eq!([b, a], [batch, size], "noise must be [N, B, A]");
        let bins = self.bins();
        // The last sum is 1 but for rounding, and must never be passed.
        let passed = self.log_probs.clone().without_autodiff().exp().cumsum(2);
        let passed = passed.narrow(2, 0, bins - 1).unsqueeze::<4>();
        let noise = noise.reshape([samples, batch, size, 1]);
        let bin = noise.greater_equal(passed).float().sum_dim(3);
        bin.cast(self.log_probs.dtype())
            .reshape([samples, batch, size])
            * (2.0 / (bins - 1) as f64)
            - 1.0
    }

    /// `ln pi(a)` of `actions` `[N, B, A]`, summed over the action's dimensions: `[N, B]`.
    pub fn log_prob(&self, actions: Tensor<3>) -> Tensor<2> {
        let [batch, size] = self.dims();
        let [samples, b, a] = actions.dims();
        assert_eq!([b, a], [batch, size], "actions must be [N, B, A]");
        let bins = self.bins();
        let chosen = self.bin_of(actions).reshape([samples, batch, size, 1]);
        self.log_probs
            .clone()
            .unsqueeze::<4>()
            .expand([samples, batch, size, bins])
            .gather(3, chosen)
            .reshape([samples, batch, size])
            .sum_dim(2)
            .reshape([samples, batch])
    }

    fn bin_of(&self, actions: Tensor<3>) -> Tensor<3, Int> {
        let last = (self.bins() - 1) as f64;
        ((actions.without_autodiff() + 1.0) * (last / 2.0))
            .round()
            .clamp(0.0, last)
            .int()
    }

    /// Entropy of each dimension in nats, `[B, A]`; a statistic, so without a gradient.
    pub fn entropy(&self) -> Tensor<2> {
        let log_probs = self.log_probs.clone().without_autodiff();
        -(log_probs.clone().exp() * log_probs)
            .sum_dim(2)
            .reshape(self.dims())
    }
}

/// `KL(reference || policy)` in closed form for each dimension, `[B, A]`, in the paper's order
/// (reference first, eq. 10). No gradient flows into the reference.
pub fn categorical_kl(reference: &CategoricalActions, policy: &CategoricalActions) -> Tensor<2> {
    assert_eq!(
        reference.log_probs.dims(),
        policy.log_probs.dims(),
        "reference must be [B, A, K] as the policy"
    );
    let reference = reference.log_probs.clone().without_autodiff();
    (reference.clone().exp() * (reference - policy.log_probs.clone()))
        .sum_dim(2)
        .reshape(policy.dims())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, constant, gradient_check, values};

    /// Probabilities 0.2, 0.3, 0.5 of the actions -1, 0, 1.
    fn three_bins() -> CategoricalActions {
        let logits = [0.2f64.ln() + 4.0, 0.3f64.ln() + 4.0, 0.5f64.ln() + 4.0];
        CategoricalActions::new(constant(&logits, [1, 1, 3]))
    }

    #[test]
    fn samples_invert_the_cumulative_distribution() {
        let noise = [0.0, 0.19, 0.21, 0.49, 0.51, 0.999_999_9];
        let actions = three_bins().sample(constant(&noise, [6, 1, 1]));
        assert_close(&values(actions), &[-1.0, -1.0, 0.0, 0.0, 1.0, 1.0], 1e-12);
    }

    #[test]
    fn log_probabilities_are_of_the_nearest_bin_and_add_up_over_dimensions() {
        let actions = constant(&[-1.0, 0.1, 0.9, 7.0], [4, 1, 1]);
        let expected = [0.2f64, 0.3, 0.5, 0.5].map(f64::ln);
        assert_close(&values(three_bins().log_prob(actions)), &expected, 1e-12);

        let logits = [0.25f64, 0.75, 0.6, 0.4].map(f64::ln);
        let two = CategoricalActions::new(constant(&logits, [1, 2, 2]));
        let log_prob = two.log_prob(constant(&[1.0, -1.0], [1, 1, 2]));
        assert_close(&values(log_prob), &[(0.75f64 * 0.6).ln()], 1e-12);
    }

    /// `0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75)`; the other order would be `0.1308`.
    #[test]
    fn kl_by_hand_in_the_paper_s_order() {
        let of = |p: [f64; 2]| CategoricalActions::new(constant(&p.map(f64::ln), [1, 1, 2]));
        let kl = categorical_kl(&of([0.5, 0.5]), &of([0.25, 0.75]));
        let expected = 0.5 * 2f64.ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert_close(&values(kl), &[expected], 1e-12);
        let same = categorical_kl(&of([0.3, 0.7]), &of([0.3, 0.7]));
        assert_close(&values(same), &[0.0], 1e-12);
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let logits = [
            0.3, -0.2, 0.9, 0.1, 0.5, -0.7, 0.2, 0.0, 1.0, -0.4, 0.6, 0.8,
        ];
        let reference = CategoricalActions::new(constant(&logits, [2, 2, 3]));
        let x: Vec<f64> = logits.iter().rev().map(|l| l * 1.3).collect();
        let policy = |x: Tensor<1>| CategoricalActions::new(x.reshape([2, 2, 3]));
        gradient_check(&x, |x| categorical_kl(&reference, &policy(x)).sum());
        let actions = [1.0, 0.0, -1.0, 1.0, 0.0, 0.0, 1.0, 1.0];
        let weights = constant(&[0.5, -0.25, 1.0, -2.0], [2, 2]);
        gradient_check(&x, |x| {
            (policy(x).log_prob(constant(&actions, [2, 2, 2])) * weights.clone()).sum()
        });
    }

    #[test]
    fn entropy_is_that_of_the_bins() {
        let expected = -(0.2 * 0.2f64.ln() + 0.3 * 0.3f64.ln() + 0.5 * 0.5f64.ln());
        assert_close(&values(three_bins().entropy()), &[expected], 1e-12);
    }
}
