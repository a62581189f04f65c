//! Runs jobs side by side until all are done, time is up, or a signal comes.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pmpo_service::folder_lock::FolderLock;
use pmpo_service::shutdown;
use rustix::process::{Pid, Signal, kill_process};

use super::job::{Job, State};
use super::results::Results;
use crate::failure;
use crate::host;
use crate::output::{complain, tell};
use crate::train;

const POLL: Duration = Duration::from_millis(200);

/// How long a run may take to end after SIGTERM; `train` ends its own children in three rounds.
const GRACE: Duration = Duration::from_secs(75);

/// Runs `jobs`, at most `side_by_side` at a time, and calls `ended` after each end. Returns the names
/// of those that failed; when `limit` or a signal ends the sweep, the runs are interrupted, which is
/// no failure.
pub(crate) fn run(
    jobs: Vec<&Job>,
    side_by_side: usize,
    limit: Option<Duration>,
    ended: impl Fn() -> Result<Results>,
) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signals()?;
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut waiting = VecDeque::from(jobs);
        let mut running: Vec<Run<'_>> = Vec::new();
        let mut failed = Vec::new();
        loop {
            let late = deadline.is_some_and(|deadline| Instant::now() > deadline);
            if late || shutdown.is_cancelled() {
                waiting.clear();
                for run in &mut running {
                    run.stop()?;
                }
            }
            while running.len() < side_by_side
                && let Some(job) = waiting.pop_front()
            {
                match FolderLock::holder(&job.run_dir) {
                    Some(holder) => {
                        tell!("{}: is being trained by {holder}; left alone", job.name());
                    }
                    None => running.push(Run::start(job)?),
                }
            }
            if running.is_empty() {
                return Ok(failed);
            }
            let mut open = Vec::new();
            for mut run in running {
                match run.exited()? {
                    None => open.push(run),
                    Some(exit) => {
                        failed.extend(run.report(exit)?);
                        ended()?;
                    }
                }
            }
            running = open;
            // Not a poll of the signal: it cuts the wait short, and is then seen above.
            tokio::select! {
                () = shutdown.cancelled(), if !shutdown.is_cancelled() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    })
}

/// A `pmpo train` in progress.
struct Run<'a> {
    job: &'a Job,
    process: Child,
    started: Instant,
    /// When it was told to stop.
    stopped: Option<Instant>,
}

impl<'a> Run<'a> {
    fn start(job: &'a Job) -> Result<Self> {
        let state = job.state()?;
        if state == State::Fresh && job.run_dir.exists() {
            // It was killed before its first checkpoint.
            std::fs::remove_dir_all(&job.run_dir).map_err(failure::storage(&job.run_dir))?;
        }
        let storage = failure::storage(&job.log);
        let folder = job.log.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(&storage)?;
        let log = File::options().create(true).append(true).open(&job.log);
        let log = log.map_err(&storage)?;
        let process = host::this_program()?
            .args(job.command(&state))
            .arg("--parent")
            .arg(std::process::id().to_string())
            // A process group of its own: Ctrl-C at the terminal reaches this process alone.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(&storage)?)
            .stderr(log)
            .spawn()
            .with_context(|| job.name())?;
        let verb = match state {
            State::Fresh => "started",
            State::Interrupted | State::Finished(_) => "goes on",
        };
        tell!("{}: {verb} (log: {})", job.name(), job.log.display());
        Ok(Self {
            job,
            process,
            started: Instant::now(),
            stopped: None,
        })
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait().with_context(|| self.job.name())
    }

    /// Asks the run to end, and makes it end when it does not in time.
    fn stop(&mut self) -> Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        match self.stopped {
            None => {
                let pid = i32::try_from(self.process.id())
                    .ok()
                    .and_then(Pid::from_raw);
                let pid = pid.context("a process without an id")?;
                kill_process(pid, Signal::TERM).with_context(|| self.job.name())?;
                self.stopped = Some(Instant::now());
            }
            Some(since) if since.elapsed() > GRACE => {
                self.process.kill().with_context(|| self.job.name())?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Tells how the run ended; returns its name if that is a failure.
    fn report(&self, exit: ExitStatus) -> Result<Option<String>> {
        let (name, seconds) = (self.job.name(), self.started.elapsed().as_secs());
        if exit.success() {
            match train::read_outcome(&self.job.run_dir)? {
                Some(outcome) => tell!("{name}: {outcome}"),
                None => tell!("{name}: ended before the learner was ready"),
            }
            return Ok(None);
        }
        if self.stopped.is_some() {
            tell!("{name}: interrupted, {exit}");
            return Ok(None);
        }
        let place = || self.job.log.display().to_string();
        let log = std::fs::read_to_string(&self.job.log).with_context(place)?;
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        complain!(
            "{name}: failed after {seconds} s with {exit}: {}",
            last.unwrap_or("no word")
        );
        Ok(Some(name))
    }
}

impl Drop for Run<'_> {
    /// Leaves no process behind, whichever way the sweep ends; the run's own children follow it.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let killed = self.process.kill();
            if let Err(error) = killed.and_then(|()| self.process.wait().map(drop)) {
                complain!("{}: could not be killed: {error}", self.job.name());
            }
        }
    }
}
