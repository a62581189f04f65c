//! `pmpo data label`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use pmpo_data::{DataError, DataSet};
use pmpo_types::ConfigError;

use super::failed;
use crate::failure::Usage;
use crate::output::answer;

#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// Folder of the data set; of Minari's layout in Parquet, or of LeRobot's.
    data: PathBuf,
    #[command(flatten)]
    by: By,
    /// Label the first episodes only; the steps of the others get none.
    #[arg(long, value_name = "COUNT")]
    episodes: Option<usize>,
}

/// What labels are made from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct By {
    /// Accept the steps of an episode whose return is not below this quantile of the returns, in [0, 1], and
    /// reject those of the others.
    #[arg(long, value_name = "Q")]
    return_quantile: Option<f64>,
    /// Take this column: Booleans, 0 and 1, or the texts `accept` and `reject`; for example `infos/success`.
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
}

/// Labels every step, or none where something is wrong.
pub(super) fn label(args: &LabelArgs) -> Result<()> {
    let data = DataSet::open(&args.data).map_err(failed)?;
    let count = args.episodes.unwrap_or(data.len());
    if !(1..=data.len()).contains(&count) {
        let expected = format!("1 to {}", data.len());
        return Err(Usage::new(ConfigError::new("episodes", expected, count)).into());
    }
    let labels = match (args.by.return_quantile, &args.by.column) {
        (Some(quantile), _) => {
            ConfigError::share("return-quantile", quantile).map_err(Usage::new)?;
            by_return(&data, count, quantile)
        }
        (None, column) => {
            let name = column.as_deref().unwrap_or("label");
            (0..count)
                .map(|episode| data.column(episode, name))
                .collect()
        }
    };
    let mut labels = labels.map_err(failed)?;
    let relabelled =
        pmpo_data::relabel(&args.data, |episode, read| match labels.get_mut(episode) {
            Some(labels) => std::mem::take(labels),
            None => vec![None; read.steps()],
        });
    relabelled.map_err(failed)?;
    answer!("{}", args.data.display())?;
    Ok(())
}

/// The labels of the first episodes, by their returns.
fn by_return(
    data: &DataSet,
    count: usize,
    quantile: f64,
) -> Result<Vec<Vec<Option<bool>>>, DataError> {
    let read = |episode| {
        let episode = data.read(episode)?;
        Ok((episode.undiscounted_return(), episode.steps()))
    };
    let episodes = (0..count)
        .map(read)
        .collect::<Result<Vec<_>, DataError>>()?;
    let mut returns: Vec<f64> = episodes.iter().map(|(sum, _)| *sum).collect();
    returns.sort_by(f64::total_cmp);
    let least = returns[(quantile * (count - 1) as f64).ceil() as usize];
    let labels = episodes
        .into_iter()
        .map(|(sum, steps)| vec![Some(sum >= least); steps]);
    Ok(labels.collect())
}
