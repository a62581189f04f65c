//! Minari's spaces, which are Gymnasium's, as JSON: `minari/serialization.py`.

use pmpo_types::{ActionSpec, ConfigError, EnvironmentSpec, ObservationField};
use serde_json::{Map, Value};

use crate::episode::MAX_WIDTH;
use crate::json;

/// Name of the only field of an observation that has none, as the Python package names it.
pub(super) const UNNAMED: &str = "observation";

/// An array of numbers within an observation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// Keys that lead to it from the whole.
    pub(super) keys: Vec<String>,
    pub(super) size: usize,
}

impl Part {
    /// The field's name: the keys, with slashes.
    pub(super) fn name(&self) -> String {
        match self.keys.is_empty() {
            true => UNNAMED.to_owned(),
            false => self.keys.join("/"),
        }
    }
}

/// The arrays of an observation space, those of a Dict in the order of their keys, as Gymnasium has them.
pub(super) fn parts(space: &Value) -> Result<Vec<Part>, ConfigError> {
    let mut found = Vec::new();
    collect(space, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn collect(space: &Value, keys: &mut Vec<String>, to: &mut Vec<Part>) -> Result<(), ConfigError> {
    let name = || format!("observation_space {:?}", keys.join("/"));
    if let (Some("Dict"), Some(Value::Object(subspaces))) = (kind(space), space.get("subspaces")) {
        for (key, part) in subspaces {
            keys.push(key.clone());
            collect(part, keys, to)?;
            keys.pop();
        }
        return Ok(());
    }
    let shape = shape(space).ok_or_else(|| {
        let got = kind(space).unwrap_or("no space");
        ConfigError::new(name(), "Box, or Dict of Box, with a shape", got)
    })?;
    if shape.len() == 3 && space.get("dtype").and_then(Value::as_str) == Some("uint8") {
        let got = format!("an image of shape {shape:?}");
        return Err(ConfigError::new(name(), "numbers", got));
    }
    to.push(Part {
        keys: keys.clone(),
        size: size(&shape).ok_or_else(|| {
            let expected = format!("1 to {MAX_WIDTH} values");
            ConfigError::new(name(), expected, format!("shape {shape:?}"))
        })?,
    });
    Ok(())
}

fn kind(space: &Value) -> Option<&str> {
    space.get("type")?.as_str()
}

/// The shape of a Box.
fn shape(space: &Value) -> Option<Vec<u64>> {
    let (Some("Box"), Some(shape)) = (kind(space), space.get("shape")) else {
        return None;
    };
    shape.as_array()?.iter().map(Value::as_u64).collect()
}

fn size(shape: &[u64]) -> Option<usize> {
    let product = shape
        .iter()
        .try_fold(1_u64, |product, &n| product.checked_mul(n))?;
    let size = usize::try_from(product).ok()?;
    (1..=MAX_WIDTH).contains(&size).then_some(size)
}

/// Bounds of an action space, which has to be a Box.
pub(super) fn action(space: &Value) -> Result<ActionSpec, ConfigError> {
    let refused = |got: String| ConfigError::new("action_space", "Box with a shape", got);
    let shape =
        shape(space).ok_or_else(|| refused(kind(space).unwrap_or("no space").to_owned()))?;
    let size = size(&shape).ok_or_else(|| refused(format!("shape {shape:?}")))?;
    let bounds = |key: &str| {
        let values = json::numbers(space.get(key).unwrap_or(&Value::Null), key)?;
        if values.len() != size {
            return Err(ConfigError::new(
                key,
                format!("{size} numbers"),
                values.len(),
            ));
        }
        Ok(values)
    };
    Ok(ActionSpec {
        minimum: bounds("low")?,
        maximum: bounds("high")?,
    })
}

/// The specification that Minari's own metadata imply. They do not say how long a step takes.
pub(super) fn derived(
    metadata: &Map<String, Value>,
    parts: &[Part],
    action: ActionSpec,
) -> Result<EnvironmentSpec, ConfigError> {
    let environment = match metadata.get("env_spec") {
        Some(Value::String(text)) => json::parse(text).map_err(|e| e.within("env_spec"))?,
        _ => Value::Null,
    };
    let limit = environment.get("max_episode_steps").and_then(Value::as_u64);
    let field = |part: &Part| ObservationField {
        name: part.name(),
        size: part.size,
    };
    Ok(EnvironmentSpec {
        task: match environment.get("id").and_then(Value::as_str) {
            Some(id) => id.to_owned(),
            None => json::text(metadata, "dataset_id")?.to_owned(),
        },
        observation: parts.iter().map(field).collect(),
        action,
        control_timestep: 0.0,
        step_limit: limit.and_then(|limit| usize::try_from(limit).ok()),
        action_repeat: 1,
    })
}

/// The observation space of a specification: a Dict of its fields, or a Box for one without a name.
pub(super) fn observation_space(spec: &EnvironmentSpec) -> String {
    let space = |field: &ObservationField| {
        let infinite = vec![f64::INFINITY; field.size];
        let low: Vec<f64> = infinite.iter().map(|x| -x).collect();
        boxed(&low, &infinite)
    };
    if is_unnamed(spec) {
        return space(&spec.observation[0]);
    }
    let entry = |field: &ObservationField| format!("{}: {}", quoted(&field.name), space(field));
    let entries: Vec<String> = spec.observation.iter().map(entry).collect();
    format!(
        "{{\"type\": \"Dict\", \"subspaces\": {{{}}}}}",
        entries.join(", ")
    )
}

/// Whether the observation is written as an array rather than as a mapping.
pub(super) fn is_unnamed(spec: &EnvironmentSpec) -> bool {
    matches!(spec.observation.as_slice(), [field] if field.name == UNNAMED)
}

/// The action space of a specification.
pub(super) fn action_space(spec: &EnvironmentSpec) -> String {
    boxed(&spec.action.minimum, &spec.action.maximum)
}

fn boxed(low: &[f64], high: &[f64]) -> String {
    let list = |values: &[f64]| {
        let numbers: Vec<String> = values.iter().map(|&value| json::number(value)).collect();
        numbers.join(", ")
    };
    format!(
        "{{\"type\": \"Box\", \"dtype\": \"float32\", \"shape\": [{}], \"low\": [{}], \"high\": [{}]}}",
        low.len(),
        list(low),
        list(high)
    )
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
