//! `pmpo data`: data sets are made, looked at and labelled.

mod collect;
mod experience;
mod info;
mod label;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use collect::CollectArgs;
use label::LabelArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Act in a task and write what happens.
    Collect(CollectArgs),
    /// Write what a run in lockstep has in its table, in the order of age.
    Export {
        /// Folder of the run.
        #[arg(long, value_name = "RUN")]
        replay: PathBuf,
        /// Folder to write, which must not be there.
        out: PathBuf,
    },
    /// Say what a data set holds.
    Info {
        /// The data set.
        data: PathBuf,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Give the steps of a data set their labels, all or none of them.
    Label(LabelArgs),
}

pub(crate) fn data(command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Collect(args) => collect::collect(args),
        DataCommand::Export { replay, out } => experience::export(replay, out),
        DataCommand::Info { data, json } => info::info(data, *json),
        DataCommand::Label(args) => label::label(args),
    }
}
