//! A reward function that is a process of its own.
//!
//! It is given `{"prompt": "...", "completion": "..."}`, one JSON line for each sample, and answers each
//! with a line that is a number, in their order. It is started once and asked again and again; its
//! standard error is that of this process.
//!
//! Two threads move the lines, so that neither side waits on a full pipe for the other: the process may
//! read all before it answers, or answer as it reads.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{RewardError, Sample, Scorer, excerpt};

/// The longest line that is an answer, in bytes with its end.
const MAX_LINE: u64 = 4096;
/// Answers that are read ahead. Past them the process waits.
const READ_AHEAD: usize = 64;
/// How long a process has to end by itself once its input has ended.
const GRACE: Duration = Duration::from_secs(1);
/// How long a process whose output has ended may take to end, for its status to be known.
const LAST_BREATH: Duration = Duration::from_millis(200);
/// Between two looks at whether a process has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Rewards completions with what a process says of them.
///
/// A process that takes too long for an answer, ends, or says what is not a finite number is killed, and
/// the call is an error; the next call starts another. It must flush each line, or at least whenever it
/// has read all that there is. When the scorer is dropped the process's input ends, and it is killed if it has
/// not ended a second later. Only the process itself is killed, not those it started: a shell script
/// should `exec` what it runs.
#[derive(Debug)]
pub struct CommandScorer {
    command: Vec<String>,
    timeout: Duration,
    running: Option<Running>,
}

#[derive(Serialize)]
struct Question<'a> {
    prompt: &'a str,
    completion: &'a str,
}

/// A process and the threads that talk with it. Fields are dropped in this order: first its input ends.
#[derive(Debug)]
struct Running {
    /// To the thread that writes; it takes the lines of a whole call at a time.
    questions: Sender<Vec<u8>>,
    /// How writing them went.
    written: Receiver<io::Result<()>>,
    /// From the thread that reads: lines without their ends, and at last why there are no more.
    answers: Receiver<Result<Vec<u8>, String>>,
    process: Process,
}

/// A process that is not left behind, running or dead.
#[derive(Debug)]
struct Process {
    child: Child,
    /// How long it has to end by itself when this is dropped.
    grace: Duration,
}

impl CommandScorer {
    /// Starts `command`, a program and its arguments, which may take `timeout` for each answer.
    ///
    /// # Errors
    /// [`RewardError::Start`].
    pub fn start(command: &[String], timeout: Duration) -> Result<Self, RewardError> {
        let mut scorer = Self {
            command: command.to_vec(),
            timeout,
            running: None,
        };
        scorer.running = Some(scorer.start_process()?);
        Ok(scorer)
    }

    fn start_process(&self) -> Result<Running, RewardError> {
        Running::start(&self.command).map_err(|error| RewardError::Start {
            command: self.shown(),
            reason: error.to_string(),
        })
    }

    fn failed(&self, got: String, count: usize) -> RewardError {
        RewardError::Command {
            command: self.shown(),
            got,
            expected: format!("a line with a finite number for each of {count} samples"),
        }
    }

    /// The command for an error.
    fn shown(&self) -> String {
        excerpt(self.command.join(" ").as_bytes())
    }
}

impl Scorer for CommandScorer {
    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, RewardError> {
        if samples.is_empty() {
            return Ok(Vec::new());
        }
        let count = samples.len();
        let lines = lines_of(samples).map_err(|error| self.failed(error.to_string(), count))?;
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.start_process()?,
        };
        match running.ask(lines, count, self.timeout) {
            Ok(rewards) => {
                self.running = Some(running);
                Ok(rewards)
            }
            Err(got) => {
                // Which answer is whose is no longer known. It is killed as it is dropped.
                running.process.grace = Duration::ZERO;
                Err(self.failed(got, count))
            }
        }
    }
}

fn lines_of(samples: &[Sample<'_>]) -> Result<Vec<u8>, serde_json::Error> {
    let mut lines = Vec::new();
    for sample in samples {
        let question = Question {
            prompt: sample.prompt,
            completion: sample.completion,
        };
        serde_json::to_writer(&mut lines, &question)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

impl Running {
    fn start(command: &[String]) -> io::Result<Self> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::other("no program is named"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut process = Process {
            child,
            grace: Duration::ZERO,
        };
        let (Some(input), Some(output)) = (input, output) else {
            return Err(io::Error::other("it has no pipes"));
        };
        let (questions, to_write) = mpsc::channel();
        let (report, written) = mpsc::channel();
        let (answer, answers) = mpsc::sync_channel(READ_AHEAD);
        thread::Builder::new()
            .name("reward-write".to_owned())
            .spawn(move || write_lines(input, &to_write, &report))?;
        thread::Builder::new()
            .name("reward-read".to_owned())
            .spawn(move || read_lines(output, &answer))?;
        process.grace = GRACE;
        Ok(Self {
            questions,
            written,
            answers,
            process,
        })
    }

    /// Sends `lines`, reads `count` rewards. An error says what came instead.
    fn ask(&mut self, lines: Vec<u8>, count: usize, timeout: Duration) -> Result<Vec<f32>, String> {
        match self.answers.try_recv() {
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(self.ending("its output ended")),
            Ok(Err(end)) => return Err(self.ending(&end)),
            Ok(Ok(line)) => return Err(format!("unasked for: {}", excerpt(&line))),
        }
        // A thread that is gone has closed the pipe, which shows in the answers.
        let _ = self.questions.send(lines);
        let mut rewards = Vec::with_capacity(count);
        while rewards.len() < count {
            let silent = || {
                format!(
                    "silent for {} s after {} answers",
                    timeout.as_secs_f64(),
                    rewards.len()
                )
            };
            let line = match self.answers.recv_timeout(timeout) {
                Ok(Ok(line)) => line,
                Ok(Err(end)) => {
                    let end = self.ending(&end);
                    return Err(format!("{end} after {} answers", rewards.len()));
                }
                Err(RecvTimeoutError::Timeout) => return Err(silent()),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ending("its output ended")),
            };
            rewards.push(number(&line)?);
        }
        match self.written.recv_timeout(timeout) {
            Ok(Ok(())) => Ok(rewards),
            Ok(Err(error)) => Err(format!("its input ended before all was read: {error}")),
            Err(_) => Err("answers before all was read".to_owned()),
        }
    }

    /// What became of a process that says no more, `end` if it goes on.
    fn ending(&mut self, end: &str) -> String {
        match self.process.ended_within(LAST_BREATH) {
            Some(status) => format!("{end}, {status}"),
            None => end.to_owned(),
        }
    }
}

/// Writes what is to be asked, until there is no more or the process does not read.
fn write_lines(
    mut input: ChildStdin,
    to_write: &Receiver<Vec<u8>>,
    report: &Sender<io::Result<()>>,
) {
    for lines in to_write {
        let result = input.write_all(&lines);
        let failed = result.is_err();
        if report.send(result).is_err() || failed {
            return;
        }
    }
}

/// Reads lines until there are no more, one is not whole, or nobody wants them.
fn read_lines(output: ChildStdout, answer: &SyncSender<Result<Vec<u8>, String>>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        let read = output.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let result = match read {
            Err(error) => Err(format!("cannot be read from: {error}")),
            Ok(0) => Err("its output ended".to_owned()),
            Ok(_) if line.last() == Some(&b'\n') => Ok(line),
            Ok(length) if length as u64 >= MAX_LINE => Err(format!(
                "a line of more than {MAX_LINE} bytes: {}",
                excerpt(&line)
            )),
            // Half of a number is a number too.
            Ok(_) => Err(format!(
                "its output ended within a line: {}",
                excerpt(&line)
            )),
        };
        let last = result.is_err();
        if answer.send(result).is_err() || last {
            return;
        }
    }
}

/// The number on a line.
fn number(line: &[u8]) -> Result<f32, String> {
    let text = std::str::from_utf8(line).ok();
    let number = text.and_then(|text| text.trim().parse::<f32>().ok());
    let finite = number.filter(|number| number.is_finite());
    finite.ok_or_else(|| format!("not a finite number: {}", excerpt(line.trim_ascii_end())))
}

impl Process {
    /// Its status, if it ends within that time.
    fn ended_within(&mut self, time: Duration) -> Option<std::process::ExitStatus> {
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if start.elapsed() < time => thread::sleep(LOOK),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended_within(self.grace).is_none() {
            // Neither can fail but for a process that is gone already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests;
