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
        let weights = batch.weights.clone();
        let critic = config.critic_loss.loss(outputs, target, weights);

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
    // The floor keeps 0 / 0 out. A norm that is not finite is found as a statistic, not here.
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
    UpdateStatistics::new(all, critic.errors.clone())
}

#[cfg(test)]
mod retrace_tests;

#[cfg(test)]
mod tests;
