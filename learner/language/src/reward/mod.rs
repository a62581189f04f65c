//! What a completion is worth: the reward functions that preferences between completions come from.
//!
//! A [`RewardConfig`] names one and opens it as a [`Scorer`]. [`Vader`] and [`Length`] are computed here;
//! [`HttpScorer`] asks a server, [`CommandScorer`] a process of its own, and [`BradleyTerry`] is learnt from pairs.

mod bradley_terry;
mod command;
mod http;
mod length;
mod vader;

use std::path::PathBuf;
use std::time::Duration;

use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use bradley_terry::{BradleyTerry, PairReport, PairTraining, learn_from_pairs};
pub use command::CommandScorer;
pub use http::HttpScorer;
pub use length::Length;
pub use vader::{Vader, compound};

/// The longest that a timeout may be, in seconds: a day.
const MAX_TIMEOUT_S: f64 = 86_400.0;
/// The most tries that may be asked for.
const MAX_TRIES: u32 = 100;
/// Characters of somebody's answer that an error shows.
const EXCERPT: usize = 80;

/// One completion to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    /// What was to be continued.
    pub prompt: &'a str,
    /// The continuation, without the prompt.
    pub completion: &'a str,
}

/// A reward function.
pub trait Scorer: Send {
    /// Rewards, one for each sample and in their order, all finite; more is better.
    ///
    /// Blocks until all are there or the scorer has given up, which its configuration bounds.
    ///
    /// # Errors
    /// There are no rewards; in one line, why. A later call may do better.
    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, RewardError>;
}

/// Why there are no rewards.
#[derive(Debug, Error)]
pub enum RewardError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server could not be asked, or its answer cannot be used.
    #[error("reward server {url}: {got} (try {tried} of {tries}); expected {expected}")]
    Http {
        /// Where it was asked.
        url: String,
        /// Tries that were made.
        tried: u32,
        /// Tries that were allowed.
        tries: u32,
        /// What came of the last one.
        got: String,
        /// What should have come.
        expected: String,
    },
    /// The command cannot be started.
    #[error("reward command `{command}` cannot be started: {reason}")]
    Start {
        /// The program and its arguments.
        command: String,
        /// What the system says.
        reason: String,
    },
    /// A learnt reward could not be read, or cannot take a text.
    #[error("reward model: {0}")]
    Model(Box<crate::LanguageError>),
    /// The command could not be asked, or what it said cannot be used. It has been ended.
    #[error("reward command `{command}`: {got}; expected {expected}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// What came.
        got: String,
        /// What should have come.
        expected: String,
    },
}

/// Which reward function, and what it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardConfig {
    /// How positive the completion reads, in [-1, 1], see [`Vader`].
    // With braces, since serde refuses unknown fields of such a variant only.
    Vader {},
    /// How near the completion is to a number of words, in [0, 1], see [`Length`].
    Length {
        /// The number of words to aim at, at least 1.
        target_words: u32,
    },
    /// What a server says, see [`HttpScorer`].
    Http {
        /// Where to POST, `http://host:port/path`.
        url: String,
        /// Seconds that one try may take, up to a day.
        #[serde(default = "default_timeout_s")]
        timeout_s: f64,
        /// Tries before an error, 1 to 100.
        #[serde(default = "default_tries")]
        tries: u32,
    },
    /// What was learnt from pairs, see [`BradleyTerry`].
    Model {
        /// The folder that `pmpo lm reward` has written.
        path: PathBuf,
    },
    /// What a process says, see [`CommandScorer`].
    Command {
        /// The program and its arguments; no shell reads them.
        command: Vec<String>,
        /// Seconds that the process may take for one answer, up to a day.
        #[serde(default = "default_timeout_s")]
        timeout_s: f64,
    },
}

fn default_timeout_s() -> f64 {
    180.0
}

fn default_tries() -> u32 {
    5
}

impl RewardConfig {
    /// Checks the fields; asks nobody and starts nothing.
    ///
    /// # Errors
    /// The first field that cannot be used, with what would have been accepted.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Vader {} => Ok(()),
            Self::Model { path } if path.as_os_str().is_empty() => {
                Err(ConfigError::new("path", "a folder", "an empty one"))
            }
            Self::Model { .. } => Ok(()),
            Self::Length { target_words } => {
                ConfigError::at_least_one("target_words", u64::from(*target_words))
            }
            Self::Http {
                url,
                timeout_s,
                tries,
            } => {
                http::check_url(url)?;
                check_timeout(*timeout_s)?;
                if !(1..=MAX_TRIES).contains(tries) {
                    let expected = format!("1 to {MAX_TRIES}");
                    return Err(ConfigError::new("tries", expected, tries));
                }
                Ok(())
            }
            Self::Command { command, timeout_s } => {
                check_command(command)?;
                check_timeout(*timeout_s)
            }
        }
    }

    /// The scorer. A command is started; a server is not asked before there is something to judge.
    ///
    /// # Errors
    /// [`RewardError::Config`] as [`validate`](Self::validate) has it; [`RewardError::Start`].
    pub fn open(&self) -> Result<Box<dyn Scorer>, RewardError> {
        self.validate()?;
        Ok(match self {
            Self::Vader {} => Box::new(Vader),
            Self::Model { path } => {
                let opened = BradleyTerry::open(path);
                Box::new(opened.map_err(|error| RewardError::Model(Box::new(error)))?)
            }
            Self::Length { target_words } => Box::new(Length::new(*target_words)),
            Self::Http {
                url,
                timeout_s,
                tries,
            } => Box::new(HttpScorer::new(
                url,
                Duration::from_secs_f64(*timeout_s),
                *tries,
            )),
            Self::Command { command, timeout_s } => {
                let timeout = Duration::from_secs_f64(*timeout_s);
                Box::new(CommandScorer::start(command, timeout)?)
            }
        })
    }
}

fn check_timeout(seconds: f64) -> Result<(), ConfigError> {
    if seconds > 0.0 && seconds <= MAX_TIMEOUT_S {
        return Ok(());
    }
    let expected = format!("seconds above 0, up to {MAX_TIMEOUT_S}");
    Err(ConfigError::new("timeout_s", expected, seconds))
}

fn check_command(command: &[String]) -> Result<(), ConfigError> {
    if command.first().is_none_or(String::is_empty) {
        let got = if command.is_empty() {
            "[]"
        } else {
            "an empty name"
        };
        return Err(ConfigError::new(
            "command",
            "a program and its arguments",
            got,
        ));
    }
    if command.iter().any(|part| part.contains('\0')) {
        return Err(ConfigError::new("command", "text", "a zero byte in it"));
    }
    Ok(())
}

/// The beginning of what somebody sent, fit for an error of one line.
fn excerpt(bytes: &[u8]) -> String {
    // A character has four bytes at most; what is cut in the middle is past the excerpt.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT * 4 + 4)]);
    let mut shown = String::new();
    for c in text.chars().take(EXCERPT) {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    if text.chars().nth(EXCERPT).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<RewardConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    fn refusal(json: &str) -> String {
        read(json).unwrap().validate().unwrap_err().to_string()
    }

    #[test]
    fn every_kind_is_read_with_its_defaults_and_written_again() {
        let kinds = [
            (r#"{"kind":"vader"}"#, RewardConfig::Vader {}),
            (
                r#"{"kind":"length","target_words":50}"#,
                RewardConfig::Length { target_words: 50 },
            ),
            (
                r#"{"kind":"http","url":"http://localhost:5000/get_reward"}"#,
                RewardConfig::Http {
                    url: "http://localhost:5000/get_reward".to_owned(),
                    timeout_s: 180.0,
                    tries: 5,
                },
            ),
            (
                r#"{"kind":"command","command":["cat"],"timeout_s":3}"#,
                RewardConfig::Command {
                    command: vec!["cat".to_owned()],
                    timeout_s: 3.0,
                },
            ),
        ];
        for (json, config) in kinds {
            assert_eq!(read(json).unwrap(), config);
            config.validate().unwrap();
            let written = serde_json::to_string(&config).unwrap();
            assert_eq!(read(&written).unwrap(), config);
        }
    }

    #[test]
    fn unknown_kinds_and_fields_are_refused() {
        for json in [
            r#"{"kind":"taste"}"#,
            r#"{"kind":"vader","target_words":3}"#,
            r#"{"kind":"length","target_words":3,"words":3}"#,
            r#"{"kind":"length"}"#,
            r#"{"kind":"http","url":"http://a","retries":3}"#,
            r#"{"url":"http://a"}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_refusal_names_the_field_what_is_accepted_and_what_was_given() {
        assert_eq!(
            refusal(r#"{"kind":"length","target_words":0}"#),
            "target_words: expected at least 1, got 0"
        );
        assert_eq!(
            refusal(r#"{"kind":"http","url":"http://a","tries":0}"#),
            "tries: expected 1 to 100, got 0"
        );
        assert_eq!(
            refusal(r#"{"kind":"http","url":"http://a","timeout_s":1e300}"#),
            format!(
                "timeout_s: expected seconds above 0, up to 86400, got {}",
                1e300
            )
        );
        for command in ["[]", r#"[""]"#, r#"["a\u0000"]"#] {
            let json = format!(r#"{{"kind":"command","command":{command}}}"#);
            assert!(
                refusal(&json).starts_with("command: expected "),
                "{command}"
            );
        }
        let zero = RewardConfig::Length { target_words: 0 };
        assert!(matches!(zero.open(), Err(RewardError::Config(_))));
    }

    #[test]
    fn an_excerpt_is_short_and_on_one_line() {
        assert_eq!(excerpt(b"a\r\nb"), r"a\r\nb");
        assert_eq!(
            excerpt("\u{e9}".repeat(300).as_bytes()).chars().count(),
            EXCERPT + 3
        );
        assert_eq!(excerpt(&[0xff, b'x']), "\u{fffd}x");
    }
}
