//! `pmpo data`: recorded episodes of Minari's, LeRobot's and D4RL's layouts, and their labels.

mod info;
mod label;

use std::path::PathBuf;

use anyhow::{Error, Result};
use clap::{Subcommand, ValueEnum};
use pmpo_data::{DataError, DataSet, Format};

use crate::failure::Usage;
use crate::output::answer;
use label::LabelArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Read a data set whole, and say what is in it.
    Info {
        /// Folder, or file of D4RL's.
        data: PathBuf,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write a data set of any layout in ours, which is Minari's in Parquet, with labels.
    Import {
        /// Folder, or file of D4RL's.
        source: PathBuf,
        /// Folder to make.
        out: PathBuf,
    },
    /// Write a data set in a layout of others.
    Export {
        /// Folder of the data set.
        data: PathBuf,
        /// Folder to make.
        out: PathBuf,
        /// The layout.
        #[arg(long, value_enum)]
        format: Layout,
    },
    /// Label the steps of a data set; the labels that it had are gone.
    Label(LabelArgs),
}

/// A layout that is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Layout {
    /// Minari's, in Parquet.
    Minari,
    /// LeRobot's v3.
    Lerobot,
}

/// Does what was asked for.
pub(crate) fn data(command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Info { data, json } => return info::info(data, *json),
        DataCommand::Import { source, out } => {
            pmpo_data::import(source, out).map_err(failed)?;
            answer!("{}", out.display())?;
        }
        DataCommand::Export { data, out, format } => {
            let format = match format {
                Layout::Minari => Format::Minari,
                Layout::Lerobot => Format::LeRobot,
            };
            let data = DataSet::open(data).map_err(failed)?;
            pmpo_data::export(&data, out, format).map_err(failed)?;
            answer!("{}", out.display())?;
        }
        DataCommand::Label(args) => return label::label(args),
    }
    Ok(())
}

/// What a file has that it should not is the caller's to mend; what the system refused is not.
fn failed(error: DataError) -> Error {
    match error {
        DataError::Content { .. } => Usage::new(error).into(),
        DataError::Io { path, source } => crate::failure::storage(&path)(source),
    }
}
