//! A connection of a gRPC server, from TLS to its last call.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;

use super::door::Visit;
use super::guard::{Caller, Guard};
use super::refusals::{Reason, Refused};
use super::tls;
use crate::{grpc, tcp};

/// What the connections of one server share.
#[derive(Clone)]
pub(crate) struct Server {
    guard: Arc<Guard>,
    routes: Routes,
    http2: http2::Builder<TokioExecutor>,
    /// How long a peer may leave unread or unacknowledged what it is sent.
    user_timeout: Duration,
    shutdown: CancellationToken,
}

impl Server {
    /// Serves `routes`; a peer that gives no sign for `interval` is asked for one, and has `timeout` to
    /// give it.
    pub(crate) fn new(
        guard: Arc<Guard>,
        routes: Routes,
        [interval, timeout]: [Duration; 2],
        shutdown: CancellationToken,
    ) -> Self {
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .max_concurrent_streams(guard.max_streams_per_connection())
            .initial_stream_window_size(grpc::SERVER_WINDOW_BYTES)
            .initial_connection_window_size(grpc::CONNECTION_WINDOW_BYTES)
            .max_frame_size(grpc::SERVER_FRAME_BYTES);
        Self {
            guard,
            routes: routes.prepare(),
            http2,
            user_timeout: interval + timeout,
            shutdown,
        }
    }

    /// Serves the calls of a connection until its peer leaves, has to, or the server shuts down and the
    /// last call has ended.
    pub(crate) async fn converse(self, socket: TcpStream, visit: Visit) -> Result<(), Refused> {
        if tcp::tune(&socket, self.user_timeout).is_err() {
            // It has gone already.
            return Ok(());
        }
        let Some((io, certificates)) = self.secured(socket).await? else {
            return Ok(());
        };
        let settled = visit.settled.clone();
        let caller = Arc::new(Caller::new(visit, certificates));
        let (guard, routes, calling) = (&self.guard, &self.routes, Arc::clone(&caller));
        let service = service_fn(move |request: Request<Incoming>| {
            guard.call(&calling, routes.clone(), request.map(Body::new))
        });
        let connection = self.http2.serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let mut withdrawn = std::pin::pin!(self.guard.withdrawn(&caller));
        let mut leaving = false;
        loop {
            tokio::select! {
                ended = &mut connection => {
                    return ended.or_else(|error| match settled.is_cancelled() {
                        true => Ok(()),
                        false => unspoken(&error),
                    });
                }
                () = &mut withdrawn => {
                    return Err(Refused::new(Reason::Withdrawn, "its credential is good no longer"));
                }
                () = self.shutdown.cancelled(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// The socket, in TLS where that is asked for, and the certificates that the peer has shown; `None`
    /// for a peer that left before it said anything, as those do who only look whether the port is open.
    async fn secured(&self, socket: TcpStream) -> Result<Option<Secured>, Refused> {
        let Some(config) = self.guard.credentials().material().server.clone() else {
            return Ok(Some((Box::new(socket), Vec::new())));
        };
        match TlsAcceptor::from(config).accept(socket).await {
            Ok(stream) => {
                let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let shown = shown.iter().map(|shown| shown.clone().into_owned());
                let shown = shown.collect();
                Ok(Some((Box::new(stream), shown)))
            }
            Err(error)
                if error.get_ref().is_none() || error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                Ok(None)
            }
            Err(error) => Err(tls::refused(&error)),
        }
    }
}

type Secured = (Box<dyn Duplex>, Vec<CertificateDer<'static>>);

/// A socket, in TLS or not.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Why a connection ended that has made no call: the peer has gone, or speaks something else.
fn unspoken(error: &hyper::Error) -> Result<(), Refused> {
    let gone = error
        .source()
        .is_some_and(|source| source.is::<io::Error>());
    if gone || error.is_timeout() {
        return Ok(());
    }
    Err(Refused::new(Reason::Protocol, "expected HTTP/2"))
}
