//! The update with Retrace's targets, against the definition written out number by number.

use burn::tensor::{Device, Tensor};
use bytes::Bytes;
use pmpo_policy::{NamedTensor, NetworkConfig};
use pmpo_types::{ColumnBatch, step};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::TrainState;
use crate::parameters::{named_tensors, with_named_tensors};
use crate::{Batch, LearnerConfig, RetraceTargets, Targets};

const OBSERVATION: usize = 3;
const ACTION: usize = 2;
const SEQUENCES: usize = 5;
const LENGTH: usize = 4;

fn config(lambda: f64) -> LearnerConfig {
    LearnerConfig {
        targets: Targets::Retrace(RetraceTargets {
            lambda,
            sequence_length: LENGTH,
            sequence_period: 2,
        }),
        reward_scale: 1.0,
        ..LearnerConfig::default()
    }
}

/// Networks with weights far from where training starts.
fn state(config: &LearnerConfig) -> TrainState {
    let network = NetworkConfig {
        hidden_sizes: vec![16, 16],
        ..NetworkConfig::default()
    };
    let sizes = [OBSERVATION, ACTION];
    let mut state = TrainState::new(&network, config, sizes, 1, &Device::flex());
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let moved = |tensors: Vec<NamedTensor>, rng: &mut ChaCha8Rng| {
        let tensors = tensors.into_iter().map(|mut tensor| {
            let values = tensor.values.iter_mut();
            values.for_each(|value| *value += rng.random_range(-0.5..0.5));
            tensor
        });
        tensors.collect()
    };
    let policy = moved(named_tensors(&state.target.policy), &mut rng);
    let critic = moved(named_tensors(&state.target.critic), &mut rng);
    state.target.policy = with_named_tensors(state.target.policy, policy).unwrap();
    state.target.critic = with_named_tensors(state.target.critic, critic).unwrap();
    state
}

/// A critic to which everything is worth `value`.
fn constant_critic(state: &mut TrainState, value: f32) {
    let mut tensors = named_tensors(&state.target.critic);
    for tensor in &mut tensors {
        let all = if tensor.name == "value.bias" {
            value
        } else {
            0.0
        };
        tensor.values.fill(all);
    }
    state.target.critic = with_named_tensors(state.target.critic.clone(), tensors).unwrap();
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// Sequences whose second one terminates with its third step. Actions reach beyond the canonical
/// range; the last row of each sequence has nothing but an observation.
fn batch(log_prob: impl Fn(usize) -> f32) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let rows = SEQUENCES * (LENGTH + 1);
    let mut column = |width: usize, f: &mut dyn FnMut(usize, f32) -> f32| -> Bytes {
        (0..rows * width)
            .flat_map(|i| f(i / width, rng.random_range(-1.0..1.0)).to_le_bytes())
            .collect()
    };
    let last = |row: usize| row % (LENGTH + 1) == LENGTH;
    let columns = vec![
        column(OBSERVATION, &mut |_, x| x),
        column(ACTION, &mut |row, x| {
            if last(row) { f32::MAX } else { 1.5 * x }
        }),
        column(1, &mut |_, x| x),
        column(1, &mut |row, _| if row == LENGTH + 3 { 0.0 } else { 0.9 }),
        column(1, &mut |row, _| log_prob(row)),
        vec![0; 8 * rows].into(),
    ];
    let columns = ColumnBatch::new(&step::signature(OBSERVATION, ACTION), rows, columns).unwrap();
    Batch::sequences(LENGTH, &columns, &Device::flex())
}

/// Munos et al. 2016, eq. 3 and 4 as sums over the sequence: `y_t = Q_t + sum_k (prod_{j<k} d) (prod c)
/// delta_k`, `delta_k = r_k + d_k V_{k+1} - Q_k`, rather than by recursion.
#[test]
fn the_critic_s_loss_is_that_of_the_written_out_targets() {
    for lambda in [1.0, 0.7] {
        let config = config(lambda);
        let state = state(&config);
        // Of all kinds: ratios above 1 and far below.
        let batch = batch(|row| (row as f32 * 1.7).sin() * 2.0 - 3.0);
        let rows = SEQUENCES * LENGTH;
        let samples = config.actions_per_state;

        let noise = state.clone().noise.draw(0, [samples, rows, ACTION]);
        let drawn = state
            .target
            .policy
            .forward(batch.next_observation.clone())
            .sample(noise);
        let next = (0..samples).map(|sample| {
            let actions = drawn.clone().narrow(0, sample, 1).reshape([rows, ACTION]);
            values(
                state
                    .target
                    .critic
                    .forward(batch.next_observation.clone(), actions),
            )
        });
        let next: Vec<Vec<f32>> = next.collect();
        let (observation, action) = (batch.observation.clone(), batch.action.clone());
        let q = values(
            state
                .target
                .critic
                .forward(observation.clone(), action.clone()),
        );
        let online = values(
            state
                .online
                .critic
                .forward(observation.clone(), action.clone()),
        );
        let acted = action.reshape([1, rows, ACTION]);
        let log_prob = values(state.target.policy.forward(observation).log_prob(acted));
        let behaviour = values(batch.sequences.clone().unwrap().log_prob);
        let (reward, discount) = (values(batch.reward.clone()), values(batch.discount.clone()));

        let mut expected = 0.0;
        for row in 0..rows {
            let mut target = f64::from(q[row]);
            let mut factor = 1.0;
            for k in row..row / LENGTH * LENGTH + LENGTH {
                if k > row {
                    let ratio = f64::from(log_prob[k] - behaviour[k]).exp();
                    factor *= f64::from(discount[k - 1]) * lambda * ratio.min(1.0);
                }
                let v = next.iter().map(|next| f64::from(next[k])).sum::<f64>() / samples as f64;
                let delta = f64::from(reward[k]) + f64::from(discount[k]) * v - f64::from(q[k]);
                target += factor * delta;
            }
            expected += 0.5 * (target - f64::from(online[row])).powi(2) / rows as f64;
        }
        let got = state.clone().losses(&config, &batch).critic.loss;
        let got = f64::from(got.into_scalar::<f32>());
        assert!(
            (got - expected).abs() < 1e-4 * expected,
            "{got}, {expected}"
        );
    }
}

/// Where the target policy acted and all actions are worth the same, a sequence's first target is the
/// n-step transition's over it: the sum of rewards, and the value of the state after it.
#[test]
fn an_on_policy_sequence_gives_the_n_step_target() {
    let config = config(1.0);
    let mut state = state(&config);
    constant_critic(&mut state, 3.0);
    let mut sequences = batch(|_| 0.0);
    let acted = sequences
        .action
        .clone()
        .reshape([1, SEQUENCES * LENGTH, ACTION]);
    let policy = state.target.policy.forward(sequences.observation.clone());
    let on_policy = policy.log_prob(acted).reshape([SEQUENCES * LENGTH]);
    sequences.sequences.as_mut().unwrap().log_prob = on_policy;

    let all = Tensor::full(
        [config.actions_per_state, SEQUENCES * LENGTH],
        3.0,
        &Device::flex(),
    );
    let trajectory = state.trajectory(&config, &sequences, sequences.reward.clone(), all);
    let targets = values(pmpo_losses::retrace(1.0, trajectory));
    let (reward, discount) = (values(sequences.reward), values(sequences.discount));
    for sequence in 0..SEQUENCES {
        let steps = sequence * LENGTH..(sequence + 1) * LENGTH;
        // As the n-step adder sums.
        let (mut sum, mut product) = (0.0, 1.0);
        for t in steps.clone() {
            sum += product * reward[t];
            product *= discount[t];
        }
        let expected = sum + product * 3.0;
        let got = targets[steps.start];
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
        let batch = batch(|row| -(row as f32) / 5.0);
        for _ in 0..20 {
            for (name, value) in state.update(&config, &batch).read() {
                assert!(value.is_finite(), "{name} is {value}");
            }
        }
        (state.policy_tensors(), named_tensors(&state.online.critic))
    };
    let before = state(&config);
    let after = run();
    assert_ne!(after.0, before.policy_tensors());
    assert_ne!(after.1, named_tensors(&before.online.critic));
    assert_eq!(after, run());
}
