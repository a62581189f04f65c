//! What a language model's run keeps in its folder, and where models are found.
//!
//! Besides `config.toml`: `progress.csv` with a row for each evaluation, `samples.jsonl` with what was completed in it,
//! and `checkpoints/NNNNNNNN.safetensors`, of which each is whole.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use pmpo_language::{Checkpoint, LanguageError, Sample, Session};
use pmpo_service::files::write_atomically;
use serde::{Deserialize, Serialize};

use crate::failure::{self, Usage};
use crate::output::complain;
use crate::run_folder::CONFIG;

/// Where `make smollm2` puts it.
const SMOLLM2: &str = "third_party/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const CHECKPOINTS: &str = "checkpoints";
const ENDING: &str = "safetensors";
/// Checkpoints that stay.
const KEPT: usize = 2;
pub(super) const PROGRESS: &str = "progress.csv";
pub(super) const SAMPLES: &str = "samples.jsonl";

/// A row of `progress.csv`. The first seven columns are those of other runs, so that the same commands read them: an
/// environment step is a completion here, a return a reward.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) wall_s: f64,
    pub(super) env_steps: u64,
    pub(super) learner_steps: u64,
    pub(super) policy_version: u64,
    pub(super) eval_return_mean: f64,
    pub(super) eval_return_std: f64,
    pub(super) train_return_mean: Option<f64>,
    /// Of the held-out completions.
    pub(super) eval_mean_length: f64,
    pub(super) eval_clipped_ratio: f64,
    pub(super) eval_repeated: f64,
    /// Mean `ln p` of their tokens under the model that the run began with.
    pub(super) eval_start_log_probability: f64,
    pub(super) eval_parses: Option<f64>,
    /// `KL(reference || policy)` a completion, summed over its tokens, in the step before.
    pub(super) kl: f64,
    /// Nats a token, in the step before.
    pub(super) entropy: f64,
    /// Drawn since the row before, over the time that all took.
    pub(super) tokens_per_s: f64,
}

/// The rows so far; those after `step` are dropped, for a run that goes on from there. A file that is damaged is set
/// aside, with what can be read of it kept.
pub(super) fn rows(run_dir: &Path, step: u64) -> Vec<Row> {
    let path = run_dir.join(PROGRESS);
    let Ok(bytes) = fs::read(&path) else {
        return Vec::new();
    };
    let mut reader = csv::Reader::from_reader(&bytes[..]);
    let mut rows = Vec::new();
    for row in reader.deserialize::<Row>() {
        match row {
            Ok(row) => rows.push(row),
            Err(error) => {
                let aside = path.with_extension("csv.damaged");
                let kept = fs::write(&aside, &bytes).map_or(error.to_string(), |()| {
                    format!("{error}; as it was: {}", aside.display())
                });
                complain!("{}: {kept}", path.display());
                break;
            }
        }
    }
    rows.retain(|row| row.learner_steps <= step);
    rows
}

/// Drops the samples after `step`, which a run that goes on from there takes again.
pub(super) fn forget_after(run_dir: &Path, step: u64) {
    let path = run_dir.join(SAMPLES);
    let Ok(text) = fs::read_to_string(&path) else {
        return;
    };
    let until = |line: &&str| {
        let sample: Option<serde_json::Value> = serde_json::from_str(line).ok();
        sample.is_some_and(|sample| sample["step"].as_u64().is_some_and(|at| at <= step))
    };
    let kept: String = text
        .lines()
        .filter(until)
        .map(|line| format!("{line}\n"))
        .collect();
    if kept != text
        && let Err(error) = write_atomically(&path, kept.as_bytes())
    {
        complain!("{}: {error}", path.display());
    }
}

/// Writes all rows.
pub(super) fn write_rows(run_dir: &Path, rows: &[Row]) -> Result<()> {
    let path = run_dir.join(PROGRESS);
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row)?;
    }
    let bytes = writer.into_inner()?;
    write_atomically(&path, &bytes).map_err(failure::storage(&path))
}

/// Appends an evaluation's completions.
pub(super) fn write_samples(path: &Path, step: u64, samples: &[Sample]) -> io::Result<()> {
    let mut lines = Vec::new();
    for sample in samples {
        let line = serde_json::json!({
            "step": step,
            "prompt": sample.prompt,
            "completion": sample.completion,
            "reward": sample.reward,
            "finished": sample.finished,
        });
        writeln!(lines, "{line}")?;
    }
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    file.write_all(&lines)
}

/// A run's checkpoints, the oldest first.
pub(super) fn checkpoints(run_dir: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(run_dir.join(CHECKPOINTS)) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == ENDING))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.parse().ok()?, path)))
        .collect();
    found.sort();
    found
}

/// Writes the session's state; the oldest ones go.
pub(super) fn save(run_dir: &Path, session: &Session, words: &str) -> Result<()> {
    let folder = run_dir.join(CHECKPOINTS);
    fs::create_dir_all(&folder).map_err(failure::storage(&folder))?;
    let path = folder.join(format!("{:08}.{ENDING}", session.step_count()));
    let temporary = path.with_extension("new");
    session.save(&temporary, words)?;
    let finish = || {
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, &path)?;
        pmpo_service::files::sync_folder(&folder)
    };
    finish().map_err(failure::storage(&path))?;
    let all = checkpoints(run_dir);
    for (_, path) in &all[..all.len().saturating_sub(KEPT)] {
        fs::remove_file(path).map_err(failure::storage(path))?;
    }
    Ok(())
}

/// Reads a model: a run's newest, a folder's, a GGUF file's, or the one that is called `smollm2`.
pub(super) fn open_model(text: &str) -> Result<Checkpoint> {
    let path = match text {
        "smollm2" => PathBuf::from(SMOLLM2),
        path => PathBuf::from(path),
    };
    if !path.exists() {
        let hint = match text {
            "smollm2" => "; fetch it with `make smollm2`",
            _ => "",
        };
        let error = anyhow!("{}: no such model{hint}", path.display());
        return Err(Usage::new(error).into());
    }
    if !path.join(CONFIG).exists() {
        return Checkpoint::open(&path).map_err(as_usage);
    }
    let config = super::settings::settings(Some(&path.join(CONFIG)), &[])?;
    let start = open_model(&config.run.model)?;
    let Some((_, newest)) = checkpoints(&path).pop() else {
        let error = anyhow!("{}: the run has no checkpoint", path.display());
        return Err(Usage::new(error).into());
    };
    start.with_state(&newest).map_err(as_usage)
}

/// Most of what a model's files can be is the caller's mistake.
pub(super) fn as_usage(error: LanguageError) -> anyhow::Error {
    match error {
        LanguageError::NotFinite { .. } | LanguageError::Reward(_) => error.into(),
        error => Usage::new(error).into(),
    }
}
