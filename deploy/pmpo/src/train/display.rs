//! What a user sees while a run goes on: a live line on a terminal, plain lines elsewhere.
//!
//! A thread of its own writes it: a terminal that was stopped (Ctrl-S), or a pipe that is full and open,
//! holds that thread and not the run, which then drops what nobody sees.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use pmpo_proto::v1::{RunState, RunStatus};

use crate::config::RunConfig;
use crate::output::tell;

const PLAIN_PERIOD: Duration = Duration::from_secs(10);
/// Rates are taken over about this long.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Messages that may wait for the thread.
const QUEUE: usize = 64;
/// How long the end of a run waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Progress of a run.
pub(crate) struct Display {
    messages: Sender<Message>,
    /// Nothing comes; it is cut off when the thread ends.
    ended: Receiver<()>,
}

enum Message {
    Status(RunStatus),
    Notice(String),
    Finish,
}

impl Display {
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn new(limits: &RunConfig) -> io::Result<Self> {
        let (messages, queue) = bounded(QUEUE);
        let (end, ended) = bounded(1);
        let mut screen = Screen::new(limits);
        thread::Builder::new()
            .name("display".to_owned())
            .spawn(move || {
                // Dropped at the end, which whoever waits for it notices.
                let _end = end;
                screen.run(&queue);
            })?;
        Ok(Self { messages, ended })
    }

    /// Tells of something out of the ordinary.
    pub(crate) fn notice(&self, text: &str) {
        self.show(Message::Notice(text.to_owned()));
    }

    /// Shows the newest status; each evaluation gets a line that stays.
    pub(crate) fn update(&self, status: &RunStatus) {
        self.show(Message::Status(*status));
    }

    /// Shows what is left, and nothing more.
    pub(crate) fn finish(&self) {
        if self
            .messages
            .send_timeout(Message::Finish, PATIENCE)
            .is_ok()
        {
            self.ended.recv_timeout(PATIENCE).ok();
        }
    }

    fn show(&self, message: Message) {
        if self.messages.try_send(message).is_err() {
            tracing::debug!("shown to nobody: what was shown before is still unread");
        }
    }
}

/// The thread's: where and what it writes.
struct Screen {
    bar: ProgressBar,
    limits: RunConfig,
    /// Start of the window that rates are taken over, and the status then.
    window: Option<(Instant, RunStatus)>,
    rates: (f64, f64),
    printed: Option<Instant>,
    evaluations: u64,
}

impl Screen {
    fn new(limits: &RunConfig) -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {wide_msg}")
            .expect("the template is constant and valid");
        bar.set_style(style);
        Self {
            bar,
            limits: limits.clone(),
            window: None,
            rates: (0.0, 0.0),
            printed: None,
            evaluations: 0,
        }
    }

    fn run(&mut self, queue: &Receiver<Message>) {
        for message in queue {
            match message {
                Message::Status(status) => self.update(&status),
                Message::Notice(text) => self.line(&text),
                Message::Finish => break,
            }
        }
        self.bar.finish_and_clear();
    }

    fn update(&mut self, status: &RunStatus) {
        self.measure(status);
        let line = self.describe(status);
        let evaluated = status.evaluations > self.evaluations;
        let due = self
            .printed
            .is_none_or(|printed| printed.elapsed() > PLAIN_PERIOD);
        if evaluated || (self.bar.is_hidden() && due) {
            self.printed = Some(Instant::now());
            self.line(&line);
        }
        self.evaluations = status.evaluations;
        self.bar.set_message(line);
        self.bar.tick();
    }

    fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            tell!("{text}");
        } else {
            self.bar.println(text);
        }
    }

    fn describe(&self, status: &RunStatus) -> String {
        let (env_rate, learner_rate) = self.rates;
        let evaluation = match &status.last_evaluation {
            Some(evaluation) => format!(
                "eval return {:.1} ± {:.1} at step {}",
                evaluation.return_mean, evaluation.return_std, evaluation.learner_step
            ),
            None => "no evaluation yet".to_owned(),
        };
        let waiting = match status.state() {
            RunState::WaitingForData => " · waiting for experience",
            RunState::Unspecified | RunState::Training | RunState::Finished => "",
        };
        let left = match self.seconds_left(status, env_rate, learner_rate) {
            Some(seconds) => format!(" · at most {} left", HumanDuration(seconds)),
            None => String::new(),
        };
        format!(
            "{:>5.0} s · env {} ({env_rate:.0}/s) · learner {} ({learner_rate:.0}/s) · \
             {evaluation} · replay {}{waiting}{left}",
            status.training_seconds,
            HumanCount(status.environment_steps),
            HumanCount(status.learner_steps),
            HumanCount(status.replay_size),
        )
    }

    /// Time until the first of the limits, at the present rates.
    fn seconds_left(
        &self,
        status: &RunStatus,
        env_rate: f64,
        learner_rate: f64,
    ) -> Option<Duration> {
        let steps_left = |limit: Option<u64>, done: u64, rate: f64| {
            limit
                .filter(|_| rate > 0.0)
                .map(|limit| limit.saturating_sub(done) as f64 / rate)
        };
        let minutes = self
            .limits
            .max_minutes
            .map(|m| m * 60.0 - status.training_seconds);
        [
            steps_left(self.limits.env_steps, status.environment_steps, env_rate),
            steps_left(
                self.limits.learner_steps,
                status.learner_steps,
                learner_rate,
            ),
            minutes,
        ]
        .into_iter()
        .flatten()
        .min_by(f64::total_cmp)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0).round()).ok())
    }

    /// Takes the rates over windows of [`RATE_WINDOW`], and over what there is of the first.
    fn measure(&mut self, status: &RunStatus) {
        let Some((start, before)) = &self.window else {
            self.window = Some((Instant::now(), *status));
            return;
        };
        let elapsed = start.elapsed();
        let first = self.rates == (0.0, 0.0) && elapsed > RATE_WINDOW / 5;
        if !first && elapsed < RATE_WINDOW {
            return;
        }
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / elapsed.as_secs_f64();
        self.rates = (
            rate(status.environment_steps, before.environment_steps),
            rate(status.learner_steps, before.learner_steps),
        );
        self.window = Some((Instant::now(), *status));
    }
}
