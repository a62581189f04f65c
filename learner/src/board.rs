//! What a run has come to: written by the update thread and by the reports of actors and evaluators,
//! read by `Run.GetStatus`. One lock, held for a few assignments, hidden in a cheap handle.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use pmpo_proto::v1;
use pmpo_types::TableCounters;

use crate::progress::Row;

/// Publications remembered, so that an evaluation is counted at the time of its policy. An evaluation
/// that takes longer than this many publications is counted at the time it arrives.
const REMEMBERED_PUBLICATIONS: usize = 4096;

/// Bytes of the newest publications' weights that are kept until somebody has evaluated them.
const REMEMBERED_BYTES: usize = 64 << 20;

/// Where a run is. What a checkpoint holds of it is public to the crate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Learner steps.
    pub learner_steps: u64,
    /// The newest publication.
    pub policy_version: u64,
    /// Environment steps.
    pub environment: EnvironmentSteps,
    /// Seconds of training.
    pub training_seconds: f64,
}

/// Environment steps, counted by what the replay table's shards say they have ever been given: every
/// so many environment steps one window is inserted, into one of them.
///
/// Over a resumption, or over the restart of a shard, a table may have gone on, or begun anew. So the
/// count goes by increases, and a table that has been given less than it said before has begun anew,
/// and all it says is new. Only a durable table may also have gone back to what it had acknowledged;
/// unless less than half is left, it has, and is counted on once it is where it was. A shard that is
/// away keeps its share of the count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvironmentSteps {
    /// Steps, over all shards and resumptions.
    pub total: u64,
    /// The most each shard's table has said since it began, in the order of the addresses.
    pub table_inserts: Vec<u64>,
}

impl EnvironmentSteps {
    /// What a shard's table was given before is not this run's.
    fn begin_at(&mut self, shard: usize, inserts: u64) {
        if self.table_inserts.len() <= shard {
            self.table_inserts.resize(shard + 1, 0);
        }
        self.table_inserts[shard] = inserts;
    }

    /// Takes in what a shard's table says; a shard's calls must be in the order of its answers.
    fn observe(&mut self, shard: usize, table: TableState) {
        let inserts = table.counters.inserts;
        if self.table_inserts.len() <= shard {
            self.table_inserts.resize(shard + 1, 0);
        }
        let before = self.table_inserts[shard];
        if table.durable && (before / 2..before).contains(&inserts) {
            return;
        }
        self.table_inserts[shard] = inserts;
        let new = inserts.checked_sub(before).unwrap_or(inserts);
        self.total += new * table.steps_per_item;
    }
}

/// What a shard says of its table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableState {
    pub(crate) counters: TableCounters,
    /// Whether it survives the death of its process.
    pub(crate) durable: bool,
    /// Environment steps for each of its items.
    pub(crate) steps_per_item: u64,
}

/// The handle.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    started: Instant,
    seconds_before: f64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    phase: v1::RunState,
    totals: Totals,
    /// Items held by each shard, by its newest answer.
    replay_sizes: Vec<u64>,
    /// Shards of a fresh run that have answered; of another run, all have.
    known_shards: Option<BTreeSet<usize>>,
    /// Versions that were published by a process before this one and are in no checkpoint.
    lost_versions: Range<u64>,
    publications: VecDeque<Publication>,
    episodes: VecDeque<f64>,
    episodes_kept: usize,
    evaluations: u64,
    last_evaluation: Option<Evaluated>,
}

/// What had been spent when a policy was published, and the policy.
#[derive(Clone, Debug)]
struct Publication {
    policy_version: u64,
    env_steps: u64,
    training_seconds: f64,
    /// Empty once newer ones have taken its room.
    weights: Bytes,
}

impl Publication {
    fn now(totals: &Totals, weights: Bytes) -> Self {
        Self {
            policy_version: totals.policy_version,
            env_steps: totals.environment.total,
            training_seconds: totals.training_seconds,
            weights,
        }
    }
}

/// A policy that was evaluated.
#[derive(Clone, Debug)]
pub(crate) struct Evaluated {
    pub(crate) row: Row,
    /// Its snapshot, unless the evaluation took so long that it is forgotten.
    pub(crate) weights: Option<Bytes>,
    evaluation: v1::Evaluation,
}

impl Board {
    /// A run that goes on from `totals`, with as many `evaluations` behind it.
    pub(crate) fn new(totals: Totals, evaluations: u64, episodes_kept: usize) -> Self {
        Self {
            started: Instant::now(),
            seconds_before: totals.training_seconds,
            state: Arc::new(Mutex::new(State {
                phase: v1::RunState::WaitingForData,
                totals,
                replay_sizes: Vec::new(),
                known_shards: None,
                lost_versions: 0..0,
                publications: VecDeque::new(),
                episodes: VecDeque::new(),
                episodes_kept,
                evaluations,
                last_evaluation: None,
            })),
        }
    }

    /// These versions were published and are lost: evaluations of them do not belong to what follows.
    pub(crate) fn lost(&self, versions: Range<u64>) {
        self.lock().lost_versions = versions;
    }

    /// The run is a fresh one: what durable tables hold already is of another, whose steps are not its own.
    pub(crate) fn fresh(&self) {
        self.lock().known_shards = Some(BTreeSet::new());
    }

    /// Seconds since this process began.
    pub(crate) fn elapsed_seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Where the run is now.
    pub(crate) fn totals(&self) -> Totals {
        self.now(&self.lock())
    }

    /// A learner step was taken.
    pub(crate) fn stepped(&self, learner_steps: u64) {
        let mut state = self.lock();
        state.phase = v1::RunState::Training;
        state.totals.learner_steps = learner_steps;
    }

    /// The policy was published.
    pub(crate) fn published(&self, version: u64, weights: Bytes) {
        let mut state = self.lock();
        state.totals.policy_version = version;
        let publication = Publication::now(&self.now(&state), weights);
        push_bounded(
            &mut state.publications,
            publication,
            REMEMBERED_PUBLICATIONS,
        );
        let mut kept = 0;
        for publication in state.publications.iter_mut().rev() {
            kept += publication.weights.len();
            if kept > REMEMBERED_BYTES {
                publication.weights = Bytes::new();
            }
        }
    }

    /// The replay table of a shard said this; answers the environment steps and the items held in all
    /// shards.
    pub(crate) fn table(&self, shard: usize, table: TableState) -> (u64, u64) {
        let mut state = self.lock();
        if state.replay_sizes.len() <= shard {
            state.replay_sizes.resize(shard + 1, 0);
        }
        state.replay_sizes[shard] = table.counters.size;
        let known = state.known_shards.as_mut();
        let news = known.is_some_and(|known| known.insert(shard));
        if news && table.durable {
            let environment = &mut state.totals.environment;
            environment.begin_at(shard, table.counters.inserts);
        }
        state.totals.environment.observe(shard, table);
        (
            state.totals.environment.total,
            state.replay_sizes.iter().sum(),
        )
    }

    /// The run is over.
    pub(crate) fn finished(&self) {
        self.lock().phase = v1::RunState::Finished;
    }

    /// A training episode ended; returns the mean return of the newest ones.
    pub(crate) fn episode(&self, episode_return: f64) -> f64 {
        let mut state = self.lock();
        let kept = state.episodes_kept;
        push_bounded(&mut state.episodes, episode_return, kept);
        mean(&state.episodes).expect("one was just added")
    }

    /// A policy was evaluated; returns what is to be recorded, or `None` if this run has published no such
    /// policy (a run that resumed is reported a policy from before).
    pub(crate) fn evaluated(&self, evaluation: &v1::Evaluation) -> Option<Evaluated> {
        let mut state = self.lock();
        let now = self.now(&state);
        if evaluation.learner_step > now.learner_steps
            || evaluation.policy_version > now.policy_version
            || state.lost_versions.contains(&evaluation.policy_version)
        {
            return None;
        }
        let publications = &state.publications;
        let found = publications
            .binary_search_by_key(&evaluation.policy_version, |spent| spent.policy_version);
        let spent = found.map_or_else(
            |_| Publication::now(&now, Bytes::new()),
            |index| publications[index].clone(),
        );
        let row = Row {
            wall_s: (spent.training_seconds * 1e3).round() / 1e3,
            env_steps: spent.env_steps,
            learner_steps: evaluation.learner_step,
            policy_version: evaluation.policy_version,
            eval_return_mean: evaluation.return_mean,
            eval_return_std: evaluation.return_std,
            train_return_mean: mean(&state.episodes),
        };
        let evaluated = Evaluated {
            row,
            weights: Some(spent.weights).filter(|weights| !weights.is_empty()),
            evaluation: *evaluation,
        };
        state.evaluations += 1;
        state.last_evaluation = Some(evaluated.clone());
        Some(evaluated)
    }

    /// The newest evaluation.
    pub(crate) fn last_evaluation(&self) -> Option<Evaluated> {
        self.lock().last_evaluation.clone()
    }

    /// Mean return of the newest evaluation.
    pub(crate) fn last_return_mean(&self) -> Option<f64> {
        let state = self.lock();
        let evaluated = state.last_evaluation.as_ref();
        evaluated.map(|evaluated| evaluated.row.eval_return_mean)
    }

    /// The answer to `Run.GetStatus`.
    pub(crate) fn status(&self) -> v1::RunStatus {
        let state = self.lock();
        let now = self.now(&state);
        v1::RunStatus {
            state: state.phase.into(),
            learner_steps: now.learner_steps,
            policy_version: now.policy_version,
            environment_steps: now.environment.total,
            replay_size: state.replay_sizes.iter().sum(),
            training_seconds: now.training_seconds,
            evaluations: state.evaluations,
            last_evaluation: state
                .last_evaluation
                .as_ref()
                .map(|evaluated| evaluated.evaluation),
            train_return_mean: mean(&state.episodes),
        }
    }

    fn now(&self, state: &State) -> Totals {
        Totals {
            training_seconds: self.seconds_before + self.elapsed_seconds(),
            ..state.totals.clone()
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, bound: usize) {
    if queue.len() == bound {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn mean(values: &VecDeque<f64>) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(inserts: u64) -> TableState {
        TableState {
            counters: TableCounters {
                size: inserts.min(5),
                inserts,
                samples: 0,
            },
            durable: false,
            steps_per_item: 1,
        }
    }

    fn evaluation(policy_version: u64, learner_step: u64) -> v1::Evaluation {
        v1::Evaluation {
            policy_version,
            learner_step,
            return_mean: 7.0,
            return_std: 1.0,
            episodes: 10,
        }
    }

    #[test]
    fn environment_steps_go_on_whether_the_table_went_on_or_began_anew() {
        let board = Board::new(Totals::default(), 0, 3);
        assert_eq!(board.table(0, counters(100)).0, 100);
        assert_eq!(board.table(0, counters(250)).0, 250);
        let saved = board.totals();

        let same_table = Board::new(saved.clone(), 0, 3);
        assert_eq!(same_table.table(0, counters(260)).0, 260);
        let new_table = Board::new(saved, 0, 3);
        assert_eq!(new_table.table(0, counters(0)).0, 250);
        assert_eq!(new_table.table(0, counters(40)).0, 290);
    }

    #[test]
    fn a_durable_table_that_comes_back_without_its_last_steps_counts_none_twice() {
        let board = Board::new(Totals::default(), 0, 3);
        let durable = |inserts| TableState {
            durable: true,
            ..counters(inserts)
        };
        for (inserts, total) in [(1000, 1000), (990, 1000), (998, 1000), (1010, 1010)] {
            assert_eq!(board.table(0, durable(inserts)).0, total);
        }
        assert_eq!(board.table(0, durable(3)).0, 1013, "its folder was emptied");
    }

    #[test]
    fn a_fresh_run_counts_none_of_the_steps_that_a_durable_table_had_before() {
        let board = Board::new(Totals::default(), 0, 3);
        board.fresh();
        let durable = |inserts| TableState {
            durable: true,
            ..counters(inserts)
        };
        assert_eq!(board.table(1, durable(60_000)).0, 0);
        assert_eq!(board.table(1, durable(60_010)).0, 10);
        assert_eq!(board.table(0, durable(500)).0, 10);
        assert_eq!(board.table(0, durable(501)).0, 11);
        // As a checkpoint has it, it goes on.
        let resumed = Board::new(board.totals(), 0, 3);
        assert_eq!(resumed.table(1, durable(60_020)).0, 21);
        // A table in memory was begun for this run.
        let board = Board::new(Totals::default(), 0, 3);
        board.fresh();
        assert_eq!(board.table(0, counters(40)).0, 40);
    }

    /// What is remembered of the table are its own numbers, so a run may be resumed with another period.
    #[test]
    fn a_sequence_stands_for_the_steps_of_its_period() {
        let sequences = |inserts, steps_per_item| TableState {
            steps_per_item,
            ..counters(inserts)
        };
        let board = Board::new(Totals::default(), 0, 3);
        assert_eq!(board.table(0, sequences(100, 4)).0, 400);
        assert_eq!(board.table(0, sequences(101, 4)).0, 404);
        assert_eq!(board.totals().environment.table_inserts, [101]);
        assert_eq!(board.table(0, sequences(103, 2)).0, 408);
    }

    #[test]
    fn environment_steps_add_up_over_shards_of_which_one_begins_anew() {
        let board = Board::new(Totals::default(), 0, 3);
        assert_eq!(board.table(1, counters(100)), (100, 5));
        assert_eq!(board.table(0, counters(30)), (130, 10));
        assert_eq!(board.table(1, counters(150)), (180, 10));
        assert_eq!(board.table(1, counters(2)), (182, 7), "restarted");
        assert_eq!(board.table(0, counters(31)), (183, 7));
        assert_eq!(board.status().environment_steps, 183);
        assert_eq!(board.totals().environment.table_inserts, [31, 2]);
    }

    #[test]
    fn an_evaluation_is_counted_at_the_time_of_its_policy() {
        let board = Board::new(Totals::default(), 0, 3);
        board.published(1, Bytes::from_static(&[1]));
        board.table(0, counters(100));
        board.stepped(10);
        board.published(2, Bytes::from_static(&[2]));
        board.table(0, counters(300));
        board.stepped(50);
        board.published(3, Bytes::from_static(&[3]));
        let evaluated = board.evaluated(&evaluation(2, 10)).unwrap();
        let row = evaluated.row;
        assert_eq!(
            (row.env_steps, row.learner_steps, row.policy_version),
            (100, 10, 2)
        );
        assert_eq!(
            evaluated.weights.unwrap(),
            [2][..],
            "the policy of that version"
        );
        let first = board.evaluated(&evaluation(1, 0)).unwrap();
        assert_eq!(first.row.env_steps, 0);
        assert!(
            board.evaluated(&evaluation(4, 50)).is_none(),
            "not published yet"
        );
        assert!(
            board.evaluated(&evaluation(3, 60)).is_none(),
            "from before a resumption"
        );
        assert_eq!(board.status().evaluations, 2);
    }

    #[test]
    fn the_newest_policies_are_kept_as_far_as_there_is_room() {
        let board = Board::new(Totals::default(), 0, 3);
        let half = Bytes::from(vec![1; REMEMBERED_BYTES / 2]);
        for version in 1..=3 {
            board.published(version, half.clone());
        }
        let kept = |version| board.evaluated(&evaluation(version, 0)).unwrap().weights;
        assert_eq!(kept(1), None);
        assert!(kept(2).is_some() && kept(3).is_some());
    }

    #[test]
    fn the_mean_is_over_the_newest_episodes() {
        let board = Board::new(Totals::default(), 0, 3);
        assert_eq!(board.status().train_return_mean, None);
        for value in [1.0, 2.0, 3.0, 4.0] {
            board.episode(value);
        }
        assert_eq!(board.status().train_return_mean, Some(3.0));
    }

    #[test]
    fn the_phase_follows_the_run() {
        let board = Board::new(Totals::default(), 2, 3);
        assert_eq!(board.status().state(), v1::RunState::WaitingForData);
        board.stepped(1);
        assert_eq!(board.status().state(), v1::RunState::Training);
        board.finished();
        assert_eq!(board.status().state(), v1::RunState::Finished);
        assert_eq!(board.status().evaluations, 2);
    }
}
