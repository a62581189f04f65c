//! The page and what it asks for, over HTTP: three files and a small JSON API, all of it `GET`.
//!
//! | path | answers |
//! |---|---|
//! | `/`, `/app.js`, `/style.css` | the page |
//! | `/api/runs` | the runs, newest first, and which of them this process trains |
//! | `/api/run/NAME/progress` | `rows`: the rows of `progress.csv` |
//! | `/api/run/NAME/series` | `series`: by tag, `[Unix time, environment steps, value]` each |
//! | `/api/run/NAME/config` | `config`: every key with its value |
//! | `/api/run/NAME/film` | what there is of a film, [`Look`](super::film::Look) |
//! | `/api/run/NAME/film/STEP` | that film, a GIF |
//!
//! NAME is a run's path from the root, percent-encoded as one segment. Whoever asks under a host's name that
//! is not ours is refused: a page of another site could have had its own name point here.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as Segments, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use axum::http::header::{HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pmpo_service::http;
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::film::Films;
use super::runs::{Run, Runs};

const PAGE: [(&str, &str, &str); 3] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("page/index.html"),
    ),
    (
        "/app.js",
        "text/javascript; charset=utf-8",
        include_str!("page/app.js"),
    ),
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_str!("page/style.css"),
    ),
];

/// What the page may load, and who may show it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// What the page is served from.
pub(super) struct Dashboard {
    pub(super) runs: Runs,
    /// Name of the run that this process trains.
    pub(super) own: Option<String>,
    /// Host that was asked for; numbers and `localhost` are ours anyway.
    pub(super) host: String,
    pub(super) films: Films,
    pub(super) stop: CancellationToken,
    pub(super) visits: Visits,
}

/// How often the list of runs was answered, and when it was last.
#[derive(Default)]
pub(super) struct Visits(Mutex<(u64, Option<Instant>)>);

impl Visits {
    pub(super) fn read(&self) -> (u64, Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) {
        let (count, last) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        *last = Some(Instant::now());
    }
}

/// How long an answer may take to arrive: a film over a slow line.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves until the dashboard's `stop`.
pub(super) async fn serve(listener: TcpListener, dashboard: Arc<Dashboard>) {
    let stop = dashboard.stop.clone();
    http::serve(listener, router(dashboard), PATIENCE, &stop).await;
}

fn router(dashboard: Arc<Dashboard>) -> Router {
    let mut router = Router::new();
    for (path, kind, text) in PAGE {
        router = router.route(path, get(async move || ([(CONTENT_TYPE, kind)], text)));
    }
    router
        // Browsers ask for it unasked.
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .route("/api/runs", get(runs))
        .route("/api/run/{name}/progress", get(progress))
        .route("/api/run/{name}/series", get(series))
        .route("/api/run/{name}/config", get(config))
        .route("/api/run/{name}/film", get(look))
        .route("/api/run/{name}/film/{step}", get(film))
        .layer(middleware::from_fn_with_state(dashboard.clone(), guard))
        .with_state(dashboard)
}

/// Lets those in who ask under a name of ours, and puts the headers on every answer.
async fn guard(State(dashboard): State<Arc<Dashboard>>, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let mut response = if host.is_some_and(|host| is_ours(host, &dashboard.host)) {
        next.run(request).await
    } else {
        let words = "unknown host: ask for this page by the machine's address, localhost, or the host \
                     that run.dashboard_listen names\n";
        (StatusCode::FORBIDDEN, words).into_response()
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether the header `Host` names this machine by a number, which no other site can have its name say, or
/// by a name that was chosen here.
fn is_ours(header: &str, chosen: &str) -> bool {
    if header.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let host = match header.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => header,
    };
    let number = host.trim_start_matches('[').trim_end_matches(']');
    number.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host.eq_ignore_ascii_case(chosen)
}

/// Reads files where that holds up nobody.
async fn reading<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// An answer other than 200, with the reason.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.1 }).to_string();
        (self.0, [(CONTENT_TYPE, "application/json")], body).into_response()
    }
}

fn json_of(value: &impl Serialize) -> Result<Response, Refusal> {
    let text = serde_json::to_string(value)
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

fn find(dashboard: &Dashboard, name: &str) -> Result<Run, Refusal> {
    let missing = || Refusal(StatusCode::NOT_FOUND, "no such run".to_owned());
    dashboard.runs.find(name).ok_or_else(missing)
}

async fn runs(State(dashboard): State<Arc<Dashboard>>) -> Result<Response, Refusal> {
    let value = reading(move || {
        let found: Vec<_> = dashboard.runs.list().iter().map(Run::summary).collect();
        // Counted once it is known what they are told.
        dashboard.visits.count();
        let root = dashboard.runs.root().file_name().unwrap_or_default();
        json!({ "root": Path::new(root), "own": dashboard.own, "runs": found })
    });
    json_of(&value.await?)
}

/// What `read` finds in a run, under `key`.
async fn part<T: Serialize + Send + 'static>(
    dashboard: Arc<Dashboard>,
    name: String,
    key: &'static str,
    read: fn(&Run) -> Result<T, String>,
) -> Result<Response, Refusal> {
    let run = find(&dashboard, &name)?;
    let found = reading(move || read(&run)).await?;
    let found = found.map_err(|error| Refusal(StatusCode::UNPROCESSABLE_ENTITY, error))?;
    json_of(&json!({ key: found }))
}

type Asked = State<Arc<Dashboard>>;

async fn progress(
    State(dashboard): Asked,
    Segments(name): Segments<String>,
) -> Result<Response, Refusal> {
    part(dashboard, name, "rows", Run::progress).await
}

async fn series(
    State(dashboard): Asked,
    Segments(name): Segments<String>,
) -> Result<Response, Refusal> {
    part(dashboard, name, "series", Run::series).await
}

async fn config(
    State(dashboard): Asked,
    Segments(name): Segments<String>,
) -> Result<Response, Refusal> {
    part(dashboard, name, "config", |run| Ok(run.config())).await
}

async fn look(
    State(dashboard): Asked,
    Segments(name): Segments<String>,
) -> Result<Response, Refusal> {
    let run = find(&dashboard, &name)?;
    let look = reading(move || dashboard.films.look(&run, &dashboard.stop)).await?;
    json_of(&look)
}

async fn film(
    State(dashboard): Asked,
    Segments((name, step)): Segments<(String, u64)>,
) -> Result<Response, Refusal> {
    let run = find(&dashboard, &name)?;
    let missing = || Refusal(StatusCode::NOT_FOUND, "no such film".to_owned());
    let film = dashboard.films.film(&run, step).ok_or_else(missing)?;
    Ok(([(CONTENT_TYPE, "image/gif")], film.to_vec()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_ours_by_number_or_by_the_name_that_was_chosen() {
        let ours = [
            "127.0.0.1:8080",
            "127.0.0.1",
            "localhost:80",
            "LOCALHOST",
            "[::1]:8080",
            "[::1]",
            "192.168.1.7:8080",
            "box:8080",
            "BOX",
        ];
        for header in ours {
            assert!(is_ours(header, "box"), "{header}");
        }
        let others = [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example:80",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "box.evil.example",
            "evil.example:127",
            "localhost:x",
        ];
        for header in others {
            assert!(!is_ours(header, "box"), "{header}");
        }
    }
}
