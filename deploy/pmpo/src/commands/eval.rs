//! `pmpo eval`: a policy of a run, acting with its mode.

use anyhow::{Result, ensure};
use pmpo_actor::environment::Loaded;
use pmpo_actor::{
    ENDLESS_EPISODE_STEPS, EvaluationResult, EvaluatorConfig, evaluate, evaluate_vector,
};
use pmpo_types::EnvironmentSpec;
use serde::Serialize;

use crate::cli::EvalArgs;
use crate::failure::Usage;
use crate::output::{answer, complain};
use crate::policies::Chosen;

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

/// Says where an episode ends of a task that does not.
pub(super) fn tell_endless(spec: &EnvironmentSpec, bound: Option<usize>) {
    if spec.step_limit.is_none() && bound.is_none() {
        let task = &spec.task;
        complain!(
            "{task} has no time limit: an episode ends after {ENDLESS_EPISODE_STEPS} steps, or \
             --max-episode-steps"
        );
    }
}

/// Evaluates and prints the returns, each when its episode has ended.
pub(crate) fn eval(args: &EvalArgs) -> Result<()> {
    let report = report(args)?;
    if args.json {
        answer!("{}", serde_json::to_string(&report)?)?;
        return Ok(());
    }
    answer!(
        "mean {:.1} ± {:.1} over {} episodes",
        report.return_mean,
        report.return_std,
        report.episodes
    )?;
    Ok(())
}

fn report(args: &EvalArgs) -> Result<Report> {
    ensure!(
        args.episodes > 0,
        Usage::new(anyhow::anyhow!("--episodes: expected at least 1"))
    );
    let mut chosen = Chosen::load(&args.run_dir, args.checkpoint)?;
    let mut environment = chosen.environments(args.seed)?;
    if !args.json {
        answer!("{} · {}", chosen.task, chosen.place.display())?;
    }
    let mut config = EvaluatorConfig {
        episodes: 1,
        max_episode_steps: args.max_episode_steps,
        ..EvaluatorConfig::default()
    };
    config.validate().map_err(Usage::new)?;
    tell_endless(environment.spec(), args.max_episode_steps);
    let mut returns = Vec::with_capacity(args.episodes);
    while returns.len() < args.episodes {
        let result = match &mut environment {
            Loaded::One(one) => evaluate(&mut chosen.policy, one.as_mut(), &config)?,
            Loaded::Vector(all) => {
                config.episodes = args.episodes;
                evaluate_vector(&mut chosen.policy, all.as_mut(), &config)?
            }
        };
        for value in result.returns {
            if !args.json {
                answer!("episode {:>3}  return {value:.1}", returns.len())?;
            }
            returns.push(value);
        }
    }
    let result = EvaluationResult::new(returns);
    Ok(Report {
        task: chosen.task,
        checkpoint: chosen.place.display().to_string(),
        episodes: result.returns.len(),
        return_mean: result.mean,
        return_std: result.std,
        returns: result.returns,
    })
}
