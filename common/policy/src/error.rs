//! What can be wrong with a snapshot.

use pmpo_types::ConfigError;
use thiserror::Error;

/// A snapshot that cannot be written or acted with.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The bytes are not a safetensors file.
    #[error("policy snapshot: not safetensors: {0}")]
    Container(#[from] safetensors::SafeTensorError),
    /// The metadata that describe the network are absent or unreadable.
    #[error("policy snapshot: metadata `{key}`: {reason}")]
    Metadata {
        /// Key of the metadata entry.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The network that the metadata describe is refused.
    #[error("policy snapshot: network.{0}")]
    Config(#[from] ConfigError),
    /// A tensor is absent, superfluous or not what its name promises.
    #[error("policy snapshot: tensor `{tensor}`: expected {expected}, got {got}")]
    Tensor {
        /// Name of the tensor.
        tensor: String,
        /// What would have been accepted.
        expected: String,
        /// What the snapshot holds.
        got: String,
    },
}

impl SnapshotError {
    pub(crate) fn tensor(
        tensor: &str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self::Tensor {
            tensor: tensor.to_owned(),
            expected: expected.into(),
            got: got.into(),
        }
    }
}
