//! `pmpo bench actor`: this process is the actor, a child process the replay service.

use anyhow::{Context, Result};
use clap::Args;
use pmpo_policy::{NetworkConfig, TorsoConfig};
use pmpo_service::files::write_atomically;
use pmpo_service::shutdown;
use pmpo_service::telemetry::{self, LogFormat};
use serde::Serialize;

use super::{duration, print};
use crate::config::Config;
use crate::environments;
use crate::train::child::{self, Child, Grace, Launcher};

/// Width of the policy's two layers.
const WIDTH: usize = 256;
/// More samples than will ever be drawn: the table takes inserts without waiting for a sampler.
const NO_LIMIT: f64 = 1e15;
/// Time the replay service has to end.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct BenchActorArgs {
    /// Task, as `domain-task`.
    #[arg(long, default_value = "cartpole-swingup")]
    task: String,
    /// Seconds to measure, those of the raw loop included.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// One JSON object on the last line.
    #[arg(long)]
    json: bool,
}

/// Control steps a second of one environment with its policy and its writer.
#[derive(Serialize)]
struct Report {
    steps_per_s: f64,
    steps_per_cpu_s: f64,
    raw_steps_per_cpu_s: f64,
    ratio_to_raw: f64,
    policy_us: f64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} steps/s, {:.0} steps/CPU-s; bare mj_step {:.0} steps/CPU-s; ratio {:.3}; policy \
             {:.2} us a sampled action",
            self.steps_per_s,
            self.steps_per_cpu_s,
            self.raw_steps_per_cpu_s,
            self.ratio_to_raw,
            self.policy_us
        )
    }
}

/// Measures and prints.
pub(crate) fn run(args: &BenchActorArgs) -> Result<()> {
    environments::load(&args.task, 1, 0)?;
    let duration = duration(args.seconds)?;
    // An actor counts for its `/metrics`, so this one does.
    let _metrics = telemetry::install_metrics()?;
    let mut config = Config::default();
    config.run.task.clone_from(&args.task);
    config.replay.table.sequence_length = config.update.window().rows();
    config.replay.table.error_buffer = Some(NO_LIMIT);
    let folder = tempfile::tempdir().context("a temporary folder")?;
    for name in ["roles", "logs"] {
        std::fs::create_dir(folder.path().join(name))?;
    }
    write_atomically(
        &folder.path().join("config.toml"),
        config.to_toml()?.as_bytes(),
    )?;
    let options = pmpo_actor::bench::Options {
        task: args.task.clone(),
        duration,
        network: NetworkConfig {
            torso: TorsoConfig::hidden(&[WIDTH; 2]),
            ..NetworkConfig::default()
        },
        actor: config.actor,
        n_step: config.update.n_step,
        discount: config.update.discount.gamma(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(async {
        let shutdown = shutdown::on_signals()?;
        let launcher = Launcher::new(folder.path(), LogFormat::default());
        let listen = ["--listen", "127.0.0.1:0"].map(str::to_owned);
        let mut replay = launcher.start("replay", 0, &listen)?;
        let report = measure(options, &mut replay, &shutdown).await;
        child::stop_all(std::iter::once(&mut replay), &Grace::from(GRACE)).await?;
        report
    })?;
    match report {
        Some(report) => print(args.json, &report),
        None => Ok(()),
    }
}

/// `None` on Ctrl-C.
async fn measure(
    options: pmpo_actor::bench::Options,
    replay: &mut Child,
    shutdown: &tokio_util::sync::CancellationToken,
) -> Result<Option<Report>> {
    let Some(address) = replay.address(shutdown).await? else {
        return Ok(None);
    };
    let replay = [address.to_string()];
    let report = tokio::select! {
        report = pmpo_actor::bench::run(options, &replay) => report?,
        () = shutdown.cancelled() => return Ok(None),
    };
    Ok(Some(Report {
        steps_per_s: report.steps_per_s,
        steps_per_cpu_s: report.steps_per_cpu_s,
        raw_steps_per_cpu_s: report.raw_steps_per_cpu_s,
        ratio_to_raw: report.steps_per_cpu_s / report.raw_steps_per_cpu_s,
        policy_us: report.policy_us,
    }))
}
