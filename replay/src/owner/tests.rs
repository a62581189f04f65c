//! Commands by hand, without a thread.

use std::sync::Arc;

use pmpo_replay_core::TableConfig;
use pmpo_types::{ColumnBatch, StepBatch};
use tokio::sync::oneshot;

use super::*;
use crate::simulation::signature;

const WRITER: WriterId = WriterId(7);

fn kind() -> ItemKind {
    ItemKind {
        signature: signature(),
        sequence_length: 1,
    }
}

fn bounds() -> Bounds {
    Bounds::from(&ReplayConfig::default())
}

/// `offset` 20, at most 14 inserts ahead, at most 8 samples ahead.
fn owner() -> Owner {
    let config = TableConfig {
        samples_per_insert: 2.0,
        min_size_to_sample: 10,
        error_buffer: Some(8.0),
        ..TableConfig::default()
    };
    Owner::new(Table::new(config, 0).unwrap(), None, bounds())
}

fn run(owner: &mut Owner, command: Command) {
    owner.execute(command);
    owner.progress();
    owner.end_turn().unwrap();
}

/// What those wait for who wait.
fn reasons(owner: &mut Owner) -> Vec<Blocked> {
    owner.progress();
    owner.end_turn().unwrap();
    owner
        .holds
        .iter()
        .flatten()
        .map(|hold| hold.reason)
        .collect()
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
            kind: kind(),
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
            batch: StepBatch::transitions(batch),
            reply,
            call: 0,
            since: Instant::now(),
        }),
    );
    answer
}

fn sample(owner: &mut Owner, batch_size: usize) -> oneshot::Receiver<Result<Drawn, Error>> {
    let (reply, answer) = oneshot::channel();
    run(
        owner,
        Command::Sample(PendingSample {
            batch_size,
            signature: Arc::new(signature()),
            reply,
            call: batch_size as u64,
            since: Instant::now(),
        }),
    );
    answer
}

#[test]
fn a_writer_that_waits_with_several_messages_is_one_caller() {
    let mut owner = owner();
    let (session, _) = open(&mut owner, 1);
    let _waiting = [
        insert(&mut owner, session, 0, 20),
        insert(&mut owner, session, 20, 5),
    ];
    let blocked = owner.describe().blocked;
    assert_eq!(blocked.len(), 1);
    assert_eq!(
        (blocked[0].hold.reason, blocked[0].callers),
        (Blocked::Samples, 1)
    );
}

#[test]
fn inserts_and_samples_free_each_other() {
    let mut owner = owner();
    let (session, _) = open(&mut owner, 1);
    let mut stored = insert(&mut owner, session, 0, 20);
    assert!(stored.try_recv().is_err(), "14 of 20 fit");
    assert_eq!(reasons(&mut owner), [Blocked::Samples]);
    let mut batches = [8, 8].map(|batch_size| sample(&mut owner, batch_size));
    assert_eq!(stored.try_recv().unwrap(), Ok(20));
    assert!(batches.iter_mut().all(|batch| batch.try_recv().is_ok()));
    assert_eq!(reasons(&mut owner), []);
    // diff 40 - 16 = 24; down to 12 it is 12 more.
    assert!(sample(&mut owner, 12).try_recv().is_ok());
    let mut batch = sample(&mut owner, 1);
    assert!(batch.try_recv().is_err());
    assert_eq!(reasons(&mut owner), [Blocked::Inserts]);
    insert(&mut owner, session, 20, 1);
    assert!(batch.try_recv().is_ok());
}

#[test]
fn who_has_gone_is_neither_served_nor_counted() {
    let mut owner = owner();
    let (session, _) = open(&mut owner, 1);
    drop(sample(&mut owner, 4));
    let mut waiting = sample(&mut owner, 3);
    assert_eq!(reasons(&mut owner), [Blocked::MinSize]);
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
fn who_waits_is_told_why_and_keeps_its_place() {
    let mut owner = owner();
    let (session, _) = open(&mut owner, 1);
    insert(&mut owner, session, 0, 9);
    let mut batch = sample(&mut owner, 4);
    let why = |owner: &mut Owner, call| {
        let (reply, mut answer) = oneshot::channel();
        run(owner, Command::Why { call, reply });
        answer.try_recv().unwrap()
    };
    assert_eq!(why(&mut owner, 99), None);
    for _ in 0..2 {
        let blocked = why(&mut owner, 4).unwrap();
        assert_eq!(
            (blocked.hold.reason, blocked.hold.value),
            (Blocked::MinSize, 9.0)
        );
    }
    insert(&mut owner, session, 9, 1);
    assert!(batch.try_recv().is_ok());
    assert_eq!(why(&mut owner, 4), None, "it was served");
    // `diff` is 20 - 4: six more make it 28, the most there may be.
    let mut stored = insert(&mut owner, session, 10, 9);
    assert_eq!(owner.table.counters().inserts, 16, "what fits is stored");
    let blocked = why(&mut owner, 0).unwrap();
    assert_eq!(blocked.hold.reason, Blocked::Samples);
    assert!(stored.try_recv().is_err());
    assert!(sample(&mut owner, 8).try_recv().is_ok());
    assert_eq!(stored.try_recv().unwrap(), Ok(19));
}

/// Two writers of three-step items, each of which has sent two steps and left.
fn owner_with_tails(bounds: Bounds) -> Owner {
    let config = TableConfig {
        sequence_length: 3,
        ..TableConfig::default()
    };
    let mut owner = Owner::new(Table::new(config, 0).unwrap(), None, bounds);
    for (number, writer) in [(0, WriterId(1)), (1, WriterId(2))] {
        let session = WriterSession { writer, number };
        let kind = ItemKind {
            sequence_length: 3,
            ..kind()
        };
        owner.open_writer(session, &kind).unwrap();
        let columns = ColumnBatch::new(&signature(), 2, vec![vec![0; 16].into()]).unwrap();
        let batch = StepBatch::new(3, columns, vec![], vec![]).unwrap();
        assert_eq!(owner.table.insert(writer, 0, &batch), Ok(2));
        run(&mut owner, Command::Left(Some(session)));
    }
    assert_eq!(owner.table.tail_bytes(), 2 * 2 * 8);
    owner
}

#[test]
fn a_writer_that_stays_away_is_forgotten_with_its_tail() {
    let mut owner = owner_with_tails(bounds());
    let (start, timeout) = (Instant::now(), bounds().writer_timeout);
    owner.forget_writers(start);
    owner.forget_writers(start + timeout / 2);
    assert_eq!(owner.table.tail_bytes(), 32);
    // One comes back in time.
    let writer = WriterSession {
        writer: WriterId(2),
        number: 2,
    };
    let kind = ItemKind {
        sequence_length: 3,
        ..kind()
    };
    assert_eq!(owner.open_writer(writer, &kind), Ok(2));
    run(&mut owner, Command::Left(Some(writer)));
    owner.forget_writers(start + timeout);
    assert_eq!(owner.table.writers(), [(WriterId(2), 2)]);
    assert_eq!(owner.table.tail_bytes(), 16);
}

#[test]
fn tails_beyond_their_part_of_the_budget_go_the_oldest_first() {
    let mut bounds = bounds();
    bounds.budget.tails_bytes = 16;
    let mut owner = owner_with_tails(bounds);
    owner.forget_writers(Instant::now());
    assert_eq!(owner.table.writers(), [(WriterId(2), 2)]);
}
