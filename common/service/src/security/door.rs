//! The door of a listening socket: who comes in, and who has to leave. Every connection is a task of its
//! own under one deadline that nothing it does or leaves undone can hold up: whatever a peer does not
//! read, write or answer, its task is dropped from outside, and with it the socket.
//!
//! A connection has to settle within a time, by a call that is allowed. One that has settled stays for
//! as long as its peer takes what it is sent, which keepalive and `TCP_USER_TIMEOUT` see to.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::limits::{Limits, Place};
use super::refusals::{Reason, Refusals, Refused};

/// How long to leave the listening socket alone when the system has no more descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the connections of one listening socket share.
pub(crate) struct Door {
    /// Only peers of this machine come in.
    pub(crate) local: bool,
    pub(crate) limits: Arc<Limits>,
    pub(crate) refusals: Arc<Refusals>,
    /// How long a connection may take to settle.
    pub(crate) patience: Duration,
}

/// A connection, as the one who converses over it knows it.
#[derive(Clone)]
pub(crate) struct Visit {
    pub(crate) address: IpAddr,
    /// To be cancelled by its first call that is allowed.
    pub(crate) settled: CancellationToken,
}

impl Door {
    /// Lets connections in until `shutdown`, then waits for the last to end. Dropping it ends them all.
    pub(crate) async fn serve<F>(
        &self,
        listener: TcpListener,
        shutdown: &CancellationToken,
        converse: impl Fn(TcpStream, Visit) -> F,
    ) where
        F: Future<Output = Result<(), Refused>> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                // Newcomers wait in the system's queue until those that were shown out have gone.
                accepted = listener.accept(), if !self.limits.crowded() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let address = peer.ip().to_canonical();
                    match self.admit(address) {
                        Ok(place) => {
                            let settled = CancellationToken::new();
                            let visit = Visit { address, settled };
                            let conversation = converse(socket, visit.clone());
                            connections.spawn(self.attend(conversation, visit, place));
                        }
                        Err(reason) => self.refusals.note(reason, Some(address), "no place"),
                    }
                }
                Err(error) if of_one_connection(&error) => {}
                Err(error) => {
                    self.refusals
                        .note(Reason::Accept, None, &error.kind().to_string());
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    fn admit(&self, peer: IpAddr) -> Result<Place, Reason> {
        if self.local && !peer.is_loopback() {
            return Err(Reason::Elsewhere);
        }
        self.limits.admit(peer)
    }

    /// A connection from its beginning to its end.
    fn attend(
        &self,
        conversation: impl Future<Output = Result<(), Refused>> + Send + 'static,
        visit: Visit,
        place: Place,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (refusals, patience) = (Arc::clone(&self.refusals), self.patience);
        async move {
            let ended = {
                let mut conversation = std::pin::pin!(conversation);
                tokio::select! {
                    ended = &mut conversation => ended,
                    refused = overstayed(&visit, &place, patience) => Err(refused),
                }
            };
            // The socket is closed by now, and only then is there a place again.
            drop(place);
            if let Err(Refused { reason, message }) = ended {
                refusals.note(reason, Some(visit.address), &message);
            }
        }
    }
}

/// Ends when a connection has to leave that has not settled; never for one that has.
async fn overstayed(visit: &Visit, place: &Place, patience: Duration) -> Refused {
    tokio::select! {
        () = visit.settled.cancelled() => {}
        () = sleep(patience) => {
            let late = format!("no call that is allowed within {patience:?}");
            return Refused::new(Reason::FirstCallTimeout, late);
        }
        () = place.taken().cancelled() => {
            return Refused::new(Reason::Connections, "a newcomer has its place");
        }
    }
    if place.settle() {
        return std::future::pending().await;
    }
    Refused::new(Reason::Connections, "a newcomer has its place")
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
