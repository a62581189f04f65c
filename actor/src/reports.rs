//! Reports to the learner: finished episodes, which may be dropped, and evaluations, which may not.
//! Each kind has a bounded queue and a task that empties it, trying again until it is told to stop.

use std::future::Future;

use ::metrics::{counter, gauge};
use backon::Retryable;
use pmpo_proto::v1::{self, run_client::RunClient};
use pmpo_service::backoff;
use pmpo_service::grpc::{self, Channel};
use pmpo_types::{EpisodeReturns, usable_return};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{ActorError, metrics};

/// Hands finished episodes to the reporting task without ever waiting.
#[derive(Clone, Debug)]
pub(crate) struct EpisodeReports(mpsc::Sender<v1::ReportEpisodeRequest>);

impl EpisodeReports {
    /// The queue of `bound` episodes.
    pub(crate) fn new(bound: usize) -> (Self, mpsc::Receiver<v1::ReportEpisodeRequest>) {
        let (sender, receiver) = mpsc::channel(bound);
        (Self(sender), receiver)
    }

    pub(crate) fn report(&self, episode: v1::ReportEpisodeRequest) {
        // The learner would refuse it, and an actor that was refused ends.
        let usable = usable_return(episode.episode_return) && episode.discounted.is_none_or(usable);
        if !usable {
            tracing::warn!(
                episode_return = episode.episode_return,
                "an episode with rewards that are too large is not reported"
            );
        }
        if !usable || self.0.try_send(episode).is_err() {
            counter!(metrics::REPORTS_DROPPED).increment(1);
        }
        let depth = self.0.max_capacity() - self.0.capacity();
        gauge!(metrics::REPORT_QUEUE).set(depth as f64);
    }
}

fn usable(returns: v1::DiscountedReturns) -> bool {
    let v1::DiscountedReturns {
        mean,
        square,
        largest,
    } = returns;
    let returns = EpisodeReturns {
        mean,
        square,
        largest,
    };
    returns.usable()
}

/// Reports episodes until all senders are gone or `shutdown`.
pub(crate) async fn report_episodes(
    learner: Channel,
    queue: mpsc::Receiver<v1::ReportEpisodeRequest>,
    shutdown: CancellationToken,
) -> Result<(), ActorError> {
    let client = RunClient::new(learner);
    deliver("Run.ReportEpisode", queue, shutdown, |episode| {
        let mut client = client.clone();
        async move { client.report_episode(grpc::timed(episode)).await.map(drop) }
    })
    .await
}

/// Reports evaluations until all senders are gone or `shutdown`.
pub(crate) async fn report_evaluations(
    learner: Channel,
    queue: mpsc::Receiver<v1::ReportEvaluationRequest>,
    shutdown: CancellationToken,
) -> Result<(), ActorError> {
    let client = RunClient::new(learner);
    deliver("Run.ReportEvaluation", queue, shutdown, |evaluation| {
        let mut client = client.clone();
        async move {
            client
                .report_evaluation(grpc::timed(evaluation))
                .await
                .map(drop)
        }
    })
    .await
}

/// Calls with each item, in order, until the call succeeds.
async fn deliver<T, F>(
    name: &'static str,
    mut queue: mpsc::Receiver<T>,
    shutdown: CancellationToken,
    call: impl Fn(T) -> F,
) -> Result<(), ActorError>
where
    T: Clone,
    F: Future<Output = Result<(), Status>>,
{
    while let Some(item) = queue.recv().await {
        gauge!(metrics::REPORT_QUEUE).set(queue.len() as f64);
        let delivery = (|| call(item.clone()))
            .retry(backoff::exponential())
            .when(|status| ActorError::refusal(name, status).is_none())
            .notify(|status, delay| {
                tracing::debug!(reason = status.message(), ?delay, "{name}: trying again");
            });
        let result = tokio::select! {
            result = delivery => result,
            () = shutdown.cancelled() => return Ok(()),
        };
        // Only a refusal ends the retries.
        if let Some(refusal) = result
            .err()
            .and_then(|status| ActorError::refusal(name, &status))
        {
            return Err(refusal);
        }
    }
    Ok(())
}
