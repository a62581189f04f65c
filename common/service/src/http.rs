//! Pages and metrics for whoever comes: so many connections at a time, each for one small request and a short
//! while, so that nobody can hold what the process needs for its work.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use metrics::Gauge;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::security::{Door, Limits};

/// Connections at a time; beyond it, the oldest goes.
const CONNECTIONS: usize = 64;

/// Bytes of a request's line and headers.
const REQUEST_BYTES: usize = 8 << 10;

/// Answers what `router` has until `shutdown`, over HTTP/1; a connection, which is for one answer, lasts
/// `patience` at the most.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    patience: Duration,
    shutdown: &CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let mut http1 = http1::Builder::new();
    http1.keep_alive(false).max_buf_size(REQUEST_BYTES);
    let door = Door {
        local: false,
        limits: Limits::new(CONNECTIONS, CONNECTIONS, Gauge::noop()),
        refusals: Arc::default(),
        patience,
    };
    door.serve(listener, shutdown, |socket, _| {
        let answering = http1.serve_connection(TokioIo::new(socket), service.clone());
        async move {
            // A peer that leaves, or makes no sense, is nobody's concern.
            let _: Result<(), hyper::Error> = answering.await;
            Ok(())
        }
    })
    .await;
}
