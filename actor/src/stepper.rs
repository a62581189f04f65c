//! One environment and what acts in it, a step at a time: act with a policy, step, collect.
//!
//! Follows the body of `acme/environment_loop.py`.

use std::time::Duration;

use pmpo_policy::clip;
use pmpo_service::worker_time::WorkerTime;
use pmpo_types::PolicyVersion;
use rand_chacha::ChaCha8Rng;

use crate::canonical::ActionScale;
use crate::collector::Collector;
use crate::environment::Environment;
use crate::insertion::StepSink;
use crate::lane::{Episode, Lane};
use crate::noise::Noise;
use crate::weights::Policy;
use crate::{ActorError, metrics};

/// What the time of an environment's thread is spent on.
#[derive(Clone, Copy)]
pub(crate) enum State {
    Inference,
    Environment,
    Inserting,
}

/// The names of [`State`], in its order.
const STATES: [&str; 3] = ["inference", "environment", "inserting"];
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

/// The clock of a thread that steps environments, by [`State`].
pub(crate) fn worker_time() -> WorkerTime<3> {
    WorkerTime::new(metrics::WORKER_SECONDS, STATES)
}
