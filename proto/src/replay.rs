//! Writers, their steps and tables' counters of the replay service, to the wire and back.

use bytes::Bytes;
use pmpo_types::{Signature, StepBatch, TableCounters, WriterId};

use crate::WireError;
use crate::convert::{batch_from_wire, batch_to_wire};
use crate::trace::{trace_from_wire, trace_to_wire};

/// Generated from `proto/pmpo/replay/v1/replay.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("pmpo.replay.v1");
}

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
pub fn steps_to_wire(signature: &Signature, first_sequence: u64, batch: &StepBatch) -> v1::Steps {
    v1::Steps {
        first_sequence,
        columns: batch_to_wire(signature, batch.steps().clone()),
        ends: batch.ends().unwrap_or_default().to_vec(),
        priorities: batch.priorities().to_vec(),
        traceparent: trace_to_wire(batch.trace()),
        lengths: batch.lengths().to_vec(),
    }
}

/// Reads a writer's steps and the items of at most `sequence_length` steps that end in them; shares the bytes.
///
/// # Errors
/// The columns do not fit the signature or take more than `max_bytes`, or the items fit no steps.
pub fn steps_from_wire(
    signature: &Signature,
    sequence_length: usize,
    wire: v1::Steps,
    max_bytes: usize,
) -> Result<StepBatch, WireError> {
    let steps = batch_from_wire(signature, wire.columns, max_bytes)?;
    let longest = u32::try_from(sequence_length).unwrap_or(u32::MAX);
    let batch = StepBatch::new(sequence_length, steps, wire.ends, wire.priorities)?
        .with_lengths(1..=longest, wire.lengths)?;
    Ok(batch.with_trace(trace_from_wire(&wire.traceparent)))
}

#[cfg(test)]
pub(crate) mod tests {
    use pmpo_types::{ColumnBatch, transition};

    use super::*;

    /// Transitions, all different.
    pub(crate) fn steps(len: usize) -> (Signature, ColumnBatch) {
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

    #[test]
    fn ids_of_the_wrong_length_are_refused() {
        let id = WriterId(u128::MAX - 1);
        assert_eq!(writer_id_from_wire(&writer_id_to_wire(id)).unwrap(), id);
        assert!(writer_id_from_wire(b"short").is_err());
    }

    #[test]
    fn steps_survive_the_wire_with_their_items() {
        let (signature, steps) = steps(5);
        let sent = StepBatch::new(3, steps, vec![2, 4], vec![0.5, 2.0])
            .and_then(|sent| sent.with_lengths(1..=3, vec![3, 1]))
            .unwrap();
        let wire = steps_to_wire(&signature, 7, &sent);
        assert_eq!(wire.first_sequence, 7);
        assert_eq!(
            steps_from_wire(&signature, 3, wire.clone(), 1 << 20),
            Ok(sent)
        );
        let message = steps_from_wire(&signature, 1, wire, 1 << 20).unwrap_err();
        assert_eq!(
            message.to_string(),
            "steps.ends: expected none where sequence_length is 1, got 2"
        );
    }
}
