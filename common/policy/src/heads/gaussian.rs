//! Gaussian with a diagonal covariance over canonical actions.
//!
//! `mean = tanh(linear(x))`, or `linear(x)` without `tanh_mean`;
//! `std = min_std + (init_std - min_std) * softplus(linear(x)) / softplus(0)`, so that zero weights
//! give `init_std`. Acme's `MultivariateNormalDiagHead` scales its softplus the same way and adds
//! its minimum on top; here the minimum is part of `init_std`.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use crate::ConfigError;

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
}

impl Default for GaussianHead {
    fn default() -> Self {
        Self {
            tanh_mean: true,
            init_std: 0.7,
            min_std: 0.02,
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
        Ok(())
    }
}
