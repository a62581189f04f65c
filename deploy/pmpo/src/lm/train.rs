//! `pmpo lm train`: a run from its folder to its end, in one process or as the learner of generators in others.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::Args;
use pmpo_generator::{Described, GroupQueue, Publisher, RunFile, create_tables};
use pmpo_language::Session;
use pmpo_service::files::write_atomically;
use pmpo_service::folder_lock::FolderLock;
use pmpo_service::grpc::Listener;
use pmpo_service::identity;
use pmpo_service::readiness::Readiness;
use pmpo_service::security::{Credentials, Role};
use pmpo_service::telemetry::LogFormat;
use pmpo_update::DeviceChoice;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::folder;
use super::run::{Before, Remote, Run, Since};
use super::settings::{Settings, settings};
use crate::cli::{ServiceArgs, own_address};
use crate::failure::{self, Usage};
use crate::output::tell;
use crate::roles::Process;
use crate::run_folder::{self, CONFIG};

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// What is trained: a folder in Hugging Face's layout, a GGUF file, or `smollm2`.
    #[arg(long)]
    model: Option<String>,
    /// What is completed: `grammar`, `topics`, or a file of JSON lines with `prompt`; default: `topics`, or the data.
    #[arg(long)]
    prompts: Option<String>,
    /// What is learnt from in place of completions of its own: a file of JSON lines with `completion` and `label`, with
    /// `chosen` and `rejected`, or with `completion` alone.
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// What judges: `vader`, or another by `--set lm.reward.kind=...` and its keys.
    #[arg(long)]
    reward: Option<String>,
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A key, as `lm.beta=0.5`; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the run.
    #[arg(long)]
    run_dir: PathBuf,
    /// Seed of the run.
    #[arg(long)]
    seed: Option<u64>,
    /// Steps of the update.
    #[arg(long)]
    max_steps: Option<u64>,
    /// Device: cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long)]
    device: Option<String>,
    /// Go on from the newest checkpoint in the run's folder.
    #[arg(long)]
    resume: bool,
    /// Learn from what generators write to the replay service at these addresses, its shards; repeatable.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    replay: Vec<String>,
    /// Address to serve generators on; port 0 lets the system choose.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7002", value_parser = own_address, requires = "replay")]
    listen: SocketAddr,
    #[command(flatten)]
    service: ServiceArgs,
}

impl TrainArgs {
    fn settings(&self) -> Result<Settings> {
        let quoted = |text: Option<&String>| text.map(|text| format!("{text:?}"));
        let flags = [
            ("run.model", quoted(self.model.as_ref())),
            (
                "run.prompts",
                quoted(self.prompts.as_ref().or(self.data.as_ref())),
            ),
            ("run.data", quoted(self.data.as_ref())),
            ("run.device", quoted(self.device.as_ref())),
            ("lm.reward.kind", quoted(self.reward.as_ref())),
            ("lm.seed", self.seed.map(|seed| seed.to_string())),
            (
                "lm.max_steps",
                self.max_steps.map(|steps| steps.to_string()),
            ),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        let security = self.service.security.assignments();
        let assignments: Vec<String> = self
            .set
            .iter()
            .cloned()
            .chain(flags)
            .chain(security)
            .collect();
        let stored = self.run_dir.join(CONFIG);
        let file = match (&self.config, self.resume) {
            (None, true) => Some(stored.as_path()),
            (file, _) => file.as_deref(),
        };
        settings(file, &assignments)
    }
}

/// Trains a model by preferences between its completions.
pub(super) fn train(args: TrainArgs, format: LogFormat) -> Result<()> {
    let run_dir = &args.run_dir;
    let begun = !folder::checkpoints(run_dir).is_empty() || run_dir.join(CONFIG).exists();
    if begun != args.resume {
        let why = match begun {
            true => "holds a run already; go on with --resume or choose another folder",
            false => "holds no run; expected one that --resume goes on with",
        };
        let error = anyhow!("--run-dir {}: {why}", run_dir.display());
        return Err(Usage::new(error).into());
    }
    let mut settings = args.settings()?;
    let device = settings.run.device.parse::<DeviceChoice>();
    let device = device.map_err(Usage::new)?.open()?;
    let credentials = settings.credentials(Role::Learner)?;
    let remote = !args.replay.is_empty();
    if let (true, Some(data)) = (remote, &settings.run.data) {
        let error = anyhow!(
            "--replay: the run learns from {data}; expected one whose completions are drawn"
        );
        return Err(Usage::new(error).into());
    }
    settings.run.absolute()?;
    let model = folder::open_model(&settings.run.model)?;
    let prompts = super::prompts(&settings.run.prompts);
    let data = settings.run.data.as_deref().map(Path::new);
    let session = Session::new(settings.lm.clone(), model, &prompts, data, &device);
    let mut session = session.map_err(folder::as_usage)?;
    std::fs::create_dir_all(run_dir).map_err(failure::storage(run_dir))?;
    // Before the state is read, so that nobody else goes on from it.
    let _ours = FolderLock::take(run_dir, "pmpo lm train")?;
    let mut before = Before::default();
    if args.resume {
        settings.agree_with(run_dir)?;
        if let Some((_, newest)) = folder::checkpoints(run_dir).pop() {
            let words = session.restore(&newest).map_err(folder::as_usage)?;
            before = serde_json::from_str(&words).unwrap_or_default();
        }
        folder::forget_after(run_dir, session.step_count());
    }
    let path = run_dir.join(CONFIG);
    let text = toml::to_string(&settings)?;
    write_atomically(&path, text.as_bytes()).map_err(failure::storage(&path))?;
    let step = session.step_count();
    tell!("training {} in {}", settings.run.model, run_dir.display());
    let name = run_folder::name(run_dir)?;
    let uid = run_folder::uid(run_dir)?;
    identity::set_run(&name, &uid);
    let process = Process {
        role: "learner",
        index: Some(0),
        args: &args.service,
        format,
    };
    let listen = remote.then_some((args.listen, &credentials));
    process.run(listen, async |listener, stop| {
        pmpo_generator::metrics::describe_learner();
        let served = match listener {
            Some(listener) => {
                let run = RunFile {
                    run: name,
                    run_uid: uid,
                    prompts: settings.run.prompts.clone(),
                    settings: settings.lm.clone(),
                };
                let description = session.description();
                let described = Described::new(&run, description, &prompts);
                let described =
                    described.map_err(|error| Usage::new(anyhow!("{}: {error}", run.prompts)))?;
                let opened = serve(
                    &args,
                    &settings,
                    &session,
                    described,
                    listener,
                    &credentials,
                    &stop,
                );
                let Some(served) = opened.await? else {
                    return Ok(());
                };
                Some(served)
            }
            None => None,
        };
        let (remote, serving) = served.unzip();
        let run = Run {
            rows: folder::rows(run_dir, step),
            run_dir,
            config: settings.lm,
            session,
            remote,
            began: Instant::now(),
            before,
            since: Since::default(),
        };
        // The update has this thread; others serve.
        let outcome = tokio::task::block_in_place(|| run.go(&stop));
        stop.cancel();
        if let Some(serving) = serving {
            serving.await?;
        }
        outcome
    })
}

/// Makes the queue and serves the run to generators; `None` when told to stop before.
async fn serve(
    args: &TrainArgs,
    settings: &Settings,
    session: &Session,
    described: Described,
    listener: Listener,
    credentials: &Credentials,
    stop: &CancellationToken,
) -> Result<Option<(Remote, JoinHandle<()>)>> {
    pmpo_replay_client::metrics::describe();
    let readiness = Readiness::new(&[], stop);
    if !create_tables(&args.replay, &settings.lm, credentials, stop).await? {
        return Ok(None);
    }
    let model = session.model_config();
    let vocabulary = model.vocab_size;
    let queue = GroupQueue::new(&args.replay, &settings.lm, vocabulary, credentials, stop)?;
    let dtype = settings.lm.weights_dtype;
    let publisher = Publisher::new(model, dtype, session.parameters(), session.step_count());
    let serving = publisher.serve(described, listener, readiness, stop.clone());
    let serving = tokio::spawn(serving);
    Ok(Some((Remote { publisher, queue }, serving)))
}
