//! Items that can be told apart, and tables to put them in.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use bytes::Bytes;
use pmpo_replay_core::{Table, TableConfig};
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature, StepBatch, WriterId};

pub const WRITER: WriterId = WriterId(7);

/// An id, and a wider column that follows from it.
pub fn signature() -> Signature {
    let columns = vec![
        ColumnSpec::new("id", DType::I64, &[]),
        ColumnSpec::new("thirds", DType::F32, &[3]),
    ];
    Signature { columns }
}

pub fn batch(ids: impl IntoIterator<Item = i64>) -> ColumnBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let thirds = |id: i64| [id as f32, id as f32 / 3.0, -(id as f32)];
    let id: Bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let wide: Bytes = ids
        .iter()
        .flat_map(|&id| thirds(id))
        .flat_map(f32::to_le_bytes)
        .collect();
    ColumnBatch::new(&signature(), ids.len(), vec![id, wide]).unwrap()
}

pub fn ids(batch: &ColumnBatch) -> Vec<i64> {
    let ids = batch.columns()[0].chunks_exact(8);
    ids.map(|id| i64::from_le_bytes(id.try_into().unwrap()))
        .collect()
}

/// A table whose limiter hardly ever blocks.
pub fn table(max_size: usize, min_size_to_sample: usize) -> Table {
    let config = TableConfig {
        max_size,
        min_size_to_sample,
        samples_per_insert: 64.0,
        error_buffer: Some(1e9),
        ..TableConfig::default()
    };
    let mut table = Table::new(config, 3).unwrap();
    table.open_writer(WRITER, &signature(), 1).unwrap();
    table
}

/// Every id that shows up in many draws.
pub fn contents(table: &mut Table) -> Vec<i64> {
    let draws = (0..40).map(|_| table.sample(1_000).unwrap());
    let mut seen: Vec<i64> = draws.flat_map(|batch| ids(&batch.columns)).collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

/// Transitions.
pub fn steps(ids: impl IntoIterator<Item = i64>) -> StepBatch {
    StepBatch::transitions(batch(ids))
}

/// The window of every item of a batch, which must be whole.
pub fn windows(columns: &ColumnBatch, length: usize) -> Vec<Vec<i64>> {
    let ids = ids(columns);
    assert_eq!(columns, &batch(ids.iter().copied()));
    ids.chunks(length).map(<[i64]>::to_vec).collect()
}

/// The same of items that have these lengths.
pub fn ragged_windows(columns: &ColumnBatch, lengths: &[u32]) -> Vec<Vec<i64>> {
    let ids = ids(columns);
    assert_eq!(columns, &batch(ids.iter().copied()));
    let mut rest = &ids[..];
    let windows = lengths.iter().map(|&length| {
        let (window, after) = rest.split_at(length as usize);
        rest = after;
        window.to_vec()
    });
    let windows = windows.collect();
    assert!(rest.is_empty(), "{rest:?} left");
    windows
}
