//! The one shape of a refusal: which field, what would have been accepted, what was given.

use thiserror::Error;

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct ConfigError {
    /// Path of the field within the section that was checked.
    pub field: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was given.
    pub got: String,
}

impl ConfigError {
    /// A refusal of `got` for `field`.
    pub fn new(field: impl Into<String>, expected: impl Into<String>, got: impl ToString) -> Self {
        Self {
            field: field.into(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    /// The same, of a field in `section`.
    #[must_use]
    pub fn within(self, section: &str) -> Self {
        Self {
            field: format!("{section}.{}", self.field),
            ..self
        }
    }

    /// Refuses a count of 0.
    ///
    /// # Errors
    /// Names the field.
    pub fn at_least_one(field: &str, count: u64) -> Result<(), Self> {
        if count > 0 {
            return Ok(());
        }
        Err(Self::new(field, "at least 1", count))
    }

    /// Refuses what is not a finite number above 0.
    ///
    /// # Errors
    /// Names the field and the value.
    pub fn positive(field: &str, value: f64) -> Result<(), Self> {
        if value > 0.0 && value.is_finite() {
            return Ok(());
        }
        Err(Self::new(field, "a finite number above 0", value))
    }

    /// Refuses what is not a finite number of at least 0.
    ///
    /// # Errors
    /// Names the field and the value.
    pub fn not_negative(field: &str, value: f64) -> Result<(), Self> {
        if value >= 0.0 && value.is_finite() {
            return Ok(());
        }
        Err(Self::new(field, "a finite number, at least 0", value))
    }

    /// Refuses what is not in [0, 1].
    ///
    /// # Errors
    /// Names the field and the value.
    pub fn share(field: &str, value: f64) -> Result<(), Self> {
        if (0.0..=1.0).contains(&value) {
            return Ok(());
        }
        Err(Self::new(field, "a number in [0, 1]", value))
    }
}
