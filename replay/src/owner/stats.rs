//! What the table's thread counts beside the table: where its time goes, who was blocked for how long,
//! and how old items get.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use pmpo_replay_core::{Blocked, Hold, LimiterKind, Table};

use crate::metrics;
use crate::table::Command;

/// What the thread does, or what it waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    Running,
    Inserting,
    Sampling,
    WaitingForInserts,
    WaitingForSamples,
    Idle,
}

impl Activity {
    const ALL: [Self; 6] = [
        Self::Running,
        Self::Inserting,
        Self::Sampling,
        Self::WaitingForInserts,
        Self::WaitingForSamples,
        Self::Idle,
    ];

    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Insert(_) => Self::Inserting,
            Command::Sample(_) => Self::Sampling,
            _ => Self::Running,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Inserting => "inserting",
            Self::Sampling => "sampling",
            Self::WaitingForInserts => "waiting_for_inserts",
            Self::WaitingForSamples => "waiting_for_samples",
            Self::Idle => "idle",
        }
    }
}

pub(super) struct Stats {
    /// When the last activity ended.
    last: Instant,
    /// Time of each activity, in the order of [`Activity::ALL`].
    spent: [Duration; 6],
    blocked: BlockedTime,
    ages: Ages,
    removed_items: u64,
    removed_times_sampled: u64,
    removed_age: Duration,
}

impl Stats {
    pub(super) fn new(inserts: u64, now: Instant) -> Self {
        Self {
            last: now,
            spent: [Duration::ZERO; 6],
            blocked: BlockedTime::default(),
            ages: Ages::new(inserts, now),
            removed_items: 0,
            removed_times_sampled: 0,
            removed_age: Duration::ZERO,
        }
    }

    /// A turn begins; the thread has waited.
    pub(super) fn begin(&mut self, now: Instant) {
        let [min_size, inserts, samples] = self.blocked.active();
        let waited = match (min_size || inserts, samples) {
            (true, _) => Activity::WaitingForInserts,
            (false, true) => Activity::WaitingForSamples,
            (false, false) => Activity::Idle,
        };
        self.spend(waited, now);
    }

    /// A command is done, and these are what the first insert and the first sample wait for.
    pub(super) fn did(&mut self, activity: Activity, now: Instant, holds: [Option<Hold>; 2]) {
        self.spend(activity, now);
        let waits = |reason| holds.iter().flatten().any(|hold| hold.reason == reason);
        self.blocked.update(now, Blocked::ALL.map(waits));
    }

    fn spend(&mut self, activity: Activity, now: Instant) {
        self.spent[activity as usize] += now - self.last;
        self.last = now;
    }

    /// Counts what the table's last call has removed.
    pub(super) fn removed(&mut self, table: &Table, now: Instant) {
        self.ages.note(table.counters().inserts, now);
        let removed = table.removed();
        self.removed_items += removed.items;
        self.removed_times_sampled += removed.times_sampled;
        for run in &removed.runs {
            // Neighbours are about as old as each other.
            self.removed_age += self.ages.age(run.start, now) * run.len;
        }
    }

    pub(super) fn refresh(
        &mut self,
        table: &Table,
        queued_commands: usize,
        [inserts, samples]: [usize; 2],
        log_bytes: Option<u64>,
    ) {
        let config = table.config();
        let name = || config.name.clone();
        let counters = table.counters();
        gauge!(metrics::TABLE_ITEMS, "table" => name()).set(counters.size as f64);
        gauge!(metrics::TABLE_BYTES, "table" => name()).set(table.bytes() as f64);
        counter!(metrics::INSERTS, "table" => name()).absolute(counters.inserts);
        counter!(metrics::SAMPLES, "table" => name()).absolute(counters.samples);
        if counters.inserts > 0 {
            let actual = counters.samples as f64 / counters.inserts as f64;
            gauge!(metrics::SAMPLES_PER_INSERT, "table" => name()).set(actual);
        }
        if config.limiter == LimiterKind::SamplesPerInsert {
            let target = config.samples_per_insert;
            gauge!(metrics::SAMPLES_PER_INSERT_TARGET, "table" => name()).set(target);
        }
        gauge!(metrics::QUEUED_COMMANDS, "table" => name()).set(queued_commands as f64);
        if let Some(bytes) = log_bytes {
            gauge!(metrics::LOG_BYTES, "table" => name()).set(bytes as f64);
        }
        counter!(metrics::REMOVED_ITEMS, "table" => name()).absolute(self.removed_items);
        counter!(metrics::REMOVED_TIMES_SAMPLED, "table" => name())
            .absolute(self.removed_times_sampled);
        counter!(metrics::REMOVED_AGE_SECONDS, "table" => name())
            .absolute(self.removed_age.as_secs());
        for (state, spent) in Activity::ALL.into_iter().zip(self.spent) {
            let labels = [("table", name()), ("state", state.as_str().to_owned())];
            counter!(metrics::WORKER_SECONDS, &labels).absolute(spent.as_secs());
        }
        self.blocked.update(Instant::now(), self.blocked.active());
        for (i, reason) in Blocked::ALL.into_iter().enumerate() {
            let callers = match reason {
                _ if !self.blocked.is(i) => 0,
                Blocked::Samples => inserts,
                Blocked::MinSize | Blocked::Inserts => samples,
            };
            let labels = [("table", name()), ("reason", reason.as_str().to_owned())];
            gauge!(metrics::BLOCKED_CALLERS, &labels).set(callers as f64);
            counter!(metrics::BLOCKED_SECONDS, &labels).absolute(self.blocked.total[i].as_secs());
        }
    }
}

/// How long at least one caller has been blocked, by reason, in the order of [`Blocked::ALL`].
#[derive(Default)]
struct BlockedTime {
    since: [Option<Instant>; 3],
    total: [Duration; 3],
}

impl BlockedTime {
    fn is(&self, reason: usize) -> bool {
        self.since[reason].is_some()
    }

    fn active(&self) -> [bool; 3] {
        self.since.map(|since| since.is_some())
    }

    fn update(&mut self, now: Instant, active: [bool; 3]) {
        for (i, active) in active.into_iter().enumerate() {
            if let Some(since) = self.since[i] {
                self.total[i] += now - since;
            }
            self.since[i] = active.then_some(now);
        }
    }
}

/// Least time between two notes.
const NOTE_INTERVAL: Duration = Duration::from_millis(100);
/// Notes kept; beyond it, every other goes.
const MAX_NOTES: usize = 4096;

/// When items came, from a note now and then of how many there had been: the table has no clock, and a
/// time for each item would cost it memory.
struct Ages {
    /// Items inserted by then, and then; both ascending.
    notes: VecDeque<(u64, Instant)>,
    interval: Duration,
}

impl Ages {
    fn new(inserts: u64, now: Instant) -> Self {
        Self {
            notes: [(inserts, now)].into(),
            interval: NOTE_INTERVAL,
        }
    }

    fn note(&mut self, inserts: u64, now: Instant) {
        let &(_, last) = self.notes.back().expect("there is always one");
        if now.saturating_duration_since(last) < self.interval {
            return;
        }
        self.notes.push_back((inserts, now));
        if self.notes.len() > MAX_NOTES {
            let mut keep = false;
            self.notes.retain(|_| {
                keep = !keep;
                keep
            });
            self.interval *= 2;
        }
    }

    /// How long ago the item with this ordinal came, or the service started.
    fn age(&self, ordinal: u64, now: Instant) -> Duration {
        let after = self
            .notes
            .partition_point(|&(inserts, _)| inserts <= ordinal);
        let (_, then) = self.notes[after.saturating_sub(1)];
        now.saturating_duration_since(then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_time_adds_up_by_reason() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut blocked = BlockedTime::default();
        blocked.update(at(0), [false, true, false]);
        blocked.update(at(2), [false, true, true]);
        blocked.update(at(5), [false, false, true]);
        blocked.update(at(9), [false, true, false]);
        blocked.update(at(10), [false, false, false]);
        assert_eq!(blocked.total, [0, 6, 7].map(Duration::from_secs));
    }

    #[test]
    fn ages_are_known_to_a_note_and_notes_do_not_pile_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ages = Ages::new(50, at(0));
        for second in 1..20_000 {
            ages.note(50 + 10 * second, at(second));
        }
        assert!(ages.notes.len() <= MAX_NOTES);
        let now = at(20_000);
        assert_eq!(
            ages.age(7, now),
            Duration::from_secs(20_000),
            "before the start"
        );
        for second in [1, 5_000, 19_990] {
            let age = ages.age(50 + 10 * second, now).as_secs_f64();
            assert!(
                (age - (20_000 - second) as f64).abs() < 16.0,
                "{second}: {age}"
            );
        }
    }
}
