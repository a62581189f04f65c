//! Keeps one stream to the replay service alive: a session runs until it breaks, then, after a
//! backoff, the next one takes over its state.

use std::time::Duration;

use ::metrics::counter;
use backon::{BackoffBuilder, ExponentialBackoff};
use pmpo_proto::{MAX_MESSAGE_BYTES, v1::replay_client::ReplayClient};
use pmpo_service::{backoff, grpc};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
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
}

/// A client of the service at `address`; connects at its first call.
pub(crate) fn client(
    address: &str,
    runtime: &Handle,
) -> Result<ReplayClient<Channel>, ClientError> {
    let _context = runtime.enter();
    let channel = grpc::connect_lazy(address)?;
    Ok(ReplayClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// The state of the retries. Logs a loss and a return once each, however many attempts lie between.
pub(crate) struct Connection {
    role: &'static str,
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
    pub(crate) fn new(role: &'static str, address: &str) -> Self {
        let delays = backoff::exponential().build();
        Self {
            role,
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
                let message = status.message().to_owned();
                return ClientError::Refused {
                    code: status.code(),
                    message,
                };
            }
            let delay = self.failed(&status);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = shutdown.cancelled() => return ClientError::Shutdown,
            }
        }
    }

    /// The server has accepted the stream; may be called again for each of its answers.
    pub(crate) fn opened(&mut self) {
        let (role, address) = (self.role, &self.address);
        match std::mem::replace(&mut self.health, Health::Open) {
            Health::Open => return,
            Health::New => tracing::debug!(role, address, "connected to the replay service"),
            Health::Lost => tracing::info!(role, address, "replay service is back"),
        }
        self.delays = backoff::exponential().build();
    }

    fn failed(&mut self, status: &Status) -> Duration {
        counter!(metrics::CONNECTION_FAILURES).increment(1);
        let (role, address) = (self.role, &self.address);
        if std::mem::replace(&mut self.health, Health::Lost) != Health::Lost {
            let (code, reason) = (status.code(), status.message());
            tracing::warn!(
                role,
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
fn is_permanent(code: Code) -> bool {
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
