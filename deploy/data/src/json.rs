//! Metadata as Python writes them: JSON in which numbers may be infinite.

use std::fs;
use std::path::Path;

use pmpo_types::ConfigError;
use serde_json::{Map, Value};

use crate::error::{DataError, InFile, unreadable};

/// What Python writes for numbers that JSON has not.
const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// The object in a file.
pub(crate) fn read(path: &Path) -> Result<Map<String, Value>, DataError> {
    let text = fs::read_to_string(path).in_file(path)?;
    match parse(&text).in_file(path)? {
        Value::Object(map) => Ok(map),
        other => Err(ConfigError::new("content", "an object", kind(&other))).in_file(path),
    }
}

/// A JSON text; Python's words for numbers become texts.
pub(crate) fn parse(text: &str) -> Result<Value, ConfigError> {
    let mut strict = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(next) = rest.chars().next() {
        let word = WORDS.into_iter().find(|word| rest.starts_with(word));
        let taken = match word {
            Some(word) if !quoted => {
                strict.push_str(&format!("\"{word}\""));
                rest = &rest[word.len()..];
                continue;
            }
            // What is escaped ends no string.
            _ if quoted && next == '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => next.len_utf8(),
        };
        quoted ^= next == '"';
        strict.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    serde_json::from_str(&strict).or_else(|error| unreadable("JSON", error))
}

/// A number as Python writes it.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        // Unlike its Display, valid JSON for every finite number.
        format!("{value:?}")
    }
}

/// All numbers of a list, of lists in it, or of a number alone.
pub(crate) fn numbers(value: &Value, field: &str) -> Result<Vec<f64>, ConfigError> {
    let refused = || ConfigError::new(field, "numbers", kind(value));
    match value {
        Value::Array(parts) => {
            let parts = parts.iter().map(|part| numbers(part, field));
            Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
        }
        Value::Number(number) => Ok(vec![number.as_f64().ok_or_else(refused)?]),
        Value::String(word) if WORDS.contains(&word.as_str()) => {
            Ok(vec![word.parse().map_err(|_| refused())?])
        }
        _ => Err(refused()),
    }
}

/// A text under a key.
pub(crate) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<&'a str, ConfigError> {
    let got = map.get(key).unwrap_or(&Value::Null);
    got.as_str()
        .ok_or_else(|| ConfigError::new(key, "a text", kind(got)))
}

/// A count under a key.
pub(crate) fn count(map: &Map<String, Value>, key: &str) -> Result<u64, ConfigError> {
    let got = map.get(key).unwrap_or(&Value::Null);
    got.as_u64()
        .ok_or_else(|| ConfigError::new(key, "a count", kind(got)))
}

/// What a refusal calls a value.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_s_infinities_are_read_and_texts_are_left() {
        let value =
            parse(r#"{"low": [[-Infinity, 1.5], [NaN, Infinity]], "a": "\"NaN, Infinity\\"}"#)
                .unwrap();
        assert_eq!(value["a"], "\"NaN, Infinity\\");
        let low = numbers(&value["low"], "low").unwrap();
        assert_eq!(low[..2], [f64::NEG_INFINITY, 1.5]);
        assert!(low[2].is_nan() && low[3] == f64::INFINITY);
        for value in [1e300, -0.0, 5e-324, f64::NEG_INFINITY] {
            assert_eq!(
                numbers(&parse(&number(value)).unwrap(), "x").unwrap(),
                [value]
            );
        }
    }

    #[test]
    fn what_is_no_json_is_refused_in_one_line() {
        for text in ["", "{", "\"\\", "[1,", "é\\"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("content: expected JSON, got "), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
    }
}
