//! A language model's run under way: steps, evaluations, checkpoints.

use std::path::Path;
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use anyhow::Result;
use pmpo_generator::{GroupQueue, Publisher, metrics};
use pmpo_language::{LanguageError, LmConfig, Report, Session};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::folder::{self, Row};
use crate::failure;
use crate::output::{complain, tell};

/// Times that completions are offered again to a reward that fails.
const TRIES: u32 = 5;
/// Time before the second try; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// What was spent by earlier parts of a run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) wall_s: f64,
}

/// Seen since the last evaluation.
#[derive(Default)]
pub(super) struct Since {
    rewards: f64,
    steps: u32,
    tokens: usize,
    time: Duration,
    last: Report,
}

/// A run under way.
pub(super) struct Run<'a> {
    pub(super) run_dir: &'a Path,
    pub(super) config: LmConfig,
    pub(super) session: Session,
    /// Where completions come from that others draw.
    pub(super) remote: Option<Remote>,
    pub(super) rows: Vec<Row>,
    pub(super) began: Instant,
    pub(super) before: Before,
    pub(super) since: Since,
}

/// Generators: what they are given and what they give.
pub(super) struct Remote {
    pub(super) publisher: Publisher,
    pub(super) queue: GroupQueue,
}

impl Run<'_> {
    pub(super) fn go(mut self, stop: &CancellationToken) -> Result<()> {
        if self.rows.is_empty() {
            self.evaluate(stop)?;
        }
        let mut saved = None;
        while self.session.step_count() < self.config.max_steps && !stop.is_cancelled() {
            let began = Instant::now();
            let Some(report) = self.step(stop)? else {
                break;
            };
            self.since.take(report, began.elapsed());
            let step = self.session.step_count();
            if let Some(remote) = &self.remote
                && step.is_multiple_of(self.config.weight_sync_steps)
            {
                remote.publisher.publish(self.session.parameters(), step);
            }
            if step.is_multiple_of(self.config.eval_steps) {
                self.evaluate(stop)?;
            }
            if step.is_multiple_of(self.config.save_steps) {
                saved = Some(step);
                if let Err(error) = self.save() {
                    complain!(
                        "checkpoint of step {step}: {error:#}; it is tried again at the next"
                    );
                    saved = None;
                }
            }
        }
        let step = self.session.step_count();
        if self.rows.last().is_none_or(|row| row.learner_steps != step) && !stop.is_cancelled() {
            self.evaluate(stop)?;
        }
        if saved != Some(step) {
            self.save()?;
        }
        let why = match stop.is_cancelled() {
            true => "stopped",
            false => "reached lm.max_steps",
        };
        tell!("{why} after {step} steps; {}", self.run_dir.display());
        Ok(())
    }

    /// The next step, on completions of this process's or of generators'. `None` when it is to stop meanwhile.
    fn step(&mut self, stop: &CancellationToken) -> Result<Option<Report>> {
        let Some(remote) = &mut self.remote else {
            return self.patiently(stop, Session::step);
        };
        let (count, step) = (self.config.prompts_per_step, self.session.step_count());
        let report = match remote.queue.next(count, step) {
            Ok(None) => return Ok(None),
            Ok(Some(groups)) => self.session.learn(&groups).map_err(Into::into),
            Err(error) => Err(error.into()),
        };
        if report.is_err() {
            // What was learnt so far is worth keeping.
            self.save()?;
        }
        report.map(Some)
    }

    /// What the session is asked for; completions that cannot be judged are held back and offered again. `None` when
    /// it is to stop meanwhile.
    fn patiently<T>(
        &mut self,
        stop: &CancellationToken,
        ask: impl Fn(&mut Session) -> Result<T, LanguageError>,
    ) -> Result<Option<T>> {
        let mut wait = FIRST_WAIT;
        for tried in 1.. {
            match ask(&mut self.session) {
                Ok(answer) => return Ok(Some(answer)),
                Err(LanguageError::Reward(error)) if tried < TRIES => {
                    complain!("{error}; its completions are held back for {wait:?}");
                    let until = Instant::now() + wait;
                    while Instant::now() < until {
                        if stop.is_cancelled() {
                            return Ok(None);
                        }
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    wait *= 2;
                }
                Err(error) => {
                    // What was learnt so far is worth keeping.
                    self.save()?;
                    return Err(error.into());
                }
            }
        }
        unreachable!("the last try answers")
    }

    fn evaluate(&mut self, stop: &CancellationToken) -> Result<()> {
        let step = self.session.step_count();
        let evaluation = match self.remote {
            None => self.patiently(stop, Session::evaluate)?,
            // Not patiently: generators may have theirs judged meanwhile.
            Some(_) => match self.session.evaluate() {
                Ok(evaluation) => Some(evaluation),
                Err(LanguageError::Reward(error)) => {
                    complain!("{error}; the evaluation of step {step} is left out");
                    None
                }
                Err(error) => return Err(error.into()),
            },
        };
        let Some(evaluation) = evaluation else {
            return Ok(());
        };
        gauge!(metrics::EVALUATION_REWARD).set(evaluation.reward_mean);
        let since = std::mem::take(&mut self.since);
        let steps = f64::from(since.steps.max(1));
        let completions = self.config.prompts_per_step * self.config.num_generations;
        let row = Row {
            wall_s: self.wall_s(),
            env_steps: step * completions as u64,
            learner_steps: step,
            policy_version: step,
            eval_return_mean: evaluation.reward_mean,
            eval_return_std: evaluation.reward_std,
            train_return_mean: (since.steps > 0).then_some(since.rewards / steps),
            eval_mean_length: evaluation.mean_length,
            eval_clipped_ratio: evaluation.clipped_ratio,
            eval_repeated: evaluation.repeated,
            eval_start_log_probability: evaluation.start_log_probability,
            eval_parses: evaluation.parses,
            kl: f64::from(since.last.statistics.kl),
            entropy: f64::from(since.last.statistics.entropy),
            tokens_per_s: since.tokens as f64 / since.time.as_secs_f64().max(1e-9),
        };
        let parses = row.eval_parses.map(|share| format!(", parses {share:.2}"));
        tell!(
            "step {step}: held-out reward {:.3} (std {:.3}){}, {:.1} tokens, {:.2} nats a token under the first model, \
             KL {:.2}, {:.0} tokens/s",
            row.eval_return_mean,
            row.eval_return_std,
            parses.unwrap_or_default(),
            row.eval_mean_length,
            -row.eval_start_log_probability,
            row.kl,
            row.tokens_per_s,
        );
        self.rows.push(row);
        let path = self.run_dir.join(folder::SAMPLES);
        let samples = folder::write_samples(&path, step, &evaluation.samples);
        let samples = samples.map_err(failure::storage(&path));
        if let Err(error) = samples.and_then(|()| folder::write_rows(self.run_dir, &self.rows)) {
            // A report does not stop what it reports on.
            complain!("{error:#}");
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        let words = Before {
            wall_s: self.wall_s(),
        };
        folder::save(self.run_dir, &self.session, &serde_json::to_string(&words)?)
    }

    fn wall_s(&self) -> f64 {
        self.before.wall_s + self.began.elapsed().as_secs_f64()
    }
}

impl Since {
    fn take(&mut self, report: Report, time: Duration) {
        if let Some([mean, _]) = report.rewards {
            self.rewards += f64::from(mean);
            self.steps += 1;
        }
        self.tokens += report.tokens;
        self.time += time;
        show(&report);
        self.last = report;
    }
}

/// A step's metrics.
fn show(report: &Report) {
    gauge!(metrics::STEPS).set(report.step as f64);
    if let Some([mean, std]) = report.rewards {
        gauge!(metrics::REWARD).set(mean);
        gauge!(metrics::REWARD_STD).set(std);
        gauge!(metrics::LENGTH).set(report.mean_length);
        gauge!(metrics::CLIPPED_RATIO).set(report.clipped_ratio);
        counter!(metrics::TOKENS).increment(report.tokens as u64);
    }
    gauge!(metrics::KL).set(report.statistics.kl);
    gauge!(metrics::ENTROPY).set(report.statistics.entropy);
}
