//! Logs and metrics of a process.

use std::io::{self, IsTerminal};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use clap::ValueEnum;
pub use metrics_exporter_prometheus::PrometheusHandle;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::log_line::LogLine;
use crate::{http, metrics, readiness};

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

/// What the libraries below us may say, unless `RUST_LOG` names them.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,rustls=warn";

/// Sends events of level `info` and above (or what `RUST_LOG` says) to standard error, panics among
/// them, each as one line that names this process, see [`identity`](crate::identity). Does nothing
/// where a subscriber is already installed, as in tests that run several roles.
pub fn init_logging(format: LogFormat) {
    let said = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let said = said.filter(|said| !said.is_empty());
    let said = said.unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(format!("{QUIET},{said}"));
    let refused = filter.as_ref().err().map(ToString::to_string);
    let installed = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new(format!("{QUIET},info"))))
        .with_writer(io::stderr)
        .with_ansi(format == LogFormat::Text && coloured(io::stderr().is_terminal(), env))
        // It would say on standard error that nothing can be said there, and panic.
        .log_internal_errors(false)
        .event_format(LogLine(format))
        .try_init();
    if let Err(error) = installed {
        tracing::debug!(%error, "logging was already set up");
        return;
    }
    if let Some(error) = refused {
        tracing::warn!(error, "RUST_LOG: passed over");
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tracing::error!(
            thread = thread.name(),
            location = panic.location().map(tracing::field::display),
            "panicked: {}",
            panic.payload_as_str().unwrap_or("without a message")
        );
    }));
}

/// Whether lines have colours, by <https://no-color.org> and what the terminal is.
fn coloured(on_terminal: bool, env: impl Fn(&str) -> String) -> bool {
    on_terminal && env("NO_COLOR").is_empty() && !["", "dumb"].contains(&env("TERM").as_str())
}

fn env(key: &str) -> String {
    let value = std::env::var_os(key).unwrap_or_default();
    value.to_string_lossy().into_owned()
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
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(
            metrics_exporter_prometheus::Matcher::Suffix("_seconds".to_owned()),
            &SECONDS_BUCKETS,
        )?
        .install_recorder()?;
    metrics::describe();
    Ok(handle)
}

/// How long a connection to the metrics' port may last.
const METRICS_PATIENCE: Duration = Duration::from_secs(10);

/// Serves `GET /metrics` (Prometheus text format), `/healthz` and `/readyz` until `shutdown`, to whoever
/// comes.
pub async fn serve_metrics(
    listener: TcpListener,
    handle: PrometheusHandle,
    shutdown: CancellationToken,
) {
    let render = move || {
        metrics::sample_process();
        handle.run_upkeep();
        std::future::ready(handle.render())
    };
    let router = Router::new().route("/metrics", get(render));
    let router = router.merge(readiness::routes());
    http::serve(listener, router, METRICS_PATIENCE, &shutdown).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_that_have_them_and_people_who_want_them() {
        for (on_terminal, no_color, term, expected) in [
            (true, "", "xterm-256color", true),
            (false, "", "xterm-256color", false),
            (true, "1", "xterm-256color", false),
            (true, "", "dumb", false),
            (true, "", "", false),
        ] {
            let env = |key: &str| match key {
                "NO_COLOR" => no_color.to_owned(),
                _ => term.to_owned(),
            };
            assert_eq!(
                coloured(on_terminal, env),
                expected,
                "{no_color:?} {term:?}"
            );
        }
    }
}
