//! `pmpo lm generator`: an actor of a language model's run.

use anyhow::{Result, anyhow};
use clap::Args;
use pmpo_generator::Options;
use pmpo_service::security::Role;
use pmpo_service::telemetry::LogFormat;
use pmpo_update::DeviceChoice;

use super::settings::settings;
use crate::cli::ServiceArgs;
use crate::failure::Usage;
use crate::roles::Process;

#[derive(Debug, Args)]
pub(crate) struct GeneratorArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Addresses of the replay service's shards, in the same order everywhere; repeatable.
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7001"
    )]
    replay: Vec<String>,
    /// Address of the learner.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7002")]
    learner: String,
    /// Number of this generator in the run.
    #[arg(long, default_value_t = 0)]
    index: u64,
    /// Another reward than the run's, as `lm.reward.url="http://here:5000"`; repeatable. All other keys are the run's.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Device: cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// Generates until a signal.
pub(super) fn generator(args: &GeneratorArgs, format: LogFormat) -> Result<()> {
    if let Some(other) = args.set.iter().find(|set| !set.starts_with("lm.reward")) {
        let error = anyhow!("--set {other}: expected a key of lm.reward; the others are the run's");
        return Err(Usage::new(error).into());
    }
    let security = args.service.security.assignments();
    let assignments: Vec<String> = args.set.iter().cloned().chain(security).collect();
    let settings = settings(None, &assignments)?;
    let credentials = settings.credentials(Role::Actor)?;
    let device = args.device.parse::<DeviceChoice>();
    let options = Options {
        learner: args.learner.clone(),
        replay: args.replay.clone(),
        index: args.index,
        reward: (!args.set.is_empty()).then_some(settings.lm.reward),
        device: device.map_err(Usage::new)?.open()?,
        credentials,
    };
    let process = Process {
        role: "generator",
        index: Some(args.index),
        args: &args.service,
        format,
    };
    process.run(None, async |_, shutdown| {
        Ok(pmpo_generator::run(options, shutdown).await?)
    })
}
