//! The command `pmpo`, run by an interpreter.

use std::ffi::OsString;

use pmpo::Host;
use pmpo_actor::environment;
use pyo3::prelude::*;

use crate::environment::Interpreter;

/// Runs the command `pmpo` with `arguments`, the first its name, and returns its exit code. `program` runs it
/// again in another process. Signals are the command's from here on, and `--help` ends the process.
#[pyfunction]
pub(crate) fn command(py: Python<'_>, arguments: Vec<OsString>, program: Vec<OsString>) -> u8 {
    environment::register(Box::new(Interpreter));
    py.detach(|| pmpo::command(arguments, Host { program }))
}
