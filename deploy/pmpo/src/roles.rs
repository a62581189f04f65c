//! One role as a process: logs, metrics, sockets and signals around a service's `run`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use pmpo_learner::{LearnerOptions, description};
use pmpo_service::announce::Announcement;
use pmpo_service::grpc::Listener;
use pmpo_service::security::{Credentials, Role, SecurityError};
use pmpo_service::telemetry::{self, LogFormat, PrometheusHandle};
use pmpo_service::{identity, shutdown, traces};
use pmpo_types::{EnvironmentSpec, derive_seed};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{ActorArgs, EvaluatorArgs, LearnerArgs, ReplayArgs, ServiceArgs};
use crate::config::{Config, RunConfig, Source};
use crate::environments;
use crate::failure::{self, Usage};
use crate::output::tell;
use crate::record::Source as Samples;
use crate::run_folder::{self, Asked, RunFolder};
use crate::watch::Watch;

/// Serves the replay tables until a signal.
pub(crate) fn replay(args: &ReplayArgs, format: LogFormat) -> Result<()> {
    let mut config = Config::of_role(&args.config, &args.service.security)?;
    let credentials = config.credentials(Role::Replay)?;
    config.replay.seed = derive_seed(config.run.seed, pmpo_types::Generator::Replay, args.index);
    if let Some(data_dir) = &args.data_dir {
        config.replay.data_dir = Some(data_dir.clone());
    }
    let process = Process {
        role: "replay",
        index: Some(args.index),
        args: &args.service,
        format,
    };
    process.run(
        Some((args.listen, &credentials)),
        async |listener, shutdown| {
            let listener = listener.context("no listener")?;
            pmpo_replay::run(config.replay, listener, shutdown).await?;
            Ok(())
        },
    )
}

/// Learns until a limit or a signal, then prints how the run ended as one JSON line.
pub(crate) fn learner(args: &LearnerArgs, format: LogFormat) -> Result<()> {
    let run_dir = match &args.run.run_dir {
        Some(run_dir) => run_dir.clone(),
        None => return Err(Usage::new(anyhow::anyhow!("--run-dir: expected a folder")).into()),
    };
    let stored = run_dir.join(run_folder::CONFIG);
    let resume = args.run.resumes();
    let file = match (&args.run.config.config, resume) {
        (None, true) => Some(stored.as_path()),
        (file, _) => file.as_deref(),
    };
    let mut assignments = args.run.assignments();
    assignments.extend(args.service.security.assignments());
    let config = Config::for_learner(Source {
        preset: args.run.config.preset,
        file,
        assignments: &assignments,
    })?;
    let credentials = config.credentials(Role::Learner)?;
    let process = Process {
        role: "learner",
        index: Some(0),
        args: &args.service,
        format,
    };
    let prepare = |config: Config, spec: EnvironmentSpec| {
        Prepared::new(args, config, spec, &run_dir, resume, credentials.clone())
    };
    let told = args.service.parent.is_none() && environments::is_told(&config.run);
    // What can be refused is refused before anything is bound.
    let known = match told {
        true => None,
        false => {
            let mut config = config.clone();
            let spec = environments::fit(&mut config)?.spec;
            Some(prepare(config, spec)?)
        }
    };
    process.run_metered(
        Some((args.listen, &credentials)),
        async |listener, shutdown, metrics| {
            let listener = listener.context("no listener")?;
            let prepared = match known {
                Some(prepared) => prepared,
                None => {
                    let task = config.run.task.clone();
                    let read =
                        move |json: &str| environments::read_description(config.clone(), json);
                    let first = listener.try_clone()?;
                    let told = description::told(&task, read, first, &shutdown).await;
                    let Some((config, spec)) = told else {
                        return Ok(());
                    };
                    prepare(config, spec)?
                }
            };
            let Prepared {
                options,
                run,
                _ours,
            } = prepared;
            traces::start();
            let run_dir = options.run_dir.clone();
            // `pmpo train` sees to the page and the record of those that it starts.
            let alone = args.service.parent.is_none();
            let _watch = alone.then(|| watch(&run, &run_dir, metrics));
            let outcome = pmpo_learner::run(options, listener, shutdown).await?;
            // A picture is not worth an error: the numbers are in the run's folder.
            if let Err(error) = crate::curve::draw(&run_dir) {
                tracing::warn!(%error, "no learning curve");
            }
            tell!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        },
    )
}

/// A learner whose environment is known, with its run's folder.
struct Prepared {
    options: LearnerOptions,
    run: RunConfig,
    /// `pmpo train` has taken the folder, and a process that it has started shares its lock.
    _ours: Option<RunFolder>,
}

impl Prepared {
    fn new(
        args: &LearnerArgs,
        config: Config,
        spec: EnvironmentSpec,
        run_dir: &Path,
        resume: bool,
        credentials: Credentials,
    ) -> Result<Self> {
        let asked = Asked {
            config: &config,
            run_dir,
            resume,
            spec: &spec,
        };
        let ours = match args.service.parent {
            Some(_) => None,
            None => Some(RunFolder::take(&asked, "pmpo learner")?),
        };
        let (name, uid) = (run_folder::name(run_dir)?, run_folder::uid(run_dir)?);
        identity::set_run(&name, &uid);
        let options = LearnerOptions {
            run_id: name,
            run_uid: uid,
            task: config.run.task.clone(),
            seed: config.run.seed,
            spec,
            limits: config.run.limits(),
            device: config.run.device()?,
            agent: config.agent(),
            learner: config.learner,
            replay_addresses: args.replay.clone(),
            credentials,
            run_dir: run_dir.to_owned(),
            resume,
        };
        Ok(Self {
            options,
            run: config.run,
            _ours: ours,
        })
    }
}

/// The run's page and record, for as long as it is kept.
fn watch(run: &RunConfig, run_dir: &Path, metrics: PrometheusHandle) -> Watch {
    let watch = Watch::of_run(run, run_dir, Samples::Learner(metrics));
    match &watch.url {
        Ok(url) => tracing::info!(url, "page"),
        Err(error) => tracing::warn!(error = format!("{error:#}"), "no page"),
    }
    watch
}

/// Acts until a signal.
pub(crate) fn actor(args: &ActorArgs, format: LogFormat) -> Result<()> {
    let config = Config::of_role(&args.config, &args.service.security)?;
    let addresses = pmpo_actor::Addresses {
        learner: args.learner.clone(),
        replay: args.replay.clone(),
        credentials: config.credentials(Role::Actor)?,
    };
    let process = Process {
        role: "actor",
        index: args.index.given(),
        args: &args.service,
        format,
    };
    process.run(None, async |_, shutdown| {
        pmpo_actor::run(config.actor, addresses, args.index.given(), shutdown).await?;
        Ok(())
    })
}

/// Evaluates until a signal.
pub(crate) fn evaluator(args: &EvaluatorArgs, format: LogFormat) -> Result<()> {
    let config = Config::of_role(&args.config, &args.service.security)?;
    let credentials = config.credentials(Role::Evaluator)?;
    let process = Process {
        role: "evaluator",
        index: args.index.given(),
        args: &args.service,
        format,
    };
    process.run(None, async |_, shutdown| {
        let (learner, index) = (&args.learner, args.index.given());
        pmpo_actor::evaluator::run(config.evaluator, learner, &credentials, index, shutdown)
            .await?;
        Ok(())
    })
}

/// What every role's process has.
pub(crate) struct Process<'a> {
    pub(crate) role: &'static str,
    /// `None` where the learner is going to allot it.
    pub(crate) index: Option<u64>,
    pub(crate) args: &'a ServiceArgs,
    pub(crate) format: LogFormat,
}

impl Process<'_> {
    /// Runs `service` on a runtime, with metrics served, the process announced and signals watched.
    pub(crate) fn run<S, F>(
        &self,
        listen: Option<(SocketAddr, &Credentials)>,
        service: S,
    ) -> Result<()>
    where
        S: FnOnce(Option<Listener>, CancellationToken) -> F,
        F: Future<Output = Result<()>>,
    {
        self.run_metered(listen, |listener, shutdown, _| service(listener, shutdown))
    }

    /// The same; `service` may read the metrics as well.
    fn run_metered<S, F>(
        &self,
        listen: Option<(SocketAddr, &Credentials)>,
        service: S,
    ) -> Result<()>
    where
        S: FnOnce(Option<Listener>, CancellationToken, PrometheusHandle) -> F,
        F: Future<Output = Result<()>>,
    {
        identity::set_role(self.role, self.index);
        telemetry::init_logging(self.format);
        if let Some(parent) = self.args.parent {
            die_with(parent)?;
        }
        let open_files =
            pmpo_service::process::raise_open_files().context("limit of open files")?;
        tracing::debug!(open_files, "limit");
        let handle = telemetry::install_metrics()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let shutdown = shutdown::on_signals()?;
            let metrics = bind(self.args.metrics).await.context("--metrics")?;
            let listener = match listen {
                Some((address, credentials)) => Some(listen_at(address, credentials).await?),
                None => None,
            };
            self.announce(listener.as_ref(), &metrics)?;
            // Until the role has ended: `/readyz` says so meanwhile, and the last counts can be read.
            let ended = CancellationToken::new();
            let serving = telemetry::serve_metrics(metrics, handle.clone(), ended.clone());
            let serving = tokio::spawn(serving);
            let result = service(listener, shutdown.clone(), handle).await;
            shutdown.cancel();
            ended.cancel();
            traces::stop();
            serving.await?;
            result
        })
    }

    fn announce(&self, listener: Option<&Listener>, metrics: &TcpListener) -> Result<()> {
        let announcement = Announcement {
            role: self.role.to_owned(),
            index: self.index,
            pid: std::process::id(),
            listen: listener.map(Listener::local_addr).transpose()?,
            metrics: Some(metrics.local_addr()?),
        };
        tracing::info!(
            listen = announcement.listen.map(tracing::field::display),
            metrics = announcement.metrics.map(tracing::field::display),
            "started"
        );
        if let Some(path) = &self.args.announce {
            announcement.write(path).map_err(failure::storage(path))?;
        }
        Ok(())
    }
}

/// A port that only those come through whom the credentials let in.
async fn listen_at(address: SocketAddr, credentials: &Credentials) -> Result<Listener> {
    let bound = Listener::bind(address, credentials).await;
    bound.map_err(|error| match error {
        SecurityError::Bind { .. } => anyhow::Error::new(error).context("--listen"),
        error => Usage::new(error).into(),
    })
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// Has the kernel send SIGTERM when the process `parent`, which started this one, ends.
pub(crate) fn die_with(parent: u32) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let alive = rustix::process::getppid()
        .is_some_and(|pid| u32::try_from(pid.as_raw_nonzero().get()) == Ok(parent));
    if !alive {
        return Err(io::Error::other(format!("parent process {parent} has ended")).into());
    }
    Ok(())
}
