//! Keeps one stream to the replay service alive: a session runs until it breaks, then, after a
//! backoff, the next one takes over its state.

use std::time::Duration;

use ::metrics::counter;
use backon::{BackoffBuilder, ExponentialBackoff};
use pmpo_proto::MAX_MESSAGE_BYTES;
use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_service::backoff;
use pmpo_service::grpc::{self, Channel};
use pmpo_service::security::Credentials;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{ClientError, metrics};

/// Why one session ended.
pub(crate) enum SessionEnd {
    /// The stream broke or was refused.
    Status(Status),
    /// The server's answer made no sense.
    Protocol(String),
}

impl From<Status> for SessionEnd {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl SessionEnd {
    /// A stream that ended without a status of its own.
    pub(crate) fn hung_up() -> Self {
        Self::Status(Status::unavailable("the server ended the stream"))
    }
}

/// One stream's worth of work, over state that outlives the stream.
pub(crate) trait Session: Send {
    /// Opens a stream and serves it until it ends; calls `connection.opened()` once the server has
    /// accepted it.
    fn run(&mut self, connection: &mut Connection) -> impl Future<Output = SessionEnd> + Send;

    /// The stream was lost or not made, and will be tried again.
    fn failed(&mut self);
}

/// How long a server may take to answer that it has accepted a stream.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may take to answer a call that waits for nothing.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients of the shards at `addresses`; each connects at its first call.
pub(crate) fn clients(
    addresses: &[String],
    credentials: &Credentials,
    runtime: &Handle,
) -> Result<Vec<ReplayClient<Channel>>, ClientError> {
    if addresses.is_empty() {
        return Err(ClientError::Address(
            "replay addresses: expected at least one, got none".to_owned(),
        ));
    }
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            return Err(ClientError::Address(format!(
                "replay addresses: expected each once, got {address} twice"
            )));
        }
    }
    let _context = runtime.enter();
    let client = |address: &String| {
        let channel = grpc::connect_lazy(address, credentials)?;
        Ok(ReplayClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    };
    addresses.iter().map(client).collect()
}

/// The shards in the order of preference of the writer with this number: they all take turns as the
/// first, and whoever loses its first goes on to the next.
pub fn preference(addresses: &[String], writer: u64) -> Vec<String> {
    let mut addresses = addresses.to_vec();
    if !addresses.is_empty() {
        let first = (writer % addresses.len() as u64) as usize;
        addresses.rotate_left(first);
    }
    addresses
}

/// The state of the retries. Logs a loss and a return once each, however many attempts lie between.
pub(crate) struct Connection {
    /// What uses it, for the log.
    user: &'static str,
    address: String,
    delays: ExponentialBackoff,
    health: Health,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    New,
    Open,
    Lost,
}

impl Connection {
    pub(crate) fn new(user: &'static str, address: &str) -> Self {
        let delays = backoff::exponential().build();
        Self {
            user,
            address: address.to_owned(),
            delays,
            health: Health::New,
        }
    }

    /// Runs sessions until `shutdown` or until the server refuses for good.
    pub(crate) async fn keep(
        mut self,
        session: &mut impl Session,
        shutdown: CancellationToken,
    ) -> ClientError {
        loop {
            let end = tokio::select! {
                end = session.run(&mut self) => end,
                () = shutdown.cancelled() => return ClientError::Shutdown,
            };
            let status = match end {
                SessionEnd::Status(status) => status,
                SessionEnd::Protocol(message) => return ClientError::Protocol(message),
            };
            if is_permanent(status.code()) {
                return ClientError::refused(&status);
            }
            session.failed();
            let delay = self.failed(&status);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = shutdown.cancelled() => return ClientError::Shutdown,
            }
        }
    }

    /// The server has accepted the stream; may be called again for each of its answers.
    pub(crate) fn opened(&mut self) {
        let (user, address) = (self.user, &self.address);
        match std::mem::replace(&mut self.health, Health::Open) {
            Health::Open => return,
            Health::New => tracing::debug!(user, address, "connected to the replay service"),
            Health::Lost => tracing::info!(user, address, "replay service is back"),
        }
        self.delays = backoff::exponential().build();
    }

    /// The server has said why it makes wait.
    pub(crate) fn blocked(&self, reason: &str) {
        counter!(metrics::BLOCKED_CALLS).increment(1);
        let (user, address) = (self.user, &self.address);
        tracing::info!(user, address, reason, "the replay service makes wait");
    }

    fn failed(&mut self, status: &Status) -> Duration {
        counter!(metrics::CONNECTION_FAILURES).increment(1);
        let (user, address) = (self.user, &self.address);
        if std::mem::replace(&mut self.health, Health::Lost) != Health::Lost {
            let (code, reason) = (status.code(), status.message());
            tracing::warn!(
                user,
                address,
                ?code,
                reason,
                "replay service is away, retrying"
            );
        }
        self.delays.next().expect("the backoff has no end")
    }
}

/// Whether asking again cannot help.
pub(crate) fn is_permanent(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
    )
}
