//! What ends the service, and how a table's refusals reach a client.

use std::path::{Path, PathBuf};

use pmpo_proto::v1;
use pmpo_replay_core::Error;
use pmpo_service::folder_lock::LockError;
use pmpo_types::ConfigError;
use prost::Message;
use thiserror::Error as ThisError;
use tonic::{Code, Status};

use crate::table::BlockedCalls;

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

/// The one place where a table's errors become gRPC codes. A client tries again after `ABORTED`,
/// `RESOURCE_EXHAUSTED` and `UNAVAILABLE`, and gives up after the others.
pub(crate) fn status(error: &Error) -> Status {
    let message = error.to_string();
    match error {
        Error::Signature { .. } | Error::SequenceLength { .. } | Error::NoPriorities(_) => {
            Status::failed_precondition(message)
        }
        Error::BatchSize { .. } | Error::Gap { .. } | Error::Window { .. } => {
            Status::invalid_argument(message)
        }
        Error::UnknownWriter(_) => Status::aborted(message),
        Error::TooManyWriters(_) => Status::resource_exhausted(message),
        Error::Config(_) | Error::Saved(_) | Error::OtherConfig(_) => {
            Status::invalid_argument(message)
        }
    }
}

/// A call has waited for as long as it wanted: the message says why in words, the details as a message.
pub(crate) fn deadline(table: &str, blocked: &BlockedCalls) -> Status {
    let (hold, seconds) = (blocked.hold, blocked.waited.as_secs_f64());
    let message = format!("table `{table}`: blocked for {seconds:.3} s, {hold}");
    let details = blocked_to_wire(blocked).encode_to_vec();
    Status::with_details(Code::DeadlineExceeded, message, details.into())
}

pub(crate) fn blocked_to_wire(blocked: &BlockedCalls) -> v1::Blocked {
    let hold = blocked.hold;
    v1::Blocked {
        reason: hold.reason.as_str().to_owned(),
        seconds: blocked.waited.as_secs_f64(),
        counter: hold.counter.to_owned(),
        value: hold.value,
        bound: hold.bound,
        callers: blocked.callers as u64,
    }
}

pub(crate) fn superseded() -> Status {
    Status::aborted("writer_id: the writer has opened another stream")
}

pub(crate) fn shutting_down() -> Status {
    Status::unavailable("the replay service is shutting down")
}
