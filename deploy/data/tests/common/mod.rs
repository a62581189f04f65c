//! Episodes to write, and what the tests do to files.

#![allow(dead_code, reason = "each test binary uses some")]

use std::fs::File;
use std::path::Path;

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pmpo_data::{About, DataSet, Episode, Writer};
use pmpo_types::{ActionSpec, EnvironmentSpec, ObservationField};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) fn spec() -> EnvironmentSpec {
    let field = |name: &str, size| ObservationField {
        name: name.to_owned(),
        size,
    };
    EnvironmentSpec {
        task: "walker-walk".to_owned(),
        // Not in the order of their names.
        observation: vec![
            field("velocity", 3),
            field("arm/height", 1),
            field("joints", 2),
        ],
        action: ActionSpec {
            minimum: vec![-1.0, f64::NEG_INFINITY],
            maximum: vec![1.0, 0.1],
        },
        control_timestep: 0.025,
        step_limit: Some(1000),
        action_repeat: 2,
    }
}

/// Episode `index`, of `index + 2` steps.
pub(crate) fn episode(index: usize, labelled: bool) -> Episode {
    let mut random = ChaCha8Rng::seed_from_u64(index as u64);
    let steps = index + 2;
    let mut values = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|_| random.random_range(-1.0_f32..1.0))
            .collect()
    };
    Episode {
        observations: values((steps + 1) * 6),
        actions: values(steps * 2),
        rewards: (0..steps).map(|step| step as f64 / 8.0).collect(),
        terminated: index % 2 == 1,
        labels: match labelled {
            true => (0..steps)
                .map(|step| [None, Some(true), Some(false)][step % 3])
                .collect(),
            false => Vec::new(),
        },
    }
}

pub(crate) fn about() -> About {
    About {
        author: "A. Author, B. Author".to_owned(),
        author_email: String::new(),
        algorithm: "random".to_owned(),
        code: "https://example.org".to_owned(),
        description: "a \"test\"".to_owned(),
    }
}

/// Writes five episodes.
pub(crate) fn write(path: &Path, labelled: bool) -> Vec<Episode> {
    let episodes: Vec<_> = (0..5).map(|index| episode(index, labelled)).collect();
    let mut writer = Writer::create(path, &spec(), &about()).unwrap();
    for episode in &episodes {
        writer.push(episode).unwrap();
    }
    writer.finish().unwrap();
    episodes
}

pub(crate) fn read(path: &Path) -> Vec<Episode> {
    let data = DataSet::open(path).unwrap();
    (0..data.len())
        .map(|episode| data.read(episode).unwrap())
        .collect()
}

/// The rows of a Parquet file.
pub(crate) fn rows(path: &Path) -> RecordBatch {
    let file = File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    reader.build().unwrap().next().unwrap().unwrap()
}

/// Writes a Parquet file anew with other rows.
pub(crate) fn replace(path: &Path, change: impl FnOnce(RecordBatch) -> RecordBatch) {
    let changed = change(rows(path));
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, changed.schema(), None).unwrap();
    writer.write(&changed).unwrap();
    writer.close().unwrap();
}
