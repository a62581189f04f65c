//! One environment and what acts in it, a step at a time: act with a policy, step, collect.
//!
//! Follows the body of `acme/environment_loop.py`. An episode whose simulation diverges is void: it is
//! counted, its open windows are dropped, and a new one begins.

use ::metrics::{Counter, Gauge, counter, gauge};
use pmpo_policy::clip;
use pmpo_service::worker_time::WorkerTime;
use pmpo_types::{EpisodeReturns, PolicyVersion, TimeStep};

use crate::adder::Step;
use crate::canonical::{ActionScale, narrow};
use crate::collector::Collector;
use crate::environment::{Environment, EnvironmentError};
use crate::insertion::StepSink;
use crate::noise::Noise;
use crate::weights::Policy;
use crate::{ActorError, metrics};

/// Divergent episodes in a row after which the task is taken to be broken.
const MAX_DIVERGENCES: usize = 100;

/// What the time of an environment's thread is spent on.
#[derive(Clone, Copy)]
enum State {
    Inference,
    Environment,
    Inserting,
}

/// The names of [`State`], in its order.
const STATES: [&str; 3] = ["inference", "environment", "inserting"];

/// A finished episode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Episode {
    /// Sum of its rewards.
    pub undiscounted: f64,
    /// Its control steps.
    pub length: u64,
    /// The policy that acted last in it.
    pub policy_version: PolicyVersion,
    /// Its discounted returns.
    pub discounted: EpisodeReturns,
}

/// An environment, its actions' noise, and where its experience goes.
pub struct Stepper<S> {
    environment: Box<dyn Environment>,
    collector: Collector<S>,
    noise: Noise,
    /// Control steps of a step.
    repeat: u64,
    /// Gamma, for the discounted returns of episodes.
    discount: f64,
    scale: ActionScale,
    observation: Vec<f32>,
    /// The action as the policy drew it, and as it is carried out.
    drawn: Vec<f32>,
    action: Vec<f32>,
    /// Rewards and the environment's discounts of the episode under way; absent between episodes.
    episode: Option<Vec<(f64, f64)>>,
    divergences: usize,
    steps: Counter,
    episodes: Counter,
    episode_return: Gauge,
    episode_length: Gauge,
    time: WorkerTime<3>,
}

impl<S: StepSink> Stepper<S> {
    /// Nothing has happened yet. `discount` is gamma.
    pub fn new(
        environment: impl Into<Box<dyn Environment>>,
        collector: Collector<S>,
        noise: Noise,
        discount: f64,
    ) -> Self {
        let environment = environment.into();
        let spec = environment.spec();
        Self {
            repeat: spec.action_repeat as u64,
            scale: ActionScale::new(&spec.action),
            observation: Vec::with_capacity(spec.observation_size()),
            drawn: vec![0.0; spec.action_size()],
            action: vec![0.0; spec.action_size()],
            environment,
            collector,
            noise,
            discount,
            episode: None,
            divergences: 0,
            steps: counter!(metrics::ENVIRONMENT_STEPS),
            episodes: counter!(metrics::EPISODES),
            episode_return: gauge!(metrics::EPISODE_RETURN),
            episode_length: gauge!(metrics::EPISODE_LENGTH),
            time: WorkerTime::new(metrics::WORKER_SECONDS, STATES),
        }
    }

    /// Takes one step of the policy, after a reset where an episode begins; answers the episode if it ended. An episode
    /// that diverges with it is void, and nothing came of the step.
    ///
    /// # Errors
    /// The environment fails, the sink takes no more, or too many episodes diverge in a row.
    pub fn step(&mut self, policy: &mut Policy) -> Result<Option<Episode>, ActorError> {
        if !self.begin()? {
            return Ok(None);
        }
        let (observation, drawn) = (&self.observation, &mut self.drawn);
        let network = &mut policy.network;
        let log_prob = self
            .noise
            .draw(|rng| network.sample_with_log_prob(observation, rng, drawn));
        self.take(log_prob, policy.version)
    }

    /// Resets where an episode begins; answers whether one is under way.
    fn begin(&mut self) -> Result<bool, ActorError> {
        if self.episode.is_none() {
            match valid(self.environment.reset(), &mut self.observation)? {
                Ok(_) => self.collector.first(&self.observation),
                Err(error) => {
                    self.void_episode(error)?;
                    return Ok(false);
                }
            }
            self.episode = Some(Vec::new());
            self.time.lap(State::Environment as usize);
        }
        Ok(true)
    }

    /// Takes the action drawn.
    fn take(
        &mut self,
        log_prob: f32,
        policy_version: PolicyVersion,
    ) -> Result<Option<Episode>, ActorError> {
        let observation = &mut self.observation;
        self.action.copy_from_slice(&self.drawn);
        clip(&mut self.action);
        self.time.lap(State::Inference as usize);
        let step = self.environment.step(self.scale.scale(&self.action));
        self.time.lap(State::Environment as usize);
        let (reward, discount, last) = match valid(step, observation)? {
            Ok(outcome) => outcome,
            Err(error) => return self.void_episode(error),
        };
        self.steps.increment(self.repeat);
        self.collector.step(Step {
            drawn: &self.drawn,
            log_prob,
            policy_version,
            reward,
            discount,
            next_observation: observation,
            last,
        })?;
        self.time.lap(State::Inserting as usize);
        let episode = self.episode.get_or_insert_default();
        episode.push((reward, discount));
        Ok(last.then(|| self.end_episode(policy_version)))
    }

    /// Takes the first steps of an episode, none of them its last, as they were taken before: with these
    /// actions `[action_size]`, with `noise` after them. With the seed of then the simulation
    /// is again where it was. Answers whether the episode goes on.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn retake(&mut self, actions: &[Vec<f32>], noise: Noise) -> Result<bool, ActorError> {
        for action in actions {
            if !self.begin()? {
                return Ok(false);
            }
            self.drawn.copy_from_slice(action);
            self.take(0.0, PolicyVersion::default())?;
            if !self.in_episode() {
                return Ok(false);
            }
        }
        self.noise = noise;
        Ok(true)
    }

    /// The action of the last step, as the policy drew it.
    pub fn drawn(&self) -> &[f32] {
        &self.drawn
    }

    /// The actions' noise.
    pub fn noise(&self) -> &Noise {
        &self.noise
    }

    /// From here on, between episodes, the environment and the actions' noise have these seeds.
    pub fn reseed(&mut self, environment: u64, noise: u64) {
        self.environment.reseed(environment);
        self.noise.reseed(noise);
    }

    /// Whether an episode is under way.
    pub fn in_episode(&self) -> bool {
        self.episode.is_some()
    }

    /// What becomes of the steps.
    pub fn collector_mut(&mut self) -> &mut Collector<S> {
        &mut self.collector
    }

    /// Ends; what is left is stored.
    pub fn into_collector(self) -> Collector<S> {
        self.collector
    }

    fn end_episode(&mut self, policy_version: PolicyVersion) -> Episode {
        let steps = self.episode.take().unwrap_or_default();
        self.divergences = 0;
        let episode = Episode {
            undiscounted: steps.iter().map(|(reward, _)| reward).sum(),
            length: steps.len() as u64 * self.repeat,
            policy_version,
            discounted: EpisodeReturns::new(&steps, self.discount),
        };
        self.episodes.increment(1);
        self.episode_return.set(episode.undiscounted);
        self.episode_length.set(episode.length as f64);
        episode
    }

    fn void_episode(&mut self, error: String) -> Result<Option<Episode>, ActorError> {
        self.episode = None;
        let dropped = self.collector.diverged();
        counter!(metrics::DIVERGENT_EPISODES).increment(1);
        counter!(metrics::DISCARDED_STEPS).increment(dropped as u64);
        tracing::warn!(
            task = self.environment.spec().task,
            error,
            dropped_steps = dropped,
            "an episode diverged and is void"
        );
        self.divergences += 1;
        if self.divergences == MAX_DIVERGENCES {
            return Err(ActorError::Divergence {
                attempts: MAX_DIVERGENCES,
                error,
            });
        }
        Ok(None)
    }
}

/// Reward, discount and whether the episode ended; a reset has none of them: 0, 1 and no.
pub(crate) type Outcome = (f64, f64, bool);

/// Takes a time step's observation over, or tells why the episode is void: the environment says so, or
/// a number left the range of `f32`.
pub(crate) fn valid(
    step: Result<TimeStep<'_>, EnvironmentError>,
    observation: &mut Vec<f32>,
) -> Result<Result<Outcome, String>, EnvironmentError> {
    let step = match step {
        Ok(step) => step,
        Err(EnvironmentError::Void(reason)) => return Ok(Err(reason)),
        Err(error) => return Err(error),
    };
    let (reward, discount) = (step.reward.unwrap_or(0.0), step.discount.unwrap_or(1.0));
    if !narrow(step.observation, observation) {
        return Ok(Err("an observation is not finite in f32".to_owned()));
    }
    if !(reward as f32).is_finite() {
        return Ok(Err(format!("the reward is {reward}")));
    }
    Ok(Ok((reward, discount, step.is_last())))
}
