//! Whether a role can do its work: what it still waits for, by name. The process says so to whoever
//! asks over HTTP (`/readyz`), a server also through `grpc.health.v1`.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The role that this process runs; like the metrics' recorder there is one a process, and in tests with
/// several roles it is the newest.
static PROCESS: Mutex<Option<Readiness>> = Mutex::new(None);

/// A cheap handle to what a role waits for.
#[derive(Clone, Debug)]
pub struct Readiness {
    waits_for: Arc<watch::Sender<Vec<&'static str>>>,
    shutdown: CancellationToken,
}

impl Readiness {
    /// A role that is ready once all of `waits_for` is [met](Self::met), until `shutdown`.
    pub fn new(waits_for: &[&'static str], shutdown: &CancellationToken) -> Self {
        let readiness = Self {
            waits_for: Arc::new(watch::Sender::new(waits_for.to_vec())),
            shutdown: shutdown.clone(),
        };
        *PROCESS.lock().unwrap_or_else(PoisonError::into_inner) = Some(readiness.clone());
        readiness
    }

    /// One of the things is there. Logs once when it was the last.
    pub fn met(&self, what: &'static str) {
        let last = self.waits_for.send_if_modified(|waits_for| {
            let before = waits_for.len();
            waits_for.retain(|waited| *waited != what);
            waits_for.len() < before
        });
        if last && self.waits_for.borrow().is_empty() {
            tracing::info!("ready");
        }
    }

    /// `Err` with one line that says why not.
    ///
    /// # Errors
    /// The role waits for something, or is stopping.
    pub fn check(&self) -> Result<(), String> {
        if self.shutdown.is_cancelled() {
            return Err("stopping".to_owned());
        }
        let waits_for = self.waits_for.borrow();
        if waits_for.is_empty() {
            return Ok(());
        }
        Err(format!("waiting for {}", waits_for.join(" and ")))
    }

    /// Waits until the answer of [`check`](Self::check) may be another; `false` once it is final.
    pub(crate) async fn changed(&self, seen: &mut watch::Receiver<Vec<&'static str>>) -> bool {
        tokio::select! {
            changed = seen.changed() => changed.is_ok(),
            () = self.shutdown.cancelled() => false,
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Vec<&'static str>> {
        self.waits_for.subscribe()
    }
}

/// `GET /healthz`, 200 while the process lives; and `GET /readyz`, 200 while it can do its work and
/// otherwise 503 with one line that says why not.
pub(crate) fn routes() -> Router {
    let ready = || async {
        let process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
        match process.as_ref().map(Readiness::check) {
            Some(Ok(())) => (StatusCode::OK, "ready\n".to_owned()),
            Some(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            None => (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
        }
    };
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_is_met_until_the_shutdown() {
        let shutdown = CancellationToken::new();
        let readiness = Readiness::new(&["a policy", "a writer"], &shutdown);
        let not = |why: &str| Err(why.to_owned());
        assert_eq!(readiness.check(), not("waiting for a policy and a writer"));
        readiness.met("a policy");
        readiness.met("a policy");
        assert_eq!(readiness.check(), not("waiting for a writer"));
        readiness.clone().met("a writer");
        assert_eq!(readiness.check(), Ok(()));
        shutdown.cancel();
        assert_eq!(readiness.check(), not("stopping"));
    }
}
