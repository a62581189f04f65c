//! Checkpoints: `checkpoints/step-000012345/` in the run's folder, complete or absent.
//!
//! - `policy.safetensors`: a snapshot of the policy as actors get it;
//! - `state.safetensors`: networks, targets and optimisers, see `state_file.rs`;
//! - `meta.json`: everything else, and the SHA-256 of the two files.
//!
//! A checkpoint is written to a hidden folder beside its place, synced, then renamed. One whose
//! digests do not match is reported by name and passed over.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ::metrics::gauge;
use bytes::Bytes;
use pmpo_policy::NetworkConfig;
use pmpo_service::files::write_atomically;
use pmpo_service::metrics;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::board::{EnvironmentSteps, Totals};
use crate::state_file::{self, Scalars};
use crate::{LearnerConfig, LearnerError, LearnerOptions, TrainState};

const FOLDER: &str = "checkpoints";
const POLICY: &str = "policy.safetensors";
const STATE: &str = "state.safetensors";
const META: &str = "meta.json";
const PREFIX: &str = "step-";
const TEMPORARY: &str = ".writing-";
const FORMAT: u32 = 2;

/// The newest complete checkpoint in a run's folder.
///
/// # Errors
/// There is none; the error names those that are damaged.
pub fn newest(run_dir: &Path) -> Result<PathBuf, LearnerError> {
    Ok(find_newest(&run_dir.join(FOLDER))?.path)
}

/// Whether a run's folder holds a checkpoint, damaged ones included.
pub fn any(run_dir: &Path) -> bool {
    list(&run_dir.join(FOLDER)).is_ok_and(|found| !found.is_empty())
}

/// What is neither the policy nor a tensor of the update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Meta {
    format: u32,
    run_id: String,
    task: String,
    seed: u64,
    spec_digest: String,
    network: NetworkConfig,
    learner: LearnerConfig,
    scalars: Scalars,
    policy_version: u64,
    env_steps: u64,
    table_inserts: Vec<u64>,
    training_seconds: f64,
    policy_sha256: String,
    state_sha256: String,
}

impl Meta {
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            learner_steps: self.scalars.learner_steps,
            policy_version: self.policy_version,
            environment: EnvironmentSteps {
                total: self.env_steps,
                table_inserts: self.table_inserts.clone(),
            },
            training_seconds: self.training_seconds,
        }
    }

    /// Refuses to go on with another environment or network.
    fn check(&self, options: &LearnerOptions, path: &Path) -> Result<(), LearnerError> {
        let network = |network: &NetworkConfig| format!("{network:?}");
        let fields = [
            ("task", self.task.clone(), options.task.clone()),
            (
                "spec_digest",
                self.spec_digest.clone(),
                hex(&options.spec.digest().0),
            ),
            ("policy", network(&self.network), network(&options.policy)),
        ];
        for (field, found, expected) in fields {
            if found != expected {
                let path = path.to_owned();
                return Err(LearnerError::OtherRun {
                    path,
                    field,
                    found,
                    expected,
                });
            }
        }
        if self.learner != options.learner || self.seed != options.seed {
            tracing::warn!(checkpoint = %path.display(), "resuming with other learner settings");
        }
        Ok(())
    }
}

/// A complete checkpoint, read.
struct Found {
    path: PathBuf,
    meta: Meta,
    state: Vec<u8>,
}

/// The folder of a run's checkpoints.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    kept: usize,
}

impl Checkpoints {
    /// The folder of a fresh run.
    pub(crate) fn create(options: &LearnerOptions) -> Result<Self, LearnerError> {
        let checkpoints = Self::open(options)?;
        if list(&checkpoints.folder)?.is_empty() {
            Ok(checkpoints)
        } else {
            Err(LearnerError::NotFresh(options.run_dir.clone()))
        }
    }

    /// The folder, whatever it holds; leftovers of a crash are removed.
    fn open(options: &LearnerOptions) -> Result<Self, LearnerError> {
        let folder = options.run_dir.join(FOLDER);
        fs::create_dir_all(&folder).map_err(LearnerError::file(&folder))?;
        for name in names(&folder)? {
            if name.starts_with(TEMPORARY) {
                let path = folder.join(name);
                fs::remove_dir_all(&path).map_err(LearnerError::file(&path))?;
            }
        }
        Ok(Self {
            folder,
            kept: options.learner.checkpoints_kept,
        })
    }

    /// Goes on from the newest complete checkpoint, in place of the fresh `state`.
    pub(crate) fn resume(
        options: &LearnerOptions,
        state: TrainState,
    ) -> Result<(Self, TrainState, Totals), LearnerError> {
        let checkpoints = Self::open(options)?;
        let Found {
            path,
            meta,
            state: file,
        } = find_newest(&checkpoints.folder)?;
        meta.check(options, &path)?;
        let totals = meta.totals();
        let state = state_file::restore(state, &file, meta.scalars)
            .map_err(|reason| LearnerError::format(&path.join(STATE), reason))?;
        tracing::info!(
            checkpoint = %path.display(),
            learner_steps = totals.learner_steps,
            policy_version = totals.policy_version,
            "resuming"
        );
        Ok((checkpoints, state, totals))
    }

    /// Writes a checkpoint, unless there is one of this step, and removes the oldest ones. Answers whether it
    /// was written.
    pub(crate) fn save(
        &self,
        options: &LearnerOptions,
        state: &TrainState,
        policy: &Bytes,
        totals: &Totals,
    ) -> Result<bool, LearnerError> {
        let name = format!("{PREFIX}{:09}", state.step());
        let path = self.folder.join(&name);
        if let Ok(found) = fs::metadata(&path) {
            let complete = found.modified().map_or(0.0, metrics::seconds_of);
            gauge!(crate::metrics::LAST_CHECKPOINT).set(complete);
            return Ok(false);
        }
        let file = state_file::encode(state);
        let meta = Meta {
            format: FORMAT,
            run_id: options.run_id.clone(),
            task: options.task.clone(),
            seed: options.seed,
            spec_digest: hex(&options.spec.digest().0),
            network: options.policy.clone(),
            learner: options.learner.clone(),
            scalars: Scalars::of(state),
            policy_version: totals.policy_version,
            env_steps: totals.environment.total,
            table_inserts: totals.environment.table_inserts.clone(),
            training_seconds: totals.training_seconds,
            policy_sha256: sha256(policy),
            state_sha256: sha256(&file),
        };
        let meta = serde_json::to_vec_pretty(&meta)
            .map_err(|error| LearnerError::format(&path.join(META), error))?;
        let temporary = self.folder.join(format!("{TEMPORARY}{name}"));
        fs::create_dir(&temporary).map_err(LearnerError::file(&temporary))?;
        for (name, bytes) in [(POLICY, &policy[..]), (STATE, &file), (META, &meta)] {
            let path = temporary.join(name);
            write_atomically(&path, bytes).map_err(LearnerError::file(&path))?;
        }
        fs::rename(&temporary, &path).map_err(LearnerError::file(&path))?;
        sync(&self.folder).map_err(LearnerError::file(&self.folder))?;
        let bytes = policy.len() + file.len() + meta.len();
        gauge!(crate::metrics::CHECKPOINT_BYTES).set(bytes as f64);
        gauge!(crate::metrics::LAST_CHECKPOINT).set(metrics::unix_seconds());
        self.prune()?;
        Ok(true)
    }

    fn prune(&self) -> Result<(), LearnerError> {
        for (_, path) in list(&self.folder)?.into_iter().skip(self.kept) {
            fs::remove_dir_all(&path).map_err(LearnerError::file(&path))?;
        }
        Ok(())
    }
}

/// A digest as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Checkpoints by name, the newest first.
fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, LearnerError> {
    let steps = names(folder)?.into_iter().filter_map(|name| {
        let step = name.strip_prefix(PREFIX)?.parse().ok()?;
        Some((step, folder.join(name)))
    });
    let mut found: Vec<(u64, PathBuf)> = steps.collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found)
}

fn names(folder: &Path) -> Result<Vec<String>, LearnerError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LearnerError::file(folder)(error)),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(LearnerError::file(folder))
}

fn find_newest(folder: &Path) -> Result<Found, LearnerError> {
    let mut damaged = Vec::new();
    for (_, path) in list(folder)? {
        match read(path) {
            Ok(found) => return Ok(found),
            Err(error) => {
                tracing::warn!(%error, "damaged checkpoint; trying the one before");
                damaged.push(error.to_string());
            }
        }
    }
    Err(LearnerError::NoCheckpoint {
        folder: folder.to_owned(),
        damaged,
    })
}

fn read(path: PathBuf) -> Result<Found, LearnerError> {
    let file = |name: &str| {
        let path = path.join(name);
        fs::read(&path).map_err(LearnerError::file(&path))
    };
    let meta: Meta = serde_json::from_slice(&file(META)?)
        .map_err(|error| LearnerError::format(&path.join(META), error))?;
    if meta.format != FORMAT {
        let reason = format!("format {}, expected {FORMAT}", meta.format);
        return Err(LearnerError::format(&path.join(META), reason));
    }
    let (policy, state) = (file(POLICY)?, file(STATE)?);
    for (name, bytes, expected) in [
        (POLICY, &policy, &meta.policy_sha256),
        (STATE, &state, &meta.state_sha256),
    ] {
        if sha256(bytes) != *expected {
            return Err(LearnerError::format(
                &path.join(name),
                "its digest does not match",
            ));
        }
    }
    Ok(Found { path, meta, state })
}

#[cfg(test)]
mod tests;
