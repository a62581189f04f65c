//! Writes LeRobot's layout: for its users, who get the observation as one feature `observation.state`.
//!
//! Rewards become f32, as theirs are. Labels become the texts `accept`, `reject` and none, since LeRobot's
//! loader has no place for a Boolean that is missing. Where each episode ended is not in this layout.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BooleanArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::ArrowError;
use parquet::arrow::ArrowWriter;
use pmpo_types::EnvironmentSpec;
use serde_json::{Map, Value, json};

use super::places::data_path;
use super::{ACTION, DATA_PATH, DONE, LABEL, REWARD, SPEC, STATE, TRUNCATED};
use crate::columns::{ACCEPT, REJECT};
use crate::dataset::DataSet;
use crate::episode::Episode;
use crate::error::{DataError, InFile, unreadable};
use crate::folder::Draft;
use crate::minari::writer::{lists, properties};

/// Files in a folder, and bytes in a file: LeRobot's defaults.
const CHUNK: usize = 1000;
const FILE_MB: usize = 100;

/// Writes a data set in LeRobot's layout, whole or not at all.
///
/// # Errors
/// An episode cannot be used, or `out` is there or cannot be written.
pub fn export_lerobot(data: &DataSet, out: &Path) -> Result<(), DataError> {
    let draft = Draft::new(out)?;
    let mut tables = Tables::new(draft.path(), data);
    for episode in 0..data.len() {
        tables.push(&data.read(episode)?)?;
    }
    tables.finish()?;
    draft.publish()
}

/// What is known of the episodes that are written.
struct Tables<'a> {
    folder: &'a Path,
    spec: &'a EnvironmentSpec,
    labelled: bool,
    fps: i64,
    open: Option<ArrowWriter<File>>,
    /// Number of the open file, and values in it.
    file: usize,
    values: usize,
    rows: i64,
    /// A row an episode: its file, its first row and the one after its last.
    episodes: Vec<[i64; 3]>,
    state: Statistics,
    action: Statistics,
    reward: Statistics,
}

impl<'a> Tables<'a> {
    fn new(folder: &'a Path, data: &'a DataSet) -> Self {
        let spec = data.spec();
        let seconds = spec.control_timestep * spec.action_repeat as f64;
        Self {
            folder,
            spec,
            labelled: data.is_labelled(),
            // A step a second where the specification does not know.
            fps: if seconds > 0.0 {
                (1.0 / seconds).round().max(1.0) as i64
            } else {
                1
            },
            open: None,
            file: 0,
            values: 0,
            rows: 0,
            episodes: Vec::new(),
            state: Statistics::new(spec.observation_size()),
            action: Statistics::new(spec.action_size()),
            reward: Statistics::new(1),
        }
    }

    fn push(&mut self, episode: &Episode) -> Result<(), DataError> {
        let steps = episode.steps();
        let observed = &episode.observations[..steps * self.spec.observation_size()];
        let rewards: Vec<f32> = episode
            .rewards
            .iter()
            .map(|&reward| reward as f32)
            .collect();
        self.state.add(observed);
        self.action.add(&episode.actions);
        self.reward.add(&rewards);
        let path = self.path();
        let batch = self
            .batch(episode, observed, rewards)
            .or_else(|error| unreadable("columns of one length", error))
            .in_file(&path)?;
        if self.open.is_none() {
            self.open = Some(create(&path, &batch)?);
        }
        if let Some(file) = &mut self.open {
            write(file, &batch, &path)?;
        }
        let (from, to) = (self.rows, self.rows + steps as i64);
        self.episodes.push([self.file as i64, from, to]);
        self.rows = to;
        self.values += observed.len() + episode.actions.len();
        if self.values * size_of::<f32>() >= FILE_MB << 20 {
            self.close()?;
            self.file += 1;
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.folder
            .join(data_path(self.file / CHUNK, self.file % CHUNK))
    }

    fn close(&mut self) -> Result<(), DataError> {
        self.values = 0;
        match self.open.take() {
            Some(file) => close(file, &self.path()),
            None => Ok(()),
        }
    }

    fn batch(
        &self,
        episode: &Episode,
        observed: &[f32],
        rewards: Vec<f32>,
    ) -> Result<RecordBatch, ArrowError> {
        let steps = episode.steps() as i64;
        let times = (0..steps).map(|step| step as f32 / self.fps as f32);
        let ends = |ends: bool| -> ArrayRef {
            let flags = (0..steps).map(|step| Some(ends && step + 1 == steps));
            Arc::new(flags.collect::<BooleanArray>())
        };
        let index = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            (
                STATE,
                lists(observed.to_vec(), self.spec.observation_size())?,
            ),
            (
                ACTION,
                lists(episode.actions.clone(), self.spec.action_size())?,
            ),
            (REWARD, Arc::new(Float32Array::from(rewards))),
            (DONE, ends(true)),
            (TRUNCATED, ends(!episode.terminated)),
            ("timestamp", Arc::new(times.collect::<Float32Array>())),
            ("frame_index", index((0..steps).collect())),
            (
                "episode_index",
                index(vec![self.episodes.len() as i64; steps as usize]),
            ),
            ("index", index((self.rows..self.rows + steps).collect())),
            ("task_index", index(vec![0; steps as usize])),
        ];
        if self.labelled {
            let texts = episode.labels.iter().map(|label| text(*label));
            columns.push((LABEL, Arc::new(StringArray::from_iter_values(texts))));
        }
        let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
        RecordBatch::try_from_iter_with_nullable(nullable)
    }

    fn finish(mut self) -> Result<(), DataError> {
        self.close()?;
        for (table, rows) in [
            ("tasks", self.tasks()),
            ("episodes/chunk-000/file-000", self.places()),
        ] {
            let path = self.folder.join(format!("meta/{table}.parquet"));
            let rows = rows.or_else(|e| unreadable("columns of one length", e));
            let rows = rows.in_file(&path)?;
            let mut file = create(&path, &rows)?;
            write(&mut file, &rows, &path)?;
            close(file, &path)?;
        }
        for (name, value) in [("stats", self.statistics()), ("info", self.info())] {
            let path = self.folder.join(format!("meta/{name}.json"));
            fs::write(&path, format!("{value:#}")).in_file(&path)?;
        }
        Ok(())
    }

    /// The one task, as pandas stores a table whose index is a text.
    fn tasks(&self) -> Result<RecordBatch, ArrowError> {
        let index: ArrayRef = Arc::new(Int64Array::from(vec![0]));
        let task: ArrayRef = Arc::new(StringArray::from(vec![self.spec.task.as_str()]));
        let columns = [("task_index", index, true), ("task", task, true)];
        let rows = RecordBatch::try_from_iter_with_nullable(columns)?;
        let metadata = HashMap::from([("pandas".to_owned(), pandas_index().to_string())]);
        let schema = rows.schema().as_ref().clone().with_metadata(metadata);
        rows.with_schema(Arc::new(schema))
    }

    fn places(&self) -> Result<RecordBatch, ArrowError> {
        let column = |value: &dyn Fn(usize, &[i64; 3]) -> i64| -> ArrayRef {
            let values = self
                .episodes
                .iter()
                .enumerate()
                .map(|(row, place)| value(row, place));
            Arc::new(values.collect::<Int64Array>())
        };
        let mut tasks = ListBuilder::new(StringBuilder::new());
        for _ in &self.episodes {
            tasks.append_value([Some(&self.spec.task)]);
        }
        let tasks: ArrayRef = Arc::new(tasks.finish());
        let columns = [
            ("episode_index", column(&|row, _| row as i64)),
            ("tasks", tasks),
            ("length", column(&|_, [_, from, to]| to - from)),
            (
                "data/chunk_index",
                column(&|_, [file, ..]| file / CHUNK as i64),
            ),
            (
                "data/file_index",
                column(&|_, [file, ..]| file % CHUNK as i64),
            ),
            ("dataset_from_index", column(&|_, [_, from, _]| *from)),
            ("dataset_to_index", column(&|_, [.., to]| *to)),
            ("meta/episodes/chunk_index", column(&|_, _| 0)),
            ("meta/episodes/file_index", column(&|_, _| 0)),
        ];
        let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
        RecordBatch::try_from_iter_with_nullable(nullable)
    }

    fn statistics(&self) -> Value {
        json!({ STATE: self.state.json(), ACTION: self.action.json(), REWARD: self.reward.json() })
    }

    fn info(&self) -> Value {
        let names = |prefix: &str, size: usize| -> Vec<String> {
            (0..size).map(|i| format!("{prefix}.{i}")).collect()
        };
        let fields = self.spec.observation.iter();
        let state: Vec<_> = fields
            .flat_map(|field| names(&field.name, field.size))
            .collect();
        let action = names(ACTION, self.spec.action_size());
        let mut features = Map::new();
        let mut feature = |name: &str, dtype: &str, shape: usize, names: Value| {
            let value = json!({ "dtype": dtype, "shape": [shape], "names": names });
            features.insert(name.to_owned(), value);
        };
        feature(STATE, "float32", state.len(), state.into());
        feature(ACTION, "float32", action.len(), action.into());
        feature(REWARD, "float32", 1, Value::Null);
        feature(DONE, "bool", 1, Value::Null);
        feature(TRUNCATED, "bool", 1, Value::Null);
        feature("timestamp", "float32", 1, Value::Null);
        for name in ["frame_index", "episode_index", "index", "task_index"] {
            feature(name, "int64", 1, Value::Null);
        }
        if self.labelled {
            feature(LABEL, "string", 1, Value::Null);
        }
        json!({
            "codebase_version": "v3.0",
            "robot_type": null,
            "total_episodes": self.episodes.len(),
            "total_frames": self.rows,
            "total_tasks": 1,
            "chunks_size": CHUNK,
            "data_files_size_in_mb": FILE_MB,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": { "train": format!("0:{}", self.episodes.len()) },
            "data_path": DATA_PATH,
            "video_path": null,
            "features": features,
            SPEC: self.spec,
        })
    }
}

/// A label as a text.
pub(crate) fn text(label: Option<bool>) -> &'static str {
    match label {
        Some(true) => ACCEPT,
        Some(false) => REJECT,
        None => "",
    }
}

/// That a table's column `task` is its index.
fn pandas_index() -> Value {
    let column = |name: &str, kind: &str, numpy: &str| json!({ "name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": null });
    json!({
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": { "library": "pyarrow", "version": "26.0.1" },
        "pandas_version": "2.3.3",
    })
}

fn create(path: &Path, batch: &RecordBatch) -> Result<ArrowWriter<File>, DataError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).in_file(folder)?;
    }
    let file = File::create_new(path).in_file(path)?;
    ArrowWriter::try_new(file, batch.schema(), Some(properties()))
        .or_else(|error| unreadable("a file that can be written", error))
        .in_file(path)
}

fn write(file: &mut ArrowWriter<File>, rows: &RecordBatch, path: &Path) -> Result<(), DataError> {
    file.write(rows)
        .or_else(|error| unreadable("a file that can be written", error))
        .in_file(path)
}

fn close(file: ArrowWriter<File>, path: &Path) -> Result<(), DataError> {
    file.close()
        .map(|_| ())
        .or_else(|error| unreadable("a file that can be written", error))
        .in_file(path)
}

/// Running statistics of each of some values: Welford's.
struct Statistics {
    count: f64,
    minimum: Vec<f64>,
    maximum: Vec<f64>,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Statistics {
    fn new(width: usize) -> Self {
        Self {
            count: 0.0,
            minimum: vec![f64::INFINITY; width],
            maximum: vec![f64::NEG_INFINITY; width],
            mean: vec![0.0; width],
            squares: vec![0.0; width],
        }
    }

    fn add(&mut self, rows: &[f32]) {
        for row in rows.chunks_exact(self.mean.len()) {
            self.count += 1.0;
            for (i, &value) in row.iter().enumerate() {
                let value = f64::from(value);
                self.minimum[i] = self.minimum[i].min(value);
                self.maximum[i] = self.maximum[i].max(value);
                let off = value - self.mean[i];
                self.mean[i] += off / self.count;
                self.squares[i] += off * (value - self.mean[i]);
            }
        }
    }

    fn json(&self) -> Value {
        let deviation = self
            .squares
            .iter()
            .map(|square| (square / self.count).sqrt());
        json!({
            "min": self.minimum,
            "max": self.maximum,
            "mean": self.mean,
            "std": deviation.collect::<Vec<_>>(),
            "count": [self.count as u64],
        })
    }
}
