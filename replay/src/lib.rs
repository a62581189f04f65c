//! The replay service: tables, served over gRPC, in memory or kept in a data directory.
//!
//! A table has one owner, a named thread that takes commands from a bounded channel and answers each
//! when it is done, and with a data directory when it is safe; inserts and samples that the rate
//! limiter blocks wait there, without a timer or a poll, for the command that frees them. A lock would
//! save a hop between threads per message, but a gather of a large batch would then hold a runtime
//! worker, and whoever waits for the limiter would need a queue and wake-ups beside the lock; at tens
//! of items per message the hop is small.
//!
//! Each stream is served by one task that reads a message, checks it at the border, and hands it to the
//! table. A stream has a few inserts, or one batch, at the table at a time and reads no further until
//! an answer has come, so backpressure is HTTP/2's own.

mod budget;
mod checkpoint;
mod config;
mod created;
mod disk;
mod error;
mod metered;
pub mod metrics;
mod owner;
mod run_name;
mod service;
#[cfg(test)]
mod simulation;
mod streams;
mod table;
mod tables;
mod wire;

use std::time::Duration;

use pmpo_proto::replay::v1::replay_server::ReplayServer;
use pmpo_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};
use pmpo_service::readiness::Readiness;
use pmpo_service::{grpc, health};
use tokio_util::sync::CancellationToken;

use metered::MeteredStreams;
use streams::Border;
use tables::Tables;

pub use config::{DiskConfig, Fsync, ReplayConfig};
pub use error::ReplayError;
pub use pmpo_replay_core::selector::SelectorKind;
pub use pmpo_replay_core::{LimiterKind, TableConfig};
pub use wire::config_to_wire;

const SERVICES: [&str; 1] = ["pmpo.replay.v1.Replay"];

/// What the service waits for before it is ready: without a data directory, for an instant.
const TABLES: &str = "the tables";

/// Serves the tables on `listener` until `shutdown`.
///
/// # Errors
/// The configuration or the data directory cannot be used, or the server or a table's thread fails.
pub async fn run(
    config: ReplayConfig,
    listener: impl Into<grpc::Listener>,
    shutdown: CancellationToken,
) -> Result<(), ReplayError> {
    run_and_tell(config, listener, shutdown, || {}).await
}

/// As [`run`]; says when the tables are open.
///
/// # Errors
/// As [`run`].
pub async fn run_and_tell(
    config: ReplayConfig,
    listener: impl Into<grpc::Listener>,
    shutdown: CancellationToken,
    ready: impl FnOnce() + Send,
) -> Result<(), ReplayError> {
    metrics::describe();
    config.validate()?;
    let listener: grpc::Listener = listener.into();
    let readiness = Readiness::new(&[TABLES], &shutdown);
    let (open_timeout, max_streams) = (config.open_timeout(), config.max_streams);
    let grace = Duration::from_secs_f64(config.shutdown_grace_s);
    let keepalive = config.keepalive();
    let opened = tokio::task::spawn_blocking(move || Tables::open(config)).await;
    let tables = opened.map_err(|_| ReplayError::TableThread("of the start".to_owned()))??;
    let border = Border {
        tables: tables.clone(),
        open_timeout,
    };
    let service = service::Service::new(border, max_streams, shutdown.clone());
    let service = ReplayServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    readiness.met(TABLES);
    ready();
    let [interval, timeout] = keepalive;
    let routes = health::routes(&readiness, &SERVICES, FILE_DESCRIPTOR_SET).await;
    let server = grpc::serve(
        listener.with_keepalive(interval, timeout),
        routes.add_service(MeteredStreams(service)),
        shutdown.clone(),
    );
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = server => {}
        () = overdue => {}
        () = tables.keep_metrics() => {}
    }
    tables.stop().await
}
