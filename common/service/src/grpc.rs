//! gRPC defaults, the same for every server and client: keepalive finds dead peers, windows fit a
//! batch of experience, small messages are not delayed, and [`security`] decides who
//! talks to whom.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response, Uri};
use metrics::gauge;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tonic::{Code, Status, TimeoutExpired};
use tower::Service;

use crate::security::{
    self, Credentials, Door, Guard, Limits, Reason, Refusals, SecurityError, Server,
};
use crate::{process, tcp};

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a peer may leave what it is sent unread or unconfirmed; a silent one keepalive gives as long.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call between our processes may take that waits for nothing but its answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What a peer may send ahead of a server's reading, on each stream: times thousands of writers that a rate
/// limiter holds back it is memory, and between our machines it is not what bounds a stream.
pub const SERVER_WINDOW_BYTES: u32 = 1 << 16;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// The largest frame of HTTP/2 that a client takes: a snapshot or a batch is one or a few, read in as many
/// calls of the system, where it would be dozens of the default, 16 KiB.
const CLIENT_FRAME_BYTES: u32 = 1 << 18;
/// That of a server, where a stranger may leave one unfinished on each connection; what writers send is
/// taken as fast as with larger ones.
pub const SERVER_FRAME_BYTES: u32 = 1 << 16;

/// An address that is not `host:port`.
#[derive(Debug, Error)]
#[error("address `{address}`: expected host:port ({reason})")]
pub struct AddressError {
    address: String,
    reason: String,
}

/// A connection to a service, made when it is needed; shows this process's token with every call.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: tonic::transport::Channel,
    credentials: Credentials,
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(lost)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(token) = &self.credentials.material().authorization {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let call = self.inner.call(request);
        Box::pin(async move { call.await.map_err(lost) })
    }
}

/// What the loss of a connection is to a call, and why it was lost: the reason is among the causes, and
/// what it comes as depends on how far the connection had got. A call that was on its way when a peer
/// closed comes as cancelled, as does one whose deadline passed, and neither is the caller's doing.
fn lost(error: tonic::transport::Error) -> Status {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        if next.is::<TimeoutExpired>() {
            return Status::deadline_exceeded("no answer within the deadline");
        }
        let text = next.to_string();
        if !reason.ends_with(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = next.source();
    }
    let status = Status::from_error(Box::new(error));
    match status.code() {
        Code::Unknown | Code::Internal | Code::Unavailable | Code::Cancelled => {
            Status::unavailable(reason)
        }
        _ => status,
    }
}

/// A channel to `address` (`host:port`) that connects at its first call and again after a loss, each
/// time with the credentials of that moment.
///
/// # Errors
/// The address cannot be parsed; an absent peer is no error here.
pub fn connect_lazy(address: &str, credentials: &Credentials) -> Result<Channel, AddressError> {
    let error = |reason: String| AddressError {
        address: address.to_owned(),
        reason,
    };
    if !address.contains(':') || address.contains('/') {
        return Err(error("no port".to_owned()));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|invalid| error(invalid.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(CLIENT_FRAME_BYTES);
    let uri = endpoint.uri().clone();
    let (Some(host), Some(_)) = (uri.host(), uri.port_u16()) else {
        return Err(error("no port".to_owned()));
    };
    // An address of IPv6 comes in brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    credentials.warn_of_plaintext(host);
    let inner = if credentials.use_tls() {
        let connector = security::connector(credentials, host).map_err(error)?;
        let origin = Uri::try_from(format!("https://{address}"))
            .map_err(|invalid| error(invalid.to_string()))?;
        endpoint
            .origin(origin)
            .connect_with_connector_lazy(connector)
    } else {
        endpoint.connect_with_connector_lazy(tcp::Connector::new())
    };
    Ok(Channel {
        inner,
        credentials: credentials.clone(),
    })
}

/// A request with a deadline: a peer that is frozen or cut off holds nobody up for longer.
pub fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Whether a peer of our own that answers with this code will not have us, however often it is asked.
pub fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

/// Descriptors that are left to a server for other than its connections.
const OTHER_FILES: u64 = 256;

/// A listening socket and who may come in through it.
pub struct Listener {
    socket: TcpListener,
    credentials: Credentials,
    /// Whether only this machine's peers may come in.
    local: bool,
    keepalive: [Duration; 2],
}

impl Listener {
    /// Listens at `address`, on port 0 at one that the system chooses.
    ///
    /// # Errors
    /// Strangers could reach it and nothing keeps them out, the credentials are not a server's, or
    /// the system refuses.
    pub async fn bind(
        address: SocketAddr,
        credentials: &Credentials,
    ) -> Result<Self, SecurityError> {
        credentials.check_listening(address)?;
        let socket = TcpListener::bind(address)
            .await
            .map_err(|source| SecurityError::Bind { address, source })?;
        Ok(Self {
            credentials: credentials.clone(),
            local: false,
            ..socket.into()
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Another hold on the same port, for whoever serves there next: what connects in between waits.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = self.socket.as_fd().try_clone_to_owned()?;
        Ok(Self {
            socket: TcpListener::from_std(socket.into())?,
            credentials: self.credentials.clone(),
            local: self.local,
            keepalive: self.keepalive,
        })
    }

    /// Asks a peer for a sign of life after `interval` without one, and lets it go, with its streams, if
    /// it gives none, or does not take what it is sent, within `timeout`.
    pub fn with_keepalive(self, interval: Duration, timeout: Duration) -> Self {
        Self {
            keepalive: [interval, timeout],
            ..self
        }
    }
}

impl From<TcpListener> for Listener {
    /// Lets in everyone on this machine, over loopback, and nobody else.
    fn from(socket: TcpListener) -> Self {
        Self {
            socket,
            credentials: Credentials::default(),
            local: true,
            keepalive: [KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT],
        }
    }
}

/// Serves `routes` until `shutdown`, and then until the last call has ended; whoever cannot wait for that
/// drops it, which ends all connections.
pub async fn serve(listener: Listener, routes: Routes, shutdown: CancellationToken) {
    security::metrics::describe();
    Reason::show_all();
    let Listener {
        socket,
        credentials,
        local,
        keepalive,
    } = listener;
    let config = credentials.config();
    let refusals = Arc::new(Refusals::default());
    let door = Door {
        local,
        limits: Limits::new(
            possible_connections(config.max_connections),
            config.max_connections_per_peer,
            gauge!(security::metrics::CONNECTIONS),
        ),
        refusals: Arc::clone(&refusals),
        patience: config.first_call_timeout(),
    };
    let guard = Arc::new(Guard::new(credentials.clone(), refusals));
    let server = Server::new(guard, routes, keepalive, shutdown.clone());
    let serving = door.serve(socket, &shutdown, |socket, visit| {
        server.clone().converse(socket, visit)
    });
    tokio::select! {
        () = serving => {}
        () = credentials.keep() => {}
    }
}

/// So many connections, or as many as there are descriptors for.
fn possible_connections(configured: usize) -> usize {
    let open_files = process::max_open_files().unwrap_or(u64::MAX);
    let possible = open_files.saturating_sub(OTHER_FILES).max(1);
    let possible = usize::try_from(possible).unwrap_or(usize::MAX);
    if configured > possible {
        tracing::warn!(
            configured,
            possible,
            open_files,
            "security.max_connections: the limit of open files allows fewer"
        );
    }
    configured.min(possible)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    #[tokio::test]
    async fn addresses_need_a_host_and_a_port() {
        let none = Credentials::default();
        assert!(connect_lazy("replay:7001", &none).is_ok());
        assert!(connect_lazy("127.0.0.1:7001", &none).is_ok());
        for bad in ["replay", "http://replay:1", "re play:1", ""] {
            let message = connect_lazy(bad, &none).unwrap_err().to_string();
            assert!(message.contains("expected host:port"), "{message}");
        }
    }

    /// Calls a peer that treats each connection like this.
    async fn call<F>(peer: fn(TcpStream) -> F, limit: Duration) -> Code
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(peer(stream));
            }
        });
        let channel = connect_lazy(&address, &Credentials::default()).unwrap();
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.set_timeout(limit);
        let answer = HealthClient::new(channel).check(request).await;
        answer.unwrap_err().code()
    }

    #[tokio::test]
    async fn a_peer_that_closes_is_away_however_far_the_call_had_got() {
        for _ in 0..20 {
            let closes = |stream: TcpStream| async move { drop(stream) };
            assert_eq!(call(closes, CALL_TIMEOUT).await, Code::Unavailable);
            let reads_first = |mut stream: TcpStream| async move {
                let _ = stream.read(&mut [0; 64]).await;
            };
            assert_eq!(call(reads_first, CALL_TIMEOUT).await, Code::Unavailable);
        }
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_is_past_the_deadline() {
        let silent = |mut stream: TcpStream| async move {
            while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
        };
        let limit = Duration::from_millis(50);
        assert_eq!(call(silent, limit).await, Code::DeadlineExceeded);
    }
}
