//! What leaves a replay table.

use crate::ColumnBatch;

/// How much has gone through a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounters {
    /// Items held.
    pub size: u64,
    /// Items ever inserted.
    pub inserts: u64,
    /// Items ever sampled.
    pub samples: u64,
}

/// Items drawn from a table, and the table's counters right after the draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledBatch {
    /// The items.
    pub columns: ColumnBatch,
    /// The table's counters.
    pub counters: TableCounters,
}
