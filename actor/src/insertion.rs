//! From transitions to batches in columns, and the seam behind which they leave the process.

use std::time::Duration;

use bytes::Bytes;
use pmpo_replay_client::{ClientError, Writer};
use pmpo_types::{ColumnBatch, ColumnError, Signature, transition};

use crate::adder::Transition;

/// Where an environment's transitions go.
pub trait TransitionSink: Send {
    /// Hands a batch over; blocks while too much is in flight.
    ///
    /// # Errors
    /// The other side has refused for good, or the process is ending.
    fn push(&mut self, batch: ColumnBatch) -> Result<(), ClientError>;

    /// Waits until everything pushed is stored, at most for `timeout`.
    ///
    /// # Errors
    /// As [`push`](Self::push), or time is up.
    fn flush(&mut self, timeout: Duration) -> Result<(), ClientError>;
}

impl TransitionSink for Writer {
    fn push(&mut self, batch: ColumnBatch) -> Result<(), ClientError> {
        Writer::push(self, batch)
    }

    fn flush(&mut self, timeout: Duration) -> Result<(), ClientError> {
        Writer::flush(self, timeout)
    }
}

/// Transitions being gathered in columns.
#[derive(Debug)]
pub struct TransitionBatch {
    signature: Signature,
    columns: Vec<Vec<u8>>,
    len: usize,
}

impl TransitionBatch {
    /// An empty batch of transitions between vectors of these sizes.
    pub fn new(observation_size: usize, action_size: usize) -> Self {
        let signature = transition::signature(observation_size, action_size);
        let columns = vec![Vec::new(); signature.columns.len()];
        Self {
            signature,
            columns,
            len: 0,
        }
    }

    /// What its columns are.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Number of transitions gathered.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none was gathered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a transition.
    pub fn push(&mut self, item: Transition<'_>) {
        let columns = &mut self.columns;
        extend(&mut columns[transition::OBSERVATION], item.observation);
        extend(&mut columns[transition::ACTION], item.action);
        extend(&mut columns[transition::REWARD], &[item.reward]);
        extend(&mut columns[transition::DISCOUNT], &[item.discount]);
        extend(
            &mut columns[transition::NEXT_OBSERVATION],
            item.next_observation,
        );
        let version = item.policy_version.0.cast_signed();
        columns[transition::POLICY_VERSION].extend_from_slice(&version.to_le_bytes());
        self.len += 1;
    }

    /// Takes what was gathered.
    ///
    /// # Errors
    /// A value is not finite, or a transition did not have the sizes of the signature.
    pub fn take(&mut self) -> Result<ColumnBatch, ColumnError> {
        let len = std::mem::take(&mut self.len);
        let columns = self.columns.iter_mut().map(|column| {
            let empty = Vec::with_capacity(column.len());
            Bytes::from(std::mem::replace(column, empty))
        });
        ColumnBatch::new(&self.signature, len, columns.collect())
    }
}

fn extend(column: &mut Vec<u8>, values: &[f32]) {
    column.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use pmpo_types::PolicyVersion;

    #[test]
    fn columns_hold_the_transitions_in_order_and_a_batch_is_taken_once() {
        let mut batch = TransitionBatch::new(2, 1);
        for i in 0..3 {
            let x = i as f32;
            batch.push(Transition {
                observation: &[x, x + 0.5],
                action: &[-x],
                reward: 10.0 * x,
                discount: 0.25,
                next_observation: &[x + 1.0, x + 1.5],
                policy_version: PolicyVersion(7 + i),
            });
        }
        let taken = batch.take().unwrap();
        assert_eq!(taken.len(), 3);
        let floats = |column: usize| -> Vec<f32> {
            let chunks = taken.columns()[column].chunks_exact(4);
            chunks
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                .collect()
        };
        assert_eq!(
            floats(transition::OBSERVATION),
            [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
        );
        assert_eq!(floats(transition::ACTION), [0.0, -1.0, -2.0]);
        assert_eq!(floats(transition::REWARD), [0.0, 10.0, 20.0]);
        assert_eq!(floats(transition::DISCOUNT), [0.25; 3]);
        assert_eq!(
            floats(transition::NEXT_OBSERVATION),
            [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
        );
        let versions = [7i64, 8, 9].map(i64::to_le_bytes).concat();
        assert_eq!(taken.columns()[transition::POLICY_VERSION], versions);
        assert!(batch.is_empty());
        assert_eq!(batch.take().unwrap().len(), 0);
    }

    #[test]
    fn values_that_are_not_finite_do_not_leave() {
        let mut batch = TransitionBatch::new(1, 1);
        batch.push(Transition {
            observation: &[0.0],
            action: &[0.0],
            reward: f32::INFINITY,
            discount: 1.0,
            next_observation: &[0.0],
            policy_version: PolicyVersion(1),
        });
        assert!(batch.take().is_err());
    }
}
