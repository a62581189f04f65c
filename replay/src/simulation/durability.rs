//! What each policy of syncing promises, through losses of power, kills and restarts; and what the service
//! does about one fault at a time.

use std::path::Path;

use pmpo_replay_core::TableConfig;
use pmpo_replay_core::selector::SelectorKind;
use pmpo_types::{StepBatch, WriterId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::files::{Faults, SimulatedFiles};
use super::shard::{DATA_DIR, Shard, columns, disk, table};
use crate::checkpoint::Checkpoint;
use crate::config::Fsync;

const WRITER: WriterId = WriterId(1);
const POLICIES: [Fsync; 3] = [Fsync::EachBatch, Fsync::Interval, Fsync::Never];
/// Items that the tables hold.
const SIZE: u64 = 30;

/// A writer of ids that count up, and what it was told.
struct Client {
    shard: Shard,
    connection: u64,
    /// Steps sent, and acknowledged.
    sent: u64,
    acknowledged: u64,
}

impl Client {
    fn new(fsync: Fsync, remover: SelectorKind, seed: u64) -> Self {
        let table = TableConfig {
            max_size: SIZE as usize,
            remover,
            ..table(1)
        };
        let files = Some(SimulatedFiles::new(seed));
        let mut client = Self {
            shard: Shard::new(table, disk(fsync), files),
            connection: 0,
            sent: 0,
            acknowledged: 0,
        };
        client.connect();
        client
    }

    fn files(&self) -> &SimulatedFiles {
        self.shard.files.as_ref().unwrap()
    }

    fn segments(&self) -> Vec<String> {
        self.files().names(&format!("{DATA_DIR}/replay"))
    }

    fn connect(&mut self) {
        self.connection += 1;
        self.shard.open(WRITER, self.connection);
        assert!(self.shard.turn());
    }

    fn send(&mut self, items: u64) {
        let steps = columns(self.sent as i64..(self.sent + items) as i64);
        let batch = StepBatch::new(1, steps, vec![], vec![]).unwrap();
        self.shard.insert(WRITER, self.connection, self.sent, batch);
        self.sent += items;
    }

    fn hear(&mut self) {
        for (connection, next) in self.shard.answers() {
            if connection == self.connection {
                self.acknowledged = self.acknowledged.max(next.unwrap());
            }
        }
    }

    /// The process, or the machine, goes down and comes up again; the writer goes on where the service is.
    fn restart(&mut self, power: bool) {
        self.shard.crash(power);
        assert!(self.shard.start());
        let found = &self.shard.found;
        assert_eq!(
            found.items - found.removed,
            found.inserts.min(SIZE),
            "{found:?}"
        );
        self.sent = found.inserts;
        self.acknowledged = found.inserts;
        self.connect();
    }
}

/// A schedule under one policy: after each loss of power at least what the policy promises is there, all of
/// what the table should hold of it, and after a kill all that was written.
fn schedule(fsync: Fsync, remover: SelectorKind, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut client = Client::new(fsync, remover, seed);
    let mut promised = 0;
    // Written before the newest segment began, of which `never` promises nothing.
    let mut ended = (client.segments(), 0);
    for _ in 0..120 {
        match rng.random_range(0..20) {
            0..9 => client.send(rng.random_range(1..12)),
            9..13 => {
                assert!(client.shard.turn());
                let segments = client.segments();
                if segments.last() != ended.0.last() {
                    ended = (segments, client.acknowledged);
                }
                client.hear();
            }
            13..18 => {
                let before = client.acknowledged;
                assert!(client.shard.sync());
                client.hear();
                promised = match fsync {
                    Fsync::EachBatch => client.acknowledged,
                    Fsync::Interval => before,
                    Fsync::Never => ended.1,
                };
            }
            choice => {
                let power = choice == 18;
                let before = if power { promised } else { client.acknowledged };
                client.restart(power);
                let found = client.shard.found.inserts;
                assert!(found >= before, "{found} of {before}, power lost: {power}");
                // What a start has found is safe before anybody hears of it.
                promised = found;
                ended = (client.segments(), found);
            }
        }
    }
}

#[test]
fn each_policy_keeps_its_promise() {
    for fsync in POLICIES {
        for remover in [SelectorKind::Fifo, SelectorKind::Uniform] {
            for seed in 0..300 {
                let run = std::panic::catch_unwind(|| schedule(fsync, remover, seed));
                assert!(run.is_ok(), "{fsync:?}, {remover:?}, seed {seed}");
            }
        }
    }
}

/// The process is killed after it has written and before it has synced, or has ended because the sync had
/// failed, after which the system will never write those pages; the next one finds all in the cache, says
/// so, and the power fails.
#[test]
fn what_a_start_has_found_in_the_cache_is_safe_before_anybody_hears_of_it() {
    for fsync in POLICIES {
        for (seed, failed_sync) in (0..100).map(|seed| (seed, seed % 2 == 0)) {
            let mut client = Client::new(fsync, SelectorKind::Fifo, seed);
            client.send(20);
            assert!(client.shard.turn());
            client.hear();
            let told = if fsync == Fsync::EachBatch { 0 } else { 20 };
            assert_eq!(client.acknowledged, told, "{fsync:?}");
            if failed_sync && fsync != Fsync::Never {
                client.files().set_faults(Faults {
                    sync_in: Some(0),
                    ..Faults::default()
                });
                assert!(!client.shard.sync());
            }
            client.restart(false);
            assert_eq!(client.shard.found.inserts, 20);
            client.restart(true);
            assert_eq!(client.shard.found.inserts, 20, "{fsync:?}, seed {seed}");
        }
    }
}

#[test]
fn a_stop_syncs_and_says_if_it_could_not() {
    for fsync in POLICIES {
        for (seed, fails) in (0..20).map(|seed| (seed, seed % 2 == 0)) {
            let mut client = Client::new(fsync, SelectorKind::Fifo, seed);
            client.shard.crash(false);
            // No segment ends, which would be a sync by itself, and the one of the first start has gone.
            client.shard.disk.segment_bytes = 1 << 20;
            assert!(client.shard.start_with_threads());
            client.connect();
            while client.segments().len() > 1 {
                std::thread::yield_now();
            }
            client.send(20);
            client.files().set_faults(Faults {
                sync_in: fails.then_some(0),
                ..Faults::default()
            });
            let stopped = client.shard.stop();
            assert_eq!(stopped.is_err(), fails, "{fsync:?}");
            if !fails {
                client.restart(true);
                assert_eq!(client.shard.found.inserts, 20, "{fsync:?}, seed {seed}");
            }
        }
    }
}

/// `EMFILE`: neither a new segment nor a sync of the old one's folder may end the service.
#[test]
fn out_of_descriptors_the_log_goes_on_in_its_segment() {
    let mut client = Client::new(Fsync::EachBatch, SelectorKind::Fifo, 1);
    client.files().set_faults(Faults {
        no_descriptors: true,
        ..Faults::default()
    });
    for _ in 0..20 {
        client.send(10);
        assert!(client.shard.turn() && client.shard.sync());
        client.hear();
    }
    assert_eq!((client.acknowledged, client.segments().len()), (200, 1));
    let mut copy = client.shard.copy("/runs/copy".into());
    assert!(client.shard.turn() && client.shard.sync());
    let refused = copy.try_recv().unwrap().unwrap_err().to_string();
    assert!(refused.contains("a new segment of the log"), "{refused}");
    client.files().set_faults(Faults::default());
    for _ in 0..2 {
        client.send(10);
        assert!(client.shard.turn() && client.shard.sync());
    }
    assert_eq!(client.segments().len(), 2);
    client.restart(true);
    assert_eq!(client.shard.found.inserts, 220);
}

/// Whatever is done meanwhile, a checkpoint holds just what was there, also after a loss of power; one that was
/// not finished is not there, and does not stand in the way of another.
#[test]
fn a_checkpoint_is_whole_and_safe_or_not_there() {
    let checkpoints = format!("{DATA_DIR}/.checkpoints");
    for fsync in POLICIES {
        for seed in 0..200 {
            let mut client = Client::new(fsync, SelectorKind::Fifo, seed);
            let files = client.files().clone();
            let go_on = |client: &mut Client, turns| {
                for turn in 0..turns {
                    client.send(turn % 12 + 1);
                    assert!(client.shard.turn());
                    if (seed + turn) % 3 == 0 {
                        assert!(client.shard.sync());
                    }
                }
            };
            go_on(&mut client, 5 + seed % 40);
            let inserts = client.sent;
            let mut made = Checkpoint::begin(&files, Path::new(DATA_DIR)).unwrap();
            let mut answer = client.shard.copy(made.table("replay").unwrap());
            assert!(client.shard.turn());
            go_on(&mut client, seed % 20);
            assert!(client.shard.sync());
            let copied = answer.try_recv().unwrap().unwrap();
            assert_eq!(copied.counters.inserts, inserts);
            go_on(&mut client, 20);
            if seed % 4 == 0 {
                files.lose_power();
                let names = files.names(&checkpoints);
                assert!(names.iter().all(|name| name == ".new"), "{names:?}");
                Checkpoint::begin(&files, Path::new(DATA_DIR)).unwrap();
                continue;
            }
            let path = made.finish().unwrap();
            files.lose_power();
            let table = client.shard.table.clone();
            let mut copy = Shard::at(&path, table, disk(fsync), Some(files));
            assert_eq!(copy.found.inserts, inserts, "{fsync:?}, seed {seed}");
            let expected = inserts.saturating_sub(SIZE) as i64..inserts as i64;
            assert_eq!(copy.contents(true), expected.collect::<Vec<_>>());
        }
    }
}

/// `ENOSPC` and `EIO` in the middle of a record: the service ends, nobody is told that it is stored, and the
/// next start cuts it off and goes on.
#[test]
fn what_could_not_be_written_whole_is_acknowledged_to_nobody() {
    for seed in 0..100 {
        let mut client = Client::new(Fsync::EachBatch, SelectorKind::Fifo, seed);
        client.send(10);
        assert!(client.shard.turn() && client.shard.sync());
        client.hear();
        client.files().set_faults(Faults {
            append: seed % 2 == 0,
            room: Some(seed as usize),
            ..Faults::default()
        });
        client.send(10);
        assert!(!client.shard.turn());
        client.hear();
        assert_eq!(client.acknowledged, 10);
        // A full disk has no room for what a start writes either: it says so, and has lost nothing.
        if seed % 2 == 1 {
            assert!(!client.shard.start());
        }
        client.files().set_faults(Faults::default());
        client.restart(seed % 4 < 2);
        assert_eq!(client.shard.found.inserts, 10);
        client.send(10);
        assert!(client.shard.turn() && client.shard.sync());
        client.restart(true);
        assert_eq!(client.shard.found.inserts, 20);
    }
}
