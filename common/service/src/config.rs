//! Layered configuration: defaults < preset < file < environment (`PMPO__SECTION__KEY`) < `key=value` from
//! the command line. Unknown keys are refused, and every message names the layer a value came from. Keys
//! that have moved are still read at their old place, in every layer.
//!
//! A section with a key `kind` is one of several variants, each with keys of its own. Where a layer
//! names another kind than the default or the preset, their keys there do not count.

use std::path::{Path, PathBuf};

use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Prefix of environment variables that set configuration keys.
pub const ENV_PREFIX: &str = "PMPO__";

/// Configuration that cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file is not there.
    #[error("config file {}: no such file", .0.display())]
    Missing(PathBuf),
    /// An argument of `--set` is not `key=value`.
    #[error("--set {0}: expected key=value, for example update.batch_size=128")]
    Assignment(String),
    /// A key is unknown or a value has the wrong type.
    #[error("{0}")]
    Invalid(String),
}

/// What lies above the defaults, and above the environment where it says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layers<'a> {
    /// A named set of keys, as TOML: name and text.
    pub preset: Option<(&'a str, &'a str)>,
    /// A TOML file.
    pub file: Option<&'a Path>,
    /// `key=value` each; above the environment.
    pub assignments: &'a [String],
    /// Keys that have moved: where they were, and where they are now.
    pub moved: &'a [Move],
}

/// A key that has moved, with all that is below it.
pub type Move = (&'static str, &'static [&'static str]);

/// Resolves the layers into a `T`.
///
/// # Errors
/// The file is missing or not TOML, an assignment is not `key=value`, a key is unknown, or a value
/// does not fit; the message names key, value and place.
pub fn load<T>(given: Layers<'_>) -> Result<T, LoadError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let moved = given.moved;
    let mut layers = Figment::new();
    if let Some(path) = given.file {
        if !path.is_file() {
            return Err(LoadError::Missing(path.to_owned()));
        }
        layers = layers.merge(Moving(Toml::file_exact(path), moved));
    }
    layers = layers.merge(Moving(Env::prefixed(ENV_PREFIX).split("__"), moved));
    for assignment in given.assignments {
        layers = layers.merge(Moving(Assignment::parse(assignment)?, moved));
    }
    if let Some((name, text)) = given.preset {
        let mut keys: Dict = toml::from_str(text).expect("presets are tested");
        forget_other_kinds(&mut keys, &layers.extract().map_err(invalid)?);
        layers = Figment::from(Preset { name, keys }).merge(&layers);
    }
    let mut defaults = Value::serialize(T::default())
        .map_err(invalid)?
        .into_dict()
        .expect("a configuration is a table");
    forget_other_kinds(&mut defaults, &layers.extract().map_err(invalid)?);
    Figment::from(Serialized::defaults(defaults))
        .merge(&layers)
        .extract()
        .map_err(invalid)
}

fn invalid(errors: figment::Error) -> LoadError {
    let lines: Vec<String> = errors.into_iter().map(|error| describe(&error)).collect();
    LoadError::Invalid(lines.join("; "))
}

/// Drops the keys of every section that `layers` make another variant of.
fn forget_other_kinds(below: &mut Dict, layers: &Dict) {
    for (key, value) in below {
        let (Value::Dict(_, section), Some(Value::Dict(_, over))) = (value, layers.get(key)) else {
            continue;
        };
        let kind = |section: &Dict| {
            section
                .get("kind")
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        if kind(over).is_some_and(|over| kind(section) != Some(over)) {
            section.clear();
        } else {
            forget_other_kinds(section, over);
        }
    }
}

fn describe(error: &figment::Error) -> String {
    let place = error
        .metadata
        .as_ref()
        .map(|metadata| match &metadata.source {
            Some(source) => format!(" in {} {source}", metadata.name),
            None => format!(" in {}", metadata.name),
        });
    let path = error.path.join(".");
    let key = if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    };
    format!("{key}{}{}", error.kind, place.unwrap_or_default())
}

/// What is left of a preset below the layers above it.
struct Preset<'a> {
    name: &'a str,
    keys: Dict,
}

impl Provider for Preset<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("--preset {}", self.name))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.keys.clone()))
    }
}

/// A layer whose keys are where they are now.
struct Moving<'a, P>(P, &'a [Move]);

impl<P: Provider> Provider for Moving<'_, P> {
    fn metadata(&self) -> Metadata {
        self.0.metadata()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut data = self.0.data()?;
        for dict in data.values_mut() {
            for (old, new) in self.1 {
                if let Some(value) = take(dict, old) {
                    new.iter().for_each(|new| put(dict, new, value.clone()));
                }
            }
        }
        Ok(data)
    }
}

/// Takes what is at a path out of a table, and tables that become empty with it.
fn take(dict: &mut Dict, path: &str) -> Option<Value> {
    let Some((first, rest)) = path.split_once('.') else {
        return dict.remove(path);
    };
    let Some(Value::Dict(_, inner)) = dict.get_mut(first) else {
        return None;
    };
    let taken = take(inner, rest);
    if inner.is_empty() {
        dict.remove(first);
    }
    taken
}

/// Puts a value at a path of a table, unless there is one.
fn put(dict: &mut Dict, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else {
        dict.entry(path.to_owned()).or_insert(value);
        return;
    };
    let inner = dict.entry(first.to_owned());
    if let Value::Dict(_, inner) = inner.or_insert_with(|| Value::from(Dict::new())) {
        put(inner, rest, value);
    }
}

/// One `section.key=value`; the value is TOML, or a bare string where it is not.
struct Assignment {
    text: String,
    key: String,
    value: Value,
}

impl Assignment {
    fn parse(text: &str) -> Result<Self, LoadError> {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.trim().is_empty())
            .ok_or_else(|| LoadError::Assignment(text.to_owned()))?;
        let value = value.trim();
        let parsed = toml::from_str::<Map<String, Value>>(&format!("value = {value}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::from(value));
        Ok(Self {
            text: text.to_owned(),
            key: key.trim().to_owned(),
            value: parsed,
        })
    }
}

impl Provider for Assignment {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("--set {}", self.text))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut value = self.value.clone();
        for segment in self.key.rsplit('.') {
            value = Value::from(Dict::from([(segment.to_owned(), value)]));
        }
        let dict = value.into_dict().expect("a key has at least one segment");
        Ok(Profile::Default.collect(dict))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        learner: Learner,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    enum Loss {
        Square { scale: f64 },
        Huber { delta: f64 },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Learner {
        loss: Loss,
        batch_size: usize,
        name: String,
        hidden: Vec<usize>,
    }

    impl Default for Learner {
        fn default() -> Self {
            Self {
                loss: Loss::Square { scale: 1.0 },
                batch_size: 256,
                name: "a".to_owned(),
                hidden: vec![128],
            }
        }
    }

    /// With a file or none, and assignments.
    fn load<T: Default + Serialize + DeserializeOwned>(
        file: Option<&Path>,
        assignments: &[String],
    ) -> Result<T, LoadError> {
        super::load(Layers {
            file,
            assignments,
            ..Layers::default()
        })
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn later_layers_win_and_types_follow_toml() {
        let file = file("[learner]\nbatch_size = 64\nname = \"file\"");
        let set = ["learner.batch_size=32", "learner.hidden=[4, 5]"].map(str::to_owned);
        let config: Config = load(Some(file.path()), &set).unwrap();
        let expected = Learner {
            batch_size: 32,
            name: "file".to_owned(),
            hidden: vec![4, 5],
            ..Learner::default()
        };
        assert_eq!(config.learner, expected);
        let bare: Config = load(None, &["learner.name=bare word".to_owned()]).unwrap();
        assert_eq!(bare.learner.name, "bare word");
    }

    #[test]
    fn another_kind_brings_its_own_keys() {
        let load = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
            load::<Config>(None, &set).map(|config| config.learner.loss)
        };
        let huber = load(&["learner.loss.kind=huber", "learner.loss.delta=2.0"]).unwrap();
        assert_eq!(huber, Loss::Huber { delta: 2.0 });
        // The default's kind keeps the default's keys, and its keys alone.
        let square = load(&["learner.loss.kind=square"]).unwrap();
        assert_eq!(square, Loss::Square { scale: 1.0 });
        let message = load(&["learner.loss.kind=huber", "learner.loss.scale=2.0"]).unwrap_err();
        assert!(message.to_string().contains("learner.loss"), "{message}");
        // A preset's kind gives way like the default's.
        let over_preset = |set: &[&str]| {
            let preset = "[learner.loss]\nkind = \"huber\"\ndelta = 3.0\n";
            let layers = Layers {
                preset: Some(("robust", preset)),
                assignments: &set.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>(),
                ..Layers::default()
            };
            super::load::<Config>(layers).unwrap().learner.loss
        };
        assert_eq!(over_preset(&[]), Loss::Huber { delta: 3.0 });
        let square = ["learner.loss.kind=square", "learner.loss.scale=2.0"];
        assert_eq!(over_preset(&square), Loss::Square { scale: 2.0 });
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused_with_their_place() {
        let bad = file("[learner]\nbatchsize = 64");
        let message = load::<Config>(Some(bad.path()), &[])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("batchsize") && message.contains("TOML file"),
            "{message}"
        );
        let message = load::<Config>(None, &["learner.batch_size=many".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("learner.batch_size") && message.contains("--set"),
            "{message}"
        );
        assert!(matches!(
            load::<Config>(None, &["learner".to_owned()]),
            Err(LoadError::Assignment(_))
        ));
        assert!(matches!(
            load::<Config>(Some(Path::new("/no/such.toml")), &[]),
            Err(LoadError::Missing(_))
        ));
    }

    const MOVED: &[Move] = &[
        ("learner.rows", &["learner.batch_size"]),
        ("sizes.all", &["learner.hidden"]),
    ];

    #[test]
    fn keys_are_read_where_they_were_before_they_moved() {
        let file = file("[learner]\nrows = 64\n[sizes]\nall = [7]");
        let assignments = ["learner.rows=32".to_owned()];
        let layers = Layers {
            file: Some(file.path()),
            assignments: &assignments,
            moved: MOVED,
            ..Layers::default()
        };
        let config: Config = super::load(layers).unwrap();
        assert_eq!(
            (config.learner.batch_size, config.learner.hidden),
            (32, vec![7])
        );
        let none = Layers {
            moved: &[],
            ..layers
        };
        assert!(super::load::<Config>(none).is_err());
    }

    #[test]
    fn a_preset_is_below_the_file() {
        let file = file("[learner]\nname = \"file\"");
        let preset = "[learner]\nname = \"preset\"\nbatch_size = 8";
        let layers = Layers {
            preset: Some(("small", preset)),
            file: Some(file.path()),
            ..Layers::default()
        };
        let config: Config = super::load(layers).unwrap();
        assert_eq!(config.learner.name, "file");
        assert_eq!(config.learner.batch_size, 8);
        let wrong = Layers {
            preset: Some(("small", "[learner]\nbatchsize = 8")),
            ..Layers::default()
        };
        let message = super::load::<Config>(wrong).unwrap_err().to_string();
        assert!(message.contains("--preset small"), "{message}");
    }
}
