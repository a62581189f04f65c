//! One learner step, as Acme's MPO with a choice of losses in place of MPO's.
//!
//! In every next state of the batch the reference policy gives `N` actions. The target critics' values of
//! them serve twice: averaged they make the critic's n-step or Retrace target, compared they say how the
//! online policy should improve in those same states; or they are compared with what the online critics'
//! gradient makes of them; or the actions of a data set are compared by their labels, in the states they were
//! taken in (`candidates.rs`). States that no episode goes on from are left out:
//! nobody learns values there. Critics see actions clipped to the canonical range, as actors act;
//! log-likelihoods are of the actions as drawn. AdamW moves the networks and Adam the loss's dual
//! variables; the online networks become target critics and reference policy each with its own period.
//!
//! Nothing is read back from the device: statistics stay there until `statistics.rs` wants them.

use burn::tensor::{Device, Tensor, TensorData};
use pmpo_losses::{CriticTarget, Judgement, Trajectory, retrace};
use pmpo_policy::NamedTensor;
use pmpo_types::{ConfigError, EpisodeReturns, SampledBatch};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::batch::{Batch, Extras, Sequences};
use crate::candidates::{Candidates, DataCandidates, Pairs, Temperature, refine};
use crate::config::{AgentConfig, UpdateConfig};
use crate::critic::{Critic, CriticLesson, CriticStep};
use crate::experience::{Rows, Windows};
use crate::noise;
use crate::normaliser::ObservationNormaliser;
use crate::policy::{Policy, PolicyStep, Samples};
use crate::priorities::importance_weights;
use crate::reward_scale::RewardScale;
use crate::statistics::UpdateStatistics;
use crate::targets::Targets;

/// Everything that a step changes, and so everything a checkpoint of the update must hold.
#[derive(Clone, Debug)]
pub struct TrainState {
    pub(crate) config: UpdateConfig,
    pub(crate) policy: Policy,
    pub(crate) critic: Critic,
    /// Of observations, where the policy normalises them.
    pub(crate) normaliser: Option<ObservationNormaliser>,
    pub(crate) reward_scale: RewardScale,
    /// Of the soft score, where candidates are refined.
    pub(crate) temperature: Option<Temperature>,
    pub(crate) step: u64,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) device: Device,
}

impl TrainState {
    /// Fresh networks for an environment with `[observation_size, action_size]`.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(
        config: &AgentConfig,
        sizes: [usize; 2],
        seed: u64,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let [observation_size, action_size] = sizes;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let update = &config.update;
        let policy = Policy::new(&config.policy, &update.policy_loss, sizes, &mut rng, device)?;
        let range = update.return_range();
        let inputs = observation_size + action_size;
        let critic = Critic::new(&config.critic, inputs, range, &mut rng, device)?;
        let normalised = config.policy.normalise_observations;
        Ok(Self {
            policy,
            critic,
            normaliser: normalised.then(|| ObservationNormaliser::new(observation_size)),
            reward_scale: RewardScale::new(update.reward_scale),
            temperature: update.candidates.temperature(device),
            step: 0,
            rng,
            device: device.clone(),
            config: update.clone(),
        })
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Where the networks are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The configuration of the step.
    pub fn config(&self) -> &UpdateConfig {
        &self.config
    }

    /// The online policy's tensors, named as in snapshots.
    pub fn policy_tensors(&self) -> Vec<NamedTensor> {
        self.policy.online.named(&self.policy.model.plan.network)
    }

    /// An episode has ended; what rewards are multiplied by may follow.
    pub fn observe_episode(&mut self, episode: &EpisodeReturns) {
        self.reward_scale.observe(episode);
    }

    /// Makes of sampled windows what a step takes; `weight` is [`Drawn::weight`](crate::Drawn). Draws the step's random numbers, so a batch is for the
    /// next step and no other.
    ///
    /// # Panics
    /// If the columns are not whole windows of `pmpo_types::step`, which every station before this one
    /// has checked.
    pub fn prepare(&mut self, sampled: &SampledBatch, weight: f64) -> Batch {
        let config = &self.config;
        let windows = Windows::new(&sampled.columns, config.window().rows());
        let (gamma, scale) = (config.discount.gamma(), self.reward_scale.factor() as f32);
        let (mut rows, sequence_length) = match &config.targets {
            Targets::NStep {} => (windows.transitions(config.n_step, gamma, scale), None),
            Targets::Retrace(targets) => {
                (windows.steps(gamma, scale), Some(targets.sequence_length))
            }
        };
        if let Some(normaliser) = &mut self.normaliser {
            normaliser.observe(&windows.first_observations());
            normaliser.normalise(&mut rows.observation);
            normaliser.normalise(&mut rows.next_observation);
        }
        let samples = config.actions_per_state;
        let count = samples * rows.action.len();
        let extras = Extras {
            noise: noise::draw(&mut self.rng, self.policy.family(), count),
            weights: critic_weights(
                &rows,
                windows.items(),
                importance_weights(&config.priorities, sampled, weight),
            ),
            state_weights: state_weights(&rows),
            labels: windows.first_labels(),
            sequence_length,
            mean_policy_version: windows.mean_version(),
            name: windows.name(),
        };
        Batch::upload(rows, extras, &self.device)
    }

    /// How much more each window's first steps brought than the policy would have on average:
    /// `r + d V(s') - V(s)` of its n-step transition, `V` being the target critics' mean over `samples` actions
    /// of the reference policy. `[B]`, in scaled rewards.
    ///
    /// # Panics
    /// As [`prepare`](Self::prepare).
    pub fn advantages(&mut self, sampled: &SampledBatch, samples: usize) -> Vec<f32> {
        let config = &self.config;
        let windows = Windows::new(&sampled.columns, config.n_step + 1);
        let (gamma, scale) = (config.discount.gamma(), self.reward_scale.factor() as f32);
        let mut rows = windows.transitions(config.n_step, gamma, scale);
        if let Some(normaliser) = &self.normaliser {
            normaliser.normalise(&mut rows.observation);
            normaliser.normalise(&mut rows.next_observation);
        }
        let count = rows.reward.len();
        let mut values = |observation: &[f32]| -> Vec<f32> {
            let noise = noise::draw(
                &mut self.rng,
                self.policy.family(),
                samples * rows.action.len(),
            );
            let shape = [count, observation.len() / count];
            let states =
                Tensor::from_data(TensorData::new(observation.to_vec(), shape), &self.device);
            let size = rows.action.len() / count;
            let noise = TensorData::new(noise, [samples, count, size]);
            let reference = self.policy.reference(states.clone());
            let drawn = reference.sample(Tensor::from_data(noise, &self.device));
            let actions = self
                .policy
                .model
                .actions(drawn)
                .reshape([samples * count, size]);
            let prediction = self
                .critic
                .target_prediction(states.repeat(&[samples, 1]), actions);
            let mean = prediction.values.reshape([samples, count]).mean_dim(0);
            mean.into_data().try_into_vec().expect("values are f32")
        };
        let (here, there) = (values(&rows.observation), values(&rows.next_observation));
        let steps = rows
            .reward
            .iter()
            .zip(&rows.discount)
            .zip(here.iter().zip(&there));
        steps
            .map(|((reward, discount), (here, there))| reward + discount * there - here)
            .collect()
    }

    /// Takes one step on a batch; returns its statistics.
    pub fn update(&mut self, batch: &Batch) -> UpdateStatistics {
        let judged = self.judge(batch);
        let config = &self.config;
        let (policy, critic) = (&mut self.policy, &mut self.critic);
        let mut improve = || policy.improve(&config.policy_loss, &config.policy, &judged.samples);
        let mut learn = || critic.learn(&config.critic, &judged.lesson);
        // They share nothing that either changes. A device has one queue, which two threads would only
        // have to take turns at.
        let (policy, critic) = if self.device == Device::flex() {
            rayon::join(improve, learn)
        } else {
            (improve(), learn())
        };
        let mut all = statistics(&policy, &critic);
        if let (Some(temperature), Candidates::Refined(config), Some(entropy)) = (
            &mut self.temperature,
            &self.config.candidates,
            judged.entropy,
        ) {
            temperature.follow(config, entropy.clone());
            all.push(("temperature", temperature.value()));
            all.push(("entropy", entropy));
        }
        if let Some(normaliser) = &self.normaliser {
            self.policy.set_normaliser(normaliser, &self.device);
        }
        self.step += 1;
        if self.step.is_multiple_of(self.config.target_period_steps) {
            self.critic.move_target(self.config.target_share);
        }
        if self.step.is_multiple_of(self.config.reference_period_steps) {
            self.policy.refresh_reference();
        }
        UpdateStatistics::new(all, critic.output.errors)
    }

    /// What the reference policy and the critics make of a batch.
    fn judge(&self, batch: &Batch) -> Judged {
        let reference = self.policy.reference(batch.next_observation.clone());
        let [samples, rows, size] = batch.noise.dims();
        let drawn = reference.sample(batch.noise.clone());
        let actions = self.policy.model.actions(drawn.clone());
        let prediction = self.critic.target_prediction(
            batch.next_observation.clone().repeat(&[samples, 1]),
            actions.reshape([samples * rows, size]),
        );
        let values = prediction.values.clone().reshape([samples, rows]);
        let target = match &self.config.targets {
            Targets::NStep {} => {
                let (reward, discount) = (batch.reward.clone(), batch.discount.clone());
                self.critic.target(reward, discount, prediction)
            }
            Targets::Retrace(targets) => {
                let trajectory = self.trajectory(batch, values.clone());
                CriticTarget::Values(retrace(targets.lambda, trajectory).reshape([rows]))
            }
        };
        let lesson = CriticLesson {
            observation: batch.observation.clone(),
            action: batch.action.clone(),
            target,
            weights: batch.weights.clone(),
        };
        if let Candidates::Data(config) = &self.config.candidates {
            let samples = self.data_samples(config, batch);
            return Judged {
                samples,
                lesson,
                entropy: None,
            };
        }
        let (actions, judgement, entropy) = match (&self.config.candidates, &self.temperature) {
            (Candidates::Refined(config), Some(temperature)) => {
                let observation = batch.next_observation.clone();
                let critic = &self.critic;
                let pairs = refine(config, temperature, critic, observation, &reference, drawn);
                let Pairs {
                    actions,
                    judgement,
                    entropy,
                } = pairs;
                (actions, judgement, Some(entropy))
            }
            _ => (drawn, Judgement::Values(values), None),
        };
        Judged {
            samples: Samples {
                observation: batch.next_observation.clone(),
                reference,
                actions,
                judgement,
                state_weights: batch.state_weights.clone(),
            },
            lesson,
            entropy,
        }
    }

    /// The data's own actions, in the states they were taken in, as labelled.
    fn data_samples(&self, config: &DataCandidates, batch: &Batch) -> Samples {
        let [rows, size] = batch.action.dims();
        let drawn = self.policy.model.drawn(batch.action.clone());
        Samples {
            observation: batch.observation.clone(),
            reference: self.policy.reference(batch.observation.clone()),
            actions: drawn.reshape([1, rows, size]),
            judgement: config.judgement(batch.labels.as_ref(), rows, &self.device),
            state_weights: None,
        }
    }

    /// What Retrace wants to know of a batch of sequences, in whose next states the reference policy's
    /// actions have these values, `[N, B]`.
    fn trajectory(&self, batch: &Batch, values: Tensor<2>) -> Trajectory {
        let Sequences { length, log_prob } = batch.sequences.as_ref().expect("sequences");
        let [rows, actions] = batch.action.dims();
        let by_step = |values: Tensor<1>| values.reshape([rows / length, *length]);
        let (observation, action) = (batch.observation.clone(), batch.action.clone());
        let value = self
            .critic
            .target_prediction(observation.clone(), action.clone())
            .values;
        let policy = self.policy.reference(observation);
        let drawn = self.policy.model.drawn(action);
        let log_ratio = policy
            .log_prob(drawn.reshape([1, rows, actions]))
            .reshape([rows])
            - log_prob.clone();
        Trajectory {
            reward: by_step(batch.reward.clone()),
            discount: by_step(batch.discount.clone()),
            value: by_step(value),
            next_state_value: by_step(values.mean_dim(0).reshape([rows])),
            log_ratio: by_step(log_ratio),
        }
    }
}

/// What a batch teaches.
struct Judged {
    /// Actions, and which of them are good.
    samples: Samples,
    /// What the critics should have said.
    lesson: CriticLesson,
    /// Of the reference policy's actions, a dimension, `[1]`, where candidates are refined.
    entropy: Option<Tensor<1>>,
}

/// Factors of the critic's losses: the importance weights of items, of which each row has its item's, and
/// none for rows that hold no step. Over all rows their mean is what it would be over the steps. Empty
/// where all rows count alike.
fn critic_weights(rows: &Rows, items: usize, importance: Option<Vec<f32>>) -> Vec<f32> {
    let steps = rows.is_step.iter().filter(|is_step| **is_step).count();
    let count = rows.is_step.len();
    if steps == count && importance.is_none() {
        return Vec::new();
    }
    let of_item = count / items;
    let share = count as f32 / steps.max(1) as f32;
    let weight = |(row, &is_step): (usize, &bool)| match (is_step, &importance) {
        (false, _) => 0.0,
        (true, Some(importance)) => importance[row / of_item] * share,
        (true, None) => share,
    };
    rows.is_step.iter().enumerate().map(weight).collect()
}

/// How much each next state counts in the policy's loss: not at all where no episode goes on, for nobody
/// learns what actions are worth there. Empty where all count alike.
fn state_weights(rows: &Rows) -> Vec<f32> {
    let goes_on = || {
        let rows = rows.is_step.iter().zip(&rows.discount);
        rows.map(|(&is_step, &discount)| is_step && discount > 0.0)
    };
    let states = goes_on().filter(|goes_on| *goes_on).count();
    if states == rows.is_step.len() {
        return Vec::new();
    }
    let weight = rows.is_step.len() as f32 / states.max(1) as f32;
    goes_on()
        .map(|goes_on| if goes_on { weight } else { 0.0 })
        .collect()
}

fn statistics(policy: &PolicyStep, critic: &CriticStep) -> Vec<(&'static str, Tensor<1>)> {
    let mut all = vec![
        ("policy_loss", policy.output.loss.clone()),
        ("critic_loss", critic.output.loss.clone()),
        ("policy_gradient_norm", policy.gradient_norm.clone()),
        ("critic_gradient_norm", critic.gradient_norm.clone()),
        ("value", critic.output.stats.value.clone()),
        ("target", critic.output.stats.target.clone()),
        policy.exploration.clone(),
    ];
    all.extend(policy.output.stats.iter().cloned());
    all
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod retrace_tests;

#[cfg(test)]
mod tests;
