//! One learner step, as Acme's MPO with a choice of losses in place of MPO's.
//!
//! In every next state of the batch the target policy, which is also the reference policy, gives `N`
//! actions. The target critic's values of them serve twice: averaged they make the critic's n-step or
//! Retrace target, compared they say how the online policy should improve in those same states. Critics see
//! actions clipped to the canonical range, as actors act; log-likelihoods are of the actions as drawn.
//! Adam moves both networks and the loss's dual variables, and every `target_period_steps` the online
//! networks become the target networks.
//!
//! Nothing is read back from the device: statistics stay there until `statistics.rs` wants them.

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor};
use pmpo_losses::{
    CriticLossOutput, CriticTarget, Improvement, LEAST_DUAL, PolicyLossOutput, Trajectory, retrace,
};
use pmpo_policy::{NamedTensor, NetworkConfig};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::adam::Adam;
use crate::batch::{Batch, Sequences};
use crate::config::family;
use crate::networks::{Critic, Policy};
use crate::noise::Noise;
use crate::parameters::{flat_gradient, named_tensors, subtract};
use crate::statistics::UpdateStatistics;
use crate::{LearnerConfig, Targets};

/// Policy and critic.
#[derive(Clone, Debug)]
pub(crate) struct Networks {
    pub(crate) policy: Policy,
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
}

/// The dual variables of the policy's loss.
#[derive(Clone, Debug)]
pub(crate) struct Duals {
    /// `[duals]`, a constant.
    pub(crate) values: Tensor<1>,
    pub(crate) adam: Adam,
}

impl Duals {
    /// `None` if the loss has none.
    fn new(initial: &[f32], device: &Device) -> Option<Self> {
        (!initial.is_empty()).then(|| Self {
            values: Tensor::from_floats(initial, device),
            adam: Adam::new(initial.len(), device),
        })
    }

    fn step(&mut self, gradient: Tensor<1>, learning_rate: f64) {
        let change = self.adam.step(gradient, learning_rate);
        self.values
            .inplace(|values| (values - change).clamp_min(LEAST_DUAL));
    }
}

/// Everything that a step changes, and so everything a checkpoint of the update must hold.
#[derive(Clone, Debug)]
pub struct TrainState {
    pub(crate) online: Networks,
    pub(crate) target: Networks,
    pub(crate) duals: Option<Duals>,
    pub(crate) policy_adam: Adam,
    pub(crate) critic_adam: Adam,
    pub(crate) step: u64,
    pub(crate) noise: Noise,
    pub(crate) device: Device,
}

/// The losses of one step, and the leaves that their gradients are wanted of.
struct Losses {
    policy: PolicyLossOutput,
    critic: CriticLossOutput,
    /// How wide the online policy is, by name.
    width: (&'static str, Tensor<1>),
    duals: Option<Tensor<1>>,
}

impl TrainState {
    /// Fresh networks for an environment with `[observation_size, action_size]`. The configurations
    /// must be valid.
    pub fn new(
        network: &NetworkConfig,
        config: &LearnerConfig,
        [observation_size, action_size]: [usize; 2],
        seed: u64,
        device: &Device,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (inputs, outputs) = (observation_size + action_size, config.critic_loss.outputs());
        let target = Networks {
            policy: Policy::new(network, observation_size, action_size, &mut rng, device),
            critic: Critic::new(network, inputs, outputs, &mut rng, device),
        };
        let duals = config
            .policy_loss
            .initial_duals(action_size, family(&network.head));
        Self {
            policy_adam: Adam::new(target.policy.num_params(), device),
            critic_adam: Adam::new(target.critic.num_params(), device),
            online: Networks {
                policy: target.policy.clone().train(),
                critic: target.critic.clone().train(),
            },
            target,
            duals: Duals::new(&duals, device),
            step: 0,
            noise: Noise::new(rng, family(&network.head), device),
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

    /// Takes one step on a batch; returns its statistics.
    pub fn update(&mut self, config: &LearnerConfig, batch: &Batch) -> UpdateStatistics {
        let losses = self.losses(config, batch);
        let online = &self.online;
        let longest = config.max_gradient_norm;
        // From here on the networks share nothing: side by side, as far as there are threads.
        let (policy, critic) = rayon::join(
            || {
                let (loss, adam) = (&losses.policy.loss, &mut self.policy_adam);
                let rate = config.policy_learning_rate;
                descend(&online.policy, loss, longest, adam, rate)
            },
            || {
                let (loss, adam) = (&losses.critic.loss, &mut self.critic_adam);
                let rate = config.critic_learning_rate;
                descend(&online.critic, loss, longest, adam, rate)
            },
        );
        let statistics = statistics(&losses, &[policy.norm, critic.norm]);
        self.online = Networks {
            policy: policy.network,
            critic: critic.network,
        };
        self.step_duals(config, &losses, &policy.gradients);
        self.step += 1;
        if self.step.is_multiple_of(config.target_period_steps) {
            self.target = self.online.valid();
        }
        statistics
    }

    fn step_duals(&mut self, config: &LearnerConfig, losses: &Losses, gradients: &Gradients) {
        let rate = config.policy_loss.dual_learning_rate();
        if let (Some(duals), Some(leaf), Some(rate)) = (&mut self.duals, &losses.duals, rate) {
            let gradient = leaf
                .grad(gradients)
                .expect("each dual has a part in the loss");
            duals.step(gradient, rate);
        }
    }

    fn losses(&mut self, config: &LearnerConfig, batch: &Batch) -> Losses {
        let samples = config.actions_per_state;
        let reference = self.target.policy.forward(batch.next_observation.clone());
        let [size, actions] = reference.dims();
        let noise = self.noise.draw(self.step, [samples, size, actions]);
        let drawn = reference.sample(noise);
        let next_outputs = self.target.critic.forward(
            batch.next_observation.clone().repeat(&[samples, 1]),
            drawn.clone().reshape([samples * size, actions]),
        );
        let values = config
            .critic_loss
            .values(next_outputs.clone())
            .reshape([samples, size]);

        let reward = batch.reward.clone() * config.reward_scale;
        let target = match &config.targets {
            Targets::NStep {} => {
                config
                    .critic_loss
                    .target(reward, batch.discount.clone(), next_outputs)
            }
            Targets::Retrace(targets) => {
                let trajectory = self.trajectory(config, batch, reward, values.clone());
                CriticTarget::Values(retrace(targets.lambda, trajectory).reshape([size]))
            }
        };
        let online = &self.online;
        let outputs = online
            .critic
            .forward(batch.observation.clone(), batch.action.clone());
        let critic = config.critic_loss.loss(outputs, target);

        let policy = online.policy.forward(batch.next_observation.clone());
        let duals = self
            .duals
            .as_ref()
            .map(|duals| duals.values.clone().autodiff().require_grad());
        let improvement = Improvement {
            policy: &policy,
            reference: &reference,
            actions: drawn,
            values,
        };
        Losses {
            policy: config.policy_loss.loss(&improvement, duals.as_ref()),
            critic,
            width: policy.width(),
            duals,
        }
    }

    /// What Retrace wants to know of a batch of sequences with scaled rewards `[B]`, in whose next states
    /// the target policy's actions have these values, `[N, B]`.
    fn trajectory(
        &self,
        config: &LearnerConfig,
        batch: &Batch,
        reward: Tensor<1>,
        values: Tensor<2>,
    ) -> Trajectory {
        let Sequences { length, log_prob } = batch.sequences.as_ref().expect("sequences");
        let [rows, actions] = batch.action.dims();
        let by_step = |values: Tensor<1>| values.reshape([rows / length, *length]);
        let value = self
            .target
            .critic
            .forward(batch.observation.clone(), batch.action.clone());
        let policy = self.target.policy.forward(batch.observation.clone());
        let drawn = batch.action.clone().reshape([1, rows, actions]);
        let log_ratio = policy.log_prob(drawn).reshape([rows]) - log_prob.clone();
        Trajectory {
            reward: by_step(reward),
            discount: by_step(batch.discount.clone()),
            value: by_step(config.critic_loss.values(value)),
            next_state_value: by_step(values.mean_dim(0).reshape([rows])),
            log_ratio: by_step(log_ratio),
        }
    }
}

/// What became of a network in a step.
struct Descent<M> {
    network: M,
    /// Of its gradient, before clipping.
    norm: Tensor<1>,
    /// Of the loss's other leaves.
    gradients: Gradients,
}

/// Moves a network down the gradient of its loss, which is clipped to the norm `longest`.
fn descend<M: Module>(
    network: &M,
    loss: &Tensor<1>,
    longest: f64,
    adam: &mut Adam,
    learning_rate: f64,
) -> Descent<M> {
    let mut gradients = loss.backward();
    let gradient = flat_gradient(network, &mut gradients);
    let norm = gradient.clone().square().sum().sqrt();
    let change = adam.step(clipped(gradient, norm.clone(), longest), learning_rate);
    Descent {
        network: subtract(network.clone(), change),
        norm,
        gradients,
    }
}

/// `gradient`, whose norm is `norm`, no longer than `longest`; 0 leaves it as it is.
fn clipped(gradient: Tensor<1>, norm: Tensor<1>, longest: f64) -> Tensor<1> {
    if longest == 0.0 {
        return gradient;
    }
    // The floor keeps 0 / 0 out; a norm that is not finite stays so, and is found.
    let factor = (norm.clamp_min(f64::from(f32::MIN_POSITIVE)).recip() * longest).clamp_max(1.0);
    gradient * factor
}

fn statistics(losses: &Losses, [policy_norm, critic_norm]: &[Tensor<1>; 2]) -> UpdateStatistics {
    let critic = &losses.critic;
    let (width_name, width) = losses.width.clone();
    let mut all = vec![
        ("policy_loss", losses.policy.loss.clone().without_autodiff()),
        ("critic_loss", critic.loss.clone().without_autodiff()),
        ("policy_gradient_norm", policy_norm.clone()),
        ("critic_gradient_norm", critic_norm.clone()),
        ("value", critic.stats.value.clone()),
        ("target", critic.stats.target.clone()),
        (width_name, width),
    ];
    all.extend(losses.policy.stats.iter().cloned());
    UpdateStatistics::new(all)
}

#[cfg(test)]
mod retrace_tests;

#[cfg(test)]
mod tests {
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
        let new = |seed| {
            TrainState::new(&network(), &config, [4, 2], seed, &Device::flex()).policy_tensors()
        };
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
            CriticLoss::Mse,
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
}
