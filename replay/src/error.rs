//! What ends the service, and how a table's refusals reach a client.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use pmpo_proto::ERROR_DOMAIN;
use pmpo_replay_core::Error;
use pmpo_service::folder_lock::LockError;
use pmpo_types::ConfigError;
use thiserror::Error as ThisError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Why the service could not start or go on.
#[derive(Debug, ThisError)]
pub enum ReplayError {
    /// A configuration value that cannot work.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The configuration of the table.
    #[error("table.{0}")]
    Table(#[from] Error),
    /// The table's thread could not be started.
    #[error("starting the table's thread: {0}")]
    Spawn(#[from] std::io::Error),
    /// A table's thread has panicked.
    #[error("the thread of table `{0}` has ended")]
    TableThread(String),
    /// The data directory.
    #[error("data directory {path}: {source}")]
    Disk {
        /// The folder at which it failed.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// A table's log could not be written; nothing was acknowledged that is not in it.
    #[error("log of table `{table}`: {source}")]
    Log {
        /// The table's name.
        table: String,
        /// What the file system said.
        source: std::io::Error,
    },
    /// Another process serves from the data directory.
    #[error("data directory {0}")]
    DataDirLock(#[from] LockError),
}

impl ReplayError {
    pub(crate) fn disk(path: &Path, source: std::io::Error) -> Self {
        Self::Disk {
            path: path.to_owned(),
            source,
        }
    }
}

/// A refusal in google.rpc.Status' convention: its details say the reason in a word.
pub(crate) fn refusal(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// The one place where a table's errors become gRPC codes. A client tries again after `ABORTED`,
/// `RESOURCE_EXHAUSTED` and `UNAVAILABLE`, and gives up after the others.
pub(crate) fn status(error: &Error) -> Status {
    let (code, reason) = match error {
        Error::Signature { .. } => (Code::FailedPrecondition, "SIGNATURE_MISMATCH"),
        Error::SequenceLength { .. } => (Code::FailedPrecondition, "SEQUENCE_LENGTH"),
        Error::NoPriorities(_) => (Code::FailedPrecondition, "NO_PRIORITIES"),
        Error::BatchSize { .. } => (Code::InvalidArgument, "BATCH_SIZE"),
        Error::Gap { .. } => (Code::InvalidArgument, "SEQUENCE_GAP"),
        Error::Length { .. } => (Code::InvalidArgument, "INVALID_FIELD"),
        Error::Window { .. } => (Code::InvalidArgument, "STEPS_MISSING"),
        Error::UnknownWriter(_) => (Code::Aborted, "WRITER_REPLACED"),
        Error::TooManyWriters(_) => (Code::ResourceExhausted, "TOO_MANY_WRITERS"),
        Error::Config(_) | Error::Saved(_) | Error::OtherConfig(_) => {
            (Code::InvalidArgument, "TABLE_CONFIG")
        }
    };
    refusal(code, reason, error.to_string())
}

/// What the machine did not do, for a caller who may know why; nothing has changed.
pub(crate) fn failed(error: impl Display) -> Status {
    refusal(Code::Internal, "SYSTEM", error.to_string())
}

pub(crate) fn superseded() -> Status {
    let message = "writer_id: the writer has opened another stream";
    refusal(Code::Aborted, "WRITER_REPLACED", message)
}

pub(crate) fn shutting_down() -> Status {
    let message = "the replay service is shutting down";
    refusal(Code::Unavailable, "STOPPING", message)
}
