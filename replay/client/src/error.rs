//! What can end a writer or a sampler. A lost connection is not among it.

use pmpo_service::grpc::AddressError;
use thiserror::Error;
use tonic::{Code, Status};

use pmpo_types::ConfigError;

/// Why a writer or sampler cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The address is not `host:port`.
    #[error("{0}")]
    Address(String),
    /// The shutdown token was cancelled, or the runtime has ended.
    #[error("shutting down")]
    Shutdown,
    /// The server will not take or give this, however often it is asked.
    #[error("the replay service refused: {message} ({code:?})")]
    Refused {
        /// The gRPC code.
        code: Code,
        /// The server's message, which names the field.
        message: String,
    },
    /// The server's answer contradicts the protocol.
    #[error("unexpected answer of the replay service: {0}")]
    Protocol(String),
    /// A batch that does not fit the writer's signature.
    #[error("{0}")]
    Batch(String),
    /// Not everything was acknowledged in time.
    #[error("{unacknowledged} steps not acknowledged by the deadline{}", because(reason.as_ref()))]
    Deadline {
        /// Steps still in flight.
        unacknowledged: usize,
        /// What the server said last of why it makes wait.
        reason: Option<String>,
    },
}

fn because(reason: Option<&String>) -> String {
    reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default()
}

impl ClientError {
    pub(crate) fn refused(status: &Status) -> Self {
        Self::Refused {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

impl From<AddressError> for ClientError {
    fn from(error: AddressError) -> Self {
        Self::Address(error.to_string())
    }
}
