//! From an environment's steps to batches in the sink: adder, batch, sink. Every step of a whole
//! episode is stored exactly once; a batch leaves when it is full, and at the end of an episode.

use std::time::{Duration, SystemTime};

use pmpo_replay_client::ClientError;
use pmpo_service::traces;
use pmpo_types::EnvironmentSpec;

use crate::ActorError;
use crate::adder::{Adder, Step};
use crate::insertion::{RowBatch, StepSink};
use crate::run_info::Window;

/// Collects the experience of one environment.
#[derive(Debug)]
pub struct Collector<S> {
    adder: Adder,
    rows: RowBatch,
    /// Rows that make a batch full.
    batch_rows: usize,
    sink: S,
    /// When the batch that is being gathered began, where batches are traced.
    since: Option<SystemTime>,
}

impl<S: StepSink> Collector<S> {
    /// Collects windows of an environment of this kind into batches of `batch_rows` rows.
    pub fn new(window: Window, spec: &EnvironmentSpec, batch_rows: usize, sink: S) -> Self {
        let (observations, actions) = (spec.observation_size(), spec.action_size());
        Self {
            adder: Adder::new(window.steps, window.period),
            rows: RowBatch::new(observations, actions, window.steps + 1),
            batch_rows,
            sink,
            since: None,
        }
    }

    /// Where the batches go.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// Where the batches go, to take them out.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// The adder.
    pub fn adder_mut(&mut self) -> &mut Adder {
        &mut self.adder
    }

    /// An episode has begun.
    pub fn first(&mut self, observation: &[f32]) {
        self.adder.first(observation);
    }

    /// A valid step was taken. May block in the sink.
    ///
    /// # Errors
    /// The sink takes no more.
    pub fn step(&mut self, step: Step<'_>) -> Result<(), ActorError> {
        self.adder.add(step, |row| self.rows.push(row));
        if step.last || self.rows.len() >= self.batch_rows {
            self.hand_over()
        } else {
            Ok(())
        }
    }

    /// The episode has diverged; returns how many of its steps are dropped.
    pub fn diverged(&mut self) -> usize {
        self.adder.discard()
    }

    /// No more steps will come: inserts the open ones as if a time limit had ended the episode, and
    /// waits until everything is stored, at most for `grace`.
    ///
    /// # Errors
    /// The sink has refused.
    pub fn finish(mut self, grace: Duration) -> Result<(), ActorError> {
        self.adder.truncate(|row| self.rows.push(row));
        match self.hand_over().and_then(|()| Ok(self.sink.flush(grace)?)) {
            Err(ActorError::Replay(
                error @ (ClientError::Shutdown | ClientError::Deadline { .. }),
            )) => {
                // As a rule: once the learner has ended, the rate limiter lets nothing in any more.
                tracing::info!(%error, "stopped before the replay had stored every step");
                Ok(())
            }
            result => result,
        }
    }

    fn hand_over(&mut self) -> Result<(), ActorError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut batch = self.rows.take()?;
        let span = self
            .since
            .and_then(|since| traces::root("collect batch", since));
        if let Some(mut span) = span {
            span.set("pmpo.steps", batch.len() as u64);
            batch = batch.with_trace(Some(span.context()));
        }
        self.sink.push(&batch)?;
        self.since = traces::on().then(SystemTime::now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;
    use pmpo_types::{PolicyVersion, StepBatch};
    use std::sync::mpsc;

    struct ChannelSink(mpsc::Sender<StepBatch>, Result<(), ClientError>);

    impl StepSink for ChannelSink {
        fn push(&mut self, batch: &StepBatch) -> Result<(), ClientError> {
            self.0
                .send(batch.clone())
                .map_err(|_| ClientError::Shutdown)
        }

        fn flush(&mut self, _: Duration) -> Result<(), ClientError> {
            self.1.clone()
        }
    }

    fn collector(
        flush: Result<(), ClientError>,
    ) -> (Collector<ChannelSink>, mpsc::Receiver<StepBatch>) {
        let (sender, receiver) = mpsc::channel();
        let window = Window {
            steps: 3,
            period: 1,
        };
        let sink = ChannelSink(sender, flush);
        (Collector::new(window, &spec(1, 1), 4, sink), receiver)
    }

    fn steps(collector: &mut Collector<ChannelSink>, n: usize, ends: bool) {
        for i in 0..n {
            let step = Step {
                drawn: &[0.0],
                log_prob: 0.0,
                policy_version: PolicyVersion(1),
                reward: 1.0,
                discount: 1.0,
                next_observation: &[i as f32],
                last: ends && i + 1 == n,
            };
            collector.step(step).unwrap();
        }
    }

    fn lengths(receiver: &mpsc::Receiver<StepBatch>) -> Vec<usize> {
        receiver.try_iter().map(|batch| batch.len()).collect()
    }

    #[test]
    fn batches_leave_when_full_and_at_the_end_of_an_episode() {
        let (mut collector, receiver) = collector(Ok(()));
        collector.first(&[0.0]);
        steps(&mut collector, 10, true);
        assert_eq!(
            lengths(&receiver),
            [4, 4, 5],
            "two steps are left, and three rows follow the last"
        );
        collector.first(&[0.0]);
        steps(&mut collector, 1, true);
        assert_eq!(lengths(&receiver), [4]);
    }

    #[test]
    fn stopping_inserts_the_steps_of_the_unfinished_episode() {
        let (mut collector, receiver) = collector(Ok(()));
        collector.first(&[0.0]);
        steps(&mut collector, 3, false);
        assert!(lengths(&receiver).is_empty());
        collector.finish(Duration::ZERO).unwrap();
        assert_eq!(lengths(&receiver), [6]);
    }

    #[test]
    fn a_divergent_episode_keeps_only_what_was_complete() {
        let (mut collector, receiver) = collector(Ok(()));
        collector.first(&[0.0]);
        steps(&mut collector, 5, false);
        assert_eq!(collector.diverged(), 3);
        collector.first(&[0.0]);
        steps(&mut collector, 2, true);
        let batches: Vec<StepBatch> = receiver.try_iter().collect();
        let windows: Vec<usize> = batches.iter().map(StepBatch::items).collect();
        assert_eq!(
            windows,
            [1, 3],
            "two of the divergent episode and two of the next"
        );
    }

    #[test]
    fn a_replay_that_is_away_does_not_keep_a_stopping_actor() {
        let (collector, _receiver) = collector(Err(ClientError::Deadline {
            unacknowledged: 3,
            reason: None,
        }));
        collector.finish(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_refusal_ends_the_actor() {
        let refused = ClientError::Protocol("no".to_owned());
        let (collector, _receiver) = self::collector(Err(refused));
        assert!(matches!(
            collector.finish(Duration::ZERO),
            Err(ActorError::Replay(_))
        ));
    }
}
