//! Writes our own format: Minari's Parquet layout, with labels and the specification.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, RecordBatch,
    StructArray,
};
use arrow_schema::{ArrowError, DataType, Field, Fields};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use pmpo_types::EnvironmentSpec;
use serde_json::{Value, json};

use super::{COLUMNS, LABEL, SPEC, space};
use crate::dataset::About;
use crate::episode::{Episode, check_spec};
use crate::error::{DataError, InFile, refused, unreadable};
use crate::folder::Draft;

/// The version whose layout is written.
const VERSION: &str = "0.5.4";

/// A data set in the making. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    draft: Draft,
    spec: EnvironmentSpec,
    metadata: Value,
    episodes: usize,
    steps: u64,
    bytes: u64,
    /// Whether there is a label column; the first episode says so.
    labelled: Option<bool>,
}

impl Writer {
    /// Begins a data set that will be at `path`.
    ///
    /// # Errors
    /// Something is there, its folder cannot be written, or no episode can be of this specification.
    pub fn create(path: &Path, spec: &EnvironmentSpec, about: &About) -> Result<Self, DataError> {
        check_spec(spec).in_file(path)?;
        let draft = Draft::new(path)?;
        let data = draft.path().join("data");
        fs::create_dir(&data).in_file(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            metadata: metadata(&name, spec, about),
            draft,
            spec: spec.clone(),
            episodes: 0,
            steps: 0,
            bytes: 0,
            labelled: None,
        })
    }

    /// Appends an episode.
    ///
    /// # Errors
    /// It is not of the specified shape, not finite, or with labels where the others have none; or the file
    /// system refused.
    pub fn push(&mut self, episode: &Episode) -> Result<(), DataError> {
        let (folder, table) = self.next();
        episode.check(&self.spec).in_file(&table)?;
        let labelled = !episode.labels.is_empty();
        if *self.labelled.get_or_insert(labelled) != labelled {
            let (expected, got) = match labelled {
                true => ("none, as in the episodes before", "some"),
                false => ("one a step, as in the episodes before", "none"),
            };
            return refused(&table, "labels", expected, got);
        }
        fs::create_dir(&folder).in_file(&folder)?;
        let batch = batch(&self.spec, episode)
            .or_else(|error| unreadable("columns of one length", error))
            .in_file(&table)?;
        write(&batch, &table)?;
        let said = json!({ "id": self.episodes, "total_steps": episode.steps() });
        let path = folder.join("metadata.json");
        fs::write(&path, said.to_string()).in_file(&path)?;
        self.bytes += table.metadata().in_file(&table)?.len();
        self.episodes += 1;
        self.steps += episode.steps() as u64;
        Ok(())
    }

    /// Makes the data set appear.
    ///
    /// # Errors
    /// It has no episode, or the file system refused; nothing has appeared then.
    pub fn finish(mut self) -> Result<(), DataError> {
        let path = self.draft.path().join("data/metadata.json");
        if self.episodes == 0 {
            return refused(&path, "episodes", "at least 1", 0);
        }
        self.metadata["total_episodes"] = self.episodes.into();
        self.metadata["total_steps"] = self.steps.into();
        self.metadata["dataset_size"] = (self.bytes as f64 / 1e6).into();
        fs::write(&path, self.metadata.to_string()).in_file(&path)?;
        self.draft.publish()
    }

    fn next(&self) -> (PathBuf, PathBuf) {
        let folder = self.draft.path().join(format!("data/{}", self.episodes));
        let table = folder.join("part-0.parquet");
        (folder, table)
    }
}

fn metadata(name: &str, spec: &EnvironmentSpec, about: &About) -> Value {
    // Minari wants a version at the end of a name.
    let versioned = name
        .rsplit_once("-v")
        .is_some_and(|(_, version)| version.parse::<u32>().is_ok());
    let list = |text: &str| -> Vec<String> {
        let parts = text.split(',').map(|part| part.trim().to_owned());
        parts.filter(|part| !part.is_empty()).collect()
    };
    json!({
        "dataset_id": if versioned { name.to_owned() } else { format!("{name}-v0") },
        "data_format": "parquet",
        "jpeg_encoding": false,
        "minari_version": VERSION,
        "observation_space": space::observation_space(spec),
        "action_space": space::action_space(spec),
        "author": list(&about.author),
        "author_email": list(&about.author_email),
        "algorithm_name": about.algorithm,
        "code_permalink": about.code,
        "description": about.description,
        SPEC: spec,
    })
}

/// The rows of an episode: one more than its steps, with zeros where nothing was done any more.
fn batch(spec: &EnvironmentSpec, episode: &Episode) -> Result<RecordBatch, ArrowError> {
    let steps = episode.steps();
    let padded = |values: &[f32], width: usize| {
        let mut values = values.to_vec();
        values.resize((steps + 1) * width, 0.0);
        lists(values, width)
    };
    let last = |flag: bool| -> ArrayRef {
        let flags = (0..steps + 1).map(|row| Some(flag && row + 1 == steps));
        Arc::new(flags.collect::<BooleanArray>())
    };
    let mut rewards = episode.rewards.clone();
    rewards.push(0.0);
    let values = [
        observations(spec, episode)?,
        padded(&episode.actions, spec.action_size())?,
        Arc::new(Float64Array::from(rewards)),
        last(episode.terminated),
        last(!episode.terminated),
    ];
    let mut columns: Vec<(&str, ArrayRef)> = COLUMNS.into_iter().zip(values).collect();
    if !episode.labels.is_empty() {
        let labels = episode.labels.iter().copied().chain([None]);
        columns.push((LABEL, Arc::new(labels.collect::<BooleanArray>())));
    }
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(nullable)
}

fn observations(spec: &EnvironmentSpec, episode: &Episode) -> Result<ArrayRef, ArrowError> {
    if space::is_unnamed(spec) {
        return lists(episode.observations.clone(), spec.observation_size());
    }
    let width = spec.observation_size();
    let mut start = 0;
    let mut column = |size: usize| {
        let rows = episode.observations.chunks_exact(width);
        let values = rows
            .flat_map(|row| &row[start..start + size])
            .copied()
            .collect();
        start += size;
        lists(values, size)
    };
    let columns = spec.observation.iter().map(|field| column(field.size));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let named = spec.observation.iter().zip(&columns);
    let fields: Fields = named
        .map(|(field, column)| Field::new(&field.name, column.data_type().clone(), true))
        .collect();
    Ok(Arc::new(StructArray::try_new(fields, columns, None)?))
}

/// A column of lists of one width.
pub(crate) fn lists(values: Vec<f32>, width: usize) -> Result<ArrayRef, ArrowError> {
    let element = Arc::new(Field::new("element", DataType::Float32, true));
    let values = Arc::new(Float32Array::from(values));
    let lists = FixedSizeListArray::try_new(element, width as i32, values, None)?;
    Ok(Arc::new(lists))
}

/// How tables are written: floats that hardly repeat are not worth a dictionary.
pub(crate) fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false)
        .build()
}

fn write(batch: &RecordBatch, path: &Path) -> Result<(), DataError> {
    let file = File::create_new(path).in_file(path)?;
    let written =
        ArrowWriter::try_new(file, batch.schema(), Some(properties())).and_then(|mut writer| {
            writer.write(batch)?;
            writer.close()
        });
    written
        .map(|_| ())
        .or_else(|error| unreadable("a file that can be written", error))
        .in_file(path)
}
