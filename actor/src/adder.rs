//! The n-step adder: steps of an episode in, transitions out. Follows Acme's `NStepTransitionAdder`
//! (`acme/adders/reverb/transition.py`), with two differences: the discount of a transition holds
//! gamma^n entirely (Acme leaves one factor to the learner), and nothing is emitted until a transition
//! is complete.
//!
//! Let step `t` lead from `s_t` with action `a_t` to `s_{t+1}` with reward `r_t` and the environment's
//! discount `d_t` (0 on termination, 1 at a time limit). In an episode of `N` steps the transition
//! that starts at `t` spans `m = min(n, N - t)` steps and holds
//!
//! ```text
//! observation       s_t
//! action            a_t
//! reward            sum over k < m of  gamma^k (product over j < k of d_{t+j})  r_{t+k}
//! discount          gamma^m (product over j < m of d_{t+j})
//! next_observation  s_{t+m}
//! ```
//!
//! so that `reward + discount * V(next_observation)` is the n-step target. Every step starts exactly
//! one transition: an episode of `N` steps gives `N`, in order; the last `n - 1` are shorter and end
//! in the episode's last observation. After a termination their discount is 0; after a time limit
//! they bootstrap.

use std::collections::VecDeque;

use pmpo_types::PolicyVersion;

/// A finished transition, borrowed from the adder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition<'a> {
    /// `s_t`.
    pub observation: &'a [f32],
    /// `a_t`, canonical.
    pub action: &'a [f32],
    /// Discounted sum of the spanned rewards.
    pub reward: f32,
    /// Factor of the value of `next_observation`.
    pub discount: f32,
    /// `s_{t+m}`.
    pub next_observation: &'a [f32],
    /// The policy that chose `a_t`.
    pub policy_version: PolicyVersion,
}

/// One step of an environment: what was done in the present state, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step<'a> {
    /// Canonical action, as it was carried out.
    pub action: &'a [f32],
    /// The same as the policy drew it, before clipping.
    pub drawn: &'a [f32],
    /// Logarithm of the density or probability that the policy gave `drawn`.
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

/// Turns the steps of one environment into n-step transitions.
#[derive(Clone, Debug)]
pub struct NStepAdder {
    n_step: usize,
    gamma: f64,
    /// The present state; empty between episodes.
    observation: Vec<f32>,
    /// Steps whose transitions are not complete, the oldest first; at most `n_step`.
    pending: VecDeque<Pending>,
    /// Buffers to use again.
    spare: Vec<Pending>,
}

#[derive(Clone, Debug, Default)]
struct Pending {
    observation: Vec<f32>,
    action: Vec<f32>,
    policy_version: PolicyVersion,
    reward: f64,
    discount: f64,
}

impl NStepAdder {
    /// An adder of transitions over `n_step` steps, discounted by `gamma` a step.
    ///
    /// # Panics
    /// If `n_step` is 0.
    pub fn new(n_step: usize, gamma: f64) -> Self {
        assert!(n_step > 0, "n_step is at least 1");
        let pending = VecDeque::with_capacity(n_step);
        Self {
            n_step,
            gamma,
            observation: Vec::new(),
            pending,
            spare: Vec::new(),
        }
    }

    /// Starts an episode.
    ///
    /// # Panics
    /// If the last one was neither ended by its last step, nor by [`truncate`](Self::truncate), nor
    /// [discarded](Self::discard): its open steps would be lost.
    pub fn first(&mut self, observation: &[f32]) {
        assert!(self.pending.is_empty(), "the last episode has open steps");
        self.observation.clear();
        self.observation.extend_from_slice(observation);
    }

    /// Adds a step, and hands over the transitions that it completes.
    ///
    /// # Panics
    /// If no episode was started.
    pub fn add(&mut self, step: Step<'_>, mut emit: impl FnMut(Transition<'_>)) {
        assert!(
            !self.observation.is_empty(),
            "an episode starts with its first observation"
        );
        let mut new = self.spare.pop().unwrap_or_default();
        // The present observation and the buffer change places; then comes the next observation.
        std::mem::swap(&mut new.observation, &mut self.observation);
        new.action.clear();
        new.action.extend_from_slice(step.action);
        new.policy_version = step.policy_version;
        (new.reward, new.discount) = (0.0, 1.0);
        self.pending.push_back(new);
        self.observation.clear();
        self.observation.extend_from_slice(step.next_observation);

        for pending in &mut self.pending {
            pending.reward += pending.discount * step.reward;
            pending.discount *= self.gamma * step.discount;
        }
        if step.last {
            self.truncate(emit);
        } else if self.pending.len() == self.n_step {
            self.emit_oldest(&mut emit);
        }
    }

    /// Ends the episode at the present state as a time limit would, and hands over the transitions of
    /// all open steps.
    pub fn truncate(&mut self, mut emit: impl FnMut(Transition<'_>)) {
        while !self.pending.is_empty() {
            self.emit_oldest(&mut emit);
        }
        self.observation.clear();
    }

    /// Drops the open steps of an episode that became invalid, and returns how many there were.
    pub fn discard(&mut self) -> usize {
        let open = self.pending.len();
        self.spare.extend(self.pending.drain(..));
        self.observation.clear();
        open
    }

    fn emit_oldest(&mut self, emit: &mut impl FnMut(Transition<'_>)) {
        if let Some(oldest) = self.pending.pop_front() {
            emit(Transition {
                observation: &oldest.observation,
                action: &oldest.action,
                reward: oldest.reward as f32,
                discount: oldest.discount as f32,
                next_observation: &self.observation,
                policy_version: oldest.policy_version,
            });
            self.spare.push(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (t, m, reward, discount): the transition from observation t to t + m.
    type Row = (usize, usize, f32, f32);

    struct Case {
        name: &'static str,
        n_step: usize,
        gamma: f64,
        /// (reward, discount) of each step; the last one ends the episode.
        steps: &'static [(f64, f64)],
        expected: &'static [Row],
    }

    const CASES: &[Case] = &[
        Case {
            name: "one step: gamma times the environment's discount",
            n_step: 1,
            gamma: 0.5,
            steps: &[(1.0, 1.0), (2.0, 1.0), (3.0, 0.0)],
            expected: &[(0, 1, 1.0, 0.5), (1, 1, 2.0, 0.5), (2, 1, 3.0, 0.0)],
        },
        Case {
            name: "a time limit bootstraps, over fewer steps in the tail",
            n_step: 3,
            gamma: 0.5,
            steps: &[(1.0, 1.0), (2.0, 1.0), (4.0, 1.0), (8.0, 1.0), (16.0, 1.0)],
            expected: &[
                (0, 3, 1.0 + 1.0 + 1.0, 0.125),
                (1, 3, 2.0 + 2.0 + 2.0, 0.125),
                (2, 3, 4.0 + 4.0 + 4.0, 0.125),
                (3, 2, 8.0 + 8.0, 0.25),
                (4, 1, 16.0, 0.5),
            ],
        },
        Case {
            name: "a termination does not bootstrap, for any transition that reaches it",
            n_step: 3,
            gamma: 0.5,
            steps: &[(1.0, 1.0), (2.0, 1.0), (4.0, 1.0), (8.0, 0.0)],
            expected: &[
                (0, 3, 3.0, 0.125),
                (1, 3, 2.0 + 2.0 + 2.0, 0.0),
                (2, 2, 4.0 + 4.0, 0.0),
                (3, 1, 8.0, 0.0),
            ],
        },
        Case {
            name: "an episode shorter than n",
            n_step: 5,
            gamma: 0.5,
            steps: &[(1.0, 1.0), (2.0, 1.0)],
            expected: &[(0, 2, 2.0, 0.25), (1, 1, 2.0, 0.5)],
        },
        Case {
            name: "an episode of exactly n steps",
            n_step: 2,
            gamma: 0.5,
            steps: &[(1.0, 1.0), (2.0, 1.0)],
            expected: &[(0, 2, 2.0, 0.25), (1, 1, 2.0, 0.5)],
        },
        Case {
            name: "an episode of one step",
            n_step: 3,
            gamma: 0.9,
            steps: &[(7.0, 0.0)],
            expected: &[(0, 1, 7.0, 0.0)],
        },
        Case {
            name: "discount 0 midway cuts rewards and value behind it off",
            n_step: 3,
            gamma: 0.5,
            steps: &[(1.0, 1.0), (2.0, 0.0), (4.0, 1.0), (8.0, 1.0)],
            expected: &[
                (0, 3, 1.0 + 1.0, 0.0),
                (1, 3, 2.0, 0.0),
                (2, 2, 4.0 + 4.0, 0.25),
                (3, 1, 8.0, 0.5),
            ],
        },
        Case {
            name: "discounts between 0 and 1 multiply",
            n_step: 2,
            gamma: 0.5,
            steps: &[(1.0, 0.5), (4.0, 0.25), (8.0, 1.0)],
            expected: &[
                (0, 2, 1.0 + 0.25 * 4.0, 0.25 * 0.125),
                (1, 2, 4.0 + 0.125 * 8.0, 0.125 * 0.5),
                (2, 1, 8.0, 0.5),
            ],
        },
        Case {
            name: "gamma 1 sums",
            n_step: 2,
            gamma: 1.0,
            steps: &[(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)],
            expected: &[(0, 2, 3.0, 1.0), (1, 2, 5.0, 1.0), (2, 1, 3.0, 1.0)],
        },
    ];

    /// Observation `t` of an episode is `[base + t]`, action `t` is `[-(base + t)]`, and the policy's
    /// version is `base + t`.
    fn steps(
        adder: &mut NStepAdder,
        base: usize,
        steps: &[(f64, f64)],
        ends: bool,
        out: &mut Vec<Row>,
    ) {
        let value = |t: usize| [(base + t) as f32];
        for (t, &(reward, discount)) in steps.iter().enumerate() {
            let step = Step {
                action: &value(t).map(|x| -x),
                drawn: &[],
                log_prob: 0.0,
                policy_version: PolicyVersion((base + t) as u64),
                reward,
                discount,
                next_observation: &value(t + 1),
                last: ends && t + 1 == steps.len(),
            };
            adder.add(step, |transition| out.push(row(base, transition)));
        }
    }

    fn row(base: usize, transition: Transition<'_>) -> Row {
        let start = transition.observation[0];
        assert_eq!(transition.action, [-start]);
        assert_eq!(transition.policy_version.0, start as u64);
        let steps = transition.next_observation[0] - start;
        (
            start as usize - base,
            steps as usize,
            transition.reward,
            transition.discount,
        )
    }

    #[test]
    fn episodes_give_the_transitions_of_the_definition() {
        for case in CASES {
            let mut adder = NStepAdder::new(case.n_step, case.gamma);
            // The same adder again: an episode leaves nothing behind for the next.
            for base in [0, 100, 1000] {
                let mut out = Vec::new();
                adder.first(&[base as f32]);
                steps(&mut adder, base, case.steps, true, &mut out);
                assert_eq!(out, case.expected, "{} (episode at {base})", case.name);
            }
        }
    }

    #[test]
    fn transitions_leave_as_soon_as_they_are_complete() {
        let mut adder = NStepAdder::new(2, 0.5);
        let mut out = Vec::new();
        adder.first(&[0.0]);
        steps(&mut adder, 0, &[(1.0, 1.0)], false, &mut out);
        assert_eq!(out, []);
        let next = Step {
            action: &[-1.0],
            drawn: &[],
            log_prob: 0.0,
            policy_version: PolicyVersion(1),
            reward: 2.0,
            discount: 1.0,
            next_observation: &[2.0],
            last: false,
        };
        adder.add(next, |transition| out.push(row(0, transition)));
        assert_eq!(out, [(0, 2, 2.0, 0.25)]);
    }

    #[test]
    fn an_interrupted_episode_ends_like_a_time_limit() {
        let case = &CASES[1];
        let mut adder = NStepAdder::new(case.n_step, case.gamma);
        let mut out = Vec::new();
        adder.first(&[0.0]);
        steps(&mut adder, 0, case.steps, false, &mut out);
        assert_eq!(out, case.expected[..3]);
        adder.truncate(|transition| out.push(row(0, transition)));
        assert_eq!(out, case.expected);
        adder.truncate(|_| panic!("nothing is open"));
    }

    #[test]
    fn a_divergent_episode_leaves_no_transition_that_reaches_its_end() {
        let mut adder = NStepAdder::new(3, 0.5);
        let mut out = Vec::new();
        adder.first(&[0.0]);
        steps(&mut adder, 0, &[(1.0, 1.0); 5], false, &mut out);
        let starts: Vec<usize> = out.iter().map(|row| row.0).collect();
        assert_eq!(starts, [0, 1, 2], "complete before the divergence");
        assert_eq!(adder.discard(), 2);

        out.clear();
        adder.first(&[50.0]);
        steps(&mut adder, 50, CASES[3].steps, true, &mut out);
        assert_eq!(out.len(), 2, "the next episode is whole: {out:?}");
        assert_eq!(adder.discard(), 0);
    }

    #[test]
    #[should_panic(expected = "open steps")]
    fn a_new_episode_does_not_silently_drop_the_last() {
        let mut adder = NStepAdder::new(3, 0.5);
        adder.first(&[0.0]);
        steps(&mut adder, 0, &[(1.0, 1.0)], false, &mut Vec::new());
        adder.first(&[9.0]);
    }
}
