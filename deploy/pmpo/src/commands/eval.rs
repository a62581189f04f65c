//! `pmpo eval`: a policy of a run, acting with its mode.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::checkpoint::Chosen;
use crate::cli::EvalArgs;
use crate::failure::Usage;
use crate::output::answer;

#[derive(Serialize)]
struct Report {
    task: String,
    checkpoint: String,
    episodes: usize,
    return_mean: f64,
    /// Population standard deviation.
    return_std: f64,
    returns: Vec<f64>,
}

/// Evaluates and prints the returns.
pub(crate) fn eval(args: &EvalArgs) -> Result<()> {
    let report = evaluate(args)?;
    if args.json {
        answer!("{}", serde_json::to_string(&report)?)?;
        return Ok(());
    }
    answer!("{} · {}", report.task, report.checkpoint)?;
    for (episode, value) in report.returns.iter().enumerate() {
        answer!("episode {episode:>3}  return {value:.1}")?;
    }
    answer!(
        "mean {:.1} ± {:.1} over {} episodes",
        report.return_mean,
        report.return_std,
        report.episodes
    )?;
    Ok(())
}

fn evaluate(args: &EvalArgs) -> Result<Report> {
    ensure!(
        args.episodes > 0,
        Usage::new(anyhow::anyhow!("--episodes: expected at least 1"))
    );
    let mut chosen = Chosen::load(&args.run_dir, args.checkpoint)?;
    let mut environment = chosen.environment(args.seed)?;
    let result = pmpo_actor::evaluate(&mut chosen.policy, &mut environment, args.episodes)?;
    Ok(Report {
        task: chosen.task,
        checkpoint: chosen.folder.display().to_string(),
        episodes: result.returns.len(),
        return_mean: result.mean,
        return_std: result.std,
        returns: result.returns,
    })
}
