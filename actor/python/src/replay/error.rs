//! What is raised: the exceptions of `pmpo.replay`, which Python defines, since the stable interface has no
//! exceptions with fields.

use pmpo_proto::replay::v1;
use pmpo_replay_client::ClientError;
use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tonic::{Code, Status};

use crate::replay::tables::reason;

/// An instance of an exception of `pmpo.replay`.
fn exception<'py>(py: Python<'py>, name: &str, arguments: impl PyCallArgs<'py>) -> PyErr {
    let class = py
        .import("pmpo.replay")
        .and_then(|module| module.getattr(name));
    match class.and_then(|class| class.call1(arguments)) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// What is used in a process that was forked from its maker's.
pub(crate) fn forked(py: Python<'_>, name: &str, maker: u32) -> PyErr {
    let here = std::process::id();
    let message = format!(
        "this {name} was made in process {maker} and cannot be used in process {here}, which was forked from it \
         without its threads: make one in each process, or start processes with the method `spawn`"
    );
    exception(py, "Forked", (message,))
}

/// What cannot go on.
pub(crate) fn failed(py: Python<'_>, message: &str) -> PyErr {
    exception(py, "ReplayError", (message,))
}

/// What was closed before.
pub(crate) fn closed(py: Python<'_>, name: &str) -> PyErr {
    failed(py, &format!("this {name} was closed"))
}

/// A refusal, by its gRPC code.
pub(crate) fn refused(py: Python<'_>, code: Code, message: &str) -> PyErr {
    // `NotFound` is `not_found` in Python.
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    exception(py, "Refused", (message, name))
}

/// A call that was answered with an error, or not at all.
pub(crate) fn of_call(py: Python<'_>, address: &str, status: &Status) -> PyErr {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => {
            let message = format!("no answer of the replay at {address}: {}", status.message());
            exception(py, "Unavailable", (message,))
        }
        code => refused(py, code, status.message()),
    }
}

/// What has ended a writer or a sampler.
pub(crate) fn of_client(py: Python<'_>, error: &ClientError) -> PyErr {
    match error {
        ClientError::Config(_) | ClientError::Address(_) | ClientError::Batch(_) => {
            PyValueError::new_err(error.to_string())
        }
        ClientError::Refused { code, message } => refused(py, *code, message),
        ClientError::Shutdown | ClientError::Protocol(_) | ClientError::Deadline { .. } => {
            failed(py, &error.to_string())
        }
    }
}

/// A caller whom the rate limiter still makes wait when its time is up.
pub(crate) fn blocked(py: Python<'_>, what: &str, blocked: &v1::Blocked) -> PyErr {
    let message = format!("{what}: {}", blocked.message);
    let reason = reason(blocked.reason());
    let v1::Blocked {
        counter,
        value,
        bound,
        seconds,
        ..
    } = blocked;
    exception(
        py,
        "Blocked",
        (message, reason, counter, *value, *bound, *seconds),
    )
}
