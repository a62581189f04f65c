//! Exit codes: 0 done, 1 failed, 2 asked for something that cannot be.

use std::fmt;
use std::process::ExitCode;

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
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Usage {}

/// One line on standard error, and the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("pmpo: {error:#}");
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}
