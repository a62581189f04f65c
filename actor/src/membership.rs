//! The index in the run, kept under a lease at the learner.
//!
//! A process that was frozen or cut off for longer than the lease comes back and asks for its index again.
//! Its environments are seeded by that index, so where another process has it by now this one ends, and
//! whoever supervises it starts it anew.

use std::time::Duration;

use ::metrics::counter;
use backon::BackoffBuilder;
use pmpo_proto::v1::{self, MemberRole, run_client::RunClient};
use pmpo_service::grpc::Channel;
use pmpo_service::{backoff, grpc, identity, traces};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::run_info::RunInfo;
use crate::threads::Crew;
use crate::{ActorError, metrics};

/// How long an ending process waits for a learner that may be gone itself.
const GOODBYE: Duration = Duration::from_secs(1);

/// Signs of life in the time of a lease.
const SIGNS_PER_LEASE: u32 = 3;

/// Largest index: so many environments of so many actors have numbers that fit.
const MAX_INDEX: u64 = u32::MAX as u64;

/// What a process has once it takes part in a run.
pub(crate) struct Joined {
    pub(crate) run: RunInfo,
    pub(crate) index: u64,
    /// It keeps the index; the role's work joins it.
    pub(crate) crew: Crew,
    /// Of the crew.
    pub(crate) shutdown: CancellationToken,
}

impl Joined {
    /// Asks the learner for the run and takes `index`, or the lowest that is free, which the
    /// process's logs and traces then name. `None` when told to stop before.
    pub(crate) async fn wait(
        learner: &Channel,
        role: MemberRole,
        index: Option<u64>,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, ActorError> {
        let Some(run) = RunInfo::get(learner, shutdown).await? else {
            return Ok(None);
        };
        identity::set_run(&run.run_id, &run.run_uid);
        let Some(membership) = Membership::join(learner, role, index, shutdown).await? else {
            return Ok(None);
        };
        let index = membership.stream.index;
        identity::set_index(index);
        traces::start();
        let shutdown = shutdown.child_token();
        let mut crew = Crew::new(shutdown.clone());
        // From now on, also while the environments load.
        crew.task(membership.keep(shutdown.clone()));
        Ok(Some(Self {
            run,
            index,
            crew,
            shutdown,
        }))
    }
}

/// An index that was taken.
struct Membership {
    client: RunClient<Channel>,
    role: MemberRole,
    stream: Stream,
}

/// One stream to the learner.
struct Stream {
    index: u64,
    lease: Duration,
    requests: mpsc::Sender<v1::JoinRequest>,
    responses: Streaming<v1::JoinResponse>,
}

impl Membership {
    /// Takes `index`, or the lowest that is free; waits for an absent learner. `None` when
    /// told to stop before.
    async fn join(
        learner: &Channel,
        role: MemberRole,
        index: Option<u64>,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, ActorError> {
        let client = RunClient::new(learner.clone());
        let opened = tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            opened = open_patiently(&client, role, index) => opened,
        };
        let stream = match opened {
            Err(ActorError::Refused {
                code: Code::AlreadyExists,
                message,
                ..
            }) => return Err(ActorError::IndexTaken { message }),
            opened => opened?,
        };
        let index = stream.index;
        tracing::info!(
            index,
            lease_s = stream.lease.as_secs_f64(),
            "joined the run"
        );
        Ok(Some(Self {
            client,
            role,
            stream,
        }))
    }

    /// Keeps the index until `shutdown`, and takes it again after it was lost.
    async fn keep(self, shutdown: CancellationToken) -> Result<(), ActorError> {
        let Self {
            client,
            role,
            mut stream,
        } = self;
        let index = stream.index;
        loop {
            let status = tokio::select! {
                () = shutdown.cancelled() => {
                    stream.leave().await;
                    return Ok(());
                }
                status = stream.hold() => status,
            };
            // Before asking again: a learner that was frozen itself still takes it for alive.
            drop(stream);
            counter!(metrics::LEASES_LOST).increment(1);
            let (code, reason) = (status.code(), status.message());
            if code == Code::Unavailable {
                // Every run ends this way.
                tracing::info!(index, reason, "the learner is away; joining again");
            } else {
                tracing::warn!(
                    index,
                    ?code,
                    reason,
                    "lost the index in the run; joining again"
                );
            }
            let opened = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                opened = open_patiently(&client, role, Some(index)) => opened,
            };
            stream = match opened {
                Err(ActorError::Refused {
                    code: Code::AlreadyExists,
                    ..
                }) => return Err(ActorError::PlaceLost { index }),
                opened => opened?,
            };
            tracing::info!(index, "joined the run again");
        }
    }
}

/// Opens a stream once the learner gives the index; an error is a refusal.
async fn open_patiently(
    client: &RunClient<Channel>,
    role: MemberRole,
    index: Option<u64>,
) -> Result<Stream, ActorError> {
    let mut delays = backoff::exponential().build();
    loop {
        let status = match Stream::open(client.clone(), role, index).await {
            Ok(stream) => return Ok(stream),
            Err(status) => status,
        };
        if let Some(refusal) = ActorError::refusal("Run.Join", &status) {
            return Err(refusal);
        }
        tracing::debug!(reason = status.message(), "not in the run yet");
        tokio::time::sleep(delays.next().expect("the backoff has no end")).await;
    }
}

impl Stream {
    /// The answer may take as long as the learner waits for the present holder of the index; a learner
    /// that is gone meanwhile is found by the connection's keepalive.
    async fn open(
        mut client: RunClient<Channel>,
        role: MemberRole,
        index: Option<u64>,
    ) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(1);
        let first = v1::JoinRequest {
            role: role.into(),
            index,
            leaving: false,
        };
        requests.try_send(first).expect("the queue is new");
        let opening = client.join(ReceiverStream::new(stream));
        let mut responses = tokio::time::timeout(grpc::CALL_TIMEOUT, opening)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer to `join`"))??
            .into_inner();
        let answer = responses.message().await?;
        let answer = answer.ok_or_else(|| Status::unavailable("the learner ended the stream"))?;
        let impossible = |what: &str, expected: String, got: u64| {
            let message = format!("the learner's {what}: expected {expected}, got {got}");
            Err(Status::invalid_argument(message))
        };
        if answer.index > MAX_INDEX || index.is_some_and(|index| index != answer.index) {
            let expected = index.map_or(format!("at most {MAX_INDEX}"), |index| index.to_string());
            return impossible("index", expected, answer.index);
        }
        if answer.lease_ms == 0 {
            return impossible("lease_ms", "at least 1".to_owned(), 0);
        }
        Ok(Self {
            index: answer.index,
            lease: Duration::from_millis(answer.lease_ms),
            requests,
            responses,
        })
    }

    /// Says good-bye, and waits a moment for it to be heard.
    async fn leave(&mut self) {
        let leaving = v1::JoinRequest {
            leaving: true,
            ..v1::JoinRequest::default()
        };
        let heard = async {
            if self.requests.send(leaving).await.is_ok() {
                // Answers to signs of life, until the learner ends the stream.
                while let Ok(Some(_)) = self.responses.message().await {}
            }
        };
        if tokio::time::timeout(GOODBYE, heard).await.is_err() {
            tracing::debug!("left without a word");
        }
    }

    /// Gives signs of life until the index is lost; answers how.
    async fn hold(&mut self) -> Status {
        let mut signs = tokio::time::interval(self.lease / SIGNS_PER_LEASE);
        loop {
            signs.tick().await;
            let sign = async {
                if self
                    .requests
                    .send(v1::JoinRequest::default())
                    .await
                    .is_err()
                {
                    tracing::debug!("the connection is lost; the responses say why");
                }
                self.responses.message().await
            };
            match tokio::time::timeout(self.lease, sign).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return Status::unavailable("the learner ended the stream"),
                Ok(Err(status)) => return status,
                Err(_) => return Status::unavailable("no answer for as long as the lease"),
            }
        }
    }
}
