//! gRPC defaults, the same for every server and client: keepalive finds dead peers, windows fit a
//! batch of experience, and small messages are not delayed.

use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tonic::Request;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call between our processes may take that waits for nothing but its answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// An address that is not `host:port`.
#[derive(Debug, Error)]
#[error("address `{address}`: expected host:port ({reason})")]
pub struct AddressError {
    address: String,
    reason: String,
}

/// A channel to `address` (`host:port`) that connects at its first call and again after a loss.
///
/// # Errors
/// The address cannot be parsed; an absent peer is no error here.
pub fn connect_lazy(address: &str) -> Result<Channel, AddressError> {
    let error = |reason: String| AddressError {
        address: address.to_owned(),
        reason,
    };
    if !address.contains(':') || address.contains('/') {
        return Err(error("no port".to_owned()));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|invalid| error(invalid.to_string()))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_lazy())
}

/// A request with a deadline: a peer that is frozen or cut off holds nobody up for longer.
pub fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// A server with our defaults, to add services to.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

/// The connections of `listener`, for a [`server`]: those it did not bind itself, tonic leaves with
/// Nagle's algorithm on.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_need_a_host_and_a_port() {
        assert!(connect_lazy("replay:7001").is_ok());
        assert!(connect_lazy("127.0.0.1:7001").is_ok());
        for bad in ["replay", "http://replay:1", "re play:1", ""] {
            let message = connect_lazy(bad).unwrap_err().to_string();
            assert!(message.contains("expected host:port"), "{message}");
        }
    }
}
