//! Gaussian with a diagonal covariance over canonical actions, or over what a hyperbolic tangent makes
//! canonical actions of (`squash`, as in SAC; Haarnoja et al. 2018, appendix C).
//!
//! `mean = tanh(linear(x))`, or `linear(x)` without `tanh_mean`;
//! `std = min_std + (init_std - min_std) * softplus(linear(x)) / softplus(0)`, so that zero weights
//! give `init_std`. Acme's `MultivariateNormalDiagHead` scales its softplus the same way and adds
//! its minimum on top; here the minimum is part of `init_std`.

use std::f64::consts::LN_2;

use pmpo_kernels::Nonlinearity;
use pmpo_kernels::math::softplus;
use pmpo_types::ConfigError;
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::linear::Linear;

/// `ln(2 pi) / 2`.
const HALF_LN_TAU: f32 = 0.918_938_5;

/// Configuration of the Gaussian head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GaussianHead {
    /// Whether the mean is squashed into the action range.
    pub tanh_mean: bool,
    /// Standard deviation of an untrained head.
    pub init_std: f64,
    /// Lower bound of the standard deviation.
    pub min_std: f64,
    /// Whether an action is the hyperbolic tangent of what the Gaussian gives, which then is not bounded:
    /// no action is beyond the range, and none is cut off at it.
    pub squash: bool,
}

impl Default for GaussianHead {
    fn default() -> Self {
        Self {
            tanh_mean: true,
            init_std: 0.7,
            min_std: 0.02,
            squash: false,
        }
    }
}

/// A Gaussian over actions: the head's output for one observation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaussianOutput<'a> {
    /// Mean, `[action_size]`.
    pub mean: &'a [f32],
    /// Standard deviation, `[action_size]`.
    pub std: &'a [f32],
}

impl GaussianHead {
    /// The factor of `softplus(linear(x))` in the standard deviation:
    /// `(init_std - min_std) / softplus(0)`, where `softplus(0) = ln 2`.
    pub fn std_scale(&self) -> f64 {
        (self.init_std - self.min_std) / LN_2
    }

    pub(crate) fn mean_nonlinearity(&self) -> Nonlinearity {
        if self.tanh_mean {
            Nonlinearity::Tanh
        } else {
            Nonlinearity::Identity
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if !(self.min_std > 0.0 && self.min_std <= 10.0) {
            return Err(ConfigError::new(
                "head.min_std",
                "more than 0, at most 10",
                self.min_std,
            ));
        }
        if !(self.init_std > self.min_std && self.init_std <= 10.0) {
            let expected = format!("more than head.min_std = {}, at most 10", self.min_std);
            return Err(ConfigError::new("head.init_std", expected, self.init_std));
        }
        if self.squash && self.tanh_mean {
            let expected = "false with head.squash = true, which bounds the actions";
            return Err(ConfigError::new("head.tanh_mean", expected, true));
        }
        Ok(())
    }
}

/// The head with its weights and its output for one observation.
#[derive(Clone, Debug)]
pub(crate) struct GaussianNetwork {
    config: GaussianHead,
    /// Mean and standard deviation side by side: one pass over the features.
    linear: Linear,
    raw: Vec<f32>,
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl GaussianNetwork {
    /// `linear` has `action_size` outputs for the means, then as many for the deviations.
    pub(crate) fn new(config: &GaussianHead, action_size: usize, linear: Linear) -> Self {
        Self {
            config: config.clone(),
            raw: vec![0.0; linear.padded_outputs()],
            mean: vec![0.0; action_size],
            std: vec![0.0; action_size],
            linear,
        }
    }

    /// Computes [`Self::output`] from the torso's features.
    #[inline(always)]
    pub(crate) fn forward<const FMA: bool>(&mut self, features: &[f32]) {
        self.linear
            .forward::<FMA>(features, features.len(), &mut self.raw);
        let (mean, rest) = self.raw.split_at(self.mean.len());
        self.mean.copy_from_slice(mean);
        self.config.mean_nonlinearity().apply::<FMA>(&mut self.mean);
        let (floor, scale) = (self.config.min_std as f32, self.config.std_scale() as f32);
        for (std, raw) in self.std.iter_mut().zip(rest) {
            *std = floor + scale * softplus::<FMA>(*raw);
        }
    }

    pub(crate) fn output(&self) -> GaussianOutput<'_> {
        GaussianOutput {
            mean: &self.mean,
            std: &self.std,
        }
    }

    /// Draws an action, and returns the logarithm of its density; of a squashed one, that of what it is
    /// the hyperbolic tangent of.
    pub(crate) fn sample<R: Rng + ?Sized>(&self, rng: &mut R, action: &mut [f32]) -> f32 {
        let mut log_prob = 0.0;
        for ((action, mean), std) in action.iter_mut().zip(&self.mean).zip(&self.std) {
            let noise: f32 = rng.sample(StandardNormal);
            *action = mean + std * noise;
            log_prob -= 0.5 * noise * noise + std.ln() + HALF_LN_TAU;
        }
        self.squash(action);
        log_prob
    }

    /// The most likely action.
    pub(crate) fn mode(&self, action: &mut [f32]) {
        action.copy_from_slice(&self.mean);
        self.squash(action);
    }

    fn squash(&self, action: &mut [f32]) {
        if self.config.squash {
            action.iter_mut().for_each(|x| *x = x.tanh());
        }
    }
}
