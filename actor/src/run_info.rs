//! What an actor or evaluator learns from the learner before it starts: the run.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use backon::Retryable;
use pmpo_proto::v1::{self, run_client::RunClient};
use pmpo_proto::{WireError, digest_from_wire};
use pmpo_service::backoff;
use pmpo_service::grpc::{self, Channel};
use pmpo_types::SpecDigest;
use tokio_util::sync::CancellationToken;

use crate::ActorError;
use crate::environment::{self, Loaded, Request};

/// Steps that a window may have.
const SPAN: RangeInclusive<usize> = 1..=1000;

/// Time between lines on the loading of many environments.
const LOADING_PERIOD: Duration = Duration::from_secs(2);

/// The windows that items of the replay table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Steps of a window; its rows are one more.
    pub steps: usize,
    /// Steps for each window.
    pub period: usize,
}

/// The run to take part in.
#[derive(Clone, Debug, PartialEq)]
pub struct RunInfo {
    /// Name of the run.
    pub run_id: String,
    /// What tells it from others of its name; empty from a learner that does not say it.
    pub run_uid: String,
    /// Task, as `domain-task`.
    pub task: String,
    /// Every generator of the run is seeded from this.
    pub seed: u64,
    /// What to write.
    pub window: Window,
    /// gamma, a step of the policy.
    pub discount: f64,
    /// Control steps for which an action is carried out.
    pub action_repeat: usize,
    /// The learner's environment.
    pub spec_digest: SpecDigest,
}

impl RunInfo {
    /// Asks the learner until it answers; `None` when told to stop before.
    ///
    /// # Errors
    /// The learner refuses, or its answer cannot be.
    pub async fn get(
        learner: &Channel,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, ActorError> {
        let client = RunClient::new(learner.clone());
        let call = || {
            let mut client = client.clone();
            async move { client.get_run(grpc::timed(v1::GetRunRequest {})).await }
        };
        let answer = call
            .retry(backoff::exponential())
            .when(|status| ActorError::refusal("Run.GetRun", status).is_none())
            .notify(|status, delay| {
                tracing::info!(reason = status.message(), ?delay, "waiting for the learner");
            });
        let response = tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            answer = answer => answer,
        };
        match response {
            Ok(response) => Ok(Some(Self::from_wire(response.into_inner())?)),
            Err(status) => match ActorError::refusal("Run.GetRun", &status) {
                Some(refusal) => Err(refusal),
                // The backoff has no end, so only refusals end it.
                None => Ok(None),
            },
        }
    }

    /// Refuses a learner that has come back with another run.
    pub(crate) fn check_unchanged(&self, answer: v1::RunInfo) -> Result<(), ActorError> {
        let now = Self::from_wire(answer)?;
        if now == *self {
            return Ok(());
        }
        Err(ActorError::OtherRun {
            before: self.run_id.clone(),
            now: now.run_id,
        })
    }

    /// What the run's task stands for, once a seed, whose steps may take `timeout`; loaded off the runtime's workers.
    pub(crate) async fn environments(
        &self,
        seeds: Vec<u64>,
        timeout: Duration,
    ) -> Result<Vec<Loaded>, ActorError> {
        let run = self.clone();
        let load = move || {
            let (all, mut told) = (seeds.len(), Instant::now());
            let mut environments = Vec::with_capacity(all);
            for seed in seeds {
                environments.push(run.environment(seed, timeout)?);
                if told.elapsed() >= LOADING_PERIOD {
                    tracing::info!(loaded = environments.len(), all, "loading environments");
                    told = Instant::now();
                }
            }
            Ok(environments)
        };
        tokio::task::spawn_blocking(load)
            .await
            .unwrap_or_else(|_| Err(ActorError::Panicked("loading the environments".to_owned())))
    }

    fn environment(&self, seed: u64, timeout: Duration) -> Result<Loaded, ActorError> {
        let environment = environment::load_any(&Request {
            task: &self.task,
            action_repeat: self.action_repeat,
            seed,
            timeout,
            pictures: false,
        })?;
        if environment.spec().digest() == self.spec_digest {
            return Ok(environment);
        }
        Err(ActorError::Spec {
            task: self.task.clone(),
        })
    }

    fn from_wire(wire: v1::RunInfo) -> Result<Self, WireError> {
        if !(0.0..=1.0).contains(&wire.discount) {
            return Err(refused("discount", "0 to 1", wire.discount));
        }
        Ok(Self {
            run_id: wire.run_id,
            run_uid: wire.run_uid,
            task: wire.task,
            seed: wire.seed,
            window: window(wire.window)?,
            discount: wire.discount,
            // What learners of before did not say was 1.
            action_repeat: wire.action_repeat.max(1) as usize,
            spec_digest: digest_from_wire(&wire.spec_digest)?,
        })
    }
}

fn window(wire: Option<v1::Window>) -> Result<Window, WireError> {
    let span = |field: &str, steps: u32, bounds: RangeInclusive<usize>| {
        let steps = steps as usize;
        if bounds.contains(&steps) {
            return Ok(steps);
        }
        Err(refused(field, format!("{bounds:?}"), steps))
    };
    let window = wire.ok_or_else(|| refused("window", "a window", "nothing"))?;
    let steps = span("window.steps", window.steps, SPAN)?;
    let period = span("window.period", window.period, 1..=steps)?;
    Ok(Window { steps, period })
}

fn refused(field: &str, expected: impl Into<String>, got: impl ToString) -> WireError {
    WireError::Field {
        field: field.to_owned(),
        expected: expected.into(),
        got: got.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::RunInfo {
        v1::RunInfo {
            run_id: "a".to_owned(),
            run_uid: String::new(),
            task: "cartpole-swingup".to_owned(),
            seed: 3,
            window: Some(v1::Window {
                steps: 5,
                period: 1,
            }),
            discount: 0.5,
            action_repeat: 0,
            spec_digest: vec![1; 32].into(),
        }
    }

    #[test]
    fn reads_a_run_and_refuses_an_impossible_one() {
        let run = RunInfo::from_wire(wire()).unwrap();
        assert_eq!((run.seed, run.discount, run.action_repeat), (3, 0.5, 1));
        let (steps, period) = (5, 1);
        assert_eq!(run.window, Window { steps, period });
        let refused = |change: fn(&mut v1::RunInfo)| {
            let mut wire = wire();
            change(&mut wire);
            RunInfo::from_wire(wire).unwrap_err().to_string()
        };
        let window = |steps, period| {
            let mut wire = wire();
            wire.window = Some(v1::Window { steps, period });
            RunInfo::from_wire(wire).unwrap_err().to_string()
        };
        assert_eq!(window(1001, 4), "window.steps: expected 1..=1000, got 1001");
        assert_eq!(window(0, 1), "window.steps: expected 1..=1000, got 0");
        assert_eq!(window(8, 9), "window.period: expected 1..=8, got 9");
        assert_eq!(
            refused(|w| w.window = None),
            "window: expected a window, got nothing"
        );
        assert_eq!(
            refused(|w| w.discount = f64::NAN),
            "discount: expected 0 to 1, got NaN"
        );
        assert_eq!(
            refused(|w| w.discount = 1.5),
            "discount: expected 0 to 1, got 1.5"
        );
        assert_eq!(
            refused(|w| w.spec_digest = vec![1; 3].into()),
            "spec_digest: expected 32 bytes, got 3 bytes"
        );
    }
}
