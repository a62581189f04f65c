//! `pmpo data label`: which steps of a data set are good and which are bad, as somebody judges.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use pmpo_data::{DataSet, Episode};

use crate::data::Critic;
use crate::failure::Usage;
use crate::output::answer;

/// Actions of the policy that a state's value is the mean over.
const SAMPLES: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// The data set.
    data: PathBuf,
    /// By a column of the data set's own, of truths: true is accepted, false rejected.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["critic", "return_quantile"])]
    column: Option<String>,
    /// By the critic of this run: what brought more than its policy would have on average is accepted, the rest
    /// is rejected. Over `update.n_step` steps of that run.
    #[arg(long, value_name = "RUN", conflicts_with = "return_quantile")]
    critic: Option<PathBuf>,
    /// With --critic: steps whose advantage is among the smallest, this share of all, get no label.
    #[arg(long, requires = "critic", default_value_t = 0.0)]
    drop: f64,
    /// By the episode's return: of those above this quantile each step is accepted, of the others rejected.
    #[arg(long)]
    return_quantile: Option<f64>,
    /// Label the first so many episodes alone.
    #[arg(long)]
    first: Option<usize>,
}

/// What becomes of the steps of an episode.
type Labels = Vec<Option<bool>>;

/// Labels, and says how many of each there are.
pub(super) fn label(args: &LabelArgs) -> Result<()> {
    for (flag, value) in [("--drop", args.drop), ("--return-quantile", args.return_quantile.unwrap_or(0.0))] {
        ensure!(
            (0.0..=1.0).contains(&value),
            Usage::new(anyhow!("{flag}: expected a number in [0, 1], got {value}"))
        );
    }
    let set = DataSet::open(&args.data).map_err(Usage::new)?;
    let labels = match (&args.critic, args.return_quantile, &args.column) {
        (Some(run), ..) => by_critic(&set, &args.data, run, args.drop)?,
        (None, Some(quantile), _) => by_return(&set, quantile)?,
        (None, None, Some(name)) => {
            let column = |number| set.column(number, name).map_err(Usage::new);
            (0..set.len()).map(column).collect::<Result<_, _>>()?
        }
        (None, None, None) => {
            let error = anyhow!("expected --critic, --return-quantile or --column");
            return Err(Usage::new(error).into());
        }
    };
    let first = args.first.unwrap_or(usize::MAX);
    let mut counts = [0, 0];
    let given = |number: usize, episode: &Episode| {
        if number >= first {
            return vec![None; episode.steps()];
        }
        for label in labels[number].iter().flatten() {
            counts[usize::from(!label)] += 1;
        }
        labels[number].clone()
    };
    pmpo_data::relabel(&args.data, given).map_err(super::unwritten)?;
    answer!("{} steps accepted, {} rejected, of {}", counts[0], counts[1], set.steps())?;
    Ok(())
}

fn by_critic(set: &DataSet, data: &Path, run: &Path, drop: f64) -> Result<Vec<Labels>> {
    let mut critic = Critic::load(run, data)?;
    let mut advantages = Vec::with_capacity(set.len());
    for number in 0..set.len() {
        let episode = set.read(number).map_err(Usage::new)?;
        advantages.push(critic.advantages(&episode, SAMPLES));
    }
    let mut sizes: Vec<f32> = advantages.iter().flatten().map(|value| value.abs()).collect();
    sizes.sort_unstable_by(f32::total_cmp);
    let dropped = (drop * sizes.len() as f64) as usize;
    let least = sizes.get(dropped).copied().unwrap_or(f32::INFINITY);
    let label = |&value: &f32| (value.abs() >= least).then_some(value > 0.0);
    Ok(advantages.iter().map(|of| of.iter().map(label).collect()).collect())
}

fn by_return(set: &DataSet, quantile: f64) -> Result<Vec<Labels>> {
    let mut episodes = Vec::with_capacity(set.len());
    for number in 0..set.len() {
        let episode = set.read(number).map_err(Usage::new)?;
        episodes.push((episode.undiscounted_return(), episode.steps()));
    }
    let mut returns: Vec<f64> = episodes.iter().map(|(value, _)| *value).collect();
    returns.sort_unstable_by(f64::total_cmp);
    let bound = returns[((quantile * returns.len() as f64) as usize).min(returns.len() - 1)];
    let label = |&(value, steps): &(f64, usize)| vec![Some(value >= bound); steps];
    Ok(episodes.iter().map(label).collect())
}
