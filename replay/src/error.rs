//! What ends the service, and how a table's refusals reach a client.

use pmpo_replay_core::Error;
use thiserror::Error as ThisError;
use tonic::Status;

/// Why the service could not start or go on.
#[derive(Debug, ThisError)]
pub enum ReplayError {
    /// A configuration value that cannot work.
    #[error("{0}")]
    Config(String),
    /// The configuration of the table.
    #[error("table.{0}")]
    Table(#[from] Error),
    /// The table's thread could not be started.
    #[error("starting the table's thread: {0}")]
    Spawn(#[from] std::io::Error),
    /// The table's thread has panicked.
    #[error("the table's thread has ended")]
    TableThread,
    /// The gRPC server.
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// The one place where a table's errors become gRPC codes. A client tries again after `ABORTED`,
/// `RESOURCE_EXHAUSTED` and `UNAVAILABLE`, and gives up after the others.
pub(crate) fn status(error: &Error) -> Status {
    let message = error.to_string();
    match error {
        Error::Signature { .. } => Status::failed_precondition(message),
        Error::BatchSize { .. } | Error::Gap { .. } => Status::invalid_argument(message),
        Error::UnknownWriter(_) => Status::aborted(message),
        Error::TooManyWriters(_) => Status::resource_exhausted(message),
        Error::Config { .. } => Status::internal(message),
    }
}

pub(crate) fn superseded() -> Status {
    Status::aborted("writer_id: the writer has opened another stream")
}

pub(crate) fn shutting_down() -> Status {
    Status::unavailable("the replay service is shutting down")
}
