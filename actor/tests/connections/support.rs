//! A learner and a replay for the tests of the actor's connections: they do what the test tells them
//! and keep what they get.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use pmpo_policy::{NamedTensor, NetworkConfig, TorsoConfig, snapshot};
use pmpo_proto::replay::v1::{
    self as replay, insert_request::Request as Insertion, insert_response::Response as Answer,
};
use pmpo_proto::v1;
use pmpo_types::EnvironmentSpec;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

pub(crate) type Snapshots = mpsc::Sender<Result<v1::PolicySnapshot, Status>>;
type Stream = mpsc::Receiver<Result<v1::PolicySnapshot, Status>>;

/// An untrained policy as the learner publishes it.
pub(crate) fn publication(
    spec: &EnvironmentSpec,
    version: u64,
    learner_step: u64,
) -> v1::PolicySnapshot {
    let network = NetworkConfig {
        torso: TorsoConfig::hidden(&[8, 8]),
        ..NetworkConfig::default()
    };
    let (observations, actions) = (spec.observation_size(), spec.action_size());
    let specs = network.tensors(observations, actions).unwrap();
    let tensors: Vec<NamedTensor> = specs.iter().map(|spec| spec.filled(|_| 0.0)).collect();
    v1::PolicySnapshot {
        version,
        learner_step,
        spec_digest: spec.digest().0.to_vec().into(),
        weights: snapshot::encode(&network, observations, actions, &tensors).unwrap(),
        ..v1::PolicySnapshot::default()
    }
}

/// Serves `Run` and `Weights`.
#[derive(Clone)]
pub(crate) struct Learner {
    pub(crate) info: Arc<Mutex<v1::RunInfo>>,
    /// The next subscriptions, in order; further ones are refused for the time being.
    streams: Arc<Mutex<VecDeque<Stream>>>,
    /// Answers to the next reports of evaluations; further ones are accepted.
    pub(crate) evaluation_answers: Arc<Mutex<VecDeque<Status>>>,
    episodes: mpsc::UnboundedSender<v1::ReportEpisodeRequest>,
    evaluations: mpsc::UnboundedSender<v1::Evaluation>,
}

/// What a learner was told.
pub(crate) struct Told {
    pub(crate) episodes: mpsc::UnboundedReceiver<v1::ReportEpisodeRequest>,
    pub(crate) evaluations: mpsc::UnboundedReceiver<v1::Evaluation>,
}

impl Learner {
    pub(crate) fn new(spec: &EnvironmentSpec) -> (Self, Told) {
        let (episodes, told_episodes) = mpsc::unbounded_channel();
        let (evaluations, told_evaluations) = mpsc::unbounded_channel();
        let info = Arc::new(Mutex::new(v1::RunInfo {
            run_id: "test".to_owned(),
            run_uid: String::new(),
            task: spec.task.clone(),
            seed: 1,
            window: Some(v1::Window {
                steps: 3,
                period: 1,
            }),
            discount: 0.99,
            action_repeat: 1,
            spec_digest: spec.digest().0.to_vec().into(),
        }));
        let learner = Self {
            info,
            streams: Arc::default(),
            evaluation_answers: Arc::default(),
            episodes,
            evaluations,
        };
        (
            learner,
            Told {
                episodes: told_episodes,
                evaluations: told_evaluations,
            },
        )
    }

    /// The sending end of the next subscription's stream; dropping it ends the stream.
    pub(crate) fn next_stream(&self) -> Snapshots {
        let (sender, receiver) = mpsc::channel(16);
        self.streams.lock().unwrap().push_back(receiver);
        sender
    }

    /// Starts serving and returns the address.
    pub(crate) async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Server::builder()
            .add_service(v1::run_server::RunServer::new(self.clone()))
            .add_service(v1::weights_server::WeightsServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }
}

#[tonic::async_trait]
impl v1::weights_server::Weights for Learner {
    type SubscribeStream = ReceiverStream<Result<v1::PolicySnapshot, Status>>;

    async fn subscribe(
        &self,
        _: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let next = self.streams.lock().unwrap().pop_front();
        let stream = next.ok_or_else(|| Status::unavailable("no stream prepared"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl v1::run_server::Run for Learner {
    type JoinStream = ReceiverStream<Result<v1::JoinResponse, Status>>;

    /// Gives the index that is asked for, or 0.
    async fn join(
        &self,
        request: Request<Streaming<v1::JoinRequest>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let mut requests = request.into_inner();
        let (responses, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut index = None;
            while let Ok(Some(request)) = requests.message().await {
                if request.leaving {
                    break;
                }
                let index = *index.get_or_insert(request.index.unwrap_or(0));
                let answer = v1::JoinResponse {
                    index,
                    lease_ms: 10_000,
                };
                if responses.send(Ok(answer)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_run(
        &self,
        _: Request<v1::GetRunRequest>,
    ) -> Result<Response<v1::RunInfo>, Status> {
        Ok(Response::new(self.info.lock().unwrap().clone()))
    }

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::RunStatus>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn report_episode(
        &self,
        request: Request<v1::ReportEpisodeRequest>,
    ) -> Result<Response<v1::ReportEpisodeResponse>, Status> {
        self.episodes.send(request.into_inner()).unwrap();
        Ok(Response::new(v1::ReportEpisodeResponse {}))
    }

    async fn report_evaluation(
        &self,
        request: Request<v1::ReportEvaluationRequest>,
    ) -> Result<Response<v1::ReportEvaluationResponse>, Status> {
        if let Some(answer) = self.evaluation_answers.lock().unwrap().pop_front() {
            return Err(answer);
        }
        self.evaluations
            .send(request.into_inner().evaluation.unwrap())
            .unwrap();
        Ok(Response::new(v1::ReportEvaluationResponse {}))
    }
}

/// Serves `Replay.Insert`, and passes on what was inserted.
pub(crate) struct Replay(mpsc::UnboundedSender<replay::Steps>);

impl Replay {
    /// Starts serving; returns the address and the items.
    pub(crate) async fn serve() -> (String, mpsc::UnboundedReceiver<replay::Steps>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = replay::replay_server::ReplayServer::new(Self(sender));
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (address, receiver)
    }
}

#[tonic::async_trait]
impl replay::replay_server::Replay for Replay {
    type InsertStream = UnboundedReceiverStream<Result<replay::InsertResponse, Status>>;
    type SampleStream = UnboundedReceiverStream<Result<replay::SampleResponse, Status>>;

    async fn insert(
        &self,
        request: Request<Streaming<replay::InsertRequest>>,
    ) -> Result<Response<Self::InsertStream>, Status> {
        let mut requests = request.into_inner();
        let (responses, stream) = mpsc::unbounded_channel();
        let inserted = self.0.clone();
        tokio::spawn(async move {
            let mut next_sequence = 0;
            while let Ok(Some(request)) = requests.message().await {
                if let Some(Insertion::Steps(steps)) = request.request {
                    next_sequence = steps.first_sequence + steps.columns[0].shape[0];
                    inserted.send(steps).unwrap();
                }
                if responses
                    .send(Ok(replay::InsertResponse {
                        response: Some(Answer::NextSequence(next_sequence)),
                    }))
                    .is_err()
                {
                    break;
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }

    async fn sample(
        &self,
        _: Request<Streaming<replay::SampleRequest>>,
    ) -> Result<Response<Self::SampleStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_tables(
        &self,
        _: Request<replay::ListTablesRequest>,
    ) -> Result<Response<replay::ListTablesResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn update_priorities(
        &self,
        _: Request<replay::UpdatePrioritiesRequest>,
    ) -> Result<Response<replay::UpdatePrioritiesResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_writers(
        &self,
        _: Request<replay::ListWritersRequest>,
    ) -> Result<Response<replay::ListWritersResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn delete_items(
        &self,
        _: Request<replay::DeleteItemsRequest>,
    ) -> Result<Response<replay::DeleteItemsResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn reset_table(
        &self,
        _: Request<replay::ResetTableRequest>,
    ) -> Result<Response<replay::ResetTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn configure_table(
        &self,
        _: Request<replay::ConfigureTableRequest>,
    ) -> Result<Response<replay::ConfigureTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn create_table(
        &self,
        _: Request<replay::CreateTableRequest>,
    ) -> Result<Response<replay::CreateTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn checkpoint(
        &self,
        _: Request<replay::CheckpointRequest>,
    ) -> Result<Response<replay::CheckpointResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}
