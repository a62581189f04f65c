//! The step as a whole: a bandit, every combination of losses, gradients through the networks.

use burn::tensor::TensorData;
use bytes::Bytes;
use pmpo_losses::{
    ActionDistribution, C51Config, CriticLoss, DiagonalGaussian, DpoConfig, IpoConfig, JointKl,
    KlPenalty, MpoConfig, PmpoConfig, PolicyLoss,
};
use pmpo_policy::{CategoricalHead, HeadConfig};
use pmpo_types::{ColumnBatch, transition};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

use super::*;

fn network() -> NetworkConfig {
    NetworkConfig {
        hidden_sizes: vec![24, 24],
        ..NetworkConfig::default()
    }
}

fn fresh(config: &LearnerConfig) -> TrainState {
    TrainState::new(&network(), config, [1, 1], 1, &Device::flex())
}

fn gaussian(distribution: ActionDistribution) -> DiagonalGaussian {
    match distribution {
        ActionDistribution::Gaussian(gaussian) => gaussian,
        ActionDistribution::Categorical(_) => panic!("a Gaussian head"),
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// A bandit: the observation says nothing, an action `a` pays `-4 (a - 0.2)^2`, episodes end at
/// once.
fn bandit(rng: &mut ChaCha8Rng, len: usize) -> Batch {
    let mut column = |f: &mut dyn FnMut(&mut ChaCha8Rng) -> f32| -> Bytes {
        (0..len).flat_map(|_| f(rng).to_le_bytes()).collect()
    };
    let action = column(&mut |rng| rng.random_range(-1.0..1.0));
    let actions = action.chunks_exact(4);
    let reward = actions.flat_map(|bytes| {
        let action = f32::from_le_bytes(bytes.try_into().unwrap());
        (-4.0 * (action - 0.2).powi(2)).to_le_bytes()
    });
    let reward = reward.collect();
    let columns = vec![
        column(&mut |rng| rng.random()),
        action,
        reward,
        column(&mut |_| 0.0),
        column(&mut |rng| rng.random()),
        vec![0; 8 * len].into(),
    ];
    let columns = ColumnBatch::new(&transition::signature(1, 1), len, columns).unwrap();
    Batch::new(&columns, &Device::flex())
}

#[test]
fn a_bandit_is_learned() {
    let config = LearnerConfig {
        policy_learning_rate: 3e-4,
        critic_learning_rate: 5e-3,
        reward_scale: 1.0,
        ..LearnerConfig::default()
    };
    let mut state = fresh(&config);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..800 {
        let batch = bandit(&mut rng, 64);
        state.update(&config, &batch);
    }
    let observation = bandit(&mut rng, 20).observation;
    let policy = gaussian(state.online.policy.forward(observation.clone()));
    for (mean, std) in values(policy.mean).into_iter().zip(values(policy.std)) {
        assert!((mean - 0.2).abs() < 0.15, "mean {mean}");
        // Far actions are rejected on both sides: the policy narrows, as fast as the KL lets it.
        assert!((0.6..0.695).contains(&std), "std {std}");
    }
    let action = Tensor::full([20, 1], -0.5, &Device::flex());
    for value in values(state.online.critic.forward(observation, action)) {
        assert!((value + 1.96).abs() < 0.3, "value {value}");
    }
}

#[test]
fn targets_change_with_their_period_and_only_then() {
    let config = LearnerConfig {
        target_period_steps: 3,
        ..LearnerConfig::default()
    };
    let mut state = fresh(&config);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut before = (
        named_tensors(&state.target.policy),
        named_tensors(&state.target.critic),
    );
    for step in 1..=6 {
        state.update(&config, &bandit(&mut rng, 8));
        let target = (
            named_tensors(&state.target.policy),
            named_tensors(&state.target.critic),
        );
        let online = (
            named_tensors(&state.online.policy),
            named_tensors(&state.online.critic),
        );
        if step % 3 == 0 {
            assert_eq!(target, online);
            before = target;
        } else {
            assert_eq!(target, before);
            assert_ne!(target, online);
        }
    }
}

#[test]
fn a_seed_gives_the_same_networks_with_the_names_of_snapshots() {
    let config = LearnerConfig::default();
    let new =
        |seed| TrainState::new(&network(), &config, [4, 2], seed, &Device::flex()).policy_tensors();
    let tensors = new(1);
    assert_eq!(tensors, new(1));
    assert_ne!(tensors, new(2));
    let mut got: Vec<_> = tensors.into_iter().map(|t| (t.name, t.shape)).collect();
    let mut expected = pmpo_policy::snapshot::expected_tensors(&network(), 4, 2);
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
}

/// The gradient of both losses through the networks, along a random direction, against central
/// differences.
#[test]
fn gradients_through_the_networks_equal_finite_differences() {
    const STEP: f64 = 2e-3;
    let config = LearnerConfig::default();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let batch = bandit(&mut rng, 64);
    let mut state = fresh(&config);
    for _ in 0..150 {
        state.update(&config, &batch);
    }
    let mut normal = |count: usize| {
        let values: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(count).collect();
        Tensor::<1>::from_data(TensorData::new(values, [count]), &Device::flex())
    };
    let online = state.online.clone();
    let direction = (
        normal(online.policy.num_params()),
        normal(online.critic.num_params()),
    );
    // Each evaluation draws the same actions, for it starts from the same generator.
    let losses = |along: f64| {
        let mut state = state.clone();
        state.online = Networks {
            policy: subtract(online.policy.clone(), direction.0.clone() * -along),
            critic: subtract(online.critic.clone(), direction.1.clone() * -along),
        };
        let losses = state.losses(&config, &batch);
        (losses.policy.loss, losses.critic.loss)
    };
    let scalar = |tensor: Tensor<1>| f64::from(tensor.into_scalar::<f32>());
    let at_rest = state.clone().losses(&config, &batch);
    let mut gradients = (at_rest.policy.loss + at_rest.critic.loss).backward();
    let along =
        |gradient: Tensor<1>, direction: &Tensor<1>| scalar((gradient * direction.clone()).sum());
    let policy = along(flat_gradient(&online.policy, &mut gradients), &direction.0);
    let critic = along(flat_gradient(&online.critic, &mut gradients), &direction.1);
    let (above, below) = (losses(STEP), losses(-STEP));
    let difference = |above, below| (scalar(above) - scalar(below)) / (2.0 * STEP);
    for (name, gradient, expected) in [
        ("policy", policy, difference(above.0, below.0)),
        ("critic", critic, difference(above.1, below.1)),
    ] {
        let error = (gradient - expected).abs();
        assert!(
            error < 0.02 * expected.abs(),
            "{name}: {gradient} against {expected}"
        );
    }
}

/// Every loss with every head and critic, on the bandit: the policy moves towards the better
/// actions, and nothing is ever not finite.
#[test]
fn every_combination_of_losses_improves_the_bandit() {
    let joint = |beta| KlPenalty::Joint(JointKl { beta });
    let pmpo = |alpha, kl| {
        PolicyLoss::Pmpo(PmpoConfig {
            alpha,
            kl,
            ..PmpoConfig::default()
        })
    };
    let losses = [
        pmpo(0.5, joint(1.0)),
        pmpo(1.0, joint(1.0)),
        pmpo(0.0, joint(2.0)),
        pmpo(0.5, KlPenalty::default()),
        PolicyLoss::Mpo(MpoConfig {
            init_log_temperature: 0.0,
            init_log_alpha_mean: 0.0,
            ..MpoConfig::default()
        }),
        PolicyLoss::Dpo(DpoConfig { beta: 1.0 }),
        PolicyLoss::Ipo(IpoConfig { beta: 0.5 }),
    ];
    let heads = [
        network().head,
        HeadConfig::Categorical(CategoricalHead::default()),
    ];
    let critics = [
        CriticLoss::Mse {},
        CriticLoss::Categorical(C51Config {
            min_value: -6.0,
            max_value: 0.0,
            ..C51Config::default()
        }),
    ];
    let mut tried = 0;
    for policy_loss in losses {
        for head in &heads {
            for critic_loss in &critics {
                let config = LearnerConfig {
                    policy_learning_rate: 1e-3,
                    critic_learning_rate: 5e-3,
                    reward_scale: 1.0,
                    max_gradient_norm: 10.0,
                    policy_loss: policy_loss.clone(),
                    critic_loss: critic_loss.clone(),
                    ..LearnerConfig::default()
                };
                if config.validate(head).is_ok() {
                    improves_the_bandit(&config, head);
                    tried += 1;
                }
            }
        }
    }
    // The decoupled KL has no categorical form.
    assert_eq!(tried, 7 * 2 * 2 - 2);
}

fn improves_the_bandit(config: &LearnerConfig, head: &HeadConfig) {
    let network = NetworkConfig {
        head: head.clone(),
        ..network()
    };
    let mut state = TrainState::new(&network, config, [1, 1], 1, &Device::flex());
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    // Mean payoff of the policy's own actions.
    let payoff = |state: &mut TrainState, rng: &mut ChaCha8Rng| {
        let policy = state.online.policy.forward(bandit(rng, 64).observation);
        let noise = state.noise.draw(0, [50, 64, 1]);
        let action = policy.sample(noise).clamp(-1.0, 1.0);
        let payoff = (action - 0.2).square().mean() * -4.0;
        payoff.into_scalar::<f32>()
    };
    let before = payoff(&mut state, &mut rng);
    for _ in 0..300 {
        let batch = bandit(&mut rng, 64);
        for (name, value) in state.update(config, &batch).read() {
            assert!(value.is_finite(), "{name} is {value} with {config:?}");
        }
    }
    let after = payoff(&mut state, &mut rng);
    assert!(
        after > before + 0.05,
        "{before} to {after} with {:?}, {head:?}, {:?}",
        config.policy_loss,
        config.critic_loss
    );
}

/// A gradient of norm 5 is shortened to 2, a shorter one is left, and 0 clips nothing.
#[test]
fn gradients_are_clipped_by_their_norm() {
    let clip = |longest| {
        let gradient = Tensor::<1>::from_floats([3.0, -4.0], &Device::flex());
        let norm = gradient.clone().square().sum().sqrt();
        values(clipped(gradient, norm, longest))
    };
    for (got, expected) in clip(2.0).into_iter().zip([1.2, -1.6]) {
        assert!((got - expected).abs() < 1e-6);
    }
    assert_eq!(clip(6.0), [3.0, -4.0]);
    assert_eq!(clip(0.0), [3.0, -4.0]);
}
