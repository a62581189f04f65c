//! From windows of raw steps to what a step of the update wants: the learner's discount, its n-step sums
//! and its scaling of rewards are applied here, to rewards and discounts as the environment gave them.
//!
//! `B` items, each a window of `W` rows (`pmpo_types::step`): the states `s_t .. s_{t+W-1}`.

use std::borrow::Cow;

use pmpo_types::{ColumnBatch, StepType, step};

use crate::statistics::BatchName;

/// The columns of a batch of windows, as numbers.
pub(crate) struct Windows<'a> {
    /// `[B * W, O]`.
    observation: Cow<'a, [f32]>,
    /// `[B * W, A]`.
    action: Cow<'a, [f32]>,
    /// `[B * W]` each.
    reward: Cow<'a, [f32]>,
    discount: Cow<'a, [f32]>,
    log_prob: Cow<'a, [f32]>,
    version: Cow<'a, [i64]>,
    step_type: Cow<'a, [i64]>,
    /// `[B * W]`, of data sets.
    label: Option<Cow<'a, [f32]>>,
    /// `W`.
    rows: usize,
}

/// What is learned from, row by row, on the host. `R` rows, of which each item has as many as any other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rows {
    /// `[R, O]`.
    pub(crate) observation: Vec<f32>,
    /// `[R, A]`, as drawn.
    pub(crate) action: Vec<f32>,
    /// `[R]`, scaled: n-step sums, or of Retrace each step's.
    pub(crate) reward: Vec<f32>,
    /// What multiplies the value of the next observation, `[R]`.
    pub(crate) discount: Vec<f32>,
    /// `[R, O]`.
    pub(crate) next_observation: Vec<f32>,
    /// Of Retrace: the logarithm of the density or probability that the acting policy gave each action,
    /// `[R]`; else empty.
    pub(crate) log_prob: Vec<f32>,
    /// Which rows hold a step, `[R]`: those behind an episode's end do not.
    pub(crate) is_step: Vec<bool>,
}

impl<'a> Windows<'a> {
    /// Takes the columns of [`step::signature`] or [`step::labelled_signature`], whole windows of `rows` rows.
    ///
    /// # Panics
    /// If they are others, which every station before this one has checked.
    pub(crate) fn new(columns: &'a ColumnBatch, rows: usize) -> Self {
        assert_eq!(columns.len() % rows, 0, "whole windows");
        let columns = columns.columns();
        Self {
            observation: numbers(&columns[step::OBSERVATION]),
            action: numbers(&columns[step::ACTION]),
            reward: numbers(&columns[step::REWARD]),
            discount: numbers(&columns[step::DISCOUNT]),
            log_prob: numbers(&columns[step::LOG_PROB]),
            version: numbers(&columns[step::POLICY_VERSION]),
            step_type: numbers(&columns[step::STEP_TYPE]),
            label: columns.get(step::LABEL).map(|column| numbers(column)),
            rows,
        }
    }

    /// Number of windows, `B`.
    pub(crate) fn items(&self) -> usize {
        self.reward.len() / self.rows
    }

    /// The first row of each window, by its place among all rows.
    fn firsts(&self) -> impl Iterator<Item = usize> {
        (0..self.reward.len()).step_by(self.rows)
    }

    /// Whether no step was taken in the state of this row.
    fn is_last(&self, row: usize) -> bool {
        self.step_type[row] == StepType::Last.number()
    }

    fn observation(&self, row: usize) -> &[f32] {
        of_row(&self.observation, row, self.reward.len())
    }

    fn action(&self, row: usize) -> &[f32] {
        of_row(&self.action, row, self.reward.len())
    }

    /// The windows' first states, `[B, O]`: each state that was stored is as likely as any other.
    pub(crate) fn first_observations(&self) -> Vec<f32> {
        let firsts = self.firsts().map(|row| self.observation(row));
        firsts.flatten().copied().collect()
    }

    /// Labels of the windows' first actions, `[B]`; empty where nobody has labelled.
    pub(crate) fn first_labels(&self) -> Vec<f32> {
        let label = self.label.iter();
        label
            .flat_map(|label| self.firsts().map(|row| label[row]))
            .collect()
    }

    /// n-step transitions: of each window's first step, over at most `n_step` steps. With `m` the steps
    /// until the window's or the episode's end,
    ///
    /// `r = scale sum over k < m of gamma^k (product over j < k of d_{t+j}) r_{t+k}`,
    /// `d = gamma^m product over j < m of d_{t+j}`, and the next state is `s_{t+m}`.
    pub(crate) fn transitions(&self, n_step: usize, gamma: f64, scale: f32) -> Rows {
        let mut rows = Rows::default();
        for first in self.firsts() {
            let (mut reward, mut discount, mut row) = (0.0, 1.0, first);
            let end = first + n_step.min(self.rows - 1);
            while row < end && !self.is_last(row) {
                reward += discount * f64::from(self.reward[row]);
                discount *= gamma * f64::from(self.discount[row]);
                row += 1;
            }
            rows.observation.extend_from_slice(self.observation(first));
            rows.action.extend_from_slice(self.action(first));
            rows.reward.push(reward as f32 * scale);
            rows.discount.push(discount as f32);
            rows.next_observation
                .extend_from_slice(self.observation(row));
            rows.is_step.push(row > first);
        }
        rows
    }

    /// All steps of each window, for Retrace. Rows behind an episode's end are worth nothing and end the
    /// traces that lead to them: no policy would have taken their action.
    pub(crate) fn steps(&self, gamma: f64, scale: f32) -> Rows {
        let mut rows = Rows::default();
        for first in self.firsts() {
            for row in first..first + self.rows - 1 {
                let is_step = !self.is_last(row);
                rows.observation.extend_from_slice(self.observation(row));
                rows.action.extend_from_slice(self.action(row));
                let next = self.observation(if is_step { row + 1 } else { row });
                rows.next_observation.extend_from_slice(next);
                rows.is_step.push(is_step);
                if is_step {
                    rows.reward.push(self.reward[row] * scale);
                    let discount = gamma * f64::from(self.discount[row]);
                    rows.discount.push(discount as f32);
                    rows.log_prob.push(self.log_prob[row]);
                } else {
                    rows.reward.push(0.0);
                    rows.discount.push(0.0);
                    rows.log_prob.push(f32::MAX);
                }
            }
        }
        rows
    }

    /// Mean policy version of the steps.
    pub(crate) fn mean_version(&self) -> f64 {
        let (mut sum, mut count) = (0.0, 0);
        for (row, &version) in self.version.iter().enumerate() {
            if !self.is_last(row) {
                sum += version as f64;
                count += 1;
            }
        }
        sum / f64::from(count.max(1))
    }

    /// What a message calls the batch.
    pub(crate) fn name(&self) -> BatchName {
        BatchName::new(&self.version, &self.reward)
    }
}

fn of_row(values: &[f32], row: usize, rows: usize) -> &[f32] {
    let width = values.len() / rows;
    &values[row * width..(row + 1) * width]
}

/// The column's bytes as numbers: where they lie, if they are aligned.
fn numbers<T: bytemuck::Pod>(column: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(column) {
        Ok(numbers) => Cow::Borrowed(numbers),
        Err(_) => {
            let values = column.chunks_exact(size_of::<T>());
            Cow::Owned(values.map(bytemuck::pod_read_unaligned).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Windows of rows `(observation, reward, discount, step type)`; actions and log-probabilities are
    /// minus the observation, versions a tenth of it.
    fn windows(rows: &[(f32, f32, f32, StepType)]) -> ColumnBatch {
        let floats = |f: fn(&(f32, f32, f32, StepType)) -> f32| -> Bytes {
            rows.iter().flat_map(|row| f(row).to_le_bytes()).collect()
        };
        let integers = |f: fn(&(f32, f32, f32, StepType)) -> i64| -> Bytes {
            rows.iter().flat_map(|row| f(row).to_le_bytes()).collect()
        };
        let columns = vec![
            floats(|row| row.0),
            floats(|row| -row.0),
            floats(|row| row.1),
            floats(|row| row.2),
            floats(|row| -row.0),
            integers(|row| (row.0 / 10.0) as i64),
            integers(|row| row.3.number()),
        ];
        ColumnBatch::new(&step::signature(1, 1), rows.len(), columns).unwrap()
    }

    use StepType::{First, Last, Mid};

    /// Four rows: in the middle of an episode; two steps before a time limit; one before a termination;
    /// discounts between 0 and 1.
    fn cases() -> ColumnBatch {
        windows(&[
            (0.0, 1.0, 1.0, First),
            (1.0, 2.0, 1.0, Mid),
            (2.0, 4.0, 1.0, Mid),
            (3.0, 8.0, 1.0, Mid),
            (10.0, 1.0, 1.0, Mid),
            (11.0, 2.0, 1.0, Mid),
            (12.0, 0.0, 0.0, Last),
            (12.0, 0.0, 0.0, Last),
            (20.0, 5.0, 0.0, Mid),
            (21.0, 0.0, 0.0, Last),
            (21.0, 0.0, 0.0, Last),
            (21.0, 0.0, 0.0, Last),
            (30.0, 1.0, 0.5, Mid),
            (31.0, 4.0, 0.25, Mid),
            (32.0, 8.0, 1.0, Mid),
            (33.0, 0.0, 0.0, Last),
        ])
    }

    /// With gamma 1/2: `1 + 1/2 2 + 1/4 4`, `1 + 1/2 2` over two steps only, 5 without a future, and
    /// `1 + 1/4 4 + 1/4 1/8 8`.
    #[test]
    fn n_step_transitions_by_hand() {
        let columns = cases();
        let rows = Windows::new(&columns, 4).transitions(3, 0.5, 2.0);
        assert_eq!(rows.observation, [0.0, 10.0, 20.0, 30.0]);
        assert_eq!(rows.action, [0.0, -10.0, -20.0, -30.0]);
        assert_eq!(rows.reward, [6.0, 4.0, 10.0, 4.5]);
        assert_eq!(rows.discount, [0.125, 0.25, 0.0, 0.125 * 0.125]);
        assert_eq!(rows.next_observation, [3.0, 12.0, 21.0, 33.0]);
        assert_eq!(rows.is_step, [true; 4]);
    }

    /// Whatever is stored serves fewer steps, and never more than it has.
    #[test]
    fn fewer_steps_than_a_window_has_and_more() {
        let columns = cases();
        let windows = Windows::new(&columns, 4);
        let one = windows.transitions(1, 0.5, 1.0);
        assert_eq!(one.reward, [1.0, 1.0, 5.0, 1.0]);
        assert_eq!(one.discount, [0.5, 0.5, 0.0, 0.25]);
        assert_eq!(one.next_observation, [1.0, 11.0, 21.0, 31.0]);
        assert_eq!(
            windows.transitions(99, 0.5, 1.0),
            windows.transitions(3, 0.5, 1.0)
        );
    }

    #[test]
    fn rows_behind_the_end_of_an_episode_are_no_steps() {
        let columns = cases();
        let windows = Windows::new(&columns, 4);
        let rows = windows.steps(0.5, 2.0);
        let first_two = |values: &[f32]| values[..6].to_vec();
        assert_eq!(
            first_two(&rows.observation),
            [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]
        );
        assert_eq!(
            first_two(&rows.next_observation),
            [1.0, 2.0, 3.0, 11.0, 12.0, 12.0]
        );
        assert_eq!(first_two(&rows.reward), [2.0, 4.0, 8.0, 2.0, 4.0, 0.0]);
        assert_eq!(first_two(&rows.discount), [0.5, 0.5, 0.5, 0.5, 0.5, 0.0]);
        assert_eq!(
            first_two(&rows.log_prob),
            [0.0, -1.0, -2.0, -10.0, -11.0, f32::MAX]
        );
        let steps = [true, true, true, true, true, false, true, false, false];
        assert_eq!(rows.is_step[..9], steps);
        assert_eq!(windows.first_observations(), [0.0, 10.0, 20.0, 30.0]);
        // Of the ten rows that are steps: four of version 0, two of 1, one of 2, three of 3.
        assert_eq!(windows.mean_version(), (2.0 + 2.0 + 9.0) / 10.0);
        assert_eq!(windows.name().policy_versions, 0..=3);
        assert_eq!(windows.name().rewards, 0.0..=8.0);
    }
}
