//! What a learner serves to its generators: the model's description, and each set of weights as it is published.

use bytes::Bytes;
use pmpo_language::{LmConfig, ModelConfig, Parameters, PromptSource, WeightsDtype, weights};
use pmpo_proto::v1::language_server::{Language, LanguageServer};
use pmpo_proto::v1::{FilePart, GetModelRequest, SubscribeWeightsRequest};
use pmpo_proto::{FILE_DESCRIPTOR_SET, v1};
use pmpo_service::grpc::{self, Listener};
use pmpo_service::health;
use pmpo_service::readiness::Readiness;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::metrics;
use crate::parts::Outgoing;

/// The file of [`RunFile`].
pub(crate) const RUN: &str = "run.json";
/// The file of prompts that are a file's.
pub(crate) const PROMPTS: &str = "prompts.jsonl";
/// The file of weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";
const SERVICES: [&str; 1] = ["pmpo.v1.Language"];

/// What a run is, for generators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// Its name.
    pub run: String,
    /// What tells it from others of its name.
    pub run_uid: String,
    /// What is completed: `grammar`, `topics`, or else what `prompts.jsonl` has.
    pub prompts: String,
    /// How, and what judges it.
    pub settings: LmConfig,
}

/// A run as its learner serves it.
#[derive(Clone, Debug)]
pub struct Described {
    run_uid: String,
    files: Vec<Outgoing>,
}

impl Described {
    /// Of a run, the model's files and its prompts.
    ///
    /// # Errors
    /// A file of prompts cannot be read.
    pub fn new(
        run: &RunFile,
        description: Vec<(&'static str, String)>,
        prompts: &PromptSource,
    ) -> std::io::Result<Self> {
        let text = serde_json::to_string_pretty(run).expect("plain values");
        let mut files: Vec<(&'static str, Bytes)> = description
            .into_iter()
            .map(|(name, text)| (name, text.into()))
            .collect();
        if let PromptSource::File(path) = prompts {
            files.push((PROMPTS, std::fs::read(path)?.into()));
        }
        files.push((RUN, text.into()));
        let files = files.into_iter();
        Ok(Self {
            run_uid: run.run_uid.clone(),
            files: files
                .map(|(name, bytes)| Outgoing::new(name, 0, bytes))
                .collect(),
        })
    }
}

/// Where weights are published; the streams of generators end with it.
#[derive(Debug)]
pub struct Publisher {
    model: ModelConfig,
    dtype: WeightsDtype,
    newest: watch::Sender<Outgoing>,
}

impl Publisher {
    /// Begins with weights that `step` learner steps are in.
    pub fn new(
        model: ModelConfig,
        dtype: WeightsDtype,
        parameters: &Parameters,
        step: u64,
    ) -> Self {
        let first = file(&model, dtype, parameters, step);
        Self {
            model,
            dtype,
            newest: watch::Sender::new(first),
        }
    }

    /// Publishes the next.
    pub fn publish(&self, parameters: &Parameters, step: u64) {
        let next = file(&self.model, self.dtype, parameters, step);
        self.newest.send_replace(next);
        ::metrics::counter!(metrics::PUBLICATIONS).increment(1);
    }

    /// Serves the run until `shutdown`.
    pub fn serve(
        &self,
        described: Described,
        listener: Listener,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let service = Service {
            described,
            newest: self.newest.subscribe(),
            ending: shutdown.clone(),
        };
        async move {
            let routes = health::routes(&readiness, &SERVICES, FILE_DESCRIPTOR_SET).await;
            let routes = routes.add_service(LanguageServer::new(service));
            grpc::serve(listener, routes, shutdown).await;
        }
    }
}

fn file(model: &ModelConfig, dtype: WeightsDtype, parameters: &Parameters, step: u64) -> Outgoing {
    let values: Vec<Vec<f32>> = parameters.values().collect();
    let bytes = weights::encode(model, values.iter().map(Vec::as_slice), dtype);
    Outgoing::new(WEIGHTS, step, bytes.into())
}

#[derive(Clone, Debug)]
struct Service {
    described: Described,
    newest: watch::Receiver<Outgoing>,
    ending: CancellationToken,
}

type Parts = mpsc::Sender<Result<FilePart, Status>>;

impl Service {
    /// A stream that `send` fills until it has no more, nobody reads, or the learner ends.
    fn stream<F>(&self, send: impl FnOnce(Parts) -> F) -> ReceiverStream<Result<FilePart, Status>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // One part on its way and one that is being made.
        let (parts, stream) = mpsc::channel(1);
        let sending = send(parts);
        let ending = self.ending.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sending => {}
                () = ending.cancelled() => {}
            }
        });
        ReceiverStream::new(stream)
    }
}

/// Whether all parts of the file have found a reader.
async fn sent(file: &Outgoing, parts: &Parts) -> bool {
    for part in file.parts() {
        if parts.send(Ok(part)).await.is_err() {
            return false;
        }
    }
    true
}

#[tonic::async_trait]
impl Language for Service {
    type GetModelStream = ReceiverStream<Result<FilePart, Status>>;
    type SubscribeWeightsStream = ReceiverStream<Result<FilePart, Status>>;

    async fn get_model(
        &self,
        request: Request<GetModelRequest>,
    ) -> Result<Response<Self::GetModelStream>, Status> {
        let GetModelRequest { generator } = request.into_inner();
        tracing::info!(generator, "a generator asks for the model");
        let files = self.described.files.clone();
        Ok(Response::new(self.stream(|parts| async move {
            for file in files {
                if !sent(&file, &parts).await {
                    return;
                }
            }
        })))
    }

    async fn subscribe_weights(
        &self,
        request: Request<SubscribeWeightsRequest>,
    ) -> Result<Response<Self::SubscribeWeightsStream>, Status> {
        let v1::SubscribeWeightsRequest { generator, run_uid } = request.into_inner();
        if run_uid != self.described.run_uid {
            return Err(Status::failed_precondition(format!(
                "run_uid: this learner's run is {}, the generator's is another ({run_uid})",
                self.described.run_uid
            )));
        }
        tracing::info!(generator, "a generator subscribes to the weights");
        let mut newest = self.newest.clone();
        newest.mark_changed();
        Ok(Response::new(self.stream(|parts| async move {
            while newest.changed().await.is_ok() {
                let file = newest.borrow_and_update().clone();
                if !sent(&file, &parts).await {
                    return;
                }
            }
        })))
    }
}
