//! A table from outside: what is stored, what is drawn, what is refused.

mod common;

use common::{WRITER, batch, contents, ids, signature, steps, table};
use pmpo_replay_core::selector::SelectorKind;
use pmpo_replay_core::{Blocked, Changes, Error, LimiterKind, Table, TableConfig};
use pmpo_types::{ColumnBatch, ColumnSpec, DType, SampledBatch, Signature, StepBatch, WriterId};
use proptest::prelude::*;

#[test]
fn batches_are_contiguous_columns_of_whole_items() {
    let mut table = table(10_000, 1);
    assert_eq!(table.insert(WRITER, 0, &steps(0..5_000)), Ok(5_000));
    let SampledBatch {
        columns, counters, ..
    } = table.sample(256).unwrap();
    assert_eq!(columns, batch(ids(&columns)));
    assert_eq!(
        (counters.size, counters.inserts, counters.samples),
        (5_000, 5_000, 256)
    );
    assert_eq!(table.bytes(), 5_000 * 20);
}

#[test]
fn draws_are_uniform_over_what_a_full_table_holds() {
    // Pearson's chi-squared over 100 items; 149 is the 0.999 quantile for 99 degrees of freedom.
    let mut table = table(100, 1);
    table.insert(WRITER, 0, &steps(0..250)).unwrap();
    let mut counts = [0u32; 100];
    for _ in 0..100 {
        for id in ids(&table.sample(1_000).unwrap().columns) {
            counts[usize::try_from(id).unwrap() - 150] += 1;
        }
    }
    let chi_squared: f64 = counts
        .iter()
        .map(|&count| (f64::from(count) - 1_000.0).powi(2) / 1_000.0)
        .sum();
    assert!(chi_squared < 149.0, "{chi_squared}");
}

/// Whatever slots they have come to lie in; and to read them is not to draw them.
#[test]
fn items_are_read_in_the_order_of_age() {
    let mut table = table(10, 1);
    table.insert(WRITER, 0, &steps(0..25)).unwrap();
    let before = table.counters();
    let read: Vec<Vec<i64>> = table.oldest_first(4).map(|columns| ids(&columns)).collect();
    assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!(read.concat(), (15..25).collect::<Vec<_>>());
    assert_eq!(table.counters(), before);
}

#[test]
fn a_full_table_forgets_its_oldest_items() {
    let mut table = table(10, 1);
    for start in (0..40).step_by(4) {
        table
            .insert(WRITER, start as u64, &steps(start..start + 4))
            .unwrap();
        let oldest = (start + 4 - 10).max(0);
        assert_eq!(
            contents(&mut table),
            (oldest..start + 4).collect::<Vec<_>>()
        );
    }
    // More than a table's worth at once.
    table.insert(WRITER, 40, &steps(40..10_040)).unwrap();
    assert_eq!(contents(&mut table), (10_030..10_040).collect::<Vec<_>>());
    assert_eq!(table.counters().size, 10);
}

#[test]
fn the_same_seed_draws_the_same_items() {
    let draw = |seed| {
        let config = TableConfig {
            min_size_to_sample: 1,
            ..TableConfig::default()
        };
        let mut table = Table::new(config, seed).unwrap();
        table.open_writer(WRITER, &signature(), 1).unwrap();
        table.insert(WRITER, 0, &steps(0..50)).unwrap();
        ids(&table.sample(64).unwrap().columns)
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn what_is_delivered_twice_is_stored_once_and_gaps_are_refused() {
    let mut table = table(1_000, 1);
    assert_eq!(table.insert(WRITER, 0, &steps(0..10)), Ok(10));
    assert_eq!(table.insert(WRITER, 0, &steps(0..10)), Ok(10));
    assert_eq!(table.insert(WRITER, 5, &steps(5..15)), Ok(15));
    let gap = Err(Error::Gap {
        expected: 15,
        got: 16,
    });
    assert_eq!(table.insert(WRITER, 16, &steps(16..20)), gap);
    let unknown = Err(Error::UnknownWriter(WriterId(8)));
    assert_eq!(table.insert(WriterId(8), 0, &steps(0..1)), unknown);
    assert_eq!(table.counters().inserts, 15);
    assert_eq!(contents(&mut table), (0..15).collect::<Vec<_>>());
    table.close_writer(WRITER);
    assert_eq!(table.open_writer(WRITER, &signature(), 1), Ok(15));
}

#[test]
fn the_limiter_lets_in_a_part_of_a_batch_and_the_rest_later() {
    let config = TableConfig {
        samples_per_insert: 2.0,
        min_size_to_sample: 10,
        error_buffer: Some(8.0),
        ..TableConfig::default()
    };
    let mut table = Table::new(config, 0).unwrap();
    table.open_writer(WRITER, &signature(), 1).unwrap();
    assert_eq!(table.sample(4).unwrap_err().reason, Blocked::MinSize);
    // offset 20, max_diff 28: 14 inserts.
    let all = steps(0..20);
    assert_eq!(table.insert(WRITER, 0, &all), Ok(14));
    assert_eq!(table.insert(WRITER, 0, &all), Ok(14));
    table.sample(4).unwrap();
    assert_eq!(table.insert(WRITER, 0, &all), Ok(16));
    // min_diff 12: from 28 down, 16 samples.
    table.sample(16).unwrap();
    assert_eq!(table.sample(1).unwrap_err().reason, Blocked::Inserts);
    assert_eq!(
        table.counters().samples,
        20,
        "a blocked batch is not counted"
    );
    assert_eq!(table.insert(WRITER, 0, &all), Ok(20));
    assert_eq!(table.counters().inserts, 20);
}

#[test]
fn another_signature_is_refused_and_the_column_named() {
    let mut table = table(10, 1);
    table.insert(WRITER, 0, &steps(0..1)).unwrap();
    let mut refused = |change: fn(&mut Signature)| {
        let mut other = signature();
        change(&mut other);
        let sampler = table.open_sampler(1, &other, 1).unwrap_err().to_string();
        let writer = table
            .open_writer(WriterId(9), &other, 1)
            .unwrap_err()
            .to_string();
        assert_eq!(sampler, writer);
        writer
    };
    assert_eq!(
        refused(|s| s.columns[1].shape = vec![4]),
        "signature.columns[1]: expected `thirds` f32 [3] as in the table, got `thirds` f32 [4]"
    );
    assert_eq!(
        refused(|s| s.columns[0].name = "ID".to_owned()),
        "signature.columns[0]: expected `id` i64 [] as in the table, got `ID` i64 []"
    );
    assert_eq!(
        refused(|s| drop(s.columns.pop())),
        "signature.columns: expected 2 columns as in the table, got 1 columns"
    );
}

/// A signature of one column, and a step of it.
fn other_kind() -> (Signature, StepBatch) {
    let other = Signature {
        columns: vec![ColumnSpec::new("other", DType::U8, &[])],
    };
    let step = ColumnBatch::new(&other, 1, vec![vec![7].into()]).unwrap();
    (other, StepBatch::transitions(step))
}

#[test]
fn the_first_step_that_is_stored_gives_the_table_its_signature() {
    let mut table = table(10, 1);
    let (other, step) = other_kind();
    table.open_sampler(1, &other, 1).unwrap();
    table.open_writer(WriterId(9), &other, 1).unwrap();
    assert_eq!(table.signature(), None, "opening binds nobody");
    assert!(table.insert(WriterId(9), 5, &step).is_err(), "a gap");
    assert_eq!(table.signature(), None, "nothing was stored");
    assert_eq!(table.insert(WRITER, 0, &steps(0..3)), Ok(3));
    assert_eq!(table.signature(), Some(&signature()));
    // Who had opened the table before with another one is told when it counts, each time.
    for _ in 0..2 {
        let refused = table.insert(WriterId(9), 0, &step).unwrap_err().to_string();
        let expected =
            "signature.columns[0]: expected `id` i64 [] as in the table, got `other` u8 []";
        assert_eq!(refused, expected);
    }
    assert!(table.check_signature(&other).is_err());
    assert_eq!(table.counters().inserts, 3);
}

#[test]
fn items_are_deleted_by_their_keys_once() {
    for sampler in SelectorKind::ALL {
        let mut table = table_of(sampler);
        table.insert(WRITER, 0, &steps(0..10)).unwrap();
        let drawn = table.sample(1).unwrap();
        let gone = ids(&drawn.columns)[0];
        let keys = [drawn.items.keys[0], drawn.items.keys[0], u64::MAX];
        assert_eq!(table.delete(&keys), (1, 2), "{sampler:?}");
        assert_eq!(table.delete(&keys), (0, 3));
        let counters = table.counters();
        assert_eq!((counters.size, counters.inserts), (9, 10));
        for _ in 0..20 {
            let drawn = table.sample(50).unwrap();
            assert!(!ids(&drawn.columns).contains(&gone), "{sampler:?}");
        }
    }
}

/// A table that is drawn from in this way and never blocks.
fn table_of(sampler: SelectorKind) -> Table {
    let config = TableConfig {
        sampler,
        limiter: LimiterKind::None,
        ..TableConfig::default()
    };
    let mut table = Table::new(config, 3).unwrap();
    table.open_writer(WRITER, &signature(), 1).unwrap();
    table
}

#[test]
fn a_table_that_was_reset_is_as_new_but_for_what_was_ever_done() {
    let config = TableConfig {
        samples_per_insert: 2.0,
        min_size_to_sample: 10,
        error_buffer: Some(8.0),
        ..TableConfig::default()
    };
    let mut table = Table::new(config, 0).unwrap();
    table.open_writer(WRITER, &signature(), 1).unwrap();
    table.insert(WRITER, 0, &steps(0..12)).unwrap();
    table.sample(8).unwrap();
    table.reset();
    let counters = table.counters();
    assert_eq!(
        (counters.size, counters.inserts, counters.samples),
        (0, 12, 8)
    );
    assert_eq!((table.signature(), table.bytes()), (None, 0));
    assert_eq!(table.removed().items, 12);
    let (other, step) = other_kind();
    assert!(
        table.insert(WRITER, 12, &steps(0..1)).is_err(),
        "disconnected"
    );
    assert_eq!(
        table.open_writer(WRITER, &other, 1),
        Ok(12),
        "its number stays"
    );
    // `min_size_to_sample` counts anew: nothing is drawn of fewer, and ten fit.
    for sequence in 12..22 {
        assert!(table.sample(1).is_err());
        assert_eq!(table.insert(WRITER, sequence, &step), Ok(sequence + 1));
    }
    assert_eq!(table.sample(8).unwrap().columns.columns()[0][..], [7; 8]);
}

#[test]
fn batches_that_could_never_be_drawn_are_refused() {
    let config = TableConfig {
        samples_per_insert: 4.0,
        error_buffer: Some(16.0),
        max_batch_size: 32,
        ..TableConfig::default()
    };
    let mut table = Table::new(config.clone(), 0).unwrap();
    assert_eq!(table.open_sampler(28, &signature(), 1), Ok(()));
    assert_eq!(
        table
            .open_sampler(29, &signature(), 1)
            .unwrap_err()
            .to_string(),
        "batch_size: expected 1 to 28 (2 * error_buffer - samples_per_insert), got 29"
    );
    assert!(table.open_sampler(0, &signature(), 1).is_err());
    let mut roomy = Table::new(
        TableConfig {
            error_buffer: Some(1e3),
            ..config
        },
        0,
    )
    .unwrap();
    assert_eq!(
        roomy
            .open_sampler(33, &signature(), 1)
            .unwrap_err()
            .to_string(),
        "batch_size: expected 1 to 32 (max_batch_size), got 33"
    );
    assert_eq!(roomy.signature(), None, "a refused opener leaves no trace");
}

proptest! {
    /// A writer that delivers any stretches again and again, over lost acknowledgements, ends with
    /// every item stored once.
    #[test]
    fn any_redelivery_stores_every_item_once(
        deliveries in prop::collection::vec((0u64..30, 1u64..30), 1..60),
    ) {
        let mut table = table(10_000, 1);
        let mut stored = 0;
        for (back, len) in deliveries {
            let first = stored - back.min(stored);
            let items = steps(first as i64..(first + len) as i64);
            let next = table.insert(WRITER, first, &items).unwrap();
            prop_assert_eq!(next, stored.max(first + len));
            stored = next;
        }
        prop_assert_eq!(table.counters().inserts, stored);
        prop_assert_eq!(contents(&mut table), (0..stored as i64).collect::<Vec<_>>());
    }
}

fn bounded(config: TableConfig) -> Table {
    let mut table = Table::new(config, 3).unwrap();
    table.open_writer(WRITER, &signature(), 1).unwrap();
    table
}

fn with_priorities(first: i64, priorities: &[f64]) -> StepBatch {
    let steps = batch(first..first + priorities.len() as i64);
    StepBatch::new(1, steps, vec![], priorities.to_vec()).unwrap()
}

#[test]
fn priorities_decide_what_is_drawn_and_what_is_removed() {
    let mut table = bounded(TableConfig {
        sampler: SelectorKind::MaxHeap,
        remover: SelectorKind::MinHeap,
        max_size: 3,
        limiter: LimiterKind::None,
        ..TableConfig::default()
    });
    table
        .insert(WRITER, 0, &with_priorities(0, &[2.0, 0.5, 7.0]))
        .unwrap();
    let drawn = table.sample(2).unwrap();
    assert_eq!(ids(&drawn.columns), [2, 2]);
    assert_eq!(drawn.items.times_sampled, [1, 2]);
    assert_eq!(drawn.items.probabilities, [1.0, 1.0]);
    let keys = drawn.items.keys;
    assert_eq!(table.update_priorities(&keys[..1], &[1.0]), Ok((1, 0)));
    assert_eq!(ids(&table.sample(1).unwrap().columns), [0]);
    // 1 leaves, having the lowest priority; then 2, after the update.
    table
        .insert(WRITER, 3, &with_priorities(3, &[3.0, 4.0]))
        .unwrap();
    assert_eq!(
        (table.removed().items, table.removed().times_sampled),
        (2, 2)
    );
    assert_eq!(table.update_priorities(&keys, &[9.0, 9.0]), Ok((0, 2)));
    assert_eq!(ids(&table.sample(1).unwrap().columns), [4]);
}

#[test]
fn items_without_a_priority_get_the_largest_so_far() {
    let mut table = bounded(TableConfig {
        sampler: SelectorKind::Prioritized,
        priority_exponent: 1.0,
        limiter: LimiterKind::None,
        ..TableConfig::default()
    });
    table
        .insert(WRITER, 0, &with_priorities(0, &[6.0, 2.0]))
        .unwrap();
    table.insert(WRITER, 2, &steps(2..4)).unwrap();
    let drawn = table.sample(2_000).unwrap();
    for (id, probability) in ids(&drawn.columns).iter().zip(drawn.items.probabilities) {
        let priority = if *id == 1 { 2.0 } else { 6.0 };
        assert!((probability - priority / 20.0).abs() < 1e-12);
    }
}

#[test]
fn priorities_for_selectors_without_them_are_refused() {
    let mut table = table(10, 1);
    assert_eq!(
        table
            .update_priorities(&[0], &[1.0])
            .unwrap_err()
            .to_string(),
        "table `replay` has no selector that uses priorities"
    );
}

#[test]
fn items_leave_once_they_were_drawn_often_enough() {
    let mut table = bounded(TableConfig {
        max_times_sampled: 2,
        limiter: LimiterKind::None,
        ..TableConfig::default()
    });
    table.open_sampler(8, &signature(), 1).unwrap();
    table.insert(WRITER, 0, &steps(0..10)).unwrap();
    let mut counts = [0; 10];
    for round in 1..=2 {
        let drawn = table.sample(8).unwrap();
        ids(&drawn.columns)
            .iter()
            .for_each(|&id| counts[id as usize] += 1);
        assert_eq!(drawn.counters.samples, 8 * round);
        let spent = counts.iter().filter(|&&count| count == 2).count();
        assert_eq!(table.counters().size, 10 - spent as u64);
    }
    assert!(counts.iter().all(|&count| count <= 2));
    let hold = table.sample(8).unwrap_err();
    assert_eq!(
        hold.to_string(),
        "waiting for inserts: draws left is 4, at least 8 is needed"
    );
    table.insert(WRITER, 10, &steps(10..12)).unwrap();
    table.sample(8).unwrap();
    assert_eq!(table.counters().size, 0);
    assert_eq!(table.sample(1).unwrap_err().reason, Blocked::MinSize);
}

#[test]
fn draws_that_were_lost_do_not_block_inserts_for_ever() {
    // Two draws an item, two samples an insert: every item that leaves undrawn costs two samples that
    // nobody can take any more.
    let mut table = bounded(TableConfig {
        max_size: 4,
        max_times_sampled: 2,
        samples_per_insert: 2.0,
        min_size_to_sample: 2,
        error_buffer: Some(8.0),
        ..TableConfig::default()
    });
    table.open_sampler(4, &signature(), 1).unwrap();
    let (mut next, mut batches) = (0, 0);
    for _ in 0..200 {
        let before = (next, batches);
        next = table
            .insert(WRITER, next, &steps(next as i64..next as i64 + 3))
            .unwrap();
        batches += u64::from(table.sample(4).is_ok());
        assert_ne!((next, batches), before, "somebody can go on");
    }
    assert!(batches >= 100, "{batches}");
}

#[test]
fn bounds_change_while_the_table_is_in_use_all_or_none() {
    let mut table = table(100, 10);
    table.open_sampler(32, &signature(), 1).unwrap();
    table.insert(WRITER, 0, &steps(0..100)).unwrap();
    let changes = Changes {
        max_size: Some(40),
        min_size_to_sample: Some(20),
        ..Changes::default()
    };
    table.configure(&changes).unwrap();
    assert_eq!(contents(&mut table), (60..100).collect::<Vec<_>>());
    assert_eq!(table.removed().items, 0, "of the last call");
    let before = table.config().clone();
    let refused = |table: &mut Table, changes: Changes| {
        let error = table.configure(&changes).unwrap_err().to_string();
        assert_eq!(table.config(), &before);
        error
    };
    let changes = Changes {
        max_size: Some(10),
        ..Changes::default()
    };
    assert_eq!(
        refused(&mut table, changes),
        "min_size_to_sample: expected at most max_size = 10, or nothing could be sampled, got 20"
    );
    let changes = Changes {
        error_buffer: Some(40.0),
        ..Changes::default()
    };
    assert_eq!(
        refused(&mut table, changes),
        "batch_size: expected 1 to 16 (2 * error_buffer - samples_per_insert), got 32"
    );
    let changes = Changes {
        max_bytes: Some(20 * 25),
        ..Changes::default()
    };
    table.configure(&changes).unwrap();
    assert_eq!((table.counters().size, table.bytes()), (25, 500));
    table.insert(WRITER, 100, &steps(100..110)).unwrap();
    assert_eq!(contents(&mut table), (85..110).collect::<Vec<_>>());
}
