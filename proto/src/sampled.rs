//! Batches that were drawn, to the wire and back: cut into parts, and put together.

use std::ops::Range;

use bytes::Bytes;
use pmpo_types::{ColumnBatch, ColumnSpec, SampledBatch, SampledItems, Signature};

use crate::WireError;
use crate::convert::{batch_from_wire, batch_to_wire};
use crate::replay::{counters_from_wire, counters_to_wire, v1};

/// What a batch has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Items.
    pub items: usize,
    /// Steps of each, at most.
    pub sequence_length: usize,
    /// Whether items have lengths of their own, in a table that says so.
    pub ragged: bool,
}

impl BatchShape {
    /// Steps in all, at most.
    pub fn rows(self) -> usize {
        self.items * self.sequence_length
    }
}

/// What a part says of an item, at most: three numbers of eight bytes, one of up to five and one of three.
const ITEM_BYTES: usize = 32;

/// Bytes that a part takes at most beside its rows and what it says of its items: of each column up to 32
/// and ten for each axis, that of the rows among them.
fn frame_bytes(signature: &Signature) -> usize {
    let axes = |spec: &ColumnSpec| spec.shape.len() + 1;
    let columns = signature.columns.iter();
    256 + columns.map(|spec| 32 + 10 * axes(spec)).sum::<usize>()
}

/// The smallest message that holds a step, in bytes.
pub fn least_part_bytes(signature: &Signature) -> usize {
    frame_bytes(signature) + signature.item_bytes() + ITEM_BYTES
}

/// The wire's form of a batch, cut between rows into messages of at most `part_bytes`, but of a row at
/// least; shares the bytes. Compressing is for whoever sends the parts.
pub fn sampled_to_wire(
    signature: &Signature,
    shape: BatchShape,
    batch: SampledBatch,
    part_bytes: usize,
) -> Vec<v1::BatchPart> {
    let SampledBatch {
        columns,
        counters,
        items,
    } = batch;
    let shortest = items.lengths.iter().min().map(|&length| length as usize);
    let length = shortest.unwrap_or(shape.sequence_length);
    let room = part_bytes.saturating_sub(frame_bytes(signature) + ITEM_BYTES);
    // An item's share of the room, for its rows.
    let item_bytes = signature.item_bytes() * length + ITEM_BYTES;
    let part_rows = (room as u128 * length as u128 / item_bytes as u128).max(1) as usize;
    let rows = columns.len();
    let mut next = 0;
    let starts = items.lengths.iter().map(|&length| {
        let start = next;
        next += length as usize;
        start
    });
    let starts: Vec<usize> = starts.collect();
    // Items that begin before a row.
    let begun = |row: usize| match items.lengths.is_empty() {
        true => row.div_ceil(length),
        false => starts.partition_point(|&start| start < row),
    };
    let part = |start: usize| {
        let end = rows.min(start.saturating_add(part_rows));
        let begins = begun(start)..begun(end);
        v1::BatchPart {
            columns: batch_to_wire(signature, columns.slice(start..end)),
            items: Some(items_to_wire(&items, begins)),
            rows_left: (rows - end) as u64,
            counters: None,
            traceparent: String::new(),
        }
    };
    let mut parts: Vec<_> = (0..rows).step_by(part_rows).map(part).collect();
    if let Some(last) = parts.last_mut() {
        last.counters = Some(counters_to_wire(counters));
    }
    parts
}

fn items_to_wire(items: &SampledItems, range: Range<usize>) -> v1::SampledItems {
    // Priorities are all there or all absent, and so are lengths.
    let priorities = items.priorities.get(range.clone()).unwrap_or_default();
    let lengths = items.lengths.get(range.clone()).unwrap_or_default();
    v1::SampledItems {
        keys: items.keys[range.clone()].to_vec(),
        probabilities: items.probabilities[range.clone()].to_vec(),
        priorities: priorities.to_vec(),
        times_sampled: items.times_sampled[range].to_vec(),
        lengths: lengths.to_vec(),
    }
}

/// Puts the parts of a batch together; a batch of one part shares its bytes.
#[derive(Default)]
pub struct SampledParts {
    rows: usize,
    /// Rows that the batch has in all, as its first part says.
    whole: u64,
    /// One buffer for each column, once a batch has more than one part.
    columns: Vec<Vec<u8>>,
    items: SampledItems,
}

impl SampledParts {
    /// Takes the next part of a batch of this shape; answers the batch when it is whole.
    ///
    /// # Errors
    /// The part does not fit the signature or the shape; what was taken before is dropped.
    pub fn push(
        &mut self,
        signature: &Signature,
        shape: BatchShape,
        part: v1::BatchPart,
    ) -> Result<Option<SampledBatch>, WireError> {
        let Self {
            rows: taken,
            whole,
            columns,
            items,
        } = std::mem::take(self);
        let max_bytes = shape.rows().saturating_mul(signature.item_bytes());
        let new = batch_from_wire(signature, part.columns, max_bytes)?;
        let total = (taken as u64)
            .saturating_add(new.len() as u64)
            .saturating_add(part.rows_left);
        let possible = match shape.ragged {
            // The first part says how many.
            true if taken > 0 => whole..=whole,
            true => shape.items as u64..=shape.rows() as u64,
            false => shape.rows() as u64..=shape.rows() as u64,
        };
        if new.is_empty() || !possible.contains(&total) {
            let (least, most) = possible.into_inner();
            let expected = match least == most {
                true => format!("{most} in all"),
                false => format!("{least} to {most} in all"),
            };
            let got = format!("{} after {taken}, {} left", new.len(), part.rows_left);
            return Err(WireError::field("rows", expected, got));
        }
        let rows = total as usize;
        let items = joined(
            items,
            part.items.unwrap_or_default(),
            shape,
            taken + new.len(),
        )?;
        if part.rows_left == 0 && items.keys.len() != shape.items {
            let got = items.keys.len();
            return Err(WireError::field("items", shape.items.to_string(), got));
        }
        if part.rows_left > 0 {
            *self = Self {
                rows: taken + new.len(),
                whole: total,
                columns: grown(columns, taken, &new, rows),
                items,
            };
            return Ok(None);
        }
        let columns = if taken == 0 {
            new
        } else {
            let grown = grown(columns, taken, &new, rows).into_iter();
            ColumnBatch::of_known_values(signature, rows, grown.map(Bytes::from).collect())?
        };
        Ok(Some(SampledBatch {
            columns,
            counters: counters_from_wire(part.counters)?,
            items,
        }))
    }
}

/// The columns of a batch of `rows` rows, `taken` of which are there, and the next ones.
fn grown(mut columns: Vec<Vec<u8>>, taken: usize, new: &ColumnBatch, rows: usize) -> Vec<Vec<u8>> {
    if taken == 0 {
        let row_bytes = |data: &Bytes| data.len() / new.len();
        let room = |data| Vec::with_capacity(row_bytes(data) * rows);
        columns = new.columns().iter().map(room).collect();
    }
    for (column, data) in columns.iter_mut().zip(new.columns()) {
        column.extend_from_slice(data);
    }
    columns
}

/// The items of the parts so far and those of another: all that begin in the first `rows` rows.
fn joined(
    mut items: SampledItems,
    part: v1::SampledItems,
    shape: BatchShape,
    rows: usize,
) -> Result<SampledItems, WireError> {
    fn join<T>(all: &mut Vec<T>, mut new: Vec<T>) {
        if all.is_empty() {
            *all = new;
        } else {
            all.append(&mut new);
        }
    }
    join(&mut items.keys, part.keys);
    join(&mut items.probabilities, part.probabilities);
    join(&mut items.priorities, part.priorities);
    join(&mut items.times_sampled, part.times_sampled);
    join(&mut items.lengths, part.lengths);
    let expected = match shape.ragged {
        true => begun(&items.lengths, shape.sequence_length, rows)?,
        false => rows.div_ceil(shape.sequence_length),
    };
    let prioritized = !items.priorities.is_empty();
    for (field, got, expected) in [
        ("keys", items.keys.len(), expected),
        ("probabilities", items.probabilities.len(), expected),
        (
            "priorities",
            items.priorities.len(),
            if prioritized { expected } else { 0 },
        ),
        ("times_sampled", items.times_sampled.len(), expected),
        (
            "lengths",
            items.lengths.len(),
            if shape.ragged { expected } else { 0 },
        ),
    ] {
        if got != expected {
            let expected = format!("{expected}, one for each item so far");
            return Err(WireError::field(format!("items.{field}"), expected, got));
        }
    }
    Ok(items)
}

/// How many items these lengths are, which have to be those of the items that begin in the first `rows` rows.
fn begun(lengths: &[u32], longest: usize, rows: usize) -> Result<usize, WireError> {
    let sum: u64 = lengths.iter().copied().map(u64::from).sum();
    let last = u64::from(lengths.last().copied().unwrap_or_default());
    let each = |&length: &u32| (1..=longest).contains(&(length as usize));
    if lengths.iter().all(each) && (sum - last..sum).contains(&(rows as u64 - 1)) {
        return Ok(lengths.len());
    }
    let expected = format!("1 to {longest}, of those items that begin in the first {rows} rows");
    let got = format!("{} items of {sum} steps", lengths.len());
    Err(WireError::field("items.lengths", expected, got))
}

#[cfg(test)]
mod tests {
    use pmpo_types::TableCounters;
    use prost::Message;

    use super::*;
    use crate::replay::tests::steps;

    /// Two items of so many steps each.
    fn batch(sequence_length: usize) -> (Signature, BatchShape, SampledBatch) {
        let (signature, columns) = steps(2 * sequence_length);
        let items = SampledItems {
            keys: vec![7, u64::MAX],
            probabilities: vec![0.25, 1e-9],
            priorities: vec![0.0, 2.0],
            times_sampled: vec![1, u32::MAX],
            lengths: vec![],
        };
        let counters = TableCounters {
            size: 9,
            inserts: 11,
            samples: 13,
        };
        let sampled = SampledBatch {
            columns,
            counters,
            items,
        };
        let shape = BatchShape {
            items: 2,
            sequence_length,
            ragged: false,
        };
        (signature, shape, sampled)
    }

    /// Three items of one, four and two steps, of at most five.
    fn ragged() -> (Signature, BatchShape, SampledBatch) {
        let (signature, columns) = steps(7);
        let (_, _, sampled) = batch(1);
        let items = SampledItems {
            keys: vec![7, 8, 9],
            probabilities: vec![0.25, 0.5, 1e-9],
            priorities: vec![],
            times_sampled: vec![1, 2, 3],
            lengths: vec![1, 4, 2],
        };
        let shape = BatchShape {
            items: 3,
            sequence_length: 5,
            ragged: true,
        };
        let sampled = SampledBatch {
            columns,
            items,
            ..sampled
        };
        (signature, shape, sampled)
    }

    #[test]
    fn items_of_their_own_lengths_are_put_together_again() {
        let (signature, shape, sampled) = ragged();
        for part_bytes in [0, 400, 600, usize::MAX] {
            let parts = sampled_to_wire(&signature, shape, sampled.clone(), part_bytes);
            let mut whole = SampledParts::default();
            let mut last = None;
            for part in parts {
                assert_eq!(last, None, "a batch before its last part");
                last = whole.push(&signature, shape, part).unwrap();
            }
            assert_eq!(last, Some(sampled.clone()), "{part_bytes}");
        }
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let (signature, shape, sampled) = ragged();
        let parts = sampled_to_wire(&signature, shape, sampled, usize::MAX);
        let refused = |shape, change: fn(&mut v1::BatchPart, &mut Vec<u32>)| {
            let mut part = parts[0].clone();
            let mut lengths = part.items.take().unwrap();
            change(&mut part, &mut lengths.lengths);
            part.items = Some(lengths);
            let refused = SampledParts::default().push(&signature, shape, part);
            refused.unwrap_err().to_string()
        };
        let expected =
            "items.lengths: expected 1 to 5, of those items that begin in the first 7 rows, got";
        for (change, got) in [
            (
                (|_, lengths| lengths[0] = 0) as fn(&mut _, &mut Vec<u32>),
                "3 items of 6 steps",
            ),
            (|_, lengths| lengths[1] = 6, "3 items of 9 steps"),
            (|_, lengths| lengths.truncate(2), "2 items of 5 steps"),
            (|_, lengths| lengths.push(1), "4 items of 8 steps"),
            (|_, lengths| lengths.clear(), "0 items of 0 steps"),
        ] {
            assert_eq!(refused(shape, change), format!("{expected} {got}"));
        }
        let fixed = BatchShape {
            ragged: false,
            ..shape
        };
        assert_eq!(
            refused(fixed, |_, _| ()),
            "rows: expected 15 in all, got 7 after 0, 0 left"
        );
        let fixed = BatchShape {
            items: 7,
            sequence_length: 1,
            ragged: false,
        };
        assert_eq!(
            refused(fixed, |_, _| ()),
            "items.keys: expected 7, one for each item so far, got 3"
        );
        let more = BatchShape { items: 4, ..shape };
        assert_eq!(refused(more, |_, _| ()), "items: expected 4, got 3");
        assert_eq!(
            refused(shape, |part, _| part.rows_left = 9),
            "rows: expected 3 to 15 in all, got 7 after 0, 9 left"
        );
    }

    #[test]
    fn a_batch_in_any_parts_is_put_together_again() {
        let (signature, shape, sampled) = batch(5);
        let (row, frame) = (signature.item_bytes(), frame_bytes(&signature));
        // Two items of five rows each, and what is said of them.
        let rows = |rows: usize| frame + rows * row + 3 * ITEM_BYTES;
        for (part_bytes, count) in [(0, 10), (rows(3), 4), (rows(10), 1), (usize::MAX, 1)] {
            let parts = sampled_to_wire(&signature, shape, sampled.clone(), part_bytes);
            assert_eq!(parts.len(), count);
            let mut whole = SampledParts::default();
            for part in &parts[..count - 1] {
                assert_eq!(whole.push(&signature, shape, part.clone()), Ok(None));
            }
            let last = whole.push(&signature, shape, parts[count - 1].clone());
            assert_eq!(last, Ok(Some(sampled.clone())));
        }
    }

    #[test]
    fn a_part_is_no_larger_than_the_message_that_was_asked_for() {
        for sequence_length in [1, 2, 7, 300] {
            let (signature, shape, sampled) = batch(sequence_length);
            let least = least_part_bytes(&signature);
            for part_bytes in (least..least + 3_000).step_by(97) {
                let mut parts = sampled_to_wire(&signature, shape, sampled.clone(), part_bytes);
                parts.last_mut().unwrap().traceparent = "0".repeat(55);
                for part in parts {
                    let response = Some(v1::sample_response::Response::Part(part));
                    let bytes = v1::SampleResponse { response }.encoded_len();
                    assert!(bytes <= part_bytes, "{bytes} of {part_bytes}");
                }
            }
        }
    }

    #[test]
    fn parts_that_do_not_add_up_are_refused() {
        let (signature, shape, sampled) = batch(2);
        let part_bytes = frame_bytes(&signature) + 2 * signature.item_bytes() + 2 * ITEM_BYTES;
        let parts = sampled_to_wire(&signature, shape, sampled, part_bytes);
        let refused = |shape: BatchShape, parts: &[&v1::BatchPart]| {
            let mut whole = SampledParts::default();
            let mut ends = parts
                .iter()
                .map(|&part| whole.push(&signature, shape, part.clone()));
            ends.find_map(Result::err).unwrap().to_string()
        };
        let longer = BatchShape { items: 3, ..shape };
        assert_eq!(
            refused(longer, &[&parts[0]]),
            "rows: expected 6 in all, got 2 after 0, 2 left"
        );
        assert_eq!(
            refused(shape, &[&parts[0], &parts[0]]),
            "rows: expected 4 in all, got 2 after 2, 2 left"
        );
        assert_eq!(
            refused(shape, &[&parts[1]]),
            "rows: expected 4 in all, got 2 after 0, 0 left"
        );
        let changed = |change: fn(&mut v1::SampledItems)| {
            let mut part = parts[1].clone();
            change(part.items.as_mut().unwrap());
            refused(shape, &[&parts[0], &part])
        };
        let expected = "expected 2, one for each item so far, got 1";
        assert_eq!(
            changed(|items| items.keys.clear()),
            format!("items.keys: {expected}")
        );
        assert_eq!(
            changed(|items| items.times_sampled.clear()),
            format!("items.times_sampled: {expected}")
        );
        assert_eq!(
            changed(|items| items.priorities.clear()),
            format!("items.priorities: {expected}")
        );
    }
}
