//! The replay service: one table, served over gRPC.
//!
//! The table has one owner, a named thread that takes commands from a bounded channel and answers
//! each when it is done; inserts and samples that the rate limiter blocks wait there, without a timer
//! or a poll, for the command that frees them. A lock would save a hop between threads per message,
//! but a gather of a large batch would then hold a runtime worker, and whoever waits for the limiter
//! would need a queue and wake-ups beside the lock; at tens of items per message the hop is small.
//!
//! Each stream is served by one task that reads a message, checks it at the border, and waits for the
//! table's answer before it reads the next. So a stream has one insert, or one batch, at the table at
//! a time, and backpressure is HTTP/2's own.

mod config;
mod error;
pub mod metrics;
mod owner;
mod service;
mod streams;
mod table;

use std::time::Duration;

use pmpo_proto::{MAX_MESSAGE_BYTES, v1::replay_server::ReplayServer};
use pmpo_replay_core::Table;
use pmpo_service::grpc;
use pmpo_types::{Role, derive_seed};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::ReplayConfig;
pub use error::ReplayError;
pub use pmpo_replay_core::TableConfig;

/// How often gauges and counters are brought up to date.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// How long connections may take to end after a shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// Serves one table on `listener` until `shutdown`.
///
/// # Errors
/// The configuration cannot be used, or the server or the table's thread fails.
pub async fn run(
    config: ReplayConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ReplayError> {
    config.validate()?;
    let seed = derive_seed(config.seed, Role::Replay, 0);
    let open_timeout = config.open_timeout();
    let table = Table::new(config.table, seed)?;
    tracing::info!(
        table = table.config().name,
        "replay is in memory: a restart begins anew"
    );
    let (table, owner) = table::spawn(table, config.command_queue)?;
    let service = service::Service::new(table.clone(), open_timeout, shutdown.clone());
    let service = ReplayServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = grpc::server()
        .add_service(service)
        .serve_with_incoming_shutdown(grpc::incoming(listener), shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let served = tokio::select! {
        served = server => served.map_err(ReplayError::from),
        () = overdue => Ok(()),
        () = table.keep_metrics(METRICS_INTERVAL) => Err(ReplayError::TableThread),
    };
    table.stop().await;
    let joined = tokio::task::spawn_blocking(move || owner.join()).await;
    match joined {
        Ok(Ok(())) => served,
        _ => Err(ReplayError::TableThread),
    }
}
