//! Connections of a server, from the listening socket to the first bytes of HTTP/2. Each is opened by
//! a task of its own within a bounded time, so that nobody waits for a slow or silent one, and nothing
//! that goes wrong with one ends the others.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::guard::{Guard, Shared};
use super::limits::Place;
use super::refusals::Reason;
use super::{Role, tls};
use crate::tcp;

/// What a client of HTTP/2 sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connections opened and not yet taken up.
const QUEUE: usize = 64;

/// How long to leave the listening socket alone when the system has no more descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The other side of a connection; an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// The role in its certificate, where it had to show one.
    pub role: Option<Role>,
    pub(super) called: Arc<AtomicBool>,
}

/// The connections of a listening socket, for a server; dropping it closes the socket.
#[derive(Debug)]
pub struct Incoming {
    opened: mpsc::Receiver<Connection>,
    task: AbortHandle,
}

impl Incoming {
    pub(crate) fn new(listener: TcpListener, guard: Guard) -> Self {
        let (sender, opened) = mpsc::channel(QUEUE);
        let task = tokio::spawn(accept(listener, guard, sender)).abort_handle();
        Self { opened, task }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.opened.poll_recv(context).map(|next| next.map(Ok))
    }
}

async fn accept(listener: TcpListener, guard: Guard, opened: mpsc::Sender<Connection>) {
    let Shared {
        limits, refusals, ..
    } = &*guard.0;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if of_one_connection(&error) => continue,
            Err(error) => {
                refusals.note(Reason::Accept, None, &error.to_string());
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let address = peer.ip().to_canonical();
        match limits.admit(address, Instant::now()) {
            Ok(place) => {
                let (guard, opened) = (guard.clone(), opened.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = open(socket, address, place, guard, &opened) => {}
                        () = opened.closed() => {}
                    }
                });
            }
            Err(reason) => refusals.note(reason, Some(address), "too many connections"),
        }
    }
}

/// Whether the error is that of a peer that has gone already.
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

async fn open(
    socket: TcpStream,
    address: IpAddr,
    place: Place,
    guard: Guard,
    opened: &mpsc::Sender<Connection>,
) {
    let config = guard.0.credentials.config();
    let (limit, first_call) = (config.handshake_timeout(), config.first_call_timeout());
    let opening = async {
        tokio::select! {
            opening = timeout(limit, handshake(socket, &guard)) => opening,
            () = place.taken().cancelled() => Ok(Err(Some(taken()))),
        }
    };
    let refused = match opening.await {
        Ok(Ok((io, role))) => {
            let peer = Peer {
                address,
                role,
                called: Arc::default(),
            };
            let connection = Connection {
                io,
                preface_given: 0,
                peer,
                first_call: Some(Box::pin(patience(first_call, place.taken().clone()))),
                guard: guard.clone(),
                place,
            };
            // Nobody takes it only where the server is ending.
            drop(opened.send(connection).await);
            return;
        }
        Ok(Err(None)) => return,
        Ok(Err(Some(refused))) => refused,
        Err(_) => (Reason::HandshakeTimeout, format!("not within {limit:?}")),
    };
    let (reason, detail) = refused;
    guard.0.refusals.note(reason, Some(address), &detail);
}

fn taken() -> (Reason, String) {
    (Reason::Connections, "a newcomer has its place".to_owned())
}

/// How a connection ends that makes no call.
async fn patience(limit: Duration, taken: CancellationToken) -> Reason {
    tokio::select! {
        () = sleep(limit) => Reason::FirstCallTimeout,
        () = taken.cancelled() => Reason::Connections,
    }
}

/// Up to the first bytes of HTTP/2; an error without a reason is a peer that left before it said
/// anything, as those do who only look whether the port is open.
async fn handshake(
    socket: TcpStream,
    guard: &Guard,
) -> Result<(Box<dyn Duplex>, Option<Role>), Option<(Reason, String)>> {
    tcp::tune(&socket).map_err(|_| None)?;
    let tls = guard.0.credentials.material().server.clone();
    let (mut io, role): (Box<dyn Duplex>, _) = match tls {
        None => (Box::new(socket), None),
        Some(server) => {
            let accepted = TlsAcceptor::from(server).accept(socket).await;
            let stream = accepted.map_err(|error| {
                let gone =
                    error.get_ref().is_none() || error.kind() == io::ErrorKind::UnexpectedEof;
                (!gone).then(|| (tls::failure(&error), error.to_string()))
            })?;
            let role = tls::role(stream.get_ref().1.peer_certificates());
            (Box::new(stream), role)
        }
    };
    let mut read = 0;
    let mut bytes = [0; PREFACE.len()];
    while read < PREFACE.len() {
        let more = io.read(&mut bytes[read..]).await.unwrap_or(0);
        if more == 0 && read == 0 {
            return Err(None);
        }
        read += more;
        if more == 0 || bytes[..read] != PREFACE[..read] {
            return Err(Some((Reason::Protocol, "expected HTTP/2".to_owned())));
        }
    }
    Ok((io, role))
}

/// A socket, in TLS or not.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection that speaks HTTP/2, its first bytes not yet taken.
pub struct Connection {
    io: Box<dyn Duplex>,
    preface_given: usize,
    peer: Peer,
    /// Done when it is dropped, unless it has made a call by then.
    first_call: Option<Pin<Box<dyn Future<Output = Reason> + Send>>>,
    guard: Guard,
    place: Place,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    /// Whether it may stay.
    fn check_first_call(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(deadline) = &mut self.first_call else {
            return Ok(());
        };
        if self.peer.called.load(Ordering::Relaxed) {
            self.first_call = None;
            self.place.settle();
        } else if let Poll::Ready(reason) = deadline.as_mut().poll(context) {
            let peer = Some(self.peer.address);
            let refusals = &self.guard.0.refusals;
            refusals.note(reason, peer, "no call that is allowed");
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = &PREFACE[this.preface_given..];
        if !left.is_empty() {
            let given = left.len().min(buffer.remaining());
            buffer.put_slice(&left[..given]);
            this.preface_given += given;
            return Poll::Ready(Ok(()));
        }
        this.check_first_call(context)?;
        Pin::new(&mut this.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
