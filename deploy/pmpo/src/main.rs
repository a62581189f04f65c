//! The binary `pmpo`: the library of the same name, as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    pmpo::command(std::env::args_os(), pmpo::Host::default()).into()
}
