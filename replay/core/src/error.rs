//! What a table refuses.

use pmpo_types::{ConfigError, WriterId};
use thiserror::Error;

/// Why a table does not do what it was asked. Being blocked by the rate limiter is not among it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// A configuration value that cannot work.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Items of another signature than the table's.
    #[error("signature.{field}: expected {expected} as in the table, got {got}")]
    Signature {
        /// Path of the first part that differs.
        field: String,
        /// The table's.
        expected: String,
        /// The caller's.
        got: String,
    },
    /// A batch that can never be drawn.
    #[error("batch_size: expected 1 to {max} ({reason}), got {got}")]
    BatchSize {
        /// The largest batch.
        max: u64,
        /// What bounds it.
        reason: &'static str,
        /// The batch asked for.
        got: usize,
    },
    /// Items of another length than the table's.
    #[error("sequence_length: expected {expected} as in the table, got {got}")]
    SequenceLength {
        /// The table's.
        expected: usize,
        /// The caller's.
        got: usize,
    },
    /// An item of a length that the table does not take.
    #[error("steps.lengths: expected {least} to {most} steps, got {got}")]
    Length {
        /// The table's `min_sequence_length`.
        least: usize,
        /// The table's `sequence_length`.
        most: usize,
        /// The item's steps.
        got: usize,
    },
    /// An item that begins before the first step its writer has sent, or that the server remembers.
    #[error(
        "steps.ends: expected at least {needed} steps up to the end of an item, got {got} at \
         position {end}"
    )]
    Window {
        /// The item's steps.
        needed: usize,
        /// Steps there are.
        got: u64,
        /// Position of the item's end in its message.
        end: u32,
    },
    /// Priorities for a table whose selectors do not look at any.
    #[error("table `{0}` has no selector that uses priorities")]
    NoPriorities(String),
    /// Items that do not follow those the writer has stored.
    #[error("first_sequence: expected at most {expected}, got {got}")]
    Gap {
        /// The next sequence number.
        expected: u64,
        /// The number of the first item.
        got: u64,
    },
    /// The writer has not been opened, or was forgotten.
    #[error("writer_id: expected an open writer, got {0}")]
    UnknownWriter(WriterId),
    /// As many writers are connected as the table keeps account of.
    #[error("max_writers: {0} writers are connected, no more fit")]
    TooManyWriters(usize),
    /// Bytes that are no saved table.
    #[error("the saved table is damaged: {0}")]
    Saved(&'static str),
    /// A saved table with another configuration; names each field that differs.
    #[error("the saved table has another configuration: {0}")]
    OtherConfig(String),
}
