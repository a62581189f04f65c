//! One learner step, as Acme's MPO with the PMPO loss in place of MPO's.
//!
//! In every next state of the batch the target policy, which is also the reference policy, gives `N`
//! actions. The target critic's values of them serve twice: averaged they make the critic's n-step
//! target, ranked they say which actions the online policy should prefer in those same states.
//! Critics see actions clipped to the canonical range, as actors act; log-likelihoods are of the
//! actions as drawn. Adam moves both networks, and every `target_period_steps` the online networks
//! become the target networks.
//!
//! Nothing is read back from the device: statistics stay there until `statistics.rs` wants them.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use pmpo_losses::{
    CriticLossOutput, DiagonalGaussian, PmpoLossOutput, critic_loss, pmpo_loss, td_target,
};
use pmpo_policy::{NamedTensor, NetworkConfig};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::adam::Adam;
use crate::batch::Batch;
use crate::networks::{Critic, GaussianPolicy};
use crate::parameters::{flat_gradient, named_tensors, subtract};
use crate::{LearnerConfig, PolicyLoss};

/// Policy and critic.
#[derive(Clone, Debug)]
pub(crate) struct Networks {
    pub(crate) policy: GaussianPolicy,
    pub(crate) critic: Critic,
}

impl Networks {
    /// The same values as constants.
    fn valid(&self) -> Self {
        Self {
            policy: self.policy.valid(),
            critic: self.critic.valid(),
        }
    }

    fn policy_loss(
        &self,
        config: &LearnerConfig,
        batch: &Batch,
        targets: &Targets,
    ) -> PmpoLossOutput {
        let policy = self.policy.forward(batch.next_observation.clone());
        let (drawn, values) = (targets.drawn.clone(), targets.values.clone());
        let PolicyLoss::Pmpo(loss) = &config.policy_loss;
        pmpo_loss(loss, &policy, &targets.reference, drawn, values)
    }

    fn critic_loss(
        &self,
        config: &LearnerConfig,
        batch: &Batch,
        targets: &Targets,
    ) -> CriticLossOutput {
        let (observation, action) = (batch.observation.clone(), batch.action.clone());
        let value = self.critic.forward(observation, action);
        critic_loss(&config.critic_loss, value, targets.returns.clone())
    }
}

/// Everything that a step changes, and so everything a checkpoint of the update must hold.
#[derive(Clone, Debug)]
pub struct TrainState {
    pub(crate) online: Networks,
    pub(crate) target: Networks,
    pub(crate) policy_adam: Adam,
    pub(crate) critic_adam: Adam,
    pub(crate) step: u64,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) device: Device,
}

impl TrainState {
    /// Fresh networks for an environment of these sizes.
    pub fn new(
        network: &NetworkConfig,
        observation_size: usize,
        action_size: usize,
        seed: u64,
        device: &Device,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let target = Networks {
            policy: GaussianPolicy::new(network, observation_size, action_size, &mut rng, device),
            critic: Critic::new(network, observation_size, action_size, &mut rng, device),
        };
        Self {
            policy_adam: Adam::new(target.policy.num_params(), device),
            critic_adam: Adam::new(target.critic.num_params(), device),
            online: Networks {
                policy: target.policy.clone().train(),
                critic: target.critic.clone().train(),
            },
            target,
            step: 0,
            rng,
            device: device.clone(),
        }
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Where the networks are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The online policy's tensors, named as in snapshots.
    pub fn policy_tensors(&self) -> Vec<NamedTensor> {
        named_tensors(&self.online.policy)
    }

    /// Takes one step on a batch; returns its statistics, in the order of [`STATISTICS`].
    ///
    /// [`STATISTICS`]: crate::statistics::STATISTICS
    pub fn update(&mut self, config: &LearnerConfig, batch: &Batch) -> Tensor<1> {
        let targets = self.targets(config, batch);
        let online = &self.online;
        // The networks share nothing but their targets, so their halves of the step run side by side;
        // each is shared out once more, as far as there are threads.
        let (policy_half, critic_half) = rayon::join(
            || {
                let output = online.policy_loss(config, batch, &targets);
                let (rate, adam) = (config.policy_learning_rate, &mut self.policy_adam);
                (descend(&online.policy, &output.loss, adam, rate), output)
            },
            || {
                let output = online.critic_loss(config, batch, &targets);
                let (rate, adam) = (config.critic_learning_rate, &mut self.critic_adam);
                (descend(&online.critic, &output.loss, adam, rate), output)
            },
        );
        let (((policy, policy_norm), policy_output), ((critic, critic_norm), critic_output)) =
            (policy_half, critic_half);
        let statistics = vec![
            policy_output.loss.without_autodiff(),
            critic_output.loss.without_autodiff(),
            policy_norm,
            critic_norm,
            policy_output.stats.preference,
            policy_output.stats.kl_mean,
            policy_output.stats.kl_std,
            critic_output.stats.value,
            critic_output.stats.target,
        ];
        self.online = Networks { policy, critic };
        self.step += 1;
        if self.step.is_multiple_of(config.target_period_steps) {
            self.target = self.online.valid();
        }
        Tensor::cat(statistics, 0)
    }

    /// What the target networks say about a batch.
    fn targets(&mut self, config: &LearnerConfig, batch: &Batch) -> Targets {
        let samples = config.actions_per_state;
        let reference = self.target.policy.forward(batch.next_observation.clone());
        let [size, actions] = reference.mean.dims();
        let drawn = reference.sample(self.noise([samples, size, actions]));
        let values = self
            .target
            .critic
            .forward(
                batch.next_observation.clone().repeat(&[samples, 1]),
                drawn.clone().reshape([samples * size, actions]),
            )
            .reshape([samples, size]);
        let returns = td_target(batch.reward.clone(), batch.discount.clone(), values.clone());
        Targets {
            reference,
            drawn,
            values,
            returns,
        }
    }

    /// Standard normal numbers from the run's own generator, so that a checkpoint restores them.
    fn noise(&mut self, shape: [usize; 3]) -> Tensor<3> {
        let count = shape.iter().product();
        let values: Vec<f32> = StandardNormal
            .sample_iter(&mut self.rng)
            .take(count)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}

/// Constants of a step, for both losses.
struct Targets {
    /// The target policy in the next states.
    reference: DiagonalGaussian,
    /// Its actions, `[N, B, A]`, and their values, `[N, B]`.
    drawn: Tensor<3>,
    values: Tensor<2>,
    /// What the critic regresses on, `[B]`.
    returns: Tensor<1>,
}

/// Moves a network down the gradient of its loss; returns it and the gradient's norm.
fn descend<M: Module>(
    network: &M,
    loss: &Tensor<1>,
    adam: &mut Adam,
    learning_rate: f64,
) -> (M, Tensor<1>) {
    let mut gradients = loss.backward();
    let gradient = flat_gradient(network, &mut gradients);
    let norm = gradient.clone().square().sum().sqrt();
    let change = adam.step(gradient, learning_rate);
    (subtract(network.clone(), change), norm)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pmpo_policy::HeadConfig;
    use pmpo_types::{ColumnBatch, transition};
    use rand::RngExt;

    use super::*;

    fn network() -> NetworkConfig {
        NetworkConfig {
            hidden_sizes: vec![24, 24],
            ..NetworkConfig::default()
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
            ..LearnerConfig::default()
        };
        let mut state = TrainState::new(&network(), 1, 1, 1, &Device::flex());
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..800 {
            let batch = bandit(&mut rng, 64);
            state.update(&config, &batch);
        }
        let observation = bandit(&mut rng, 20).observation;
        let policy = state.online.policy.forward(observation.clone());
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
        let mut state = TrainState::new(&network(), 1, 1, 1, &Device::flex());
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
        let new = |seed| TrainState::new(&network(), 4, 2, seed, &Device::flex()).policy_tensors();
        let tensors = new(1);
        assert_eq!(tensors, new(1));
        assert_ne!(tensors, new(2));
        let HeadConfig::Gaussian(_) = network().head;
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
        let mut state = TrainState::new(&network(), 1, 1, 1, &Device::flex());
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
        let losses_of = |mut state: TrainState| {
            let targets = state.targets(&config, &batch);
            let policy = state.online.policy_loss(&config, &batch, &targets);
            let critic = state.online.critic_loss(&config, &batch, &targets);
            (policy.loss, critic.loss)
        };
        // Each evaluation draws the same actions, for it starts from the same generator.
        let losses = |along: f64| {
            let mut state = state.clone();
            state.online = Networks {
                policy: subtract(online.policy.clone(), direction.0.clone() * -along),
                critic: subtract(online.critic.clone(), direction.1.clone() * -along),
            };
            losses_of(state)
        };
        let scalar = |tensor: Tensor<1>| f64::from(tensor.into_scalar::<f32>());
        let (policy, critic) = losses_of(state.clone());
        let mut gradients = (policy + critic).backward();
        let along = |gradient: Tensor<1>, direction: &Tensor<1>| {
            scalar((gradient * direction.clone()).sum())
        };
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
}
