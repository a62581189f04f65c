//! One learner step, as Acme's MPO with the PMPO loss in place of MPO's.
//!
//! In every next state of the batch the target policy, which is also the reference policy, gives `N`
//! actions. The target critic's values of them serve twice: averaged they make the critic's n-step
//! target, ranked they say which actions the online policy should prefer in those same states.
//! Critics see actions clipped to the canonical range, as actors act; log-likelihoods are of the
//! actions as drawn. Adam moves both networks, and every `target_period_steps` the online networks
//! become the target networks.
//!
//! Nothing is read back from the device: statistics stay there until [`Statistics`] wants them.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use pmpo_losses::{CriticLossOutput, PmpoLossOutput, critic_loss, pmpo_loss, td_target};
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
        let (policy, critic) = self.losses(config, batch);
        let mut gradients = (policy.loss.clone() + critic.loss.clone()).backward();
        let policy_gradient = flat_gradient(&self.online.policy, &mut gradients);
        let critic_gradient = flat_gradient(&self.online.critic, &mut gradients);
        let norm = |gradient: &Tensor<1>| gradient.clone().square().sum().sqrt();
        let statistics = vec![
            policy.loss.without_autodiff(),
            critic.loss.without_autodiff(),
            norm(&policy_gradient),
            norm(&critic_gradient),
            policy.stats.preference,
            policy.stats.kl_mean,
            policy.stats.kl_std,
            critic.stats.value,
            critic.stats.target,
        ];

        let change = self
            .policy_adam
            .step(policy_gradient, config.policy_learning_rate);
        let change = (
            change,
            self.critic_adam
                .step(critic_gradient, config.critic_learning_rate),
        );
        self.online = Networks {
            policy: subtract(self.online.policy.clone(), change.0),
            critic: subtract(self.online.critic.clone(), change.1),
        };
        self.step += 1;
        if self.step.is_multiple_of(config.target_period_steps) {
            self.target = self.online.valid();
        }
        Tensor::cat(statistics, 0)
    }

    fn losses(
        &mut self,
        config: &LearnerConfig,
        batch: &Batch,
    ) -> (PmpoLossOutput, CriticLossOutput) {
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

        let target = td_target(batch.reward.clone(), batch.discount.clone(), values.clone());
        let online = &self.online;
        let value = online
            .critic
            .forward(batch.observation.clone(), batch.action.clone());
        let critic = critic_loss(&config.critic_loss, value, target);

        let policy = online.policy.forward(batch.next_observation.clone());
        let PolicyLoss::Pmpo(loss) = &config.policy_loss;
        (pmpo_loss(loss, &policy, &reference, drawn, values), critic)
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
