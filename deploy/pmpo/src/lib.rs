//! `pmpo`: any role of the system as a service, a whole cluster on one machine, and the tools around
//! a run.
//!
//! The whole command is a library, which the binary and the Python package both run, see [`command`].

#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic: see `output`.

mod agreement;
mod cli;
mod commands;
mod config;
mod curve;
mod data;
mod environments;
mod failure;
mod host;
mod http;
mod lm;
mod lockstep;
mod output;
pub mod policies;
mod record;
mod roles;
mod run_folder;
mod sweep;
mod train;
mod watch;

use std::ffi::{OsString, c_int, c_long};

use anyhow::Result;
use clap::Parser;

use crate::cli::{Cli, Command, ConfigCommand};
use crate::config::Config;
use crate::output::answer;
pub use environments::Described;
pub use host::Host;

// Tensors of a megabyte come and go at every learner step; the system's allocator gives such blocks
// back to the kernel each time and pays for it in page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Milliseconds that freed memory stays with the process. A learner step frees and takes the same
/// megabytes each few milliseconds; the allocator's default of 10 has pages cleared again and again,
/// which was 5% of a step.
const FREED_MEMORY_STAYS_MS: c_long = 1000;

unsafe extern "C" {
    /// Of mimalloc's C library, which its crate links but does not declare this of.
    fn mi_option_set_default(option: c_int, value: c_long);
}

fn keep_freed_memory() {
    /// `mi_option_purge_delay` in versions 2 and 3 of `mimalloc.h`.
    const PURGE_DELAY: c_int = 15;
    // SAFETY: sets a number, unless the environment did already.
    unsafe { mi_option_set_default(PURGE_DELAY, FREED_MEMORY_STAYS_MS) };
}

/// Runs the command as a process would, `arguments[0]` being its name, and answers its exit code; `host` is
/// what it runs in. It may end the process, as where it is asked for `--help`.
pub fn command(arguments: impl IntoIterator<Item = OsString>, host: Host) -> u8 {
    host.enter();
    keep_freed_memory();
    let cli = Cli::parse_from(arguments);
    let format = cli.log_format;
    match run(cli) {
        Ok(()) => 0,
        Err(error) if output::reader_has_gone(&error) => 0,
        Err(error) => failure::report(&error, format),
    }
}

fn run(cli: Cli) -> Result<()> {
    let format = cli.log_format;
    match cli.command {
        Command::Train(args) => train::run(&args, format),
        Command::Offline(args) => train::offline(args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Replay(args) => roles::replay(&args, format),
        Command::Learner(args) => roles::learner(&args, format),
        Command::Actor(args) => roles::actor(&args, format),
        Command::Evaluator(args) => roles::evaluator(&args, format),
        Command::Tasks { json } => commands::tasks(json),
        Command::Eval(args) => commands::eval(&args),
        Command::Export(args) => commands::export(&args),
        Command::Render(args) => commands::render(&args),
        Command::Plot { run_dirs, out } => commands::plot(&run_dirs, &out),
        Command::Watch(args) => watch::command(&args),
        Command::Trace {
            task,
            seed,
            actions,
            out,
        } => commands::trace(&task, seed, &actions, &out),
        Command::Bandit(args) => commands::bandit(&args),
        Command::Data(command) => commands::data(&command),
        Command::Lm(command) => lm::lm(command, format),
        Command::Tables(args) => commands::tables(&args),
        Command::Certs(args) => commands::certs(&args),
        Command::Health(args) => commands::health(&args),
        Command::Bench(command) => commands::bench(command),
        Command::Config(ConfigCommand::Print(args)) => {
            answer!("{}", Config::of_run(&args)?.to_toml()?.trim_end())?;
            Ok(())
        }
    }
}
