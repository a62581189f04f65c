//! TCP between our processes: small messages are not delayed, and within a machine a receiver has room.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tower::Service;

use crate::grpc::USER_TIMEOUT;

/// The receive buffer of a connection within this machine; the system gives what it allows of it.
///
/// There a segment is as large as the whole window that a connection begins with, 64 KiB: what does not
/// fit waits for a delayed acknowledgement or a probe, and `pmpo bench broadcast` saw snapshots come 40
/// and 100 ms late. Between machines segments are small, and the system's own size, which follows the
/// path's, stays.
const LOOPBACK_BUFFER_BYTES: usize = 1 << 20;

/// Readies an open connection for our streams; one whose peer takes nothing, or confirms nothing, of
/// what it is sent for `user_timeout` is lost.
pub(crate) fn tune(socket: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let milliseconds = u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX);
    // 0 would stand for the system's own, some minutes.
    sockopt::set_tcp_user_timeout(socket, milliseconds.max(1))?;
    if socket.peer_addr()?.ip().to_canonical().is_loopback() {
        sockopt::set_socket_recv_buffer_size(socket, LOOPBACK_BUFFER_BYTES)?;
    }
    Ok(())
}

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;
pub(crate) type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Connects to the host and port of an address.
#[derive(Clone, Debug)]
pub(crate) struct Connector(HttpConnector);

impl Connector {
    pub(crate) fn new() -> Self {
        let mut inner = HttpConnector::new();
        // What is spoken over the connection is not its concern.
        inner.enforce_http(false);
        Self(inner)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = self.0.call(address);
        Box::pin(async move {
            let connected = connecting.await?;
            tune(connected.inner(), USER_TIMEOUT)?;
            Ok(connected)
        })
    }
}
