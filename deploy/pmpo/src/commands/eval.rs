//! `pmpo eval`: the newest checkpoint of a run, acting with the mode of its policy.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pmpo_policy::PolicyNetwork;
use serde::Serialize;

use super::load_task;
use crate::cli::EvalArgs;
use crate::config::Config;
use crate::failure::Usage;

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
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    println!("{} · {}", report.task, report.checkpoint);
    for (episode, value) in report.returns.iter().enumerate() {
        println!("episode {episode:>3}  return {value:.1}");
    }
    println!(
        "mean {:.1} ± {:.1} over {} episodes",
        report.return_mean, report.return_std, report.episodes
    );
    Ok(())
}

fn evaluate(args: &EvalArgs) -> Result<Report> {
    ensure!(
        args.episodes > 0,
        Usage::new(anyhow::anyhow!("--episodes: expected at least 1"))
    );
    let Newest {
        config,
        checkpoint,
        mut policy,
    } = Newest::load(&args.run_dir)?;
    let mut environment = load_task(&config.run.task, args.seed)?;
    let result = pmpo_actor::evaluate(&mut policy, &mut environment, args.episodes)?;
    Ok(Report {
        task: config.run.task,
        checkpoint: checkpoint.display().to_string(),
        episodes: result.returns.len(),
        return_mean: result.mean,
        return_std: result.std,
        returns: result.returns,
    })
}

/// The newest checkpoint of a run.
pub(super) struct Newest {
    pub(super) config: Config,
    pub(super) checkpoint: PathBuf,
    pub(super) policy: PolicyNetwork,
}

impl Newest {
    pub(super) fn load(run_dir: &Path) -> Result<Self> {
        let config = Config::from_layers(Some(&run_dir.join("config.toml")), &[])?;
        let checkpoint = pmpo_learner::checkpoint::newest(run_dir).map_err(Usage::new)?;
        let path = checkpoint.join("policy.safetensors");
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let policy =
            PolicyNetwork::from_snapshot(&bytes).with_context(|| path.display().to_string())?;
        Ok(Self {
            config,
            checkpoint,
            policy,
        })
    }
}
