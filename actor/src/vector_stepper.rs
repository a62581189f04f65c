//! A vector of environments and what acts in them, a step of all at a time.

use std::time::{Duration, Instant};

use pmpo_policy::clip;
use pmpo_service::worker_time::WorkerTime;
use pmpo_types::StepType;

use crate::ActorError;
use crate::canonical::ActionScale;
use crate::collector::Collector;
use crate::environment::{EnvironmentError, VectorEnvironment};
use crate::insertion::StepSink;
use crate::lane::{Episode, Lane};
use crate::noise::Noise;
use crate::stepper::{Acting, State, worker_time};
use crate::weights::Policy;

/// A vector of environments that are stepped together, and what is made of each one's steps: the policy looks at
/// all of their observations in one pass.
pub(crate) struct VectorStepper<S> {
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
    pub(crate) fn new(
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
