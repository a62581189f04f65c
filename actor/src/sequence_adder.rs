//! The sequence adder: steps of an episode in, the same steps and the windows over them out. Follows
//! Acme's `SequenceAdder` (`acme/adders/reverb/sequence.py`), whose windows share their steps too, with
//! differences at both ends of an episode.
//!
//! Let step `t` lead from `s_t` with action `a_t` to `s_{t+1}` with reward `r_t` and the environment's
//! discount `d_t` (0 on termination, 1 at a time limit). It is stored as one row:
//!
//! ```text
//! observation     s_t
//! action          a_t, as drawn
//! reward          r_t
//! discount        gamma d_t
//! log_prob        of a_t, by the policy that drew it
//! policy_version  of that policy
//! ```
//!
//! A window is `length + 1` rows of one episode: `length` steps to learn from, and the row after them,
//! of which only the observation is used. So that the last step can be learned from, an episode of `N`
//! steps ends in a row more: `s_N`, with everything else zero and the version of the last step. It says
//! nothing of how the episode ended, for the discount of step `N - 1` does.
//!
//! There is one window for `period` steps. In an episode's first `length` steps none can end; those
//! owed follow one a step, so that early steps are not learned from less, and what an episode leaves
//! owed the next one pays. An episode's last window ends in its last row, due or not, and is taken off
//! the account. So the windows times `period` count the environment's steps, which is how the learner
//! counts them. An episode of less than `length` steps has no window.

use pmpo_types::PolicyVersion;

use crate::adder::Step;

/// A row to store, borrowed from the adder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredStep<'a> {
    /// `s_t`.
    pub observation: &'a [f32],
    /// `a_t`, canonical, before clipping.
    pub action: &'a [f32],
    /// `r_t`.
    pub reward: f32,
    /// `gamma d_t`.
    pub discount: f32,
    /// Of the action; finite.
    pub log_prob: f32,
    /// The policy that drew the action.
    pub policy_version: PolicyVersion,
    /// Whether a window ends with this row.
    pub ends_window: bool,
}

/// Turns the steps of one environment into rows and windows.
#[derive(Clone, Debug)]
pub struct SequenceAdder {
    length: usize,
    period: i64,
    gamma: f64,
    /// The present state; empty between episodes.
    observation: Vec<f32>,
    /// Zeros, the action of an episode's last row.
    no_action: Vec<f32>,
    policy_version: PolicyVersion,
    /// Steps of the episode.
    steps: usize,
    /// The newest of them, which no window holds yet.
    open: usize,
    /// Steps taken less `period` for each window.
    owed: i64,
}

impl SequenceAdder {
    /// An adder of windows over `length` steps, one for `period` steps; steps are discounted by
    /// `gamma`.
    ///
    /// # Panics
    /// If `length` or `period` is 0.
    pub fn new(length: usize, period: usize, gamma: f64) -> Self {
        assert!(length > 0 && period > 0, "length and period are at least 1");
        Self {
            length,
            period: period as i64,
            gamma,
            observation: Vec::new(),
            no_action: Vec::new(),
            policy_version: PolicyVersion::default(),
            steps: 0,
            open: 0,
            owed: 0,
        }
    }

    /// Starts an episode.
    ///
    /// # Panics
    /// If the last one was neither ended by its last step, nor by [`truncate`](Self::truncate), nor
    /// [discarded](Self::discard): its last row would be missing.
    pub fn first(&mut self, observation: &[f32]) {
        assert_eq!(self.open, 0, "the last episode has open steps");
        self.observation.clear();
        self.observation.extend_from_slice(observation);
    }

    /// Adds a step, and hands over its row, and the last one if the episode ends.
    ///
    /// # Panics
    /// If no episode was started.
    pub fn add(&mut self, step: Step<'_>, mut emit: impl FnMut(StoredStep<'_>)) {
        assert!(
            !self.observation.is_empty(),
            "an episode starts with its first observation"
        );
        let ends_window = self.steps >= self.length && self.owed >= self.period;
        if ends_window {
            self.close_window();
        }
        emit(StoredStep {
            observation: &self.observation,
            action: step.drawn,
            reward: step.reward as f32,
            discount: (self.gamma * step.discount) as f32,
            // An action of probability 0 is drawn where sums are rounded.
            log_prob: step.log_prob.max(f32::MIN),
            policy_version: step.policy_version,
            ends_window,
        });
        self.observation.clear();
        self.observation.extend_from_slice(step.next_observation);
        self.no_action.resize(step.drawn.len(), 0.0);
        self.policy_version = step.policy_version;
        self.steps += 1;
        self.open += 1;
        self.owed += 1;
        if step.last {
            self.truncate(emit);
        }
    }

    /// Ends the episode at the present state as a time limit would, and hands over its last row if a
    /// window can end there.
    pub fn truncate(&mut self, mut emit: impl FnMut(StoredStep<'_>)) {
        if self.steps >= self.length {
            self.close_window();
            emit(StoredStep {
                observation: &self.observation,
                action: &self.no_action,
                reward: 0.0,
                discount: 0.0,
                log_prob: 0.0,
                policy_version: self.policy_version,
                ends_window: true,
            });
        }
        self.end_episode();
    }

    /// Gives up an episode that became invalid, and returns how many steps are in no window and will
    /// be in none.
    pub fn discard(&mut self) -> usize {
        let open = self.open;
        self.owed -= open as i64;
        self.end_episode();
        open
    }

    fn close_window(&mut self) {
        self.open = 0;
        self.owed -= self.period;
    }

    fn end_episode(&mut self) {
        (self.steps, self.open) = (0, 0);
        self.observation.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        name: &'static str,
        /// `length`, `period`.
        window: [usize; 2],
        /// Steps of consecutive episodes.
        episodes: &'static [usize],
        /// The steps of each episode that windows hold, first and last.
        expected: &'static [&'static [(usize, usize)]],
    }

    const CASES: &[Case] = &[
        Case {
            name: "windows side by side",
            window: [2, 2],
            episodes: &[6],
            expected: &[&[(0, 1), (2, 3), (4, 5)]],
        },
        Case {
            name: "single steps, each with the observation after it",
            window: [1, 1],
            episodes: &[3, 1],
            expected: &[&[(0, 0), (1, 1), (2, 2)], &[(0, 0)]],
        },
        Case {
            name: "overlapping: the window owed since the first steps follows at once",
            window: [4, 2],
            episodes: &[10],
            expected: &[&[(0, 3), (1, 4), (2, 5), (4, 7), (6, 9)]],
        },
        Case {
            name: "the last steps are in a window, which the next episode makes up for",
            window: [3, 3],
            episodes: &[4, 6, 8],
            // 4 steps, 2 windows: 2 too many; 6 steps: one due at step 5, and the last.
            expected: &[&[(0, 2), (1, 3)], &[(2, 4), (3, 5)], &[(2, 4), (5, 7)]],
        },
        Case {
            name: "an episode of exactly the length",
            window: [3, 2],
            episodes: &[3],
            expected: &[&[(0, 2)]],
        },
        Case {
            name: "a shorter one has no window, and leaves its steps to the account",
            window: [4, 2],
            episodes: &[3, 6],
            expected: &[&[], &[(0, 3), (1, 4), (2, 5)]],
        },
    ];

    /// A row without its window's end: observation, action, reward, discount, log-probability, version.
    type Row = (f32, f32, f32, f32, f32, u64);

    /// Rows stored, and the windows that end there, as positions of their last rows.
    #[derive(Debug, Default, PartialEq)]
    struct Stored {
        rows: Vec<Row>,
        ends: Vec<usize>,
    }

    impl Stored {
        fn push(&mut self, step: StoredStep<'_>) {
            if step.ends_window {
                self.ends.push(self.rows.len());
            }
            self.rows.push((
                step.observation[0],
                step.action[0],
                step.reward,
                step.discount,
                step.log_prob,
                step.policy_version.0,
            ));
        }
    }

    /// Step `t` goes from observation `t` to `t + 1` with action `t + 2`, reward `t + 3`,
    /// log-probability `-t` and version `t`; the last one has the discount `last_discount`.
    fn episode(
        adder: &mut SequenceAdder,
        steps: usize,
        last_discount: Option<f64>,
        stored: &mut Stored,
    ) {
        adder.first(&[0.0]);
        for t in 0..steps {
            let last = t + 1 == steps && last_discount.is_some();
            let x = t as f32;
            let step = Step {
                action: &[0.5],
                drawn: &[x + 2.0],
                log_prob: -x,
                policy_version: PolicyVersion(t as u64),
                reward: t as f64 + 3.0,
                discount: last_discount.filter(|_| last).unwrap_or(1.0),
                next_observation: &[x + 1.0],
                last,
            };
            adder.add(step, |step| stored.push(step));
        }
    }

    #[test]
    fn episodes_give_the_windows_of_the_definition() {
        for case in CASES {
            let [length, period] = case.window;
            let mut adder = SequenceAdder::new(length, period, 0.5);
            for (&steps, &expected) in case.episodes.iter().zip(case.expected) {
                let mut stored = Stored::default();
                episode(&mut adder, steps, Some(1.0), &mut stored);
                // Row and step have the same number in an episode.
                let windows: Vec<_> = stored
                    .ends
                    .iter()
                    .map(|&end| (end - length, end - 1))
                    .collect();
                assert_eq!(windows, expected, "{} ({steps} steps)", case.name);
            }
        }
    }

    #[test]
    fn each_step_is_a_row_and_the_last_observation_one_more() {
        for last_discount in [0.0, 1.0] {
            let mut stored = Stored::default();
            let mut adder = SequenceAdder::new(2, 1, 0.5);
            episode(&mut adder, 3, Some(last_discount), &mut stored);
            let expected: [Row; 4] = [
                (0.0, 2.0, 3.0, 0.5, 0.0, 0),
                (1.0, 3.0, 4.0, 0.5, -1.0, 1),
                (2.0, 4.0, 5.0, 0.5 * last_discount as f32, -2.0, 2),
                (3.0, 0.0, 0.0, 0.0, 0.0, 2),
            ];
            assert_eq!(stored.rows, expected, "termination and time limit");
            assert_eq!(stored.ends, [2, 3]);
        }
    }

    #[test]
    fn an_interrupted_episode_ends_like_a_time_limit() {
        let (mut whole, mut cut) = (Stored::default(), Stored::default());
        episode(&mut SequenceAdder::new(3, 2, 0.5), 5, Some(1.0), &mut whole);
        let mut adder = SequenceAdder::new(3, 2, 0.5);
        episode(&mut adder, 5, None, &mut cut);
        adder.truncate(|step| cut.push(step));
        assert_eq!(cut, whole);
        adder.truncate(|_| panic!("nothing is open"));
    }

    #[test]
    fn a_divergent_episode_leaves_no_window_that_reaches_its_end() {
        let mut adder = SequenceAdder::new(2, 2, 0.5);
        let mut stored = Stored::default();
        episode(&mut adder, 6, None, &mut stored);
        assert_eq!(stored.ends, [2, 4], "known by then: steps 0 to 3");
        assert_eq!(adder.discard(), 2);
        let mut next = Stored::default();
        episode(&mut adder, 4, Some(0.0), &mut next);
        assert_eq!(next.ends, [2, 4], "of this episode alone");
        assert_eq!(adder.discard(), 0);
    }

    /// The account: within one period and what the episode under way owes at its beginning.
    #[test]
    fn windows_times_the_period_count_the_steps() {
        for [length, period] in [[8, 4], [8, 8], [8, 2], [5, 3], [1, 1]] {
            let mut adder = SequenceAdder::new(length, period, 0.99);
            let (mut steps, mut windows) = (0, 0);
            for number in 0..200 {
                let mut stored = Stored::default();
                let episode_steps = 3 * length + number * 7 % 31;
                episode(&mut adder, episode_steps, Some(1.0), &mut stored);
                steps += episode_steps;
                windows += stored.ends.len();
                let difference = (windows * period).abs_diff(steps);
                assert!(
                    difference < period,
                    "{difference} with {length} and {period}"
                );
            }
        }
    }

    #[test]
    fn an_action_of_probability_zero_can_be_stored() {
        let mut stored = Stored::default();
        let mut adder = SequenceAdder::new(1, 1, 0.5);
        adder.first(&[0.0]);
        let step = Step {
            action: &[1.0],
            drawn: &[1.0],
            log_prob: f32::NEG_INFINITY,
            policy_version: PolicyVersion(1),
            reward: 0.0,
            discount: 1.0,
            next_observation: &[1.0],
            last: false,
        };
        adder.add(step, |step| stored.push(step));
        assert_eq!(stored.rows[0].4, f32::MIN);
    }

    #[test]
    #[should_panic(expected = "open steps")]
    fn a_new_episode_does_not_silently_drop_the_last() {
        let mut adder = SequenceAdder::new(3, 2, 0.5);
        episode(&mut adder, 1, None, &mut Stored::default());
        adder.first(&[9.0]);
    }
}
