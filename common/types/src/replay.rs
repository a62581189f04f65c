//! What enters a replay table, and what leaves it.

use std::ops::{Range, RangeInclusive};

use thiserror::Error;

use crate::{ColumnBatch, TraceContext};

/// How much has gone through a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounters {
    /// Items held.
    pub size: u64,
    /// Items ever inserted.
    pub inserts: u64,
    /// Items ever sampled.
    pub samples: u64,
}

/// Why items are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ItemError {
    /// Ends that name no steps, or not in order.
    #[error("steps.ends: expected {expected}, got {got}")]
    Ends {
        /// What would have been accepted.
        expected: String,
        /// The value.
        got: String,
    },
    /// A length that items cannot have, or not one for each item.
    #[error("steps.lengths: expected {expected}, got {got}")]
    Lengths {
        /// What would have been accepted.
        expected: String,
        /// The value.
        got: String,
    },
    /// A priority that is not one, or not one for each item.
    #[error("priorities: expected {expected}, got {got}")]
    Priorities {
        /// What would have been accepted.
        expected: String,
        /// The value.
        got: String,
    },
}

/// Consecutive steps of one writer, and the items that end in them.
#[derive(Clone, Debug, PartialEq)]
pub struct StepBatch {
    steps: ColumnBatch,
    ends: Option<Vec<u32>>,
    /// Steps of each item, or nothing where all have as many as an item of the table can.
    lengths: Vec<u32>,
    priorities: Vec<f64>,
    trace: Option<TraceContext>,
}

impl StepBatch {
    /// Steps each of which is an item, of the table's default priority.
    pub fn transitions(steps: ColumnBatch) -> Self {
        Self {
            steps,
            ends: None,
            lengths: Vec::new(),
            priorities: Vec::new(),
            trace: None,
        }
    }

    /// Steps, the positions at which items of `sequence_length` steps end, and the items' priorities.
    /// With a `sequence_length` of 1 every step is an item and `ends` must be empty; `priorities` may
    /// be empty always.
    ///
    /// # Errors
    /// Ends out of range or order; priorities that are not one for each item, finite and not negative.
    pub fn new(
        sequence_length: usize,
        steps: ColumnBatch,
        ends: Vec<u32>,
        priorities: Vec<f64>,
    ) -> Result<Self, ItemError> {
        let refuse = |expected: String, got: String| Err(ItemError::Ends { expected, got });
        let ends = if sequence_length == 1 {
            if let Some(end) = ends.first() {
                return refuse(
                    "none where sequence_length is 1".to_owned(),
                    end.to_string(),
                );
            }
            None
        } else {
            if let Some(pair) = ends.windows(2).find(|pair| pair[0] >= pair[1]) {
                return refuse("ascending positions".to_owned(), format!("{pair:?}"));
            }
            if let Some(&end) = ends.last().filter(|&&end| end as usize >= steps.len()) {
                return refuse(format!("less than {} steps", steps.len()), end.to_string());
            }
            Some(ends)
        };
        let items = ends.as_ref().map_or(steps.len(), Vec::len);
        if !priorities.is_empty() && priorities.len() != items {
            return Err(ItemError::Priorities {
                expected: format!("{items}, one for each item"),
                got: priorities.len().to_string(),
            });
        }
        check_priorities(&priorities)?;
        Ok(Self {
            steps,
            ends,
            lengths: Vec::new(),
            priorities,
            trace: None,
        })
    }

    /// The same steps, whose items have these lengths, each of the `allowed`, in steps. Nothing: all are as
    /// long as an item of the table can be.
    ///
    /// # Errors
    /// They are not one for each item, or another.
    pub fn with_lengths(
        self,
        allowed: RangeInclusive<u32>,
        lengths: Vec<u32>,
    ) -> Result<Self, ItemError> {
        let refuse = |expected: String, got: String| Err(ItemError::Lengths { expected, got });
        if lengths.is_empty() {
            return Ok(Self { lengths, ..self });
        }
        let items = self.ends.as_ref().map_or(0, Vec::len);
        if lengths.len() != items {
            let expected = match self.ends {
                Some(_) => format!("{items}, one for each item"),
                None => "none where sequence_length is 1".to_owned(),
            };
            return refuse(expected, lengths.len().to_string());
        }
        if let Some(length) = lengths.iter().find(|length| !allowed.contains(length)) {
            let (least, most) = allowed.into_inner();
            return refuse(format!("{least} to {most} steps"), length.to_string());
        }
        Ok(Self { lengths, ..self })
    }

    /// The same steps as part of a trace, or of none.
    pub fn with_trace(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// The trace that these steps, and all parts of them, belong to.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// The steps.
    pub fn steps(&self) -> &ColumnBatch {
        &self.steps
    }

    /// Positions of the steps at which an item ends; `None` where every step is an item.
    pub fn ends(&self) -> Option<&[u32]> {
        self.ends.as_deref()
    }

    /// Steps of each item, or nothing where all have as many as an item of the table can.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// The items' priorities, or nothing for the default.
    pub fn priorities(&self) -> &[f64] {
        &self.priorities
    }

    /// Items that end in these steps.
    pub fn items(&self) -> usize {
        self.ends.as_ref().map_or(self.steps.len(), Vec::len)
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The steps in `range` with the items that end in them, without copying the steps.
    ///
    /// # Panics
    /// If the range ends beyond `len` or before it starts.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let steps = self.steps.slice(range.clone());
        let (first, ends) = match &self.ends {
            None => (range.start, None),
            Some(ends) => {
                let position = |at: usize| ends.partition_point(|&end| (end as usize) < at);
                let kept = &ends[position(range.start)..position(range.end)];
                let moved = kept.iter().map(|&end| end - range.start as u32);
                (position(range.start), Some(moved.collect::<Vec<_>>()))
            }
        };
        let items = ends.as_ref().map_or(steps.len(), Vec::len);
        let items = first..first + items;
        let lengths = self.lengths.get(items.clone()).unwrap_or_default();
        let priorities = self.priorities.get(items).unwrap_or_default();
        Self {
            steps,
            ends,
            lengths: lengths.to_vec(),
            priorities: priorities.to_vec(),
            trace: self.trace,
        }
    }

    /// The steps from `start` on.
    ///
    /// # Panics
    /// If `start > len`.
    pub fn skip(&self, start: usize) -> Self {
        self.slice(start..self.len())
    }

    /// The same steps with those of the items alone that `keep` answers for: it is asked with the position at
    /// which an item ends and its length, if it has one of its own. Where every step is an item, all stay.
    pub fn retain_items(&self, keep: impl Fn(u32, Option<u32>) -> bool) -> Self {
        let Some(ends) = &self.ends else {
            return self.clone();
        };
        let kept = |&item: &usize| keep(ends[item], self.lengths.get(item).copied());
        let kept: Vec<usize> = (0..ends.len()).filter(kept).collect();
        fn of<T: Copy>(all: &[T], kept: &[usize]) -> Vec<T> {
            let each = kept.iter().filter_map(|&item| all.get(item));
            each.copied().collect()
        }
        Self {
            steps: self.steps.clone(),
            ends: Some(of(ends, &kept)),
            lengths: of(&self.lengths, &kept),
            priorities: of(&self.priorities, &kept),
            trace: self.trace,
        }
    }
}

/// Largest priority; its powers, and sums of them, stay finite.
pub const MAX_PRIORITY: f64 = 1e30;

/// Checks that all are numbers from 0 to [`MAX_PRIORITY`].
///
/// # Errors
/// [`ItemError::Priorities`] quotes the first that is not, and its position.
pub fn check_priorities(priorities: &[f64]) -> Result<(), ItemError> {
    let bad = |&(_, &priority): &(usize, &f64)| !(0.0..=MAX_PRIORITY).contains(&priority);
    match priorities.iter().enumerate().find(bad) {
        None => Ok(()),
        Some((i, priority)) => Err(ItemError::Priorities {
            expected: format!("numbers from 0 to {MAX_PRIORITY:e}"),
            got: format!("{priority} at position {i}"),
        }),
    }
}

/// One value for each item of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampledItems {
    /// Names of the items for updates of priorities; opaque.
    pub keys: Vec<u64>,
    /// Probability of drawing the item, when it was drawn.
    pub probabilities: Vec<f64>,
    /// Priority of the item, when it was drawn; empty where no selector of the table looks at any.
    pub priorities: Vec<f64>,
    /// Times the item has been drawn, this time included.
    pub times_sampled: Vec<u32>,
    /// Its steps, in a table whose items may have fewer than `sequence_length`; empty in others.
    pub lengths: Vec<u32>,
}

/// Items drawn from a table, and the table's counters right after the draw.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledBatch {
    /// The items' steps, item by item: row `i * sequence_length + t` is step `t` of item `i`, where items have
    /// no lengths of their own.
    pub columns: ColumnBatch,
    /// The table's counters.
    pub counters: TableCounters,
    /// The items.
    pub items: SampledItems,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnSpec, DType, Signature};

    fn steps(len: usize) -> ColumnBatch {
        let column = ColumnSpec::new("id", DType::I64, &[]);
        let signature = Signature {
            columns: vec![column],
        };
        ColumnBatch::new(&signature, len, vec![vec![0; 8 * len].into()]).unwrap()
    }

    #[test]
    fn items_are_the_ends_or_where_one_step_is_one_all_steps() {
        let batch = |length, ends: &[u32], priorities: &[f64]| {
            StepBatch::new(length, steps(4), ends.to_vec(), priorities.to_vec())
        };
        assert_eq!(batch(1, &[], &[]).unwrap().items(), 4);
        assert_eq!(batch(1, &[], &[0.0, 1.0, 2.0, 3.0]).unwrap().items(), 4);
        assert_eq!(batch(3, &[], &[]).unwrap().items(), 0);
        assert_eq!(batch(3, &[2, 3], &[1.0, 0.5]).unwrap().items(), 2);
    }

    #[test]
    fn slices_take_the_items_that_end_in_them() {
        let whole = StepBatch::new(2, steps(5), vec![1, 2, 4], vec![0.1, 0.2, 0.4]).unwrap();
        let part = |start, ends: &[u32], priorities: &[f64]| {
            let steps = steps(5).skip(start);
            StepBatch::new(2, steps, ends.to_vec(), priorities.to_vec()).unwrap()
        };
        assert_eq!(whole.skip(2), part(2, &[0, 2], &[0.2, 0.4]));
        assert_eq!(whole.slice(3..4).items(), 0);
        let later = whole.retain_items(|end, _| end >= 2);
        assert_eq!(later, part(0, &[2, 4], &[0.2, 0.4]));
        assert_eq!(whole.retain_items(|_, _| false), part(0, &[], &[]));

        let all = StepBatch::new(1, steps(3), vec![], vec![1.0, 2.0, 3.0]).unwrap();
        assert_eq!(all.slice(1..3).priorities(), [2.0, 3.0]);
        assert_eq!(StepBatch::transitions(steps(3)).skip(1).items(), 2);
    }

    #[test]
    fn items_keep_their_own_lengths() {
        let batch = |ends: &[u32], lengths: &[u32], steps: ColumnBatch| {
            let batch = StepBatch::new(4, steps, ends.to_vec(), vec![]).unwrap();
            batch.with_lengths(1..=4, lengths.to_vec())
        };
        let whole = batch(&[0, 2, 4], &[1, 3, 2], steps(5)).unwrap();
        assert_eq!(whole.lengths(), [1, 3, 2]);
        assert_eq!(whole.skip(1), batch(&[1, 3], &[3, 2], steps(4)).unwrap());
        let within = |end: u32, length: Option<u32>| end + 1 - length.unwrap() >= 1;
        assert_eq!(whole.retain_items(within).lengths(), [2]);
        let refused = |ends: &[u32], lengths: &[u32]| {
            let error = batch(ends, lengths, steps(5)).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            refused(&[0, 2], &[1]),
            "steps.lengths: expected 2, one for each item, got 1"
        );
        assert_eq!(
            refused(&[0, 2], &[1, 5]),
            "steps.lengths: expected 1 to 4 steps, got 5"
        );
        assert_eq!(
            StepBatch::transitions(steps(2))
                .with_lengths(1..=1, vec![1, 1])
                .unwrap_err()
                .to_string(),
            "steps.lengths: expected none where sequence_length is 1, got 2"
        );
    }

    #[test]
    fn refuses_ends_and_priorities_that_fit_no_items() {
        let refused = |length, ends: &[u32], priorities: &[f64]| {
            StepBatch::new(length, steps(4), ends.to_vec(), priorities.to_vec())
                .unwrap_err()
                .to_string()
        };
        let range = "priorities: expected numbers from 0 to 1e30, got";
        let cases = [
            (
                refused(1, &[0], &[]),
                "steps.ends: expected none where sequence_length is 1, got 0".to_owned(),
            ),
            (
                refused(2, &[1, 1], &[]),
                "steps.ends: expected ascending positions, got [1, 1]".to_owned(),
            ),
            (
                refused(2, &[1, 4], &[]),
                "steps.ends: expected less than 4 steps, got 4".to_owned(),
            ),
            (
                refused(2, &[1, 3], &[1.0]),
                "priorities: expected 2, one for each item, got 1".to_owned(),
            ),
            (
                refused(2, &[1, 3], &[1.0, -0.5]),
                format!("{range} -0.5 at position 1"),
            ),
            (
                refused(2, &[1, 3], &[f64::NAN, 1.0]),
                format!("{range} NaN at position 0"),
            ),
            (
                refused(2, &[3], &[f64::INFINITY]),
                format!("{range} inf at position 0"),
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }
}
