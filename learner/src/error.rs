//! What can end a run badly.

use std::io;
use std::path::{Path, PathBuf};

use pmpo_policy::SnapshotError;
use pmpo_proto::WireError;
use pmpo_replay_client::ClientError;
use pmpo_service::grpc::AddressError;
use pmpo_types::ConfigError;
use pmpo_update::{DeviceError, NotFinite};
use thiserror::Error;

/// Why a learner cannot start or go on.
#[derive(Debug, Error)]
pub enum LearnerError {
    /// A configuration; the field comes with its section.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
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
    #[error("{0}; the run stops, its checkpoints are those from before")]
    NotFinite(#[from] NotFinite),
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
    /// No checkpoint of the step that was asked for.
    #[error(
        "{}: no checkpoint of learner step {step}; there are {}",
        folder.display(),
        steps_list(found)
    )]
    NoSuchStep {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// The step.
        step: u64,
        /// The steps of those that are there.
        found: Vec<u64>,
    },
    /// The checkpoint is of another run.
    #[error("checkpoint {}: {field} is {found}, the configuration says {expected}", path.display())]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        field: String,
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
    /// The update's threads.
    #[error("update.threads: {0}")]
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

fn steps_list(steps: &[u64]) -> String {
    if steps.is_empty() {
        return "none".to_owned();
    }
    let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
    steps.join(", ")
}
