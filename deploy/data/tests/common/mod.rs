//! Episodes to write, and what the tests do to files.

#![allow(dead_code, reason = "each test binary uses some")]

use std::fs::{self, File};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_ipc::writer::FileWriter;
use hdf5_pure::FileBuilder;
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

/// Turns a data set of ours into one as Minari stores it in Arrow.
pub(crate) fn into_arrow(path: &Path) {
    for index in 0..5 {
        let [table, arrow] = ["parquet", "arrow"]
            .map(|extension| path.join(format!("data/{index}/part-0.{extension}")));
        let rows = rows(&table);
        let file = File::create(arrow).unwrap();
        let mut writer = FileWriter::try_new(file, rows.schema_ref()).unwrap();
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        fs::remove_file(table).unwrap();
    }
    edit(&path.join("data/metadata.json"), "parquet", "arrow");
}

/// Writes a file as D4RL's are: steps of all episodes one after the other, compressed.
pub(crate) fn write_d4rl(path: &Path, episodes: &[Episode]) {
    let mut file = FileBuilder::new();
    let mut add = |name: &str, values: Vec<f32>, width: u64| {
        let rows = values.len() as u64 / width;
        let dataset = file.create_dataset(name).with_f32_data(&values);
        dataset
            .with_shape(&[rows, width])
            .with_chunks(&[4, width])
            .with_deflate(4);
    };
    let all = |column: fn(&Episode) -> Vec<f32>| episodes.iter().flat_map(column).collect();
    add(
        "observations",
        all(|e| e.observations[..e.steps() * 6].to_vec()),
        6,
    );
    add(
        "next_observations",
        all(|e| e.observations[6..].to_vec()),
        6,
    );
    add("actions", all(|e| e.actions.clone()), 2);
    let rewards: Vec<f64> = episodes.iter().flat_map(|e| e.rewards.clone()).collect();
    let ends = |terminated: bool| -> Vec<u8> {
        let flags = episodes.iter().flat_map(|e| {
            let last = e.steps() - 1;
            (0..=last).map(move |step| u8::from(step == last && e.terminated == terminated))
        });
        flags.collect()
    };
    let rows = [rewards.len() as u64];
    file.create_dataset("rewards")
        .with_f64_data(&rewards)
        .with_shape(&rows);
    file.create_dataset("terminals")
        .with_u8_data(&ends(true))
        .with_shape(&rows);
    file.create_dataset("timeouts")
        .with_u8_data(&ends(false))
        .with_shape(&rows);
    file.write(path).unwrap();
}

pub(crate) fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}
