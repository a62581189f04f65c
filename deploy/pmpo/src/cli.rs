//! The command line. Flags that have a configuration key become `key=value` assignments, so that one
//! rule of precedence holds: defaults < file < environment < command line.

mod replay;
mod run;
mod security;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use pmpo_service::telemetry::LogFormat;

use crate::commands::{
    BanditArgs, BenchActorArgs, BroadcastBenchArgs, BroadcastPart, DataCommand, ExportArgs,
};
use crate::config::Preset;
use crate::lm::LmCommand;
use crate::policies::Choice;
use crate::sweep::SweepArgs;
use crate::watch::WatchArgs;
pub(crate) use replay::{BenchItem, BenchRole, ReplayBenchArgs, ReplayClientArgs, TablesArgs};
pub(crate) use run::{Index, RunArgs};
pub(crate) use security::{CertsArgs, SecurityArgs};

/// Distributed actor-learner reinforcement learning with PMPO.
#[derive(Debug, Parser)]
#[command(
    name = "pmpo",
    version,
    propagate_version = true,
    args_override_self = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Form of the log lines on standard error.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the tasks: name, observation and action sizes, control timestep, episode length.
    Tasks {
        /// One JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Train on this machine: replay, learner, actors and an evaluator as child processes.
    Train(TrainArgs),
    /// Learn a policy from a data set alone, and evaluate it in its task.
    Offline(OfflineArgs),
    /// Train a list of configurations with several seeds and draw them together.
    Sweep(SweepArgs),
    /// Serve a replay table.
    Replay(ReplayArgs),
    /// Learn from a replay service and serve the policy.
    Learner(LearnerArgs),
    /// Act with the learner's newest policy and write experience to a replay service.
    Actor(ActorArgs),
    /// Evaluate the learner's newest policy and report the returns to it.
    Evaluator(EvaluatorArgs),
    /// Evaluate a policy of a run with its mode.
    Eval(EvalArgs),
    /// Write a policy of a run for other programs: ONNX, PyTorch or safetensors.
    Export(ExportArgs),
    /// Draw an episode of a run's policy as a GIF or as PNG frames.
    Render(RenderArgs),
    /// Draw the learning curves of one or more runs.
    Plot {
        /// Folders of runs.
        #[arg(required = true)]
        run_dirs: Vec<PathBuf>,
        /// File to write; its ending chooses the format, svg or png.
        #[arg(long)]
        out: PathBuf,
    },
    /// Serve a page on this machine that shows runs, whether they go on or have ended.
    Watch(WatchArgs),
    /// Step one episode with given actions and write what the environment returned.
    Trace {
        /// Task, as `domain-task`.
        task: String,
        /// Seed of the environment, as in dm_control's `task_kwargs={'random': seed}`.
        #[arg(long)]
        seed: u64,
        /// CSV without a header: a row a control step, unclipped.
        #[arg(long)]
        actions: PathBuf,
        /// CSV to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Optimise the paper's synthetic functions with PMPO and DPO (Figure 1).
    Bandit(BanditArgs),
    /// Record episodes, look at them, bring them from one layout to another, and label them.
    #[command(subcommand)]
    Data(DataCommand),
    /// Language models: train one by preferences, complete prompts, evaluate, write for others.
    #[command(subcommand)]
    Lm(LmCommand),
    /// Show the table of a running replay, create one, change its bounds and copy it while it runs.
    Tables(TablesArgs),
    /// Make a CA, and each role's certificate and token, for a lab.
    Certs(CertsArgs),
    /// Ask a service whether it can do its work: exits 0 if so.
    Health(HealthArgs),
    /// Measure one station on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the resolved configuration as TOML, every key with its value.
    Print(ConfigArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// A named set of keys, below the file, the environment and --set.
    #[arg(long, value_enum)]
    pub(crate) preset: Option<Preset>,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key, for example `update.batch_size=128`; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Number of actor processes.
    #[arg(long)]
    pub(crate) actors: Option<u64>,
    /// Begin with the newest networks of the run in this folder; with --lockstep.
    #[arg(long, value_name = "RUN")]
    pub(crate) from: Option<PathBuf>,
    /// In this process alone: so many steps of one environment, then the learner steps that are due, by
    /// no clock. The same seed gives the same curve and the same weights, whatever else the machine does.
    #[arg(long)]
    pub(crate) lockstep: bool,
    /// Threads of the update; speed changes with them, results do not.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Stop when the process with this id, which must be the parent, ends.
    #[arg(long, hide = true)]
    pub(crate) parent: Option<u32>,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OfflineArgs {
    /// Folder of the data set.
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Weight of what is accepted; what is rejected has the rest of 1.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) alpha: Option<f64>,
    /// Weight of all that was done, which is behaviour cloning.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) beta: Option<f64>,
    /// Threads of the update; speed changes with them, results do not.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

/// An address of this machine, its host by number or by name.
pub(crate) fn own_address(text: &str) -> Result<SocketAddr, String> {
    let named = text
        .rsplit_once(':')
        .is_some_and(|(host, _)| !host.is_empty());
    if !named {
        return Err("expected HOST:PORT".to_owned());
    }
    let found: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| error.to_string())?
        .collect();
    // Of a name's addresses the one that all can reach.
    let first = found
        .iter()
        .find(|address| address.is_ipv4())
        .or(found.first());
    first.copied().ok_or_else(|| "no such host".to_owned())
}

/// What every role as a service takes.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// Address to serve Prometheus' `/metrics` on; port 0 lets the system choose.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0", value_parser = own_address)]
    pub(crate) metrics: SocketAddr,
    /// Write pid and addresses to this JSON file once they are known.
    #[arg(long, value_name = "FILE")]
    pub(crate) announce: Option<PathBuf>,
    /// Stop when the process with this id, which must be the parent, ends.
    #[arg(long, hide = true)]
    pub(crate) parent: Option<u32>,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Address to serve gRPC on; port 0 lets the system choose.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7001", value_parser = own_address)]
    pub(crate) listen: SocketAddr,
    /// Folder in which the tables outlive the process; without it they are in memory.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Number of this shard in the run; seeds its draws.
    #[arg(long, default_value_t = 0)]
    pub(crate) index: u64,
}

#[derive(Debug, Args)]
pub(crate) struct LearnerArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Address to serve gRPC on; port 0 lets the system choose.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7002", value_parser = own_address)]
    pub(crate) listen: SocketAddr,
    /// Addresses of the replay service's shards, in the same order everywhere; repeatable.
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7001"
    )]
    pub(crate) replay: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ActorArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Addresses of the replay service's shards, in the same order everywhere; repeatable.
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7001"
    )]
    pub(crate) replay: Vec<String>,
    /// Address of the learner.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7002")]
    pub(crate) learner: String,
    /// Number of this actor in the run, which no two share; `auto`: the lowest that is free.
    #[arg(long, value_name = "N|auto", default_value = "0")]
    pub(crate) index: Index,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluatorArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Address of the learner.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7002")]
    pub(crate) learner: String,
    /// Number of this evaluator in the run, which no two share; `auto`: the lowest that is free.
    #[arg(long, value_name = "N|auto", default_value = "0")]
    pub(crate) index: Index,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Address of a replay or learner, or with --http of any role's metrics.
    #[arg(value_name = "HOST:PORT")]
    pub(crate) address: String,
    /// Ask `/readyz` of a metrics port instead of gRPC health.
    #[arg(long)]
    pub(crate) http: bool,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) timeout: f64,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Folder of the run.
    pub(crate) run_dir: PathBuf,
    /// Which of the run's policies: of the best evaluation, of the newest checkpoint, or of the checkpoint
    /// of a learner step.
    #[arg(long, value_name = "best|newest|STEP", default_value = "best")]
    pub(crate) checkpoint: Choice,
    /// Number of episodes.
    #[arg(long, default_value_t = 10)]
    pub(crate) episodes: usize,
    /// Steps after which an episode is over; default: the task's time limit, 1000 where it has none.
    #[arg(long)]
    pub(crate) max_episode_steps: Option<usize>,
    /// Seed of the environment.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// One JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    /// Folder of the run.
    pub(crate) run_dir: PathBuf,
    /// Which of the run's policies: of the best evaluation, of the newest checkpoint, or of the checkpoint
    /// of a learner step.
    #[arg(long, value_name = "best|newest|STEP", default_value = "best")]
    pub(crate) checkpoint: Choice,
    /// File to write: `walk.gif`, or `walk.png` for the frames walk-0000.png, walk-0001.png, ...
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Seed of the environment.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Pixels across.
    #[arg(long, default_value_t = 320)]
    pub(crate) width: u16,
    /// Pixels down.
    #[arg(long, default_value_t = 240)]
    pub(crate) height: u16,
    /// Name of one of the model's cameras; default: its first.
    #[arg(long)]
    pub(crate) camera: Option<String>,
    /// Frames a second of simulated time, which the GIF plays at this rate.
    #[arg(long, default_value_t = 25.0)]
    pub(crate) fps: f64,
    /// Seconds of simulated time; default: the whole episode.
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Steps after which an episode is over; default: the task's time limit, 1000 where it has none.
    #[arg(long)]
    pub(crate) max_episode_steps: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// The environment alone, beside a raw `mj_step` loop on the same model.
    Env {
        /// Task, as `domain-task`.
        #[arg(long, default_value = "cartpole-swingup")]
        task: String,
        /// Environments in all.
        #[arg(long, default_value_t = 1)]
        envs: usize,
        /// Threads they are shared among.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Seconds to measure.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// One JSON object on the last line.
        #[arg(long)]
        json: bool,
    },
    /// An actor: environment, policy, adder and insertion, beside a raw `mj_step` loop.
    Actor(BenchActorArgs),
    /// The replay service with writers, then a sampler, in processes of their own over loopback.
    Replay(ReplayBenchArgs),
    /// A client process of `bench replay`.
    #[command(hide = true)]
    ReplayClient(ReplayClientArgs),
    /// Publications from the publisher to the subscribers' next action, over loopback.
    Broadcast(BroadcastBenchArgs),
    /// A process of `bench broadcast`.
    #[command(hide = true, subcommand)]
    BroadcastPart(BroadcastPart),
    /// One full PMPO step of the learner.
    Learner {
        /// Sizes: walker, humanoid or large.
        #[arg(long, default_value = "walker")]
        case: String,
        /// Threads of the learner.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Seconds to measure.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Device: cpu, cuda, cuda:N, vulkan or vulkan:N.
        #[arg(long, default_value = "cpu")]
        device: String,
        /// One JSON object on the last line.
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where costs are counted, returns are below 0.
    #[test]
    fn a_return_to_stop_at_may_be_negative() {
        let arguments = [
            "pmpo",
            "train",
            "acrobot-swingup",
            "--stop-at-return",
            "-200",
        ];
        Cli::try_parse_from(arguments).unwrap();
    }

    #[test]
    fn hosts_are_named_or_numbered() {
        for (text, expected) in [
            ("127.0.0.1:7001", "127.0.0.1:7001"),
            ("[::1]:7001", "[::1]:7001"),
            ("localhost:7001", "127.0.0.1:7001"),
        ] {
            assert_eq!(own_address(text), Ok(expected.parse().unwrap()));
        }
        for wrong in [
            "7001",
            ":7001",
            "localhost",
            "localhost:99999",
            "no.such.invalid:1",
        ] {
            assert!(own_address(wrong).is_err(), "{wrong}");
        }
    }
}
