//! Environments and what acts in them, a step at a time: act with a policy, step, collect. One environment, or a
//! vector of them that are stepped together.
//!
//! Follows the body of `acme/environment_loop.py`. An episode whose simulation diverges is void: it is
//! counted, its open windows are dropped, and a new one begins.

use std::time::{Duration, Instant};

use ::metrics::{Counter, Gauge, counter, gauge};
use pmpo_policy::clip;
use pmpo_service::worker_time::WorkerTime;
use pmpo_types::{EnvironmentSpec, EpisodeReturns, PolicyVersion, StepType, TimeStep};
use rand_chacha::ChaCha8Rng;

use crate::adder::Step;
use crate::canonical::{ActionScale, narrow};
use crate::collector::Collector;
use crate::environment::{Environment, EnvironmentError, VectorEnvironment};
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

/// What acts, a step at a time.
pub(crate) trait Acting: Send {
    /// Takes one step of the policy in each environment; `ended` is told of the episodes that ended.
    ///
    /// # Errors
    /// As [`Stepper::step`].
    fn act(
        &mut self,
        policy: &mut Policy,
        ended: &mut dyn FnMut(Episode),
    ) -> Result<(), ActorError>;

    /// Ends, and stores what is left, within `grace`.
    ///
    /// # Errors
    /// As [`Collector::finish`].
    fn finish(self: Box<Self>, grace: Duration) -> Result<(), ActorError>;
}

/// An environment, and what is made of its steps.
pub struct Stepper<S> {
    environment: Box<dyn Environment>,
    lane: Lane<S>,
    scale: ActionScale,
    /// The action as it is carried out.
    action: Vec<f32>,
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
            scale: ActionScale::new(&spec.action),
            action: vec![0.0; spec.action_size()],
            lane: Lane::new(spec, collector, noise, discount),
            environment,
            time: worker_time(),
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
        let network = &mut policy.network;
        let draw = |observation: &[f32], rng: &mut ChaCha8Rng, action: &mut [f32]| {
            network.sample_with_log_prob(observation, rng, action)
        };
        self.lane.draw(draw);
        self.take(policy.version)
    }

    /// Resets where an episode begins; answers whether one is under way.
    fn begin(&mut self) -> Result<bool, ActorError> {
        if self.lane.episode.is_none() {
            let begun = self.lane.begin(self.environment.reset())?;
            self.time.lap(State::Environment as usize);
            return Ok(begun);
        }
        Ok(true)
    }

    /// Takes the action drawn.
    fn take(&mut self, policy_version: PolicyVersion) -> Result<Option<Episode>, ActorError> {
        self.action.copy_from_slice(&self.lane.drawn);
        clip(&mut self.action);
        self.time.lap(State::Inference as usize);
        let step = self.environment.step(self.scale.scale(&self.action));
        self.time.lap(State::Environment as usize);
        let episode = self.lane.step(step, policy_version)?;
        self.time.lap(State::Inserting as usize);
        Ok(episode)
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
            self.lane.drawn.copy_from_slice(action);
            self.lane.log_prob = 0.0;
            self.take(PolicyVersion::default())?;
            if !self.in_episode() {
                return Ok(false);
            }
        }
        self.lane.noise = noise;
        Ok(true)
    }

    /// The action of the last step, as the policy drew it.
    pub fn drawn(&self) -> &[f32] {
        &self.lane.drawn
    }

    /// The actions' noise.
    pub fn noise(&self) -> &Noise {
        &self.lane.noise
    }

    /// From here on, between episodes, the environment and the actions' noise have these seeds.
    pub fn reseed(&mut self, environment: u64, noise: u64) {
        self.environment.reseed(environment);
        self.lane.noise.reseed(noise);
    }

    /// Whether an episode is under way.
    pub fn in_episode(&self) -> bool {
        self.lane.episode.is_some()
    }

    /// What becomes of the steps.
    pub fn collector_mut(&mut self) -> &mut Collector<S> {
        &mut self.lane.collector
    }
}

impl<S: StepSink + Send> Acting for Stepper<S> {
    fn act(
        &mut self,
        policy: &mut Policy,
        ended: &mut dyn FnMut(Episode),
    ) -> Result<(), ActorError> {
        self.step(policy)?.into_iter().for_each(ended);
        Ok(())
    }

    fn finish(self: Box<Self>, grace: Duration) -> Result<(), ActorError> {
        self.lane.collector.finish(grace)
    }
}

/// A vector of environments that are stepped together, and what is made of each one's steps: the policy looks at
/// all of their observations in one pass.
pub struct VectorStepper<S> {
    environments: Box<dyn VectorEnvironment>,
    lanes: Vec<Lane<S>>,
    /// They are to begin anew, all of them.
    reset: bool,
    scale: ActionScale,
    /// `[count, observation_size]`, `[action_size]` and `[count, action_size]`.
    observations: Vec<f32>,
    action: Vec<f32>,
    actions: Vec<f64>,
    time: WorkerTime<3>,
}

impl<S: StepSink> VectorStepper<S> {
    /// Nothing has happened yet; a collector and a noise for each environment. `discount` is gamma.
    ///
    /// # Panics
    /// If there are not as many as environments.
    pub fn new(
        environments: Box<dyn VectorEnvironment>,
        lanes: impl IntoIterator<Item = (Collector<S>, Noise)>,
        discount: f64,
    ) -> Self {
        let spec = environments.spec();
        let lane = |(collector, noise)| Lane::new(spec, collector, noise, discount);
        let lanes: Vec<_> = lanes.into_iter().map(lane).collect();
        assert_eq!(
            lanes.len(),
            environments.count(),
            "a lane for each environment"
        );
        Self {
            lanes,
            reset: true,
            scale: ActionScale::new(&spec.action),
            observations: Vec::new(),
            action: vec![0.0; spec.action_size()],
            actions: Vec::new(),
            environments,
            time: worker_time(),
        }
    }

    /// Takes one step of the policy in each environment.
    fn step(
        &mut self,
        policy: &mut Policy,
        ended: &mut dyn FnMut(Episode),
    ) -> Result<(), ActorError> {
        if self.reset && !self.begin()? {
            return Ok(());
        }
        self.draw(policy);
        self.time.lap(State::Inference as usize);
        let stepped = self.environments.step(&self.actions);
        self.time.lap(State::Environment as usize);
        if let Err(error) = stepped {
            self.void(error)?;
            return Ok(());
        }
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let outcome = self.environments.outcome(index);
            if outcome.step_type == StepType::First {
                lane.begin(Ok(outcome))?;
            } else if lane.episode.is_some() {
                lane.step(Ok(outcome), policy.version)?
                    .into_iter()
                    .for_each(&mut *ended);
            }
            if let Some(first) = self.environments.begun(index) {
                lane.begin(Ok(first))?;
            }
        }
        // A void episode goes on in its environment, and the next one counts again; where all are void, none may
        // ever end.
        self.reset = self.lanes.iter().all(|lane| lane.lost);
        self.time.lap(State::Inserting as usize);
        Ok(())
    }

    /// Resets all; answers whether it could be.
    fn begin(&mut self) -> Result<bool, ActorError> {
        if let Err(error) = self.environments.reset() {
            self.void(error)?;
            return Ok(false);
        }
        self.reset = false;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.begin(Ok(self.environments.outcome(index)))?;
        }
        self.time.lap(State::Environment as usize);
        Ok(true)
    }

    /// An action for each environment; for those that are between episodes, whatever.
    fn draw(&mut self, policy: &mut Policy) {
        self.observations.clear();
        for lane in &self.lanes {
            self.observations.extend_from_slice(&lane.observation);
        }
        let mut rows = policy.network.batch(&self.observations);
        self.actions.clear();
        for (row, lane) in self.lanes.iter_mut().enumerate() {
            if lane.episode.is_some() {
                lane.draw(|_, rng, action| rows.sample(row, rng, action));
            } else {
                lane.drawn.fill(0.0);
            }
            self.action.copy_from_slice(&lane.drawn);
            clip(&mut self.action);
            self.actions
                .extend_from_slice(self.scale.scale(&self.action));
        }
    }

    /// What failed has failed for all.
    fn void(&mut self, error: EnvironmentError) -> Result<(), ActorError> {
        let EnvironmentError::Void(reason) = error else {
            return Err(error.into());
        };
        self.reset = true;
        self.lanes
            .iter_mut()
            .try_for_each(|lane| lane.void(&reason))
    }
}

impl<S: StepSink + Send> Acting for VectorStepper<S> {
    fn act(
        &mut self,
        policy: &mut Policy,
        ended: &mut dyn FnMut(Episode),
    ) -> Result<(), ActorError> {
        self.step(policy, ended)
    }

    fn finish(self: Box<Self>, grace: Duration) -> Result<(), ActorError> {
        let end = Instant::now() + grace;
        let finish = |lane: Lane<S>| {
            let left = end.saturating_duration_since(Instant::now());
            lane.collector.finish(left)
        };
        // Whatever becomes of one of them, what the others have left is stored.
        self.lanes.into_iter().map(finish).fold(Ok(()), Result::and)
    }
}

fn worker_time() -> WorkerTime<3> {
    WorkerTime::new(metrics::WORKER_SECONDS, STATES)
}

/// What an environment's steps come to: its present state, its actions' noise, and where its experience goes.
struct Lane<S> {
    task: String,
    collector: Collector<S>,
    noise: Noise,
    /// Control steps of a step.
    repeat: u64,
    /// Gamma, for the discounted returns of episodes.
    discount: f64,
    /// `[observation_size]`, in any state.
    observation: Vec<f32>,
    /// The action as the policy drew it, and the logarithm of its density or probability.
    drawn: Vec<f32>,
    log_prob: f32,
    /// Rewards and the environment's discounts of the episode under way; absent between episodes.
    episode: Option<Vec<(f64, f64)>>,
    /// The last one is void, and no other has begun.
    lost: bool,
    divergences: usize,
    steps: Counter,
    episodes: Counter,
    episode_return: Gauge,
    episode_length: Gauge,
}

impl<S: StepSink> Lane<S> {
    fn new(spec: &EnvironmentSpec, collector: Collector<S>, noise: Noise, discount: f64) -> Self {
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
    fn begin(&mut self, first: Result<TimeStep<'_>, EnvironmentError>) -> Result<bool, ActorError> {
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
    fn draw(&mut self, draw: impl FnOnce(&[f32], &mut ChaCha8Rng, &mut [f32]) -> f32) {
        let (observation, drawn) = (&self.observation, &mut self.drawn);
        self.log_prob = self.noise.draw(|rng| draw(observation, rng, drawn));
    }

    /// The action drawn has led here.
    fn step(
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
    fn void(&mut self, error: &str) -> Result<(), ActorError> {
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
