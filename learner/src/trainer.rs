//! The update thread: takes batches, steps, publishes, writes checkpoints, and knows when to end.
//!
//! It waits for one thing only, a batch; all sockets are others' business.

use std::time::{Duration, Instant};

use ::metrics::{counter, gauge, histogram};
use pmpo_replay_client::{ClientError, SampledBatch, Sampler};
use pmpo_service::metrics::unix_seconds;
use pmpo_service::traces::{self, Kind};
use pmpo_service::worker_time::WorkerTime;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::checkpoint::Checkpoints;
use crate::priorities::PriorityUpdates;
use crate::publisher::Publisher;
use crate::statistics::Statistics;
use crate::{Batch, EndReason, LearnerError, LearnerOptions, TrainState, metrics};

/// How long to wait for a batch before looking at the limits again.
const LIMITS_PERIOD: Duration = Duration::from_millis(50);

/// What the update thread does, or waits for.
#[derive(Clone, Copy)]
enum State {
    Waiting,
    Updating,
    Publishing,
    Saving,
}

/// The names of [`State`], in its order.
const STATES: [&str; 4] = ["waiting", "updating", "publishing", "saving"];

/// What the update thread owns.
pub(crate) struct Trainer {
    pub(crate) options: LearnerOptions,
    pub(crate) state: TrainState,
    pub(crate) statistics: Statistics,
    pub(crate) sampler: Sampler,
    pub(crate) priorities: PriorityUpdates,
    /// The newest version that a checkpoint names, of this process.
    pub(crate) saved_version: Option<u64>,
    pub(crate) publisher: Publisher,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) board: Board,
    pub(crate) stop: CancellationToken,
}

impl Trainer {
    /// Trains until a limit or until told to stop, and writes a last checkpoint.
    pub(crate) fn run(mut self) -> Result<EndReason, LearnerError> {
        let period = Duration::from_secs_f64(self.options.learner.checkpoint_period_s);
        let mut time = WorkerTime::new(metrics::WORKER_SECONDS, STATES);
        gauge!(metrics::STEPS).set(self.state.step() as f64);
        gauge!(metrics::LAST_STEP).set(unix_seconds());
        let mut saved = Instant::now();
        let mut asked = saved;
        let reason = loop {
            if let Some(reason) = self.end() {
                break reason;
            }
            let batch = self.next_batch()?;
            time.lap(State::Waiting as usize);
            if let Some(batch) = batch {
                histogram!(metrics::BATCH_WAIT_SECONDS).record(asked.elapsed());
                self.step(&batch, &mut time)?;
                asked = Instant::now();
            }
            if saved.elapsed() >= period {
                self.checkpoint()?;
                time.lap(State::Saving as usize);
                saved = Instant::now();
                asked = saved;
            }
        };
        self.checkpoint()?;
        self.publisher.settle(self.saved_version)?;
        Ok(reason)
    }

    fn end(&self) -> Option<EndReason> {
        let limits = &self.options.limits;
        let totals = self.board.totals();
        let reached = |limit: Option<u64>, value: u64| limit.is_some_and(|limit| value >= limit);
        if self.stop.is_cancelled() {
            return Some(EndReason::Shutdown);
        }
        if let (Some(goal), Some(mean)) = (limits.stop_at_return, self.board.last_return_mean())
            && mean >= goal
        {
            return Some(EndReason::StopAtReturn(mean));
        }
        if reached(limits.env_steps, totals.environment.total) {
            return Some(EndReason::EnvSteps);
        }
        if reached(limits.learner_steps, totals.learner_steps) {
            return Some(EndReason::LearnerSteps);
        }
        let minutes = self.board.elapsed_seconds() / 60.0;
        limits
            .max_minutes
            .filter(|&limit| minutes >= limit)
            .map(|_| EndReason::MaxMinutes)
    }

    /// `None` if there is no batch yet, or there will be no more.
    fn next_batch(&mut self) -> Result<Option<SampledBatch>, LearnerError> {
        match self.sampler.next_timeout(LIMITS_PERIOD) {
            Ok(batch) => Ok(batch),
            Err(ClientError::Shutdown) => {
                self.stop.cancel();
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn step(
        &mut self,
        sampled: &SampledBatch,
        time: &mut WorkerTime<{ STATES.len() }>,
    ) -> Result<(), LearnerError> {
        let start = Instant::now();
        let config = &self.options.learner;
        self.priorities.deliver(&config.priorities, &self.sampler)?;
        let device = self.state.device();
        let batch = Batch::sampled(&config.targets, &sampled.columns, device);
        let batch = config.priorities.weigh(batch, sampled, device);
        let traced = sampled.trace;
        let span = traced.and_then(|trace| traces::child("update", Kind::Consumer, trace));
        let mut statistics = self.state.update(config, &batch);
        if let Some(errors) = statistics.take_errors() {
            self.priorities.push(sampled, errors);
        }
        self.statistics.push(statistics, batch.name.clone());
        let step = self.state.step();
        if let Some(mut span) = span {
            span.set("pmpo.learner_step", step);
            self.publisher.learned(span.context());
        }
        let publish = step.is_multiple_of(config.publish_period_steps);
        self.board.stepped(step);
        if publish || self.statistics.pending() >= config.stats_period_steps {
            self.read_statistics()?;
            let newest = self.board.totals().policy_version as f64;
            let oldest = *batch.name.policy_versions.start() as f64;
            gauge!(metrics::STALENESS).set(newest - batch.mean_policy_version);
            gauge!(metrics::MAX_STALENESS).set(newest - oldest);
        }
        time.lap(State::Updating as usize);
        if publish {
            self.publisher.publish(&self.state)?;
            time.lap(State::Publishing as usize);
        }
        counter!(metrics::UPDATES).increment(1);
        gauge!(metrics::STEPS).set(step as f64);
        gauge!(metrics::LAST_STEP).set(unix_seconds());
        histogram!(metrics::UPDATE_SECONDS).record(start.elapsed());
        Ok(())
    }

    /// Also the check that everything is finite, which comes before whatever leaves this thread.
    fn read_statistics(&mut self) -> Result<(), LearnerError> {
        for (name, mean) in self.statistics.read(self.state.step())? {
            gauge!(metrics::STATISTIC, "name" => name).set(mean);
        }
        Ok(())
    }

    /// Publishes first, so that the checkpoint's policy is exactly the version it names; where there is one
    /// of this step from before a resumption, that one stays.
    fn checkpoint(&mut self) -> Result<(), LearnerError> {
        let start = Instant::now();
        self.read_statistics()?;
        self.publisher.publish(&self.state)?;
        let policy = self.publisher.newest_policy();
        let totals = self.board.totals();
        if self
            .checkpoints
            .save(&self.options, &self.state, &policy, &totals)?
        {
            self.saved_version = Some(totals.policy_version);
        }
        histogram!(metrics::CHECKPOINT_SECONDS).record(start.elapsed());
        Ok(())
    }
}
