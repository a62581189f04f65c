//! `pmpo data label`: which steps of a data set are good and which are bad, as somebody judges.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use pmpo_data::{DataError, DataSet};
use pmpo_types::ConfigError;

use super::failed;
use crate::data::Critic;
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
    /// With --critic: this share of the steps, those of the smallest advantages, gets no label.
    #[arg(long, value_name = "SHARE", requires = "critic", default_value_t = 0.0)]
    drop: f64,
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
    /// Ask the newest critic of this run: what brought more than its policy would have on average, over the
    /// `update.n_step` steps of that run, is accepted, the rest is rejected.
    #[arg(long, value_name = "RUN")]
    critic: Option<PathBuf>,
}

/// Actions of the policy that a state's value is the mean over.
const SAMPLES: usize = 8;

/// Labels every step, or none where something is wrong.
pub(super) fn label(args: &LabelArgs) -> Result<()> {
    let data = DataSet::open(&args.data).map_err(failed)?;
    let count = args.episodes.unwrap_or(data.len());
    if !(1..=data.len()).contains(&count) {
        let expected = format!("1 to {}", data.len());
        return Err(Usage::new(ConfigError::new("episodes", expected, count)).into());
    }
    ConfigError::share("drop", args.drop).map_err(Usage::new)?;
    let mut labels = match &args.by {
        By {
            critic: Some(run), ..
        } => by_critic(&data, count, (&args.data, run), args.drop)?,
        By {
            return_quantile: Some(quantile),
            ..
        } => {
            ConfigError::share("return-quantile", *quantile).map_err(Usage::new)?;
            by_return(&data, count, *quantile).map_err(failed)?
        }
        By { column, .. } => {
            let name = column.as_deref().unwrap_or("label");
            let labels = (0..count).map(|episode| data.column(episode, name));
            labels.collect::<Result<_, _>>().map_err(failed)?
        }
    };
    let of = |as_what: bool| {
        let labels = labels.iter().flatten();
        labels.filter(|label| **label == Some(as_what)).count()
    };
    let (accepted, rejected) = (of(true), of(false));
    let relabelled =
        pmpo_data::relabel(&args.data, |episode, read| match labels.get_mut(episode) {
            Some(labels) => std::mem::take(labels),
            None => vec![None; read.steps()],
        });
    relabelled.map_err(failed)?;
    answer!(
        "{}: {accepted} steps accepted, {rejected} rejected, of {}",
        args.data.display(),
        data.steps()
    )?;
    Ok(())
}

/// The labels of the first episodes, by the signs of their advantages.
fn by_critic(
    data: &DataSet,
    count: usize,
    (path, run): (&Path, &Path),
    drop: f64,
) -> Result<Vec<Vec<Option<bool>>>> {
    let mut critic = Critic::load(run, path)?;
    let mut advantages = Vec::with_capacity(count);
    for episode in 0..count {
        let episode = data.read(episode).map_err(failed)?;
        advantages.push(critic.advantages(episode, SAMPLES));
    }
    let sizes = advantages.iter().flatten().map(|value| value.abs());
    let mut sizes: Vec<f32> = sizes.collect();
    sizes.sort_unstable_by(f32::total_cmp);
    let dropped = (drop * sizes.len() as f64) as usize;
    let least = sizes.get(dropped).copied().unwrap_or(f32::INFINITY);
    let label = |&value: &f32| (value.abs() >= least).then_some(value > 0.0);
    let labels = advantages.iter().map(|of| of.iter().map(label).collect());
    Ok(labels.collect())
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
