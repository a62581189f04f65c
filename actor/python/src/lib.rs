//! The native part of the Python package `pmpo`: the product's own policy and command, wrapped. What is plain
//! Python beside it (`pmpo/`) finds things and formats nothing that Rust has already.

mod array;
mod command;
mod environment;
mod policy;
mod replay;
mod vector;
mod watch;

use pyo3::prelude::*;

/// The native part of the package; what is meant for users is in `pmpo` itself.
#[pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    use crate::command::command;
    #[pymodule_export]
    use crate::policy::{Generator, Policy};
    #[pymodule_export]
    use crate::replay::{Batch, Client, Sampler, Server, Writer};

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
