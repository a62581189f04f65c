//! One role as a child process: started from this very program, announced through a file, its log in
//! the run's folder, ended with SIGTERM and, after a grace period, SIGKILL.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pmpo_actor::environment::is_external;
use pmpo_service::announce::Announcement;
use pmpo_service::config::ENV_PREFIX;
use pmpo_service::telemetry::LogFormat;
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::config::RunConfig;
use crate::environments;
use crate::failure;
use crate::host;
use crate::output::complain;

/// The roles that step environments.
const STEPPING: [&str; 2] = ["actor", "evaluator"];

const POLL: Duration = Duration::from_millis(20);
const START_LIMIT: Duration = Duration::from_secs(60);

/// A worker that lived this long is not failing at its start.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
const RESTART_DELAY: Duration = Duration::from_millis(250);
/// Deaths in a row, none after a healthy life, that end the run.
const MAX_FAILED_STARTS: u32 = 6;

/// Starts children of one run.
pub(crate) struct Launcher {
    run_dir: PathBuf,
    format: LogFormat,
    /// What runs those that step environments, if these are in Python.
    interpreter: Option<Interpreter>,
}

struct Interpreter {
    program: OsString,
    /// The environment's name.
    task: String,
}

impl Launcher {
    pub(crate) fn new(run_dir: &Path, format: LogFormat) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            format,
            interpreter: None,
        }
    }

    /// Has an interpreter run the roles that step environments, if the run's are in Python.
    #[must_use]
    pub(crate) fn with_interpreter(mut self, run: &RunConfig) -> Self {
        self.interpreter = is_external(&run.task).then(|| Interpreter {
            program: environments::interpreter(run),
            task: run.task.clone(),
        });
        self
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub(crate) fn run_dir_flag(&self) -> [String; 2] {
        ["--run-dir".to_owned(), self.run_dir.display().to_string()]
    }

    /// Starts `pmpo <role>` with the run's configuration and `flags`.
    pub(crate) fn start(&self, role: &'static str, index: u64, flags: &[String]) -> Result<Child> {
        self.start_with(Stdio::null(), role, index, flags)
    }

    /// What runs the role, if it steps environments in Python.
    fn interpreter(&self, role: &str) -> Option<&Interpreter> {
        let stepping = STEPPING.contains(&role);
        self.interpreter.as_ref().filter(|_| stepping)
    }

    fn program(&self, role: &str) -> Result<Command> {
        let Some(interpreter) = self.interpreter(role) else {
            return host::this_program();
        };
        let mut command = Command::new(&interpreter.program);
        command.args(["-m", "pmpo"]);
        Ok(command)
    }

    /// As [`Launcher::start`], with a standard input.
    pub(crate) fn start_with(
        &self,
        input: Stdio,
        role: &'static str,
        index: u64,
        flags: &[String],
    ) -> Result<Child> {
        let name = format!("{role}-{index}");
        let announcement = self.run_dir.join("roles").join(format!("{name}.json"));
        if announcement.exists() {
            std::fs::remove_file(&announcement).map_err(failure::storage(&announcement))?;
        }
        let log = self.run_dir.join("logs").join(format!("{name}.log"));
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(failure::storage(&log))?;
        let mut command = self.program(role)?;
        command
            .arg(role)
            .arg("--config")
            .arg(self.run_dir.join("config.toml"));
        command.arg("--announce").arg(&announcement);
        command.arg("--parent").arg(std::process::id().to_string());
        command.arg("--log-format").arg(self.format.as_str());
        if role != "learner" {
            command.arg("--index").arg(index.to_string());
        }
        command.args(flags);
        // The run's file holds what the environment has set already, and what the command line set
        // over it.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with(ENV_PREFIX) {
                command.env_remove(key);
            }
        }
        // A process group of its own: Ctrl-C at the terminal reaches this process alone, which then
        // ends its children in order.
        command
            .process_group(0)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(stderr);
        let process = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Child {
            role,
            index,
            shown: match self.interpreter(role) {
                Some(Interpreter { task, .. }) => format!("{name} of {task}"),
                None => name.clone(),
            },
            name,
            flags: flags.to_vec(),
            announcement,
            log,
            process,
            exit: None,
            started: Instant::now(),
            failed_starts: 0,
        })
    }
}

/// A child process.
pub(crate) struct Child {
    role: &'static str,
    index: u64,
    name: String,
    /// Its name for users, with what it steps if others have written that.
    shown: String,
    flags: Vec<String>,
    announcement: PathBuf,
    log: PathBuf,
    process: std::process::Child,
    exit: Option<ExitStatus>,
    started: Instant,
    failed_starts: u32,
}

impl Child {
    /// Waits until the child serves; `None` on shutdown.
    pub(crate) async fn address(
        &mut self,
        shutdown: &CancellationToken,
    ) -> Result<Option<SocketAddr>> {
        while self.started.elapsed() < START_LIMIT {
            if let Some(exit) = self.exited()? {
                return Err(failure::of_child(exit, self.describe(exit)));
            }
            if let Some(announcement) = Announcement::read(&self.announcement)? {
                let address = announcement.listen.context("announced no address")?;
                return Ok(Some(address));
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(POLL) => {}
            }
        }
        bail!(
            "{} did not serve within {START_LIMIT:?}; see {}",
            self.name,
            self.log.display()
        )
    }

    /// What the child has been started with, for its next start.
    pub(crate) fn set_flags(&mut self, flags: Vec<String>) {
        self.flags = flags;
    }

    /// The exit status once the child has ended.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            self.exit = self.process.try_wait().with_context(|| self.name.clone())?;
        }
        Ok(self.exit)
    }

    /// How the child ended, with the last line of its log.
    pub(crate) fn describe(&self, exit: ExitStatus) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        let said = last
            .map(|line| format!(", its last words: {line}"))
            .unwrap_or_default();
        format!(
            "{} ended with {exit}{said} (log: {})",
            self.shown,
            self.log.display()
        )
    }

    /// Starts the child again if it has ended; returns what to tell the user.
    pub(crate) fn keep_alive(&mut self, launcher: &Launcher) -> Result<Option<String>> {
        let Some(exit) = self.exited()? else {
            return Ok(None);
        };
        let failed_starts = if self.started.elapsed() > HEALTHY_AFTER {
            0
        } else {
            self.failed_starts + 1
        };
        if failed_starts >= MAX_FAILED_STARTS {
            let death = format!("{} ({failed_starts} times in a row)", self.describe(exit));
            return Err(failure::of_child(exit, death));
        }
        if self.started.elapsed() < RESTART_DELAY * 2u32.pow(failed_starts.min(MAX_FAILED_STARTS)) {
            return Ok(None);
        }
        let notice = format!("{}; started again", self.describe(exit));
        let mut next = launcher.start(self.role, self.index, &self.flags)?;
        next.failed_starts = failed_starts;
        *self = next;
        Ok(Some(notice))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill().with_context(|| self.name.clone())?;
        self.exit = Some(self.process.wait().with_context(|| self.name.clone())?);
        Ok(())
    }

    /// What the child wrote to standard output; call it once, after the child has ended.
    pub(crate) fn output(&mut self) -> Result<String> {
        let mut text = String::new();
        if let Some(mut stdout) = self.process.stdout.take() {
            stdout
                .read_to_string(&mut text)
                .with_context(|| self.name.clone())?;
        }
        Ok(text)
    }

    /// Sends it a signal, unless it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exited()?.is_none()
            && let Some(pid) = i32::try_from(self.process.id())
                .ok()
                .and_then(Pid::from_raw)
        {
            kill_process(pid, signal).with_context(|| self.name.clone())?;
        }
        Ok(())
    }
}

impl Drop for Child {
    /// Leaves no process behind, whichever way the launcher ends.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let killed = self
                .process
                .kill()
                .and_then(|()| self.process.wait().map(drop));
            if let Err(error) = killed {
                tracing::warn!(%error, name = self.name, "could not be killed");
            }
        }
    }
}

/// How long children may take to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grace {
    pub(crate) period: Duration,
    /// Cancelled when somebody has waited long enough.
    pub(crate) hurry: CancellationToken,
}

impl From<Duration> for Grace {
    fn from(period: Duration) -> Self {
        let hurry = CancellationToken::new();
        Self { period, hurry }
    }
}

/// What is left of a grace once somebody is in a hurry: enough for a checkpoint, as a rule.
const HURRIED: Duration = Duration::from_secs(3);

/// Sends SIGTERM to each child, waits until all have ended, and kills those that outlive `grace`; answers
/// the names of these.
pub(crate) async fn stop_all(
    children: impl Iterator<Item = &mut Child>,
    grace: &Grace,
) -> Result<Vec<String>> {
    let mut children: Vec<&mut Child> = children.collect();
    for child in &mut children {
        child.signal(Signal::TERM)?;
    }
    let mut deadline = Instant::now() + grace.period;
    let mut hurried = false;
    let mut killed = Vec::new();
    for child in children {
        while child.exited()?.is_none() {
            if grace.hurry.is_cancelled() && !hurried {
                hurried = true;
                deadline = deadline.min(Instant::now() + HURRIED);
            }
            if Instant::now() > deadline {
                complain!("{} did not end in time and is killed", child.name);
                child.kill()?;
                killed.push(child.name.clone());
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(killed)
}
