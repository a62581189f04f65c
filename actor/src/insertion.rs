//! From transitions and steps to batches in columns, and the seam behind which they leave the process.

use std::time::Duration;

use bytes::Bytes;
use pmpo_replay_client::{ClientError, Writer};
use pmpo_types::{ColumnBatch, ColumnError, Signature, StepBatch, step, transition};

use crate::adder::Transition;
use crate::sequence_adder::StoredStep;

/// Where an environment's experience goes.
pub trait StepSink: Send {
    /// Hands a batch over; blocks while too much is in flight.
    ///
    /// # Errors
    /// The other side has refused for good, or the process is ending.
    fn push(&mut self, batch: &StepBatch) -> Result<(), ClientError>;

    /// Waits until everything pushed is stored, at most for `timeout`.
    ///
    /// # Errors
    /// As [`push`](Self::push), or time is up.
    fn flush(&mut self, timeout: Duration) -> Result<(), ClientError>;
}

impl StepSink for Writer {
    fn push(&mut self, batch: &StepBatch) -> Result<(), ClientError> {
        self.push_steps(batch)
    }

    fn flush(&mut self, timeout: Duration) -> Result<(), ClientError> {
        Writer::flush(self, timeout)
    }
}

/// Rows being gathered in columns.
#[derive(Debug)]
struct Rows {
    signature: Signature,
    columns: Vec<Vec<u8>>,
    len: usize,
}

impl Rows {
    fn new(signature: Signature) -> Self {
        let columns = vec![Vec::new(); signature.columns.len()];
        Self {
            signature,
            columns,
            len: 0,
        }
    }

    fn take(&mut self) -> Result<ColumnBatch, ColumnError> {
        let len = std::mem::take(&mut self.len);
        let columns = self.columns.iter_mut().map(|column| {
            let empty = Vec::with_capacity(column.len());
            Bytes::from(std::mem::replace(column, empty))
        });
        ColumnBatch::new(&self.signature, len, columns.collect())
    }
}

/// Transitions being gathered.
#[derive(Debug)]
pub struct TransitionBatch(Rows);

impl TransitionBatch {
    /// An empty batch of transitions between vectors of these sizes.
    pub fn new(observation_size: usize, action_size: usize) -> Self {
        Self(Rows::new(transition::signature(
            observation_size,
            action_size,
        )))
    }

    /// What its columns are.
    pub fn signature(&self) -> &Signature {
        &self.0.signature
    }

    /// Number of transitions gathered.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether none was gathered.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Appends a transition.
    pub fn push(&mut self, item: Transition<'_>) {
        let columns = &mut self.0.columns;
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
        self.0.len += 1;
    }

    /// Takes what was gathered.
    ///
    /// # Errors
    /// A value is not finite, or a transition did not have the sizes of the signature.
    pub fn take(&mut self) -> Result<ColumnBatch, ColumnError> {
        self.0.take()
    }
}

/// Steps being gathered, and the windows that end in them.
#[derive(Debug)]
pub struct SequenceBatch {
    rows: Rows,
    ends: Vec<u32>,
    sequence_length: usize,
}

impl SequenceBatch {
    /// An empty batch of steps with vectors of these sizes, of which windows hold `sequence_length`.
    pub fn new(observation_size: usize, action_size: usize, sequence_length: usize) -> Self {
        Self {
            rows: Rows::new(step::signature(observation_size, action_size)),
            ends: Vec::new(),
            sequence_length,
        }
    }

    /// What its columns are.
    pub fn signature(&self) -> &Signature {
        &self.rows.signature
    }

    /// Steps of a window.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Number of steps gathered.
    pub fn len(&self) -> usize {
        self.rows.len
    }

    /// Whether none was gathered.
    pub fn is_empty(&self) -> bool {
        self.rows.len == 0
    }

    /// Appends a step.
    pub fn push(&mut self, item: StoredStep<'_>) {
        if item.ends_window {
            self.ends.push(self.rows.len as u32);
        }
        let columns = &mut self.rows.columns;
        extend(&mut columns[step::OBSERVATION], item.observation);
        extend(&mut columns[step::ACTION], item.action);
        extend(&mut columns[step::REWARD], &[item.reward]);
        extend(&mut columns[step::DISCOUNT], &[item.discount]);
        extend(&mut columns[step::LOG_PROB], &[item.log_prob]);
        let version = item.policy_version.0.cast_signed();
        columns[step::POLICY_VERSION].extend_from_slice(&version.to_le_bytes());
        self.rows.len += 1;
    }

    /// Takes what was gathered.
    ///
    /// # Errors
    /// A value is not finite, or a step did not have the sizes of the signature.
    pub fn take(&mut self) -> Result<StepBatch, ColumnError> {
        let ends = std::mem::take(&mut self.ends);
        let steps = self.rows.take()?;
        let batch = StepBatch::new(self.sequence_length, steps, ends, Vec::new());
        Ok(batch.expect("ends were counted in order, and there are no priorities"))
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
    fn steps_keep_their_windows_and_nothing_of_the_last_batch() {
        let mut batch = SequenceBatch::new(1, 2, 3);
        let push = |batch: &mut SequenceBatch, x: f32, ends_window| {
            batch.push(StoredStep {
                observation: &[x],
                action: &[x, -x],
                reward: 2.0 * x,
                discount: 0.5,
                log_prob: -3.0 * x,
                policy_version: PolicyVersion(9),
                ends_window,
            });
        };
        for (x, ends_window) in [(1.0, false), (2.0, true), (3.0, true)] {
            push(&mut batch, x, ends_window);
        }
        let first = batch.take().unwrap();
        assert_eq!((first.len(), first.ends()), (3, Some(&[1, 2][..])));
        let floats = |values: &[f32]| -> Vec<u8> {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        let columns = first.steps().columns();
        assert_eq!(
            columns[step::ACTION],
            floats(&[1.0, -1.0, 2.0, -2.0, 3.0, -3.0])
        );
        assert_eq!(columns[step::LOG_PROB], floats(&[-3.0, -6.0, -9.0]));
        assert_eq!(columns[step::REWARD], floats(&[2.0, 4.0, 6.0]));
        push(&mut batch, 4.0, true);
        assert_eq!(batch.take().unwrap().ends(), Some(&[0][..]));
        assert!(batch.is_empty());
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
