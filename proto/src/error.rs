//! What can be wrong with a message.

use std::collections::HashMap;

use pmpo_types::{ColumnError, ItemError};
use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

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
    #[error("steps.{0}")]
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

/// The domain of the reasons that refusals give in their details.
pub const ERROR_DOMAIN: &str = "pmpo";

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        let message = error.to_string();
        let field = match error {
            WireError::Field { field, .. } => field,
            WireError::Columns(_) => "steps.columns".to_owned(),
            WireError::Items(ItemError::Ends { .. }) => "steps.ends".to_owned(),
            WireError::Items(ItemError::Lengths { .. }) => "steps.lengths".to_owned(),
            WireError::Items(ItemError::Priorities { .. }) => "priorities".to_owned(),
        };
        let mut details = ErrorDetails::new();
        details
            .set_error_info("INVALID_FIELD", ERROR_DOMAIN, HashMap::new())
            .add_bad_request_violation(field, &message);
        Self::with_error_details(Code::InvalidArgument, message, details)
    }
}
