//! Publications: a snapshot of the policy and its version, handed to all subscribers through a
//! channel that keeps only the newest, so that a slow subscriber skips and never holds up the update.

use std::time::{SystemTime, UNIX_EPOCH};

use ::metrics::gauge;
use bytes::Bytes;
use pmpo_policy::{NetworkConfig, snapshot};
use pmpo_proto::{trace_to_wire, v1};
use pmpo_service::traces::{self, Kind, Span};
use pmpo_types::{EnvironmentSpec, TraceContext};
use pmpo_update::TrainState;
use tokio::sync::watch;

use crate::board::Board;
use crate::broadcast::Publication;
use crate::versions::Versions;
use crate::{LearnerError, LearnerOptions, metrics};

/// Updates that a publication is linked to at most.
const MAX_LEARNED: usize = 32;

/// The side of the channel that the update thread holds; when it is gone, subscriptions end.
#[derive(Debug)]
pub(crate) struct Publisher {
    network: NetworkConfig,
    spec: EnvironmentSpec,
    board: Board,
    versions: Versions,
    newest: watch::Sender<Publication>,
    /// Traces of updates since the last publication.
    learned: Vec<TraceContext>,
}

impl Publisher {
    /// Publishes the policy as it is when the run starts, as `version`.
    pub(crate) fn new(
        options: &LearnerOptions,
        state: &TrainState,
        (versions, version): (Versions, u64),
        board: Board,
    ) -> Result<Self, LearnerError> {
        let mut publisher = Self {
            network: options.agent.policy.clone(),
            spec: options.spec.clone(),
            board,
            versions,
            newest: watch::Sender::new(Publication::default()),
            learned: Vec::new(),
        };
        publisher.send(state, version)?;
        Ok(publisher)
    }

    /// What subscribers read from.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Publication> {
        self.newest.subscribe()
    }

    /// The newest publication's policy.
    pub(crate) fn newest_policy(&self) -> Bytes {
        self.newest.borrow().weights.clone()
    }

    /// An update was traced: the next publication continues the trace of the first such, and is linked to
    /// the others, as far as they are few.
    pub(crate) fn learned(&mut self, trace: TraceContext) {
        if self.learned.len() < MAX_LEARNED {
            self.learned.push(trace);
        }
    }

    /// Publishes the policy as the next version, unless the newest publication is of this step.
    pub(crate) fn publish(&mut self, state: &TrainState) -> Result<(), LearnerError> {
        let (version, step) = {
            let newest = self.newest.borrow();
            (newest.version, newest.learner_step)
        };
        if step == state.step() {
            Ok(())
        } else {
            self.send(state, version + 1)
        }
    }

    /// The newest publication is the last of this process: where it is `saved` in a checkpoint, the run goes
    /// on with its number.
    pub(crate) fn settle(&mut self, saved: Option<u64>) {
        let version = self.newest.borrow().version;
        if saved == Some(version) {
            self.versions.settle(version);
        }
    }

    /// Publishes the policy as `version`.
    pub(crate) fn send(&mut self, state: &TrainState, version: u64) -> Result<(), LearnerError> {
        let weights = encode(&self.network, &self.spec, state)?;
        self.send_weights(weights, state.step(), version)
    }

    /// Publishes these weights, of the policy at `learner_step`, as the next version.
    pub(crate) fn publish_again(
        &mut self,
        weights: Bytes,
        learner_step: u64,
    ) -> Result<(), LearnerError> {
        let version = self.newest.borrow().version + 1;
        self.send_weights(weights, learner_step, version)
    }

    fn send_weights(
        &mut self,
        weights: Bytes,
        learner_step: u64,
        version: u64,
    ) -> Result<(), LearnerError> {
        let learned = std::mem::take(&mut self.learned);
        let mut span = traces::joined("publish weights", Kind::Producer, &learned);
        self.versions.spend(version);
        gauge!(metrics::SNAPSHOT_BYTES).set(weights.len() as f64);
        gauge!(metrics::POLICY_VERSION).set(version as f64);
        let publication = Publication::new(v1::PolicySnapshot {
            version,
            learner_step,
            spec_digest: self.spec.digest().0.to_vec().into(),
            weights: weights.clone(),
            published_unix_ms: unix_ms(),
            traceparent: trace_to_wire(span.as_ref().map(Span::context)),
        })?;
        if let Some(span) = &mut span {
            span.set("pmpo.policy_version", version);
        }
        // Before the channel, so that no evaluation of this version comes too early.
        self.board.published(version, weights);
        self.newest.send_replace(publication);
        Ok(())
    }
}

/// A snapshot of the policy as it is.
///
/// # Errors
/// A value is not finite.
pub fn encode(
    network: &NetworkConfig,
    spec: &EnvironmentSpec,
    state: &TrainState,
) -> Result<Bytes, LearnerError> {
    let sizes = [spec.observation_size(), spec.action_size()];
    let [observation_size, action_size] = sizes;
    let tensors = state.policy_tensors();
    Ok(snapshot::encode(
        network,
        observation_size,
        action_size,
        &tensors,
    )?)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |elapsed| elapsed.as_millis() as u64)
}
