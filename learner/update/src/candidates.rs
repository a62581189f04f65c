//! Which actions are compared when the policy is improved.
//!
//! - **Sampled**: `N` actions of the reference policy in each state, compared by the target critics' values
//!   (the paper, "Full online RL").
//! - **Refined**: an action of the reference policy and one that the critic says is better, a step up its
//!   gradient. The refined one is accepted, the other rejected. With `u` what the policy's Gaussian gives
//!   and `a = tanh u` the action, the score is soft, `S(u) = Q(s, a) - tau ln pi_ref(a|s)`, so
//!
//!   `dS/du = dQ/du + tau ((u - mean) / std^2 - 2 tanh u)`,
//!   `u' = u + std clip(step g / rms(g))`, `g = std dS/du`,
//!
//!   where `rms` is over the batch and the action's dimensions. In many dimensions ranks of a few samples
//!   say little about each of them; a gradient says something of all. The preference is still the critic's
//!   and the policy still learns from accepted and rejected actions under a KL to the reference.
//!
//!   Against the sample itself the step widens the Gaussian, whatever the critic says:
//!   `(u' - mean)^2 - (u - mean)^2 = 2 (u - mean) (u' - u) + (u' - u)^2`. With half of the step up and half of it down
//!   ([`Rejected::Opposite`]) the last term is gone, and the loss pulls at mean and deviation as the gradient of
//!   the expected score does.
//!
//! - **Data**: the actions of a data set in its own states, with the labels that somebody gave them (the
//!   paper, "Offline RL"). An action may have none. Not all of the data need be labelled, nor both labels be
//!   there: what remains of the loss is what there is data for.
//!
//! The temperature `tau` follows the entropy of the reference policy's actions, as SAC's does (Haarnoja et
//! al. 2018b, section 5): `ln tau` goes up by its rate where the entropy is below its target, and down
//! where it is above.

use burn::tensor::{Device, Tensor};
use pmpo_losses::{ActionDistribution, Judgement};
use pmpo_policy::{GaussianHead, HeadConfig};
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::critic::Critic;

/// `ln 2`.
const LN_2: f64 = std::f64::consts::LN_2;

/// The actions that are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Candidates {
    /// Samples of the reference policy.
    // With braces it refuses the other's keys; a unit would ignore them.
    Sampled {},
    /// Samples, and what the critic's gradient makes of them.
    Refined(RefinedCandidates),
    /// The data's own, by their labels.
    Data(DataCandidates),
}

/// Actions of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataCandidates {
    /// Whether labels count. Without them all that is left is the KL to the behaviour.
    pub labels: bool,
}

impl Default for DataCandidates {
    fn default() -> Self {
        Self { labels: true }
    }
}

impl DataCandidates {
    /// What labels `[B]`, 1, -1 and 0, say of as many actions.
    pub(crate) fn judgement(
        &self,
        labels: Option<&Tensor<1>>,
        batch: usize,
        device: &Device,
    ) -> Judgement {
        let labels = match labels {
            Some(labels) if self.labels => labels.clone().unsqueeze::<2>(),
            _ => Tensor::zeros([1, batch], device),
        };
        Judgement::Labels {
            accepted: labels.clone().clamp_min(0.0),
            rejected: (-labels).clamp_min(0.0),
        }
    }
}

impl Default for Candidates {
    fn default() -> Self {
        Self::Sampled {}
    }
}

/// A step up the soft score's gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RefinedCandidates {
    /// Root mean square of the step, in the policy's standard deviations.
    pub step: f64,
    /// Largest step of a dimension, in the policy's standard deviations.
    pub max_step: f64,
    /// What is rejected.
    pub rejected: Rejected,
    /// Entropy that the policy's actions are kept at, for each dimension, in nats. The uniform policy has
    /// `ln 2`.
    pub target_entropy: f64,
    /// The temperature at first, in units of scaled rewards.
    pub init_temperature: f64,
    /// How far the temperature's logarithm goes in a step.
    pub temperature_rate: f64,
}

/// What an action that the critic's gradient makes is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejected {
    /// The sample that the step was made from.
    #[default]
    Sample,
    /// What half of the step down makes of the sample; accepted is what half of it up does.
    Opposite,
}

impl Default for RefinedCandidates {
    fn default() -> Self {
        Self {
            step: 0.5,
            max_step: 1.5,
            rejected: Rejected::Sample,
            target_entropy: -1.0,
            init_temperature: 0.01,
            temperature_rate: 3e-4,
        }
    }
}

impl Candidates {
    /// Refuses what cannot be, alone or with the policy's head.
    pub(crate) fn validate(&self, head: &HeadConfig) -> Result<(), ConfigError> {
        let Self::Refined(config) = self else {
            return Ok(());
        };
        for (field, value) in [
            ("candidates.step", config.step),
            ("candidates.max_step", config.max_step),
            ("candidates.init_temperature", config.init_temperature),
        ] {
            ConfigError::positive(field, value)?;
        }
        ConfigError::not_negative("candidates.temperature_rate", config.temperature_rate)?;
        let entropy = config.target_entropy;
        if !(entropy < LN_2 && entropy.is_finite()) {
            let expected = "less than ln 2 = 0.693, which the uniform policy has";
            return Err(ConfigError::new(
                "candidates.target_entropy",
                expected,
                entropy,
            ));
        }
        if !matches!(
            head,
            HeadConfig::Gaussian(GaussianHead { squash: true, .. })
        ) {
            let expected = "sampled, but with a Gaussian policy.head with squash = true";
            return Err(ConfigError::new("candidates.kind", expected, "refined"));
        }
        Ok(())
    }

    /// The initial temperature; none without refinement.
    pub(crate) fn temperature(&self, device: &Device) -> Option<Temperature> {
        match self {
            Self::Sampled {} | Self::Data(_) => None,
            Self::Refined(config) => Some(Temperature {
                log: Tensor::from_floats([config.init_temperature.ln()], device),
            }),
        }
    }
}

/// Of the soft score, learned.
#[derive(Clone, Debug)]
pub(crate) struct Temperature {
    /// `ln tau`, `[1]`.
    pub(crate) log: Tensor<1>,
}

impl Temperature {
    pub(crate) fn value(&self) -> Tensor<1> {
        self.log.clone().exp()
    }

    /// Goes where the entropy's target is, given the entropy of the actions' dimensions, `[1]`.
    pub(crate) fn follow(&mut self, config: &RefinedCandidates, entropy: Tensor<1>) {
        let missing = (-entropy + config.target_entropy).sign();
        self.log = self.log.clone() + missing * config.temperature_rate;
    }
}

/// Pairs of actions in `B` states: those of the reference policy and their refinements.
pub(crate) struct Pairs {
    /// `[2 N, B, A]`: what is rejected of each sample, then what is accepted.
    pub(crate) actions: Tensor<3>,
    pub(crate) judgement: Judgement,
    /// Entropy of the reference policy's actions, a dimension of them, `[1]`.
    pub(crate) entropy: Tensor<1>,
}

/// Refines `samples` `[N, B, A]` of the reference policy, as its Gaussian gave them, in states `[B, O]`, by
/// the online critics.
pub(crate) fn refine(
    config: &RefinedCandidates,
    temperature: &Temperature,
    critic: &Critic,
    observation: Tensor<2>,
    reference: &ActionDistribution,
    samples: Tensor<3>,
) -> Pairs {
    let ActionDistribution::Gaussian(reference) = reference else {
        unreachable!("configurations were validated");
    };
    let [count, batch, size] = samples.dims();
    let rows = count * batch;
    let flat = samples.clone().reshape([rows, size]);
    let states = observation.repeat(&[count, 1]);
    let slope = critic.squashed_action_gradient(states, flat.clone());

    let mean = reference.mean.clone().repeat(&[count, 1]);
    let std = reference.std.clone().repeat(&[count, 1]);
    let deviation = (flat.clone() - mean) / std.clone();
    let tau = temperature.value().unsqueeze::<2>();
    let soft = (deviation.clone() / std.clone() - flat.clone().tanh() * 2.0) * tau;
    let gradient = (slope + soft) * std.clone();
    let rms = gradient.clone().square().mean().sqrt();
    // Where the critic says nothing at all, nothing is refined.
    let scale = rms.clamp_min(f64::from(f32::MIN_POSITIVE)).recip() * config.step;
    let step = gradient * scale.unsqueeze::<2>();
    let step = step.clamp(-config.max_step, config.max_step) * std.clone();
    let pairs = match config.rejected {
        Rejected::Sample => [flat.clone(), flat.clone() + step],
        Rejected::Opposite => {
            let half = step * 0.5;
            [flat.clone() - half.clone(), flat.clone() + half]
        }
    };
    let pairs = pairs.map(|actions| actions.reshape([count, batch, size]));

    let ones = Tensor::<2>::ones([count, batch], &samples.device());
    let zeros = ones.zeros_like();
    Pairs {
        actions: Tensor::cat(pairs.into(), 0),
        judgement: Judgement::Labels {
            accepted: Tensor::cat(vec![zeros.clone(), ones.clone()], 0),
            rejected: Tensor::cat(vec![ones, zeros], 0),
        },
        entropy: entropy(deviation, std, flat),
    }
}

/// The mean entropy of a dimension of `tanh u`, by samples `u` `[rows, A]` with their deviations from the
/// mean in standard deviations: that of `u` by its density, and the mean of `ln (1 - tanh^2 u)`.
fn entropy(deviation: Tensor<2>, std: Tensor<2>, flat: Tensor<2>) -> Tensor<1> {
    let gaussian = deviation.square() * 0.5 + std.log() + 0.5 * std::f64::consts::TAU.ln();
    // ln (1 - tanh^2 u) = 2 (ln 2 - |u| - ln (1 + e^-2|u|)), which does not run out of digits.
    let size = flat.abs();
    let squash = (-size.clone() - ((size * -2.0).exp() + 1.0).log() + LN_2) * 2.0;
    (gaussian + squash).mean()
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use pmpo_losses::DiagonalGaussian;
    use pmpo_policy::TorsoConfig;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::CriticConfig;

    fn normal(seed: u64, dims: [usize; 2]) -> Tensor<2> {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let values = StandardNormal.sample_iter(rng).take(dims[0] * dims[1]);
        let values: Vec<f32> = values.collect();
        Tensor::from_data(TensorData::new(values, dims), &Device::flex())
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    fn critic(count: usize) -> Critic {
        let config = CriticConfig {
            torso: TorsoConfig::hidden(&[16, 16]),
            count,
            ..CriticConfig::default()
        };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let device = Device::flex();
        let mut critic = Critic::new(&config, 5, [0.0, 1.0], &mut rng, &device).unwrap();
        // Far from where training starts, so that the gradients are worth looking at.
        for (i, network) in critic.online.iter_mut().enumerate() {
            let moved = network.parameters.iter().map(|parameter| {
                let size = parameter.flat().dims()[0];
                let noise = values(normal(7 + i as u64, [1, size]));
                parameter.plus(&parameter.like(noise), 0.3)
            });
            network.parameters = moved.collect();
        }
        critic
    }

    /// `S` summed over the rows, whose gradient the refinement follows.
    fn score(
        critic: &Critic,
        temperature: f64,
        reference: &DiagonalGaussian,
        observation: &Tensor<2>,
        u: &Tensor<2>,
    ) -> f64 {
        let values = critic.online.iter().map(|network| {
            let outputs = critic.outputs(network, observation.clone(), u.clone().tanh());
            f64::from(outputs.sum().into_scalar::<f32>())
        });
        let q = values.sum::<f64>() / critic.online.len() as f64;
        let deviation = (u.clone() - reference.mean.clone()) / reference.std.clone();
        let log_density = -(deviation.square() * 0.5 + reference.std.clone().log());
        let log_density = log_density - (-u.clone().tanh().square() + 1.0).log();
        q - temperature * f64::from(log_density.sum().into_scalar::<f32>())
    }

    /// A pair is a small step along the gradient of the score, which central differences give, from the sample or with
    /// the sample in its middle.
    #[test]
    fn refined_actions_follow_the_gradient_of_the_soft_score() {
        const ROWS: usize = 6;
        for (count, rejected) in [
            (1, Rejected::Sample),
            (2, Rejected::Sample),
            (1, Rejected::Opposite),
        ] {
            let critic = critic(count);
            let observation = normal(2, [ROWS, 3]);
            let reference = DiagonalGaussian {
                mean: normal(3, [ROWS, 2]) * 0.3,
                std: normal(4, [ROWS, 2]).abs() * 0.3 + 0.2,
            };
            let u = reference.mean.clone() + reference.std.clone() * normal(5, [ROWS, 2]);
            let config = RefinedCandidates {
                step: 0.1,
                max_step: 10.0,
                rejected,
                init_temperature: 0.3,
                ..RefinedCandidates::default()
            };
            let temperature = Temperature {
                log: Tensor::from_floats([0.3f32.ln()], &Device::flex()),
            };
            let distribution = ActionDistribution::Gaussian(reference.clone());
            let pairs = refine(
                &config,
                &temperature,
                &critic,
                observation.clone(),
                &distribution,
                u.clone().reshape([1, ROWS, 2]),
            );
            let [down, up] = [0, 1].map(|i| pairs.actions.clone().narrow(0, i, 1));
            let sample = match rejected {
                Rejected::Sample => down.clone(),
                Rejected::Opposite => (down.clone() + up.clone()) * 0.5,
            };
            let off = (sample.reshape([ROWS, 2]) - u.clone()).max_abs();
            assert!(off.into_scalar::<f32>() < 1e-6, "{rejected:?}");
            let step = (up - down).reshape([ROWS, 2]);
            let step = values(step / reference.std.clone());
            let std = values(reference.std.clone());
            let gradient: Vec<f64> = (0..ROWS * 2)
                .map(|i| {
                    let at = |delta: f32| {
                        let mut moved = values(u.clone());
                        moved[i] += delta;
                        let moved = TensorData::new(moved, [ROWS, 2]);
                        let moved = Tensor::from_data(moved, &Device::flex());
                        score(&critic, 0.3, &reference, &observation, &moved)
                    };
                    f64::from(std[i]) * (at(1e-2) - at(-1e-2)) / 2e-2
                })
                .collect();
            let squares: f64 = gradient.iter().map(|g| g * g).sum();
            let rms = (squares / gradient.len() as f64).sqrt();
            for (step, gradient) in step.iter().zip(&gradient) {
                let expected = 0.1 * gradient / rms;
                let error = (f64::from(*step) - expected).abs();
                assert!(error < 3e-3, "{step} against {expected}");
            }
        }
    }

    /// A single dimension that is pulled far harder than the others goes no further than the limit.
    #[test]
    fn no_dimension_goes_further_than_the_limit_and_pairs_are_labelled() {
        let critic = critic(1);
        let reference = DiagonalGaussian {
            mean: normal(3, [8, 2]),
            std: Tensor::full([8, 2], 0.5, &Device::flex()),
        };
        let config = RefinedCandidates {
            step: 3.0,
            max_step: 1.0,
            ..RefinedCandidates::default()
        };
        let temperature = Candidates::Refined(config.clone()).temperature(&Device::flex());
        let samples = reference.mean.clone().reshape([1, 8, 2]);
        let distribution = ActionDistribution::Gaussian(reference);
        let pairs = refine(
            &config,
            &temperature.unwrap(),
            &critic,
            normal(2, [8, 3]),
            &distribution,
            samples,
        );
        let [down, up] = [0, 1].map(|i| pairs.actions.clone().narrow(0, i, 1));
        let step = up - down;
        let largest = step.max_abs().into_scalar::<f32>();
        assert!((largest - 0.5).abs() < 1e-6, "{largest}");
        let Judgement::Labels { accepted, rejected } = pairs.judgement else {
            panic!("labels");
        };
        assert_eq!(values(accepted), [[0.0; 8], [1.0; 8]].concat());
        assert_eq!(values(rejected), [[1.0; 8], [0.0; 8]].concat());
    }

    /// Of `tanh u` with `u` uniform enough: for a wide Gaussian nearly all mass is at the ends and the
    /// entropy is low; for a narrow one it is the Gaussian's, `ln(std sqrt(2 pi e))`.
    #[test]
    fn the_entropy_is_that_of_the_squashed_actions() {
        let of = |std: f64| {
            let deviation = normal(1, [20_000, 1]);
            let std = Tensor::full([20_000, 1], std, &Device::flex());
            let flat = deviation.clone() * std.clone();
            entropy(deviation, std, flat).into_scalar::<f32>()
        };
        let narrow = (0.01 * (std::f64::consts::TAU * std::f64::consts::E).sqrt()).ln();
        assert!((f64::from(of(0.01)) - narrow).abs() < 0.02, "{}", of(0.01));
        // Numerically, by the density of tanh u on a grid of the actions.
        let density = |a: f64, std: f64| {
            let u = a.atanh();
            (-0.5 * (u / std).powi(2)).exp() / (std * std::f64::consts::TAU.sqrt()) / (1.0 - a * a)
        };
        for std in [0.5, 1.0] {
            let grid = (-9_999..=9_999).map(|i| f64::from(i) / 10_000.0);
            let expected: f64 = grid
                .map(|a| density(a, std))
                .filter(|p| *p > 0.0)
                .map(|p| -p * p.ln() / 10_000.0)
                .sum();
            assert!(
                (f64::from(of(std)) - expected).abs() < 0.03,
                "{std}: {expected}"
            );
        }
    }

    #[test]
    fn the_temperature_goes_where_the_entropy_should_be() {
        let config = RefinedCandidates {
            temperature_rate: 0.5,
            init_temperature: 1.0,
            ..RefinedCandidates::default()
        };
        let mut temperature = Candidates::Refined(config.clone())
            .temperature(&Device::flex())
            .unwrap();
        let scalar = |value: f32| Tensor::<1>::from_floats([value], &Device::flex());
        temperature.follow(&config, scalar(-2.0));
        assert_eq!(values(temperature.log.clone()), [0.5]);
        temperature.follow(&config, scalar(0.0));
        temperature.follow(&config, scalar(0.0));
        assert_eq!(values(temperature.log), [-0.5]);
    }

    #[test]
    fn refinement_wants_a_squashed_gaussian() {
        let refined = Candidates::Refined(RefinedCandidates::default());
        let squashed = HeadConfig::Gaussian(GaussianHead {
            squash: true,
            tanh_mean: false,
            ..GaussianHead::default()
        });
        assert_eq!(refined.validate(&squashed), Ok(()));
        assert_eq!(
            refined
                .validate(&HeadConfig::default())
                .unwrap_err()
                .to_string(),
            "candidates.kind: expected sampled, but with a Gaussian policy.head with squash = true, got \
             refined"
        );
    }
}
