//! The record of a run that goes on: at a period that grows with it, what its processes say of themselves
//! (`/metrics`), and each evaluation of `progress.csv`, as scalars in TensorBoard's event files, against
//! environment steps. What `pmpo watch` shows beside the curve is read from there.
//!
//! A report never stops what it reports on: what cannot be read is left out, what cannot be written is said
//! once.

pub(crate) mod events;
mod exposition;
mod shares;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use pmpo_learner::{metrics as learner, progress};
use pmpo_replay::metrics as replay;
use pmpo_service::announce::Announcement;
use pmpo_service::telemetry::PrometheusHandle;

use crate::http;
use crate::output::complain;
use events::EventWriter;
use exposition::Exposition;
use shares::{Shares, Station};

/// Time between samples of a run that began just now.
const FIRST_PERIOD: Duration = Duration::from_secs(1);
/// A sample for each such part of a run's time: a long run has thousands, not millions.
const PARTS: u32 = 200;
const LAST_PERIOD: Duration = Duration::from_secs(60);

/// What one process may take to answer, and how much it may say.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Most event files' bytes that are looked through for what was recorded before.
const MAX_EVENT_BYTES: u64 = 64 << 20;

/// The tag of an evaluation's mean return.
const EVALUATION: &str = "evaluation/return_mean";

/// Scalars that are a metric's sum over the processes: tag and metric.
const PLAIN: [(&str, &str); 8] = [
    ("steps/learner", learner::STEPS),
    ("policy/version", learner::POLICY_VERSION),
    ("policy/lag_mean_versions", learner::STALENESS),
    ("policy/lag_max_versions", learner::MAX_STALENESS),
    ("train/return_mean", learner::TRAIN_RETURN),
    ("replay/items", learner::REPLAY_ITEMS),
    ("replay/bytes", replay::TABLE_BYTES),
    ("replay/queued_commands", replay::QUEUED_COMMANDS),
];

/// Where samples come from.
pub(crate) enum Source {
    /// The processes that announce themselves in the run's folder.
    Roles,
    /// This process, a learner by itself.
    Learner(PrometheusHandle),
    /// This process, a run in lockstep.
    Lockstep(PrometheusHandle),
}

impl Source {
    /// Whose time is accounted for.
    fn stations(&self) -> &'static [Station] {
        match self {
            Self::Roles => &[shares::LEARNER, shares::ACTOR, shares::REPLAY],
            Self::Learner(_) => &[shares::LEARNER],
            Self::Lockstep(_) => &[shares::LOCKSTEP],
        }
    }
}

/// Writes the record of one run.
pub(crate) struct Recorder {
    run_dir: PathBuf,
    source: Source,
    /// `None` until the first sample, and without a record.
    writer: Option<EventWriter>,
    began: Instant,
    began_at: SystemTime,
    /// Environment and learner steps, when they were seen.
    last: Option<(Instant, f64, f64)>,
    shares: Shares,
    /// Learner steps of the newest evaluation recorded.
    evaluated: Option<u64>,
    complained: bool,
}

impl Recorder {
    pub(crate) fn new(run_dir: &Path, source: Source) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            source,
            writer: None,
            began: Instant::now(),
            began_at: SystemTime::now(),
            last: None,
            shares: Shares::default(),
            evaluated: None,
            complained: false,
        }
    }

    /// Time until the next sample.
    pub(crate) fn period(&self) -> Duration {
        (self.began.elapsed() / PARTS).clamp(FIRST_PERIOD, LAST_PERIOD)
    }

    /// Takes a sample, and what was evaluated since the last.
    pub(crate) async fn sample(&mut self) {
        let answers = self.answers().await;
        let said = |metric| {
            let values = answers.iter().filter_map(|answer| answer.sum(metric));
            values.reduce(|a, b| a + b)
        };
        let steps = said(learner::ENVIRONMENT_STEPS).zip(said(learner::STEPS));
        // Until the learner knows where it begins, nothing has a place.
        let Some((environment_steps, learner_steps)) = steps else {
            return;
        };
        let mut scalars = self.rates(environment_steps, learner_steps);
        for (tag, metric) in PLAIN {
            scalars.extend(said(metric).map(|value| (tag.to_owned(), value)));
        }
        let (samples, inserts) = (said(replay::SAMPLES), said(replay::INSERTS));
        if let Some((samples, inserts)) = samples.zip(inserts.filter(|&inserts| inserts > 0.0)) {
            scalars.push(("replay/samples_per_insert".to_owned(), samples / inserts));
        }
        let statistics = |answer| Exposition::by_label(answer, learner::STATISTIC, "name");
        for (name, value) in answers.iter().flat_map(statistics) {
            scalars.push((format!("update/{name}"), value));
        }
        scalars.extend(self.shares.take(self.source.stations(), &answers));
        let step = environment_steps as u64;
        let written = self.write(step, &scalars);
        self.complain_once(written);
    }

    /// Takes a last sample of what still answers, and the last evaluations.
    pub(crate) async fn finish(&mut self) {
        self.sample().await;
        let written = self.record_evaluations();
        self.complain_once(written);
    }

    fn write(&mut self, step: u64, scalars: &[(String, f64)]) -> std::io::Result<()> {
        if self.writer.is_none() {
            self.evaluated = self.recorded_before(step)?;
            self.writer = Some(EventWriter::create(&self.run_dir, step)?);
        }
        self.record_evaluations()?;
        match &mut self.writer {
            Some(writer) => writer.write(step, scalars),
            None => Ok(()),
        }
    }

    /// Learner steps of the newest evaluation that was recorded of a run which goes on at `step`.
    fn recorded_before(&self, step: u64) -> std::io::Result<Option<u64>> {
        let series = events::read(&self.run_dir, MAX_EVENT_BYTES)?;
        let points = series.get(EVALUATION).into_iter().flatten();
        let recorded = points.map(|point| point.step).filter(|&at| at < step).max();
        let rows = progress::read(&self.run_dir).unwrap_or_default();
        let known = rows
            .into_iter()
            .filter(|row| Some(row.env_steps) <= recorded);
        Ok(known.map(|row| row.learner_steps).max())
    }

    fn record_evaluations(&mut self) -> std::io::Result<()> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        // Not there yet, or being damaged: the learner's business.
        let rows = progress::read(&self.run_dir).unwrap_or_default();
        for row in rows {
            // Environment steps may be those of the row before.
            if Some(row.learner_steps) <= self.evaluated {
                continue;
            }
            let scalars = [
                (EVALUATION, row.eval_return_mean),
                ("evaluation/return_std", row.eval_return_std),
            ];
            let scalars = scalars.map(|(tag, value)| (tag.to_owned(), value));
            writer.write(row.env_steps, &scalars)?;
            self.evaluated = Some(row.learner_steps);
        }
        Ok(())
    }

    /// Steps a second since the last sample.
    fn rates(&mut self, environment_steps: f64, learner_steps: f64) -> Vec<(String, f64)> {
        let now = Instant::now();
        let before = self.last.replace((now, environment_steps, learner_steps));
        let Some((then, environment_before, learner_before)) = before else {
            return Vec::new();
        };
        let seconds = (now - then).as_secs_f64();
        let rate = |now: f64, before: f64| (now - before).max(0.0) / seconds;
        vec![
            (
                "rate/environment_steps_per_s".to_owned(),
                rate(environment_steps, environment_before),
            ),
            (
                "rate/learner_steps_per_s".to_owned(),
                rate(learner_steps, learner_before),
            ),
        ]
    }

    async fn answers(&self) -> Vec<Exposition> {
        match &self.source {
            Source::Learner(handle) | Source::Lockstep(handle) => {
                vec![Exposition(handle.render())]
            }
            Source::Roles => {
                let mut answers = Vec::new();
                for address in self.announced() {
                    let asked = http::get(&address, "/metrics", MAX_ANSWER_BYTES);
                    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
                        Ok(Ok(answer)) => answers.push(Exposition(answer.body)),
                        // It is starting, restarting or gone.
                        Ok(Err(error)) => tracing::debug!(%error, address, "no metrics"),
                        Err(_) => tracing::debug!(address, "no metrics in time"),
                    }
                }
                answers
            }
        }
    }

    /// Where the run's processes serve their metrics; those of its former life left files too.
    fn announced(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.run_dir.join("roles")) else {
            return Vec::new();
        };
        let mut addresses = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let own = name.to_string_lossy();
            if !own.ends_with(".json") || own.ends_with(".targets.json") {
                continue;
            }
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            // File systems keep coarser time than clocks.
            let slack = Duration::from_secs(2);
            if written.is_ok_and(|written| written + slack < self.began_at) {
                continue;
            }
            let announcement = Announcement::read(&path).ok().flatten();
            let metrics = announcement.and_then(|announcement| announcement.metrics);
            addresses.extend(metrics.map(|address| address.to_string()));
        }
        addresses
    }

    fn complain_once(&mut self, written: std::io::Result<()>) {
        match written {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                let folder = self.run_dir.join(events::FOLDER);
                let folder = folder.display();
                match self.source {
                    Source::Learner(_) => tracing::warn!(%error, %folder, "no event file"),
                    // These have no log.
                    _ => complain!("no event file: {folder}: {error}"),
                }
            }
            Err(_) => {}
        }
    }
}
