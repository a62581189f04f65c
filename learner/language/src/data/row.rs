//! One line's columns, and the example that they make: see the parent for the rules.

use serde::Deserialize;
use serde_json::Value;

use super::{Example, Message, Role, Text};

/// What is wrong with a line.
pub(super) struct Refusal {
    pub(super) expected: String,
    pub(super) found: String,
}

pub(super) fn refused<T>(
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Result<T, Refusal> {
    Err(Refusal {
        expected: expected.into(),
        found: found.into(),
    })
}

/// The columns that are looked at.
#[derive(Deserialize)]
pub(super) struct Row {
    prompt: Option<Value>,
    completion: Option<Value>,
    chosen: Option<Value>,
    rejected: Option<Value>,
    label: Option<Value>,
}

impl Row {
    /// An example, and what its type's name has to say of where its prompt is from.
    pub(super) fn example(self) -> Result<(&'static str, Example), Refusal> {
        let columns = self.columns();
        let example = match (self.prompt, self.completion, self.chosen, self.rejected) {
            (prompt, None, Some(chosen), Some(rejected)) => {
                return preference(prompt, chosen, rejected);
            }
            (Some(prompt), None, None, None) => Example::Prompt(text(prompt, "prompt")?),
            (Some(prompt), Some(completion), None, None) => {
                let prompt = text(prompt, "prompt")?;
                let completion = answer(completion, "completion", &prompt)?;
                match self.label {
                    None => Example::Completion { prompt, completion },
                    Some(Value::Bool(label)) => Example::Unpaired {
                        prompt,
                        completion,
                        label,
                    },
                    Some(other) => return refused("true or false as label", kind(&other)),
                }
            }
            _ => {
                // Also where there is a completion beside chosen and rejected: nobody said which to take.
                let expected = "the columns (prompt), (prompt, completion), (prompt, completion, label) or \
                                ([prompt,] chosen, rejected)";
                return refused(expected, columns);
            }
        };
        Ok(("", example))
    }

    fn columns(&self) -> String {
        let named = [
            ("prompt", &self.prompt),
            ("completion", &self.completion),
            ("chosen", &self.chosen),
            ("rejected", &self.rejected),
            ("label", &self.label),
        ];
        let there = named.iter().filter(|(_, value)| value.is_some());
        let names: Vec<&str> = there.map(|(name, _)| *name).collect();
        match names.is_empty() {
            true => "none of them".to_owned(),
            false => names.join(", "),
        }
    }
}

fn preference(
    prompt: Option<Value>,
    chosen: Value,
    rejected: Value,
) -> Result<(&'static str, Example), Refusal> {
    if let Some(prompt) = prompt
        && !(prompt.is_string() && chosen.is_array() && rejected.is_array())
    {
        let prompt = text(prompt, "prompt")?;
        let chosen = answer(chosen, "chosen", &prompt)?;
        let rejected = answer(rejected, "rejected", &prompt)?;
        let example = Example::Preference {
            prompt,
            chosen,
            rejected,
        };
        return Ok(("", example));
    }
    let (chosen, rejected) = (text(chosen, "chosen")?, text(rejected, "rejected")?);
    let (prompt, chosen, rejected) = split(chosen, rejected)?;
    starts_with_assistant(&chosen, "chosen")?;
    starts_with_assistant(&rejected, "rejected")?;
    let example = Example::Preference {
        prompt,
        chosen,
        rejected,
    };
    // A line that has lost its prompt is not to pass for one of a file that has them.
    Ok((" with an implicit prompt", example))
}

/// The common beginning of two texts, and what follows it in each.
fn split(chosen: Text, rejected: Text) -> Result<(Text, Text, Text), Refusal> {
    if chosen == rejected {
        return refused("chosen and rejected that differ", "the same twice");
    }
    let (prompt, chosen, rejected) = match (chosen, rejected) {
        (Text::Plain(mut chosen), Text::Plain(mut rejected)) => {
            let of_chosen = words(&chosen);
            let common = common(&of_chosen, &words(&rejected));
            let length = of_chosen[..common].iter().map(|word| word.len()).sum();
            let (left, right) = (chosen.split_off(length), rejected.split_off(length));
            (Text::Plain(chosen), Text::Plain(left), Text::Plain(right))
        }
        (Text::Chat(mut chosen), Text::Chat(mut rejected)) => {
            let length = common(&chosen, &rejected);
            let (left, right) = (chosen.split_off(length), rejected.split_off(length));
            (Text::Chat(chosen), Text::Chat(left), Text::Chat(right))
        }
        _ => {
            return refused(
                "chosen and rejected both plain or both conversations",
                "one of each",
            );
        }
    };
    match &prompt {
        Text::Plain(text) if text.is_empty() => {}
        Text::Chat(messages) if messages.is_empty() => {}
        _ => return Ok((prompt, chosen, rejected)),
    }
    refused(
        "a prompt, or chosen and rejected with a common beginning",
        "neither",
    )
}

/// How much two sequences have in common from their start on, such that something is left of both.
fn common<T: PartialEq>(left: &[T], right: &[T]) -> usize {
    let equal = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    equal.min(left.len().min(right.len()).saturating_sub(1))
}

/// A text's words, each with the white space before it; white space at the end is the last.
fn words(text: &str) -> Vec<&str> {
    let (mut words, mut start, mut in_word) = (Vec::new(), 0, false);
    for (place, character) in text.char_indices() {
        if character.is_whitespace() && in_word {
            words.push(&text[start..place]);
            start = place;
        }
        in_word = !character.is_whitespace();
    }
    words.extend((start < text.len()).then(|| &text[start..]));
    words
}

/// A completion, which has to be of its prompt's format.
fn answer(value: Value, column: &str, prompt: &Text) -> Result<Text, Refusal> {
    let answer = text(value, column)?;
    if std::mem::discriminant(&answer) != std::mem::discriminant(prompt) {
        let expected = format!("prompt and {column} both plain or both conversations");
        return refused(expected, "one of each");
    }
    starts_with_assistant(&answer, column)?;
    Ok(answer)
}

fn starts_with_assistant(text: &Text, column: &str) -> Result<(), Refusal> {
    match text {
        Text::Chat(messages) => match messages.first().map(|message| message.role) {
            Some(Role::System | Role::User) => refused(
                format!("the assistant first in what {column} adds to the prompt"),
                "another role",
            ),
            _ => Ok(()),
        },
        Text::Plain(_) => Ok(()),
    }
}

fn text(value: Value, column: &str) -> Result<Text, Refusal> {
    match value {
        Value::String(text) => Ok(Text::Plain(text)),
        Value::Array(messages) if !messages.is_empty() => {
            let messages = messages.into_iter().enumerate();
            let messages = messages.map(|(place, value)| message(value, column, place));
            Ok(Text::Chat(messages.collect::<Result<_, _>>()?))
        }
        other => refused(
            format!("a text or a list of messages as {column}"),
            kind(&other),
        ),
    }
}

fn message(value: Value, column: &str, place: usize) -> Result<Message, Refusal> {
    let of = format!("in message {} of {column}", place + 1);
    let Value::Object(mut fields) = value else {
        return refused(format!("role and content {of}"), kind(&value));
    };
    let role = fields.remove("role").unwrap_or_default();
    let Some(role) = role.as_str().and_then(Role::named) else {
        let expected = format!("system, user or assistant as role {of}");
        return refused(expected, kind(&role));
    };
    match fields.remove("content").unwrap_or_default() {
        Value::String(content) => Ok(Message { role, content }),
        other => refused(format!("a text as content {of}"), kind(&other)),
    }
}

/// What a refusal calls a value: in one short line, whatever is in it.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(values) if values.is_empty() => "an empty list".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        other => other.to_string(),
    }
}
