//! The step as a whole: problems whose answers are known, every combination of losses, gradients through
//! the networks, threads.

use burn::tensor::TensorData;
use bytes::Bytes;
use pmpo_losses::{
    ActionDistribution, C51Config, Combination, CriticLoss, DiagonalGaussian, DpoConfig, IpoConfig,
    JointKl, KlPenalty, MpoConfig, PmpoConfig, PolicyLoss,
};
use pmpo_policy::{Activation, CategoricalHead, GaussianHead, HeadConfig, TorsoConfig};
use pmpo_types::{ColumnBatch, SampledItems, StepType, TableCounters, step};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

use super::*;
use crate::network::{Network, Parameter};
use crate::reward_scale::RewardScaleConfig;
use crate::{DataCandidates, Discount, OptimizerConfig, random_windows, threads};

fn small() -> AgentConfig {
    let mut config = AgentConfig::default();
    config.policy.torso = TorsoConfig::hidden(&[24, 24]);
    config.critic.torso = TorsoConfig::hidden(&[24, 24]);
    config.update.n_step = 1;
    config
}

fn fresh(config: &AgentConfig, sizes: [usize; 2]) -> TrainState {
    TrainState::new(config, sizes, 1, &Device::flex()).unwrap()
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

fn column(values: &[f32]) -> Tensor<2> {
    let data = TensorData::new(values.to_vec(), [values.len(), 1]);
    Tensor::from_data(data, &Device::flex())
}

/// One step of an episode: state, action, reward, discount and the state after it.
type Transition = (f32, f32, f32, f32, f32);

/// Windows of one step each, of numbers.
fn windows(transitions: &[Transition]) -> SampledBatch {
    let floats = |rows: fn(&Transition) -> [f32; 2]| -> Bytes {
        let values = transitions.iter().flat_map(rows);
        values.flat_map(f32::to_le_bytes).collect()
    };
    let rows = 2 * transitions.len();
    let integers = |value: i64| Bytes::from(value.to_le_bytes().repeat(rows));
    let columns = vec![
        floats(|t| [t.0, t.4]),
        floats(|t| [t.1, 0.0]),
        floats(|t| [t.2, 0.0]),
        floats(|t| [t.3, 0.0]),
        floats(|_| [0.0, 0.0]),
        integers(1),
        integers(StepType::Mid.number()),
    ];
    SampledBatch {
        columns: ColumnBatch::new(&step::signature(1, 1), rows, columns).unwrap(),
        counters: TableCounters::default(),
        items: SampledItems::default(),
    }
}

fn learn(state: &mut TrainState, windows: &SampledBatch) -> UpdateStatistics {
    let batch = state.prepare(windows, 1.0);
    state.update(&batch)
}

fn value(state: &TrainState, observation: &[f32], action: &[f32]) -> Vec<f32> {
    let (observation, action) = (column(observation), column(action));
    let critic = &state.critic;
    values(critic.outputs(&critic.online[0], observation, action))
}

/// Two states, -1 and 1, each the other's next; an action `a` pays `-(a - s / 2)^2`. The best actions are
/// `s / 2`; values follow from the discount.
fn two_states(rng: &mut ChaCha8Rng, len: usize) -> SampledBatch {
    let transition = |_| {
        let state = if rng.random() { 1.0 } else { -1.0 };
        let action: f32 = rng.random_range(-1.0..1.0);
        (state, action, -(action - 0.5 * state).powi(2), 1.0, -state)
    };
    windows(&(0..len).map(transition).collect::<Vec<_>>())
}

/// A data set of the same states: half of what was done in a state `s` is about `s / 2`, and accepted, the rest
/// about `-s / 2`, and rejected.
fn labelled(rng: &mut ChaCha8Rng, len: usize) -> SampledBatch {
    let mut labels = Vec::new();
    let transition = |_| {
        let state = if rng.random() { 1.0 } else { -1.0 };
        let good = if rng.random() { 1.0 } else { -1.0 };
        labels.extend([good, 0.0]);
        let noise: f32 = StandardNormal.sample(rng);
        let action: f32 = 0.5 * state * good + 0.1 * noise;
        (state, action, good, 1.0, -state)
    };
    let transitions: Vec<_> = (0..len).map(transition).collect();
    let batch = windows(&transitions);
    let mut columns = batch.columns.columns().to_vec();
    columns.push(labels.into_iter().flat_map(f32::to_le_bytes).collect());
    let signature = step::labelled_signature(1, 1);
    SampledBatch {
        columns: ColumnBatch::new(&signature, batch.columns.len(), columns).unwrap(),
        ..batch
    }
}

/// The paper, "Offline RL", on data whose optimum is known: an action's weight is `beta / n` and, of `n / 2`
/// each, `alpha` or `alpha - 1` beside it, and the best mean is the weighted mean of the actions. With both
/// parts and behaviour cloning, weights 3 and 1 of 4: `s / 4`; cloning alone: 0; accepted alone: `s / 2`;
/// rejected and cloning with beta 4, weights 4 and 2 of 6: `s / 6`.
#[test]
fn a_data_set_is_learned_from_by_its_labels() {
    for (labels, alpha, beta, expected) in [
        (true, 0.5, 2.0, 0.25),
        (false, 0.5, 2.0, 0.0),
        (true, 1.0, 0.0, 0.5),
        (true, 0.0, 4.0, 1.0 / 6.0),
    ] {
        let mut config = small();
        config.update.batch_size = 128;
        config.update.candidates = Candidates::Data(DataCandidates { labels });
        config.update.policy_loss = PolicyLoss::Pmpo(PmpoConfig {
            alpha,
            kl: KlPenalty::Behaviour(JointKl { beta }),
            ..PmpoConfig::default()
        });
        config.update.policy.learning_rate = 3e-3;
        let mut state = fresh(&config, [1, 1]);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..400 {
            let windows = labelled(&mut rng, 128);
            learn(&mut state, &windows);
        }
        let policy = &state.policy;
        let acts = policy
            .model
            .distribution(&policy.online, column(&[-1.0, 1.0]));
        let means = values(gaussian(acts).mean);
        for (mean, sign) in means.into_iter().zip([-1.0, 1.0]) {
            let error = (mean - sign * expected).abs();
            assert!(
                error < 0.08,
                "{labels} {alpha} {beta}: {mean}, expected {}",
                sign * expected
            );
        }
    }
}

/// The policy is improved in the states where it is asked to act; with observation and next observation
/// confused it would learn the opposite action.
#[test]
fn each_state_gets_its_own_best_action() {
    let mut config = small();
    // Narrow enough that few actions are clipped, which would move the best mean.
    config.policy.head = HeadConfig::Gaussian(GaussianHead {
        init_std: 0.3,
        ..GaussianHead::default()
    });
    config.update.discount = Discount::Fixed(0.5);
    config.update.reward_scale = RewardScaleConfig::Fixed(4.0);
    config.update.policy.learning_rate = 1e-3;
    config.update.critic.learning_rate = 5e-3;
    let mut state = fresh(&config, [1, 1]);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..800 {
        learn(&mut state, &two_states(&mut rng, 64));
    }
    let policy = &state.policy;
    let distribution = policy
        .model
        .distribution(&policy.online, column(&[-1.0, 1.0]));
    let means = values(gaussian(distribution).mean);
    for (mean, expected) in means.iter().zip([-0.5, 0.5]) {
        assert!((mean - expected).abs() < 0.12, "{means:?}");
    }
}

/// A chain of five states that ends in a reward of 1: from state `i` it is worth `0.8^(4 - i)`, whatever
/// is done on the way.
#[test]
fn the_values_of_a_chain_are_those_of_its_discount() {
    for loss in [
        CriticLoss::Mse {},
        CriticLoss::Categorical(C51Config::default()),
    ] {
        let mut config = small();
        config.update.discount = Discount::Fixed(0.8);
        config.update.reward_scale = RewardScaleConfig::Fixed(1.0);
        config.update.critic.learning_rate = 3e-3;
        config.update.target_period_steps = 20;
        config.critic.loss = loss.clone();
        let mut state = fresh(&config, [1, 1]);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let place = |i: usize| i as f32 / 2.0 - 1.0;
        for _ in 0..1000 {
            let transition = |_| {
                let i = rng.random_range(0..5);
                let ends = i == 4;
                let (reward, discount) = if ends { (1.0, 0.0) } else { (0.0, 1.0) };
                let action = rng.random_range(-1.0..1.0);
                (place(i), action, reward, discount, place(i + 1))
            };
            let batch = windows(&(0..64).map(transition).collect::<Vec<_>>());
            learn(&mut state, &batch);
        }
        let places: Vec<f32> = (0..5).map(place).collect();
        let prediction = state
            .critic
            .target_prediction(column(&places), column(&[0.3, -0.6, 0.0, 0.9, -0.9]));
        for (i, got) in values(prediction.values).into_iter().enumerate() {
            let expected = 0.8f32.powi(4 - i as i32);
            assert!(
                (got - expected).abs() < 0.06,
                "{loss:?}, {i}: {got}, {expected}"
            );
        }
    }
}

/// Where every episode ends at once nobody learns what actions are worth in the next state, so nothing may
/// be made of it; the critic learns.
#[test]
fn the_policy_is_not_improved_where_no_episode_goes_on() {
    let config = small();
    let mut state = fresh(&config, [1, 1]);
    let before = state.policy_tensors();
    let batch = windows(&[(0.5, 0.1, 1.0, 0.0, 0.7), (-0.5, 0.3, 0.0, 0.0, 0.2)]);
    for _ in 0..5 {
        learn(&mut state, &batch);
    }
    assert_eq!(state.policy_tensors(), before);
    assert!(value(&state, &[0.5], &[0.1])[0] > 0.001);
    // One of two that goes on counts as much as both would.
    let rows = Rows {
        discount: vec![0.9, 0.0],
        is_step: vec![true, true],
        ..Rows::default()
    };
    assert_eq!(state_weights(&rows), [2.0, 0.0]);
}

#[test]
fn rows_without_a_step_count_for_nothing() {
    let rows = Rows {
        discount: vec![0.9, 0.9, 0.9, 0.0],
        is_step: vec![true, true, true, false],
        ..Rows::default()
    };
    let third = 4.0 / 3.0;
    assert_eq!(critic_weights(&rows, 2, None), [third, third, third, 0.0]);
    let importance = Some(vec![1.0, 0.5]);
    assert_eq!(
        critic_weights(&rows, 2, importance),
        [third, third, 0.5 * third, 0.0]
    );
    let all = Rows {
        discount: vec![0.9; 2],
        is_step: vec![true; 2],
        ..Rows::default()
    };
    assert!(critic_weights(&all, 2, None).is_empty() && state_weights(&all).is_empty());
}

#[test]
fn targets_and_reference_change_each_with_its_period_and_only_then() {
    let mut config = small();
    config.update.target_period_steps = 3;
    config.update.reference_period_steps = 2;
    let mut state = fresh(&config, [1, 1]);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let of = |state: &TrainState| {
        let (policy, critic) = (&state.policy, &state.critic);
        let plan = &policy.model.plan.network;
        (
            [policy.reference.named(plan), policy.online.named(plan)],
            [
                critic.target[0].named(&critic.plan),
                critic.online[0].named(&critic.plan),
            ],
        )
    };
    let (mut policy, mut critic) = of(&state);
    for step in 1..=6 {
        learn(&mut state, &two_states(&mut rng, 8));
        let (new_policy, new_critic) = of(&state);
        for (period, old, new) in [(2, &policy, &new_policy), (3, &critic, &new_critic)] {
            let [before, [copy, online]] = [old, new];
            if step % period == 0 {
                assert_eq!(copy, online, "step {step}");
            } else {
                assert_eq!(copy, &before[0], "step {step}");
                assert_ne!(copy, online, "step {step}");
            }
        }
        (policy, critic) = (new_policy, new_critic);
    }
}

#[test]
fn a_seed_gives_the_same_networks_with_the_names_of_snapshots() {
    let config = small();
    let new = |seed| {
        let state = TrainState::new(&config, [4, 2], seed, &Device::flex());
        state.unwrap().policy_tensors()
    };
    let tensors = new(1);
    assert_eq!(tensors, new(1));
    assert_ne!(tensors, new(2));
    let got: Vec<_> = tensors.into_iter().map(|t| (t.name, t.shape)).collect();
    let specs = config.policy.tensors(4, 2).unwrap().into_iter();
    let expected: Vec<_> = specs.map(|spec| (spec.name, spec.shape)).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_fresh_policy_explores_as_configured_everywhere_and_a_fresh_critic_says_zero() {
    let state = fresh(&small(), [1, 1]);
    let places: Vec<f32> = (-20..20).map(|i| i as f32 / 10.0).collect();
    let policy = gaussian(state.policy.reference(column(&places)));
    let largest = |tensor: Tensor<2>| tensor.max_abs().into_scalar::<f32>();
    assert!(largest(policy.mean) < 0.1);
    assert!(largest(policy.std - 0.7) < 0.05);
    assert!(
        value(&state, &places, &places)
            .iter()
            .all(|v| v.abs() < 0.1)
    );
}

#[test]
fn the_critic_sees_actions_as_they_are_carried_out() {
    let state = fresh(&small(), [1, 1]);
    let at = |action: f32| value(&state, &[0.3], &[action]);
    assert_eq!(at(3.0), at(1.0));
    assert_eq!(at(-1.5), at(-1.0));
    assert_ne!(at(0.9), at(1.0));
}

/// The gradients of both losses through the networks, along a random direction, against central
/// differences; of a plain and of a residual torso.
#[test]
fn gradients_through_the_networks_equal_finite_differences() {
    const STEP: f64 = 5e-4;
    let residual = TorsoConfig {
        activation: Activation::None,
        blocks: 1,
        expansion: 2,
        ..TorsoConfig::hidden(&[16])
    };
    for torso in [TorsoConfig::hidden(&[24, 24]), residual] {
        let mut config = small();
        config.policy.torso = torso.clone();
        config.critic.torso = torso.clone();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let windows = two_states(&mut rng, 64);
        let mut state = fresh(&config, [1, 1]);
        for _ in 0..150 {
            learn(&mut state, &windows);
        }
        let batch = state.prepare(&windows, 1.0);
        let Judged {
            samples, lesson, ..
        } = state.judge(&batch);
        let mut direction = |network: &Network| Network {
            parameters: network
                .parameters
                .iter()
                .map(|parameter| {
                    let count = parameter.flat().dims()[0];
                    let noise: Vec<f32> =
                        StandardNormal.sample_iter(&mut rng).take(count).collect();
                    parameter.like(noise)
                })
                .collect(),
        };
        let scalar = |tensor: Tensor<1>| f64::from(tensor.into_scalar::<f32>());
        let policy_plan = state.policy.model.plan.network.clone();
        let critic_plan = state.critic.plan.clone();
        let policy_loss = |network: &Network| {
            let loss = &state.config.policy_loss;
            state.policy.loss(loss, network, None, &samples).0.loss
        };
        let critic_loss = |network: &Network| state.critic.loss(network, &lesson).loss;
        let check = |name: &str,
                     plan: &pmpo_policy::Plan,
                     network: &Network,
                     along: &Network,
                     loss: &dyn Fn(&Network) -> Tensor<1>| {
            let leaves = network.tracked(plan);
            let mut gradients = loss(&leaves).backward();
            let gradients = leaves.gradients(plan, &mut gradients);
            let products = gradients.iter().zip(&along.parameters);
            let slope: f64 = products
                .map(|(gradient, along)| {
                    let gradient = gradient.as_ref().unwrap().flat();
                    scalar((gradient * along.flat()).sum())
                })
                .sum();
            let at = |distance: f64| {
                let moved = network.parameters.iter().zip(&along.parameters);
                let moved = moved.map(|(p, along)| p.plus(along, distance)).collect();
                scalar(loss(&Network { parameters: moved }))
            };
            let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let error = (slope - expected).abs();
            assert!(
                error < 0.02 * expected.abs(),
                "{name} of {torso:?}: {slope} against {expected}"
            );
        };
        let along = direction(&state.policy.online);
        check(
            "policy",
            &policy_plan,
            &state.policy.online,
            &along,
            &policy_loss,
        );
        let along = direction(&state.critic.online[0]);
        check(
            "critic",
            &critic_plan,
            &state.critic.online[0],
            &along,
            &critic_loss,
        );
    }
}

/// A bandit: the observation says nothing, an action `a` pays `-4 (a - 0.2)^2`; what comes after is worth
/// the same whatever was done.
fn bandit(rng: &mut ChaCha8Rng, len: usize) -> SampledBatch {
    let transition = |_| {
        let action: f32 = rng.random_range(-1.0..1.0);
        let reward = -4.0 * (action - 0.2).powi(2);
        (rng.random(), action, reward, 1e-6, rng.random())
    };
    windows(&(0..len).map(transition).collect::<Vec<_>>())
}

/// Every loss with every head and critic, on the bandit: the policy moves towards the better actions, and
/// nothing is ever not finite.
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
            init_log_alpha_mean: 0.0,
            ..MpoConfig::default()
        }),
        PolicyLoss::Dpo(DpoConfig { beta: 1.0 }),
        PolicyLoss::Ipo(IpoConfig { beta: 0.5 }),
    ];
    let heads = [
        HeadConfig::Gaussian(GaussianHead::default()),
        HeadConfig::Categorical(CategoricalHead::default()),
    ];
    let critics = [
        (CriticLoss::Mse {}, 1, Combination::Mean),
        (
            CriticLoss::Categorical(C51Config::default()),
            2,
            Combination::Minimum,
        ),
    ];
    let mut tried = 0;
    for policy_loss in losses {
        for head in &heads {
            for (critic_loss, count, combination) in &critics {
                let mut config = small();
                config.policy.head = head.clone();
                config.critic.loss = critic_loss.clone();
                config.critic.count = *count;
                config.critic.combination = *combination;
                config.update.reward_scale = RewardScaleConfig::Fixed(1.0);
                config.update.reward_range = [-6.0, 0.0];
                config.update.discount = Discount::Fixed(0.1);
                config.update.policy_loss = policy_loss.clone();
                config.update.policy.learning_rate = 1e-3;
                config.update.critic.learning_rate = 5e-3;
                config.update.policy.max_gradient_norm = 10.0;
                config.update.critic.max_gradient_norm = 10.0;
                if config.validate().is_ok() {
                    improves_the_bandit(&config);
                    tried += 1;
                }
            }
        }
    }
    // The decoupled KL has no categorical form.
    assert_eq!(tried, 7 * 2 * 2 - 2);
}

fn improves_the_bandit(config: &AgentConfig) {
    let mut state = fresh(config, [1, 1]);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    // Mean payoff of the policy's own actions.
    let payoff = |state: &TrainState, rng: &mut ChaCha8Rng| {
        let policy = &state.policy;
        let places: Vec<f32> = (0..64).map(|_| rng.random()).collect();
        let distribution = policy.model.distribution(&policy.online, column(&places));
        let noise = noise::draw(rng, policy.family(), 50 * 64);
        let noise = Tensor::from_data(TensorData::new(noise, [50, 64, 1]), &Device::flex());
        let action = distribution.sample(noise).clamp(-1.0, 1.0);
        let payoff = (action - 0.2).square().mean() * -4.0;
        payoff.into_scalar::<f32>()
    };
    let before = payoff(&state, &mut rng);
    for _ in 0..300 {
        let statistics = learn(&mut state, &bandit(&mut rng, 64));
        for (name, value) in statistics.read() {
            assert!(value.is_finite(), "{name} is {value} with {config:?}");
        }
    }
    let after = payoff(&state, &mut rng);
    assert!(after > before + 0.05, "{before} to {after} with {config:?}");
}

/// The configuration that has every part that could depend on the order of a sum.
fn everything() -> AgentConfig {
    let mut config = AgentConfig::default();
    let optimizer = OptimizerConfig {
        weight_decay: 0.01,
        max_gradient_norm: 1.0,
        ..OptimizerConfig::default()
    };
    config.policy.torso = TorsoConfig::hidden(&[160, 64]);
    config.policy.normalise_observations = true;
    config.critic.torso = TorsoConfig {
        activation: Activation::LayerNormRelu,
        blocks: 1,
        expansion: 2,
        ..TorsoConfig::hidden(&[64])
    };
    config.critic.loss = CriticLoss::Categorical(C51Config::default());
    config.critic.count = 2;
    config.update.policy = optimizer.clone();
    config.update.critic = optimizer;
    config
}

#[test]
fn the_number_of_threads_changes_no_weight() {
    let config = everything();
    let run = |count: usize| {
        let pool = threads::pool(count).unwrap();
        pool.install(|| {
            let mut state = fresh(&config, [20, 4]);
            for seed in 0..10 {
                let windows = random_windows([20, 4], 256, config.update.window(), seed);
                learn(&mut state, &windows);
            }
            state.to_file()
        })
    };
    let one = run(1);
    for count in [2, 3] {
        assert!(run(count) == one, "{count} threads");
    }
}

/// Observations far from 0 and of very different sizes; a normalised network sees none of that, and the
/// policy that is published has what undoes it.
#[test]
fn normalised_observations_are_the_same_whatever_their_units() {
    let mut config = small();
    config.policy.normalise_observations = true;
    let run = |scale: f32, shift: f32| {
        let mut state = fresh(&config, [3, 2]);
        for seed in 0..20 {
            let mut windows = random_windows([3, 2], 64, config.update.window(), seed);
            let columns = windows.columns.columns().to_vec();
            let mut moved = columns.clone();
            let observations = columns[step::OBSERVATION].chunks_exact(4);
            moved[step::OBSERVATION] = observations
                .flat_map(|x| {
                    let x = f32::from_le_bytes(x.try_into().unwrap());
                    (x * scale + shift).to_le_bytes()
                })
                .collect();
            let signature = step::signature(3, 2);
            windows.columns = ColumnBatch::new(&signature, windows.columns.len(), moved).unwrap();
            learn(&mut state, &windows);
        }
        state.policy_tensors()
    };
    let (plain, moved) = (run(1.0, 0.0), run(100.0, 1000.0));
    let mut compared = 0;
    for (plain, moved) in plain.iter().zip(&moved) {
        assert_eq!(plain.name, moved.name);
        for (x, y) in plain.values.iter().zip(&moved.values) {
            match plain.name.as_str() {
                "normaliser.mean" => assert!((x * 100.0 + 1000.0 - y).abs() < 1.0, "{x}, {y}"),
                "normaliser.variance" => assert!((x * 1e4 / y - 1.0).abs() < 0.01, "{x}, {y}"),
                _ => {
                    assert!((x - y).abs() < 0.02, "{}: {x}, {y}", plain.name);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 500);
}

/// The actor's plain-Rust network runs the same plan: a policy with weights far from their initial values
/// must act the same in both.
#[test]
fn the_actor_s_network_gives_the_same_distributions() {
    use pmpo_policy::{HeadOutput, PolicyNetwork, snapshot};
    let residual = TorsoConfig {
        activation: Activation::LayerNormReluEach,
        blocks: 2,
        expansion: 2,
        ..TorsoConfig::hidden(&[16])
    };
    let heads = [
        HeadConfig::Gaussian(GaussianHead {
            tanh_mean: false,
            ..GaussianHead::default()
        }),
        HeadConfig::Categorical(CategoricalHead { bins: 5 }),
    ];
    for torso in [TorsoConfig::hidden(&[16, 12, 8]), residual] {
        for head in &heads {
            let mut config = small();
            config.policy.torso = torso.clone();
            config.policy.head = head.clone();
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let model = crate::policy::PolicyModel::new(&config.policy, [5, 3]).unwrap();
            let plan = &model.plan.network;
            let network = Network::new(plan, &mut rng, &Device::flex());
            let moved = network.parameters.iter().map(|parameter| {
                let count = parameter.flat().dims()[0];
                let noise: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(count).collect();
                parameter.plus(&parameter.like(noise), 0.5)
            });
            let network = Network {
                parameters: moved.collect(),
            };
            let bytes = snapshot::encode(&config.policy, 5, 3, &network.named(plan)).unwrap();
            let mut actor = PolicyNetwork::from_snapshot(&bytes).unwrap();
            let observations: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
            let data = TensorData::new(observations.clone(), [20, 5]);
            let tensor = Tensor::from_data(data, &Device::flex());
            let got = match model.distribution(&network, tensor) {
                ActionDistribution::Gaussian(gaussian) => {
                    values(Tensor::cat(vec![gaussian.mean, gaussian.std], 1))
                }
                ActionDistribution::Categorical(bins) => values(bins.probabilities()),
            };
            let width = got.len() / 20;
            for (observation, got) in observations.chunks(5).zip(got.chunks(width)) {
                let expected = match actor.forward(observation) {
                    HeadOutput::Gaussian(output) => [output.mean, output.std].concat(),
                    HeadOutput::Categorical(output) => output.probabilities.to_vec(),
                };
                for (got, expected) in got.iter().zip(expected) {
                    let allowed = 1e-5 * expected.abs().max(1.0);
                    assert!((got - expected).abs() <= allowed, "{got}, {expected}");
                }
            }
        }
    }
}

#[test]
fn parameters_have_the_shapes_of_their_plan() {
    let state = fresh(&small(), [3, 2]);
    for (parameter, spec) in state.critic.online[0]
        .parameters
        .iter()
        .zip(&state.critic.plan.tensors)
    {
        let matrix = matches!(parameter, Parameter::Matrix(_));
        assert_eq!(matrix, spec.shape.len() == 2, "{}", spec.name);
    }
}

/// `r + d V(s') - V(s)`: of learned values, with which better actions than the policy's have positive advantages
/// and worse ones negative ones.
#[test]
fn advantages_tell_good_actions_from_bad_ones() {
    let mut config = small();
    config.update.discount = Discount::Fixed(0.5);
    config.update.reward_scale = RewardScaleConfig::Fixed(4.0);
    config.update.policy.learning_rate = 1e-3;
    config.update.critic.learning_rate = 5e-3;
    config.update.batch_size = 64;
    let mut state = fresh(&config, [1, 1]);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..300 {
        let windows = two_states(&mut rng, 64);
        learn(&mut state, &windows);
    }
    let of = |state: &mut TrainState, action: f32| {
        let transition = |s: f32| (s, s * action, -(s * action - 0.5 * s).powi(2), 1.0, -s);
        state.advantages(&windows(&[transition(-1.0), transition(1.0)]), 32)
    };
    let (good, bad) = (of(&mut state, 0.5), of(&mut state, -0.9));
    assert!(good.iter().all(|&advantage| advantage > 0.0), "{good:?}");
    assert!(bad.iter().all(|&advantage| advantage < -2.0), "{bad:?}");
}
