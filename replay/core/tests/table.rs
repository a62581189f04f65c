//! A table from outside: what is stored, what is drawn, what is refused.

use bytes::Bytes;
use pmpo_replay_core::{Blocked, Error, Table, TableConfig};
use pmpo_types::{ColumnBatch, ColumnSpec, DType, SampledBatch, Signature, WriterId};
use proptest::prelude::*;

const WRITER: WriterId = WriterId(7);

/// An id, and a wider column that follows from it.
fn signature() -> Signature {
    let column = |name: &str, dtype, shape| ColumnSpec {
        name: name.to_owned(),
        dtype,
        shape,
    };
    let columns = vec![
        column("id", DType::I64, vec![]),
        column("thirds", DType::F32, vec![3]),
    ];
    Signature { columns }
}

fn batch(ids: impl IntoIterator<Item = i64>) -> ColumnBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let thirds = |id: i64| [id as f32, id as f32 / 3.0, -(id as f32)];
    let id: Bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let wide: Bytes = ids
        .iter()
        .flat_map(|&id| thirds(id))
        .flat_map(f32::to_le_bytes)
        .collect();
    ColumnBatch::new(&signature(), ids.len(), vec![id, wide]).unwrap()
}

fn ids(batch: &ColumnBatch) -> Vec<i64> {
    let ids = batch.columns()[0].chunks_exact(8);
    ids.map(|id| i64::from_le_bytes(id.try_into().unwrap()))
        .collect()
}

/// A table whose limiter hardly ever blocks.
fn table(max_size: usize, min_size_to_sample: usize) -> Table {
    let config = TableConfig {
        max_size,
        min_size_to_sample,
        error_buffer: Some(1e9),
        ..TableConfig::default()
    };
    let mut table = Table::new(config, 3).unwrap();
    table.open_writer(WRITER, &signature()).unwrap();
    table
}

/// Every id that shows up in many draws.
fn contents(table: &mut Table) -> Vec<i64> {
    let draws = (0..40).map(|_| table.sample(1_000).unwrap());
    let mut seen: Vec<i64> = draws.flat_map(|batch| ids(&batch.columns)).collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn batches_are_contiguous_columns_of_whole_items() {
    let mut table = table(10_000, 1);
    assert_eq!(table.insert(WRITER, 0, &batch(0..5_000)), Ok(5_000));
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
    table.insert(WRITER, 0, &batch(0..250)).unwrap();
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

#[test]
fn a_full_table_forgets_its_oldest_items() {
    let mut table = table(10, 1);
    for start in (0..40).step_by(4) {
        table
            .insert(WRITER, start as u64, &batch(start..start + 4))
            .unwrap();
        let oldest = (start + 4 - 10).max(0);
        assert_eq!(
            contents(&mut table),
            (oldest..start + 4).collect::<Vec<_>>()
        );
    }
    // More than a table's worth at once.
    table.insert(WRITER, 40, &batch(40..10_040)).unwrap();
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
        table.open_writer(WRITER, &signature()).unwrap();
        table.insert(WRITER, 0, &batch(0..50)).unwrap();
        ids(&table.sample(64).unwrap().columns)
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn what_is_delivered_twice_is_stored_once_and_gaps_are_refused() {
    let mut table = table(1_000, 1);
    assert_eq!(table.insert(WRITER, 0, &batch(0..10)), Ok(10));
    assert_eq!(table.insert(WRITER, 0, &batch(0..10)), Ok(10));
    assert_eq!(table.insert(WRITER, 5, &batch(5..15)), Ok(15));
    let gap = Err(Error::Gap {
        expected: 15,
        got: 16,
    });
    assert_eq!(table.insert(WRITER, 16, &batch(16..20)), gap);
    let unknown = Err(Error::UnknownWriter(WriterId(8)));
    assert_eq!(table.insert(WriterId(8), 0, &batch(0..1)), unknown);
    assert_eq!(table.counters().inserts, 15);
    assert_eq!(contents(&mut table), (0..15).collect::<Vec<_>>());
    table.close_writer(WRITER);
    assert_eq!(table.open_writer(WRITER, &signature()), Ok(15));
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
    table.open_writer(WRITER, &signature()).unwrap();
    assert_eq!(table.sample(4).unwrap_err(), Blocked::MinSize);
    // offset 20, max_diff 28: 14 inserts.
    let all = batch(0..20);
    assert_eq!(table.insert(WRITER, 0, &all), Ok(14));
    assert_eq!(table.insert(WRITER, 0, &all), Ok(14));
    table.sample(4).unwrap();
    assert_eq!(table.insert(WRITER, 0, &all), Ok(16));
    // min_diff 12: from 28 down, 16 samples.
    table.sample(16).unwrap();
    assert_eq!(table.sample(1).unwrap_err(), Blocked::Inserts);
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
    let mut refused = |change: fn(&mut Signature)| {
        let mut other = signature();
        change(&mut other);
        let sampler = table.open_sampler(1, &other).unwrap_err().to_string();
        let writer = table
            .open_writer(WriterId(9), &other)
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

#[test]
fn batches_that_could_never_be_drawn_are_refused() {
    let config = TableConfig {
        samples_per_insert: 4.0,
        error_buffer: Some(16.0),
        max_batch_size: 32,
        ..TableConfig::default()
    };
    let mut table = Table::new(config.clone(), 0).unwrap();
    assert_eq!(table.open_sampler(28, &signature()), Ok(()));
    assert_eq!(
        table
            .open_sampler(29, &signature())
            .unwrap_err()
            .to_string(),
        "batch_size: expected 1 to 28 (2 * error_buffer - samples_per_insert), got 29"
    );
    assert!(table.open_sampler(0, &signature()).is_err());
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
            .open_sampler(33, &signature())
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
            let items = batch(first as i64..(first + len) as i64);
            let next = table.insert(WRITER, first, &items).unwrap();
            prop_assert_eq!(next, stored.max(first + len));
            stored = next;
        }
        prop_assert_eq!(table.counters().inserts, stored);
        prop_assert_eq!(contents(&mut table), (0..stored as i64).collect::<Vec<_>>());
    }
}
