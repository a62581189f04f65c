//! `pmpo data`: data sets are made, looked at and labelled.

mod collect;
mod experience;
mod info;
mod label;

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use pmpo_data::{DataError, DataSet, Format};

use crate::failure::{self, Usage};
use crate::output::answer;
use collect::CollectArgs;
use label::LabelArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Act in a task and write what happens.
    Collect(CollectArgs),
    /// Write a data set of Minari, LeRobot or D4RL in our layout.
    Import {
        /// What is read: a folder, or D4RL's file.
        source: PathBuf,
        /// Folder to write, which must not be there.
        out: PathBuf,
    },
    /// Write a data set for others, or what a run has stored as a data set.
    Export(ExportArgs),
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

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The data set, unless a run is given, and the folder to write, which must not be there.
    #[arg(required = true, num_args = 1..=2, value_names = ["DATA", "OUT"])]
    paths: Vec<PathBuf>,
    /// In place of a data set: what this run in lockstep has in its table, in the order of age.
    #[arg(long, value_name = "RUN")]
    replay: Option<PathBuf>,
    /// Layout of what is written.
    #[arg(long, value_enum, default_value_t, conflicts_with = "replay")]
    format: Layout,
}

/// A layout that is written.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Layout {
    /// Minari's in Parquet, which is ours.
    #[default]
    Minari,
    /// LeRobot's v3.
    Lerobot,
}

fn export(args: &ExportArgs) -> Result<()> {
    let (set, out) = match (&args.replay, &args.paths[..]) {
        (Some(run), [out]) => return experience::export(run, out),
        (None, [data, out]) => (DataSet::open(data).map_err(failed)?, out),
        (Some(_), _) => return Err(Usage::new(anyhow!("--replay: expected OUT alone")).into()),
        (None, _) => return Err(Usage::new(anyhow!("expected DATA and OUT, or --replay")).into()),
    };
    let format = match args.format {
        Layout::Minari => Format::Minari,
        Layout::Lerobot => Format::LeRobot,
    };
    pmpo_data::export(&set, out, format).map_err(failed)?;
    written(set.len(), set.steps(), out)
}

fn import(source: &Path, out: &Path) -> Result<()> {
    pmpo_data::import(source, out).map_err(failed)?;
    let set = DataSet::open(out).map_err(failed)?;
    written(set.len(), set.steps(), out)
}

/// What a file has that it should not is the caller's to mend; what the system refused is not.
fn failed(error: DataError) -> anyhow::Error {
    match error {
        DataError::Content { .. } => Usage::new(error).into(),
        DataError::Io { path, source } => failure::storage(&path)(source),
    }
}

fn written(episodes: usize, steps: u64, out: &Path) -> Result<()> {
    answer!("{episodes} episodes, {steps} steps in {}", out.display())?;
    Ok(())
}

pub(crate) fn data(command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Collect(args) => collect::collect(args),
        DataCommand::Import { source, out } => import(source, out),
        DataCommand::Export(args) => export(args),
        DataCommand::Info { data, json } => info::info(data, *json),
        DataCommand::Label(args) => label::label(args),
    }
}
