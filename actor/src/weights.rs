//! The newest policy, by subscription: the learner sends each publication, and a reader takes the
//! newest when it wants one. Decoding happens once a process, off the runtime's workers; the threads
//! of the environments copy the network when they take it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use backon::BackoffBuilder;
use pmpo_policy::{PolicyNetwork, PolicySnapshot, SnapshotError};
use pmpo_proto::v1::{self, run_client::RunClient, weights_client::WeightsClient};
use pmpo_proto::{MAX_MESSAGE_BYTES, WireError, digest_from_wire, trace_from_wire};
use pmpo_service::backoff;
use pmpo_service::grpc::{self, Channel};
use pmpo_service::metrics::unix_seconds;
use pmpo_service::traces::{self, Kind, SharedSpan};
use pmpo_types::{EnvironmentSpec, PolicyVersion};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::run_info::RunInfo;
use crate::{ActorError, metrics};

/// A publication, ready to act.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Number of the publication.
    pub version: PolicyVersion,
    /// Updates of the learner when it was published.
    pub learner_step: u64,
    /// The network.
    pub network: PolicyNetwork,
    /// Where it is traced, from its arrival until the first thread acts with it.
    pub(crate) arrival: Option<SharedSpan>,
}

impl Policy {
    /// A policy of no subscription.
    pub fn new(version: PolicyVersion, learner_step: u64, network: PolicyNetwork) -> Self {
        Self {
            version,
            learner_step,
            network,
            arrival: None,
        }
    }

    /// A thread is going to act with it.
    fn taken(self) -> Self {
        if let Some(arrival) = &self.arrival {
            arrival.end();
        }
        self
    }
}

/// Where policies come from.
pub trait WeightsSource: Send {
    /// The newest policy, if there is one that was not taken before. Does not block.
    fn newer(&mut self) -> Option<Policy>;

    /// Waits for a policy that was not taken before; `None` when the process is ending.
    fn wait(&mut self) -> Option<Policy>;
}

/// A thread's view of the subscription.
#[derive(Clone, Debug)]
pub struct Newest {
    receiver: watch::Receiver<Option<Arc<Policy>>>,
    runtime: Handle,
    shutdown: CancellationToken,
}

impl Newest {
    /// Waits until there is a policy, without taking it; `false` if the subscription ends without one.
    pub(crate) async fn first(mut self) -> bool {
        self.receiver.wait_for(Option::is_some).await.is_ok()
    }
}

impl WeightsSource for Newest {
    fn newer(&mut self) -> Option<Policy> {
        if !self.receiver.has_changed().unwrap_or(false) {
            return None;
        }
        let policy = self.receiver.borrow_and_update().as_deref().cloned();
        policy.map(Policy::taken)
    }

    fn wait(&mut self) -> Option<Policy> {
        let changed = async {
            tokio::select! {
                changed = self.receiver.changed() => changed.is_ok(),
                () = self.shutdown.cancelled() => false,
            }
        };
        if !self.runtime.block_on(changed) {
            return None;
        }
        let policy = self.receiver.borrow_and_update().as_deref().cloned();
        policy.map(Policy::taken)
    }
}

/// Starts a subscription: the reader, and the task that keeps it, which ends with `shutdown` or with
/// an error that trying again cannot mend. Must be called within a tokio runtime.
pub fn subscribe(
    learner: Channel,
    subscriber: String,
    run: &RunInfo,
    spec: &EnvironmentSpec,
    shutdown: &CancellationToken,
) -> (
    Newest,
    impl Future<Output = Result<(), ActorError>> + Send + 'static,
) {
    let (sender, receiver) = watch::channel(None);
    let newest = Newest {
        receiver,
        runtime: Handle::current(),
        shutdown: shutdown.clone(),
    };
    let subscription = Subscription {
        run_client: RunClient::new(learner.clone()),
        client: WeightsClient::new(learner).max_decoding_message_size(MAX_MESSAGE_BYTES),
        subscriber,
        run: run.clone(),
        sizes: (spec.observation_size(), spec.action_size()),
        sender,
        last: None,
    };
    (newest, subscription.keep(shutdown.clone()))
}

struct Subscription {
    run_client: RunClient<Channel>,
    client: WeightsClient<Channel>,
    subscriber: String,
    run: RunInfo,
    sizes: (usize, usize),
    sender: watch::Sender<Option<Arc<Policy>>>,
    /// Version and learner steps of the newest.
    last: Option<(PolicyVersion, u64)>,
}

/// How long the learner may be away without a warning: before actors are told to stop, every run has ended.
const BRIEFLY_AWAY: Duration = Duration::from_secs(3);

impl Subscription {
    async fn keep(mut self, shutdown: CancellationToken) -> Result<(), ActorError> {
        let mut delays = backoff::exponential().build();
        let mut away = None;
        loop {
            let before = self.last;
            let status = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                status = self.receive() => status?,
            };
            if self.last != before {
                delays = backoff::exponential().build();
                away = None;
            }
            counter!(metrics::SUBSCRIPTION_FAILURES).increment(1);
            let (code, reason) = (status.code(), status.message());
            let since = *away.get_or_insert_with(Instant::now);
            if since.elapsed() < BRIEFLY_AWAY {
                tracing::info!(?code, reason, "the learner's weights end; asking again");
            } else {
                tracing::warn!(
                    ?code,
                    reason,
                    "no connection to the learner's weights; trying again"
                );
            }
            let delay = delays.next().expect("the backoff has no end");
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// One stream, until it is lost. Who serves it may have been restarted: transitions of this run
    /// must not mix with those of another.
    async fn receive(&mut self) -> Result<Status, ActorError> {
        let lost = |status: Status| match ActorError::refusal("Weights.Subscribe", &status) {
            Some(refusal) => Err(refusal),
            None => Ok(status),
        };
        let request = grpc::timed(v1::GetRunRequest {});
        match self.run_client.get_run(request).await {
            Ok(answer) => self.run.check_unchanged(answer.into_inner())?,
            Err(status) => return lost(status),
        }
        let request = v1::SubscribeRequest {
            subscriber: self.subscriber.clone(),
            spec_digest: self.run.spec_digest.0.to_vec().into(),
        };
        let opening = self.client.subscribe(request);
        let mut stream = match tokio::time::timeout(grpc::CALL_TIMEOUT, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return lost(status),
            Err(_) => return Ok(Status::deadline_exceeded("no answer to `subscribe`")),
        };
        loop {
            match stream.message().await {
                Ok(Some(snapshot)) => self.accept(snapshot).await?,
                Ok(None) => return Ok(Status::unavailable("the learner closed the stream")),
                Err(status) => return lost(status),
            }
        }
    }

    async fn accept(&mut self, message: v1::PolicySnapshot) -> Result<(), ActorError> {
        let published = message.published_unix_ms as f64 / 1e3;
        let trace = trace_from_wire(&message.traceparent);
        let span = trace.and_then(|trace| traces::child("apply weights", Kind::Consumer, trace));
        let snapshot = from_wire(message)?;
        if snapshot.spec_digest != self.run.spec_digest {
            return Err(ActorError::Spec {
                task: self.run.task.clone(),
            });
        }
        let (version, sizes) = (snapshot.version, self.sizes);
        let policy = tokio::task::spawn_blocking(move || decode(&snapshot, sizes))
            .await
            .map_err(|_| ActorError::Panicked("the decoder of snapshots".to_owned()))?;
        let mut policy = match policy {
            Ok(policy) => policy,
            Err(error) => {
                counter!(metrics::SNAPSHOTS_REFUSED).increment(1);
                tracing::error!(%version, error, "snapshot refused; acting with the one before");
                return Ok(());
            }
        };
        let learner_step = policy.learner_step;
        if let Some((last, last_step)) = self.last {
            if version < last {
                counter!(metrics::VERSION_REGRESSIONS).increment(1);
                tracing::error!(%last, %version, "the policy's version went back");
            }
            if learner_step < last_step {
                counter!(metrics::POLICY_REGRESSIONS).increment(1);
                tracing::warn!(
                    %last, last_step, %version, learner_step,
                    "the learner has gone back to its last checkpoint; acting with its policy"
                );
            }
        }
        self.last = Some((version, learner_step));
        gauge!(metrics::POLICY_LEARNER_STEPS).set(learner_step as f64);
        counter!(metrics::SNAPSHOTS).increment(1);
        let now = unix_seconds();
        gauge!(metrics::POLICY_VERSION).set(version.0 as f64);
        gauge!(metrics::POLICY_RECEIVED).set(now);
        gauge!(metrics::POLICY_DELAY).set(now - published);
        if let Some(mut span) = span {
            span.set("pmpo.policy_version", version.0);
            policy.arrival = Some(SharedSpan::new(span));
        }
        self.sender.send_replace(Some(Arc::new(policy)));
        Ok(())
    }
}

fn from_wire(message: v1::PolicySnapshot) -> Result<PolicySnapshot, WireError> {
    Ok(PolicySnapshot {
        version: PolicyVersion(message.version),
        learner_step: message.learner_step,
        spec_digest: digest_from_wire(&message.spec_digest)?,
        weights: message.weights,
    })
}

fn decode(snapshot: &PolicySnapshot, sizes: (usize, usize)) -> Result<Policy, String> {
    let network = PolicyNetwork::from_snapshot(&snapshot.weights)
        .map_err(|error: SnapshotError| error.to_string())?;
    let got = (network.observation_size(), network.action_size());
    if got != sizes {
        return Err(format!(
            "expected observation and action sizes {sizes:?}, got {got:?}"
        ));
    }
    Ok(Policy {
        version: snapshot.version,
        learner_step: snapshot.learner_step,
        network,
        arrival: None,
    })
}
