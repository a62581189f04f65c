//! A table that is built again from its log: complete logs, logs cut and damaged anywhere, and logs
//! whose old segments were deleted.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use common::{WRITER, batch, ids, ragged_windows, signature, windows};
use pmpo_replay_core::selector::SelectorKind;
use pmpo_replay_core::{Changes, Found, LimiterKind, Restorer, Table, TableConfig};
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature, StepBatch, WriterId};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const OTHER: WriterId = WriterId(9);

/// A table and the segments of its log, as a disk would hold them.
struct Disk {
    table: Table,
    segments: BTreeMap<u32, Vec<u8>>,
    current: u32,
}

fn restore(config: &TableConfig, segments: &BTreeMap<u32, Vec<u8>>) -> (Table, Found) {
    let mut restorer = Restorer::new(config.clone()).unwrap();
    for bytes in segments.values().rev() {
        if restorer.survey(bytes) {
            break;
        }
    }
    for (&number, bytes) in segments {
        restorer.scan(number, bytes).unwrap();
    }
    let mut loader = restorer.finish(5).unwrap();
    segments
        .iter()
        .for_each(|(&number, bytes)| loader.load(number, bytes));
    loader.finish()
}

impl Disk {
    fn new(config: &TableConfig) -> Self {
        Self::open(config, BTreeMap::new()).0
    }

    fn open(config: &TableConfig, segments: BTreeMap<u32, Vec<u8>>) -> (Self, Found) {
        let (table, found) = restore(config, &segments);
        let current = table.current_segment().unwrap();
        let mut disk = Self {
            table,
            segments,
            current,
        };
        for writer in [WRITER, OTHER] {
            let opened = disk
                .table
                .open_writer(writer, &signature(), config.sequence_length);
            opened.unwrap();
        }
        disk.write();
        (disk, found)
    }

    fn write(&mut self) {
        let bytes = self.segments.entry(self.current).or_default();
        self.table.take_log(bytes);
        self.table.safe_up_to(self.table.last_record());
    }

    fn roll(&mut self) {
        self.write();
        self.current = self.table.begin_segment().unwrap();
        self.write();
    }

    /// Deletes what is dead, after moving up to `count` out of the oldest segment.
    fn compact(&mut self, count: usize) {
        self.table.move_from_oldest_segment(count);
        self.write();
        while let Some(dead) = self.table.drop_dead_segment() {
            self.write();
            assert!(self.segments.remove(&dead).is_some());
        }
    }

    fn insert(&mut self, writer: WriterId, first: u64, steps: &StepBatch) -> u64 {
        let next = self.table.insert(writer, first, steps).unwrap();
        self.write();
        next
    }

    fn reopen(self) -> (Self, Found) {
        let config = self.table.config().clone();
        Self::open(&config, self.segments)
    }
}

fn config(sequence_length: usize) -> TableConfig {
    TableConfig {
        sequence_length,
        max_size: 20,
        limiter: LimiterKind::None,
        sampler: SelectorKind::Prioritized,
        priority_exponent: 1.0,
        ..TableConfig::default()
    }
}

/// Windows, each with its probability in a millionth, as many draws show them: all there are.
fn contents(table: &mut Table) -> BTreeMap<Vec<i64>, u64> {
    drawn(table, 20)
}

/// What a few draws show.
fn drawn(table: &mut Table, batches: u64) -> BTreeMap<Vec<i64>, u64> {
    let length = table.config().sequence_length;
    let mut seen = BTreeMap::new();
    for _ in 0..batches * u64::from(table.counters().size > 0) {
        let drawn = table.sample(400).unwrap();
        let probabilities = drawn.items.probabilities;
        for (window, p) in windows(&drawn.columns, length)
            .into_iter()
            .zip(probabilities)
        {
            seen.insert(window, (p * 1e6).round() as u64);
        }
    }
    seen
}

fn steps(length: usize, ids: std::ops::Range<i64>, ends: &[u32], priority: f64) -> StepBatch {
    let items = if length == 1 {
        ids.clone().count()
    } else {
        ends.len()
    };
    StepBatch::new(length, batch(ids), ends.to_vec(), vec![priority; items]).unwrap()
}

#[test]
fn items_priorities_counters_and_writers_numbers_come_back() {
    let mut disk = Disk::new(&config(1));
    disk.insert(WRITER, 0, &steps(1, 0..15, &[], 1.0));
    disk.insert(OTHER, 0, &steps(1, 100..110, &[], 3.0));
    let drawn = disk.table.sample(64).unwrap();
    let (updated, missing) = disk
        .table
        .update_priorities(&drawn.items.keys, &[2.0; 64])
        .unwrap();
    assert_eq!((updated, missing), (64, 0));
    disk.write();
    let (before, held) = (
        disk.table.counters(),
        contents(&mut disk.table.clone_by_log(&disk.segments)),
    );
    let (mut again, found) = disk.reopen();
    assert_eq!(again.table.counters(), before);
    assert_eq!(contents(&mut again.table), held);
    assert_eq!(held.len(), 20);
    assert_eq!((found.items, found.inserts, found.samples), (20, 25, 64));
    assert_eq!((found.writers, found.torn_bytes, found.damaged), (2, 0, 0));
    // What is delivered again is known, and what is new goes on.
    assert_eq!(again.insert(WRITER, 10, &steps(1, 10..16, &[], 1.0)), 16);
    assert_eq!(again.insert(OTHER, 0, &steps(1, 100..110, &[], 1.0)), 10);
    assert_eq!(again.table.counters().inserts, 26);
}

trait CloneByLog {
    fn clone_by_log(&self, segments: &BTreeMap<u32, Vec<u8>>) -> Table;
}

impl CloneByLog for Table {
    /// A table in the same state to look at, since looking draws.
    fn clone_by_log(&self, segments: &BTreeMap<u32, Vec<u8>>) -> Table {
        restore(self.config(), segments).0
    }
}

#[test]
fn sequences_come_back_with_the_steps_that_windows_to_come_reach_back_to() {
    let mut disk = Disk::new(&config(3));
    disk.insert(WRITER, 0, &steps(3, 0..5, &[2, 4], 1.0));
    disk.roll();
    disk.insert(OTHER, 0, &steps(3, 100..102, &[], 1.0));
    disk.insert(WRITER, 5, &steps(3, 5..6, &[0], 2.0));
    let (mut disk, found) = disk.reopen();
    assert_eq!(
        (found.items, found.segments, found.incomplete_items),
        (3, 2, 0)
    );
    assert_eq!(disk.table.bytes(), 6 * 20);
    disk.insert(WRITER, 6, &steps(3, 6..7, &[0], 1.0));
    disk.insert(OTHER, 2, &steps(3, 102..103, &[0], 1.0));
    let held: Vec<Vec<i64>> = contents(&mut disk.table).into_keys().collect();
    let expected = [[0, 1, 2], [2, 3, 4], [3, 4, 5], [4, 5, 6], [100, 101, 102]];
    assert_eq!(held, expected);
}

/// The log of a few operations of every kind, and the bytes at which each ends.
fn history(length: usize) -> (Disk, Vec<usize>) {
    let mut disk = Disk::new(&config(length));
    let mut ends = vec![disk.segments[&disk.current].len()];
    let first: &[u32] = if length == 1 { &[] } else { &[2, 3] };
    let every: &[u32] = if length == 1 { &[] } else { &[0, 1, 2, 3] };
    let mut next = 0;
    for i in 0..8 {
        let which = if i == 0 { first } else { every };
        next = disk.insert(
            WRITER,
            next,
            &steps(length, 4 * i..4 * i + 4, which, 1.0 + i as f64),
        );
        ends.push(disk.segments[&disk.current].len());
        if i % 2 == 1 {
            let keys = disk.table.sample(3).unwrap().items.keys;
            disk.table
                .update_priorities(&keys, &[0.5, 5.0, 50.0])
                .unwrap();
            disk.write();
            ends.push(disk.segments[&disk.current].len());
        }
    }
    (disk, ends)
}

/// Cut at every byte of the last record, and before: what was whole by then is there and nothing else.
#[test]
fn a_cut_at_any_byte_keeps_all_records_before_it() {
    for length in [1, 3] {
        let (disk, ends) = history(length);
        let whole = &disk.segments[&disk.current];
        let expected: Vec<(u64, BTreeMap<Vec<i64>, u64>)> = ends
            .iter()
            .map(|&end| {
                let (mut table, found) = restore(&config(length), &cut(&disk, end));
                assert_eq!(found.torn_bytes, 0);
                (found.inserts, contents(&mut table))
            })
            .collect();
        let last_two = ends[ends.len() - 3];
        for at in ends[0]..=whole.len() {
            if at < last_two && at % 7 != 0 {
                continue;
            }
            let (mut table, found) = restore(&config(length), &cut(&disk, at));
            let record = ends.iter().rposition(|&end| end <= at).unwrap();
            // The update of priorities writes two records, of which one may be whole.
            assert_eq!(found.inserts, expected[record].0, "cut at {at}");
            let held = contents(&mut table);
            assert!(held.keys().eq(expected[record].1.keys()), "cut at {at}");
            assert_eq!(found.damaged, 0);
        }
    }
}

fn cut(disk: &Disk, at: usize) -> BTreeMap<u32, Vec<u8>> {
    BTreeMap::from([(disk.current, disk.segments[&disk.current][..at].to_vec())])
}

/// Every byte of the log flipped, one at a time: it is noticed, and whatever is recovered is an item
/// that was inserted, whole.
#[test]
fn a_flipped_byte_anywhere_is_noticed_and_makes_no_wrong_item() {
    for length in [1usize, 3] {
        let (disk, _) = history(length);
        let whole = &disk.segments[&disk.current];
        let inserted: BTreeSet<Vec<i64>> = (0..32)
            .filter_map(|end: i64| {
                let start = end + 1 - length as i64;
                (start >= 0).then(|| (start..=end).collect())
            })
            .collect();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            let segments = BTreeMap::from([(disk.current, bytes)]);
            let (mut table, found) = restore(&config(length), &segments);
            assert!(found.damaged > 0 || found.torn_bytes > 0, "byte {at}");
            let held = drawn(&mut table, 1);
            assert!(
                held.keys().all(|window| inserted.contains(window)),
                "byte {at}"
            );
            assert_eq!(found.items - found.removed, table.counters().size);
        }
    }
}

/// Where each frame of a segment is.
fn frames(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        frames.push(at..at + 32 + len as usize);
        at += 32 + len as usize;
    }
    frames
}

fn inserted(segments: &BTreeMap<u32, Vec<u8>>) -> (u64, Found) {
    let (table, found) = restore(&config(1), segments);
    (table.counters().inserts, found)
}

/// Blocks of what was not synced reach the disk in any order: a record behind a hole may be there, but
/// nobody may be told that what came before it is.
#[test]
fn what_lies_behind_a_hole_that_was_not_safe_is_not_believed() {
    let mut disk = Disk::new(&config(1));
    let safe = disk.table.last_record();
    for i in 0..3 {
        let ids = 4 * i..4 * i + 4;
        disk.table
            .insert(WRITER, ids.start as u64, &steps(1, ids, &[], 1.0))
            .unwrap();
    }
    let bytes = disk.segments.get_mut(&disk.current).unwrap();
    disk.table.take_log(bytes);
    let frames = frames(bytes);
    let hole = frames[frames.len() - 2].clone();
    let behind = bytes.len() - hole.start;
    // The signature that the first gave the table, and the three.
    assert_eq!(frames.len() as u64, safe + 4);
    let mut holed = disk.segments.clone();
    holed.get_mut(&disk.current).unwrap()[hole].fill(0);
    // In the next segment too: its state has the places of writers whose steps are not there.
    disk.current = disk.table.begin_segment().unwrap();
    let mut next = Vec::new();
    disk.table.take_log(&mut next);
    holed.insert(disk.current, next.clone());
    let (inserts, found) = inserted(&holed);
    assert_eq!((inserts, found.damaged, found.segments), (4, 0, 1));
    assert_eq!(found.torn_bytes, behind + next.len());
    let (mut again, _) = Disk::open(&config(1), holed.clone());
    let next_sequence = again.table.open_writer(WRITER, &signature(), 1);
    assert_eq!(next_sequence, Ok(4));
    // A segment that ends too early, at the end of a record, shows nothing by itself.
    let cut = frames[frames.len() - 2].start;
    let first = holed.keys().next().copied().unwrap();
    holed.get_mut(&first).unwrap().truncate(cut);
    assert_eq!(inserted(&holed).0, 4);
    // Nor does one that is missing altogether.
    holed.remove(&first);
    assert_eq!(inserted(&holed).0, 0);
}

#[test]
fn damage_to_what_was_safe_costs_what_it_held_and_nothing_behind_it() {
    let mut disk = Disk::new(&config(1));
    for i in 0..3 {
        let ids = 4 * i..4 * i + 4;
        disk.insert(WRITER, ids.start as u64, &steps(1, ids, &[], 1.0));
        disk.roll();
    }
    let (first, last) = (*disk.segments.keys().next().unwrap(), disk.current);
    // The second insert is the last record of its segment, the state is the first.
    let second = frames(&disk.segments[&(first + 1)]).pop().unwrap();
    let mut damaged = disk.segments.clone();
    damaged.get_mut(&(first + 1)).unwrap()[second.end - 1] ^= 1;
    let (inserts, found) = inserted(&damaged);
    assert_eq!((inserts, found.damaged, found.torn_bytes), (12, 1, 0));
    assert_eq!((found.items, found.segments), (8, last - first + 1));
    // The state of the oldest segment is damaged: others say what the table is.
    let mut damaged = disk.segments.clone();
    damaged.get_mut(&first).unwrap()[40] ^= 1;
    let (_, found) = inserted(&damaged);
    assert_eq!((found.items, found.damaged), (12, 1));
    // A whole segment is gone from the middle.
    let mut damaged = disk.segments.clone();
    damaged.remove(&(first + 1));
    let (_, found) = inserted(&damaged);
    assert_eq!((found.items, found.damaged, found.torn_bytes), (8, 1, 0));
}

/// When a segment goes, the log says that it was safe: were the machine lost right afterwards, what comes
/// behind would be taken for what lies behind a hole.
#[test]
fn a_segment_goes_once_it_was_safe_and_the_log_says_so() {
    let mut disk = Disk::new(&config(1));
    disk.table
        .insert(WRITER, 0, &steps(1, 0..20, &[], 1.0))
        .unwrap();
    disk.table.begin_segment().unwrap();
    disk.table
        .insert(WRITER, 20, &steps(1, 20..40, &[], 1.0))
        .unwrap();
    assert_eq!(disk.table.drop_dead_segment(), None);
    let mut log = Vec::new();
    disk.table.take_log(&mut log);
    disk.table.safe_up_to(disk.table.last_record());
    assert_eq!(disk.table.drop_dead_segment(), Some(disk.current));
    disk.table.take_log(&mut log);
    let left = BTreeMap::from([(disk.current + 1, log)]);
    assert_eq!(inserted(&left).0, 40);
}

#[test]
fn what_a_smaller_table_has_removed_at_a_start_does_not_come_back() {
    for remover in SelectorKind::ALL {
        let larger = TableConfig {
            remover,
            ..config(1)
        };
        let smaller = TableConfig {
            max_size: 5,
            ..larger.clone()
        };
        let mut disk = Disk::new(&larger);
        disk.insert(WRITER, 0, &steps(1, 0..20, &[], 1.0));
        let (mut disk, found) = Disk::open(&smaller, disk.segments);
        assert_eq!(found.removed, 15);
        let held = contents(&mut disk.table);
        let (mut disk, found) = Disk::open(&larger, disk.segments);
        assert_eq!((found.items, found.removed), (5, 0), "{remover:?}");
        assert_eq!(contents(&mut disk.table), held);
    }
}

/// Bytes of a good log changed and given good checksums again, as no accident would: whatever they then
/// say, reading ends, and without a panic.
#[test]
fn records_that_lie_are_read_to_an_end() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for round in 0..20_000 {
        let length = [1, 3][round % 2];
        let (disk, _) = history(length);
        let mut bytes = disk.segments[&disk.current].clone();
        let mut at = 0;
        while at < bytes.len() {
            let word = |i: usize| at + 4 * i..at + 4 * i + 4;
            let len = u32::from_le_bytes(bytes[word(1)].try_into().unwrap()) as usize;
            let payload = at + 32..at + 32 + len;
            for _ in 0..rng.random_range(0..3) {
                // The fields are in front, the steps behind.
                let target = rng.random_range(payload.start..payload.end.min(payload.start + 120));
                bytes[target] = [0, 1, 127, 255, rng.random()][rng.random_range(0..5)];
            }
            let crc = crc32fast::hash(&bytes[payload.clone()]).to_le_bytes();
            bytes[word(6)].copy_from_slice(&crc);
            let crc = crc32fast::hash(&bytes[at..at + 28]).to_le_bytes();
            bytes[word(7)].copy_from_slice(&crc);
            at = payload.end;
        }
        let mut restorer = Restorer::new(config(length)).unwrap();
        if restorer.scan(1, &bytes).is_ok()
            && let Ok(mut loader) = restorer.finish(5)
        {
            loader.load(1, &bytes);
            let (table, found) = loader.finish();
            assert_eq!(table.counters().size, found.items - found.removed);
        }
    }
}

#[test]
fn the_configuration_in_force_wins_and_what_changed_is_said() {
    let mut disk = Disk::new(&config(1));
    disk.insert(WRITER, 0, &steps(1, 0..20, &[], 1.0));
    let smaller = TableConfig {
        max_size: 5,
        sampler: SelectorKind::Uniform,
        ..config(1)
    };
    let (mut table, found) = restore(&smaller, &disk.segments);
    assert!(
        contents(&mut table)
            .keys()
            .flatten()
            .eq(&[15, 16, 17, 18, 19])
    );
    assert_eq!((found.items, found.removed), (20, 15));
    assert_eq!(
        found.changed,
        [
            "max_size: 20 stored, 5 in force",
            "sampler: \"prioritized\" stored, \"uniform\" in force"
        ]
    );
    let mut restorer = Restorer::new(config(3)).unwrap();
    let refused = restorer.scan(disk.current, &disk.segments[&disk.current]);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "sequence_length: expected 1 as in the data directory, got 3"
    );
}

#[test]
fn the_limiter_goes_on_where_it_was() {
    let ratio = TableConfig {
        limiter: LimiterKind::SamplesPerInsert,
        samples_per_insert: 2.0,
        min_size_to_sample: 10,
        error_buffer: Some(8.0),
        ..config(1)
    };
    let mut disk = Disk::new(&ratio);
    let all = steps(1, 0..30, &[], 1.0);
    assert_eq!(disk.insert(WRITER, 0, &all), 14);
    disk.table.sample(6).unwrap();
    let changes = Changes {
        error_buffer: Some(16.0),
        ..Changes::default()
    };
    disk.table.configure(&changes).unwrap();
    disk.write();
    let (mut disk, found) = Disk::open(&ratio, disk.segments);
    assert_eq!(found.changed, ["error_buffer: 16.0 stored, 8.0 in force"]);
    // diff was 22, of 12 to 28.
    assert_eq!(disk.insert(WRITER, 0, &all), 17);
    assert!(disk.table.sample(17).is_err());
    assert!(disk.table.sample(16).is_ok());
}

#[test]
fn draws_are_remembered_where_they_are_bounded() {
    let bounded = TableConfig {
        sampler: SelectorKind::Fifo,
        max_times_sampled: 3,
        ..config(1)
    };
    let mut disk = Disk::new(&bounded);
    disk.insert(WRITER, 0, &steps(1, 0..5, &[], 1.0));
    disk.table.sample(4).unwrap();
    disk.write();
    let (mut disk, found) = disk.reopen();
    assert_eq!(found.items, 4);
    let drawn = disk.table.sample(3).unwrap();
    assert_eq!(ids(&drawn.columns), [1, 1, 2]);
    assert_eq!(drawn.items.times_sampled, [2, 3, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Inserts, draws, updates, new segments, moves out of old ones and restarts in any order, any
    /// remover: the table that comes back is the one there was, and segments do not pile up.
    #[test]
    fn any_history_comes_back(
        length in prop::sample::select(vec![1usize, 3]),
        remover in prop::sample::select(&SelectorKind::ALL[..]),
        actions in prop::collection::vec((0u8..8, any::<u16>()), 1..120),
    ) {
        let config = TableConfig { remover, ..config(length) };
        let mut disk = Disk::new(&config);
        let mut next = [0u64, 0];
        for (action, value) in actions {
            match action {
                0..=3 => {
                    let writer = usize::from(value & 1);
                    let count = i64::from(value >> 1 & 7) + 1;
                    let start = next[writer] as i64;
                    let ends: Vec<u32> = (0..count as u32)
                        .filter(|i| length > 1 && value >> (4 + i) & 1 == 1)
                        .filter(|&i| start + i64::from(i) >= 2)
                        .collect();
                    let ids = start + 10_000 * writer as i64;
                    let priority = f64::from(value % 5) + 0.5;
                    let sent = steps(length, ids..ids + count, &ends, priority);
                    next[writer] = disk.insert([WRITER, OTHER][writer], next[writer], &sent);
                }
                4 if disk.table.counters().size > 0 => {
                    let keys = disk.table.sample(4).unwrap().items.keys;
                    let priority = f64::from(value % 7) + 0.25;
                    disk.table.update_priorities(&keys, &[priority; 4]).unwrap();
                    disk.write();
                }
                5 => disk.roll(),
                6 => disk.compact(usize::from(value % 9) + 1),
                7 => {
                    let counters = disk.table.counters();
                    let bytes = disk.table.bytes();
                    let held = contents(&mut restore(&config, &disk.segments).0);
                    let (again, found) = disk.reopen();
                    disk = again;
                    prop_assert_eq!(disk.table.counters(), counters);
                    prop_assert_eq!(disk.table.bytes(), bytes);
                    prop_assert_eq!((found.damaged, found.torn_bytes, found.incomplete_items), (0, 0, 0));
                    prop_assert_eq!(contents(&mut restore(&config, &disk.segments).0), held);
                }
                _ => {}
            }
        }
        disk.roll();
        for _ in 0..200 {
            disk.compact(10);
        }
        prop_assert!(disk.segments.len() <= 2, "{} segments", disk.segments.len());
        let counters = disk.table.counters();
        let held = contents(&mut disk.table);
        let (mut again, _) = restore(&config, &disk.segments);
        prop_assert_eq!(again.counters(), counters);
        prop_assert_eq!(contents(&mut again), held);
    }
}

/// Or the log of small steps would be moved for ever to get below a bound that it cannot reach.
#[test]
fn what_is_alive_takes_no_more_than_is_said_once_it_was_moved() {
    for length in [1, 3] {
        let mut disk = Disk::new(&config(length));
        let ends: Vec<u32> = (2..20).filter(|_| length > 1).collect();
        disk.insert(WRITER, 0, &steps(length, 0..20, &ends, 1.0));
        disk.roll();
        let before = disk.segments[&disk.current].len() as u64;
        disk.table.move_from_oldest_segment(usize::MAX);
        disk.write();
        let moved = disk.segments[&disk.current].len() as u64 - before;
        // Beside it there is one record's header.
        let said = disk.table.live_log_bytes();
        assert!((said..=said + 64).contains(&moved), "{moved} {said}");
    }
}

/// What a reset left is what a start finds: nothing before it, whatever segment it is in, also where the
/// table has another signature since.
#[test]
fn a_reset_holds_over_restarts_and_lets_another_signature_in() {
    for (length, rolls) in [(1, false), (1, true), (3, false), (3, true)] {
        let mut disk = Disk::new(&config(length));
        let ends = |len: u32| {
            if length == 1 {
                vec![]
            } else {
                (2..len).collect()
            }
        };
        let steps = StepBatch::new(length, batch(0..9), ends(9), vec![]).unwrap();
        disk.insert(WRITER, 0, &steps);
        if rolls {
            disk.roll();
            disk.insert(OTHER, 0, &steps);
        }
        disk.table.reset();
        disk.write();
        let inserts = disk.table.counters().inserts;
        let (mut disk, found) = disk.reopen();
        assert_eq!((found.items, found.inserts, found.damaged), (0, inserts, 0));
        assert_eq!(disk.table.signature(), None);

        // Another kind of steps, and the numbers go on.
        let other = Signature {
            columns: vec![ColumnSpec::new("other", DType::U8, &[5])],
        };
        let data: Vec<u8> = (0..45).collect();
        let columns = ColumnBatch::new(&other, 9, vec![data.clone().into()]).unwrap();
        let steps = StepBatch::new(length, columns, ends(9), vec![]).unwrap();
        assert_eq!(disk.table.open_writer(WRITER, &other, length), Ok(9));
        disk.insert(WRITER, 9, &steps);
        let items = disk.table.counters().size;
        let config = disk.table.config().clone();
        disk.compact(100);
        let (mut table, found) = restore(&config, &disk.segments);
        assert_eq!((found.items, found.damaged), (items, 0), "{length} {rolls}");
        assert_eq!(table.signature(), Some(&other));
        for _ in 0..20 {
            let drawn = table.sample(4).unwrap();
            let mut rows = drawn.columns.columns()[0].chunks(5);
            assert!(rows.all(|row| data.chunks(5).any(|own| own == row)));
        }
    }
}

#[test]
fn deleted_items_stay_away_over_restarts() {
    let mut disk = Disk::new(&config(1));
    disk.insert(WRITER, 0, &StepBatch::transitions(batch(0..10)));
    let drawn = disk.table.sample(3).unwrap();
    let (deleted, _) = disk.table.delete(&drawn.items.keys);
    disk.write();
    let gone = ids(&drawn.columns);
    let (mut disk, found) = disk.reopen();
    assert_eq!(found.items, 10 - deleted);
    let held = contents(&mut disk.table);
    assert!(gone.iter().all(|id| !held.contains_key(&[*id][..])));
}

/// Items that have lengths of their own keep them over restarts, moves from segment to segment included.
#[test]
fn items_of_their_own_lengths_come_back() {
    let config = TableConfig {
        min_sequence_length: Some(1),
        ..config(4)
    };
    let ragged = |ids: Range<i64>, ends: &[u32], lengths: &[u32]| {
        let batch = steps(4, ids, ends, 1.0);
        batch.with_lengths(1..=4, lengths.to_vec()).unwrap()
    };
    let held = |table: &mut Table| -> BTreeSet<Vec<i64>> {
        let drawn = table.sample(400).unwrap();
        let windows = ragged_windows(&drawn.columns, &drawn.items.lengths);
        windows.into_iter().collect()
    };
    let mut disk = Disk::new(&config);
    disk.insert(WRITER, 0, &ragged(0..6, &[0, 3, 5], &[1, 4, 2]));
    disk.roll();
    disk.insert(WRITER, 6, &ragged(6..8, &[1], &[3]));
    let expected = BTreeSet::from([vec![0], vec![0, 1, 2, 3], vec![4, 5], vec![5, 6, 7]]);
    assert_eq!(held(&mut disk.table), expected);
    let (mut disk, found) = disk.reopen();
    assert_eq!((found.items, found.incomplete_items), (4, 0));
    assert_eq!(held(&mut disk.table), expected);
    assert_eq!(disk.table.bytes(), 8 * 20);
    let before = disk.segments[&disk.current].len() as u64;
    disk.table.move_from_oldest_segment(usize::MAX);
    disk.write();
    let moved = disk.segments[&disk.current].len() as u64 - before;
    let said = disk.table.live_log_bytes();
    assert!(moved <= said, "{moved} {said}");
    disk.compact(usize::MAX);
    disk.compact(usize::MAX);
    let (mut disk, found) = disk.reopen();
    assert_eq!((found.items, found.damaged), (4, 0));
    assert_eq!(held(&mut disk.table), expected);
    // The next reach back as before.
    disk.insert(WRITER, 8, &ragged(8..9, &[0], &[4]));
    assert!(held(&mut disk.table).contains(&[5, 6, 7, 8][..]));

    // A table that takes such items no more refuses those that are there.
    let mut restorer = Restorer::new(self::config(4)).unwrap();
    let (&first, bytes) = disk.segments.first_key_value().unwrap();
    assert!(restorer.survey(bytes));
    assert_eq!(
        restorer.scan(first, bytes).unwrap_err().to_string(),
        "min_sequence_length: expected at most 1 as in the data directory, got 4"
    );
}
