//! Damaged data sets are refused, in one line that says where.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray};
use common::{edit, into_arrow, replace, write, write_d4rl};
use pmpo_data::{DataSet, Format, export};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What is done to which file, and what the refusal says after the file's name.
type Case = (&'static str, fn(&Path), &'static str);

const TABLE: &str = "data/3/part-0.parquet";
const METADATA: &str = "data/metadata.json";

#[test]
fn what_is_wrong_with_ours_is_said() {
    let cases: Vec<Case> = vec![
        (
            TABLE,
            |p| rewards(p, 2, Some(f64::NAN)),
            "row 2 of rewards: expected a finite number, got NaN",
        ),
        (
            TABLE,
            |p| rewards(p, 1, None),
            "row 1 of rewards: expected a number, got nothing",
        ),
        (
            TABLE,
            |p| drop_column(p, "actions"),
            "actions: expected a column, got none of that name",
        ),
        (
            TABLE,
            |p| drop_column(p, "label"),
            "label: expected a column, got none of that name",
        ),
        (
            TABLE,
            |p| replace(p, |b| b.slice(0, 4)),
            "rows: expected one more than total_steps, which is 5 in its metadata.json, got 4",
        ),
        (
            TABLE,
            |p| as_column(p, "rewards", "actions"),
            "row 0 of rewards: expected a list of 1, got one of 2",
        ),
        (
            TABLE,
            |p| as_column(p, "actions", "rewards"),
            "actions: expected a list of 2, got Float64",
        ),
        (
            TABLE,
            |p| as_column(p, "observations", "rewards"),
            "observations/velocity: expected a column, got none of that name",
        ),
        (
            TABLE,
            |p| as_column(p, "terminations", "rewards"),
            "terminations: expected true or false, got Float64",
        ),
        (
            TABLE,
            ends_early,
            "row 1 of terminations: expected false before the last step, which is row 4, got true",
        ),
        (
            TABLE,
            |p| labels(p, "good"),
            "row 0 of label: expected a Boolean, `accept`, `reject` or nothing, got \"good\"",
        ),
        (
            TABLE,
            |p| cut(p, 200),
            "content: expected a whole Parquet file, got ",
        ),
        (
            TABLE,
            |p| cut(p, 0),
            "content: expected a whole Parquet file, got ",
        ),
        (
            TABLE,
            |p| fs::remove_file(p).unwrap(),
            "No such file or directory (os error 2)",
        ),
        (
            "data/3/metadata.json",
            |p| edit(p, "5", "6"),
            "rows: expected one more than total_steps, which is 6 in its metadata.json, got 6",
        ),
        (
            METADATA,
            |p| edit(p, "total_episodes\":5", "total_episodes\":6"),
            "No such file or directory (os error 2)",
        ),
        (
            METADATA,
            |p| edit(p, "total_episodes\":5", "total_episodes\":0"),
            "total_episodes: expected at least 1, got 0",
        ),
        (
            METADATA,
            |p| {
                edit(
                    p,
                    "total_episodes\":5",
                    "total_episodes\":18446744073709551615",
                )
            },
            "No such file or directory (os error 2)",
        ),
        (
            METADATA,
            |p| edit(p, "total_episodes", "total"),
            "total_episodes: expected a count, got nothing",
        ),
        (
            METADATA,
            |p| edit(p, "parquet", "lance"),
            "data_format: expected parquet, arrow or hdf5, got \"lance\"",
        ),
        (
            METADATA,
            |p| edit(p, "\"Dict", "\"Tuple"),
            "observation_space \"\": expected Box, or Dict of Box, with a shape, got Tuple",
        ),
        (
            METADATA,
            |p| edit(p, "\"Box", "\"Discrete"),
            "action_space: expected Box with a shape, got Discrete",
        ),
        (
            METADATA,
            |p| edit(p, "\"name\":\"velocity\"", "\"name\":\"speed\""),
            "observation_space: expected the field \"speed\" of 3 values, got none such",
        ),
        (
            METADATA,
            |p| edit(p, "\"size\":1", "\"size\":2"),
            "observation_space: expected the field \"arm/height\" of 2 values, got none such",
        ),
        (
            METADATA,
            |p| edit(p, "[3]", "[4294967296, 4294967296]"),
            "expected 1 to 16777216 values, got shape [4294967296, 4294967296]",
        ),
        (
            METADATA,
            |p| edit(p, "\"minimum\":[\"-1\",", "\"minimum\":[\"2\","),
            "action: expected lower bounds below the upper ones, got 2 and 1",
        ),
        (
            METADATA,
            |p| cut(p, 100),
            "content: expected JSON, got EOF while parsing",
        ),
    ];
    for (file, damage, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, true);
        damage(&path.join(file));
        check(&path, file, expected);
    }
}

#[test]
fn what_is_wrong_with_lerobot_s_is_said() {
    const FRAMES: &str = "data/chunk-000/file-000.parquet";
    const EPISODES: &str = "meta/episodes/chunk-000/file-000.parquet";
    const INFO: &str = "meta/info.json";
    let cases: Vec<Case> = vec![
        (
            FRAMES,
            |p| drop_column(p, "next.reward"),
            "next.reward: expected a column, got none of that name",
        ),
        (
            FRAMES,
            |p| replace(p, |b| b.slice(0, 11)),
            "episode 3, from row 9: expected 5 rows, got 2",
        ),
        (
            FRAMES,
            |p| replace(p, |b| b.slice(1, 19)),
            "row 1 of episode_index: expected 0, got 1",
        ),
        (
            FRAMES,
            |p| cut(p, 300),
            "content: expected a whole Parquet file, got ",
        ),
        (
            EPISODES,
            |p| replace(p, |b| b.slice(1, 4)),
            "row 0: expected episode 0 with its place, got episode 1 of 3 steps at 2",
        ),
        (
            EPISODES,
            |p| replace(p, |b| b.slice(0, 4)),
            "total_episodes: expected as many as in meta/episodes, 4, and at least 1, got 5",
        ),
        (
            EPISODES,
            |p| drop_column(p, "length"),
            "length: expected a column, got none of that name",
        ),
        (
            INFO,
            |p| edit(p, "\"v3.0\"", "\"v2.1\""),
            "codebase_version: expected v3; LeRobot converts older ones by",
        ),
        (
            INFO,
            |p| edit(p, "data/chunk-{", "../chunk-{"),
            "data_path: expected data/chunk-",
        ),
        (
            INFO,
            |p| edit(p, "next.done", "done"),
            "features: expected next.done, got none of that name",
        ),
        (
            INFO,
            |p| edit(p, "\"dtype\": \"float32\"", "\"dtype\": \"video\""),
            "expected a feature of numbers, got video",
        ),
    ];
    for (file, damage, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let [ours, path] = ["a", "b"].map(|name| folder.path().join(name));
        write(&ours, true);
        export(&DataSet::open(&ours).unwrap(), &path, Format::LeRobot).unwrap();
        damage(&path.join(file));
        check(&path, "", expected);
    }
}

#[test]
fn what_is_no_data_set_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.hdf5");
    fs::write(&file, b"no such thing").unwrap();
    for (path, expected) in [
        (
            folder.path().join("none"),
            "No such file or directory (os error 2)",
        ),
        (
            folder.path().to_owned(),
            "data set: expected Minari's data/metadata.json, LeRobot's meta/info.json, or a file of D4RL's, got neither",
        ),
        (file, "content: expected a whole HDF5 file, got "),
    ] {
        let error = DataSet::open(&path).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: {expected}", path.display())),
            "{error}"
        );
    }
}

/// Bytes that nobody wrote may be read as other numbers, but never panic: the decoders' own panics are caught.
#[test]
fn no_bytes_panic() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs, arrow, d4rl] = ["a", "b", "c", "d"].map(|name| folder.path().join(name));
    let episodes = write(&ours, true);
    export(&DataSet::open(&ours).unwrap(), &theirs, Format::LeRobot).unwrap();
    write(&arrow, true);
    into_arrow(&arrow);
    write_d4rl(&d4rl, &episodes);
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let files = [
        (&ours, TABLE),
        (&ours, METADATA),
        (&theirs, "data/chunk-000/file-000.parquet"),
        (&theirs, "meta/episodes/chunk-000/file-000.parquet"),
        (&theirs, "meta/info.json"),
        (&arrow, "data/3/part-0.arrow"),
        (&d4rl, ""),
    ];
    for (path, file) in files {
        let damaged = if file.is_empty() {
            path.clone()
        } else {
            path.join(file)
        };
        let whole = fs::read(&damaged).unwrap();
        for _ in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            if random.random_bool(0.2) {
                bytes.truncate(random.random_range(0..whole.len()));
            }
            fs::write(&damaged, &bytes).unwrap();
            read_all(path);
        }
        fs::write(&damaged, whole).unwrap();
        assert_eq!(read_all(path), None);
    }
}

/// What the first refusal says.
fn read_all(path: &Path) -> Option<String> {
    let read = || {
        let data = DataSet::open(path)?;
        (0..data.len().min(10)).try_for_each(|episode| data.read(episode).map(|_| ()))
    };
    let refusal: Result<(), pmpo_data::DataError> = read();
    refusal.err().map(|error| error.to_string())
}

fn check(path: &Path, file: &str, expected: &str) {
    let error = read_all(path).unwrap_or_else(|| panic!("not refused: {expected}"));
    assert!(
        error.contains(expected),
        "expected {expected:?} in {error:?}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    let named = path.join(file.rsplit_once('/').map_or("", |(folder, _)| folder));
    assert!(error.starts_with(named.to_str().unwrap()), "{error}");
}

fn put(path: &Path, name: &str, change: impl FnOnce(&RecordBatch) -> ArrayRef) {
    replace(path, |batch| {
        let new = change(&batch);
        let columns = batch.schema_ref().fields().iter().zip(batch.columns());
        let columns = columns.map(|(field, column)| {
            let column = if field.name() == name {
                new.clone()
            } else {
                column.clone()
            };
            (field.name().clone(), column, true)
        });
        RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<_>>()).unwrap()
    });
}

fn rewards(path: &Path, row: usize, value: Option<f64>) {
    put(path, "rewards", |batch| {
        let rewards = batch["rewards"].as_primitive::<Float64Type>();
        let changed = rewards
            .iter()
            .enumerate()
            .map(|(i, old)| if i == row { value } else { old });
        Arc::new(changed.collect::<Float64Array>())
    });
}

fn drop_column(path: &Path, name: &str) {
    replace(path, |mut batch| {
        let index = batch.schema().index_of(name).unwrap();
        batch.remove_column(index);
        batch
    });
}

fn as_column(path: &Path, name: &str, other: &str) {
    put(path, name, |batch| batch[other].clone());
}

fn ends_early(path: &Path) {
    put(path, "terminations", |batch| {
        let flags = (0..batch.num_rows()).map(|row| Some(row == 1 || row == 4));
        Arc::new(flags.collect::<BooleanArray>())
    });
}

fn labels(path: &Path, text: &str) {
    put(path, "label", |batch| {
        Arc::new(StringArray::from(vec![text; batch.num_rows()])) as Arc<dyn Array>
    });
}

fn cut(path: &Path, length: usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..length]).unwrap();
}
