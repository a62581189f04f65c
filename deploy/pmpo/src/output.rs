//! What commands write for whoever started them. `println!` panics where nobody reads or a disk is full;
//! a tool then has nothing left to do, and a training has better things to do than to stop.

use std::fmt;
use std::io::{self, ErrorKind, Write};

/// A tool's answer cannot be given.
#[derive(Debug)]
pub(crate) struct OutputError(io::Error);

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "standard output: {}", self.0)
    }
}

impl std::error::Error for OutputError {}

/// A line of a tool's answer.
macro_rules! answer {
    ($($text:tt)*) => { $crate::output::write_answer(format_args!($($text)*)) };
}

/// A line for whoever watches, on standard output.
macro_rules! tell {
    ($($text:tt)*) => { $crate::output::write_line(&mut std::io::stdout(), format_args!($($text)*)) };
}

/// A line for whoever watches, on standard error.
macro_rules! complain {
    ($($text:tt)*) => { $crate::output::write_line(&mut std::io::stderr(), format_args!($($text)*)) };
}

pub(crate) use {answer, complain, tell};

/// What [`answer!`] does.
pub(crate) fn write_answer(text: fmt::Arguments<'_>) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(OutputError)
}

/// What [`tell!`] and [`complain!`] do; that nobody can read it is nothing to end for.
pub(crate) fn write_line(to: &mut dyn Write, text: fmt::Arguments<'_>) {
    if let Err(error) = writeln!(to, "{text}").and_then(|()| to.flush()) {
        tracing::debug!(%error, %text, "told to nobody");
    }
}

/// Whether a tool failed because its reader has gone, as `head` has once it has its lines.
pub(crate) fn reader_has_gone(error: &anyhow::Error) -> bool {
    let output = error.chain().find_map(|cause| cause.downcast_ref());
    output.is_some_and(|OutputError(error)| error.kind() == ErrorKind::BrokenPipe)
}
