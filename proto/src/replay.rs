//! Writers, items, batches and counters of the replay service, to the wire and back.

use bytes::Bytes;
use pmpo_types::{
    ColumnBatch, SampledBatch, SampledItems, Signature, StepBatch, TableCounters, WriterId,
};

use crate::convert::{batch_from_wire, batch_to_wire};
use crate::trace::{trace_from_wire, trace_to_wire};
use crate::{WireError, v1};

/// The wire's form of a writer's id.
pub fn writer_id_to_wire(id: WriterId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_le_bytes())
}

/// Reads a writer's id.
///
/// # Errors
/// It is not 16 bytes long.
pub fn writer_id_from_wire(wire: &[u8]) -> Result<WriterId, WireError> {
    wire.try_into()
        .map(|bytes| WriterId(u128::from_le_bytes(bytes)))
        .map_err(|_| WireError::field("writer_id", "16 bytes", format!("{} bytes", wire.len())))
}

/// The wire's form of a table's counters.
pub fn counters_to_wire(counters: TableCounters) -> v1::TableCounters {
    let TableCounters {
        size,
        inserts,
        samples,
    } = counters;
    v1::TableCounters {
        size,
        inserts,
        samples,
    }
}

/// Reads a table's counters.
///
/// # Errors
/// They are absent.
pub fn counters_from_wire(wire: Option<v1::TableCounters>) -> Result<TableCounters, WireError> {
    let v1::TableCounters {
        size,
        inserts,
        samples,
    } = wire.ok_or_else(|| WireError::field("counters", "a table's counters", "nothing"))?;
    Ok(TableCounters {
        size,
        inserts,
        samples,
    })
}

/// The wire's form of a writer's steps, the first of which has number `first_sequence`; shares the
/// bytes.
pub fn steps_to_wire(signature: &Signature, first_sequence: u64, batch: &StepBatch) -> v1::Items {
    v1::Items {
        first_sequence,
        columns: batch_to_wire(signature, batch.steps().clone()),
        ends: batch.ends().unwrap_or_default().to_vec(),
        priorities: batch.priorities().to_vec(),
        traceparent: trace_to_wire(batch.trace()),
    }
}

/// Reads a writer's steps and the items of `sequence_length` that end in them; shares the bytes.
///
/// # Errors
/// The columns do not fit the signature or take more than `max_bytes`, or the items fit no steps.
pub fn steps_from_wire(
    signature: &Signature,
    sequence_length: usize,
    wire: v1::Items,
    max_bytes: usize,
) -> Result<StepBatch, WireError> {
    let steps = batch_from_wire(signature, wire.columns, max_bytes)?;
    let batch = StepBatch::new(sequence_length, steps, wire.ends, wire.priorities)?;
    Ok(batch.with_trace(trace_from_wire(&wire.traceparent)))
}

/// The wire's form of a batch, cut between rows into parts of at most `part_bytes`, but of a row at
/// least; shares the bytes. Compressing is for whoever sends the parts.
pub fn sampled_to_wire(
    signature: &Signature,
    batch: SampledBatch,
    part_bytes: usize,
) -> Vec<v1::SampleResponse> {
    let SampledBatch {
        columns,
        counters,
        items,
    } = batch;
    let part_rows = (part_bytes / signature.item_bytes().max(1)).max(1);
    let rows = columns.len();
    let part = |start: usize| {
        let end = rows.min(start + part_rows);
        v1::SampleResponse {
            columns: batch_to_wire(signature, columns.slice(start..end)),
            counters: None,
            items: None,
            rows_left: (rows - end) as u64,
            traceparent: String::new(),
        }
    };
    let mut parts: Vec<_> = (0..rows).step_by(part_rows).map(part).collect();
    if let Some(last) = parts.last_mut() {
        last.counters = Some(counters_to_wire(counters));
        last.items = Some(v1::SampledItems {
            keys: items.keys,
            probabilities: items.probabilities,
            times_sampled: items.times_sampled,
        });
    }
    parts
}

/// Puts the parts of a batch together; a batch of one part shares its bytes.
#[derive(Default)]
pub struct SampledParts {
    rows: usize,
    /// One buffer for each column, once a batch has more than one part.
    columns: Vec<Vec<u8>>,
}

impl SampledParts {
    /// Takes the next part of a batch of `rows` rows; answers the batch when it is whole.
    ///
    /// # Errors
    /// The part does not fit the signature or the rows asked for; what was taken before is dropped.
    pub fn push(
        &mut self,
        signature: &Signature,
        rows: usize,
        part: v1::SampleResponse,
    ) -> Result<Option<SampledBatch>, WireError> {
        let Self {
            rows: taken,
            columns,
        } = std::mem::take(self);
        let max_bytes = rows.saturating_mul(signature.item_bytes());
        let new = batch_from_wire(signature, part.columns, max_bytes)?;
        let total = (taken as u64)
            .saturating_add(new.len() as u64)
            .saturating_add(part.rows_left);
        if new.is_empty() || total != rows as u64 {
            let got = format!("{} after {taken}, {} left", new.len(), part.rows_left);
            return Err(WireError::field("rows", format!("{rows} in all"), got));
        }
        if part.rows_left > 0 {
            *self = Self::grown(columns, taken, &new, rows);
            return Ok(None);
        }
        let columns = if taken == 0 {
            new
        } else {
            let whole = Self::grown(columns, taken, &new, rows).columns;
            ColumnBatch::new(
                signature,
                rows,
                whole.into_iter().map(Bytes::from).collect(),
            )?
        };
        Ok(Some(SampledBatch {
            columns,
            counters: counters_from_wire(part.counters)?,
            items: items_from_wire(part.items.unwrap_or_default()),
        }))
    }

    fn grown(mut columns: Vec<Vec<u8>>, taken: usize, new: &ColumnBatch, rows: usize) -> Self {
        if taken == 0 {
            let row_bytes = |data: &Bytes| data.len() / new.len();
            let room = |data| Vec::with_capacity(row_bytes(data) * rows);
            columns = new.columns().iter().map(room).collect();
        }
        for (column, data) in columns.iter_mut().zip(new.columns()) {
            column.extend_from_slice(data);
        }
        Self {
            rows: taken + new.len(),
            columns,
        }
    }
}

fn items_from_wire(wire: v1::SampledItems) -> SampledItems {
    let v1::SampledItems {
        keys,
        probabilities,
        times_sampled,
    } = wire;
    SampledItems {
        keys,
        probabilities,
        times_sampled,
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::transition;

    use super::*;

    fn steps(len: usize) -> (Signature, ColumnBatch) {
        let signature = transition::signature(3, 2);
        let column = |i: usize, bytes: usize| -> Bytes {
            // Small floats and integers, all different.
            let byte = |at: usize| {
                if at.is_multiple_of(4) {
                    (at / 4 + i) as u8
                } else {
                    0
                }
            };
            (0..bytes).map(byte).collect()
        };
        let columns = signature.columns.iter().enumerate();
        let columns = columns.map(|(i, spec)| column(i, spec.item_bytes() * len));
        let batch = ColumnBatch::new(&signature, len, columns.collect()).unwrap();
        (signature, batch)
    }

    fn batch(rows: usize) -> (Signature, SampledBatch) {
        let (signature, columns) = steps(rows);
        let items = SampledItems {
            keys: vec![7, u64::MAX],
            probabilities: vec![0.25, 1e-9],
            times_sampled: vec![1, 2],
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
        (signature, sampled)
    }

    #[test]
    fn ids_of_the_wrong_length_are_refused() {
        let id = WriterId(u128::MAX - 1);
        assert_eq!(writer_id_from_wire(&writer_id_to_wire(id)).unwrap(), id);
        assert!(writer_id_from_wire(b"short").is_err());
    }

    #[test]
    fn steps_survive_the_wire_with_their_items() {
        let (signature, steps) = steps(5);
        let sent = StepBatch::new(3, steps, vec![2, 4], vec![0.5, 2.0]).unwrap();
        let wire = steps_to_wire(&signature, 7, &sent);
        assert_eq!(wire.first_sequence, 7);
        assert_eq!(
            steps_from_wire(&signature, 3, wire.clone(), 1 << 20),
            Ok(sent)
        );
        let message = steps_from_wire(&signature, 1, wire, 1 << 20).unwrap_err();
        assert_eq!(
            message.to_string(),
            "items.ends: expected none where sequence_length is 1, got 2"
        );
    }

    #[test]
    fn a_batch_in_any_parts_is_put_together_again() {
        let (signature, sampled) = batch(10);
        let row = signature.item_bytes();
        for (part_bytes, count) in [(0, 10), (row * 3 + 1, 4), (row * 10, 1), (usize::MAX, 1)] {
            let parts = sampled_to_wire(&signature, sampled.clone(), part_bytes);
            assert_eq!(parts.len(), count);
            let mut whole = SampledParts::default();
            for part in &parts[..count - 1] {
                assert_eq!(whole.push(&signature, 10, part.clone()), Ok(None));
            }
            let last = whole.push(&signature, 10, parts[count - 1].clone());
            assert_eq!(last, Ok(Some(sampled.clone())));
        }
    }

    #[test]
    fn parts_that_do_not_add_up_are_refused() {
        let (signature, sampled) = batch(4);
        let parts = sampled_to_wire(&signature, sampled, signature.item_bytes() * 2);
        let refused = |rows: usize, order: &[usize]| {
            let mut whole = SampledParts::default();
            let mut ends = order
                .iter()
                .map(|&i| whole.push(&signature, rows, parts[i].clone()));
            ends.find_map(Result::err).unwrap().to_string()
        };
        assert_eq!(
            refused(5, &[0]),
            "rows: expected 5 in all, got 2 after 0, 2 left"
        );
        assert_eq!(
            refused(4, &[0, 0]),
            "rows: expected 4 in all, got 2 after 2, 2 left"
        );
        assert_eq!(
            refused(4, &[1]),
            "rows: expected 4 in all, got 2 after 0, 0 left"
        );
    }
}
