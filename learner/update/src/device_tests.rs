//! The update on another device than the CPU: burn's wgpu backend, which has kernel fusion, autotuning,
//! kernels and dispatch in common with its CUDA backend, on whatever driver there is; Mesa's software
//! driver will do.
//!
//! The CPU takes the fused layers and the fused Adam, every other device the composed formulas, so
//! the comparison is also one of those, over whole updates.

use burn::tensor::{Device, DeviceType};
use pmpo_losses::{C51Config, CriticLoss, JointKl, KlPenalty, MpoConfig, PmpoConfig, PolicyLoss};
use pmpo_policy::{Activation, CategoricalHead, GaussianHead, HeadConfig, TorsoConfig};
use pmpo_types::SampledBatch;

use crate::network::Network;
use crate::reward_scale::RewardScaleConfig;
use crate::{AgentConfig, Candidates, RefinedCandidates, TrainState, random_windows};

/// Observation size and action size: odd ones, so that kernels meet their edges.
const SIZES: [usize; 2] = [11, 3];

/// Windows in a batch.
const BATCH: usize = 60;

/// Updates compared; three of them copy the target networks.
const STEPS: u64 = 25;

/// How far apart a statistic may be, of its own size and of 1. PMPO on Mesa's software drivers: 1.3e-5 with
/// OpenGL, 3.6e-6 with Vulkan and WGSL (a driver made to hide what SPIR-V needs).
const STATISTICS_TOLERANCE: f32 = 1e-3;

/// How far apart the weights may be, of the way they have come. As above: 1.1e-4 and 6.4e-6.
const WEIGHTS_TOLERANCE: f64 = 1e-2;

fn config(head: HeadConfig, policy_loss: PolicyLoss, critic_loss: CriticLoss) -> AgentConfig {
    let mut config = AgentConfig::default();
    config.policy.torso = TorsoConfig::hidden(&[64, 40]);
    config.policy.head = head;
    config.critic.torso = TorsoConfig::hidden(&[64, 40]);
    config.critic.loss = critic_loss;
    let update = &mut config.update;
    update.reward_scale = RewardScaleConfig::Fixed(0.1);
    update.reward_range = [-4.0, 4.0];
    update.target_period_steps = 8;
    update.reference_period_steps = 8;
    update.policy.max_gradient_norm = 0.5;
    update.critic.max_gradient_norm = 0.5;
    update.policy_loss = policy_loss;
    config
}

fn state(config: &AgentConfig, seed: u64, device: &Device) -> TrainState {
    TrainState::new(config, SIZES, seed, device).unwrap()
}

fn gaussian() -> HeadConfig {
    HeadConfig::Gaussian(GaussianHead::default())
}

fn categorical() -> HeadConfig {
    HeadConfig::Categorical(CategoricalHead::default())
}

fn atoms() -> CriticLoss {
    CriticLoss::Categorical(C51Config::default())
}

/// The best that wgpu finds: Vulkan, or OpenGL where no Vulkan driver is.
fn gpu() -> Device {
    Device::enumerate(DeviceType::Wgpu)
        .into_vec()
        .swap_remove(0)
}

fn windows(config: &AgentConfig, step: u64) -> SampledBatch {
    random_windows(SIZES, BATCH, config.update.window(), step)
}

fn advance(state: &mut TrainState, config: &AgentConfig, steps: std::ops::Range<u64>) {
    for step in steps {
        let batch = state.prepare(&windows(config, step), 1.0);
        state.update(&batch);
    }
}

/// Online and target networks and dual variables.
fn weights(state: &TrainState) -> Vec<f32> {
    let (policy, critic) = (&state.policy, &state.critic);
    let networks = [&policy.online, &policy.reference].into_iter();
    let networks = networks.chain(&critic.online).chain(&critic.target);
    let flat = |network: &Network| -> Vec<f32> {
        let parameters = network.parameters.iter();
        parameters
            .flat_map(|parameter| parameter.flat().into_data().try_into_vec::<f32>().unwrap())
            .collect()
    };
    let mut weights: Vec<f32> = networks.flat_map(flat).collect();
    if let Some(duals) = &policy.duals {
        weights.extend(duals.values.to_data().try_into_vec::<f32>().unwrap());
    }
    weights
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>().sqrt()
}

/// [`STEPS`] updates without a reading in between, as in a run; statistics of each, and the weights before
/// and after.
fn run(config: &AgentConfig, device: &Device) -> (Vec<Vec<(&'static str, f32)>>, [Vec<f32>; 2]) {
    let mut state = state(config, 5, device);
    let before = weights(&state);
    let statistics: Vec<_> = (0..STEPS)
        .map(|step| {
            let batch = state.prepare(&windows(config, step), 1.0);
            state.update(&batch)
        })
        .collect();
    let statistics = statistics.into_iter().map(|step| step.read()).collect();
    (statistics, [before, weights(&state)])
}

fn agrees_with_the_cpu(config: &AgentConfig) {
    let (expected, [before, cpu]) = run(config, &Device::flex());
    let (got, [start, gpu]) = run(config, &gpu());
    assert_eq!(start, before);
    let mut worst = (0.0, "");
    for (step, (expected, got)) in expected.iter().zip(&got).enumerate() {
        for (&(name, expected), &(other, got)) in expected.iter().zip(got) {
            assert_eq!(name, other);
            let apart = (expected - got).abs() / expected.abs().max(1.0);
            if apart > worst.0 {
                worst = (apart, name);
            }
            assert!(
                apart < STATISTICS_TOLERANCE,
                "{name} at step {step}: {got}, on the CPU {expected}"
            );
        }
    }
    let (apart, way) = (distance(&cpu, &gpu), distance(&before, &cpu));
    println!(
        "statistics at most {:.1e} apart ({}), weights {:.1e} of a way of {way:.3}",
        worst.0,
        worst.1,
        apart / way
    );
    assert!(way > 0.1, "the weights have come {way}");
    assert!(
        apart < WEIGHTS_TOLERANCE * way,
        "weights are {apart} apart after a way of {way}"
    );
}

#[test]
fn pmpo_with_a_scalar_critic_agrees_with_the_cpu() {
    let pmpo = PolicyLoss::default();
    agrees_with_the_cpu(&config(gaussian(), pmpo, CriticLoss::Mse {}));
}

#[test]
fn mpo_with_its_duals_agrees_with_the_cpu() {
    let mpo = PolicyLoss::Mpo(MpoConfig::default());
    agrees_with_the_cpu(&config(gaussian(), mpo, CriticLoss::Mse {}));
}

#[test]
fn a_categorical_head_with_a_distributional_critic_agrees_with_the_cpu() {
    let pmpo = PolicyLoss::Pmpo(PmpoConfig {
        kl: KlPenalty::Joint(JointKl { beta: 1.0 }),
        ..PmpoConfig::default()
    });
    agrees_with_the_cpu(&config(categorical(), pmpo, atoms()));
}

/// Residual blocks, two critics with the minimum, normalised observations, candidates that the critics'
/// gradient refines: all that is composed on every device, and the gradient for the input alone.
#[test]
fn residual_critics_and_refined_candidates_agree_with_the_cpu() {
    let squashed = GaussianHead {
        squash: true,
        tanh_mean: false,
        ..GaussianHead::default()
    };
    let pmpo = PolicyLoss::default();
    let mut config = config(HeadConfig::Gaussian(squashed), pmpo, atoms());
    config.policy.normalise_observations = true;
    config.critic.torso = TorsoConfig {
        activation: Activation::None,
        blocks: 1,
        expansion: 2,
        ..TorsoConfig::hidden(&[24])
    };
    config.critic.count = 2;
    config.critic.combination = pmpo_losses::Combination::Minimum;
    config.update.actions_per_state = 1;
    config.update.candidates = Candidates::Refined(RefinedCandidates::default());
    agrees_with_the_cpu(&config);
}

/// A state restored from a checkpoint goes on bit for bit as the uninterrupted one.
#[test]
fn a_checkpoint_goes_on_bit_for_bit() {
    let device = gpu();
    for head in [gaussian(), categorical()] {
        let mpo = PolicyLoss::Mpo(MpoConfig::default());
        let config = config(head, mpo, CriticLoss::Mse {});
        let mut before = state(&config, 1, &device);
        advance(&mut before, &config, 0..10);
        let (file, scalars) = (before.to_file(), before.scalars());
        advance(&mut before, &config, 10..20);

        // The state it replaces has other weights and another generator.
        let other = state(&config, 2, &device);
        let mut restored = other.restored(&file, scalars).unwrap();
        advance(&mut restored, &config, 10..20);
        assert_eq!(restored.scalars(), before.scalars());
        assert_eq!(weights(&restored), weights(&before));
    }
}
