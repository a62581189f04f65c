//! Data sets for fine-tuning: JSON Lines in TRL's four types, of plain texts or of conversations.
//!
//! Source: TRL's "Dataset formats and types", and `maybe_extract_prompt` in its `data_utils.py`. What differs:
//! - The type is read off the columns: `chosen` and `rejected` make a preference, `completion` with `label` an
//!   unpaired one, `completion` without it a completion, `prompt` alone a prompt. A column that is `null` counts as
//!   absent, as `datasets` writes it where only some rows have it. All other columns are ignored. A `completion` beside `chosen` is refused: nothing
//!   says which to take.
//! - An implicit prompt is the longest common beginning of `chosen` and `rejected` that leaves something of both;
//!   of plain texts by whole words (TRL goes by characters, and so may cut within a word). What is cut off starts
//!   with the white space before it, as in TRL. As there too, a plain `prompt` beside conversations is passed over:
//!   data sets have it as a copy of the first message.
//! - Messages have the roles system, user and assistant and a text as content; there are no tools and no images.
//!   A conversation's completion has to start with the assistant.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

mod row;

use row::{Refusal, Row, refused};

/// The most bytes that a line may have, without its end.
pub const MAX_LINE: usize = 16 << 20;

/// What some editors put before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// Who asks.
    User,
    /// Who answers: the model.
    Assistant,
}

impl Role {
    /// Its name in a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::System, Self::User, Self::Assistant]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, as it stands in the file.
    pub content: String,
}

/// A text, or a conversation that a template makes one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// As it is.
    Plain(String),
    /// At least one message.
    Chat(Vec<Message>),
}

impl Text {
    /// What a user says, alone.
    /// What is in it, without who said it.
    pub(crate) fn said_alone(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Chat(messages) => {
                let said: Vec<&str> = messages.iter().map(|one| one.content.as_str()).collect();
                said.join("\n")
            }
        }
    }

    pub(crate) fn said(text: &str) -> Self {
        Self::Chat(vec![Message {
            role: Role::User,
            content: text.to_owned(),
        }])
    }
}

/// One line of a data set; the texts in it are all plain or all conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Example {
    /// Something to complete.
    Prompt(Text),
    /// Something to imitate.
    Completion {
        /// What is given.
        prompt: Text,
        /// What follows it.
        completion: Text,
    },
    /// Two completions, of which one is better.
    Preference {
        /// What is given.
        prompt: Text,
        /// The better one.
        chosen: Text,
        /// The other one.
        rejected: Text,
    },
    /// One completion that is good or bad.
    Unpaired {
        /// What is given.
        prompt: Text,
        /// What follows it.
        completion: Text,
        /// Whether it is good.
        label: bool,
    },
}

impl Example {
    /// Its prompt alone.
    pub fn into_prompt(self) -> Text {
        match self {
            Self::Prompt(prompt)
            | Self::Completion { prompt, .. }
            | Self::Preference { prompt, .. }
            | Self::Unpaired { prompt, .. } => prompt,
        }
    }

    /// The type's name, as a message to the user has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Prompt(_) => "prompt-only",
            Self::Completion { .. } => "prompt-completion",
            Self::Preference { .. } => "preference",
            Self::Unpaired { .. } => "unpaired preference",
        }
    }

    fn is_chat(&self) -> bool {
        let (Self::Prompt(prompt)
        | Self::Completion { prompt, .. }
        | Self::Preference { prompt, .. }
        | Self::Unpaired { prompt, .. }) = self;
        matches!(prompt, Text::Chat(_))
    }
}

/// A data set that cannot be used; its text is one line.
#[derive(Debug, Error)]
pub enum DataError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not what it has to be.
    #[error("{}, line {line}: expected {expected}, found {found}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What would have been accepted.
        expected: String,
        /// What was there.
        found: String,
    },
    /// Two lines are of different types.
    #[error("{}: expected lines of one type, found {first} in line {first_line}, {other} in line {other_line}",
        path.display())]
    Mixed {
        /// The file.
        path: PathBuf,
        /// The first line that is not empty, from 1 on.
        first_line: usize,
        /// Its type.
        first: String,
        /// The first line of another type.
        other_line: usize,
        /// That type.
        other: String,
    },
    /// There is not one example.
    #[error("{}: expected at least one example, found none", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a whole file, whose lines have to be of one type, all plain or all conversations; empty lines are skipped.
///
/// # Errors
/// The file cannot be read or has no example, a line is too long, not UTF-8, not JSON or of none of the types, or
/// lines are of different types. Nothing of the file is returned then.
pub fn read(path: &Path) -> Result<Vec<Example>, DataError> {
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    read_lines(BufReader::new(file), path, MAX_LINE)
}

fn read_lines(
    mut lines: impl BufRead,
    path: &Path,
    max_line: usize,
) -> Result<Vec<Example>, DataError> {
    let mut examples = Vec::new();
    let mut first: Option<(usize, String)> = None;
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        // No more than that is held of a line that is longer.
        let mut bounded = lines.by_ref().take(max_line as u64 + 1);
        let read = bounded.read_until(b'\n', &mut buffer);
        if read.map_err(|source| io_error(path, source))? == 0 {
            break;
        }
        let row = parse(&buffer, line, max_line).map_err(|refusal| DataError::Line {
            path: path.to_owned(),
            line,
            expected: refusal.expected,
            found: refusal.found,
        })?;
        let Some((kind, example)) = row else { continue };
        let (first_line, first) = first.get_or_insert_with(|| (line, kind.clone()));
        if *first != kind {
            return Err(DataError::Mixed {
                path: path.to_owned(),
                first_line: *first_line,
                first: first.clone(),
                other_line: line,
                other: kind,
            });
        }
        examples.push(example);
    }
    match examples.is_empty() {
        true => Err(DataError::Empty {
            path: path.to_owned(),
        }),
        false => Ok(examples),
    }
}

fn io_error(path: &Path, source: io::Error) -> DataError {
    let path = path.to_owned();
    DataError::Io { path, source }
}

/// An example and its type in full; nothing of an empty line.
fn parse(
    mut bytes: &[u8],
    line: usize,
    max_line: usize,
) -> Result<Option<(String, Example)>, Refusal> {
    if bytes.len() > max_line && !bytes.ends_with(b"\n") {
        return refused(format!("at most {max_line} bytes"), "more");
    }
    if line == 1 {
        bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    }
    let text = std::str::from_utf8(bytes).or_else(|error| {
        let place = error.valid_up_to() + 1;
        refused("UTF-8", format!("something else at its byte {place}"))
    })?;
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('{') {
        return refused("a JSON object", "something else");
    }
    let row: Row = serde_json::from_str(text).or_else(|error| {
        // It speaks of JSON's syntax and of the columns' names, and quotes nothing of the line.
        let said = error.to_string();
        let what = said.split(" at line ").next().unwrap_or_default();
        refused("JSON", format!("{what} at its byte {}", error.column()))
    })?;
    let (origin, example) = row.example()?;
    let format = match example.is_chat() {
        true => "conversational",
        false => "plain",
    };
    let kind = format!("{format} {}{origin}", example.kind());
    Ok(Some((kind, example)))
}

#[cfg(test)]
mod tests;
