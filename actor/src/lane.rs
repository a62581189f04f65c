//! What is made of an environment's steps: rows for the replay, and episodes that are told of.
//!
//! An episode whose simulation diverges is void: it is counted, its open windows are dropped, and a new one
//! begins.

use ::metrics::{Counter, Gauge, counter, gauge};
use pmpo_types::{EnvironmentSpec, EpisodeReturns, PolicyVersion, TimeStep};
use rand_chacha::ChaCha8Rng;

use crate::adder::Step;
use crate::canonical::narrow;
use crate::collector::Collector;
use crate::environment::EnvironmentError;
use crate::insertion::StepSink;
use crate::noise::Noise;
use crate::{ActorError, metrics};

/// Divergent episodes in a row after which the task is taken to be broken.
const MAX_DIVERGENCES: usize = 100;

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

/// What an environment's steps come to: its present state, its actions' noise, and where its experience goes.
pub(crate) struct Lane<S> {
    task: String,
    pub(crate) collector: Collector<S>,
    pub(crate) noise: Noise,
    /// Control steps of a step.
    repeat: u64,
    /// Gamma, for the discounted returns of episodes.
    discount: f64,
    /// `[observation_size]`, in any state.
    pub(crate) observation: Vec<f32>,
    /// The action as the policy drew it, and the logarithm of its density or probability.
    pub(crate) drawn: Vec<f32>,
    pub(crate) log_prob: f32,
    /// Rewards and the environment's discounts of the episode under way; absent between episodes.
    pub(crate) episode: Option<Vec<(f64, f64)>>,
    /// The last one is void, and no other has begun.
    pub(crate) lost: bool,
    divergences: usize,
    steps: Counter,
    episodes: Counter,
    episode_return: Gauge,
    episode_length: Gauge,
}

impl<S: StepSink> Lane<S> {
    pub(crate) fn new(
        spec: &EnvironmentSpec,
        collector: Collector<S>,
        noise: Noise,
        discount: f64,
    ) -> Self {
        Self {
            task: spec.task.clone(),
            repeat: spec.action_repeat as u64,
            observation: vec![0.0; spec.observation_size()],
            drawn: vec![0.0; spec.action_size()],
            log_prob: 0.0,
            collector,
            noise,
            discount,
            episode: None,
            lost: false,
            divergences: 0,
            steps: counter!(metrics::ENVIRONMENT_STEPS),
            episodes: counter!(metrics::EPISODES),
            episode_return: gauge!(metrics::EPISODE_RETURN),
            episode_length: gauge!(metrics::EPISODE_LENGTH),
        }
    }

    /// An episode begins in the state that a reset led to; answers whether it does.
    pub(crate) fn begin(
        &mut self,
        first: Result<TimeStep<'_>, EnvironmentError>,
    ) -> Result<bool, ActorError> {
        match valid(first, &mut self.observation)? {
            Ok(_) => self.collector.first(&self.observation),
            Err(error) => {
                self.void(&error)?;
                return Ok(false);
            }
        }
        self.episode = Some(Vec::new());
        self.lost = false;
        Ok(true)
    }

    /// Has an action drawn for the present state.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&[f32], &mut ChaCha8Rng, &mut [f32]) -> f32) {
        let (observation, drawn) = (&self.observation, &mut self.drawn);
        self.log_prob = self.noise.draw(|rng| draw(observation, rng, drawn));
    }

    /// The action drawn has led here.
    pub(crate) fn step(
        &mut self,
        step: Result<TimeStep<'_>, EnvironmentError>,
        policy_version: PolicyVersion,
    ) -> Result<Option<Episode>, ActorError> {
        let (reward, discount, last) = match valid(step, &mut self.observation)? {
            Ok(outcome) => outcome,
            Err(error) => {
                self.void(&error)?;
                return Ok(None);
            }
        };
        self.steps.increment(self.repeat);
        self.collector.step(Step {
            drawn: &self.drawn,
            log_prob: self.log_prob,
            policy_version,
            reward,
            discount,
            next_observation: &self.observation,
            last,
        })?;
        let episode = self.episode.get_or_insert_default();
        episode.push((reward, discount));
        Ok(last.then(|| self.end_episode(policy_version)))
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

    /// What was under way is void.
    pub(crate) fn void(&mut self, error: &str) -> Result<(), ActorError> {
        self.episode = None;
        self.lost = true;
        // It may be what cannot be acted on.
        self.observation.fill(0.0);
        let dropped = self.collector.diverged();
        counter!(metrics::DIVERGENT_EPISODES).increment(1);
        counter!(metrics::DISCARDED_STEPS).increment(dropped as u64);
        tracing::warn!(
            task = self.task,
            error,
            dropped_steps = dropped,
            "an episode diverged and is void"
        );
        self.divergences += 1;
        if self.divergences == MAX_DIVERGENCES {
            return Err(ActorError::Divergence {
                attempts: MAX_DIVERGENCES,
                error: error.to_owned(),
            });
        }
        Ok(())
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
