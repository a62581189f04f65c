//! Steps that are gathered before they are sent, and the items that end with them. Pure bookkeeping.

use bytes::Bytes;
use pmpo_types::{ColumnBatch, Signature, StepBatch};

/// Steps gathered into a message, at most, and their bytes: enough that what a message costs is little beside
/// them.
const MESSAGE_STEPS: usize = 256;
const MESSAGE_BYTES: usize = 256 << 10;
/// Of the steps in flight, those of one message: some are on their way while others are gathered.
const MESSAGES_IN_FLIGHT: usize = 4;

/// Steps that are not sent yet.
pub(crate) struct Message {
    columns: Vec<Vec<u8>>,
    pub(crate) steps: usize,
    max_steps: usize,
    sequence_length: usize,
    ends: Vec<u32>,
    /// One for each item, or none at all: where items have lengths of their own.
    lengths: Vec<u32>,
    /// One for each item, or none at all.
    priorities: Vec<f64>,
}

impl Message {
    pub(crate) fn new(signature: &Signature, sequence_length: usize, in_flight: usize) -> Self {
        let steps = MESSAGE_STEPS.min(in_flight / MESSAGES_IN_FLIGHT);
        Self {
            columns: vec![Vec::new(); signature.columns.len()],
            steps: 0,
            max_steps: steps.min(MESSAGE_BYTES / signature.item_bytes()).max(1),
            sequence_length,
            ends: Vec::new(),
            lengths: Vec::new(),
            priorities: Vec::new(),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.steps >= self.max_steps
    }

    /// Makes an item of the newest steps, or says why not; of `length` steps, if it has a length of its own.
    pub(crate) fn end_item(
        &mut self,
        length: Option<u32>,
        priority: Option<f64>,
    ) -> Result<(), String> {
        if self.ends_with_item() {
            return Err("the newest step ends one already".to_owned());
        }
        let Some(newest) = self.steps.checked_sub(1) else {
            return Err(
                "the newest step was sent before it was made: flush after create_item".to_owned(),
            );
        };
        self.ends.push(newest as u32);
        self.lengths.extend(length);
        self.priorities.extend(priority);
        Ok(())
    }

    pub(crate) fn append(&mut self, signature: &Signature, mut row: &[u8], priority: Option<f64>) {
        for (spec, column) in signature.columns.iter().zip(&mut self.columns) {
            let (value, rest) = row.split_at(spec.item_bytes());
            column.extend_from_slice(value);
            row = rest;
        }
        self.steps += 1;
        self.priorities.extend(priority);
    }

    pub(crate) fn items(&self) -> usize {
        if self.sequence_length == 1 {
            self.steps
        } else {
            self.ends.len()
        }
    }

    /// Whether an item with or without `priority` cannot share a message with those that are here.
    pub(crate) fn mixes(&self, priority: Option<f64>) -> bool {
        self.items() > 0 && self.priorities.is_empty() == priority.is_some()
    }

    pub(crate) fn ends_with_item(&self) -> bool {
        self.ends
            .last()
            .is_some_and(|&end| end as usize + 1 == self.steps)
    }

    /// Steps that nothing is left to be said of: an item may still be made of the newest.
    pub(crate) fn sendable(&self) -> usize {
        if self.sequence_length == 1 || self.ends_with_item() {
            self.steps
        } else {
            self.steps.saturating_sub(1)
        }
    }

    /// Takes the first steps out.
    pub(crate) fn take(&mut self, signature: &Signature, steps: usize) -> StepBatch {
        let specs = signature.columns.iter();
        let columns = specs.zip(&mut self.columns).map(|(spec, column)| {
            let end = spec.item_bytes() * steps;
            let mut rest = Vec::with_capacity(column.len());
            rest.extend_from_slice(&column[end..]);
            column.truncate(end);
            Bytes::from(std::mem::replace(column, rest))
        });
        let columns = ColumnBatch::of_known_values(signature, steps, columns.collect());
        let columns = columns.expect("a column grows by a step at a time");
        self.steps -= steps;
        let ended = self.ends.partition_point(|&end| (end as usize) < steps);
        let items = if self.sequence_length == 1 {
            steps
        } else {
            ended
        };
        let rest = self.ends.split_off(ended);
        let ends = std::mem::replace(&mut self.ends, rest);
        self.ends.iter_mut().for_each(|end| *end -= steps as u32);
        let lengths = first_of(&mut self.lengths, items);
        let priorities = first_of(&mut self.priorities, items);
        StepBatch::new(self.sequence_length, columns, ends, priorities)
            .and_then(|batch| batch.with_lengths(1..=self.sequence_length as u32, lengths))
            .expect("ends ascend, and lengths and priorities are there for all or none")
    }
}

/// Takes the first values out, one for each item, or none where there are none.
fn first_of<T>(values: &mut Vec<T>, items: usize) -> Vec<T> {
    let rest = values.split_off(items.min(values.len()));
    std::mem::replace(values, rest)
}
