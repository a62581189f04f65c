//! From one layout to another, for the tests with other libraries:
//!
//! - `convert minari|lerobot SOURCE OUT`
//! - `convert label DATA`: steps with a reward above 0 are accepted, those below rejected.

use std::path::Path;

use anyhow::{Result, bail};
use pmpo_data::{DataSet, Episode, Format, export, relabel};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (source, out, format) = match arguments.as_slice() {
        ["label", data] => return Ok(relabel(Path::new(data), |_, episode| labels(episode))?),
        ["minari", source, out] => (source, out, Format::Minari),
        ["lerobot", source, out] => (source, out, Format::LeRobot),
        other => bail!("expected minari|lerobot SOURCE OUT or label DATA, got {other:?}"),
    };
    let data = DataSet::open(Path::new(source))?;
    Ok(export(&data, Path::new(out), format)?)
}

fn labels(episode: &Episode) -> Vec<Option<bool>> {
    let rewards = episode.rewards.iter();
    rewards
        .map(|reward| (*reward != 0.0).then_some(*reward > 0.0))
        .collect()
}
