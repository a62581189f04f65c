//! `pmpo bandit`: the paper's synthetic functions (Figure 1).

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use pmpo_bandit::{Algorithm, Function, Options};

use crate::failure::Usage;
use crate::output::answer;

#[derive(Debug, Args)]
pub(crate) struct BanditArgs {
    /// rosenbrock, sphere, cigar, diffpow, elli, schwefel, or all.
    function: String,
    /// Number of coordinates.
    #[arg(long, default_value_t = 10)]
    dim: usize,
    /// Number of seeds.
    #[arg(long, default_value_t = 10)]
    seeds: usize,
    /// Iterations, each of four samples.
    #[arg(long, default_value_t = 10_000)]
    iterations: usize,
    /// Any of PMPO-AR, PMPO-A, PMPO-R and DPO, separated by commas; default: all.
    #[arg(long, value_delimiter = ',')]
    algorithms: Vec<String>,
    /// Adam's learning rate.
    #[arg(long, default_value_t = 3e-3)]
    learning_rate: f64,
    /// Weight of PMPO's KL to the reference.
    #[arg(long, default_value_t = 2.0)]
    beta: f64,
    /// DPO's beta.
    #[arg(long, default_value_t = 1.0)]
    dpo_beta: f64,
    /// Figure to write; its ending chooses the format, svg or png.
    #[arg(long, default_value = "bandit.svg")]
    out: PathBuf,
    /// One JSON object on the last line.
    #[arg(long)]
    json: bool,
}

/// Optimises, prints what was reached, and draws.
pub(crate) fn bandit(args: &BanditArgs) -> Result<()> {
    let functions = match args.function.as_str() {
        "all" => Function::ALL.to_vec(),
        name => vec![name.parse().map_err(Usage::new)?],
    };
    let algorithms = if args.algorithms.is_empty() {
        Algorithm::ALL.to_vec()
    } else {
        let algorithms = args.algorithms.iter().map(|name| name.parse());
        algorithms.collect::<Result<_, _>>().map_err(Usage::new)?
    };
    let report = pmpo_bandit::run(&Options {
        functions,
        algorithms,
        dimension: args.dim,
        seeds: args.seeds,
        iterations: args.iterations,
        learning_rate: args.learning_rate,
        beta: args.beta,
        dpo_beta: args.dpo_beta,
    })
    .map_err(Usage::new)?;
    report.figure().write(&args.out)?;
    answer!("{}", report.to_string().trim_end())?;
    answer!("{}", args.out.display())?;
    if args.json {
        answer!("{}", serde_json::to_string(&report)?)?;
    }
    Ok(())
}
