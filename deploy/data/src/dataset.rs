//! A data set of any readable layout, and the way from one layout to another.

use std::path::Path;

use pmpo_types::EnvironmentSpec;

use crate::d4rl::D4rl;
use crate::episode::Episode;
use crate::error::{DataError, InFile, refused};
use crate::lerobot::{LeRobot, export_lerobot};
use crate::minari::{Minari, Writer};

/// Who made a data set and how, in their own words; anything may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Names, separated by commas.
    pub author: String,
    /// Addresses, separated by commas.
    pub author_email: String,
    /// What acted.
    pub algorithm: String,
    /// Where the code is that made it.
    pub code: String,
    /// Anything else.
    pub description: String,
}

/// A layout that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Minari's in Parquet, which is also our own.
    Minari,
    /// LeRobot's v3.
    LeRobot,
}

/// An open data set; its episodes are read when they are asked for.
#[derive(Debug)]
pub struct DataSet(Layout);

#[derive(Debug)]
pub(crate) enum Layout {
    Minari(Minari),
    LeRobot(LeRobot),
    D4rl(D4rl),
}

impl DataSet {
    /// Finds out which layout is there, and checks its metadata.
    ///
    /// # Errors
    /// None that is known, or its metadata cannot be used.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let layout = if path.join("data/metadata.json").is_file() {
            Layout::Minari(Minari::open(&path.join("data"))?)
        } else if path.join("metadata.json").is_file() {
            Layout::Minari(Minari::open(path)?)
        } else if path.join("meta/info.json").is_file() {
            Layout::LeRobot(LeRobot::open(path)?)
        } else if path.is_file() {
            Layout::D4rl(D4rl::open(path)?)
        } else {
            path.metadata().in_file(path)?;
            let expected =
                "Minari's data/metadata.json, LeRobot's meta/info.json, or a file of D4RL's";
            return refused(path, "data set", expected, "neither");
        };
        Ok(Self(layout))
    }

    pub(crate) fn inner(&self) -> &Layout {
        &self.0
    }

    /// Task, fields of the observation and bounds of the action.
    pub fn spec(&self) -> &EnvironmentSpec {
        match &self.0 {
            Layout::Minari(data) => data.spec(),
            Layout::LeRobot(data) => data.spec(),
            Layout::D4rl(data) => data.spec(),
        }
    }

    /// Who made it and how; empty where the layout does not say.
    pub fn about(&self) -> About {
        match &self.0 {
            Layout::Minari(data) => data.about().clone(),
            Layout::LeRobot(_) | Layout::D4rl(_) => About::default(),
        }
    }

    /// The layout's name, and how it is stored.
    pub fn layout(&self) -> &'static str {
        match &self.0 {
            Layout::Minari(data) => data.layout(),
            Layout::LeRobot(_) => "LeRobot v3",
            Layout::D4rl(_) => "D4RL",
        }
    }

    /// Number of episodes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "one without episodes is refused"
    )]
    pub fn len(&self) -> usize {
        match &self.0 {
            Layout::Minari(data) => data.len(),
            Layout::LeRobot(data) => data.len(),
            Layout::D4rl(data) => data.len(),
        }
    }

    /// Steps of all episodes, as the metadata say.
    pub fn steps(&self) -> u64 {
        match &self.0 {
            Layout::Minari(data) => data.steps(),
            Layout::LeRobot(data) => data.steps(),
            Layout::D4rl(data) => data.steps(),
        }
    }

    /// Whether there is a label column.
    pub fn is_labelled(&self) -> bool {
        match &self.0 {
            Layout::Minari(data) => data.is_labelled(),
            Layout::LeRobot(data) => data.is_labelled(),
            Layout::D4rl(_) => false,
        }
    }

    /// Reads an episode, by its place in the stored order, and checks it.
    ///
    /// # Errors
    /// It is not there, not whole, not of the specified shape, or not finite.
    pub fn read(&self, episode: usize) -> Result<Episode, DataError> {
        match &self.0 {
            Layout::Minari(data) => data.read(episode),
            Layout::LeRobot(data) => data.read(episode),
            Layout::D4rl(data) => data.read(episode),
        }
    }

    /// A column of the layout's own as labels, one a step: Booleans, 0 and 1, or the texts `accept` and
    /// `reject`, with holes. Slashes lead into structs, as in `infos/success`.
    ///
    /// # Errors
    /// There is no such column or no such episode, or it has something else.
    pub fn column(&self, episode: usize, name: &str) -> Result<Vec<Option<bool>>, DataError> {
        match &self.0 {
            Layout::Minari(data) => data.column(episode, name),
            Layout::LeRobot(data) => data.column(episode, name),
            Layout::D4rl(data) => data.column(name),
        }
    }
}

/// Writes a data set of any layout in ours, whole or not at all.
///
/// # Errors
/// An episode of the source cannot be used, or `out` is there or cannot be written.
pub fn import(source: &Path, out: &Path) -> Result<(), DataError> {
    export(&DataSet::open(source)?, out, Format::Minari)
}

/// Writes a data set in a layout of others, whole or not at all.
///
/// # Errors
/// As [`import`].
pub fn export(data: &DataSet, out: &Path, format: Format) -> Result<(), DataError> {
    if format == Format::LeRobot {
        return export_lerobot(data, out);
    }
    let mut writer = Writer::create(out, data.spec(), &data.about())?;
    for episode in 0..data.len() {
        writer.push(&data.read(episode)?)?;
    }
    writer.finish()
}
