//! Exit codes: 0 done, 1 failed, 2 asked for something that cannot be.

use std::fmt;
use std::process::ExitCode;

use pmpo_service::telemetry::{self, LogFormat};

/// An error of the caller: a wrong argument, configuration or input file.
#[derive(Debug)]
pub(crate) struct Usage(anyhow::Error);

impl Usage {
    pub(crate) fn new(error: impl Into<anyhow::Error>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.0))
    }
}

impl std::error::Error for Usage {}

/// One line on standard error, in the log's format, and the exit code.
pub(crate) fn report(error: &anyhow::Error, format: LogFormat) -> ExitCode {
    let line = one_line(error);
    match format {
        LogFormat::Text => eprintln!("pmpo: {line}"),
        LogFormat::Json => {
            // Where the process had come far enough to have a log, this changes nothing.
            telemetry::init_logging(format);
            tracing::error!("{line}");
        }
    }
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}

/// The causes, outermost first. Most of our errors repeat their source in their own text; it is then
/// not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_source_that_an_error_repeats_is_said_once() {
        let config = pmpo_replay::ReplayConfig {
            table: pmpo_replay::TableConfig {
                samples_per_insert: -1.0,
                ..pmpo_replay::TableConfig::default()
            },
            ..pmpo_replay::ReplayConfig::default()
        };
        let error = config.validate().context("replay").unwrap_err();
        let expected = "replay: table.samples_per_insert: expected a positive number, got -1";
        assert_eq!(one_line(&error), expected);
        assert_eq!(Usage::new(error).to_string(), expected);
    }
}
