//! Categorical distribution over bins of the canonical range for each dimension of the action: the
//! discretised policies of the paper ("Full online RL: control suite").
//!
//! `p(bin k) = softmax(linear(x))_k`; bin `k` of `K` stands for the action `-1 + 2 k / (K - 1)`. Zero
//! weights give the uniform distribution.

use pmpo_kernels::math::exp;
use pmpo_types::ConfigError;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::linear::Linear;

const MAX_BINS: usize = 1024;

/// Configuration of the categorical head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CategoricalHead {
    /// Bins of each dimension, from -1 to 1.
    pub bins: usize,
}

impl Default for CategoricalHead {
    fn default() -> Self {
        Self { bins: 11 }
    }
}

/// Distributions over bins: the head's output for one observation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CategoricalOutput<'a> {
    /// Probabilities, `[action_size, bins]`.
    pub probabilities: &'a [f32],
    /// Bins of each dimension.
    pub bins: usize,
}

impl CategoricalHead {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if (2..=MAX_BINS).contains(&self.bins) {
            return Ok(());
        }
        let expected = format!("2 to {MAX_BINS}");
        Err(ConfigError::new("head.bins", expected, self.bins))
    }

    /// The canonical action that a bin stands for.
    pub fn action(&self, bin: usize) -> f32 {
        (2.0 * bin as f64 / (self.bins - 1) as f64 - 1.0) as f32
    }
}

/// The head with its weights and its output for one observation.
#[derive(Clone, Debug)]
pub(crate) struct CategoricalNetwork {
    config: CategoricalHead,
    linear: Linear,
    logits: Vec<f32>,
    probabilities: Vec<f32>,
}

impl CategoricalNetwork {
    /// `linear` has `logits` outputs, a dimension of the action after the other.
    pub(crate) fn new(config: &CategoricalHead, logits: usize, linear: Linear) -> Self {
        Self {
            config: config.clone(),
            logits: vec![0.0; linear.padded_outputs()],
            probabilities: vec![0.0; logits],
            linear,
        }
    }

    /// Computes [`Self::output`] from the torso's features.
    #[inline(always)]
    pub(crate) fn forward<const FMA: bool>(&mut self, features: &[f32]) {
        self.linear
            .forward::<FMA>(features, features.len(), &mut self.logits);
        let bins = self.config.bins;
        let logits = self.logits[..self.probabilities.len()].chunks_exact(bins);
        for (probabilities, logits) in self.probabilities.chunks_exact_mut(bins).zip(logits) {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for (probability, logit) in probabilities.iter_mut().zip(logits) {
                *probability = exp::<FMA>(logit - largest);
                sum += *probability;
            }
            probabilities.iter_mut().for_each(|p| *p /= sum);
        }
    }

    pub(crate) fn output(&self) -> CategoricalOutput<'_> {
        CategoricalOutput {
            probabilities: &self.probabilities,
            bins: self.config.bins,
        }
    }

    /// Draws an action, and returns the logarithm of its probability.
    pub(crate) fn sample<R: Rng + ?Sized>(&self, rng: &mut R, action: &mut [f32]) -> f32 {
        let mut log_prob = 0.0;
        let dimensions = self.probabilities.chunks_exact(self.config.bins);
        for (action, probabilities) in action.iter_mut().zip(dimensions) {
            let mut left: f32 = rng.random();
            // The last bin takes what rounding leaves over.
            let passed = probabilities[..probabilities.len() - 1].iter();
            let bin = passed
                .take_while(|&&probability| {
                    let pass = left >= probability;
                    left -= probability;
                    pass
                })
                .count();
            *action = self.config.action(bin);
            log_prob += probabilities[bin].ln();
        }
        log_prob
    }

    /// The most likely action; of equals, the lowest.
    pub(crate) fn mode(&self, action: &mut [f32]) {
        let dimensions = self.probabilities.chunks_exact(self.config.bins);
        for (action, probabilities) in action.iter_mut().zip(dimensions) {
            let best = (0..probabilities.len())
                .rev()
                .max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]))
                .expect("at least two bins");
            *action = self.config.action(best);
        }
    }
}
