//! `pmpo lm train`: a run in one process, from its folder to its end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::Args;
use pmpo_language::{LanguageError, LmConfig, Report, Session};
use pmpo_service::config::Layers;
use pmpo_service::files::write_atomically;
use pmpo_service::folder_lock::FolderLock;
use pmpo_service::shutdown;
use pmpo_update::DeviceChoice;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::folder::{self, Row};
use crate::failure::{self, Usage};
use crate::output::{complain, tell};
use crate::run_folder::CONFIG;

/// Times that completions are offered again to a reward that fails.
const TRIES: u32 = 5;
/// Time before the second try; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// What is trained: a folder in Hugging Face's layout, a GGUF file, or `smollm2`.
    #[arg(long)]
    model: Option<String>,
    /// What is completed: `grammar`, `topics`, or a file of JSON lines with `prompt`; default: `topics`, or the data.
    #[arg(long)]
    prompts: Option<String>,
    /// What is learnt from in place of completions of its own: a file of JSON lines with `completion` and `label`, with
    /// `chosen` and `rejected`, or with `completion` alone.
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// What judges: `vader`, or another by `--set lm.reward.kind=...` and its keys.
    #[arg(long)]
    reward: Option<String>,
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A key, as `lm.beta=0.5`; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the run.
    #[arg(long)]
    run_dir: PathBuf,
    /// Seed of the run.
    #[arg(long)]
    seed: Option<u64>,
    /// Steps of the update.
    #[arg(long)]
    max_steps: Option<u64>,
    /// Device: cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long)]
    device: Option<String>,
    /// Go on from the newest checkpoint in the run's folder.
    #[arg(long)]
    resume: bool,
}

/// A run's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    pub(super) run: RunSettings,
    pub(super) lm: LmConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RunSettings {
    /// What is trained.
    pub(super) model: String,
    /// What is completed.
    pub(super) prompts: String,
    /// What is learnt from in place of completions of its own.
    pub(super) data: Option<String>,
    /// Where.
    pub(super) device: String,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            model: "smollm2".to_owned(),
            prompts: "topics".to_owned(),
            data: None,
            device: "cpu".to_owned(),
        }
    }
}

/// Defaults, file, environment and assignments, one over the other.
pub(super) fn settings(file: Option<&Path>, assignments: &[String]) -> Result<Settings> {
    let layers = Layers {
        preset: None,
        file,
        assignments,
        moved: &[],
    };
    let settings: Settings = pmpo_service::config::load(layers).map_err(Usage::new)?;
    let checked = settings.lm.validate();
    checked.map_err(|error| Usage::new(anyhow!("lm.{error}")))?;
    Ok(settings)
}

impl TrainArgs {
    fn settings(&self) -> Result<Settings> {
        let quoted = |text: Option<&String>| text.map(|text| format!("{text:?}"));
        let flags = [
            ("run.model", quoted(self.model.as_ref())),
            (
                "run.prompts",
                quoted(self.prompts.as_ref().or(self.data.as_ref())),
            ),
            ("run.data", quoted(self.data.as_ref())),
            ("run.device", quoted(self.device.as_ref())),
            ("lm.reward.kind", quoted(self.reward.as_ref())),
            ("lm.seed", self.seed.map(|seed| seed.to_string())),
            (
                "lm.max_steps",
                self.max_steps.map(|steps| steps.to_string()),
            ),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        let assignments: Vec<String> = self.set.iter().cloned().chain(flags).collect();
        let stored = self.run_dir.join(CONFIG);
        let file = match (&self.config, self.resume) {
            (None, true) => Some(stored.as_path()),
            (file, _) => file.as_deref(),
        };
        settings(file, &assignments)
    }
}

/// Trains a model by preferences between its completions.
pub(super) fn train(args: TrainArgs) -> Result<()> {
    let run_dir = &args.run_dir;
    let begun = !folder::checkpoints(run_dir).is_empty() || run_dir.join(CONFIG).exists();
    if begun != args.resume {
        let why = match begun {
            true => "holds a run already; go on with --resume or choose another folder",
            false => "holds no run; expected one that --resume goes on with",
        };
        let error = anyhow!("--run-dir {}: {why}", run_dir.display());
        return Err(Usage::new(error).into());
    }
    let mut settings = args.settings()?;
    let device = settings.run.device.parse::<DeviceChoice>();
    let device = device.map_err(Usage::new)?.open()?;
    settings.run.absolute()?;
    let model = folder::open_model(&settings.run.model)?;
    let prompts = super::prompts(&settings.run.prompts);
    let data = settings.run.data.as_deref().map(Path::new);
    let session = Session::new(settings.lm.clone(), model, &prompts, data, &device);
    let mut session = session.map_err(folder::as_usage)?;
    std::fs::create_dir_all(run_dir).map_err(failure::storage(run_dir))?;
    // Before the state is read, so that nobody else goes on from it.
    let _ours = FolderLock::take(run_dir, "pmpo lm train")?;
    let mut before = Before::default();
    if args.resume {
        settings.agree_with(run_dir)?;
        if let Some((_, newest)) = folder::checkpoints(run_dir).pop() {
            let words = session.restore(&newest).map_err(folder::as_usage)?;
            before = serde_json::from_str(&words).unwrap_or_default();
        }
        folder::forget_after(run_dir, session.step_count());
    }
    let path = run_dir.join(CONFIG);
    let text = toml::to_string(&settings)?;
    write_atomically(&path, text.as_bytes()).map_err(failure::storage(&path))?;
    // For the signals alone.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let stop = runtime.block_on(async { shutdown::on_signals() })?;
    let step = session.step_count();
    tell!("training {} in {}", settings.run.model, run_dir.display());
    let run = Run {
        rows: folder::rows(run_dir, step),
        run_dir,
        config: settings.lm,
        session,
        began: Instant::now(),
        before,
        since: Since::default(),
    };
    run.go(&stop)
}

impl RunSettings {
    /// The same files from wherever the run goes on.
    fn absolute(&mut self) -> Result<()> {
        let data = self.data.as_mut().map(|data| (data, &[][..]));
        let others = [
            (&mut self.model, &["smollm2"][..]),
            (&mut self.prompts, &["grammar", "topics"]),
        ];
        for (text, names) in others.into_iter().chain(data) {
            if !names.contains(&text.as_str()) {
                let path = Path::new(text.as_str()).canonicalize();
                let path = path.map_err(|error| Usage::new(anyhow!("{text}: {error}")))?;
                let path = path.into_os_string().into_string();
                *text = path.map_err(|path| Usage::new(anyhow!("{path:?}: expected UTF-8")))?;
            }
        }
        Ok(())
    }
}

impl Settings {
    /// Refuses to go on with another model, prompts, or what the state depends on.
    fn agree_with(&self, run_dir: &Path) -> Result<()> {
        let stored = settings(Some(&run_dir.join(CONFIG)), &[])?;
        for (key, now, before) in [
            ("run.model", Some(&self.run.model), Some(&stored.run.model)),
            (
                "run.prompts",
                Some(&self.run.prompts),
                Some(&stored.run.prompts),
            ),
            ("run.data", self.run.data.as_ref(), stored.run.data.as_ref()),
        ] {
            if now != before {
                let [now, before] = [now, before].map(|text| text.map_or("none", String::as_str));
                let error = anyhow!("{key}: the run has {before}; it cannot go on with {now}");
                return Err(Usage::new(error).into());
            }
        }
        let (now, before) = (&self.lm, &stored.lm);
        if (now.seed, now.train_last_layers) != (before.seed, before.train_last_layers) {
            let error = anyhow!(
                "lm.seed and lm.train_last_layers: the run has {} and {}; it cannot go on with {} and {}",
                before.seed,
                before.train_last_layers,
                now.seed,
                now.train_last_layers
            );
            return Err(Usage::new(error).into());
        }
        Ok(())
    }
}

/// What was spent by earlier parts of a run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Before {
    wall_s: f64,
}

/// Seen since the last evaluation.
#[derive(Default)]
struct Since {
    rewards: f64,
    steps: u32,
    tokens: usize,
    time: Duration,
    last: Report,
}

/// A run under way.
struct Run<'a> {
    run_dir: &'a Path,
    config: LmConfig,
    session: Session,
    rows: Vec<Row>,
    began: Instant,
    before: Before,
    since: Since,
}

impl Run<'_> {
    fn go(mut self, stop: &CancellationToken) -> Result<()> {
        if self.rows.is_empty() {
            self.evaluate(stop)?;
        }
        let mut saved = None;
        while self.session.step_count() < self.config.max_steps && !stop.is_cancelled() {
            let began = Instant::now();
            let Some(report) = self.patiently(stop, Session::step)? else {
                break;
            };
            self.since.take(report, began.elapsed());
            let step = self.session.step_count();
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
        let Some(evaluation) = self.patiently(stop, Session::evaluate)? else {
            return Ok(());
        };
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
        self.last = report;
    }
}
