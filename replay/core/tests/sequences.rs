//! Items of several steps: windows over steps that are stored once.

mod common;

use std::collections::BTreeSet;

use common::{WRITER, batch, ragged_windows, signature, windows};
use pmpo_replay_core::selector::SelectorKind;
use pmpo_replay_core::{Error, LimiterKind, Table, TableConfig};
use pmpo_types::{StepBatch, WriterId};
use proptest::prelude::*;

const STEP_BYTES: u64 = 20;

fn config(sequence_length: usize, max_size: usize) -> TableConfig {
    TableConfig {
        sequence_length,
        max_size,
        limiter: LimiterKind::None,
        ..TableConfig::default()
    }
}

fn table(config: TableConfig) -> Table {
    let length = config.sequence_length;
    let mut table = Table::new(config, 3).unwrap();
    table.open_writer(WRITER, &signature(), length).unwrap();
    table
}

/// Steps with these ids, and items that end at these positions.
fn steps(length: usize, ids: std::ops::Range<i64>, ends: &[u32]) -> StepBatch {
    StepBatch::new(length, batch(ids), ends.to_vec(), vec![]).unwrap()
}

/// All windows that many draws show.
fn contents(table: &mut Table) -> BTreeSet<Vec<i64>> {
    let length = table.config().sequence_length;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.extend(windows(&table.sample(200).unwrap().columns, length));
    }
    seen
}

fn window(end: i64, length: i64) -> Vec<i64> {
    (end + 1 - length..=end).collect()
}

#[test]
fn windows_overlap_reach_back_over_messages_and_store_each_step_once() {
    let mut table = table(config(4, 100));
    assert_eq!(table.insert(WRITER, 0, &steps(4, 0..6, &[3, 5])), Ok(6));
    assert_eq!(table.insert(WRITER, 6, &steps(4, 6..8, &[0, 1])), Ok(8));
    assert_eq!(table.insert(WRITER, 8, &steps(4, 8..10, &[])), Ok(10));
    let expected = [3, 5, 6, 7].map(|end| window(end, 4));
    assert_eq!(contents(&mut table), BTreeSet::from(expected));
    assert_eq!(table.bytes(), 8 * STEP_BYTES, "steps 0 to 7");
    assert_eq!(table.counters().size, 4);
}

#[test]
fn writers_do_not_mix_and_what_comes_twice_is_stored_once() {
    let mut table = table(config(3, 100));
    let other = WriterId(9);
    table.open_writer(other, &signature(), 3).unwrap();
    for start in [0, 2, 4] {
        let range = start..start + 2;
        let end: &[u32] = if start == 0 { &[] } else { &[0, 1] };
        let own = steps(3, range.clone(), end);
        let others = steps(3, 100 + range.start..100 + range.end, end);
        for _ in 0..2 {
            table.insert(WRITER, start as u64, &own).unwrap();
            table.insert(other, start as u64, &others).unwrap();
        }
    }
    // Reaches back over what is known already.
    assert_eq!(table.insert(WRITER, 3, &steps(3, 3..8, &[0, 2, 4])), Ok(8));
    let mut expected: BTreeSet<_> = [2, 3, 4, 5, 7].map(|end| window(end, 3)).into();
    expected.extend([102, 103, 104, 105].map(|end| window(end, 3)));
    assert_eq!(contents(&mut table), expected);
    assert_eq!(table.counters().inserts, 9);
}

#[test]
fn a_window_before_the_first_step_is_refused_and_leaves_nothing() {
    let mut table = table(config(4, 100));
    table.insert(WRITER, 0, &steps(4, 0..2, &[])).unwrap();
    let error = table
        .insert(WRITER, 2, &steps(4, 2..5, &[0, 2]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "steps.ends: expected at least 4 steps up to the end of an item, got 3 at position 0"
    );
    assert_eq!(table.counters().inserts, 0);
    assert_eq!(table.insert(WRITER, 2, &steps(4, 2..5, &[1, 2])), Ok(5));
}

#[test]
fn the_limiter_stops_before_the_step_at_which_an_item_ends_that_has_to_wait() {
    let mut table = table(TableConfig {
        limiter: LimiterKind::Queue,
        max_times_sampled: 1,
        sampler: SelectorKind::Fifo,
        ..config(2, 2)
    });
    let all = steps(2, 0..8, &[1, 3, 5, 7]);
    assert_eq!(table.insert(WRITER, 0, &all), Ok(5));
    assert_eq!(table.insert(WRITER, 0, &all), Ok(5));
    assert_eq!(windows(&table.sample(1).unwrap().columns, 2), [[0, 1]]);
    assert_eq!(table.insert(WRITER, 0, &all), Ok(7));
    assert_eq!(
        windows(&table.sample(2).unwrap().columns, 2),
        [[2, 3], [4, 5]]
    );
    assert_eq!(table.insert(WRITER, 0, &all), Ok(8));
    assert_eq!(windows(&table.sample(1).unwrap().columns, 2), [[6, 7]]);
    assert_eq!((table.counters().size, table.bytes()), (0, 0));
}

#[test]
fn items_of_another_length_are_refused() {
    let mut table = table(config(4, 100));
    let expected = Error::SequenceLength {
        expected: 4,
        got: 1,
    };
    assert_eq!(
        table.open_writer(WriterId(1), &signature(), 1),
        Err(expected.clone())
    );
    assert_eq!(
        table.open_sampler(1, &signature(), 1),
        Err(expected.clone())
    );
    assert_eq!(
        expected.to_string(),
        "sequence_length: expected 4 as in the table, got 1"
    );
}

#[test]
fn a_bound_in_bytes_counts_shared_steps_once() {
    let mut table = table(TableConfig {
        max_bytes: 12 * STEP_BYTES,
        ..config(4, 1_000)
    });
    // Windows that overlap by three: n of them take n + 3 steps.
    for step in 0..50 {
        let ends: &[u32] = if step < 3 { &[] } else { &[0] };
        table
            .insert(WRITER, step as u64, &steps(4, step..step + 1, ends))
            .unwrap();
        assert!(table.bytes() <= 12 * STEP_BYTES);
    }
    assert_eq!(table.counters().size, 9);
    let expected: BTreeSet<_> = (41..50).map(|end| window(end, 4)).collect();
    assert_eq!(contents(&mut table), expected);
}

/// Items of one to `longest` steps.
fn ragged(longest: usize, max_size: usize) -> TableConfig {
    TableConfig {
        min_sequence_length: Some(1),
        ..config(longest, max_size)
    }
}

/// Steps with these ids, and items that end at these positions and have these lengths.
fn ragged_steps(
    longest: usize,
    ids: std::ops::Range<i64>,
    ends: &[u32],
    lengths: &[u32],
) -> StepBatch {
    let batch = steps(longest, ids, ends);
    let batch = batch.with_lengths(1..=longest as u32, lengths.to_vec());
    batch.unwrap()
}

/// All windows that many draws show.
fn ragged_contents(table: &mut Table) -> BTreeSet<Vec<i64>> {
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let drawn = table.sample(200).unwrap();
        seen.extend(ragged_windows(&drawn.columns, &drawn.items.lengths));
    }
    seen
}

#[test]
fn items_have_the_lengths_their_writer_gives_them() {
    let mut table = table(ragged(4, 100));
    let first = ragged_steps(4, 0..6, &[0, 3, 5], &[1, 4, 2]);
    assert_eq!(table.insert(WRITER, 0, &first), Ok(6));
    // Three steps of the message before, and none at all; one as long as can be, said by no length.
    let second = ragged_steps(4, 6..8, &[0, 1], &[4, 1]);
    assert_eq!(table.insert(WRITER, 6, &second), Ok(8));
    assert_eq!(table.insert(WRITER, 8, &steps(4, 8..9, &[0])), Ok(9));
    let expected = [(0, 1), (3, 4), (5, 2), (6, 4), (7, 1), (8, 4)];
    let expected = expected.map(|(end, length)| window(end, length));
    assert_eq!(ragged_contents(&mut table), BTreeSet::from(expected));
    assert_eq!(table.bytes(), 9 * STEP_BYTES);
}

#[test]
fn lengths_that_a_table_does_not_take_are_refused_and_leave_nothing() {
    let config = TableConfig {
        min_sequence_length: Some(2),
        ..config(4, 100)
    };
    let mut table = table(config);
    let refused = |table: &mut Table, lengths: &[u32]| {
        let batch = ragged_steps(4, 0..6, &[1, 3], lengths);
        table.insert(WRITER, 0, &batch).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&mut table, &[2, 1]),
        "steps.lengths: expected 2 to 4 steps, got 1"
    );
    // Its second item is whole, its first is not.
    assert_eq!(
        refused(&mut table, &[3, 2]),
        "steps.ends: expected at least 3 steps up to the end of an item, got 2 at position 1"
    );
    // And the other way round.
    let batch = ragged_steps(4, 0..6, &[1, 2], &[2, 4]);
    assert_eq!(
        table.insert(WRITER, 0, &batch).unwrap_err().to_string(),
        "steps.ends: expected at least 4 steps up to the end of an item, got 3 at position 2"
    );
    assert_eq!(table.counters().inserts, 0);
    assert_eq!(table.bytes(), 0);
    let mut fixed = self::table(self::config(4, 100));
    let batch = ragged_steps(4, 0..6, &[4], &[3]);
    assert_eq!(
        fixed.insert(WRITER, 0, &batch).unwrap_err().to_string(),
        "steps.lengths: expected 4 to 4 steps, got 3"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever two writers send, in messages of any size, with windows anywhere and any remover: the
    /// table holds whole windows of one writer, and counts the steps they cover.
    #[test]
    fn windows_are_whole_whatever_was_removed(
        messages in prop::collection::vec((0usize..2, 1usize..12, any::<u16>()), 1..60),
        remover in prop::sample::select(&SelectorKind::ALL[..]),
        max_size in 1usize..8,
    ) {
        let mut table = table(TableConfig { remover, ..config(3, max_size) });
        table.open_writer(WriterId(8), &signature(), 3).unwrap();
        let mut next = [0i64, 0];
        let mut inserted = 0;
        for (writer, len, mask) in messages {
            let first = next[writer];
            let start = first + 1_000 * writer as i64;
            let ends: Vec<u32> = (0..len as u32)
                .filter(|&i| mask >> i & 1 == 1 && first + i64::from(i) >= 2)
                .collect();
            inserted += ends.len() as u64;
            let writer_id = [WRITER, WriterId(8)][writer];
            let sent = steps(3, start..start + len as i64, &ends);
            prop_assert_eq!(table.insert(writer_id, first as u64, &sent), Ok((first + len as i64) as u64));
            next[writer] += len as i64;
            let size = table.counters().size;
            prop_assert_eq!(size, inserted.min(max_size as u64));
            if size > 0 {
                let held = contents(&mut table);
                prop_assert!(held.iter().all(|w| w[1] == w[0] + 1 && w[2] == w[0] + 2));
                prop_assert_eq!(held.len() as u64, size);
                let covered: BTreeSet<i64> = held.into_iter().flatten().collect();
                prop_assert_eq!(table.bytes(), covered.len() as u64 * STEP_BYTES);
            }
        }
        prop_assert_eq!(table.counters().inserts, inserted);
    }

    /// The same of items with any lengths.
    #[test]
    fn windows_of_any_lengths_are_whole_whatever_was_removed(
        messages in prop::collection::vec((1usize..12, any::<u16>(), any::<u64>()), 1..40),
        remover in prop::sample::select(&SelectorKind::ALL[..]),
        max_size in 1usize..8,
    ) {
        let mut table = table(TableConfig { remover, ..ragged(5, max_size) });
        let mut first = 0;
        let mut inserted = Vec::new();
        for (len, mask, lengths) in messages {
            let ends: Vec<u32> = (0..len as u32).filter(|&i| mask >> i & 1 == 1).collect();
            // From 1 to 5, and no longer than there are steps.
            let length = |&end: &u32| {
                let steps = (first + i64::from(end) + 1).min(5) as u64;
                (1 + (lengths >> end) % steps) as u32
            };
            let lengths: Vec<u32> = ends.iter().map(length).collect();
            let items = ends.iter().zip(&lengths);
            inserted.extend(items.map(|(&end, &length)| window(first + i64::from(end), length.into())));
            let sent = ragged_steps(5, first..first + len as i64, &ends, &lengths);
            let next = first + len as i64;
            prop_assert_eq!(table.insert(WRITER, first as u64, &sent), Ok(next as u64));
            first = next;
            let size = table.counters().size;
            prop_assert_eq!(size, (inserted.len() as u64).min(max_size as u64));
            if size > 0 {
                let held = ragged_contents(&mut table);
                prop_assert!(held.iter().all(|window| inserted.contains(window)));
                prop_assert_eq!(held.len() as u64, size);
                let covered: BTreeSet<i64> = held.into_iter().flatten().collect();
                prop_assert_eq!(table.bytes(), covered.len() as u64 * STEP_BYTES);
            }
        }
    }
}
