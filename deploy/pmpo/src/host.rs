//! What the command runs in: its own binary, or an interpreter that has loaded it.

use std::ffi::OsString;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

/// What the command runs in. The default is a binary of its own.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The program, and its first arguments, that runs this command again in another process; empty for the
    /// program that is running.
    pub program: Vec<OsString>,
}

static HOST: OnceLock<Host> = OnceLock::new();

impl Host {
    /// From here on, until the process ends.
    pub(crate) fn enter(self) {
        HOST.get_or_init(|| self);
    }
}

/// See [`Host::program`].
pub(crate) fn program() -> &'static [OsString] {
    HOST.get().map_or(&[], |host| &host.program)
}

/// This command again, in another process.
pub(crate) fn this_program() -> Result<Command> {
    if let Some((program, arguments)) = program().split_first() {
        let mut command = Command::new(program);
        command.args(arguments);
        return Ok(command);
    }
    let program = std::env::current_exe().context("path of this program")?;
    Ok(Command::new(program))
}
