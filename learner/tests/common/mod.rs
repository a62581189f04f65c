//! A replay service for tests: batches of random transitions as long as it is told to give them, and
//! a table that says it was given what the test wants.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use pmpo_learner::{LearnerConfig, LearnerOptions, Limits};
use pmpo_policy::TorsoConfig;
use pmpo_proto::replay::v1::{
    self, replay_server, sample_request::Request as Asked, sample_response::Response as Answer,
};
use pmpo_proto::{batch_to_wire, counters_to_wire};
use pmpo_service::grpc;
use pmpo_service::security::Credentials;
use pmpo_types::{
    ActionSpec, ColumnBatch, DType, EnvironmentSpec, ObservationField, TableCounters, step,
};
use pmpo_update::{AgentConfig, DeviceChoice};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const OBSERVATION: usize = 3;
pub(crate) const ACTION: usize = 2;
pub(crate) const BATCH: usize = 16;

/// The table, as the test moves it.
#[derive(Debug, Default)]
pub(crate) struct FakeTable {
    /// What `ListTables` says.
    pub(crate) inserts: AtomicU64,
    /// Batches given so far.
    pub(crate) given: AtomicU64,
    /// Batches it gives at most.
    pub(crate) limit: AtomicU64,
    /// The batch from which on rewards overflow the critic's loss.
    pub(crate) poisoned_from: AtomicU64,
}

impl FakeTable {
    /// A table that gives `limit` batches.
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        let table = Self::default();
        table.limit.store(limit, Ordering::Relaxed);
        table.poisoned_from.store(u64::MAX, Ordering::Relaxed);
        Arc::new(table)
    }

    /// Serves the table until the test's runtime ends.
    pub(crate) async fn serve(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = replay_server::ReplayServer::new(Service(Arc::clone(self)));
        let (routes, ever) = (Routes::new(service), CancellationToken::new());
        tokio::spawn(grpc::serve(listener.into(), routes, ever));
        address
    }

    fn counters(&self) -> TableCounters {
        let inserts = self.inserts.load(Ordering::Relaxed);
        TableCounters {
            size: inserts,
            inserts,
            samples: 0,
        }
    }

    fn batch(&self, number: u64) -> v1::SampleResponse {
        let signature = step::signature(OBSERVATION, ACTION);
        let rows = BATCH * AgentConfig::default().update.window().rows();
        let poisoned = number >= self.poisoned_from.load(Ordering::Relaxed);
        let columns = signature
            .columns
            .iter()
            .enumerate()
            .map(|(index, spec)| -> Bytes {
                let value = |i: usize| match index {
                    step::REWARD if poisoned => f32::MAX,
                    step::DISCOUNT => 0.9,
                    _ => ((i as f32 + number as f32) * 0.7).sin(),
                };
                match spec.dtype {
                    // Version 0, in the middle of episodes.
                    DType::I64 => 1i64.to_le_bytes().repeat(rows).into(),
                    _ => (0..spec.elements() * rows)
                        .flat_map(|i| value(i).to_le_bytes())
                        .collect(),
                }
            });
        let columns = ColumnBatch::new(&signature, rows, columns.collect()).unwrap();
        let part = v1::BatchPart {
            columns: batch_to_wire(&signature, columns),
            items: Some(v1::SampledItems {
                keys: vec![0; BATCH],
                probabilities: vec![1.0; BATCH],
                priorities: Vec::new(),
                times_sampled: vec![1; BATCH],
                lengths: Vec::new(),
            }),
            counters: Some(counters_to_wire(self.counters())),
            ..v1::BatchPart::default()
        };
        v1::SampleResponse {
            response: Some(Answer::Part(part)),
        }
    }
}

struct Service(Arc<FakeTable>);

#[tonic::async_trait]
impl replay_server::Replay for Service {
    type InsertStream = ReceiverStream<Result<v1::InsertResponse, Status>>;
    type SampleStream = ReceiverStream<Result<v1::SampleResponse, Status>>;

    async fn insert(
        &self,
        _: Request<Streaming<v1::InsertRequest>>,
    ) -> Result<Response<Self::InsertStream>, Status> {
        Err(Status::unimplemented("no writers here"))
    }

    async fn sample(
        &self,
        request: Request<Streaming<v1::SampleRequest>>,
    ) -> Result<Response<Self::SampleStream>, Status> {
        let mut requests = request.into_inner();
        let table = Arc::clone(&self.0);
        let (responses, stream) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let Some(Asked::Demand(demand)) = request.request else {
                    continue;
                };
                for _ in 0..demand.batches {
                    let number = table.given.load(Ordering::Relaxed);
                    if number < table.limit.load(Ordering::Relaxed) {
                        table.given.store(number + 1, Ordering::Relaxed);
                        drop(responses.send(Ok(table.batch(number))).await);
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_tables(
        &self,
        _: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        let info = v1::TableInfo {
            config: Some(v1::TableConfig {
                name: "replay".to_owned(),
                ..v1::TableConfig::default()
            }),
            counters: Some(counters_to_wire(self.0.counters())),
            ..v1::TableInfo::default()
        };
        Ok(Response::new(v1::ListTablesResponse { tables: vec![info] }))
    }

    async fn update_priorities(
        &self,
        _: Request<v1::UpdatePrioritiesRequest>,
    ) -> Result<Response<v1::UpdatePrioritiesResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_writers(
        &self,
        _: Request<v1::ListWritersRequest>,
    ) -> Result<Response<v1::ListWritersResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn delete_items(
        &self,
        _: Request<v1::DeleteItemsRequest>,
    ) -> Result<Response<v1::DeleteItemsResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn reset_table(
        &self,
        _: Request<v1::ResetTableRequest>,
    ) -> Result<Response<v1::ResetTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn configure_table(
        &self,
        _: Request<v1::ConfigureTableRequest>,
    ) -> Result<Response<v1::ConfigureTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn create_table(
        &self,
        _: Request<v1::CreateTableRequest>,
    ) -> Result<Response<v1::CreateTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn checkpoint(
        &self,
        _: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

/// A small run.
pub(crate) fn options(run_dir: &Path, replay: SocketAddr, limits: Limits) -> LearnerOptions {
    let spec = EnvironmentSpec {
        task: "test-task".to_owned(),
        observation: vec![ObservationField {
            name: "x".to_owned(),
            size: OBSERVATION,
        }],
        action: ActionSpec {
            minimum: vec![-1.0; ACTION],
            maximum: vec![1.0; ACTION],
        },
        control_timestep: 0.01,
        step_limit: None,
        action_repeat: 1,
    };
    let mut agent = AgentConfig::default();
    agent.policy.torso = TorsoConfig::hidden(&[8, 8]);
    agent.critic.torso = TorsoConfig::hidden(&[8, 8]);
    agent.update.batch_size = BATCH;
    LearnerOptions {
        run_id: "test-run".to_owned(),
        run_uid: String::new(),
        task: spec.task.clone(),
        seed: 4,
        spec,
        agent,
        learner: LearnerConfig {
            publish_period_steps: 10,
            stats_period_steps: 5,
            ..LearnerConfig::default()
        },
        limits,
        replay_addresses: vec![replay.to_string()],
        credentials: Credentials::default(),
        run_dir: run_dir.to_owned(),
        resume: false,
        device: DeviceChoice::Cpu,
    }
}
