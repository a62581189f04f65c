//! What ends a generator, or keeps a learner from its groups. Lost connections do not.

use pmpo_language::LanguageError;
use pmpo_replay_client::ClientError;
use pmpo_service::grpc::{self, AddressError};
use pmpo_types::ConfigError;
use thiserror::Error;
use tonic::{Code, Status};

/// Why a generator, or the taking of groups, cannot go on.
#[derive(Debug, Error)]
pub enum GeneratorError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address is not `host:port`.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// A peer will not have us, however often it is asked.
    #[error("{peer} refused {call}: {message} ({code:?})")]
    Refused {
        /// Who.
        peer: &'static str,
        /// The call.
        call: &'static str,
        /// The gRPC code.
        code: Code,
        /// Its message.
        message: String,
    },
    /// What the learner sends cannot be.
    #[error("the learner's answer: {0}")]
    Answer(String),
    /// The model, its prompts or its completions.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// The replay's client.
    #[error("replay: {0}")]
    Replay(#[from] ClientError),
    /// A file for the model's description cannot be written.
    #[error("a temporary folder: {0}")]
    Temporary(#[source] std::io::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Spawn(#[source] std::io::Error),
    /// A thread of ours has panicked.
    #[error("{0} panicked")]
    Panicked(&'static str),
}

impl GeneratorError {
    /// The refusal in `status`, unless trying again can help.
    pub(crate) fn refusal(peer: &'static str, call: &'static str, status: &Status) -> Option<Self> {
        grpc::is_refusal(status.code()).then(|| Self::Refused {
            peer,
            call,
            code: status.code(),
            message: status.message().to_owned(),
        })
    }
}
