//! What can be wrong with a message.

use pmpo_types::{ColumnError, ItemError};
use thiserror::Error;
use tonic::Status;

/// A message that does not hold what its type promises.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// A field is absent or has the wrong value.
    #[error("{field}: expected {expected}, got {got}")]
    Field {
        /// Path of the field in its message.
        field: String,
        /// What would have been accepted.
        expected: String,
        /// What arrived.
        got: String,
    },
    /// Columns do not fit their signature.
    #[error("items.{0}")]
    Columns(#[from] ColumnError),
    /// Items do not fit their steps.
    #[error(transparent)]
    Items(#[from] ItemError),
}

impl WireError {
    /// A field that is absent or has the wrong value.
    pub fn field(
        field: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::Field {
            field: field.into(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
