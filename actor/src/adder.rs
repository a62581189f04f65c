//! The adder: steps of an episode in, rows to store and the windows over them out. Follows Acme's
//! `SequenceAdder` (`acme/adders/reverb/sequence.py`), whose windows share their steps too and whose ends
//! are padded; here windows are counted over episodes, so that their number times their period is the
//! number of steps taken, which is how the learner counts the environment's steps.
//!
//! Let step `t` lead from `s_t` with action `a_t` to `s_{t+1}` with reward `r_t` and the environment's
//! discount `d_t` (0 on termination, 1 at a time limit). It is stored as one row, everything as the
//! environment and the policy had it:
//!
//! ```text
//! observation     s_t
//! action          a_t, as drawn
//! reward          r_t
//! discount        d_t
//! log_prob        of a_t, by the policy that drew it
//! policy_version  of that policy
//! step_type       FIRST for t = 0, else MID
//! ```
//!
//! A window of `L` steps is the rows `t` to `t + L`: those of its steps, and the one after them, of which
//! only the observation is used. Windows begin every `period` steps, and the count goes on from one
//! episode to the next. An episode of `N` steps ends in rows with `step_type` LAST, `s_N`, and nothing
//! else, as many as its last windows want: windows that begin near the end are learned from as far as
//! they go. An n-step transition is a window of `n` steps with period 1.

use std::collections::VecDeque;

use pmpo_types::{PolicyVersion, StepType};

/// One step of an environment: what was done in the present state, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step<'a> {
    /// Canonical action as the policy drew it, before clipping.
    pub drawn: &'a [f32],
    /// Logarithm of the density or probability that the policy gave it.
    pub log_prob: f32,
    /// The policy that chose it.
    pub policy_version: PolicyVersion,
    /// Reward of the step.
    pub reward: f64,
    /// The environment's discount of the step.
    pub discount: f64,
    /// The state it led to.
    pub next_observation: &'a [f32],
    /// Whether the episode ends with it.
    pub last: bool,
}

/// A row to store, borrowed from the adder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// `s_t`.
    pub observation: &'a [f32],
    /// `a_t`, canonical, before clipping.
    pub action: &'a [f32],
    /// `r_t`.
    pub reward: f32,
    /// `d_t`.
    pub discount: f32,
    /// Of the action; finite.
    pub log_prob: f32,
    /// The policy that drew the action.
    pub policy_version: PolicyVersion,
    /// Of `s_t`.
    pub step_type: StepType,
    /// Whether a window ends with this row.
    pub ends_window: bool,
}

/// Turns the steps of one environment into rows and windows.
#[derive(Clone, Debug)]
pub struct Adder {
    /// `L`.
    steps: usize,
    period: usize,
    /// The present state; empty between episodes.
    observation: Vec<f32>,
    /// Zeros, the action of an episode's last rows.
    no_action: Vec<f32>,
    policy_version: PolicyVersion,
    /// Rows of the episode so far.
    rows: usize,
    /// Steps until a window begins.
    until_next: usize,
    /// The rows that windows which have begun end with.
    open: VecDeque<usize>,
}

impl Adder {
    /// An adder of windows over `steps` steps, one for `period` steps.
    ///
    /// # Panics
    /// If `steps` or `period` is 0.
    pub fn new(steps: usize, period: usize) -> Self {
        assert!(steps > 0 && period > 0, "steps and period are at least 1");
        Self {
            steps,
            period,
            observation: Vec::new(),
            no_action: Vec::new(),
            policy_version: PolicyVersion::default(),
            rows: 0,
            until_next: 0,
            open: VecDeque::with_capacity(steps / period + 1),
        }
    }

    /// Steps until a window begins, between episodes: all that one episode leaves for the next.
    pub fn until_next(&self) -> usize {
        self.until_next
    }

    /// Goes on, between episodes, where another adder of the same windows was.
    ///
    /// # Panics
    /// If an episode is under way, or no such adder has so many steps to go.
    pub fn set_until_next(&mut self, steps: usize) {
        assert!(self.open.is_empty() && steps < self.period.max(1));
        self.until_next = steps;
    }

    /// Starts an episode.
    ///
    /// # Panics
    /// If the last one was neither ended by its last step, nor by [`truncate`](Self::truncate), nor
    /// [discarded](Self::discard): its windows would be lost.
    pub fn first(&mut self, observation: &[f32]) {
        assert!(self.open.is_empty(), "the last episode has open windows");
        self.rows = 0;
        self.observation.clear();
        self.observation.extend_from_slice(observation);
    }

    /// Adds a step, and hands over its row, and the last ones if the episode ends.
    ///
    /// # Panics
    /// If no episode was started.
    pub fn add(&mut self, step: Step<'_>, mut emit: impl FnMut(Row<'_>)) {
        assert!(
            !self.observation.is_empty(),
            "an episode starts with its first observation"
        );
        if self.until_next == 0 {
            self.open.push_back(self.rows + self.steps);
            self.until_next = self.period;
        }
        self.until_next -= 1;
        let ends_window = self.next_row_ends_window();
        emit(Row {
            observation: &self.observation,
            action: step.drawn,
            reward: step.reward as f32,
            discount: step.discount as f32,
            // An action of probability 0 is drawn where sums are rounded.
            log_prob: step.log_prob.max(f32::MIN),
            policy_version: step.policy_version,
            step_type: if self.rows == 1 {
                StepType::First
            } else {
                StepType::Mid
            },
            ends_window,
        });
        self.observation.clear();
        self.observation.extend_from_slice(step.next_observation);
        self.no_action.resize(step.drawn.len(), 0.0);
        self.policy_version = step.policy_version;
        if step.last {
            self.truncate(emit);
        }
    }

    /// Ends the episode at the present state as a time limit would, and hands over its last rows.
    pub fn truncate(&mut self, mut emit: impl FnMut(Row<'_>)) {
        while !self.open.is_empty() {
            let ends_window = self.next_row_ends_window();
            emit(Row {
                observation: &self.observation,
                action: &self.no_action,
                reward: 0.0,
                discount: 0.0,
                log_prob: 0.0,
                policy_version: self.policy_version,
                step_type: StepType::Last,
                ends_window,
            });
        }
        self.observation.clear();
    }

    /// Gives up an episode that became invalid, and returns how many steps will be learned from less:
    /// those that windows began for which will not be.
    pub fn discard(&mut self) -> usize {
        let windows = self.open.len();
        self.open.clear();
        self.observation.clear();
        windows * self.period
    }

    /// Counts a row; answers whether a window ends with it.
    fn next_row_ends_window(&mut self) -> bool {
        let ends = self.open.front() == Some(&self.rows);
        if ends {
            self.open.pop_front();
        }
        self.rows += 1;
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was stored: observation, step type, and whether a window ends.
    type Stored = (f32, StepType, bool);

    use StepType::{First, Last, Mid};

    /// Observation `t` of an episode is `[base + t]`, its action and its log-probability are minus that,
    /// its reward ten times it, its policy's version itself.
    fn act(adder: &mut Adder, base: usize, steps: usize, ends: bool, out: &mut Vec<Stored>) {
        let value = |t: usize| (base + t) as f32;
        for t in 0..steps {
            let step = Step {
                drawn: &[-value(t)],
                log_prob: -value(t),
                policy_version: PolicyVersion((base + t) as u64),
                reward: f64::from(10.0 * value(t)),
                discount: 0.5,
                next_observation: &[value(t + 1)],
                last: ends && t + 1 == steps,
            };
            adder.add(step, |row| out.push(check(row)));
        }
    }

    fn check(row: Row<'_>) -> Stored {
        let at = row.observation[0];
        if row.step_type == Last {
            assert_eq!(
                (row.action, row.reward, row.discount),
                (&[0.0][..], 0.0, 0.0)
            );
            assert_eq!((row.log_prob, row.policy_version.0), (0.0, at as u64 - 1));
        } else {
            assert_eq!((row.action, row.log_prob), (&[-at][..], -at));
            assert_eq!((row.reward, row.discount), (10.0 * at, 0.5));
            assert_eq!(row.policy_version.0, at as u64);
        }
        (at, row.step_type, row.ends_window)
    }

    #[test]
    fn n_step_windows_begin_at_every_step_and_are_padded_at_the_end() {
        let mut adder = Adder::new(3, 1);
        // The same adder again: an episode leaves nothing behind for the next.
        for base in [0, 100] {
            let mut out = Vec::new();
            adder.first(&[base as f32]);
            act(&mut adder, base, 4, true, &mut out);
            let b = base as f32;
            let expected = [
                (b, First, false),
                (b + 1.0, Mid, false),
                (b + 2.0, Mid, false),
                (b + 3.0, Mid, true),
                (b + 4.0, Last, true),
                (b + 4.0, Last, true),
                (b + 4.0, Last, true),
            ];
            assert_eq!(out, expected, "four windows for four steps");
        }
    }

    #[test]
    fn an_episode_shorter_than_a_window_has_windows_too() {
        let (mut adder, mut out) = (Adder::new(5, 1), Vec::new());
        adder.first(&[0.0]);
        act(&mut adder, 0, 2, true, &mut out);
        let ends: Vec<bool> = out.iter().map(|row| row.2).collect();
        assert_eq!(ends, [false, false, false, false, false, true, true]);
        assert!(out[2..].iter().all(|row| (row.0, row.1) == (2.0, Last)));
    }

    /// Windows times their period are the steps, over episodes of any lengths; each window begins
    /// `period` steps after the one before.
    #[test]
    fn windows_are_counted_over_episodes() {
        for (length, period) in [(1, 1), (2, 2), (8, 4), (8, 3), (3, 1), (5, 5)] {
            let mut adder = Adder::new(length, period);
            let (mut steps, mut windows) = (0, 0);
            for episode in [3, 1, 7, 20, 2, 2, 11] {
                let mut out = Vec::new();
                adder.first(&[0.0]);
                act(&mut adder, 0, episode, true, &mut out);
                steps += episode;
                let ends = out.iter().enumerate().filter(|(_, row)| row.2);
                let begins: Vec<usize> = ends.map(|(end, _)| end - length).collect();
                assert!(begins.iter().all(|&begin| begin < episode), "{begins:?}");
                assert!(begins.windows(2).all(|pair| pair[1] - pair[0] == period));
                windows += begins.len();
                assert_eq!(windows, steps.div_ceil(period), "{length}, {period}");
            }
        }
    }

    #[test]
    fn windows_leave_as_soon_as_they_are_complete() {
        let (mut adder, mut out) = (Adder::new(2, 1), Vec::new());
        adder.first(&[0.0]);
        act(&mut adder, 0, 3, false, &mut out);
        let ends: Vec<bool> = out.iter().map(|row| row.2).collect();
        assert_eq!(ends, [false, false, true]);
        adder.truncate(|row| out.push(check(row)));
        assert_eq!(out[3..], [(3.0, Last, true), (3.0, Last, true)]);
        adder.truncate(|_| panic!("nothing is open"));
    }

    #[test]
    fn a_divergent_episode_leaves_no_window_that_reaches_its_end() {
        let (mut adder, mut out) = (Adder::new(3, 1), Vec::new());
        adder.first(&[0.0]);
        act(&mut adder, 0, 5, false, &mut out);
        assert_eq!(out.iter().filter(|row| row.2).count(), 2);
        assert_eq!(adder.discard(), 3);
        let mut next = Vec::new();
        adder.first(&[100.0]);
        act(&mut adder, 100, 1, true, &mut next);
        assert_eq!(next[0], (100.0, First, false));
        assert_eq!(next.iter().filter(|row| row.2).count(), 1);
    }

    #[test]
    #[should_panic(expected = "open windows")]
    fn an_episode_cannot_begin_within_another() {
        let mut adder = Adder::new(3, 1);
        adder.first(&[0.0]);
        act(&mut adder, 0, 2, false, &mut Vec::new());
        adder.first(&[0.0]);
    }

    #[test]
    fn an_action_of_probability_zero_stays_finite() {
        let mut adder = Adder::new(1, 1);
        adder.first(&[0.0]);
        let step = Step {
            drawn: &[0.0],
            log_prob: f32::NEG_INFINITY,
            policy_version: PolicyVersion(1),
            reward: 0.0,
            discount: 1.0,
            next_observation: &[0.0],
            last: false,
        };
        adder.add(step, |row| assert_eq!(row.log_prob, f32::MIN));
    }
}
