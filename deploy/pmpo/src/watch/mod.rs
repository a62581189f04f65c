//! A run that one can watch: a page of three files with a small JSON API, served by the process that is there
//! anyway, the parent of `pmpo train`, a run in lockstep or a learner by itself; `pmpo watch` serves it for
//! runs that have ended. The same thread keeps the run's [record](crate::record). Prime Intellect's
//! `prime_rl/dashboard` is the model of the page; here it needs neither a build step nor the internet.
//!
//! What is shown is read from the folders of the runs, those of other processes beside one's own.

pub(crate) mod files;
mod film;
mod runs;
mod server;

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use crossbeam::channel::{Receiver, bounded};
use pmpo_service::shutdown;
use tokio_util::sync::CancellationToken;

use crate::config::RunConfig;
use crate::failure::Usage;
use crate::output::tell;
use crate::record::{Recorder, Source};
use crate::run_folder::CONFIG;
use crate::train::display::Display;
use film::Films;
use runs::Runs;
use server::{Dashboard, Visits};

/// Where the page is by default: on this machine alone, on a port that is free.
pub(crate) const LISTEN: &str = "127.0.0.1:0";

/// How long the end of a run waits for its last record.
const PATIENCE: Duration = Duration::from_secs(2);
/// A page that asked within this time is told how the run ended; for how long that is waited.
const RECENT: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Folder of runs, or of one run among others.
    folder: PathBuf,
    /// Address to serve the page on; port 0 lets the system choose.
    #[arg(long, value_name = "HOST:PORT", default_value = LISTEN)]
    listen: String,
}

/// Serves the page of a folder of runs until a signal.
pub(crate) fn command(args: &WatchArgs) -> Result<()> {
    check(&args.listen)
        .context("--listen")
        .map_err(Usage::new)?;
    ensure!(
        !args.listen.is_empty(),
        Usage::new(anyhow!("--listen: expected HOST:PORT, got nothing"))
    );
    let folder = args.folder.canonicalize();
    let folder = folder
        .with_context(|| args.folder.display().to_string())
        .map_err(Usage::new)?;
    let (root, shown) = match folder.parent() {
        Some(parent) if folder.join(CONFIG).is_file() => (parent, Some(folder.as_path())),
        _ => (folder.as_path(), None),
    };
    let stop = CancellationToken::new();
    let page = Page::open((root, shown), None, &args.listen, &stop)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tell!("watch {} at {}", root.display(), page.url);
    runtime.block_on(async {
        let signals = shutdown::on_signals()?;
        let ended = async {
            signals.cancelled().await;
            stop.cancel();
            // Answers on their way are waited for, who is silent is not.
            tokio::time::sleep(PATIENCE).await;
            Ok(())
        };
        tokio::select! {
            served = page.serve() => served.context("the page"),
            ended = ended => ended,
        }
    })
}

/// Refuses what is no `HOST:PORT`, nor empty for no page.
pub(crate) fn check(listen: &str) -> Result<()> {
    let port = listen.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let named = port.is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    ensure!(
        named || listen.is_empty(),
        "expected HOST:PORT, or nothing for no page, got {listen:?}"
    );
    Ok(())
}

/// The thread of a run's page and record; ends when this is dropped.
pub(crate) struct Watch {
    stop: CancellationToken,
    dashboard: Option<Arc<Dashboard>>,
    /// Where the page is; `None` where there is to be none, or why there is none.
    pub(crate) url: Result<Option<String>>,
    /// Nothing comes; it is cut off when the thread ends.
    ended: Receiver<()>,
}

impl Watch {
    /// Begins to serve and to record the run in `run_dir`. What cannot be had of it is in `url` or logged: a
    /// run does not fail for it.
    pub(crate) fn of_run(run: &RunConfig, run_dir: &Path, source: Source) -> Self {
        let stop = CancellationToken::new();
        let (page, url) = match Page::of_run(&run.dashboard_listen, run_dir, &stop) {
            Ok(Some(page)) => {
                let url = page.url.clone();
                (Some(page), Ok(Some(url)))
            }
            Ok(None) => (None, Ok(None)),
            Err(error) => (None, Err(error)),
        };
        let recorder = run.tensorboard.then(|| Recorder::new(run_dir, source));
        let (end, ended) = bounded(1);
        let dashboard = page.as_ref().map(|page| page.dashboard.clone());
        let stopped = stop.clone();
        let work = move || {
            // Dropped at the end, which whoever waits for it notices.
            let _end = end;
            if let Err(error) = work(page, recorder, &stopped) {
                tracing::warn!(%error, "no page and no record of this run");
            }
        };
        let spawned = thread::Builder::new().name("watch".to_owned()).spawn(work);
        let url = spawned.map_err(Into::into).and(url);
        Self {
            stop,
            dashboard,
            url,
            ended,
        }
    }

    /// Tells a user where the page is, or why there is none.
    pub(crate) fn tell(&self, display: &Display) {
        match &self.url {
            Ok(Some(url)) => display.notice(&format!("watch it at {url}")),
            Ok(None) => {}
            Err(error) => display.notice(&format!("no page to watch it: {error:#}")),
        }
    }

    /// The run has ended, and its folder says how: lets a page that is open see it.
    pub(crate) fn linger(&self) {
        let Some(dashboard) = &self.dashboard else {
            return;
        };
        let (before, last) = dashboard.visits.read();
        if last.is_none_or(|last| last.elapsed() > RECENT) {
            return;
        }
        let began = Instant::now();
        while dashboard.visits.read().0 == before && began.elapsed() < LINGER {
            thread::sleep(POLL);
        }
        // The answer is on its way.
        thread::sleep(10 * POLL);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.cancel();
        // Cut off rather than answered; what hangs is left behind.
        if self.ended.recv_timeout(PATIENCE) == Err(crossbeam::channel::RecvTimeoutError::Timeout) {
            tracing::debug!("the record is not finished");
        }
    }
}

fn work(
    page: Option<Page>,
    recorder: Option<Recorder>,
    stop: &CancellationToken,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if let Some(page) = page {
            tokio::spawn(async move {
                if let Err(error) = page.serve().await {
                    tracing::warn!(%error, "no page");
                }
            });
        }
        let Some(mut recorder) = recorder else {
            stop.cancelled().await;
            return;
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(recorder.period()) => recorder.sample().await,
            }
        }
        recorder.finish().await;
    });
    // Whoever is still being answered is not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// A page with its port.
struct Page {
    listener: TcpListener,
    dashboard: Arc<Dashboard>,
    url: String,
}

impl Page {
    /// The page of a run among those beside it; `None` where there is to be none.
    fn of_run(listen: &str, run_dir: &Path, stop: &CancellationToken) -> Result<Option<Self>> {
        if listen.is_empty() {
            return Ok(None);
        }
        let folder = run_dir
            .canonicalize()
            .with_context(|| run_dir.display().to_string())?;
        let root = folder.parent().context("the run's folder is in none")?;
        let own = folder.strip_prefix(root).ok().and_then(Path::to_str);
        let page = Self::open((root, Some(&folder)), own.map(str::to_owned), listen, stop);
        Ok(Some(page.context("run.dashboard_listen")?))
    }

    fn open(
        (root, shown): (&Path, Option<&Path>),
        own: Option<String>,
        listen: &str,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let runs = Runs::open(root).with_context(|| root.display().to_string())?;
        let shown = shown
            .and_then(|folder| runs.run_at(folder))
            .map(|run| run.name);
        let listener = bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
        let host = listen.rsplit_once(':').map_or("", |(host, _)| host);
        let mut url = format!("http://{}/", listener.local_addr()?);
        if let Some(name) = shown {
            url += &format!("#{}", percent_encoded(&name));
        }
        let dashboard = Dashboard {
            runs,
            own,
            host: host.to_owned(),
            films: Films::default(),
            stop: stop.clone(),
            visits: Visits::default(),
        };
        Ok(Self {
            listener,
            dashboard: Arc::new(dashboard),
            url,
        })
    }

    async fn serve(self) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        server::serve(listener, self.dashboard).await;
        Ok(())
    }
}

fn bind(listen: &str) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = listen.to_socket_addrs()?.collect();
    let listener = TcpListener::bind(&addresses[..])?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A run's name as the part of an address behind `#`.
fn percent_encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let encode = |byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_a_run_begins() {
        for good in [
            "",
            "127.0.0.1:0",
            "localhost:8080",
            "[::1]:80",
            "0.0.0.0:65535",
        ] {
            check(good).unwrap();
        }
        for bad in [
            "8080",
            ":8080",
            "localhost",
            "localhost:",
            "localhost:65536",
            "a:b",
        ] {
            let message = check(bad).unwrap_err().to_string();
            assert!(message.contains(bad), "{message}");
        }
    }

    #[test]
    fn names_in_addresses_are_encoded() {
        assert_eq!(percent_encoded("a/seed-1.b_c~"), "a/seed-1.b_c~");
        assert_eq!(percent_encoded("a b#ü%"), "a%20b%23%C3%BC%25");
    }
}
