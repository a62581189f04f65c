//! A run that does not train and publishes when it is told to, with the publisher and the services of one
//! that does: what a measurement of the broadcast measures.

use std::path::PathBuf;

use pmpo_policy::NetworkConfig;
use pmpo_proto::v1::run_server::RunServer;
use pmpo_service::grpc;
use pmpo_service::security::Credentials;
use pmpo_types::EnvironmentSpec;
use pmpo_update::{AgentConfig, DeviceChoice, TrainState};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;

use crate::board::{Board, Totals};
use crate::broadcast::Broadcast;
use crate::publisher::Publisher;
use crate::service::Service;
use crate::versions::Versions;
use crate::{LearnerConfig, LearnerError, LearnerOptions, Limits};

/// Such a run; dropping it ends it.
#[derive(Debug)]
pub struct Broadcaster {
    state: TrainState,
    publisher: Publisher,
    version: u64,
    server: JoinHandle<()>,
    stop: DropGuard,
}

impl Broadcaster {
    /// Publishes an untrained policy as version 1 and serves on `listener`. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// The network cannot be.
    pub fn start(
        network: NetworkConfig,
        spec: EnvironmentSpec,
        listener: impl Into<grpc::Listener>,
    ) -> Result<Self, LearnerError> {
        let options = options(network, spec);
        let sizes = [options.spec.observation_size(), options.spec.action_size()];
        let device = options.device.open()?;
        let state = TrainState::new(&options.agent, sizes, 1, &device)?;
        let board = Board::new(Totals::default(), 0, 1);
        let publisher =
            Publisher::new(&options, &state, (Versions::unrecorded(), 1), board.clone())?;
        // Nobody evaluates or acts.
        let (rows, _) = mpsc::channel(1);
        let (episodes, _) = crossbeam::channel::bounded(1);
        let stop = CancellationToken::new();
        let (newest, rows) = (publisher.subscribe(), rows.downgrade());
        let service = Service::new(&options, board, newest, rows, episodes, stop.clone());
        let routes = Routes::new(Broadcast::new(service.clone()));
        let routes = routes.add_service(RunServer::new(service));
        let server = grpc::serve(listener.into(), routes, stop.clone());
        Ok(Self {
            state,
            publisher,
            version: 1,
            server: tokio::spawn(server),
            stop: stop.drop_guard(),
        })
    }

    /// Publishes the tensors as the next version, and answers which; all of the publisher's work is
    /// done when it returns.
    ///
    /// # Errors
    /// The policy cannot be encoded.
    pub fn publish(&mut self) -> Result<u64, LearnerError> {
        self.version += 1;
        self.publisher.send(&self.state, self.version)?;
        Ok(self.version)
    }

    /// Size of a snapshot's weights.
    pub fn snapshot_bytes(&self) -> usize {
        self.publisher.newest_policy().len()
    }

    /// Ends the subscriptions, then the server.
    ///
    /// # Errors
    /// The server failed.
    pub async fn end(self) -> Result<(), LearnerError> {
        drop((self.publisher, self.stop));
        let ended = self.server.await;
        ended.map_err(|_| LearnerError::Panicked("the server"))
    }
}

fn options(policy: NetworkConfig, spec: EnvironmentSpec) -> LearnerOptions {
    LearnerOptions {
        run_id: "bench-broadcast".to_owned(),
        run_uid: String::new(),
        task: spec.task.clone(),
        seed: 1,
        spec,
        agent: AgentConfig {
            policy,
            ..AgentConfig::default()
        },
        learner: LearnerConfig::default(),
        limits: Limits::default(),
        replay_addresses: Vec::new(),
        run_dir: PathBuf::new(),
        resume: false,
        credentials: Credentials::default(),
        device: DeviceChoice::Cpu,
    }
}
