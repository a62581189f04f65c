//! The handlers of the gRPC services `Weights` and `Run`.

mod join;

use std::time::Duration;

use ::metrics::{counter, gauge};
use crossbeam::channel::Sender;
use pmpo_proto::v1::{self, run_server, weights_server};
use pmpo_proto::{WireError, digest_from_wire};
use pmpo_service::metrics::unix_seconds;
use pmpo_types::{EpisodeReturns, MAX_RETURN, SpecDigest, usable_return};
use tokio::sync::{mpsc, watch};
use tokio_stream::Empty;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::board::{Board, Evaluated};
use crate::broadcast::{Publication, Subscription};
use crate::checkpoint::hex;
use crate::leases::Members;
use crate::{LearnerOptions, metrics};

/// Answers from the board and the newest publication.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    info: v1::RunInfo,
    digest: SpecDigest,
    board: Board,
    publications: watch::Receiver<Publication>,
    /// Weak: the handlers of a connection that nobody ends must not keep the records from ending.
    records: mpsc::WeakSender<Evaluated>,
    /// Returns of finished episodes, for the update.
    episodes: Sender<EpisodeReturns>,
    members: Members,
    /// Cancelled when the learner stops serving.
    ending: CancellationToken,
}

impl Service {
    pub(crate) fn new(
        options: &LearnerOptions,
        board: Board,
        publications: watch::Receiver<Publication>,
        records: mpsc::WeakSender<Evaluated>,
        episodes: Sender<EpisodeReturns>,
        ending: CancellationToken,
    ) -> Self {
        let (digest, update) = (options.spec.digest(), &options.agent.update);
        let window = update.window();
        gauge!(metrics::LAST_EVALUATION).set(unix_seconds());
        let labels = [
            ("run", options.run_id.clone()),
            ("task", options.task.clone()),
            ("seed", options.seed.to_string()),
            ("device", options.device.to_string()),
        ];
        gauge!(metrics::RUN_INFO, &labels).set(1.0);
        Self {
            info: v1::RunInfo {
                run_id: options.run_id.clone(),
                run_uid: options.run_uid.clone(),
                task: options.task.clone(),
                seed: options.seed,
                window: Some(v1::Window {
                    steps: window.steps as u32,
                    period: window.period as u32,
                }),
                discount: update.discount.gamma(),
                action_repeat: options.spec.action_repeat as u32,
                spec_digest: digest.0.to_vec().into(),
            },
            digest,
            board,
            publications,
            records,
            members: Members::new(
                Duration::from_secs_f64(options.learner.lease_s),
                options.resume,
            ),
            episodes,
            ending,
        }
    }
}

#[tonic::async_trait]
impl weights_server::Weights for Service {
    /// [`Broadcast`](crate::broadcast::Broadcast) sends the publications in its place.
    type SubscribeStream = Empty<Result<v1::PolicySnapshot, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let v1::SubscribeRequest {
            subscriber,
            spec_digest,
        } = request.into_inner();
        let digest = digest_from_wire(&spec_digest)?;
        if digest != self.digest {
            return Err(Status::failed_precondition(format!(
                "spec_digest: this run trains {} ({}), the subscriber's environment is another ({})",
                self.info.task,
                hex(&self.digest.0),
                hex(&digest.0)
            )));
        }
        counter!(metrics::SUBSCRIPTIONS).increment(1);
        tracing::info!(subscriber, "subscribed");
        let mut response = Response::new(tokio_stream::empty());
        let subscription = Subscription(self.publications.clone());
        response.extensions_mut().insert(subscription);
        Ok(response)
    }
}

#[tonic::async_trait]
impl run_server::Run for Service {
    type JoinStream = ReceiverStream<Result<v1::JoinResponse, Status>>;

    async fn join(
        &self,
        request: Request<Streaming<v1::JoinRequest>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let (responses, stream) = mpsc::channel(1);
        let joining = join::serve(
            self.members.clone(),
            request.into_inner(),
            responses.clone(),
        );
        let ending = self.ending.clone();
        tokio::spawn(async move {
            let served = tokio::select! {
                served = joining => served,
                () = ending.cancelled() => Err(Status::unavailable("the run is ending")),
            };
            if let Err(status) = served {
                // Nobody is left to tell where this fails.
                drop(responses.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_run(
        &self,
        _: Request<v1::GetRunRequest>,
    ) -> Result<Response<v1::RunInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::RunStatus>, Status> {
        Ok(Response::new(self.board.status()))
    }

    async fn report_episode(
        &self,
        request: Request<v1::ReportEpisodeRequest>,
    ) -> Result<Response<v1::ReportEpisodeResponse>, Status> {
        let episode = request.into_inner();
        usable("episode_return", episode.episode_return)?;
        if let Some(returns) = episode.discounted {
            let returns = returns_from_wire(returns)?;
            // One more or less of so many is not worth a wait.
            if self.episodes.try_send(returns).is_err() {
                tracing::debug!("an episode's returns were dropped: the update has many before it");
            }
        }
        counter!(metrics::EPISODES).increment(1);
        gauge!(metrics::TRAIN_RETURN).set(self.board.episode(episode.episode_return));
        Ok(Response::new(v1::ReportEpisodeResponse {}))
    }

    async fn report_evaluation(
        &self,
        request: Request<v1::ReportEvaluationRequest>,
    ) -> Result<Response<v1::ReportEvaluationResponse>, Status> {
        let v1::ReportEvaluationRequest {
            evaluator,
            evaluation,
        } = request.into_inner();
        let evaluation =
            evaluation.ok_or_else(|| wrong("evaluation", "an evaluation", "nothing"))?;
        usable("evaluation.return_mean", evaluation.return_mean)?;
        usable("evaluation.return_std", evaluation.return_std)?;
        if evaluation.return_std < 0.0 {
            return Err(wrong(
                "evaluation.return_std",
                "at least 0",
                evaluation.return_std,
            ));
        }
        if evaluation.episodes == 0 {
            return Err(wrong("evaluation.episodes", "at least 1", 0));
        }
        let (version, mean) = (evaluation.policy_version, evaluation.return_mean);
        match self.board.evaluated(&evaluation) {
            Some(evaluated) => {
                tracing::info!(evaluator, version, return_mean = mean, "evaluated");
                gauge!(metrics::EVALUATION_RETURN).set(mean);
                gauge!(metrics::EVALUATION_STD).set(evaluation.return_std);
                gauge!(metrics::LAST_EVALUATION).set(unix_seconds());
                let ending = || Status::unavailable("the run is ending");
                let records = self.records.upgrade().ok_or_else(ending)?;
                records.send(evaluated).await.map_err(|_| ending())?;
            }
            None => tracing::warn!(
                evaluator,
                version,
                "ignored a policy this run has not published"
            ),
        }
        Ok(Response::new(v1::ReportEvaluationResponse {}))
    }
}

fn returns_from_wire(wire: v1::DiscountedReturns) -> Result<EpisodeReturns, Status> {
    let returns = EpisodeReturns {
        mean: wire.mean,
        square: wire.square,
        largest: wire.largest,
    };
    usable("discounted.mean", returns.mean)?;
    usable("discounted.square", returns.square.sqrt())?;
    usable("discounted.largest", returns.largest)?;
    Ok(returns)
}

fn usable(field: &str, value: f64) -> Result<(), Status> {
    if usable_return(value) {
        return Ok(());
    }
    let expected = format!("a number of at most {MAX_RETURN:e} in size");
    Err(wrong(field, &expected, value))
}

fn wrong(field: &str, expected: &str, got: impl ToString) -> Status {
    let (field, expected, got) = (field.to_owned(), expected.to_owned(), got.to_string());
    WireError::Field {
        field,
        expected,
        got,
    }
    .into()
}
