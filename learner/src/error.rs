//! What can end a run badly.

use std::io;
use std::path::{Path, PathBuf};

use pmpo_policy::SnapshotError;
use pmpo_proto::WireError;
use pmpo_replay_client::ClientError;
use pmpo_service::grpc::AddressError;
use thiserror::Error;

use crate::statistics::BatchName;
use crate::{ConfigError, DeviceChoice};

/// Why a learner cannot start or go on.
#[derive(Debug, Error)]
pub enum LearnerError {
    /// The learner's configuration.
    #[error("learner.{0}")]
    Config(#[from] ConfigError),
    /// The network's configuration.
    #[error("policy.{0}")]
    Network(#[from] pmpo_policy::ConfigError),
    /// The device cannot be used.
    #[error("device {device}: {reason}")]
    Device {
        /// The device asked for.
        device: DeviceChoice,
        /// What is missing.
        reason: String,
    },
    /// The address of the replay service.
    #[error("replay service: {0}")]
    Address(#[from] AddressError),
    /// The replay service refused the sampler.
    #[error(transparent)]
    Replay(#[from] ClientError),
    /// The policy cannot be published or read back.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The policy does not fit a message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A loss, a gradient norm or another statistic is NaN or infinite.
    #[error(
        "learner step {step}: {statistic} is {value}; its batch: {batch}; the run stops, its \
         checkpoints are those from before"
    )]
    NotFinite {
        /// The first step it was seen at.
        step: u64,
        /// What is not finite.
        statistic: &'static str,
        /// Its value.
        value: f32,
        /// The batch of that step.
        batch: BatchName,
    },
    /// A file of the run's folder.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The run's folder holds another run already.
    #[error("{}: holds checkpoints already; resume the run or choose another folder", .0.display())]
    NotFresh(PathBuf),
    /// Nothing to resume from.
    #[error("{}: no usable checkpoint{}", folder.display(), damaged_list(damaged))]
    NoCheckpoint {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// Checkpoints that are there and cannot be read, with the reason.
        damaged: Vec<String>,
    },
    /// The checkpoint is of another run.
    #[error("checkpoint {}: {field} is {found}, the configuration says {expected}", path.display())]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// The checkpoint's value.
        found: String,
        /// The configuration's value.
        expected: String,
    },
    /// `progress.csv` or another text is not what it should be.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A figure cannot be drawn.
    #[error("figure: {0}")]
    Figure(String),
    /// The gRPC server failed.
    #[error("gRPC server: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The update's threads.
    #[error("learner.threads: {0}")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// A thread panicked.
    #[error("{0} panicked; see the log above")]
    Panicked(&'static str),
}

impl LearnerError {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    pub(crate) fn format(path: &Path, reason: impl ToString) -> Self {
        Self::Format {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

fn damaged_list(damaged: &[String]) -> String {
    if damaged.is_empty() {
        String::new()
    } else {
        format!(" (damaged: {})", damaged.join("; "))
    }
}
