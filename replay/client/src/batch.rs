//! What a sampler hands out.

use pmpo_types::{ColumnBatch, SampledItems, TableCounters, TraceContext};

/// Items drawn from one shard of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledBatch {
    /// The items' steps, item by item: row `i * sequence_length + t` is step `t` of item `i`, where items have
    /// no lengths of their own.
    pub columns: ColumnBatch,
    /// The counters of the shard's table right after the draw.
    pub counters: TableCounters,
    /// The items; their keys are the shard's.
    pub items: SampledItems,
    /// Position of the shard in the sampler's list of addresses.
    pub shard: usize,
    /// What its items count beside those of other shards, for how often the shard is drawn from and how
    /// many items it holds: in (0, 1], 1 for the shard that is drawn from most rarely for its size. To the
    /// power of an importance exponent it belongs to the items' importance weights.
    pub weight: f64,
    /// The trace of one of its items, which whoever learns from the batch continues.
    pub trace: Option<TraceContext>,
}

impl SampledBatch {
    pub(crate) fn new(
        batch: pmpo_types::SampledBatch,
        shard: usize,
        trace: Option<TraceContext>,
    ) -> Self {
        let pmpo_types::SampledBatch {
            columns,
            counters,
            items,
        } = batch;
        Self {
            columns,
            counters,
            items,
            shard,
            weight: 1.0,
            trace,
        }
    }
}
