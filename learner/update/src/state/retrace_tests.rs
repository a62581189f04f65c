//! The update with Retrace's targets, against the definition written out number by number.

use burn::tensor::{Device, Tensor};
use bytes::Bytes;
use pmpo_losses::CriticTarget;
use pmpo_policy::{NamedTensor, TorsoConfig};
use pmpo_types::{ColumnBatch, SampledBatch, SampledItems, StepType, TableCounters, step};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::TrainState;
use crate::network::Network;
use crate::{AgentConfig, Discount, RetraceTargets, RewardScaleConfig, Targets};

const OBSERVATION: usize = 3;
const ACTION: usize = 2;
const SEQUENCES: usize = 5;
const LENGTH: usize = 4;
const GAMMA: f64 = 0.9;

fn config(lambda: f64) -> AgentConfig {
    let mut config = AgentConfig::default();
    config.policy.torso = TorsoConfig::hidden(&[16, 16]);
    config.critic.torso = TorsoConfig::hidden(&[16, 16]);
    config.update.reward_scale = RewardScaleConfig::Fixed(1.0);
    config.update.discount = Discount::Fixed(GAMMA);
    config.update.targets = Targets::Retrace(RetraceTargets {
        lambda,
        sequence_length: LENGTH,
        sequence_period: 2,
    });
    config
}

/// Networks with weights far from where training starts.
fn state(config: &AgentConfig) -> TrainState {
    let sizes = [OBSERVATION, ACTION];
    let device = Device::flex();
    let mut state = TrainState::new(config, sizes, 1, &device).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut moved = |tensors: Vec<NamedTensor>| -> Vec<NamedTensor> {
        let tensors = tensors.into_iter().map(|mut tensor| {
            let values = tensor.values.iter_mut();
            values.for_each(|value| *value += rng.random_range(-0.5..0.5));
            tensor
        });
        tensors.collect()
    };
    let plan = &state.policy.model.plan.network;
    let policy = moved(state.policy.reference.named(plan));
    state.policy.reference = Network::from_named(plan, policy, &device).unwrap();
    let plan = &state.critic.plan;
    let critic = moved(state.critic.target[0].named(plan));
    state.critic.target[0] = Network::from_named(plan, critic, &device).unwrap();
    state
}

/// A critic to which everything is worth `value`.
fn constant_critic(state: &mut TrainState, value: f32) {
    let plan = &state.critic.plan;
    let mut tensors = state.critic.target[0].named(plan);
    for tensor in &mut tensors {
        let all = if tensor.name == "value.bias" {
            value
        } else {
            0.0
        };
        tensor.values.fill(all);
    }
    state.critic.target[0] = Network::from_named(plan, tensors, &Device::flex()).unwrap();
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// Sequences whose second one terminates with its third step, and whose third one ends at a time limit
/// after two. Actions reach beyond the canonical range.
fn windows(log_prob: impl Fn(usize) -> f32) -> SampledBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let window = LENGTH + 1;
    let rows = SEQUENCES * window;
    let last = |row: usize| {
        let (sequence, step) = (row / window, row % window);
        (sequence == 1 && step >= 3) || (sequence == 2 && step >= 2)
    };
    let mut column = |width: usize, f: &mut dyn FnMut(usize, f32) -> f32| -> Bytes {
        (0..rows * width)
            .flat_map(|i| f(i / width, rng.random_range(-1.0..1.0)).to_le_bytes())
            .collect()
    };
    let columns = vec![
        column(OBSERVATION, &mut |_, x| x),
        column(ACTION, &mut |row, x| if last(row) { 0.0 } else { 1.5 * x }),
        column(1, &mut |row, x| if last(row) { 0.0 } else { x }),
        column(1, &mut |row, _| {
            if last(row) || row == window + 2 {
                0.0
            } else {
                1.0
            }
        }),
        column(1, &mut |row, _| log_prob(row)),
        vec![0; 8 * rows].into(),
        (0..rows)
            .flat_map(|row| {
                let kind = if last(row) {
                    StepType::Last
                } else {
                    StepType::Mid
                };
                kind.number().to_le_bytes()
            })
            .collect(),
    ];
    let signature = step::signature(OBSERVATION, ACTION);
    SampledBatch {
        columns: ColumnBatch::new(&signature, rows, columns).unwrap(),
        counters: TableCounters::default(),
        items: SampledItems::default(),
    }
}

/// Steps of each sequence.
const STEPS: [usize; SEQUENCES] = [4, 3, 2, 4, 4];

/// Munos et al. 2016, eq. 3 and 4 as sums over the sequence: `y_t = Q_t + sum_k (prod_{j<k} d) (prod c)
/// delta_k`, `delta_k = r_k + d_k V_{k+1} - Q_k`, rather than by recursion.
#[test]
fn the_critic_s_loss_is_that_of_the_written_out_targets() {
    for lambda in [1.0, 0.7] {
        let config = config(lambda);
        let mut state = state(&config);
        // Of all kinds: ratios above 1 and far below.
        let windows = windows(|row| (row as f32 * 1.7).sin() * 2.0 - 3.0);
        let batch = state.prepare(&windows, 1.0);
        let rows = SEQUENCES * LENGTH;
        let samples = config.update.actions_per_state;
        let (policy, critic) = (&state.policy, &state.critic);

        let next_observation = batch.next_observation.clone();
        let reference = policy.reference(next_observation.clone());
        let drawn = reference.sample(batch.noise.clone());
        let next: Vec<Vec<f32>> = (0..samples)
            .map(|sample| {
                let actions = drawn.clone().narrow(0, sample, 1).reshape([rows, ACTION]);
                let prediction = critic.target_prediction(next_observation.clone(), actions);
                values(prediction.values)
            })
            .collect();
        let (observation, action) = (batch.observation.clone(), batch.action.clone());
        let q = values(
            critic
                .target_prediction(observation.clone(), action.clone())
                .values,
        );
        let online = &critic.online[0];
        let online = values(critic.outputs(online, observation.clone(), action.clone()));
        let acted = action.reshape([1, rows, ACTION]);
        let log_prob = values(policy.reference(observation).log_prob(acted));
        let behaviour = values(batch.sequences.clone().unwrap().log_prob);
        let (reward, discount) = (values(batch.reward.clone()), values(batch.discount.clone()));

        let (mut expected, mut steps) = (0.0, 0);
        for (sequence, length) in STEPS.into_iter().enumerate() {
            let first = sequence * LENGTH;
            for row in first..first + length {
                let mut target = f64::from(q[row]);
                let mut factor = 1.0;
                for k in row..first + length {
                    if k > row {
                        let ratio = f64::from(log_prob[k] - behaviour[k]).exp();
                        factor *= f64::from(discount[k - 1]) * lambda * ratio.min(1.0);
                    }
                    let v = next.iter().map(|next| f64::from(next[k])).sum::<f64>();
                    let v = v / samples as f64;
                    let delta = f64::from(reward[k]) + f64::from(discount[k]) * v - f64::from(q[k]);
                    target += factor * delta;
                }
                expected += 0.5 * (target - f64::from(online[row])).powi(2);
                steps += 1;
            }
        }
        let expected = expected / f64::from(steps);
        let lesson = state.judge(&batch).lesson;
        let got = critic.loss(&critic.online[0], &lesson).loss;
        let got = f64::from(got.into_scalar::<f32>());
        assert!(
            (got - expected).abs() < 1e-4 * expected,
            "{got}, {expected}"
        );
    }
}

/// Where the reference policy acted and all actions are worth the same, a sequence's first target is the
/// n-step transition's over it: the sum of rewards, and the value of the state after it.
#[test]
fn an_on_policy_sequence_gives_the_n_step_target() {
    let config = config(1.0);
    let mut state = state(&config);
    constant_critic(&mut state, 3.0);
    let windows = windows(|_| 0.0);
    let mut batch = state.prepare(&windows, 1.0);
    let rows = SEQUENCES * LENGTH;
    let acted = batch.action.clone().reshape([1, rows, ACTION]);
    let policy = state.policy.reference(batch.observation.clone());
    let on_policy = policy.log_prob(acted).reshape([rows]);
    let sequences = batch.sequences.as_mut().unwrap();
    let behind_the_end = sequences.log_prob.clone().greater_scalar(1e30);
    let kept = sequences.log_prob.clone();
    sequences.log_prob = on_policy.mask_where(behind_the_end, kept);

    let lesson = state.judge(&batch).lesson;
    let CriticTarget::Values(targets) = lesson.target else {
        panic!("Retrace's targets are values");
    };
    let targets = values(targets);
    let (reward, discount) = (values(batch.reward), values(batch.discount));
    for (sequence, length) in STEPS.into_iter().enumerate() {
        let first = sequence * LENGTH;
        let (mut sum, mut product) = (0.0, 1.0);
        for t in first..first + length {
            sum += product * reward[t];
            product *= discount[t];
        }
        let expected = sum + product * 3.0;
        let got = targets[first];
        assert!((got - expected).abs() < 1e-5, "{got}, {expected}");
        assert_eq!(product == 0.0, sequence == 1, "one terminates");
    }
}

/// Both networks learn from sequences, nothing is ever not finite, and the same seed takes the same
/// steps.
#[test]
fn updates_with_sequences_move_both_networks() {
    let config = config(1.0);
    let run = || {
        let mut state = state(&config);
        for _ in 0..20 {
            let batch = state.prepare(&windows(|row| -(row as f32) / 5.0), 1.0);
            for (name, value) in state.update(&batch).read() {
                assert!(value.is_finite(), "{name} is {value}");
            }
        }
        let critic = state.critic.online[0].named(&state.critic.plan);
        (state.policy_tensors(), critic)
    };
    let before = state(&config);
    let after = run();
    assert_ne!(after.0, before.policy_tensors());
    assert_ne!(after.1, before.critic.online[0].named(&before.critic.plan));
    assert_eq!(after, run());
}
