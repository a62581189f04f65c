//! Minari's layout: a folder with `metadata.json`, and a folder an episode, or one HDF5 file of all.
//!
//! A table has one row more than the episode has steps: the last is where the episode ended, with zeros for
//! what is not observed. Layout: `minari/dataset/_storages/{arrow,hdf5}_storage.py` of version 0.5.4.

mod hdf5;
mod space;
pub(crate) mod writer;

use std::path::{Path, PathBuf};

use pmpo_types::{ConfigError, EnvironmentSpec};
use serde_json::{Map, Value};

use crate::columns::Columns;
use crate::dataset::About;
use crate::episode::{Episode, check_spec};
use crate::error::{DataError, InFile, refused};
use crate::json;
use crate::table::Encoding;
use space::Part;

pub use writer::Writer;

/// The key of the specification in the metadata.
const SPEC: &str = "pmpo";
/// The columns of an episode.
const COLUMNS: [&str; 5] = [
    "observations",
    "actions",
    "rewards",
    "terminations",
    "truncations",
];
/// The column of labels, which Minari passes over.
pub(crate) const LABEL: &str = "label";

/// An open data set.
#[derive(Debug)]
pub(crate) struct Minari {
    folder: PathBuf,
    storage: Storage,
    spec: EnvironmentSpec,
    about: About,
    /// Where the specification's fields are, in its order.
    parts: Vec<Part>,
    episodes: usize,
    steps: u64,
    labelled: bool,
}

#[derive(Debug)]
enum Storage {
    Tables(Encoding),
    Hdf5(hdf5::Store),
}

impl Minari {
    /// Of the folder that has the metadata.
    pub(crate) fn open(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join("metadata.json");
        let metadata = json::read(&path)?;
        let (spec, parts) = described(&metadata).in_file(&path)?;
        let episodes = json::count(&metadata, "total_episodes").in_file(&path)?;
        ConfigError::at_least_one("total_episodes", episodes).in_file(&path)?;
        let mut open = Self {
            folder: folder.to_owned(),
            storage: storage(folder, &metadata, episodes)?,
            spec,
            about: about(&metadata),
            parts,
            episodes: usize::try_from(episodes).unwrap_or(usize::MAX),
            steps: json::count(&metadata, "total_steps").in_file(&path)?,
            labelled: false,
        };
        if let Storage::Tables(encoding) = open.storage {
            // The last one first: a wrong total is then found at once.
            for episode in (0..open.episodes).rev() {
                let table = open.table(episode, encoding);
                table.metadata().in_file(&table)?;
            }
            let schema = encoding.schema(&open.table(0, encoding))?;
            open.labelled = schema.field_with_name(LABEL).is_ok();
        }
        Ok(open)
    }

    pub(crate) fn spec(&self) -> &EnvironmentSpec {
        &self.spec
    }

    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    pub(crate) fn layout(&self) -> &'static str {
        match self.storage {
            Storage::Tables(Encoding::Parquet) => "Minari, Parquet",
            Storage::Tables(Encoding::Arrow) => "Minari, Arrow",
            Storage::Hdf5(_) => "Minari, HDF5",
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.episodes
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn is_labelled(&self) -> bool {
        self.labelled
    }

    pub(crate) fn read(&self, episode: usize) -> Result<Episode, DataError> {
        self.has(episode)?;
        match &self.storage {
            Storage::Tables(encoding) => self.read_table(episode, *encoding),
            Storage::Hdf5(store) => store.read(episode, &self.spec, &self.parts),
        }
    }

    fn has(&self, episode: usize) -> Result<(), DataError> {
        if episode < self.episodes {
            return Ok(());
        }
        let expected = format!("below {}", self.episodes);
        refused(&self.folder, "episode", expected, episode)
    }

    fn read_table(&self, episode: usize, encoding: Encoding) -> Result<Episode, DataError> {
        let table = self.table(episode, encoding);
        let mut names = COLUMNS.to_vec();
        if self.labelled {
            names.push(LABEL);
        }
        let columns = encoding.read(&table, &names, None)?;
        let said = self.folder.join(format!("{episode}/metadata.json"));
        let steps = json::count(&json::read(&said)?, "total_steps").in_file(&said)?;
        let rows = columns.rows();
        if rows as u64 != steps.saturating_add(1) || steps == 0 {
            let expected =
                format!("one more than total_steps, which is {steps} in its metadata.json");
            return refused(&table, "rows", expected, rows);
        }
        let episode = self.episode(&columns, rows - 1)?;
        episode.check(&self.spec).in_file(&table)?;
        Ok(episode)
    }

    fn episode(&self, columns: &Columns<'_>, steps: usize) -> Result<Episode, DataError> {
        let width = self.spec.action_size();
        let mut actions = columns.numbers(&["actions".to_owned()], width)?;
        actions.truncate(steps * width);
        let mut rewards = columns.numbers(&["rewards".to_owned()], 1)?;
        rewards.truncate(steps);
        let terminations = columns.flags("terminations")?;
        let truncations = columns.flags("truncations")?;
        let ends = (&terminations[..steps], &truncations[..steps]);
        let mut labels = match self.labelled {
            true => columns.labels(&[LABEL.to_owned()])?,
            false => Vec::new(),
        };
        labels.truncate(steps);
        let column = |part: &Part| {
            let keys = std::iter::once("observations".to_owned()).chain(part.keys.clone());
            columns.numbers(&keys.collect::<Vec<_>>(), part.size)
        };
        let parts = self
            .parts
            .iter()
            .map(column)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Episode {
            observations: side_by_side(parts, &self.parts, steps + 1),
            actions,
            rewards,
            terminated: terminated(ends).in_file(columns.path)?,
            labels,
        })
    }

    /// A column as labels. What Minari has in `infos` came with what was observed, a row after the step.
    pub(crate) fn column(
        &self,
        episode: usize,
        name: &str,
    ) -> Result<Vec<Option<bool>>, DataError> {
        self.has(episode)?;
        let Storage::Tables(encoding) = self.storage else {
            let expected = "one whose columns are tables: import it first";
            return refused(&self.folder, "layout", expected, self.layout());
        };
        let table = self.table(episode, encoding);
        let keys: Vec<String> = name.split('/').map(str::to_owned).collect();
        let mut labels = encoding
            .read(&table, &[keys[0].as_str()], None)?
            .labels(&keys)?;
        match keys[0] == "infos" {
            true => labels.drain(..labels.len().min(1)).for_each(drop),
            false => drop(labels.pop()),
        }
        Ok(labels)
    }

    fn table(&self, episode: usize, encoding: Encoding) -> PathBuf {
        self.folder
            .join(format!("{episode}/part-0.{}", encoding.extension()))
    }

    /// The Parquet file of each episode, if there are such files.
    pub(crate) fn parquet_files(&self) -> Option<Vec<PathBuf>> {
        let Storage::Tables(Encoding::Parquet) = self.storage else {
            return None;
        };
        let files = (0..self.episodes).map(|episode| self.table(episode, Encoding::Parquet));
        Some(files.collect())
    }
}

/// The specification, and where its fields are.
fn described(metadata: &Map<String, Value>) -> Result<(EnvironmentSpec, Vec<Part>), ConfigError> {
    let space = |key: &str| json::parse(json::text(metadata, key)?).map_err(|e| e.within(key));
    let parts = space::parts(&space("observation_space")?)?;
    let action = space::action(&space("action_space")?)?;
    let spec = match metadata.get(SPEC) {
        Some(value) => serde_json::from_value(value.clone())
            .or_else(|error| crate::error::unreadable("a specification", error))
            .map_err(|error| error.within(SPEC))?,
        None => space::derived(metadata, &parts, action.clone())?,
    };
    check_spec(&spec)?;
    if spec.action_size() != action.minimum.len() {
        let expected = format!("{} values, as {SPEC} says", spec.action_size());
        return Err(ConfigError::new(
            "action_space",
            expected,
            action.minimum.len(),
        ));
    }
    let find = |field: &pmpo_types::ObservationField| {
        let part = parts
            .iter()
            .find(|p| p.name() == field.name && p.size == field.size);
        let expected = || format!("the field {:?} of {} values", field.name, field.size);
        part.cloned()
            .ok_or_else(|| ConfigError::new("observation_space", expected(), "none such"))
    };
    let parts = spec
        .observation
        .iter()
        .map(find)
        .collect::<Result<_, _>>()?;
    Ok((spec, parts))
}

fn storage(
    folder: &Path,
    metadata: &Map<String, Value>,
    episodes: u64,
) -> Result<Storage, DataError> {
    let path = folder.join("metadata.json");
    // Before there were others, there was no key.
    let format = match metadata.get("data_format") {
        None => "hdf5",
        Some(_) => json::text(metadata, "data_format").in_file(&path)?,
    };
    match format {
        "parquet" => Ok(Storage::Tables(Encoding::Parquet)),
        "arrow" => Ok(Storage::Tables(Encoding::Arrow)),
        "hdf5" => {
            let file = folder.join("main_data.hdf5");
            Ok(Storage::Hdf5(hdf5::Store::open(&file, episodes)?))
        }
        other => refused(
            &path,
            "data_format",
            "parquet, arrow or hdf5",
            format!("{other:?}"),
        ),
    }
}

fn about(metadata: &Map<String, Value>) -> About {
    let text = |key: &str| match metadata.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(texts)) => {
            let texts: Vec<&str> = texts.iter().filter_map(Value::as_str).collect();
            texts.join(", ")
        }
        _ => String::new(),
    };
    About {
        author: text("author"),
        author_email: text("author_email"),
        algorithm: text("algorithm_name"),
        code: text("code_permalink"),
        description: text("description"),
    }
}

/// The rows of several arrays, each row one after the other.
fn side_by_side(mut columns: Vec<Vec<f32>>, parts: &[Part], rows: usize) -> Vec<f32> {
    if columns.len() == 1 {
        return columns.swap_remove(0);
    }
    let mut flat = Vec::with_capacity(columns.iter().map(Vec::len).sum());
    for row in 0..rows {
        for (column, part) in columns.iter().zip(parts) {
            flat.extend_from_slice(&column[row * part.size..(row + 1) * part.size]);
        }
    }
    flat
}

/// Whether the last step ended the task; no step before it may have ended anything.
fn terminated((terminations, truncations): (&[bool], &[bool])) -> Result<bool, ConfigError> {
    let last = terminations.len() - 1;
    for (name, flags) in [("terminations", terminations), ("truncations", truncations)] {
        if let Some(row) = flags[..last].iter().position(|&flag| flag) {
            let place = format!("row {row} of {name}");
            let expected = format!("false before the last step, which is row {last}");
            return Err(ConfigError::new(place, expected, "true"));
        }
    }
    Ok(terminations[last])
}
