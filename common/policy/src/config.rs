//! What a network looks like. The same torso serves policy and critic; the head is the policy's.

use serde::{Deserialize, Serialize};

use crate::{CategoricalHead, ConfigError, GaussianHead};

const MAX_LAYERS: usize = 16;
const MAX_WIDTH: usize = 16_384;

/// Shape of a network. The default is Acme's `LayerNormMLP` with two layers and a Gaussian head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Widths of the torso's layers, first to last; at least one.
    pub hidden_sizes: Vec<usize>,
    /// Activations of the torso.
    pub activation: Activation,
    /// Distribution over actions.
    pub head: HeadConfig,
}

/// Activations of the torso: what follows the first linear layer, and what follows the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `Linear, LayerNorm, tanh, [Linear, ELU]*`, as Acme's `LayerNormMLP`.
    #[default]
    LayerNormTanhElu,
    /// `Linear, LayerNorm, ReLU, [Linear, ReLU]*`.
    LayerNormRelu,
}

/// The policy's distribution over canonical actions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HeadConfig {
    /// A Gaussian with a diagonal covariance.
    Gaussian(GaussianHead),
    /// A categorical distribution over bins for each dimension.
    Categorical(CategoricalHead),
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            hidden_sizes: vec![128, 128],
            activation: Activation::default(),
            head: HeadConfig::Gaussian(GaussianHead::default()),
        }
    }
}

impl NetworkConfig {
    /// Refuses networks that cannot be built.
    ///
    /// # Errors
    /// The message names the field, what was expected and the value received.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let layers = self.hidden_sizes.len();
        if layers == 0 || layers > MAX_LAYERS {
            let expected = format!("1 to {MAX_LAYERS} layers");
            return Err(ConfigError::new("hidden_sizes", expected, layers));
        }
        if let Some(size) = self
            .hidden_sizes
            .iter()
            .find(|size| !(1..=MAX_WIDTH).contains(*size))
        {
            let expected = format!("widths from 1 to {MAX_WIDTH}");
            return Err(ConfigError::new("hidden_sizes", expected, size));
        }
        match &self.head {
            HeadConfig::Gaussian(head) => head.validate(),
            HeadConfig::Categorical(head) => head.validate(),
        }
    }
}

/// Refuses sizes that no environment has, before anything is allocated for them.
pub(crate) fn validate_sizes(
    observation_size: usize,
    action_size: usize,
) -> Result<(), ConfigError> {
    for (field, size) in [
        ("observation_size", observation_size),
        ("action_size", action_size),
    ] {
        if !(1..=MAX_WIDTH).contains(&size) {
            return Err(ConfigError::new(field, format!("1 to {MAX_WIDTH}"), size));
        }
    }
    Ok(())
}
