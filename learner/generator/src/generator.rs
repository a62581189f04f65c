//! The generator as a process: completes the run's prompts with the newest weights, has the completions judged and
//! writes them as groups into the replay's queue.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, gauge};
use backon::BackoffBuilder;
use pmpo_language::reward::RewardConfig;
use pmpo_language::{
    Checkpoint, Device, Drawn, Generator, Group, LanguageError, LmConfig, ModelConfig, Parameters,
    PromptSource, weights,
};
use pmpo_proto::v1::language_client::LanguageClient;
use pmpo_proto::v1::{GetModelRequest, SubscribeWeightsRequest};
use pmpo_replay_client::{ClientError, Writer, WriterConfig, preference};
use pmpo_service::grpc::{self, Channel};
use pmpo_service::readiness::Readiness;
use pmpo_service::security::Credentials;
use pmpo_service::worker_time::WorkerTime;
use pmpo_service::{backoff, identity};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::layout::Layout;
use crate::parts::{Arrived, Incoming};
use crate::queue::TABLE;
use crate::service::{PROMPTS, RUN, RunFile};
use crate::{GeneratorError, metrics};

/// How long a generator that is told to stop goes on with what it has begun.
const GRACE: Duration = Duration::from_secs(5);
const WEIGHTS: &str = "weights";
const WRITER: &str = "the replay service";
const LEARNER: &str = "the learner";
/// States of the thread.
const DRAWING: usize = 0;
const JUDGING: usize = 1;
const WAITING: usize = 2;

/// Whom a generator works for, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The learner, `host:port`.
    pub learner: String,
    /// The replay's shards.
    pub replay: Vec<String>,
    /// Its number among the run's generators, for logs and for the order in which it prefers shards.
    pub index: u64,
    /// What judges, in place of what the run says.
    pub reward: Option<RewardConfig>,
    /// Where it draws.
    pub device: Device,
    /// What it shows the services.
    pub credentials: Credentials,
}

/// Weights, and the learner steps that are in them.
#[derive(Debug)]
struct Weights {
    values: Vec<Vec<f32>>,
    version: u64,
}

type Newest = watch::Receiver<Option<Arc<Weights>>>;

/// Generates until `shutdown`. Absent services are waited for; a run is not the same twice, for what is drawn depends
/// on when weights arrive.
///
/// # Errors
/// A service refuses for good, or the run's model, prompts or reward cannot be used.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), GeneratorError> {
    metrics::describe_generator();
    pmpo_replay_client::metrics::describe();
    let readiness = Readiness::new(&[WEIGHTS, WRITER], &shutdown);
    let name = format!("generator-{}", options.index);
    let learner = grpc::connect_lazy(&options.learner, &options.credentials)?;
    let folder = tempfile::tempdir().map_err(GeneratorError::Temporary)?;
    let asked = model(&learner, &name, folder.path());
    let Some(run) = until(&shutdown, asked).await.transpose()? else {
        return Ok(());
    };
    identity::set_run(&run.run, &run.run_uid);
    let mut config = run.settings;
    if let Some(reward) = &options.reward {
        config.reward = reward.clone();
    }
    config.validate()?;
    let prompts = match run.prompts.as_str() {
        "grammar" => PromptSource::Grammar,
        "topics" => PromptSource::Topics,
        _ => PromptSource::File(folder.path().join(PROMPTS)),
    };
    let checkpoint = Checkpoint::open_description(folder.path())?;
    let end_writer = CancellationToken::new();
    let _writer_ends = end_writer.clone().drop_guard();
    let layout = Layout::new(&config);
    let writing = WriterConfig {
        table: TABLE.to_owned(),
        // What waits here grows old: no more than is drawn at once.
        max_in_flight_items: config.prompts_per_step,
        credentials: options.credentials.clone(),
        ..WriterConfig::default()
    };
    let shards = preference(&options.replay, options.index);
    let signature = layout.signature();
    let writer = Writer::new(&shards, writing, signature, &Handle::current(), &end_writer)?;
    let opened = writer.opened();
    let (sender, newest) = watch::channel(None);
    let subscription = Subscription {
        client: client(learner),
        name,
        run_uid: run.run_uid,
        model: checkpoint.model_config(),
        newest: sender,
    };
    let work = Work {
        config,
        checkpoint,
        prompts,
        layout,
        writer,
        newest: newest.clone(),
        device: options.device,
        shutdown: shutdown.clone(),
        runtime: Handle::current(),
        time: WorkerTime::new(metrics::WORKER_SECONDS, ["drawing", "judging", "waiting"]),
    };
    let (ended, end) = oneshot::channel();
    let thread = std::thread::Builder::new().name("generator".to_owned());
    let spawned = thread.spawn(move || drop(ended.send(work.run())));
    spawned.map_err(GeneratorError::Spawn)?;
    let ready = async {
        let (mut newest, mut opened) = (newest, opened);
        if newest.wait_for(Option::is_some).await.is_ok() {
            readiness.met(WEIGHTS);
        }
        if opened.wait_for(|opened| *opened).await.is_ok() {
            readiness.met(WRITER);
        }
        std::future::pending::<()>().await;
    };
    let overtime = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = end => ended.unwrap_or(Err(GeneratorError::Panicked("the generator's thread"))),
        refused = subscription.keep() => refused,
        () = ready => Ok(()),
        () = overtime => {
            tracing::warn!("what was being drawn or judged is dropped");
            Ok(())
        }
    }
}

async fn until<T>(shutdown: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = shutdown.cancelled() => None,
        done = work => Some(done),
    }
}

fn client(learner: Channel) -> LanguageClient<Channel> {
    LanguageClient::new(learner).max_decoding_message_size(pmpo_proto::MAX_MESSAGE_BYTES)
}

/// The next file of a stream, or why there is none.
async fn next_file(
    stream: &mut Streaming<pmpo_proto::v1::FilePart>,
    incoming: &mut Incoming,
) -> Result<Option<Arrived>, Lost> {
    while let Some(part) = stream.message().await.map_err(Lost::Status)? {
        if let Some(file) = incoming.take(part).map_err(Lost::Torn)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Why a stream of files cannot be read on.
enum Lost {
    Status(Status),
    Torn(String),
}

impl Lost {
    /// What ends the generator, if it is that; else a line for the log.
    fn checked(self, call: &'static str) -> Result<String, GeneratorError> {
        match self {
            Self::Torn(why) => Err(GeneratorError::Answer(why)),
            Self::Status(status) => match GeneratorError::refusal(LEARNER, call, &status) {
                Some(refusal) => Err(refusal),
                None => Ok(status.message().to_owned()),
            },
        }
    }
}

/// Asks the learner for the model's files until it gives them, and writes them into the folder.
async fn model(learner: &Channel, name: &str, folder: &Path) -> Result<RunFile, GeneratorError> {
    let mut delays = backoff::exponential().build();
    loop {
        let lost = match files(learner, name).await {
            Ok(files) => {
                for file in &files {
                    if Path::new(&file.name).file_name() != Some(file.name.as_ref()) {
                        let why = format!("{:?} is no file's name", file.name);
                        return Err(GeneratorError::Answer(why));
                    }
                    let written = std::fs::write(folder.join(&file.name), &file.bytes);
                    written.map_err(GeneratorError::Temporary)?;
                }
                let run = files.iter().find(|file| file.name == RUN);
                let run = run.ok_or_else(|| GeneratorError::Answer(format!("no {RUN}")))?;
                let run = serde_json::from_slice(&run.bytes);
                return run.map_err(|error| {
                    GeneratorError::Answer(format!(
                        "{RUN}: {error}; run the same version everywhere"
                    ))
                });
            }
            Err(lost) => lost.checked("GetModel")?,
        };
        tracing::info!(reason = lost, "waiting for the learner");
        let delay = delays.next().expect("the backoff has no end");
        tokio::time::sleep(delay).await;
    }
}

async fn files(learner: &Channel, name: &str) -> Result<Vec<Arrived>, Lost> {
    let generator = name.to_owned();
    let request = GetModelRequest { generator };
    let answer = client(learner.clone()).get_model(request).await;
    let mut stream = answer.map_err(Lost::Status)?.into_inner();
    let (mut incoming, mut files) = (Incoming::default(), Vec::new());
    while let Some(file) = next_file(&mut stream, &mut incoming).await? {
        files.push(file);
    }
    match files.iter().any(|file| file.name == RUN) {
        true => Ok(files),
        false => Err(Lost::Status(Status::unavailable(
            "the learner ended the stream",
        ))),
    }
}

/// Keeps the newest weights.
struct Subscription {
    client: LanguageClient<Channel>,
    name: String,
    run_uid: String,
    model: ModelConfig,
    newest: watch::Sender<Option<Arc<Weights>>>,
}

impl Subscription {
    /// Until the learner refuses or sends what cannot be.
    async fn keep(mut self) -> Result<(), GeneratorError> {
        let mut delays = backoff::exponential().build();
        loop {
            let Err(lost) = self.receive(&mut delays).await else {
                return Err(GeneratorError::Panicked("the decoding of weights"));
            };
            let reason = lost.checked("SubscribeWeights")?;
            counter!(metrics::SUBSCRIPTION_FAILURES).increment(1);
            tracing::info!(
                reason,
                "no connection to the learner's weights; trying again"
            );
            let delay = delays.next().expect("the backoff has no end");
            tokio::time::sleep(delay).await;
        }
    }

    /// One stream, until it is lost.
    async fn receive(&mut self, delays: &mut backon::ExponentialBackoff) -> Result<(), Lost> {
        let request = SubscribeWeightsRequest {
            generator: self.name.clone(),
            run_uid: self.run_uid.clone(),
        };
        let answer = self.client.subscribe_weights(request).await;
        let mut stream = answer.map_err(Lost::Status)?.into_inner();
        let mut incoming = Incoming::default();
        while let Some(file) = next_file(&mut stream, &mut incoming).await? {
            *delays = backoff::exponential().build();
            let model = self.model.clone();
            let version = file.version;
            let decoding = move || weights::decode(&model, &file.bytes);
            let Ok(values) = tokio::task::spawn_blocking(decoding).await else {
                return Ok(());
            };
            let values = values.map_err(Lost::Torn)?;
            self.newest
                .send_replace(Some(Arc::new(Weights { values, version })));
        }
        Err(Lost::Status(Status::unavailable(
            "the learner ended the stream",
        )))
    }
}

/// The thread of a generator.
struct Work {
    config: LmConfig,
    checkpoint: Checkpoint,
    prompts: PromptSource,
    layout: Layout,
    writer: Writer,
    newest: Newest,
    device: Device,
    shutdown: CancellationToken,
    runtime: Handle,
    time: WorkerTime<3>,
}

impl Work {
    fn run(mut self) -> Result<(), GeneratorError> {
        let model = self.checkpoint.model_config();
        let first = until(&self.shutdown, self.newest.changed());
        if !matches!(self.runtime.block_on(first), Some(Ok(()))) {
            return Ok(());
        }
        self.time.lap(WAITING);
        let Some((parameters, mut version)) = self.newer(&model) else {
            return Ok(());
        };
        let mut generator = Generator::new(
            self.config.clone(),
            self.checkpoint.clone(),
            parameters,
            &self.prompts,
            0,
            &self.device,
        )?;
        let mut draws = 0;
        // Not the run's seed: a generator that starts again must not draw what it has drawn before.
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        tracing::info!(version, "generating");
        while !self.shutdown.is_cancelled() {
            if self.newest.has_changed().unwrap_or(false)
                && let Some((parameters, newer)) = self.newer(&model)
            {
                generator.set_parameters(parameters);
                version = newer;
            }
            let drawn = generator.draw(draws, seed)?;
            draws += 1;
            counter!(metrics::GENERATED_TOKENS).increment(drawn.tokens() as u64);
            self.time.lap(DRAWING);
            let judged = self.judge(&mut generator, &drawn)?;
            self.time.lap(JUDGING);
            let Some(groups) = judged else {
                break;
            };
            if !self.hand_over(&groups, version)? {
                break;
            }
            self.time.lap(WAITING);
        }
        match self.writer.flush(GRACE / 2) {
            Ok(()) => {}
            Err(error) => tracing::info!(%error, "groups are dropped, for the queue takes no more"),
        }
        Ok(())
    }

    /// The newest weights, once.
    fn newer(&mut self, model: &ModelConfig) -> Option<(Parameters, u64)> {
        let weights = self.newest.borrow_and_update().clone()?;
        gauge!(metrics::POLICY_VERSION).set(weights.version as f64);
        let parameters = Parameters::from_values(model, weights.values.clone(), &self.device);
        Some((parameters, weights.version))
    }

    /// Offers completions until they are judged; `None` when told to stop before.
    fn judge(
        &self,
        generator: &mut Generator,
        drawn: &Drawn,
    ) -> Result<Option<Vec<Group>>, GeneratorError> {
        let mut delays = backoff::exponential().build();
        loop {
            let error = match generator.judge(drawn) {
                Ok(groups) => return Ok(Some(groups)),
                Err(LanguageError::Reward(error)) => error,
                Err(error) => return Err(error.into()),
            };
            counter!(metrics::REWARD_FAILURES).increment(1);
            let delay = delays.next().expect("the backoff has no end");
            tracing::warn!(%error, ?delay, "completions are held back until they can be judged");
            // A timer is made where there is a runtime.
            let pause = async { until(&self.shutdown, tokio::time::sleep(delay)).await };
            if self.runtime.block_on(pause).is_none() {
                return Ok(None);
            }
        }
    }

    /// Writes, and waits until the queue has taken all; `false` when told to stop before.
    fn hand_over(&mut self, groups: &[Group], version: u64) -> Result<bool, GeneratorError> {
        for group in groups {
            let item = self.layout.item(group, version);
            let item = item.map_err(GeneratorError::Answer)?;
            match self.writer.push(item) {
                Ok(()) => counter!(metrics::GENERATED_GROUPS).increment(1),
                Err(ClientError::Shutdown) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        // What is drawn next is drawn with the weights there are once the queue has taken this.
        while !self.shutdown.is_cancelled() {
            match self.writer.flush(Duration::from_secs(1)) {
                Ok(()) => return Ok(true),
                Err(ClientError::Deadline { .. }) => {}
                Err(ClientError::Shutdown) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }
}
