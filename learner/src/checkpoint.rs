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

use bytes::Bytes;
use pmpo_policy::NetworkConfig;
use pmpo_service::files::write_atomically;
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
const FORMAT: u32 = 1;

/// The newest complete checkpoint in a run's folder.
///
/// # Errors
/// There is none; the error names those that are damaged.
pub fn newest(run_dir: &Path) -> Result<PathBuf, LearnerError> {
    Ok(find_newest(&run_dir.join(FOLDER))?.path)
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
    table_inserts: u64,
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
                table_inserts: self.table_inserts,
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

    /// Writes a checkpoint, unless there is one of this step, and removes the oldest ones.
    pub(crate) fn save(
        &self,
        options: &LearnerOptions,
        state: &TrainState,
        policy: &Bytes,
        totals: &Totals,
    ) -> Result<(), LearnerError> {
        let name = format!("{PREFIX}{:09}", state.step());
        let path = self.folder.join(&name);
        if path.exists() {
            return Ok(());
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
            table_inserts: totals.environment.table_inserts,
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
        self.prune()
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
mod tests {
    use burn::tensor::Device;
    use pmpo_policy::snapshot;
    use pmpo_types::{ActionSpec, EnvironmentSpec, ObservationField};

    use super::*;
    use crate::bench::random_batch;
    use crate::parameters::named_tensors;
    use crate::{Batch, DeviceChoice, Limits};

    fn options(run_dir: &Path) -> LearnerOptions {
        let spec = EnvironmentSpec {
            task: "test-task".to_owned(),
            observation: vec![ObservationField {
                name: "x".to_owned(),
                size: 3,
            }],
            action: ActionSpec {
                minimum: vec![-1.0; 2],
                maximum: vec![1.0; 2],
            },
            control_timestep: 0.01,
            step_limit: None,
        };
        LearnerOptions {
            run_id: "test".to_owned(),
            task: spec.task.clone(),
            seed: 4,
            spec,
            policy: NetworkConfig {
                hidden_sizes: vec![8, 8],
                ..NetworkConfig::default()
            },
            learner: LearnerConfig {
                target_period_steps: 7,
                ..LearnerConfig::default()
            },
            limits: Limits::default(),
            replay_address: "127.0.0.1:1".to_owned(),
            run_dir: run_dir.to_owned(),
            resume: false,
            device: DeviceChoice::Cpu,
        }
    }

    fn fresh(options: &LearnerOptions, seed: u64) -> TrainState {
        TrainState::new(&options.policy, 3, 2, seed, &Device::flex())
    }

    fn save(checkpoints: &Checkpoints, options: &LearnerOptions, state: &TrainState) {
        let policy = snapshot::encode(&options.policy, 3, 2, &state.policy_tensors()).unwrap();
        let totals = Totals {
            learner_steps: state.step(),
            policy_version: state.step() / 10,
            environment: EnvironmentSteps {
                total: 1234,
                table_inserts: 234,
            },
            training_seconds: 5.5,
        };
        checkpoints.save(options, state, &policy, &totals).unwrap();
    }

    fn advance(state: &mut TrainState, options: &LearnerOptions, steps: usize) {
        let batch = Batch::new(&random_batch(3, 2, 16), &Device::flex());
        for _ in 0..steps {
            state.update(&options.learner, &batch);
        }
    }

    #[test]
    fn a_resumed_run_goes_on_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let checkpoints = Checkpoints::create(&options).unwrap();
        let mut state = fresh(&options, 1);
        advance(&mut state, &options, 25);
        save(&checkpoints, &options, &state);

        // The state it replaces has other weights and another generator.
        let (_, mut resumed, totals) = Checkpoints::resume(&options, fresh(&options, 2)).unwrap();
        assert_eq!((totals.learner_steps, totals.policy_version), (25, 2));
        assert_eq!(
            totals.environment,
            EnvironmentSteps {
                total: 1234,
                table_inserts: 234
            }
        );
        assert_eq!(totals.training_seconds, 5.5);
        for state in [&mut state, &mut resumed] {
            advance(state, &options, 20);
        }
        assert_eq!(resumed.step(), 45);
        let weights = |state: &TrainState| {
            [&state.online, &state.target].map(|networks| {
                (
                    named_tensors(&networks.policy),
                    named_tensors(&networks.critic),
                )
            })
        };
        assert_eq!(weights(&resumed), weights(&state));
        assert_eq!(state_file::encode(&resumed), state_file::encode(&state));
        assert_eq!(Scalars::of(&resumed), Scalars::of(&state));
    }

    #[test]
    fn the_policy_of_a_checkpoint_acts_without_the_tensor_library() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        save(
            &Checkpoints::create(&options).unwrap(),
            &options,
            &fresh(&options, 1),
        );
        let path = newest(folder.path()).unwrap();
        assert!(
            path.ends_with("checkpoints/step-000000000"),
            "{}",
            path.display()
        );
        let snapshot = fs::read(path.join(POLICY)).unwrap();
        pmpo_policy::PolicyNetwork::from_snapshot(&snapshot).unwrap();
    }

    #[test]
    fn damaged_checkpoints_are_passed_over_and_named_when_none_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let checkpoints = Checkpoints::create(&options).unwrap();
        let mut state = fresh(&options, 1);
        for _ in 0..3 {
            advance(&mut state, &options, 1);
            save(&checkpoints, &options, &state);
        }
        let step = |step: u64| folder.path().join(FOLDER).join(format!("step-{step:09}"));
        let mut bytes = fs::read(step(3).join(STATE)).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(step(3).join(STATE), bytes).unwrap();
        fs::remove_file(step(2).join(META)).unwrap();
        assert_eq!(newest(folder.path()).unwrap(), step(1));

        fs::write(step(1).join(META), "{}").unwrap();
        let message = newest(folder.path()).unwrap_err().to_string();
        for name in ["step-000000001", "step-000000002", "step-000000003"] {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn only_the_newest_are_kept_and_leftovers_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let checkpoints = Checkpoints::create(&options).unwrap();
        let mut state = fresh(&options, 1);
        for _ in 0..5 {
            save(&checkpoints, &options, &state);
            advance(&mut state, &options, 1);
        }
        fs::create_dir(checkpoints.folder.join(".writing-step-000000005")).unwrap();
        Checkpoints::resume(&options, fresh(&options, 1)).unwrap();
        let mut left = names(&checkpoints.folder).unwrap();
        left.sort();
        assert_eq!(left, ["step-000000002", "step-000000003", "step-000000004"]);
    }

    #[test]
    fn runs_are_not_mixed() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        let resume = |options: &LearnerOptions| {
            Checkpoints::resume(options, fresh(options, 1))
                .unwrap_err()
                .to_string()
        };
        let message = resume(&options);
        assert!(message.contains("no usable checkpoint"), "{message}");
        save(
            &Checkpoints::create(&options).unwrap(),
            &options,
            &fresh(&options, 1),
        );
        assert!(matches!(
            Checkpoints::create(&options),
            Err(LearnerError::NotFresh(_))
        ));
        options.policy.hidden_sizes = vec![9];
        let message = resume(&options);
        assert!(
            message.contains("policy is") && message.contains("[8, 8]"),
            "{message}"
        );
        options.task = "other-task".to_owned();
        let message = resume(&options);
        assert!(message.contains("task is test-task"), "{message}");
    }
}
