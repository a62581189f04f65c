//! A reward server over HTTP, asked as OpenRLHF asks its remote reward models.
//!
//! `POST {"query": [prompt + completion, ...], "prompts": [prompt, ...], "labels": []}`, answered by
//! `{"rewards": [...]}` with a number for each query. What differs: waits between tries grow, an answer
//! that trying again would not mend is an error at once, and all that is not rewards is passed over.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::Duration;

use pmpo_types::ConfigError;
use serde::Serialize;
use serde_json::Value;
use ureq::Agent;
use ureq::http::Uri;

use super::{RewardError, Sample, Scorer, excerpt};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 4 << 20;
/// The wait after the first try. It doubles with each try.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// What waits grow to.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of an answer that an error shows on either side of where it stops being JSON.
const AROUND: usize = 30;
/// What an answer is to be.
const SHAPE: &str = r#"{"rewards": [a finite number for each query]}"#;

/// Rewards completions with what a server says of them.
///
/// A try that ends without an answer, or with status 408, 425, 429 or 5xx, is made again: after 1 to 1.5
/// seconds, then twice that and so on up to 30 to 45. Any other status, and an answer that is not
/// rewards, is an error at once. An entry of `rewards` may be a list of one number, and of one query it
/// may be a bare number. Connections are made anew for each try and straight to the address: no proxy of
/// the environment, no redirects, no TLS.
#[derive(Debug)]
pub struct HttpScorer {
    url: String,
    timeout: Duration,
    tries: u32,
    first_wait: Duration,
    agent: Agent,
}

#[derive(Serialize)]
struct Question<'a> {
    query: Vec<String>,
    prompts: Vec<&'a str>,
    labels: [&'a str; 0],
}

/// What came of a try instead of rewards.
struct Failure {
    got: String,
    expected: String,
    /// Another try may do better.
    passing: bool,
}

impl Failure {
    fn passing(got: String) -> Self {
        Self {
            got,
            expected: SHAPE.to_owned(),
            passing: true,
        }
    }

    fn lasting(got: String) -> Self {
        Self {
            passing: false,
            ..Self::passing(got)
        }
    }
}

/// Refuses a `url` that [`HttpScorer`] cannot ask.
///
/// # Errors
/// Names the field.
pub(super) fn check_url(url: &str) -> Result<(), ConfigError> {
    const EXPECTED: &str = "http://host:port/path";
    let refuse = |got: &str| Err(ConfigError::new("url", EXPECTED, got));
    let Ok(uri) = url.parse::<Uri>() else {
        return refuse(&excerpt(url.as_bytes()));
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        // Errors name the URL, and so would show it.
        return refuse("a URL with a user's name or password");
    }
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return refuse(&excerpt(url.as_bytes()));
    }
    Ok(())
}

impl HttpScorer {
    /// Asks the server at `url`, `tries` times for up to `timeout` each.
    pub fn new(url: &str, timeout: Duration, tries: u32) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            // A server that was started again since would have closed it, and a try be lost.
            .max_idle_connections(0)
            .build();
        Self {
            url: url.to_owned(),
            timeout,
            tries,
            first_wait: FIRST_WAIT,
            agent: config.into(),
        }
    }

    /// One try: sends `question`, reads `count` rewards.
    fn attempt(&self, question: &[u8], count: usize) -> Result<Vec<f32>, Failure> {
        let post = self.agent.post(&self.url).content_type("application/json");
        let mut response = post.send(question).map_err(|error| self.broken(&error))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(MAX_ANSWER);
        let body = body.read_to_vec().map_err(|error| self.broken(&error));
        if !status.is_success() {
            // Without a body the status still says more than the reason why there is none.
            let body = body.unwrap_or_default();
            let got = format!("status {status}: {}", excerpt(&body));
            let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
            return Err(Failure {
                passing,
                ..Failure::passing(got)
            });
        }
        rewards(&body?, count)
    }

    /// The failure of a connection or of reading from it.
    fn broken(&self, error: &ureq::Error) -> Failure {
        match error {
            ureq::Error::Timeout(_) => Failure::passing(format!(
                "no whole answer within {} s",
                self.timeout.as_secs_f64()
            )),
            ureq::Error::BodyExceedsLimit(_) => {
                Failure::lasting(format!("an answer of more than {MAX_ANSWER} bytes"))
            }
            error => Failure::passing(excerpt(error.to_string().as_bytes())),
        }
    }
}

impl Scorer for HttpScorer {
    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, RewardError> {
        if samples.is_empty() {
            return Ok(Vec::new());
        }
        let question = Question {
            query: samples
                .iter()
                .map(|s| [s.prompt, s.completion].concat())
                .collect(),
            prompts: samples.iter().map(|s| s.prompt).collect(),
            labels: [],
        };
        let question = serde_json::to_vec(&question);
        let mut tried = 1;
        loop {
            let failure = match &question {
                Ok(question) => match self.attempt(question, samples.len()) {
                    Ok(rewards) => return Ok(rewards),
                    Err(failure) => failure,
                },
                Err(error) => Failure::lasting(format!("the question is not JSON: {error}")),
            };
            if !failure.passing || tried >= self.tries {
                return Err(RewardError::Http {
                    url: self.url.clone(),
                    tried,
                    tries: self.tries,
                    got: failure.got,
                    expected: failure.expected,
                });
            }
            thread::sleep(wait(self.first_wait, tried, jitter()));
            tried += 1;
        }
    }
}

/// How long to wait after the try of this number, from 1; `jitter` in [0, 1) makes it up to half longer,
/// so that learners that failed together do not come back together.
fn wait(first: Duration, tried: u32, jitter: f64) -> Duration {
    let doubled = first.saturating_mul(1 << (tried - 1).min(30));
    doubled.min(LONGEST_WAIT).mul_f64(1.0 + jitter / 2.0)
}

/// A number in [0, 1), another one each time: the keys that the standard library draws for hash tables.
fn jitter() -> f64 {
    (RandomState::new().hash_one(()) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The `count` rewards of an answer.
fn rewards(answer: &[u8], count: usize) -> Result<Vec<f32>, Failure> {
    let value: Value = serde_json::from_slice(answer).map_err(|error| {
        Failure::lasting(format!("not JSON ({error}): {}", around(answer, &error)))
    })?;
    let entries = match value.get("rewards") {
        Some(Value::Array(entries)) => entries.as_slice(),
        Some(number @ Value::Number(_)) => std::slice::from_ref(number),
        _ => {
            let got = format!("no list of rewards in {}", excerpt(answer));
            return Err(Failure::lasting(got));
        }
    };
    if entries.len() != count {
        return Err(Failure {
            expected: format!("{count} rewards"),
            ..Failure::lasting(format!("{} rewards", entries.len()))
        });
    }
    let numbers = entries.iter().enumerate().map(|(at, entry)| {
        let finite = number(entry).filter(|number| number.is_finite());
        finite.ok_or_else(|| {
            let entry = excerpt(entry.to_string().as_bytes());
            Failure::lasting(format!("rewards[{at}] is {entry}"))
        })
    });
    numbers.collect()
}

/// A number, also one in lists of one.
fn number(mut entry: &Value) -> Option<f32> {
    while let Some([inner]) = entry.as_array().map(Vec::as_slice) {
        entry = inner;
    }
    entry.as_f64().map(|number| number as f32)
}

/// The part of `answer` where it stops being JSON: at its beginning there may be nothing to see.
fn around(answer: &[u8], error: &serde_json::Error) -> String {
    let mut lines = answer.split(|&byte| byte == b'\n');
    let line = lines.nth(error.line().saturating_sub(1)).unwrap_or(answer);
    let at = error.column().min(line.len());
    excerpt(&line[at.saturating_sub(AROUND)..(at + AROUND).min(line.len())])
}

#[cfg(test)]
mod tests;
