//! Checkpoints: `checkpoints/step-000012345/` in the run's folder, complete or absent.
//!
//! - `policy.safetensors`: a snapshot of the policy as actors get it;
//! - `state.safetensors`: networks, targets and optimisers, as the update writes them;
//! - `meta.json`: everything else, and the SHA-256 of the two files.
//!
//! A checkpoint describes itself: its task, its specification and its configuration are in it, as JSON
//! that a later version need not know every key of.
//!
//! A checkpoint is written to a hidden folder beside its place, synced, then renamed. One whose
//! digests do not match is reported by name and passed over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ::metrics::gauge;
use bytes::Bytes;
use pmpo_service::files::{sync_folder, write_atomically};
use pmpo_service::metrics;
use pmpo_types::EnvironmentSpec;
use pmpo_update::{AgentConfig, DeviceChoice, Scalars, TrainState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::LearnerError;
pub use crate::board::{EnvironmentSteps, Totals};
use crate::versions::Versions;

pub(crate) const FOLDER: &str = "checkpoints";
/// The file of a checkpoint that holds the policy.
pub const POLICY: &str = "policy.safetensors";
const STATE: &str = "state.safetensors";
/// The file of a checkpoint that says what it is.
pub const META: &str = "meta.json";
const PREFIX: &str = "step-";
const TEMPORARY: &str = ".writing-";
const FORMAT: u32 = 3;

/// The newest complete checkpoint in a run's folder: its folder, and what its policy acts in.
///
/// # Errors
/// There is none; the error names those that are damaged.
pub fn newest(run_dir: &Path) -> Result<(PathBuf, Subject), LearnerError> {
    let found = find_newest(&run_dir.join(FOLDER))?;
    Ok((found.path, found.meta.subject))
}

/// The complete checkpoint of a learner step in a run's folder.
///
/// # Errors
/// There is none, or it is damaged; the error names the steps that there are.
pub fn of_step(run_dir: &Path, step: u64) -> Result<(PathBuf, Subject), LearnerError> {
    let folder = run_dir.join(FOLDER);
    let found = list(&folder)?;
    let Some((_, path)) = found.iter().find(|(found, _)| *found == step) else {
        return Err(LearnerError::NoSuchStep {
            folder,
            step,
            found: found.into_iter().map(|(step, _)| step).collect(),
        });
    };
    let found = read(path.clone())?;
    Ok((found.path, found.meta.subject))
}

/// A fresh state with the networks of a run's newest checkpoint, whatever that was learned by.
///
/// # Errors
/// There is no checkpoint, or its networks or its environment are others.
pub fn networks(
    run_dir: &Path,
    identity: &Identity,
    state: TrainState,
) -> Result<TrainState, LearnerError> {
    let found = find_newest(&run_dir.join(FOLDER))?;
    found.meta.check_networks(identity, &found.path)?;
    state
        .with_networks_of(&found.state)
        .map_err(|reason| LearnerError::format(&found.path.join(STATE), reason))
}

/// Whether a run's folder holds a checkpoint, damaged ones included.
pub fn any(run_dir: &Path) -> bool {
    list(&run_dir.join(FOLDER)).is_ok_and(|found| !found.is_empty())
}

/// Learner steps of the newest checkpoint in a run's folder, damaged ones included.
pub fn newest_step(run_dir: &Path) -> Option<u64> {
    let found = list(&run_dir.join(FOLDER)).ok()?;
    found.first().map(|(step, _)| *step)
}

/// What a policy acts in, and as what; enough to act with its snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Name of the run.
    pub run_id: String,
    /// Task, as `domain-task`.
    pub task: String,
    /// Control steps for which an action is carried out.
    #[serde(default = "once")]
    pub action_repeat: usize,
    /// Digest of the environment's specification, in hexadecimal digits.
    pub spec_digest: String,
    /// The policy's network.
    pub policy: Value,
    /// The environment's observations and actions; checkpoints of before do not say them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<EnvironmentSpec>,
}

/// What checkpoints of before do not say.
fn once() -> usize {
    1
}

/// The identity of a run, from a checkpoint's side.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the run.
    pub run_id: String,
    /// Task, as `domain-task`.
    pub task: String,
    /// Every generator of the run is seeded from this.
    pub seed: u64,
    /// The task's observations and actions.
    pub spec: EnvironmentSpec,
    /// Networks and update.
    pub agent: AgentConfig,
}

impl Identity {
    /// What a policy of the run acts in.
    pub fn subject(&self) -> Subject {
        Subject {
            run_id: self.run_id.clone(),
            task: self.task.clone(),
            action_repeat: self.spec.action_repeat,
            spec_digest: hex(&self.spec.digest().0),
            policy: json(&self.agent.policy),
            spec: Some(self.spec.clone()),
        }
    }
}

/// As it is read back, so that numbers compare as they are written.
fn json(config: &impl Serialize) -> Value {
    let text = serde_json::to_string(config).expect("configurations are plain data");
    serde_json::from_str(&text).expect("it was just written")
}

/// What is neither the policy nor a tensor of the update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Meta {
    format: u32,
    #[serde(flatten)]
    subject: Subject,
    seed: u64,
    critic: Value,
    update: Value,
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

    /// Refuses to go on with what the tensors do not fit: another environment, other networks, or a loss
    /// with other variables. Answers the other settings that differ, as `key: before -> now`.
    fn check(&self, identity: &Identity, path: &Path) -> Result<Vec<String>, LearnerError> {
        self.check_networks(identity, path)?;
        let update = json(&identity.agent.update);
        let kind = |update: &Value| update["policy_loss"]["kind"].clone();
        let field = "update.policy_loss.kind";
        require_equal(field, &kind(&self.update), &kind(&update), path)?;
        let mut differing = Vec::new();
        differences("update", &self.update, &update, &mut differing);
        differences(
            "run.seed",
            &Value::from(self.seed),
            &Value::from(identity.seed),
            &mut differing,
        );
        Ok(said(differing))
    }

    /// Refuses another environment, or other networks.
    fn check_networks(&self, identity: &Identity, path: &Path) -> Result<(), LearnerError> {
        let subject = identity.subject();
        let critic = json(&identity.agent.critic);
        let text = |text: &str| Value::from(text);
        for (field, found, expected) in [
            ("task", text(&self.subject.task), text(&subject.task)),
            (
                "run.action_repeat",
                Value::from(self.subject.action_repeat),
                Value::from(subject.action_repeat),
            ),
            (
                "spec_digest",
                text(&self.subject.spec_digest),
                text(&subject.spec_digest),
            ),
            ("policy", self.subject.policy.clone(), subject.policy),
            ("critic", self.critic.clone(), critic),
        ] {
            require_equal(field, &found, &expected, path)?;
        }
        Ok(())
    }
}

/// Refuses a checkpoint's value that is another than is wanted.
fn require_equal(
    field: &str,
    found: &Value,
    expected: &Value,
    path: &Path,
) -> Result<(), LearnerError> {
    match first_difference(field, found, expected) {
        None => Ok(()),
        Some((field, found, expected)) => Err(LearnerError::OtherRun {
            path: path.to_owned(),
            field,
            found,
            expected,
        }),
    }
}

/// Where two configurations differ, as `key: before -> now`.
pub fn changes(before: &Value, now: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differences("", before, now, &mut found);
    said(found)
}

fn said(differences: Vec<Difference>) -> Vec<String> {
    differences
        .into_iter()
        .map(|(key, before, now)| format!("{key}: {before} -> {now}"))
        .collect()
}

/// A key, and what it was before and is now.
type Difference = (String, String, String);

fn first_difference(key: &str, before: &Value, now: &Value) -> Option<Difference> {
    let mut found = Vec::new();
    differences(key, before, now, &mut found);
    found.into_iter().next()
}

/// Appends where two values differ, key by key.
fn differences(key: &str, before: &Value, now: &Value, found: &mut Vec<Difference>) {
    if let (Value::Object(before), Value::Object(now)) = (before, now) {
        let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
        keys.sort();
        keys.dedup();
        for part in keys {
            let of = |values: &serde_json::Map<String, Value>| {
                values.get(part).cloned().unwrap_or(Value::Null)
            };
            let key = match key {
                "" => part.clone(),
                key => format!("{key}.{part}"),
            };
            differences(&key, &of(before), &of(now), found);
        }
    } else if before != now {
        let text = |value: &Value| match value {
            Value::Null => "not set".to_owned(),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        found.push((key.to_owned(), text(before), text(now)));
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
pub struct Checkpoints {
    folder: PathBuf,
    identity: Identity,
    kept: usize,
}

/// A run as its newest checkpoint has it.
#[derive(Debug)]
pub struct Resumed {
    /// The update.
    pub state: TrainState,
    /// Where the run was.
    pub totals: Totals,
    /// The checkpoint's folder.
    pub path: PathBuf,
}

impl Checkpoints {
    /// The folder of a fresh run, of which the newest `kept` checkpoints stay.
    ///
    /// # Errors
    /// It holds checkpoints, or cannot be made.
    pub fn create(run_dir: &Path, identity: Identity, kept: usize) -> Result<Self, LearnerError> {
        let checkpoints = Self::open(run_dir, identity, kept)?;
        if list(&checkpoints.folder)?.is_empty() {
            Ok(checkpoints)
        } else {
            Err(LearnerError::NotFresh(run_dir.to_owned()))
        }
    }

    /// The folder, whatever it holds; leftovers of a crash are removed.
    fn open(run_dir: &Path, identity: Identity, kept: usize) -> Result<Self, LearnerError> {
        let folder = run_dir.join(FOLDER);
        fs::create_dir_all(&folder).map_err(LearnerError::file(&folder))?;
        for name in names(&folder)? {
            if name.starts_with(TEMPORARY) {
                let path = folder.join(name);
                fs::remove_dir_all(&path).map_err(LearnerError::file(&path))?;
            }
        }
        Ok(Self {
            folder,
            identity,
            kept,
        })
    }

    /// Goes on from the newest complete checkpoint, in place of the fresh `state`.
    ///
    /// # Errors
    /// There is none, or it is of another run; nothing has changed then.
    pub fn resume(
        run_dir: &Path,
        identity: Identity,
        kept: usize,
        state: TrainState,
    ) -> Result<(Self, Resumed), LearnerError> {
        let Found {
            path,
            meta,
            state: file,
        } = find_newest(&run_dir.join(FOLDER))?;
        let differing = meta.check(&identity, &path)?;
        let totals = meta.totals();
        let state = state
            .restored(&file, meta.scalars)
            .map_err(|reason| LearnerError::format(&path.join(STATE), reason))?;
        for difference in differing {
            tracing::warn!(difference, "resuming with another setting");
        }
        tracing::info!(
            checkpoint = %path.display(),
            learner_steps = totals.learner_steps,
            policy_version = totals.policy_version,
            "resuming"
        );
        let resumed = Resumed {
            state,
            totals,
            path,
        };
        Ok((Self::open(run_dir, identity, kept)?, resumed))
    }

    /// What a resumption with this identity would be refused for, before anything is changed; else the
    /// settings that differ from the newest checkpoint's, as `key: before -> now`.
    ///
    /// # Errors
    /// There is no checkpoint, or it is of another run.
    pub fn check(run_dir: &Path, identity: &Identity) -> Result<Vec<String>, LearnerError> {
        let Found { path, meta, state } = find_newest(&run_dir.join(FOLDER))?;
        let differing = meta.check(identity, &path)?;
        Versions::resume(run_dir, meta.policy_version)?;
        // Settings decide on tensors too, a loss's variables for one.
        let sizes = [
            identity.spec.observation_size(),
            identity.spec.action_size(),
        ];
        let device = DeviceChoice::Cpu.open()?;
        TrainState::new(&identity.agent, sizes, identity.seed, &device)?
            .restored(&state, meta.scalars)
            .map_err(|reason| LearnerError::format(&path.join(STATE), reason))?;
        Ok(differing)
    }

    /// Where the checkpoint of this step is, or would be.
    pub fn path_of(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:09}"))
    }

    /// Writes a checkpoint, unless there is one of this step and policy, and removes the oldest ones.
    /// `extra` are files beside the usual ones, by name, which only the newest keeps. Answers whether it was
    /// written.
    ///
    /// # Errors
    /// A file cannot be written; there is no such checkpoint then.
    pub fn save(
        &self,
        state: &TrainState,
        policy: &Bytes,
        totals: &Totals,
        extra: &[(&str, Vec<u8>)],
    ) -> Result<bool, LearnerError> {
        let path = self.path_of(state.step());
        if let Ok(found) = fs::metadata(&path)
            && read(path.clone()).is_ok_and(|there| there.meta.policy_sha256 == sha256(policy))
        {
            let complete = found.modified().map_or(0.0, metrics::seconds_of);
            gauge!(crate::metrics::LAST_CHECKPOINT).set(complete);
            return Ok(false);
        }
        let file = state.to_file();
        let meta = self.meta(state, totals, [policy, &file]);
        let meta = serde_json::to_vec_pretty(&meta)
            .map_err(|error| LearnerError::format(&path.join(META), error))?;
        let files = [(POLICY, &policy[..]), (STATE, &file), (META, &meta)];
        let beside = extra.iter().map(|(name, bytes)| (*name, &bytes[..]));
        let files: Vec<_> = files.into_iter().chain(beside).collect();
        let bytes: usize = files.iter().map(|(_, contents)| contents.len()).sum();
        self.write(&path, &files)?;
        gauge!(crate::metrics::CHECKPOINT_BYTES).set(bytes as f64);
        gauge!(crate::metrics::LAST_CHECKPOINT).set(metrics::unix_seconds());
        self.prune(&path, extra)?;
        Ok(true)
    }

    /// Writes a checkpoint's files in its place.
    fn write(&self, path: &Path, files: &[(&str, &[u8])]) -> Result<(), LearnerError> {
        let name = path.file_name().expect("it has a name").to_string_lossy();
        let temporary = self.folder.join(format!("{TEMPORARY}{name}"));
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(LearnerError::file(&temporary))?;
        }
        if let Err(error) = fill(&temporary, files) {
            // Room may be what is lacking.
            if let Err(error) = fs::remove_dir_all(&temporary) {
                tracing::debug!(path = %temporary.display(), %error, "half a checkpoint is left");
            }
            return Err(error);
        }
        // One of this step that is damaged, or has another policy, gives way.
        if path.exists() {
            fs::remove_dir_all(path).map_err(LearnerError::file(path))?;
        }
        fs::rename(&temporary, path).map_err(LearnerError::file(path))?;
        sync_folder(&self.folder).map_err(LearnerError::file(&self.folder))
    }

    fn meta(&self, state: &TrainState, totals: &Totals, [policy, file]: [&[u8]; 2]) -> Meta {
        let identity = &self.identity;
        Meta {
            format: FORMAT,
            subject: identity.subject(),
            seed: identity.seed,
            critic: json(&identity.agent.critic),
            update: json(&identity.agent.update),
            scalars: state.scalars(),
            policy_version: totals.policy_version,
            env_steps: totals.environment.total,
            table_inserts: totals.environment.table_inserts.clone(),
            training_seconds: totals.training_seconds,
            policy_sha256: sha256(policy),
            state_sha256: sha256(file),
        }
    }

    fn prune(&self, newest: &Path, extra: &[(&str, Vec<u8>)]) -> Result<(), LearnerError> {
        let found = list(&self.folder)?;
        let (kept, old) = found.split_at(self.kept.min(found.len()));
        for (_, path) in old {
            fs::remove_dir_all(path).map_err(LearnerError::file(path))?;
        }
        for (_, folder) in kept.iter().filter(|(_, path)| path != newest) {
            for (name, _) in extra {
                let path = folder.join(name);
                if path.exists() {
                    fs::remove_file(&path).map_err(LearnerError::file(&path))?;
                }
            }
        }
        Ok(())
    }
}

/// Makes a folder with these files.
fn fill(folder: &Path, files: &[(&str, &[u8])]) -> Result<(), LearnerError> {
    fs::create_dir(folder).map_err(LearnerError::file(folder))?;
    for (name, contents) in files {
        let path = folder.join(name);
        write_atomically(&path, contents).map_err(LearnerError::file(&path))?;
    }
    Ok(())
}

/// A digest as text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
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
