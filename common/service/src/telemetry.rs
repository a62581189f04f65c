//! Logs and metrics of a process.

use std::io::{self, IsTerminal};

use axum::Router;
use axum::routing::get;
use clap::ValueEnum;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Form of the log lines on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line an event, for people.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

impl LogFormat {
    /// The spelling on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Sends events of level `info` and above (or what `RUST_LOG` says) to standard error. Does nothing
/// where a subscriber is already installed, as in tests that run several roles.
pub fn init_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let installed = match format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal();
            builder.with_target(false).with_ansi(colours).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = installed {
        tracing::debug!(%error, "logging was already set up");
    }
}

/// Buckets of every histogram of seconds: 100 us to 100 s.
const SECONDS_BUCKETS: [f64; 13] = [
    1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0,
];

/// Installs the process's metrics recorder; once a process.
///
/// # Errors
/// A recorder is already installed.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(
            metrics_exporter_prometheus::Matcher::Suffix("_seconds".to_owned()),
            &SECONDS_BUCKETS,
        )?
        .install_recorder()
}

/// Serves `GET /metrics` (Prometheus text format) until `shutdown`.
///
/// # Errors
/// Those of the socket.
pub async fn serve_metrics(
    listener: TcpListener,
    handle: PrometheusHandle,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let render = move || {
        handle.run_upkeep();
        std::future::ready(handle.render())
    };
    axum::serve(listener, Router::new().route("/metrics", get(render)))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}
