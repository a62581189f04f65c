//! Another process of a benchmark: this binary with a hidden command. Parent and process tell each
//! other lines when they are ready, and the process ends with its figures as a line of JSON.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};

use crate::host;
use crate::output::answer;
use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

/// From the parent's side.
pub(super) struct Partner {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Partner {
    /// Starts `pmpo bench` with these arguments.
    pub(super) fn start<S: AsRef<str>>(arguments: &[S]) -> Result<Self> {
        let mut process = host::this_program()?
            .arg("bench")
            .args(arguments.iter().map(AsRef::as_ref))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, output })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for its next line.
    pub(super) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(
            !line.is_empty(),
            "a process of the benchmark ended; see its error above"
        );
        Ok(line.trim_end().to_owned())
    }

    /// Tells it a line, which it waits for.
    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.process.stdin.as_mut().context("no input")?;
        Ok(writeln!(input, "{line}")?)
    }

    /// Waits for its figures and its end.
    pub(super) fn figures<T: DeserializeOwned>(mut self) -> Result<T> {
        let figures = serde_json::from_str(&self.line()?)?;
        ensure!(
            self.process.wait()?.success(),
            "a process of the benchmark failed"
        );
        Ok(figures)
    }
}

impl Drop for Partner {
    /// Leaves no process behind.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let killed = self.process.kill().and_then(|()| self.process.wait());
            if let Err(error) = killed {
                tracing::warn!(%error, "a process of the benchmark could not be killed");
            }
        }
    }
}

/// From its own side: tells the parent a line, and waits for one.
pub(super) fn tell_and_hear(line: &str) -> Result<String> {
    answer!("{line}")?;
    let mut heard = String::new();
    let bytes = std::io::stdin().lock().read_line(&mut heard)?;
    ensure!(bytes > 0, "the benchmark has ended");
    Ok(heard.trim_end().to_owned())
}
