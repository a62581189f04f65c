//! `pmpo train`: a whole cluster on this machine. The roles are child processes of this binary that
//! talk gRPC on loopback, the same code as on many machines; this process starts them, restarts
//! actors and evaluators that die, shows progress and ends all of it in order.

pub(crate) mod child;
pub(crate) mod display;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pmpo_data::DataSet;
use pmpo_learner::RunOutcome;
use pmpo_proto::v1;
use pmpo_proto::v1::run_client::RunClient;
use pmpo_service::grpc::{self, Channel};
use pmpo_service::security::Role;
use pmpo_service::shutdown::Signals;
use pmpo_service::telemetry::{self, LogFormat};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::agreement;
use crate::cli::{OfflineArgs, SecurityArgs, TrainArgs};
use crate::config::{Config, Preset, Source};
use crate::curve;
use crate::environments::{self, Described};
use crate::failure::{self, Usage};
use crate::lockstep;
use crate::output::{complain, tell};
use crate::record::Source as Samples;
use crate::roles;
use crate::run_folder::{self, Asked, OUTCOME, RunFolder};
use crate::watch::Watch;
use child::{Child, Grace, Launcher};
use display::Display;

const TICK: Duration = Duration::from_millis(250);
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Trains until a limit, Ctrl-C, or a death that cannot be mended.
pub(crate) fn run(args: &TrainArgs, format: LogFormat) -> Result<()> {
    let resume = args.run.resumes();
    let prepared = prepare(args, resume)?;
    if args.lockstep {
        return run_in_lockstep(prepared, resume);
    }
    let Prepared {
        config,
        run_dir,
        folder,
    } = prepared;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if let Some(parent) = args.parent {
            roles::die_with(parent)?;
        }
        let signals = Signals::watch()?;
        let shutdown = &signals.stop;
        let launcher = Launcher::new(&run_dir, format).with_interpreter(&config.run);
        let display = Display::new(&config.run).context("starting the thread of the display")?;
        tell!("training {} in {}", config.run.task, run_dir.display());
        let watch = Watch::of_run(&config.run, &run_dir, Samples::Roles);
        watch.tell(&display);
        let mut cluster = Cluster {
            grace: Grace {
                period: Duration::from_secs_f64(config.run.shutdown_grace_s),
                hurry: signals.hurry.clone(),
            },
            ..Cluster::default()
        };
        let ours = (&folder, resume);
        let ended = match cluster.start(&launcher, &config, ours, shutdown).await {
            Ok(()) => cluster.supervise(&launcher, shutdown, &display).await,
            Err(error) => Err(error),
        };
        display.finish();
        let stopped = cluster.stop().await;
        let (outcome, lost) = ended.and(stopped)?;
        match outcome {
            // It had no time to say anything.
            None if !lost.is_empty() => {}
            outcome => summarise(Ok(outcome), &run_dir)?,
        }
        watch.linger();
        cluster.account_for(&lost, &run_dir)
    })
}

/// Learns from a data set alone, which is a run in lockstep where nobody acts.
pub(crate) fn offline(args: OfflineArgs) -> Result<()> {
    let OfflineArgs {
        data,
        mut run,
        alpha,
        beta,
        threads,
    } = args;
    let resume = run.resumes();
    let set = DataSet::open(&data).map_err(Usage::new)?;
    if !resume {
        let spec = set.spec();
        run.task.get_or_insert_with(|| spec.task.clone());
        run.config.preset.get_or_insert(Preset::Offline);
        let repeat = format!("run.action_repeat={}", spec.action_repeat);
        run.config.set.insert(0, repeat);
    }
    let path = data
        .canonicalize()
        .with_context(|| data.display().to_string())?;
    let flags = [
        Some(format!("data.path={path:?}")),
        Some("data.share=1.0".to_owned()),
        alpha.map(|alpha| format!("update.policy_loss.alpha={alpha:?}")),
        beta.map(|beta| format!("update.policy_loss.kl.beta={beta:?}")),
    ];
    run.config.set.extend(flags.into_iter().flatten());
    let args = TrainArgs {
        run,
        actors: None,
        from: None,
        lockstep: true,
        threads,
        parent: None,
        security: SecurityArgs::default(),
    };
    run_in_lockstep(prepare(&args, resume)?, resume)
}

/// Trains in this process.
fn run_in_lockstep(prepared: Prepared, resume: bool) -> Result<()> {
    let Prepared {
        config,
        run_dir,
        folder: _ours,
    } = prepared;
    let display = Display::new(&config.run).context("starting the thread of the display")?;
    tell!(
        "training {} in lockstep in {}",
        config.run.task,
        run_dir.display()
    );
    let metrics = telemetry::install_metrics()?;
    let watch = Watch::of_run(&config.run, &run_dir, Samples::Lockstep(metrics));
    watch.tell(&display);
    let ended = lockstep::run(config, &run_dir, resume, &display);
    display.finish();
    draw(&run_dir);
    summarise(ended.map(Some), &run_dir)?;
    watch.linger();
    Ok(())
}

/// A run that may begin.
struct Prepared {
    config: Config,
    run_dir: PathBuf,
    folder: RunFolder,
}

/// Resolves the configuration and takes the run's folder.
fn prepare(args: &TrainArgs, resume: bool) -> Result<Prepared> {
    let mut assignments = args.run.assignments();
    assignments.extend(args.security.assignments());
    assignments.extend(args.actors.map(|actors| format!("run.actors={actors}")));
    assignments.extend(args.from.iter().map(|from| format!("run.from={from:?}")));
    assignments.extend(args.threads.map(|n| format!("update.threads={n}")));
    let stored = args
        .run
        .run_dir
        .as_ref()
        .map(|folder| folder.join(run_folder::CONFIG));
    let file = match (&args.run.config.config, resume) {
        (None, true) => stored.clone(),
        (file, _) => file.clone(),
    };
    if resume && !stored.as_ref().is_some_and(|path| path.is_file()) {
        return Err(Usage::new(anyhow::anyhow!(
            "--resume: expected --run-dir with the folder of a run (one that holds config.toml)"
        ))
        .into());
    }
    let mut config = Config::for_learner(Source {
        preset: args.run.config.preset,
        file: file.as_deref(),
        assignments: &assignments,
    })?;
    agreement::check_table(&config).map_err(Usage::new)?;
    let Described {
        spec, environments, ..
    } = environments::fit(&mut config)?;
    if let Some(count) = environments.filter(|_| args.lockstep) {
        let task = &config.run.task;
        return Err(Usage::new(anyhow::anyhow!(
            "{task}: expected one environment with --lockstep, got a vector of {count}"
        ))
        .into());
    }
    let run_dir = match &args.run.run_dir {
        Some(run_dir) => run_dir.clone(),
        None => run_folder::new_run_dir(&config),
    };
    let asked = Asked {
        config: &config,
        run_dir: &run_dir,
        resume,
        spec: &spec,
    };
    if !args.lockstep {
        let only = [
            ("data.path", &config.data.path),
            ("run.from", &config.run.from),
        ];
        for (key, value) in only {
            if let Some(value) = value {
                let refused =
                    anyhow::anyhow!("{key}: expected --lockstep with it, got {value:?} without");
                return Err(Usage::new(refused).into());
            }
        }
    } else if resume {
        lockstep::check(&config, &run_dir, &spec)?;
    } else {
        lockstep::check_fresh(&config, &run_dir, &spec)?;
    }
    let folder = RunFolder::take(&asked, "pmpo train")?;
    for change in &folder.changed {
        tell!("resuming with another setting: {change}");
    }
    for name in ["logs", "roles"] {
        let path = run_dir.join(name);
        std::fs::create_dir_all(&path).map_err(failure::storage(&path))?;
    }
    Ok(Prepared {
        config,
        run_dir,
        folder,
    })
}

/// The child processes of a run.
#[derive(Default)]
struct Cluster {
    replays: Vec<Child>,
    replays_may_die: bool,
    learner: Option<Child>,
    /// Actors and evaluators: started again when they die.
    workers: Vec<Child>,
    status: Option<RunClient<Channel>>,
    /// What the learner said last.
    last: Option<v1::RunStatus>,
    /// How long each role may take to end after SIGTERM before it is killed.
    grace: Grace,
}

impl Cluster {
    async fn start(
        &mut self,
        launcher: &Launcher,
        config: &Config,
        (folder, resume): (&RunFolder, bool),
        shutdown: &CancellationToken,
    ) -> Result<()> {
        let listen = ["--listen", "127.0.0.1:0"].map(str::to_owned);
        let mut addresses = Vec::new();
        for index in 0..config.run.replay_shards {
            let flags = [&listen[..], &data_dir_flag(config, index)].concat();
            self.replays.push(launcher.start("replay", index, &flags)?);
        }
        for (index, replay) in (0..).zip(&mut self.replays) {
            let Some(address) = replay.address(shutdown).await? else {
                return Ok(());
            };
            // Started again, it is where the others look for it.
            let listen = ["--listen".to_owned(), address.to_string()];
            replay.set_flags([&listen[..], &data_dir_flag(config, index)].concat());
            addresses.push(address.to_string());
        }
        // One of several can be missed, and what is on disk comes back.
        self.replays_may_die = self.replays.len() > 1 || config.replay.data_dir.is_some();
        let replay = ["--replay".to_owned(), addresses.join(",")];

        let mut flags = [&listen[..], &replay[..], &launcher.run_dir_flag()[..]].concat();
        if resume {
            flags.push("--resume".to_owned());
        }
        // The learner writes to the folder, and may outlive this process for a moment.
        let child = launcher.start_with(folder.share()?, "learner", 0, &flags)?;
        let learner = self.learner.insert(child);
        let Some(address) = learner.address(shutdown).await? else {
            return Ok(());
        };
        let learner = ["--learner".to_owned(), address.to_string()];
        self.status = Some(RunClient::new(grpc::connect_lazy(
            &address.to_string(),
            &config.credentials(Role::Admin)?,
        )?));

        let actor_flags = [&replay[..], &learner[..]].concat();
        for index in 0..config.run.actors {
            self.workers
                .push(launcher.start("actor", index, &actor_flags)?);
        }
        self.workers.push(launcher.start("evaluator", 0, &learner)?);
        Ok(())
    }

    /// Watches the children until the run ends; an error says which death ended it.
    async fn supervise(
        &mut self,
        launcher: &Launcher,
        shutdown: &CancellationToken,
        display: &Display,
    ) -> Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut suspended = signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = suspended.recv() => self.suspend()?,
                _ = tick.tick() => {}
            }
            if let Some(learner) = &mut self.learner
                && let Some(exit) = learner.exited()?
            {
                if exit.success() {
                    return Ok(());
                }
                let death = fatal(
                    &learner.describe(exit),
                    exit,
                    self.last.as_ref(),
                    launcher.run_dir(),
                );
                return Err(failure::of_child(exit, death));
            }
            for replay in &mut self.replays {
                if let Some(exit) = replay.exited()?
                    && !self.replays_may_die
                {
                    let death = format!("{}; its items are gone", replay.describe(exit));
                    let death = fatal(&death, exit, self.last.as_ref(), launcher.run_dir());
                    return Err(failure::of_child(exit, death));
                }
            }
            for worker in self.replays.iter_mut().chain(&mut self.workers) {
                if let Some(notice) = worker.keep_alive(launcher)? {
                    display.notice(&notice);
                }
            }
            if let Some(status) = self.status().await {
                let before = self.last.replace(status);
                if before.is_none_or(|before| before.evaluations < status.evaluations) {
                    draw(launcher.run_dir());
                }
                display.update(&status);
            }
        }
    }

    /// The learner's account of the run; `None` while it does not answer.
    async fn status(&mut self) -> Option<v1::RunStatus> {
        let mut request = tonic::Request::new(v1::GetStatusRequest {});
        request.set_timeout(STATUS_TIMEOUT);
        match self.status.as_mut()?.get_status(request).await {
            Ok(response) => Some(response.into_inner()),
            Err(error) => {
                tracing::debug!(%error, "no status");
                None
            }
        }
    }

    /// Ends the children in the order of the data: actors and evaluators, learner (which writes its
    /// last checkpoint), replay. Also answers who had to be killed.
    async fn stop(&mut self) -> Result<(Option<RunOutcome>, Vec<String>)> {
        let mut killed = child::stop_all(self.workers.iter_mut(), &self.grace).await?;
        killed.extend(child::stop_all(self.learner.iter_mut(), &self.grace).await?);
        let outcome = self.learner.as_mut().map(Child::output).transpose()?;
        killed.extend(child::stop_all(self.replays.iter_mut(), &self.grace).await?);
        let outcome = match outcome.as_deref().map(str::trim) {
            None | Some("") => None,
            Some(json) => Some(serde_json::from_str(json).context("the learner's last line")?),
        };
        Ok((outcome, killed))
    }

    /// Says what was lost with those that had to be killed.
    fn account_for(&self, killed: &[String], run_dir: &Path) -> Result<()> {
        if killed.is_empty() {
            return Ok(());
        }
        let mut line = format!(
            "did not end in time and had to be killed: {}",
            killed.join(", ")
        );
        if killed.iter().any(|name| name.starts_with("learner")) {
            let newest = match pmpo_learner::checkpoint::newest(run_dir) {
                Ok((path, _)) => format!("the newest checkpoint is {}", path.display()),
                Err(error) => error.to_string(),
            };
            let was = self.last.map_or(0, |status| status.learner_steps);
            line += &format!("; {newest}, the learner steps since, up to {was} at least, are lost");
        } else {
            line += "; what they had not handed on is lost";
        }
        bail!(line)
    }

    fn children(&mut self) -> impl Iterator<Item = &mut Child> {
        let first = self.replays.iter_mut().chain(&mut self.learner);
        first.chain(&mut self.workers)
    }

    /// Ctrl-Z stops the whole of it, not this process alone; `fg` or `bg` has all go on.
    fn suspend(&mut self) -> Result<()> {
        self.children()
            .try_for_each(|child| child.signal(Signal::STOP))?;
        kill_process(getpid(), Signal::STOP)?;
        self.children()
            .try_for_each(|child| child.signal(Signal::CONT))
    }
}

/// Draws the learning curve, here rather than on the cores that learn. Training does not end for a
/// picture.
fn draw(run_dir: &Path) {
    if let Err(error) = curve::draw(run_dir) {
        tracing::warn!(%error, "no learning curve");
    }
}

/// Shards do not share a folder.
fn data_dir_flag(config: &Config, shard: u64) -> Vec<String> {
    match &config.replay.data_dir {
        Some(folder) if config.run.replay_shards > 1 => {
            let folder = folder.join(shard.to_string());
            vec!["--data-dir".to_owned(), folder.display().to_string()]
        }
        _ => Vec::new(),
    }
}

/// What to tell of the death of a process without which the run cannot go on.
fn fatal(death: &str, exit: ExitStatus, last: Option<&v1::RunStatus>, run_dir: &Path) -> String {
    let mut line = death.to_owned();
    if let Some(status) = last {
        line += &format!(" after learner step {}", status.learner_steps);
    }
    if failure::another_start_may_help(exit) && pmpo_learner::checkpoint::any(run_dir) {
        let run_dir = run_dir.display();
        line += &format!(
            "; go on from the last checkpoint with: pmpo train --run-dir {run_dir} --resume"
        );
    }
    line
}

/// How the run in `run_dir` ended; `None` while it goes on, when it ended badly, or where nobody can read
/// what was written of it.
pub(crate) fn read_outcome(run_dir: &Path) -> Result<Option<RunOutcome>> {
    let path = run_dir.join(OUTCOME);
    if !path.is_file() {
        return Ok(None);
    }
    let json = std::fs::read(&path).with_context(|| path.display().to_string())?;
    match serde_json::from_slice(&json) {
        Ok(outcome) => Ok(Some(outcome)),
        Err(error) => {
            complain!(
                "{}: {error}; taken for a run that has not ended",
                path.display()
            );
            Ok(None)
        }
    }
}

fn summarise(ended: Result<Option<RunOutcome>>, run_dir: &Path) -> Result<()> {
    let outcome = ended?;
    ensure!(
        run_dir.is_dir(),
        "run folder {} has vanished",
        run_dir.display()
    );
    match outcome {
        Some(outcome) => {
            let path = run_dir.join(OUTCOME);
            let json = serde_json::to_string_pretty(&outcome)? + "\n";
            pmpo_service::files::write_atomically(&path, json.as_bytes())
                .map_err(failure::storage(&path))?;
            tell!("{outcome}");
        }
        None => tell!("ended before the learner was ready"),
    }
    tell!("run folder: {}", run_dir.display());
    Ok(())
}
