//! What networks look like: torsos for policy and critic, and the policy's head.

use pmpo_kernels::Nonlinearity;
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::layers::MAX_WIDTH;
use crate::{CategoricalHead, GaussianHead, Layer, LinearOp, Plan, TensorSpec};

const MAX_HIDDEN: usize = 16;
const MAX_BLOCKS: usize = 16;
const MAX_EXPANSION: usize = 16;

/// The policy: a normaliser of observations if wished, a torso, and a distribution over actions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// The layers between observation and head.
    pub torso: TorsoConfig,
    /// Whether policy and critic see observations less their running mean, over their running standard
    /// deviation (Lee et al. 2025, SimbaV2, section 4.1: its largest single gain).
    pub normalise_observations: bool,
    /// Distribution over actions.
    pub head: HeadConfig,
}

/// The layers between inputs and outputs, of policy and critic each their own. The default is Acme's
/// `LayerNormMLP` with two layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TorsoConfig {
    /// Widths of the first linear layers; at least one.
    pub hidden_sizes: Vec<usize>,
    /// What follows them.
    pub activation: Activation,
    /// Residual blocks after them, `x + Linear(relu(Linear(LayerNorm(x))))`, and a last layer
    /// normalisation (Lee et al. 2025, SimBa, figure 4).
    pub blocks: usize,
    /// Width of a block's inner layer, over that of its input.
    pub expansion: usize,
    /// Layers of your own in place of all these; empty for none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

/// What follows the hidden layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `Linear, LayerNorm, tanh, [Linear, ELU]*`, as Acme's `LayerNormMLP`.
    #[default]
    LayerNormTanhElu,
    /// `Linear, LayerNorm, ReLU, [Linear, ReLU]*`.
    LayerNormRelu,
    /// `[Linear, LayerNorm, ReLU]*`.
    LayerNormReluEach,
    /// Nothing: what comes before residual blocks.
    None,
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

impl Default for HeadConfig {
    fn default() -> Self {
        Self::Gaussian(GaussianHead::default())
    }
}

impl Default for TorsoConfig {
    fn default() -> Self {
        Self {
            hidden_sizes: vec![128, 128],
            activation: Activation::default(),
            blocks: 0,
            expansion: 4,
            layers: Vec::new(),
        }
    }
}

impl TorsoConfig {
    /// A torso of these hidden layers, else the default.
    pub fn hidden(hidden_sizes: &[usize]) -> Self {
        Self {
            hidden_sizes: hidden_sizes.to_vec(),
            ..Self::default()
        }
    }

    /// The list of layers.
    pub fn layers(&self) -> Vec<Layer> {
        if !self.layers.is_empty() {
            return self.layers.clone();
        }
        let mut layers = Vec::new();
        for (i, &size) in self.hidden_sizes.iter().enumerate() {
            layers.push(Layer::Linear(size));
            let (norm, activation) = match (self.activation, i) {
                (Activation::LayerNormTanhElu, 0) => (true, Some(Layer::Tanh)),
                (Activation::LayerNormTanhElu, _) => (false, Some(Layer::Elu)),
                (Activation::LayerNormRelu, _) => (i == 0, Some(Layer::Relu)),
                (Activation::LayerNormReluEach, _) => (true, Some(Layer::Relu)),
                (Activation::None, _) => (false, None),
            };
            layers.extend(norm.then_some(Layer::LayerNorm));
            layers.extend(activation);
        }
        if self.blocks > 0 {
            let width = self.hidden_sizes.last().copied().unwrap_or_default();
            let block = Layer::Residual(vec![
                Layer::LayerNorm,
                Layer::Linear(width * self.expansion),
                Layer::Relu,
                Layer::Linear(width),
            ]);
            layers.extend(vec![block; self.blocks]);
            layers.push(Layer::LayerNorm);
        }
        layers
    }

    /// Refuses torsos that cannot be built.
    ///
    /// # Errors
    /// The message names the field, what was expected and the value received.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let hidden = self.hidden_sizes.len();
        if hidden == 0 || hidden > MAX_HIDDEN {
            let expected = format!("1 to {MAX_HIDDEN} layers");
            return Err(ConfigError::new("hidden_sizes", expected, hidden));
        }
        let wide = |size: &&usize| !(1..=MAX_WIDTH).contains(*size);
        if let Some(size) = self.hidden_sizes.iter().find(wide) {
            let expected = format!("widths from 1 to {MAX_WIDTH}");
            return Err(ConfigError::new("hidden_sizes", expected, size));
        }
        if self.blocks > MAX_BLOCKS {
            let expected = format!("at most {MAX_BLOCKS}");
            return Err(ConfigError::new("blocks", expected, self.blocks));
        }
        if !(1..=MAX_EXPANSION).contains(&self.expansion) {
            let expected = format!("1 to {MAX_EXPANSION}");
            return Err(ConfigError::new("expansion", expected, self.expansion));
        }
        // Any number of inputs serves, but where a residual block comes first.
        Plan::torso(&self.layers(), 1).map(|_| ())
    }
}

impl NetworkConfig {
    /// Refuses networks that cannot be built.
    ///
    /// # Errors
    /// The message names the field, what was expected and the value received.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.torso
            .validate()
            .map_err(|error| error.within("torso"))?;
        match &self.head {
            HeadConfig::Gaussian(head) => head.validate(),
            HeadConfig::Categorical(head) => head.validate(),
        }
    }

    /// The tensors of a policy between vectors of these sizes: names and shapes of a snapshot.
    ///
    /// # Errors
    /// The network or a size cannot be.
    pub fn tensors(
        &self,
        observation_size: usize,
        action_size: usize,
    ) -> Result<Vec<TensorSpec>, ConfigError> {
        Ok(self.plan(observation_size, action_size)?.network.tensors)
    }

    /// The plan of a policy between vectors of these sizes.
    ///
    /// # Errors
    /// The network or a size cannot be.
    pub fn plan(
        &self,
        observation_size: usize,
        action_size: usize,
    ) -> Result<PolicyPlan, ConfigError> {
        self.validate()?;
        for (field, size) in [
            ("observation_size", observation_size),
            ("action_size", action_size),
        ] {
            if !(1..=MAX_WIDTH).contains(&size) {
                return Err(ConfigError::new(field, format!("1 to {MAX_WIDTH}"), size));
            }
        }
        let mut network = Plan::torso(&self.torso.layers(), observation_size)?;
        let head = match &self.head {
            HeadConfig::Gaussian(head) => HeadPlan::Gaussian {
                mean: network.output("head.mean", action_size, head.mean_nonlinearity()),
                std: network.output("head.std", action_size, Nonlinearity::Softplus),
            },
            HeadConfig::Categorical(head) => HeadPlan::Categorical {
                logits: network.output(
                    "head.logits",
                    action_size * head.bins,
                    Nonlinearity::Identity,
                ),
            },
        };
        let normaliser = self.normalise_observations.then(|| {
            [("normaliser.mean", 0.0), ("normaliser.variance", 1.0)]
                .map(|(name, value)| network.untrained(name, observation_size, value))
        });
        Ok(PolicyPlan {
            network,
            head,
            normaliser,
        })
    }
}

/// A policy's tensors and what is computed with them.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyPlan {
    /// The tensors of all parts, and the torso.
    pub network: Plan,
    /// The head's layers.
    pub head: HeadPlan,
    /// Places of the observations' mean and variance, `[observation_size]` each.
    pub normaliser: Option<[usize; 2]>,
}

/// The layers of a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeadPlan {
    /// Of a Gaussian.
    Gaussian {
        /// `[features, action_size]`.
        mean: LinearOp,
        /// `[features, action_size]`, before it is scaled.
        std: LinearOp,
    },
    /// Of a categorical distribution.
    Categorical {
        /// `[features, action_size * bins]`.
        logits: LinearOp,
    },
}
