//! What ends an actor or an evaluator. Lost connections do not.

use std::io;

use pmpo_proto::WireError;
use pmpo_replay_client::ClientError;
use pmpo_service::grpc::{self, AddressError};
use pmpo_types::ColumnError;
use thiserror::Error;
use tonic::{Code, Status};

use pmpo_types::ConfigError;

use crate::environment::EnvironmentError;

/// Why an actor or an evaluator cannot go on.
#[derive(Debug, Error)]
pub enum ActorError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The address of the learner is not `host:port`.
    #[error("learner: {0}")]
    Address(#[from] AddressError),
    /// The learner will not have us, however often it is asked.
    #[error("the learner refused {call}: {message} ({code:?})")]
    Refused {
        /// The call.
        call: &'static str,
        /// The gRPC code.
        code: Code,
        /// The learner's message.
        message: String,
    },
    /// What the learner says about its run cannot be.
    #[error("the learner's answer: {0}")]
    Answer(#[from] WireError),
    /// The learner's environment is not the one of that name here.
    #[error(
        "the learner's `{task}` has other observations or actions than this program's; \
         run the same version everywhere"
    )]
    Spec {
        /// The task.
        task: String,
    },
    /// The learner was restarted with another run or other settings.
    #[error(
        "the learner has come back with another run or other settings (`{before}`, now `{now}`)"
    )]
    OtherRun {
        /// The run taken part in.
        before: String,
        /// The learner's present run.
        now: String,
    },
    /// A member with the index is in the run.
    #[error("{message}")]
    IndexTaken {
        /// The learner's message, which names the member.
        message: String,
    },
    /// This process was frozen or cut off for longer than its lease.
    #[error(
        "index {index} was given to another process while this one was frozen or cut off; start it \
         again"
    )]
    PlaceLost {
        /// The index it had.
        index: u64,
    },
    /// The environment.
    #[error("{0}")]
    Environment(#[from] EnvironmentError),
    /// No valid episode comes about.
    #[error("{attempts} episodes in a row diverged; the last: {error}")]
    Divergence {
        /// Episodes in a row.
        attempts: usize,
        /// What ended the last one.
        error: String,
    },
    /// Transitions that may not be inserted.
    #[error("transitions: {0}")]
    Columns(#[from] ColumnError),
    /// The replay's client.
    #[error("replay: {0}")]
    Replay(#[from] ClientError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Spawn(#[source] io::Error),
    /// A thread or task of ours has panicked.
    #[error("{0} panicked")]
    Panicked(String),
}

impl From<pmpo_suite::SuiteError> for ActorError {
    fn from(error: pmpo_suite::SuiteError) -> Self {
        EnvironmentError::from(error).into()
    }
}

impl ActorError {
    /// The refusal in `status`, unless trying again can help.
    pub(crate) fn refusal(call: &'static str, status: &Status) -> Option<Self> {
        grpc::is_refusal(status.code()).then(|| Self::Refused {
            call,
            code: status.code(),
            message: status.message().to_owned(),
        })
    }
}
