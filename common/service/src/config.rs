//! Layered configuration: defaults < file < environment (`PMPO__SECTION__KEY`) < `key=value` from the
//! command line. Unknown keys are refused, and every message names the layer a value came from.

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
pub enum ConfigError {
    /// The file is not there.
    #[error("config file {}: no such file", .0.display())]
    Missing(PathBuf),
    /// An argument of `--set` is not `key=value`.
    #[error("--set {0}: expected key=value, for example learner.batch_size=128")]
    Assignment(String),
    /// A key is unknown or a value has the wrong type.
    #[error("{0}")]
    Invalid(String),
}

/// Resolves the layers into a `T`.
///
/// # Errors
/// The file is missing or not TOML, an assignment is not `key=value`, a key is unknown, or a value
/// does not fit; the message names key, value and place.
pub fn load<T>(file: Option<&Path>, assignments: &[String]) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut given = Figment::new();
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigError::Missing(path.to_owned()));
        }
        given = given.merge(Toml::file_exact(path));
    }
    given = given.merge(Env::prefixed(ENV_PREFIX).split("__"));
    for assignment in assignments {
        given = given.merge(Assignment::parse(assignment)?);
    }
    let defaults = Value::serialize(T::default())
        .map(|defaults| of_the_given_kinds(defaults, &given, &mut Vec::new()))
        .map_err(|error| invalid(error.into()))?;
    Figment::from(Serialized::defaults(defaults))
        .merge(given)
        .extract()
        .map_err(invalid)
}

/// The defaults without the keys of a kind that was not chosen: where a section has a `kind` and
/// another one is given, only what is given and that kind's own defaults count.
fn of_the_given_kinds(defaults: Value, given: &Figment, path: &mut Vec<String>) -> Value {
    let Value::Dict(tag, mut section) = defaults else {
        return defaults;
    };
    let kind = |value: &Value| value.as_str().map(str::to_owned);
    path.push("kind".to_owned());
    let chosen = given.find_value(&path.join(".")).ok();
    path.pop();
    if let (Some(default), Some(chosen)) = (section.get("kind"), chosen)
        && kind(default) != kind(&chosen)
    {
        section.clear();
    }
    let section = section
        .into_iter()
        .map(|(key, value)| {
            path.push(key.clone());
            let value = of_the_given_kinds(value, given, path);
            path.pop();
            (key, value)
        })
        .collect();
    Value::Dict(tag, section)
}

fn invalid(errors: figment::Error) -> ConfigError {
    let lines: Vec<String> = errors.into_iter().map(|error| describe(&error)).collect();
    ConfigError::Invalid(lines.join("; "))
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

/// One `section.key=value`; the value is TOML, or a bare string where it is not.
struct Assignment {
    text: String,
    key: String,
    value: Value,
}

impl Assignment {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.trim().is_empty())
            .ok_or_else(|| ConfigError::Assignment(text.to_owned()))?;
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
    #[serde(deny_unknown_fields, default)]
    struct Learner {
        batch_size: usize,
        name: String,
        hidden: Vec<usize>,
    }

    impl Default for Learner {
        fn default() -> Self {
            Self {
                batch_size: 256,
                name: "a".to_owned(),
                hidden: vec![128],
            }
        }
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
        };
        assert_eq!(config.learner, expected);
        let bare: Config = load(None, &["learner.name=bare word".to_owned()]).unwrap();
        assert_eq!(bare.learner.name, "bare word");
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Shapes {
        shape: Shape,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Shape {
        Circle(Circle),
        Square(Square),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Circle {
        radius: f64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Square {
        side: f64,
    }

    impl Default for Circle {
        fn default() -> Self {
            Self { radius: 1.0 }
        }
    }

    impl Default for Square {
        fn default() -> Self {
            Self { side: 2.0 }
        }
    }

    impl Default for Shape {
        fn default() -> Self {
            Self::Circle(Circle::default())
        }
    }

    #[test]
    fn another_kind_brings_its_own_defaults() {
        let shape = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
            load::<Shapes>(None, &set).map(|shapes| shapes.shape)
        };
        let circle = |radius| Shape::Circle(Circle { radius });
        let square = |side| Shape::Square(Square { side });
        assert_eq!(shape(&[]).unwrap(), circle(1.0));
        assert_eq!(shape(&["shape.radius=3"]).unwrap(), circle(3.0));
        assert_eq!(shape(&["shape.kind=circle"]).unwrap(), circle(1.0));
        assert_eq!(shape(&["shape.kind=square"]).unwrap(), square(2.0));
        let set = ["shape.side=5.0", "shape.kind=square"];
        assert_eq!(shape(&set).unwrap(), square(5.0));
        let message = shape(&["shape.kind=square", "shape.radius=1.0"]).unwrap_err();
        assert!(message.to_string().contains("radius"), "{message}");
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
            Err(ConfigError::Assignment(_))
        ));
        assert!(matches!(
            load::<Config>(Some(Path::new("/no/such.toml")), &[]),
            Err(ConfigError::Missing(_))
        ));
    }
}
