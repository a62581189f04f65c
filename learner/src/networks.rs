//! Policy and critic as modules of the tensor library, with the layout of
//! [`pmpo_policy::snapshot::expected_tensors`]: `Linear -> LayerNorm -> tanh -> [Linear -> ELU]*`
//! (Acme's `LayerNormMLP`), matrices `[in, out]`.
//!
//! Initialisation follows Acme in kind: uniform with variance `1 / (3 inputs)` in the torso, biases
//! zero, and output layers near zero, so that a fresh policy has the configured standard deviation
//! everywhere and a fresh critic says zero. Numbers are drawn on the CPU from the learner's
//! generator, so that a seed gives the same networks on every device.

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor, TensorData};
use pmpo_losses::{ActionDistribution, CategoricalActions, DiagonalGaussian};
use pmpo_policy::torso::LAYER_NORM_EPSILON;
use pmpo_policy::{Activation, GaussianHead, HeadConfig, NetworkConfig};
use rand::Rng;
use rand_distr::{Distribution, Uniform};

use crate::fused::{Nonlinearity, layer};

/// Variance of the torso's weights, times the number of inputs.
const TORSO_SCALE: f64 = 1.0 / 3.0;

/// Variance of an output layer's weights, times the number of inputs.
const OUTPUT_SCALE: f64 = 1e-4;

/// The layers that policy and critic share in kind.
#[derive(Module, Debug)]
pub(crate) struct Torso {
    layers: Vec<Linear>,
    norm: LayerNorm,
    #[module(skip)]
    activation: Activation,
}

impl Torso {
    fn new(network: &NetworkConfig, inputs: usize, rng: &mut impl Rng, device: &Device) -> Self {
        let sizes = &network.hidden_sizes;
        let inputs = std::iter::once(inputs).chain(sizes.iter().copied());
        Self {
            layers: inputs
                .zip(sizes)
                .map(|(inputs, &size)| linear([inputs, size], TORSO_SCALE, rng, device))
                .collect(),
            norm: LayerNormConfig::new(sizes[0])
                .with_epsilon(LAYER_NORM_EPSILON)
                .init(device),
            activation: network.activation,
        }
    }

    /// Features `[rows, last hidden size]` of inputs `[rows, inputs]`.
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let (normalised, others) = match self.activation {
            Activation::LayerNormTanhElu => (Nonlinearity::Tanh, Nonlinearity::Elu),
            Activation::LayerNormRelu => (Nonlinearity::Relu, Nonlinearity::Relu),
        };
        let (first, rest) = self.layers.split_first().expect("at least one layer");
        let x = layer(input, first, Some(&self.norm), normalised);
        rest.iter()
            .fold(x, |x, linear| layer(x, linear, None, others))
    }
}

/// The policy: a distribution over canonical actions in each state.
#[derive(Module, Debug)]
pub(crate) struct Policy {
    torso: Torso,
    head: Head,
}

/// The layers of the policy's head.
#[derive(Module, Debug)]
enum Head {
    Gaussian(GaussianLayers),
    Categorical(CategoricalLayers),
}

/// The layers of a Gaussian head.
#[derive(Module, Debug)]
struct GaussianLayers {
    mean: Linear,
    std: Linear,
    #[module(skip)]
    config: GaussianHead,
}

/// The layer of a categorical head.
#[derive(Module, Debug)]
struct CategoricalLayers {
    logits: Linear,
    #[module(skip)]
    bins: usize,
}

impl Policy {
    /// A fresh policy.
    pub(crate) fn new(
        network: &NetworkConfig,
        observation_size: usize,
        action_size: usize,
        rng: &mut impl Rng,
        device: &Device,
    ) -> Self {
        let torso = Torso::new(network, observation_size, rng, device);
        let mut output = |size| linear([features(network), size], OUTPUT_SCALE, rng, device);
        let head = match &network.head {
            HeadConfig::Gaussian(config) => Head::Gaussian(GaussianLayers {
                mean: output(action_size),
                std: output(action_size),
                config: config.clone(),
            }),
            HeadConfig::Categorical(config) => Head::Categorical(CategoricalLayers {
                logits: output(action_size * config.bins),
                bins: config.bins,
            }),
        };
        Self { torso, head }
    }

    /// The distributions `[rows, A]` in states `[rows, observation_size]`.
    pub(crate) fn forward(&self, observation: Tensor<2>) -> ActionDistribution {
        let features = self.torso.forward(observation);
        match &self.head {
            Head::Gaussian(head) => ActionDistribution::Gaussian(head.forward(features)),
            Head::Categorical(head) => ActionDistribution::Categorical(head.forward(features)),
        }
    }
}

impl GaussianLayers {
    fn forward(&self, features: Tensor<2>) -> DiagonalGaussian {
        let shape = if self.config.tanh_mean {
            Nonlinearity::Tanh
        } else {
            Nonlinearity::Identity
        };
        let std = layer(features.clone(), &self.std, None, Nonlinearity::Softplus);
        DiagonalGaussian {
            mean: layer(features, &self.mean, None, shape),
            std: std * self.config.std_scale() + self.config.min_std,
        }
    }
}

impl CategoricalLayers {
    fn forward(&self, features: Tensor<2>) -> CategoricalActions {
        let logits = layer(features, &self.logits, None, Nonlinearity::Identity);
        let [rows, outputs] = logits.dims();
        CategoricalActions::new(logits.reshape([rows, outputs / self.bins, self.bins]))
    }
}

/// The critic: what an action in a state is worth, in as many outputs as its loss wants.
#[derive(Module, Debug)]
pub(crate) struct Critic {
    torso: Torso,
    value: Linear,
}

impl Critic {
    /// A fresh critic with the policy's torso.
    pub(crate) fn new(
        network: &NetworkConfig,
        inputs: usize,
        outputs: usize,
        rng: &mut impl Rng,
        device: &Device,
    ) -> Self {
        let torso = Torso::new(network, inputs, rng, device);
        Self {
            torso,
            value: linear([features(network), outputs], OUTPUT_SCALE, rng, device),
        }
    }

    /// The outputs `[rows, K]` for actions `[rows, A]`, which are clipped to the canonical range as
    /// actors clip them, in states `[rows, observation_size]`.
    pub(crate) fn forward(&self, observation: Tensor<2>, action: Tensor<2>) -> Tensor<2> {
        let [rows, _] = observation.dims();
        assert_eq!(action.dims()[0], rows, "one action a row");
        let input = Tensor::cat(vec![observation, action.clamp(-1.0, 1.0)], 1);
        let features = self.torso.forward(input);
        layer(features, &self.value, None, Nonlinearity::Identity)
    }
}

fn features(network: &NetworkConfig) -> usize {
    *network.hidden_sizes.last().expect("at least one layer")
}

fn linear(shape: [usize; 2], scale: f64, rng: &mut impl Rng, device: &Device) -> Linear {
    let limit = (3.0 * scale / shape[0] as f64).sqrt() as f32;
    let uniform = Uniform::new_inclusive(-limit, limit).expect("a finite, positive limit");
    let weights: Vec<f32> = uniform.sample_iter(rng).take(shape[0] * shape[1]).collect();
    Linear {
        weight: Param::from_tensor(Tensor::from_data(TensorData::new(weights, shape), device)),
        bias: Some(Param::from_tensor(Tensor::zeros([shape[1]], device))),
    }
}

#[cfg(test)]
mod tests {
    use pmpo_policy::{CategoricalHead, HeadOutput, PolicyNetwork, snapshot};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;

    use super::*;
    use crate::parameters::{named_tensors, subtract};

    const SIZES: [usize; 2] = [5, 3];

    fn normal<const D: usize>(rng: &mut ChaCha8Rng, dims: [usize; D]) -> Tensor<D> {
        let count = dims.iter().product();
        let values: Vec<f32> = StandardNormal.sample_iter(rng).take(count).collect();
        Tensor::from_data(TensorData::new(values, dims), &Device::flex())
    }

    fn networks() -> Vec<NetworkConfig> {
        let linear_mean = GaussianHead {
            tanh_mean: false,
            ..GaussianHead::default()
        };
        vec![
            NetworkConfig {
                hidden_sizes: vec![16, 12, 8],
                ..NetworkConfig::default()
            },
            NetworkConfig {
                hidden_sizes: vec![16],
                activation: Activation::LayerNormRelu,
                head: HeadConfig::Gaussian(linear_mean),
            },
            NetworkConfig {
                hidden_sizes: vec![16, 8],
                head: HeadConfig::Categorical(CategoricalHead { bins: 5 }),
                ..NetworkConfig::default()
            },
        ]
    }

    /// The actor's plain-Rust network is another implementation of the same formulas; a policy with
    /// weights far from their initial values must act the same in both.
    #[test]
    fn the_actor_s_network_gives_the_same_distributions() {
        for network in networks() {
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let [inputs, actions] = SIZES;
            let policy = Policy::new(&network, inputs, actions, &mut rng, &Device::flex());
            let moved = normal(&mut rng, [policy.num_params()]) * 0.5;
            let policy = subtract(policy, moved);
            let tensors = named_tensors(&policy);
            let bytes = snapshot::encode(&network, inputs, actions, &tensors).unwrap();
            let mut actor = PolicyNetwork::from_snapshot(&bytes).unwrap();

            let observations = normal(&mut rng, [20, inputs]) * 2.0;
            let got = outputs(policy.forward(observations.clone()));
            let observations: Vec<f32> = observations.into_data().try_into_vec().unwrap();
            let width = got.len() / 20;
            for (observation, got) in observations.chunks(inputs).zip(got.chunks(width)) {
                let expected = match actor.forward(observation) {
                    HeadOutput::Gaussian(output) => [output.mean, output.std].concat(),
                    HeadOutput::Categorical(output) => output.probabilities.to_vec(),
                };
                for (got, expected) in got.iter().zip(expected) {
                    let difference = (got - expected).abs();
                    assert!(
                        difference <= 1e-5 * expected.abs().max(1.0),
                        "{got}, {expected}"
                    );
                }
            }
        }
    }

    /// What the actor's network says of each row: means and deviations, or probabilities.
    fn outputs(distribution: ActionDistribution) -> Vec<f32> {
        let table = match distribution {
            ActionDistribution::Gaussian(gaussian) => {
                Tensor::cat(vec![gaussian.mean, gaussian.std], 1)
            }
            ActionDistribution::Categorical(categorical) => {
                let [rows, actions, bins] = categorical.probabilities().dims();
                categorical.probabilities().reshape([rows, actions * bins])
            }
        };
        table.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn a_fresh_policy_has_the_configured_width_everywhere_and_a_fresh_critic_says_nothing() {
        let (network, mut rng) = (NetworkConfig::default(), ChaCha8Rng::seed_from_u64(3));
        let [inputs, actions] = SIZES;
        let device = Device::flex();
        let policy = Policy::new(&network, inputs, actions, &mut rng, &device);
        let critic = Critic::new(&network, inputs + actions, 1, &mut rng, &device);
        let observations = normal(&mut rng, [50, inputs]);
        let ActionDistribution::Gaussian(output) = policy.forward(observations.clone()) else {
            panic!("a Gaussian by default");
        };
        let largest = |tensor: Tensor<2>| tensor.max_abs().into_scalar::<f32>();
        assert!(largest(output.mean) < 0.1);
        assert!(largest(output.std - 0.7) < 0.05);
        let values = critic.forward(observations, normal(&mut rng, [50, actions]));
        assert!(values.max_abs().into_scalar::<f32>() < 0.1);
    }

    #[test]
    fn the_critic_sees_actions_as_they_are_carried_out() {
        let (network, mut rng) = (NetworkConfig::default(), ChaCha8Rng::seed_from_u64(3));
        let critic = Critic::new(&network, 5 + 3, 1, &mut rng, &Device::flex());
        let observation = normal(&mut rng, [1, 5]);
        let value = |action: [f32; 3]| {
            let action = Tensor::<1>::from_floats(action, &Device::flex()).reshape([1, 3]);
            critic
                .forward(observation.clone(), action)
                .into_scalar::<f32>()
        };
        assert_eq!(value([3.0, -1.5, 0.2]), value([1.0, -1.0, 0.2]));
        assert_ne!(value([0.9, -1.0, 0.2]), value([1.0, -1.0, 0.2]));
    }
}
