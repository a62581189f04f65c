//! The table's thread: executes commands one by one and keeps those whom the rate limiter blocks.
//!
//! With a disk, it takes what has queued up as one turn: executes it, writes what the table has logged,
//! and only then lets the answers go.

mod stats;
#[cfg(test)]
mod tests;
mod traced;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use pmpo_replay_core::{Blocked, Error, Hold, Table, key_ordinal};
use pmpo_types::WriterId;
use tokio::sync::{mpsc, oneshot};

use crate::budget::Budget;
use crate::config::ReplayConfig;
use crate::disk::{CopyLog, Disk};
use crate::table::{
    BlockedCalls, Command, Description, Drawn, ItemKind, PendingInsert, PendingSample,
    WriterSession,
};
use stats::{Activity, Stats};
use traced::Traced;

/// Commands executed before what they did is written and answered, and bytes of steps, of which the disk
/// has a copy by then.
const COMMANDS_A_TURN: usize = 64;
const BYTES_A_TURN: usize = 4 << 20;

/// An answer that waits until what it promises is safe. One that cannot be delivered is dropped with
/// its contents: whom it was for has gone.
pub(crate) enum Release {
    Inserted(oneshot::Sender<Result<u64, Error>>, Result<u64, Error>),
    Opened(oneshot::Sender<Result<u64, Error>>, Result<u64, Error>),
    Sampled(oneshot::Sender<Result<Drawn, Error>>, Result<Drawn, Error>),
    /// With the table as it is now.
    Reset(oneshot::Sender<Description>, Box<Description>),
    /// Priorities were set, or items deleted.
    Updated(
        oneshot::Sender<Result<(u64, u64), Error>>,
        Result<(u64, u64), Error>,
    ),
}

impl Release {
    /// Whether the answer says that something is stored.
    pub(crate) fn promises_to_keep(&self) -> bool {
        !matches!(self, Self::Sampled(..))
    }

    pub(crate) fn release(self) {
        match self {
            Self::Inserted(reply, answer) | Self::Opened(reply, answer) => drop(reply.send(answer)),
            Self::Sampled(reply, batch) => drop(reply.send(batch)),
            Self::Reset(reply, description) => drop(reply.send(*description)),
            Self::Updated(reply, answer) => drop(reply.send(answer)),
        }
    }
}

/// The table and its waiting rooms. A stream waits for a few things at a time, so the rooms hold a few
/// for each stream at most.
pub(crate) struct Owner {
    table: Table,
    disk: Option<Disk>,
    /// The session that may insert, for each connected writer.
    sessions: HashMap<WriterId, u64>,
    inserts: VecDeque<PendingInsert>,
    samples: VecDeque<PendingSample>,
    /// Answers of this turn.
    ready: Vec<Release>,
    /// Copies that were asked for in this turn: of the table as it is at its end.
    copies: Vec<CopyLog>,
    /// What the first insert and the first sample in the rooms wait for.
    holds: [Option<Hold>; 2],
    stats: Stats,
    traced: Traced,
    bounds: Bounds,
    /// When writers had connected and disconnected so often, for as long as one is remembered.
    uses: VecDeque<(Instant, u64)>,
}

/// What bounds a table beside its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) budget: Budget,
    /// How long a writer that has disconnected is remembered.
    pub(crate) writer_timeout: Duration,
}

impl From<&ReplayConfig> for Bounds {
    fn from(config: &ReplayConfig) -> Self {
        Self {
            budget: Budget::new(config.table_budget_bytes),
            writer_timeout: config.writer_timeout(),
        }
    }
}

impl Owner {
    pub(crate) fn new(table: Table, disk: Option<Disk>, bounds: Bounds) -> Self {
        let inserts = table.counters().inserts;
        Self {
            table,
            disk,
            sessions: HashMap::new(),
            inserts: VecDeque::new(),
            samples: VecDeque::new(),
            ready: Vec::new(),
            copies: Vec::new(),
            holds: [None; 2],
            stats: Stats::new(inserts, Instant::now()),
            traced: Traced::default(),
            bounds,
            uses: VecDeque::new(),
        }
    }

    /// Serves until [`Command::Stop`] or until nobody can send a command any more.
    ///
    /// # Errors
    /// What was done could not be written or made safe.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) -> io::Result<()> {
        let served = loop {
            let Some(first) = commands.blocking_recv() else {
                break Ok(());
            };
            match self.turn(first, &mut commands) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let closed = self.disk.map_or(Ok(()), Disk::close);
        served.and(closed)
    }

    /// Executes `first` and, with a disk, what has queued up behind it; answers whether to go on.
    pub(crate) fn turn(
        &mut self,
        first: Command,
        commands: &mut mpsc::Receiver<Command>,
    ) -> io::Result<bool> {
        self.stats.begin(Instant::now());
        let mut next = Some(first);
        let (mut taken, mut bytes) = (0, 0);
        let mut go_on = true;
        while let Some(command) = next.filter(|_| go_on) {
            go_on = !matches!(command, Command::Stop);
            let activity = Activity::of(&command);
            bytes += command.bytes();
            self.execute(command);
            self.progress();
            self.stats.did(activity, Instant::now(), self.holds);
            taken += 1;
            let more = taken < COMMANDS_A_TURN && bytes < BYTES_A_TURN && self.disk.is_some();
            next = if more { commands.try_recv().ok() } else { None };
        }
        self.end_turn()?;
        Ok(go_on)
    }

    /// Makes safe what the turn did, then answers.
    fn end_turn(&mut self) -> io::Result<()> {
        let ready = std::mem::take(&mut self.ready);
        match &mut self.disk {
            None => ready.into_iter().for_each(Release::release),
            Some(disk) => {
                disk.write(&mut self.table, ready)?;
                for copy in std::mem::take(&mut self.copies) {
                    disk.copy(&mut self.table, copy)?;
                }
            }
        }
        Ok(())
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::OpenWriter {
                session,
                kind,
                reply,
            } => {
                let opened = self.open_writer(session, &kind);
                self.ready.push(Release::Opened(reply, opened));
            }
            Command::Insert(insert) => {
                // Dropping the reply of a superseded session tells its stream.
                if self.is_current(insert.session) {
                    self.inserts.push_back(insert);
                }
            }
            Command::OpenSampler {
                batch_size,
                kind,
                reply,
            } => {
                let ItemKind {
                    signature,
                    sequence_length,
                } = kind;
                let opened = self
                    .table
                    .open_sampler(batch_size, &signature, sequence_length);
                drop(reply.send(opened));
            }
            Command::Sample(sample) => self.samples.push_back(sample),
            Command::Why { call, reply } => drop(reply.send(self.why(call))),
            Command::UpdatePriorities {
                keys,
                priorities,
                reply,
            } => {
                let updated = self.table.update_priorities(&keys, &priorities);
                self.ready.push(Release::Updated(reply, updated));
            }
            Command::Delete { keys, reply } => {
                let deleted = Ok(self.table.delete(&keys));
                self.stats.removed(&self.table, Instant::now());
                self.ready.push(Release::Updated(reply, deleted));
            }
            Command::Reset(reply) => {
                self.reset();
                let description = Box::new(self.describe());
                self.ready.push(Release::Reset(reply, description));
            }
            Command::Configure { changes, reply } => {
                let configured = self.table.configure(&changes);
                self.stats.removed(&self.table, Instant::now());
                if configured.is_ok() {
                    let name = &self.table.config().name;
                    tracing::info!(table = name, ?changes, "table configured anew");
                }
                let described = configured.map(|()| self.describe());
                drop(reply.send(described));
            }
            Command::Copy(copy) => self.copies.push(copy),
            Command::Left(session) => self.leave(session),
            Command::Describe(reply) => drop(reply.send(self.describe())),
            Command::ListWriters(reply) => {
                let inserts = self.table.counters().inserts;
                drop(reply.send((self.table.writers(), inserts)));
            }
            Command::RefreshMetrics { queued_commands } => {
                let callers = [self.waiting_writers(), self.samples.len()];
                let log_bytes = self.disk.as_ref().map(Disk::bytes);
                self.forget_writers(Instant::now());
                let budget = &self.bounds.budget;
                budget.show(&self.table.config().name, self.table.tail_bytes());
                self.stats
                    .refresh(&self.table, queued_commands, callers, log_bytes);
            }
            Command::Stop => {}
        }
    }

    /// A writer that opens again is where its last stream got to: what that one still waits to
    /// insert, the writer will send again.
    fn open_writer(&mut self, session: WriterSession, kind: &ItemKind) -> Result<u64, Error> {
        let WriterSession { writer, number } = session;
        let next_sequence =
            self.table
                .open_writer(writer, &kind.signature, kind.sequence_length)?;
        self.inserts
            .retain(|insert| insert.session.writer != writer);
        self.sessions.insert(writer, number);
        Ok(next_sequence)
    }

    /// Writers whose streams end by it come back, with their numbers.
    fn reset(&mut self) {
        self.table.reset();
        self.sessions.clear();
        self.inserts.clear();
        self.stats.removed(&self.table, Instant::now());
        tracing::info!(table = self.table.config().name, "table emptied");
    }

    fn leave(&mut self, session: Option<WriterSession>) {
        self.inserts.retain(|insert| !insert.reply.is_closed());
        self.samples.retain(|sample| !sample.reply.is_closed());
        if let Some(session) = session.filter(|&session| self.is_current(session)) {
            self.sessions.remove(&session.writer);
            self.table.close_writer(session.writer);
        }
    }

    /// Forgets writers that have been away for too long, and while the steps kept for those that are away
    /// take too much, the one that has been for longest.
    fn forget_writers(&mut self, now: Instant) {
        self.uses.push_back((now, self.table.writer_uses()));
        let timeout = self.bounds.writer_timeout;
        let old = |&mut (then, _): &mut (Instant, u64)| now.duration_since(then) >= timeout;
        while let Some((_, uses)) = self.uses.pop_front_if(old) {
            self.table.forget_writers_until(uses);
        }
        let most = self.bounds.budget.tails_bytes;
        while self.table.tail_bytes() > most && self.table.forget_writer() {}
    }

    fn is_current(&self, session: WriterSession) -> bool {
        self.sessions.get(&session.writer) == Some(&session.number)
    }

    /// For what a call waits, if it still does.
    fn why(&self, call: u64) -> Option<BlockedCalls> {
        let insert = self.inserts.iter().find(|insert| insert.call == call);
        let sample = self.samples.iter().find(|sample| sample.call == call);
        let (hold, since) = match (insert, sample) {
            (Some(insert), _) => (self.table.insert_hold(), insert.since),
            // Behind a batch that waits, all wait for the same.
            (None, Some(sample)) => (self.holds[1]?, sample.since),
            (None, None) => return None,
        };
        Some(BlockedCalls {
            hold,
            waited: since.elapsed(),
            callers: 1,
        })
    }

    /// Lets everyone go on whom the rate limiter lets, in the order they came, and notes what the
    /// others wait for. An insert may free a sampler and the other way round.
    fn progress(&mut self) {
        loop {
            let (inserted, insert_hold) = self.progress_inserts();
            let (sampled, sample_hold) = self.progress_samples();
            if !inserted && !sampled {
                self.holds = [insert_hold, sample_hold];
                return;
            }
        }
    }

    /// Whether items were stored, and what the first in the queue waits for.
    fn progress_inserts(&mut self) -> (bool, Option<Hold>) {
        let before = self.table.counters().inserts;
        let hold = loop {
            let Some(insert) = self.inserts.front() else {
                break None;
            };
            let end = insert
                .first_sequence
                .saturating_add(insert.batch.steps().len() as u64);
            let now = Instant::now();
            let first_ordinal = self.table.counters().inserts;
            let stored =
                self.table
                    .insert(insert.session.writer, insert.first_sequence, &insert.batch);
            if let Some(trace) = insert.batch.trace() {
                let items = first_ordinal..self.table.counters().inserts;
                self.traced.inserted(items, trace);
            }
            self.stats.removed(&self.table, now);
            if stored
                .as_ref()
                .is_ok_and(|&next_sequence| next_sequence < end)
            {
                break Some(self.table.insert_hold());
            }
            let insert = self.inserts.pop_front().expect("it was at the front");
            self.ready.push(Release::Inserted(insert.reply, stored));
        };
        let inserts = self.table.counters().inserts;
        (inserts > before, hold)
    }

    /// Whether items were sampled, and what the first in the queue waits for.
    fn progress_samples(&mut self) -> (bool, Option<Hold>) {
        let before = self.table.counters().samples;
        let hold = loop {
            let Some(sample) = self.samples.pop_front() else {
                break None;
            };
            if sample.reply.is_closed() {
                continue;
            }
            if let Err(error) = self.table.check_signature(&sample.signature) {
                self.ready.push(Release::Sampled(sample.reply, Err(error)));
                continue;
            }
            match self.table.sample(sample.batch_size) {
                Ok(batch) => {
                    self.stats.removed(&self.table, Instant::now());
                    let ordinals = batch.items.keys.iter().copied().map(key_ordinal);
                    let traces = self.traced.drawn(batch.counters.inserts, ordinals);
                    let drawn = Drawn { batch, traces };
                    self.ready.push(Release::Sampled(sample.reply, Ok(drawn)));
                }
                Err(hold) => {
                    self.samples.push_front(sample);
                    break Some(hold);
                }
            }
        };
        (self.table.counters().samples > before, hold)
    }

    /// Writers with an insert in the room; each may have several.
    fn waiting_writers(&self) -> usize {
        let writers = self.inserts.iter().map(|insert| insert.session.writer);
        writers.collect::<HashSet<_>>().len()
    }

    fn describe(&self) -> Description {
        let waiting = |hold: Hold| {
            let (since, callers) = match hold.reason {
                Blocked::Samples => {
                    let since = self.inserts.front().map(|insert| insert.since);
                    (since, self.waiting_writers())
                }
                Blocked::MinSize | Blocked::Inserts => {
                    (self.samples.front().map(|s| s.since), self.samples.len())
                }
            };
            BlockedCalls {
                hold,
                waited: since.map_or_else(Default::default, |since| since.elapsed()),
                callers,
            }
        };
        Description {
            config: self.table.config().clone(),
            signature: self.table.signature().cloned(),
            counters: self.table.counters(),
            bytes: self.table.bytes(),
            blocked: self.holds.into_iter().flatten().map(waiting).collect(),
            durable: self.disk.is_some(),
        }
    }
}
