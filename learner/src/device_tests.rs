//! The update on another device than the CPU: burn's wgpu backend, which has kernel fusion, autotuning,
//! kernels and dispatch in common with its CUDA backend, on whatever driver there is; Mesa's software
//! driver will do.
//!
//! The CPU takes the fused layers and the fused Adam, every other device the composed formulas, so
//! the comparison is also one of those, over whole updates.

use burn::tensor::{Device, DeviceType};
use pmpo_losses::{C51Config, CriticLoss, JointKl, KlPenalty, MpoConfig, PmpoConfig, PolicyLoss};
use pmpo_policy::{CategoricalHead, GaussianHead, HeadConfig, NetworkConfig};
use pmpo_types::{ColumnBatch, transition};

use crate::bench::random_batch;
use crate::parameters::named_tensors;
use crate::run::warm_up;
use crate::state_file::{self, Scalars};
use crate::{Batch, LearnerConfig, TrainState};

/// Observation size and action size: odd ones, so that kernels meet their edges.
const SIZES: [usize; 2] = [11, 3];

/// Transitions in a batch.
const BATCH: usize = 60;

/// Updates compared; three of them copy the target networks.
const STEPS: usize = 25;

/// How far apart a statistic may be, of its own size and of 1. PMPO on Mesa's software drivers: 1.3e-5 with
/// OpenGL, 3.6e-6 with Vulkan and WGSL (a driver made to hide what SPIR-V needs).
const STATISTICS_TOLERANCE: f32 = 1e-3;

/// How far apart the weights may be, of the way they have come. As above: 1.1e-4 and 6.4e-6.
const WEIGHTS_TOLERANCE: f64 = 1e-2;

struct Case {
    network: NetworkConfig,
    learner: LearnerConfig,
}

impl Case {
    fn new(head: HeadConfig, policy_loss: PolicyLoss, critic_loss: CriticLoss) -> Self {
        let network = NetworkConfig {
            hidden_sizes: vec![64, 40],
            head,
            ..NetworkConfig::default()
        };
        let learner = LearnerConfig {
            target_period_steps: 8,
            max_gradient_norm: 0.5,
            policy_loss,
            critic_loss,
            ..LearnerConfig::default()
        };
        learner.validate(&network.head).unwrap();
        Self { network, learner }
    }

    fn state(&self, seed: u64, device: &Device) -> TrainState {
        TrainState::new(&self.network, &self.learner, SIZES, seed, device)
    }
}

fn gaussian() -> HeadConfig {
    HeadConfig::Gaussian(GaussianHead::default())
}

fn categorical() -> HeadConfig {
    HeadConfig::Categorical(CategoricalHead::default())
}

fn atoms() -> CriticLoss {
    CriticLoss::Categorical(C51Config {
        min_value: -3.0,
        max_value: 3.0,
        ..C51Config::default()
    })
}

/// The best that wgpu finds: Vulkan, or OpenGL where no Vulkan driver is.
fn gpu() -> Device {
    Device::enumerate(DeviceType::Wgpu)
        .into_vec()
        .swap_remove(0)
}

/// [`STEPS`] batches.
fn batches(device: &Device) -> Vec<Batch> {
    let signature = transition::signature(SIZES[0], SIZES[1]);
    let all = random_batch(&signature, STEPS * BATCH);
    let part = |step: usize| {
        let columns = all.columns().iter().map(|column| {
            let size = column.len() / STEPS;
            column.slice(step * size..(step + 1) * size)
        });
        ColumnBatch::new(&signature, BATCH, columns.collect()).unwrap()
    };
    (0..STEPS)
        .map(|step| Batch::new(&part(step), device))
        .collect()
}

/// Online and target networks and dual variables.
fn weights(state: &TrainState) -> Vec<f32> {
    let networks = [&state.online, &state.target].into_iter();
    let tensors = networks.flat_map(|networks| {
        [
            named_tensors(&networks.policy),
            named_tensors(&networks.critic),
        ]
    });
    let mut weights: Vec<f32> = tensors.flatten().flat_map(|tensor| tensor.values).collect();
    if let Some(duals) = &state.duals {
        weights.extend(duals.values.to_data().try_into_vec::<f32>().unwrap());
    }
    weights
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>().sqrt()
}

/// [`STEPS`] updates without a reading in between, as in a run, with noise from the host; statistics of
/// each, and the weights before and after.
fn run(case: &Case, device: &Device) -> (Vec<Vec<(&'static str, f32)>>, [Vec<f32>; 2]) {
    let mut state = case.state(5, device);
    state.noise.on_host();
    let before = weights(&state);
    let statistics: Vec<_> = batches(device)
        .iter()
        .map(|batch| state.update(&case.learner, batch))
        .collect();
    let statistics = statistics.into_iter().map(|step| step.read()).collect();
    (statistics, [before, weights(&state)])
}

fn agrees_with_the_cpu(case: &Case) {
    let (expected, [before, cpu]) = run(case, &Device::flex());
    let (got, [start, gpu]) = run(case, &gpu());
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
    agrees_with_the_cpu(&Case::new(
        gaussian(),
        PolicyLoss::default(),
        CriticLoss::Mse {},
    ));
}

#[test]
fn mpo_with_its_duals_agrees_with_the_cpu() {
    let mpo = PolicyLoss::Mpo(MpoConfig::default());
    agrees_with_the_cpu(&Case::new(gaussian(), mpo, CriticLoss::Mse {}));
}

#[test]
fn a_categorical_head_with_a_distributional_critic_agrees_with_the_cpu() {
    let pmpo = PolicyLoss::Pmpo(PmpoConfig {
        kl: KlPenalty::Joint(JointKl { beta: 1.0 }),
        ..PmpoConfig::default()
    });
    agrees_with_the_cpu(&Case::new(categorical(), pmpo, atoms()));
}

/// Noise drawn by the device. A state restored from a checkpoint, and warmed up, goes on bit for bit as
/// the uninterrupted one. In one test, for the device's generator is one for the process.
#[test]
fn drawn_noise_comes_back_with_a_checkpoint_and_has_its_moments() {
    for head in [gaussian(), categorical()] {
        let mpo = PolicyLoss::Mpo(MpoConfig::default());
        let case = Case::new(head, mpo, CriticLoss::Mse {});
        goes_on_bit_for_bit(&case);
        let mut state = case.state(5, &gpu());
        let noise = [0, 1, 2].map(|step| {
            let drawn = state.noise.draw(step, [8, 512, 3]);
            drawn.into_data().try_into_vec::<f32>().unwrap()
        });
        has_its_moments(&noise, &case.network.head);
    }
}

fn goes_on_bit_for_bit(case: &Case) {
    let device = gpu();
    let batches = batches(&device);
    let advance = |state: &mut TrainState, batches: &[Batch]| {
        for batch in batches {
            state.update(&case.learner, batch);
        }
    };
    let mut state = case.state(1, &device);
    advance(&mut state, &batches[..10]);
    let (file, scalars) = (state_file::encode(&state), Scalars::of(&state));
    advance(&mut state, &batches[10..20]);

    // The state it replaces has other weights and another generator.
    let mut restored = state_file::restore(case.state(2, &device), &file, scalars).unwrap();
    warm_up(&case.learner, SIZES, &restored);
    assert!(state_file::encode(&restored) == file, "warming up is free");
    advance(&mut restored, &batches[10..20]);
    assert_eq!(Scalars::of(&restored), Scalars::of(&state));
    assert_eq!(weights(&restored), weights(&state));
}

/// Means, variances, the share in the middle and the correlation of two steps, all within five
/// standard errors.
fn has_its_moments(steps: &[Vec<f32>; 3], head: &HeadConfig) {
    let (mean, variance, fourth, middle) = match head {
        HeadConfig::Gaussian(_) => (0.0, 1.0, 3.0, 0.682_69),
        HeadConfig::Categorical(_) => (0.5, 1.0 / 12.0, 1.0 / 80.0, 0.577_35),
    };
    let count = steps[0].len() as f64;
    let error = 5.0 / count.sqrt();
    let centred = steps.each_ref().map(|values| {
        let values = values.iter().map(|&value| f64::from(value) - mean);
        values.collect::<Vec<_>>()
    });
    let average = |f: &dyn Fn(usize) -> f64| (0..steps[0].len()).map(f).sum::<f64>() / count;
    let near = |what: &str, got: f64, expected: f64, deviation: f64| {
        assert!(
            (got - expected).abs() < error * deviation,
            "{what} is {got}, expected {expected}"
        );
    };
    let std = f64::sqrt(variance);
    for (step, values) in centred.iter().enumerate() {
        let next = &centred[(step + 1) % 3];
        near("mean", average(&|i| values[i]), 0.0, std);
        let spread = f64::sqrt(fourth - variance * variance);
        near(
            "variance",
            average(&|i| values[i].powi(2)),
            variance,
            spread,
        );
        let inside = |i: usize| f64::from(u8::from(values[i].abs() < std));
        near("middle", average(&inside), middle, 0.5);
        near(
            "covariance",
            average(&|i| values[i] * next[i]),
            0.0,
            variance,
        );
    }
    if matches!(head, HeadConfig::Categorical(_)) {
        let all = steps.iter().flatten();
        assert!(all.into_iter().all(|value| (0.0..1.0).contains(value)));
    }
}
