//! Raw little-endian bytes in columns.
//!
//! Memory comes in chunks of about a mebibyte, each holding a power of two of rows column by column,
//! so a table takes what it holds and growing never copies. An insert is one copy per column and run
//! of neighbouring slots, a batch one gather per column into one buffer.

use bytes::Bytes;
use pmpo_types::{ColumnBatch, Signature};

use crate::selector::Slot;

const CHUNK_BYTES: usize = 1 << 20;

/// The items' bytes, addressed by slot.
pub(crate) struct Storage {
    columns: Vec<Column>,
    item_bytes: usize,
    /// Rows of a chunk, as a power of two.
    chunk_rows_log2: u32,
    chunks: Vec<Box<[u8]>>,
}

struct Column {
    row_bytes: usize,
    /// Where the column starts in a chunk.
    start: usize,
}

impl Storage {
    pub(crate) fn new(signature: &Signature, max_size: usize) -> Self {
        let item_bytes = signature.item_bytes();
        let rows = (CHUNK_BYTES / item_bytes.max(1)).clamp(1, max_size);
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
            item_bytes,
            chunk_rows_log2,
            chunks: Vec::new(),
        }
    }

    pub(crate) fn item_bytes(&self) -> usize {
        self.item_bytes
    }

    /// Puts the items of `batch` from `first` on into `slots`; a slot that occurs twice keeps the
    /// later item.
    pub(crate) fn write(&mut self, slots: &[Slot], batch: &ColumnBatch, first: usize) {
        let mut done = 0;
        while done < slots.len() {
            let run = self.run_length(&slots[done..]);
            let (chunk, row) = self.locate(slots[done]);
            while self.chunks.len() <= chunk {
                // Zeroed pages are not touched before they are used.
                self.chunks
                    .push(vec![0; self.item_bytes << self.chunk_rows_log2].into());
            }
            let chunk = &mut self.chunks[chunk];
            for (column, data) in self.columns.iter().zip(batch.columns()) {
                let bytes = column.row_bytes;
                let (from, to) = ((first + done) * bytes, column.start + row * bytes);
                chunk[to..to + run * bytes].copy_from_slice(&data[from..from + run * bytes]);
            }
            done += run;
        }
    }

    /// The items in `slots`, as contiguous columns that share one buffer.
    pub(crate) fn gather(&self, slots: &[Slot]) -> Vec<Bytes> {
        let mut buffer = Vec::with_capacity(slots.len() * self.item_bytes);
        for column in &self.columns {
            for &slot in slots {
                let (chunk, row) = self.locate(slot);
                let at = column.start + row * column.row_bytes;
                buffer.extend_from_slice(&self.chunks[chunk][at..at + column.row_bytes]);
            }
        }
        let mut buffer = Bytes::from(buffer);
        let columns = self.columns.iter();
        columns
            .map(|column| buffer.split_to(slots.len() * column.row_bytes))
            .collect()
    }

    fn locate(&self, slot: Slot) -> (usize, usize) {
        let slot = slot as usize;
        (
            slot >> self.chunk_rows_log2,
            slot & ((1 << self.chunk_rows_log2) - 1),
        )
    }

    /// How many of the first slots follow each other within a chunk.
    fn run_length(&self, slots: &[Slot]) -> usize {
        let (_, row) = self.locate(slots[0]);
        let room = (1 << self.chunk_rows_log2) - row;
        let neighbours = slots
            .windows(2)
            .take_while(|pair| pair[0].checked_add(1) == Some(pair[1]));
        room.min(1 + neighbours.count())
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::{ColumnSpec, DType};

    use super::*;

    /// A column of one id and one of `width` copies of it.
    fn signature(width: usize) -> Signature {
        let column = |name: &str, shape: Vec<usize>| ColumnSpec {
            name: name.to_owned(),
            dtype: DType::I64,
            shape,
        };
        Signature {
            columns: vec![column("id", vec![]), column("copies", vec![width])],
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

    #[test]
    fn items_come_back_across_chunks_and_gaps_in_any_order() {
        // 128 kB an item: chunks of 4 rows.
        let width = 16_000;
        let mut storage = Storage::new(&signature(width), 100);
        assert_eq!(storage.chunk_rows_log2, 3);
        storage.write(
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            &batch(width, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            0,
        );
        storage.write(&[3, 9, 4, 5], &batch(width, &[-1, 13, 19, 14, 15]), 1);
        let columns = storage.gather(&[9, 0, 4, 3, 4, 8, 5]);
        let expected = batch(width, &[19, 0, 14, 13, 14, 8, 15]);
        assert_eq!(columns, expected.columns());
    }

    #[test]
    fn memory_grows_with_the_items_to_at_most_a_chunk_more() {
        let mut storage = Storage::new(&signature(27), 1_000_000);
        assert_eq!(storage.item_bytes(), 224);
        assert!(storage.chunks.is_empty());
        for slot in 0..10_000u32 {
            storage.write(&[slot], &batch(27, &[slot.into()]), 0);
        }
        let held: usize = storage.chunks.iter().map(|chunk| chunk.len()).sum();
        assert!(held <= 10_000 * 224 + CHUNK_BYTES, "{held}");
    }

    #[test]
    fn small_tables_take_small_chunks() {
        let mut storage = Storage::new(&signature(1), 3);
        storage.write(&[0, 1, 2], &batch(1, &[5, 6, 7]), 0);
        assert_eq!(storage.gather(&[2, 0]), batch(1, &[7, 5]).columns());
        assert_eq!(storage.chunks.len(), 2);
    }
}
