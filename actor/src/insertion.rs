//! From rows to batches in columns, and the seam behind which they leave the environment's thread.

use std::time::Duration;

use bytes::Bytes;
use pmpo_replay_client::{ClientError, Writer};
use pmpo_types::{ColumnBatch, ColumnError, Signature, StepBatch, step};

use crate::adder::Row;

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

/// Rows being gathered in columns, and the windows that end in them.
#[derive(Debug)]
pub struct RowBatch {
    signature: Signature,
    columns: Vec<Vec<u8>>,
    ends: Vec<u32>,
    len: usize,
    window_rows: usize,
}

impl RowBatch {
    /// An empty batch of steps with vectors of these sizes, of which windows hold `window_rows` rows.
    pub fn new(observation_size: usize, action_size: usize, window_rows: usize) -> Self {
        let signature = step::signature(observation_size, action_size);
        Self {
            columns: vec![Vec::new(); signature.columns.len()],
            signature,
            ends: Vec::new(),
            len: 0,
            window_rows,
        }
    }

    /// What its columns are.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Rows of a window.
    pub fn window_rows(&self) -> usize {
        self.window_rows
    }

    /// Number of rows gathered.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none was gathered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a row.
    pub fn push(&mut self, row: Row<'_>) {
        if row.ends_window {
            self.ends.push(self.len as u32);
        }
        let columns = &mut self.columns;
        extend(&mut columns[step::OBSERVATION], row.observation);
        extend(&mut columns[step::ACTION], row.action);
        extend(&mut columns[step::REWARD], &[row.reward]);
        extend(&mut columns[step::DISCOUNT], &[row.discount]);
        extend(&mut columns[step::LOG_PROB], &[row.log_prob]);
        for (column, value) in [
            (step::POLICY_VERSION, row.policy_version.0.cast_signed()),
            (step::STEP_TYPE, row.step_type.number()),
        ] {
            columns[column].extend_from_slice(&value.to_le_bytes());
        }
        self.len += 1;
    }

    /// Takes what was gathered.
    ///
    /// # Errors
    /// A value is not finite, or a row did not have the sizes of the signature.
    pub fn take(&mut self) -> Result<StepBatch, ColumnError> {
        let len = std::mem::take(&mut self.len);
        let columns = self.columns.iter_mut().map(|column| {
            let empty = Vec::with_capacity(column.len());
            Bytes::from(std::mem::replace(column, empty))
        });
        let ends = std::mem::take(&mut self.ends);
        let steps = ColumnBatch::new(&self.signature, len, columns.collect())?;
        let batch = StepBatch::new(self.window_rows, steps, ends, Vec::new());
        Ok(batch.expect("ends were counted in order, and there are no priorities"))
    }
}

fn extend(column: &mut Vec<u8>, values: &[f32]) {
    column.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use pmpo_types::{PolicyVersion, StepType};

    fn row(x: f32, ends_window: bool) -> Row<'static> {
        Row {
            observation: &[1.5, 2.5],
            action: &[0.25],
            reward: x,
            discount: 0.5,
            log_prob: -x,
            policy_version: PolicyVersion(x as u64),
            step_type: StepType::Mid,
            ends_window,
        }
    }

    #[test]
    fn columns_hold_the_rows_in_order_and_a_batch_is_taken_once() {
        let mut batch = RowBatch::new(2, 1, 2);
        for (x, ends) in [(7.0, false), (8.0, true), (9.0, true)] {
            batch.push(row(x, ends));
        }
        let taken = batch.take().unwrap();
        assert_eq!((taken.len(), taken.ends().unwrap()), (3, &[1, 2][..]));
        let column = |index: usize| taken.steps().columns()[index].clone();
        let floats = |index: usize| -> Vec<f32> {
            let column = column(index);
            let values = column.chunks_exact(4);
            values
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                .collect()
        };
        let integers = |index: usize| -> Vec<i64> {
            let column = column(index);
            let values = column.chunks_exact(8);
            values
                .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
                .collect()
        };
        assert_eq!(floats(step::OBSERVATION), [1.5, 2.5].repeat(3));
        assert_eq!(floats(step::ACTION), [0.25; 3]);
        assert_eq!(floats(step::REWARD), [7.0, 8.0, 9.0]);
        assert_eq!(floats(step::DISCOUNT), [0.5; 3]);
        assert_eq!(floats(step::LOG_PROB), [-7.0, -8.0, -9.0]);
        assert_eq!(integers(step::POLICY_VERSION), [7, 8, 9]);
        assert_eq!(integers(step::STEP_TYPE), [1; 3]);
        assert!(batch.is_empty());
        assert_eq!(batch.take().unwrap().len(), 0);
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let mut batch = RowBatch::new(2, 1, 2);
        batch.push(row(f32::NAN, false));
        let message = batch.take().unwrap_err().to_string();
        assert!(message.contains("reward"), "{message}");
    }
}
