//! Before there is a run: a learner that cannot load its environment itself is told by an actor what it is.

use std::sync::Arc;

use pmpo_proto::FILE_DESCRIPTOR_SET;
use pmpo_proto::v1::{
    self,
    environment_server::{self, EnvironmentServer},
    run_server::{self, RunServer},
};
use pmpo_service::readiness::Readiness;
use pmpo_service::{grpc, health};
use tokio::sync::mpsc;
use tokio_stream::Empty;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What such a learner waits for before it is ready.
const DESCRIPTION: &str = "an actor that says what the environment is";

const SERVICES: [&str; 2] = ["pmpo.v1.Environment", "pmpo.v1.Run"];

/// What reads a description, or says in one line why it cannot be used.
type Read<T> = dyn Fn(&str) -> Result<T, String> + Send + Sync;

/// Serves on `listener` until an actor has described the environment `task` in a way that `read` can use;
/// `None` when told to stop before.
pub async fn told<T: Send + 'static>(
    task: &str,
    read: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    listener: grpc::Listener,
    shutdown: &CancellationToken,
) -> Option<T> {
    tracing::info!(task, "waiting for {DESCRIPTION}");
    let (told, mut descriptions) = mpsc::channel(1);
    let service = Untold {
        task: task.into(),
        read: Arc::new(read),
        told,
    };
    let end = CancellationToken::new();
    let readiness = Readiness::new(&[DESCRIPTION], &end);
    let routes = health::routes(&readiness, &SERVICES, FILE_DESCRIPTOR_SET)
        .await
        .add_service(EnvironmentServer::new(service.clone()))
        .add_service(RunServer::new(service));
    let server = grpc::serve(listener, routes, end.clone());
    let mut server = std::pin::pin!(server);
    let described = tokio::select! {
        described = descriptions.recv() => described,
        () = shutdown.cancelled() => None,
        () = &mut server => None,
    };
    end.cancel();
    // The answer to whoever has told goes out with it; others ask again.
    drop(tokio::time::timeout(grpc::CALL_TIMEOUT, server).await);
    described
}

struct Untold<T> {
    task: Arc<str>,
    read: Arc<Read<T>>,
    told: mpsc::Sender<T>,
}

impl<T> Clone for Untold<T> {
    fn clone(&self) -> Self {
        Self {
            task: Arc::clone(&self.task),
            read: Arc::clone(&self.read),
            told: self.told.clone(),
        }
    }
}

impl<T> Untold<T> {
    fn not_yet<A>(&self) -> Result<Response<A>, Status> {
        let task = &self.task;
        Err(Status::unavailable(format!(
            "{task}: the learner waits for {DESCRIPTION}"
        )))
    }
}

#[tonic::async_trait]
impl<T: Send + 'static> environment_server::Environment for Untold<T> {
    async fn wanted(
        &self,
        _: Request<v1::WantedRequest>,
    ) -> Result<Response<v1::WantedResponse>, Status> {
        let task = self.task.to_string();
        Ok(Response::new(v1::WantedResponse { task }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let v1::DescribeRequest { task, description } = request.into_inner();
        let expected = &*self.task;
        if task != expected {
            let message = format!("task: expected {expected}, got `{}`", task.escape_debug());
            return Err(Status::invalid_argument(message));
        }
        let described = (self.read)(&description).map_err(Status::invalid_argument)?;
        if self.told.try_send(described).is_err() {
            tracing::debug!("another actor has said it before");
        }
        Ok(Response::new(v1::DescribeResponse {}))
    }
}

#[tonic::async_trait]
impl<T: Send + 'static> run_server::Run for Untold<T> {
    type JoinStream = Empty<Result<v1::JoinResponse, Status>>;

    async fn join(
        &self,
        _: Request<Streaming<v1::JoinRequest>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        self.not_yet()
    }

    async fn get_run(
        &self,
        _: Request<v1::GetRunRequest>,
    ) -> Result<Response<v1::RunInfo>, Status> {
        self.not_yet()
    }

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::RunStatus>, Status> {
        self.not_yet()
    }

    async fn report_episode(
        &self,
        _: Request<v1::ReportEpisodeRequest>,
    ) -> Result<Response<v1::ReportEpisodeResponse>, Status> {
        self.not_yet()
    }

    async fn report_evaluation(
        &self,
        _: Request<v1::ReportEvaluationRequest>,
    ) -> Result<Response<v1::ReportEvaluationResponse>, Status> {
        self.not_yet()
    }
}
