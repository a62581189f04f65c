//! The update thread: takes batches, steps, publishes, writes checkpoints, and knows when to end.
//!
//! It waits for one thing only, a batch; all sockets are others' business.

use std::time::{Duration, Instant};

use ::metrics::{counter, gauge, histogram};
use crossbeam::channel::Receiver;
use pmpo_replay_client::ClientError;
use pmpo_service::metrics::unix_seconds;
use pmpo_service::traces::{self, Kind};
use pmpo_service::worker_time::WorkerTime;
use pmpo_types::EpisodeReturns;
use pmpo_update::{BatchSource, Drawn, Learning};
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::checkpoint::Checkpoints;
use crate::publisher::Publisher;
use crate::{EndReason, LearnerError, LearnerOptions, metrics};

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
pub(crate) struct Trainer<S> {
    pub(crate) options: LearnerOptions,
    pub(crate) learning: Learning,
    pub(crate) source: S,
    /// Returns of the episodes that actors finish.
    pub(crate) episodes: Receiver<EpisodeReturns>,
    /// The newest version that a checkpoint names, of this process.
    pub(crate) saved_version: Option<u64>,
    pub(crate) publisher: Publisher,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) board: Board,
    pub(crate) stop: CancellationToken,
}

/// A disk may have room again at the next period; what was learnt since the last checkpoint is here.
fn try_again_later(error: LearnerError) -> Result<(), LearnerError> {
    match error {
        LearnerError::File { .. } => {
            tracing::warn!(%error, "no checkpoint; training goes on, the next period tries again");
            Ok(())
        }
        error => Err(error),
    }
}

impl<S: BatchSource<Error = LearnerError>> Trainer<S> {
    /// Trains until a limit or until told to stop, and writes a last checkpoint.
    pub(crate) fn run(mut self) -> Result<EndReason, LearnerError> {
        let period = Duration::from_secs_f64(self.options.learner.checkpoint_period_s);
        let mut time = WorkerTime::new(metrics::WORKER_SECONDS, STATES);
        gauge!(metrics::STEPS).set(self.learning.state().step() as f64);
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
                self.checkpoint().or_else(try_again_later)?;
                time.lap(State::Saving as usize);
                saved = Instant::now();
                asked = saved;
            }
        };
        self.last_checkpoint(reason)?;
        self.publisher.settle(self.saved_version);
        if reason != EndReason::Shutdown {
            // Before subscriptions end with the publisher: whoever is told the end may ask how it ended.
            self.board.finished();
        }
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
    fn next_batch(&mut self) -> Result<Option<Drawn>, LearnerError> {
        match self.source.next_batch(LIMITS_PERIOD) {
            Err(LearnerError::Replay(ClientError::Shutdown)) => {
                self.stop.cancel();
                Ok(None)
            }
            batch => batch,
        }
    }

    fn step(
        &mut self,
        drawn: &Drawn,
        time: &mut WorkerTime<{ STATES.len() }>,
    ) -> Result<(), LearnerError> {
        let start = Instant::now();
        for episode in self.episodes.try_iter() {
            self.learning.state_mut().observe_episode(&episode);
        }
        let traced = drawn.trace;
        let span = traced.and_then(|trace| traces::child("update", Kind::Consumer, trace));
        let acted = self.learning.step(drawn, &mut self.source)?;
        let config = &self.options.learner;
        let step = self.learning.state().step();
        if let Some(mut span) = span {
            span.set("pmpo.learner_step", step);
            self.publisher.learned(span.context());
        }
        let publish = step.is_multiple_of(config.publish_period_steps);
        self.board.stepped(step);
        if publish || self.learning.unread_steps() >= config.stats_period_steps {
            self.read_statistics()?;
            let newest = self.board.totals().policy_version as f64;
            gauge!(metrics::STALENESS).set(newest - acted.mean_version);
            gauge!(metrics::MAX_STALENESS).set(newest - acted.oldest_version as f64);
        }
        time.lap(State::Updating as usize);
        if publish {
            self.publisher.publish(self.learning.state())?;
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
        for (name, mean) in self.learning.read_statistics()? {
            gauge!(metrics::STATISTIC, "name" => name).set(mean);
        }
        Ok(())
    }

    /// Publishes first, so that the checkpoint's policy is exactly the version it names.
    fn checkpoint(&mut self) -> Result<(), LearnerError> {
        self.read_statistics()?;
        self.publisher.publish(self.learning.state())?;
        self.save()
    }

    /// A run that ends because an evaluation reached its goal ends with that policy as its newest.
    fn last_checkpoint(&mut self, reason: EndReason) -> Result<(), LearnerError> {
        let reached = match reason {
            EndReason::StopAtReturn(_) => self.board.last_evaluation(),
            _ => None,
        };
        let reached = reached.and_then(|reached| Some((reached.weights?, reached.row)));
        let Some((weights, row)) = reached else {
            return self.checkpoint();
        };
        self.read_statistics()?;
        self.publisher.publish_again(weights, row.learner_steps)?;
        self.save()
    }

    /// Writes the state with the newest publication's policy.
    fn save(&mut self) -> Result<(), LearnerError> {
        let start = Instant::now();
        let policy = self.publisher.newest_policy();
        let totals = self.board.totals();
        let state = self.learning.state();
        if self.checkpoints.save(state, &policy, &totals, &[])? {
            self.saved_version = Some(totals.policy_version);
        }
        histogram!(metrics::CHECKPOINT_SECONDS).record(start.elapsed());
        Ok(())
    }
}
