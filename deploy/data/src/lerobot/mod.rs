//! LeRobot's layout, version 3: few Parquet files of many episodes, a row a step, with JSON beside them.
//!
//! A row has what was observed before its action, so nobody recorded what the last action of an episode led
//! to; the last observation then stands for it. Where `next.done` ends an episode, `next.truncated` says whether
//! a limit did; without that column the task did. The files do not say what actions are allowed: bounds are what
//! `meta/stats.json` has seen. Layout: `lerobot/datasets/utils.py`.

mod places;
pub(crate) mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pmpo_types::{ActionSpec, ConfigError, EnvironmentSpec, ObservationField};
use serde_json::{Map, Value};

use crate::columns::Columns;
use crate::episode::{Episode, MAX_WIDTH, check_spec};
use crate::error::{DataError, InFile, refused, unreadable};
use crate::json;
use crate::table::Encoding;
use places::{Place, places};

pub use writer::export_lerobot;

/// The only place that version 3 has for its data.
const DATA_PATH: &str = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet";
/// The key of the specification in `info.json`.
const SPEC: &str = "pmpo";
const STATE: &str = "observation.state";
const ACTION: &str = "action";
const REWARD: &str = "next.reward";
const DONE: &str = "next.done";
const TRUNCATED: &str = "next.truncated";
pub(crate) const LABEL: &str = "label";

/// An open data set.
#[derive(Debug)]
pub(crate) struct LeRobot {
    folder: PathBuf,
    spec: EnvironmentSpec,
    /// Features of the observation, and values of each.
    observation: Vec<(String, usize)>,
    episodes: Vec<Place>,
    steps: u64,
    truncated: bool,
    labelled: bool,
}

impl LeRobot {
    pub(crate) fn open(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join("meta/info.json");
        let info = json::read(&path)?;
        let features = features(&info).in_file(&path)?;
        let observation = observation(&features).in_file(&path)?;
        let action = features[ACTION];
        let spec = match info.get(SPEC) {
            Some(value) => serde_json::from_value(value.clone())
                .or_else(|error| unreadable("a specification", error))
                .map_err(|error| error.within(SPEC))
                .in_file(&path)?,
            None => derived(folder, &observation, action)?,
        };
        check_spec(&spec).in_file(&path)?;
        let width: usize = observation.iter().map(|(_, size)| size).sum();
        if (spec.observation_size(), spec.action_size()) != (width, action) {
            let got = format!("{width} and {action}");
            let expected = format!(
                "{} and {} values",
                spec.observation_size(),
                spec.action_size()
            );
            return refused(&path, "observation and action", expected, got);
        }
        let episodes = places(folder)?;
        let total = json::count(&info, "total_episodes").in_file(&path)?;
        if total != episodes.len() as u64 || episodes.is_empty() {
            let expected = format!(
                "as many as in meta/episodes, {}, and at least 1",
                episodes.len()
            );
            return refused(&path, "total_episodes", expected, total);
        }
        Ok(Self {
            folder: folder.to_owned(),
            steps: episodes.iter().map(|place| place.steps as u64).sum(),
            spec,
            observation,
            episodes,
            truncated: features.contains_key(TRUNCATED),
            labelled: features.contains_key(LABEL),
        })
    }

    pub(crate) fn spec(&self) -> &EnvironmentSpec {
        &self.spec
    }

    pub(crate) fn len(&self) -> usize {
        self.episodes.len()
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn is_labelled(&self) -> bool {
        self.labelled
    }

    pub(crate) fn read(&self, episode: usize) -> Result<Episode, DataError> {
        let place = self.place(episode)?;
        let path = self.file(place);
        let mut names = vec![ACTION, REWARD, DONE, TRUNCATED, LABEL, "episode_index"];
        names.extend(self.observation.iter().map(|(name, _)| name.as_str()));
        let rows = place.start..place.start + place.steps;
        let columns = Encoding::Parquet.read(&path, &names, Some(rows))?;
        let within = format!("episode {episode}, from row {}", place.start);
        if columns.rows() != place.steps {
            let expected = format!("{} rows", place.steps);
            return refused(&path, within, expected, columns.rows());
        }
        let indices: Vec<f64> = columns.numbers(&["episode_index".to_owned()], 1)?;
        if let Some(row) = indices.iter().position(|&index| index != episode as f64) {
            let field = format!("row {} of episode_index", place.start + row);
            return refused(&path, field, episode.to_string(), indices[row]);
        }
        let read = self.episode(&columns, place.steps, &within)?;
        let checked = read
            .check(&self.spec)
            .map_err(|error| error.within(&within));
        checked.in_file(&path)?;
        Ok(read)
    }

    fn episode(
        &self,
        columns: &Columns<'_>,
        steps: usize,
        within: &str,
    ) -> Result<Episode, DataError> {
        let mut parts = Vec::new();
        for (name, size) in &self.observation {
            parts.push((
                columns.numbers::<f32>(std::slice::from_ref(name), *size)?,
                *size,
            ));
        }
        let mut observations = Vec::with_capacity((steps + 1) * self.spec.observation_size());
        // The last observation stands for the one after the last action.
        for row in (0..steps).chain([steps - 1]) {
            for (values, size) in &parts {
                observations.extend_from_slice(&values[row * size..(row + 1) * size]);
            }
        }
        let done = columns.flags(DONE)?;
        if let Some(row) = done[..steps - 1].iter().position(|&done| done) {
            let refusal = ConfigError::new(
                format!("row {row} of {DONE}"),
                "false before the last row",
                true,
            );
            return Err(refusal.within(within)).in_file(columns.path);
        }
        let truncated = self.truncated && columns.flags(TRUNCATED)?[steps - 1];
        Ok(Episode {
            observations,
            actions: columns.numbers(&[ACTION.to_owned()], self.spec.action_size())?,
            rewards: columns.numbers(&[REWARD.to_owned()], 1)?,
            terminated: done[steps - 1] && !truncated,
            labels: match self.labelled {
                true => columns.labels(&[LABEL.to_owned()])?,
                false => Vec::new(),
            },
        })
    }

    /// A feature as labels.
    pub(crate) fn column(
        &self,
        episode: usize,
        name: &str,
    ) -> Result<Vec<Option<bool>>, DataError> {
        let place = self.place(episode)?;
        let rows = place.start..place.start + place.steps;
        let path = self.file(place);
        let columns = Encoding::Parquet.read(&path, &[name], Some(rows))?;
        columns.labels(&[name.to_owned()])
    }

    fn place(&self, episode: usize) -> Result<&Place, DataError> {
        let expected = || ConfigError::new("episode", format!("below {}", self.len()), episode);
        let place = self.episodes.get(episode).ok_or_else(expected);
        place.in_file(&self.folder)
    }

    fn file(&self, place: &Place) -> PathBuf {
        self.folder.join(place.path())
    }

    /// The files of the data, each with its number of rows by episode, in their order.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<usize>)> {
        let mut files: Vec<(PathBuf, Vec<usize>)> = Vec::new();
        for (episode, place) in self.episodes.iter().enumerate() {
            let path = self.file(place);
            match files.last_mut() {
                Some((last, episodes)) if *last == path => episodes.push(episode),
                _ => files.push((path, vec![episode])),
            }
        }
        files
    }
}

/// Values a row of each feature of numbers, Booleans or texts.
fn features(info: &Map<String, Value>) -> Result<HashMap<String, usize>, ConfigError> {
    let version = json::text(info, "codebase_version")?;
    if !version.starts_with("v3.") {
        let expected = "v3; LeRobot converts older ones by `python -m lerobot.datasets.v30.convert_dataset_v21_to_v30`";
        return Err(ConfigError::new("codebase_version", expected, version));
    }
    let path = json::text(info, "data_path")?;
    if path != DATA_PATH {
        return Err(ConfigError::new(
            "data_path",
            DATA_PATH,
            format!("{path:?}"),
        ));
    }
    let none = Map::new();
    let features = info
        .get("features")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let mut sizes = HashMap::new();
    for (name, feature) in features {
        let dtype = feature
            .get("dtype")
            .and_then(Value::as_str)
            .unwrap_or("nothing");
        if matches!(dtype, "video" | "image") {
            return Err(ConfigError::new(name, "a feature of numbers", dtype));
        }
        let shape = feature.get("shape").and_then(Value::as_array);
        let shape = shape.map(|shape| shape.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
        let Some(Some(shape)) = shape else {
            return Err(ConfigError::new(name, "a shape", "none"));
        };
        let size = shape
            .iter()
            .try_fold(1_u64, |product, &n| product.checked_mul(n));
        match size.map(|size| size as usize) {
            Some(size @ 1..=MAX_WIDTH) => sizes.insert(name.clone(), size),
            _ => {
                return Err(ConfigError::new(
                    name,
                    "at least one value",
                    format!("{shape:?}"),
                ));
            }
        };
    }
    for name in [ACTION, REWARD, DONE] {
        if !sizes.contains_key(name) {
            return Err(ConfigError::new("features", name, "none of that name"));
        }
    }
    Ok(sizes)
}

/// The features that are observed: the robot's state first, then the others by name.
fn observation(features: &HashMap<String, usize>) -> Result<Vec<(String, usize)>, ConfigError> {
    let observed = features
        .iter()
        .filter(|(name, _)| name.starts_with("observation."));
    let mut observed: Vec<(String, usize)> = observed.map(|(n, &size)| (n.clone(), size)).collect();
    observed.sort_by_key(|(name, _)| (name != STATE, name.clone()));
    match observed.is_empty() {
        true => Err(ConfigError::new("features", STATE, "none of that name")),
        false => Ok(observed),
    }
}

/// The specification of data that others have recorded.
fn derived(
    folder: &Path,
    observation: &[(String, usize)],
    action: usize,
) -> Result<EnvironmentSpec, DataError> {
    let path = folder.join("meta/stats.json");
    let stats = json::read(&path)?;
    let stats = stats.get(ACTION).unwrap_or(&Value::Null);
    let bounds = |key: &str| {
        let values = json::numbers(stats.get(key).unwrap_or(&Value::Null), key)?;
        match values.len() == action {
            true => Ok(values),
            false => Err(ConfigError::new(
                key,
                format!("{action} values"),
                values.len(),
            )),
        }
    };
    let bounds = |key| {
        bounds(key)
            .map_err(|error| error.within(ACTION))
            .in_file(&path)
    };
    let field = |(name, size): &(String, usize)| ObservationField {
        name: name.trim_start_matches("observation.").to_owned(),
        size: *size,
    };
    let task = folder.canonicalize().in_file(folder)?;
    Ok(EnvironmentSpec {
        task: task
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        observation: observation.iter().map(field).collect(),
        action: ActionSpec {
            minimum: bounds("min")?,
            maximum: bounds("max")?,
        },
        control_timestep: 0.0,
        step_limit: None,
        action_repeat: 1,
    })
}
