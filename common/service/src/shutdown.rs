//! Ending a process: a token that every part watches, cancelled by SIGINT, SIGTERM or SIGHUP.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGINT, SIGTERM or SIGHUP (its terminal is gone) cancels; under `nohup` SIGHUP
/// means nothing. Must be called within a tokio runtime.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn on_signals() -> io::Result<CancellationToken> {
    Ok(Signals::watch()?.stop)
}

/// What a process that ends others is told.
#[derive(Clone, Debug)]
pub struct Signals {
    /// As [`on_signals`].
    pub stop: CancellationToken,
    /// Another Ctrl-C after that: whoever waits has waited long enough.
    pub hurry: CancellationToken,
}

impl Signals {
    /// Watches from here on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn watch() -> io::Result<Self> {
        let signals = Self {
            stop: CancellationToken::new(),
            hurry: CancellationToken::new(),
        };
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = if hangup_is_ignored() {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        let Self { stop, hurry } = signals.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                () = received(&mut hangup) => "SIGHUP",
            };
            tracing::info!(signal = name, "stopping");
            stop.cancel();
            if interrupt.recv().await.is_some() {
                hurry.cancel();
            }
        });
        Ok(signals)
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether whoever started this process wants it to outlive its terminal.
fn hangup_is_ignored() -> bool {
    // A bit for each signal, the lowest for number 1, which is SIGHUP.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}
