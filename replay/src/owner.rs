//! The table's thread: executes commands one by one and keeps those whom the rate limiter blocks.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use pmpo_replay_core::{Blocked, Error, Table};
use pmpo_types::{Signature, WriterId};
use tokio::sync::mpsc;

use crate::metrics;
use crate::table::{Command, Description, PendingInsert, PendingSample, WriterSession};

/// The table and its waiting rooms. A stream waits for one thing at a time, so the rooms hold no more
/// than there are streams.
pub(crate) struct Owner {
    table: Table,
    /// The session that may insert, for each connected writer.
    sessions: HashMap<WriterId, u64>,
    inserts: VecDeque<PendingInsert>,
    samples: VecDeque<PendingSample>,
    blocked: BlockedTime,
}

impl Owner {
    pub(crate) fn new(table: Table) -> Self {
        Self {
            table,
            sessions: HashMap::new(),
            inserts: VecDeque::new(),
            samples: VecDeque::new(),
            blocked: BlockedTime::default(),
        }
    }

    /// Serves until [`Command::Stop`] or until nobody can send a command any more.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.blocking_recv() {
            if matches!(command, Command::Stop) {
                return;
            }
            self.execute(command);
            let reasons = self.progress();
            self.blocked.update(Instant::now(), reasons);
        }
    }

    /// Answers nobody who has gone: a reply that cannot be delivered is dropped with its contents.
    fn execute(&mut self, command: Command) {
        match command {
            Command::OpenWriter {
                session,
                signature,
                reply,
            } => {
                drop(reply.send(self.open_writer(session, &signature)));
            }
            Command::Insert(insert) => {
                // Dropping the reply of a superseded session tells its stream.
                if self.is_current(insert.session) {
                    self.inserts.push_back(insert);
                }
            }
            Command::OpenSampler {
                batch_size,
                signature,
                reply,
            } => {
                drop(reply.send(self.table.open_sampler(batch_size, &signature)));
            }
            Command::Sample(sample) => self.samples.push_back(sample),
            Command::Left(session) => self.leave(session),
            Command::Describe(reply) => drop(reply.send(self.describe())),
            Command::RefreshMetrics { queued_commands } => self.refresh_metrics(queued_commands),
            Command::Stop => unreachable!("handled by the loop"),
        }
    }

    /// A writer that opens again is where its last stream got to: what that one still waits to
    /// insert, the writer will send again.
    fn open_writer(&mut self, session: WriterSession, signature: &Signature) -> Result<u64, Error> {
        let WriterSession { writer, number } = session;
        let next_sequence = self.table.open_writer(writer, signature)?;
        self.inserts
            .retain(|insert| insert.session.writer != writer);
        self.sessions.insert(writer, number);
        Ok(next_sequence)
    }

    fn leave(&mut self, session: Option<WriterSession>) {
        self.inserts.retain(|insert| !insert.reply.is_closed());
        self.samples.retain(|sample| !sample.reply.is_closed());
        if let Some(session) = session.filter(|&session| self.is_current(session)) {
            self.sessions.remove(&session.writer);
            self.table.close_writer(session.writer);
        }
    }

    fn is_current(&self, session: WriterSession) -> bool {
        self.sessions.get(&session.writer) == Some(&session.number)
    }

    /// Lets everyone go on whom the rate limiter lets, in the order they came, and answers what the
    /// others wait for. An insert may free a sampler and the other way round.
    fn progress(&mut self) -> [bool; 3] {
        loop {
            let (inserted, samples) = self.progress_inserts();
            let (sampled, inserts) = self.progress_samples();
            if !inserted && !sampled {
                return Blocked::ALL
                    .map(|reason| samples == Some(reason) || inserts == Some(reason));
            }
        }
    }

    /// Whether items were stored, and what the first in the queue waits for.
    fn progress_inserts(&mut self) -> (bool, Option<Blocked>) {
        let before = self.table.counters().inserts;
        let blocked = loop {
            let Some(insert) = self.inserts.front() else {
                break None;
            };
            let end = insert
                .first_sequence
                .saturating_add(insert.batch.len() as u64);
            let stored =
                self.table
                    .insert(insert.session.writer, insert.first_sequence, &insert.batch);
            if stored
                .as_ref()
                .is_ok_and(|&next_sequence| next_sequence < end)
            {
                break Some(Blocked::Samples);
            }
            let insert = self.inserts.pop_front().expect("it was at the front");
            drop(insert.reply.send(stored));
        };
        (self.table.counters().inserts > before, blocked)
    }

    /// Whether items were sampled, and what the first in the queue waits for.
    fn progress_samples(&mut self) -> (bool, Option<Blocked>) {
        let before = self.table.counters().samples;
        let blocked = loop {
            let Some(sample) = self.samples.pop_front() else {
                break None;
            };
            if sample.reply.is_closed() {
                continue;
            }
            match self.table.sample(sample.batch_size) {
                Ok(batch) => drop(sample.reply.send(batch)),
                Err(blocked) => {
                    self.samples.push_front(sample);
                    break Some(blocked);
                }
            }
        };
        (self.table.counters().samples > before, blocked)
    }

    fn describe(&self) -> Description {
        Description {
            config: self.table.config().clone(),
            signature: self.table.signature().cloned(),
            counters: self.table.counters(),
        }
    }

    fn refresh_metrics(&mut self, queued_commands: usize) {
        let table = || self.table.config().name.clone();
        let counters = self.table.counters();
        gauge!(metrics::TABLE_ITEMS, "table" => table()).set(counters.size as f64);
        gauge!(metrics::TABLE_BYTES, "table" => table()).set(self.table.bytes() as f64);
        counter!(metrics::INSERTS, "table" => table()).absolute(counters.inserts);
        counter!(metrics::SAMPLES, "table" => table()).absolute(counters.samples);
        gauge!(metrics::QUEUED_COMMANDS, "table" => table()).set(queued_commands as f64);
        let active = self.blocked.update(Instant::now(), self.blocked.active());
        for (i, reason) in Blocked::ALL.into_iter().enumerate() {
            let callers = match reason {
                _ if !active[i] => 0,
                Blocked::Samples => self.inserts.len(),
                Blocked::MinSize | Blocked::Inserts => self.samples.len(),
            };
            let labels = [("table", table()), ("reason", reason.as_str().to_owned())];
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
    fn active(&self) -> [bool; 3] {
        self.since.map(|since| since.is_some())
    }

    fn update(&mut self, now: Instant, active: [bool; 3]) -> [bool; 3] {
        for (i, active) in active.into_iter().enumerate() {
            if let Some(since) = self.since[i] {
                self.total[i] += now - since;
            }
            self.since[i] = active.then_some(now);
        }
        active
    }
}

#[cfg(test)]
mod tests {
    use pmpo_replay_core::TableConfig;
    use pmpo_types::{ColumnBatch, ColumnSpec, DType, SampledBatch};
    use tokio::sync::oneshot;

    use super::*;

    const WRITER: WriterId = WriterId(7);

    fn signature() -> Signature {
        let column = ColumnSpec {
            name: "id".to_owned(),
            dtype: DType::I64,
            shape: vec![],
        };
        Signature {
            columns: vec![column],
        }
    }

    /// `offset` 20, at most 14 inserts ahead, at most 8 samples ahead.
    fn owner() -> Owner {
        let config = TableConfig {
            samples_per_insert: 2.0,
            min_size_to_sample: 10,
            error_buffer: Some(8.0),
            ..TableConfig::default()
        };
        Owner::new(Table::new(config, 0).unwrap())
    }

    fn run(owner: &mut Owner, command: Command) -> [bool; 3] {
        owner.execute(command);
        owner.progress()
    }

    fn open(owner: &mut Owner, number: u64) -> (WriterSession, u64) {
        let session = WriterSession {
            writer: WRITER,
            number,
        };
        let (reply, mut answer) = oneshot::channel();
        run(
            owner,
            Command::OpenWriter {
                session,
                signature: signature(),
                reply,
            },
        );
        (session, answer.try_recv().unwrap().unwrap())
    }

    fn insert(
        owner: &mut Owner,
        session: WriterSession,
        first_sequence: u64,
        len: usize,
    ) -> oneshot::Receiver<Result<u64, Error>> {
        let batch = ColumnBatch::new(&signature(), len, vec![vec![0; 8 * len].into()]).unwrap();
        let (reply, answer) = oneshot::channel();
        run(
            owner,
            Command::Insert(PendingInsert {
                session,
                first_sequence,
                batch,
                reply,
            }),
        );
        answer
    }

    fn sample(owner: &mut Owner, batch_size: usize) -> oneshot::Receiver<SampledBatch> {
        let (reply, answer) = oneshot::channel();
        run(owner, Command::Sample(PendingSample { batch_size, reply }));
        answer
    }

    #[test]
    fn inserts_and_samples_free_each_other() {
        let mut owner = owner();
        let (session, _) = open(&mut owner, 1);
        let mut stored = insert(&mut owner, session, 0, 20);
        assert!(stored.try_recv().is_err(), "14 of 20 fit");
        assert_eq!(owner.progress(), [false, false, true]);
        let mut batches = [8, 8].map(|batch_size| sample(&mut owner, batch_size));
        assert_eq!(stored.try_recv().unwrap(), Ok(20));
        assert!(batches.iter_mut().all(|batch| batch.try_recv().is_ok()));
        assert_eq!(owner.progress(), [false; 3]);
        // diff 40 - 16 = 24; down to 12 it is 12 more.
        assert!(sample(&mut owner, 12).try_recv().is_ok());
        let mut batch = sample(&mut owner, 1);
        assert!(batch.try_recv().is_err());
        assert_eq!(owner.progress(), [false, true, false]);
        insert(&mut owner, session, 20, 1);
        assert!(batch.try_recv().is_ok());
    }

    #[test]
    fn who_has_gone_is_neither_served_nor_counted() {
        let mut owner = owner();
        let (session, _) = open(&mut owner, 1);
        drop(sample(&mut owner, 4));
        let mut waiting = sample(&mut owner, 3);
        assert_eq!(owner.progress(), [true, false, false]);
        insert(&mut owner, session, 0, 10);
        assert!(waiting.try_recv().is_ok());
        assert_eq!(owner.table.counters().samples, 3);

        drop((sample(&mut owner, 8), insert(&mut owner, session, 10, 100)));
        let before = owner.table.counters();
        run(&mut owner, Command::Left(Some(session)));
        assert!(owner.samples.is_empty() && owner.inserts.is_empty());
        assert_eq!(owner.table.counters(), before);
        assert!(owner.sessions.is_empty());
    }

    #[test]
    fn a_writer_that_opens_again_takes_over_from_its_old_stream() {
        let mut owner = owner();
        let (old, _) = open(&mut owner, 1);
        let mut waiting = insert(&mut owner, old, 0, 20);
        let (new, next_sequence) = open(&mut owner, 2);
        assert_eq!(next_sequence, 14);
        assert_eq!(
            waiting.try_recv(),
            Err(oneshot::error::TryRecvError::Closed)
        );
        let mut late = insert(&mut owner, old, 14, 6);
        assert_eq!(late.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        // The old stream's end does not disconnect the new one.
        run(&mut owner, Command::Left(Some(old)));
        let mut rest = insert(&mut owner, new, 14, 6);
        assert!(sample(&mut owner, 12).try_recv().is_ok());
        assert_eq!(rest.try_recv().unwrap(), Ok(20));
        assert_eq!(owner.table.counters().inserts, 20);
    }

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
}
