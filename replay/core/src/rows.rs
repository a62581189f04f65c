//! Steps as raw little-endian bytes in columns.
//!
//! Memory comes in chunks of about a mebibyte, each holding a power of two of rows column by column,
//! so a table takes what it holds and growing never copies. An insert is one copy per column and run
//! of neighbouring rows, a batch one gather per column into one buffer.

use bytes::Bytes;
use pmpo_types::{ColumnBatch, Signature};

use crate::selector::Slot;

const CHUNK_BYTES: usize = 1 << 20;

/// The steps' bytes, addressed by row.
pub(crate) struct Rows {
    columns: Vec<Column>,
    row_bytes: usize,
    /// Rows of a chunk, as a power of two.
    chunk_rows_log2: u32,
    chunks: Vec<Box<[u8]>>,
}

struct Column {
    row_bytes: usize,
    /// Where the column starts in a chunk.
    start: usize,
}

/// Neighbouring rows in a chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    chunk: u32,
    row: u32,
    len: u32,
}

impl Rows {
    pub(crate) fn new(signature: &Signature, max_rows: usize) -> Self {
        let row_bytes = signature.item_bytes();
        let rows = (CHUNK_BYTES / row_bytes.max(1)).clamp(1, max_rows.max(1));
        let chunk_rows_log2 = rows.ilog2();
        let mut row_start = 0;
        let columns = signature.columns.iter().map(|spec| {
            let start = row_start << chunk_rows_log2;
            row_start += spec.item_bytes();
            Column {
                row_bytes: spec.item_bytes(),
                start,
            }
        });
        Self {
            columns: columns.collect(),
            row_bytes,
            chunk_rows_log2,
            chunks: Vec::new(),
        }
    }

    /// Raw bytes, chunk by chunk.
    pub(crate) fn chunks(&self) -> &[Box<[u8]>] {
        &self.chunks
    }

    /// Takes [`chunks`](Self::chunks) of the same rows, one after another, for its own.
    pub(crate) fn set_chunks(&mut self, bytes: &[u8]) {
        let size = self.row_bytes << self.chunk_rows_log2;
        self.chunks = bytes.chunks_exact(size.max(1)).map(Into::into).collect();
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Bytes a row takes in each column.
    pub(crate) fn column_bytes(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().map(|column| column.row_bytes)
    }

    /// Puts the rows of `batch` from `first` on into `slots`; a slot that occurs twice keeps the later
    /// row.
    pub(crate) fn write(&mut self, slots: &[Slot], batch: &ColumnBatch, first: usize) {
        let columns: Vec<&[u8]> = batch.columns().iter().map(AsRef::as_ref).collect();
        self.write_columns(slots, &columns, first);
    }

    /// As [`write`](Self::write), of columns that each hold the rows of one.
    pub(crate) fn write_columns(&mut self, slots: &[Slot], columns: &[&[u8]], first: usize) {
        let mut done = 0;
        while done < slots.len() {
            let Run { chunk, row, len } = self.run(slots[done..].iter().copied());
            let (chunk, row, len) = (chunk as usize, row as usize, len as usize);
            while self.chunks.len() <= chunk {
                // Zeroed pages are not touched before they are used.
                self.chunks
                    .push(vec![0; self.row_bytes << self.chunk_rows_log2].into());
            }
            let chunk = &mut self.chunks[chunk];
            for (column, data) in self.columns.iter().zip(columns) {
                let bytes = column.row_bytes;
                let (from, to) = ((first + done) * bytes, column.start + row * bytes);
                chunk[to..to + len * bytes].copy_from_slice(&data[from..from + len * bytes]);
            }
            done += len;
        }
    }

    /// Rows in this order, as runs of neighbours.
    pub(crate) fn runs(&self, slots: impl IntoIterator<Item = Slot>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for slot in slots {
            let (chunk, row) = self.locate(slot);
            match runs.last_mut() {
                Some(run) if run.chunk == chunk && run.row + run.len == row => run.len += 1,
                _ => runs.push(Run { chunk, row, len: 1 }),
            }
        }
        runs
    }

    /// The rows of `runs`, as contiguous columns that share one buffer.
    pub(crate) fn gather(&self, runs: &[Run]) -> Vec<Bytes> {
        let rows: usize = runs.iter().map(|run| run.len as usize).sum();
        let mut buffer = Vec::with_capacity(rows * self.row_bytes);
        self.append(runs, &mut buffer);
        let mut buffer = Bytes::from(buffer);
        let columns = self.columns.iter();
        columns
            .map(|column| buffer.split_to(rows * column.row_bytes))
            .collect()
    }

    /// Appends the rows of `runs` to `buffer`, column by column.
    pub(crate) fn append(&self, runs: &[Run], buffer: &mut Vec<u8>) {
        for column in &self.columns {
            for run in runs {
                let at = column.start + run.row as usize * column.row_bytes;
                let len = run.len as usize * column.row_bytes;
                buffer.extend_from_slice(&self.chunks[run.chunk as usize][at..at + len]);
            }
        }
    }

    fn locate(&self, slot: Slot) -> (u32, u32) {
        (
            slot >> self.chunk_rows_log2,
            slot & ((1 << self.chunk_rows_log2) - 1),
        )
    }

    /// The first slots that follow each other within a chunk.
    fn run(&self, slots: impl IntoIterator<Item = Slot>) -> Run {
        let mut slots = slots.into_iter();
        let first = slots.next().expect("there is a slot");
        let (chunk, row) = self.locate(first);
        let room = (1 << self.chunk_rows_log2) - row;
        let follows = |&(i, slot): &(u32, Slot)| first.checked_add(i) == Some(slot);
        let neighbours = (1..room).zip(slots).take_while(follows).count();
        let len = 1 + neighbours as u32;
        Run { chunk, row, len }
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::{ColumnSpec, DType};

    use super::*;

    /// A column of one id and one of `width` copies of it.
    fn signature(width: usize) -> Signature {
        Signature {
            columns: vec![
                ColumnSpec::new("id", DType::I64, &[]),
                ColumnSpec::new("copies", DType::I64, &[width]),
            ],
        }
    }

    fn batch(width: usize, ids: &[i64]) -> ColumnBatch {
        let id = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let copies = ids
            .iter()
            .flat_map(|id| id.to_le_bytes().repeat(width))
            .collect();
        ColumnBatch::new(&signature(width), ids.len(), vec![id, copies]).unwrap()
    }

    fn gather(rows: &Rows, slots: &[Slot]) -> Vec<Bytes> {
        rows.gather(&rows.runs(slots.iter().copied()))
    }

    #[test]
    fn items_come_back_across_chunks_and_gaps_in_any_order() {
        // 128 kB an item: chunks of 4 rows.
        let width = 16_000;
        let mut rows = Rows::new(&signature(width), 100);
        assert_eq!(rows.chunk_rows_log2, 3);
        rows.write(
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            &batch(width, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            0,
        );
        rows.write(&[3, 9, 4, 5], &batch(width, &[-1, 13, 19, 14, 15]), 1);
        let columns = gather(&rows, &[9, 0, 4, 3, 4, 8, 5]);
        let expected = batch(width, &[19, 0, 14, 13, 14, 8, 15]);
        assert_eq!(columns, expected.columns());
    }

    #[test]
    fn memory_grows_with_the_items_to_at_most_a_chunk_more() {
        let mut rows = Rows::new(&signature(27), 1_000_000);
        assert_eq!(rows.row_bytes(), 224);
        assert!(rows.chunks.is_empty());
        for slot in 0..10_000u32 {
            rows.write(&[slot], &batch(27, &[slot.into()]), 0);
        }
        let held: usize = rows.chunks.iter().map(|chunk| chunk.len()).sum();
        assert!(held <= 10_000 * 224 + CHUNK_BYTES, "{held}");
    }

    #[test]
    fn small_tables_take_small_chunks() {
        let mut rows = Rows::new(&signature(1), 3);
        rows.write(&[0, 1, 2], &batch(1, &[5, 6, 7]), 0);
        assert_eq!(gather(&rows, &[2, 0]), batch(1, &[7, 5]).columns());
        assert_eq!(rows.chunks.len(), 2);
    }
}
