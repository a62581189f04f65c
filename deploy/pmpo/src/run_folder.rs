//! A run's folder, from the side of a command that is going to write to it: everything is checked before a
//! byte is written, and while it is written to it is one process's alone.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, anyhow};
use pmpo_learner::LearnerError;
use pmpo_learner::checkpoint::{self, Checkpoints, Identity};
use pmpo_service::files::write_atomically;
use pmpo_service::folder_lock::{FolderLock, LockError};
use pmpo_types::EnvironmentSpec;

use crate::agreement;
use crate::config::Config;
use crate::failure::{self, Usage};

/// Name of the resolved configuration in a run's folder.
pub(crate) const CONFIG: &str = "config.toml";
/// Name of the file that tells a run from others of its name: drawn once for the folder.
const UID: &str = "run_uid";
/// Name of the file that says how the run ended; absent while it goes.
pub(crate) const OUTCOME: &str = "outcome.json";

/// A run that somebody asks for.
pub(crate) struct Asked<'a> {
    pub(crate) config: &'a Config,
    pub(crate) run_dir: &'a Path,
    pub(crate) resume: bool,
    pub(crate) spec: &'a EnvironmentSpec,
}

/// A run's folder that is this process's alone, until this is dropped.
pub(crate) struct RunFolder {
    /// Settings that a resumed run has other than before, as `key: before -> now`.
    pub(crate) changed: Vec<String>,
    lock: FolderLock,
}

impl RunFolder {
    /// Takes the folder for `program`, or makes it, and writes the configuration.
    ///
    /// # Errors
    /// The run cannot be; nothing has changed then.
    pub(crate) fn take(asked: &Asked<'_>, program: &str) -> Result<Self> {
        asked.check()?;
        let run_dir = asked.run_dir;
        fs::create_dir_all(run_dir).map_err(failure::storage(run_dir))?;
        let lock = FolderLock::take(run_dir, program)?;
        // Again, now that nobody else can change it.
        let changed = asked.changed(asked.check_checkpoints()?)?;
        let outcome = run_dir.join(OUTCOME);
        if outcome.exists() {
            // How an earlier part of the run ended is not how this one will.
            fs::remove_file(&outcome).map_err(failure::storage(&outcome))?;
        }
        let path = run_dir.join(CONFIG);
        write_atomically(&path, asked.config.to_toml()?.as_bytes())
            .map_err(failure::storage(&path))?;
        Ok(Self { changed, lock })
    }

    /// The folder's lock for the child that writes to it too, as its standard input.
    pub(crate) fn share(&self) -> Result<Stdio> {
        self.lock.share().context("the run folder's lock")
    }
}

impl Asked<'_> {
    /// Refuses what cannot be, whoever asks.
    fn check(&self) -> Result<()> {
        name(self.run_dir)?;
        if let Some(holder) = FolderLock::holder(self.run_dir) {
            let folder = self.run_dir.to_owned();
            return Err(LockError::InUse { folder, holder }.into());
        }
        agreement::check_with(self.config, self.spec).map_err(Usage::new)?;
        let device = self.config.run.device()?;
        device.open().map_err(LearnerError::from)?;
        self.check_checkpoints().map(drop)
    }

    /// Answers what a resumed run has other than its newest checkpoint says.
    fn check_checkpoints(&self) -> Result<Vec<String>> {
        if self.resume {
            return Ok(Checkpoints::check(self.run_dir, &self.identity()?)?);
        }
        if checkpoint::any(self.run_dir) {
            return Err(Usage::new(anyhow!(
                "--run-dir {}: holds a run already; go on with --resume or choose another folder",
                self.run_dir.display()
            ))
            .into());
        }
        Ok(Vec::new())
    }

    /// With `since_checkpoint`, what a resumed run has other than its configuration says.
    fn changed(&self, since_checkpoint: Vec<String>) -> Result<Vec<String>> {
        if !self.resume {
            return Ok(Vec::new());
        }
        let mut changed = BTreeSet::from_iter(since_checkpoint);
        // Of another version, it may have keys that are not known here, and some may be missing.
        let stored = fs::read_to_string(self.run_dir.join(CONFIG)).unwrap_or_default();
        if let Ok(stored) = toml::from_str(&stored) {
            // The same way, so that numbers compare as they are written.
            let now = toml::from_str(&self.config.to_toml()?)?;
            changed.extend(checkpoint::changes(&stored, &now));
        }
        Ok(changed.into_iter().collect())
    }

    fn identity(&self) -> Result<Identity> {
        Ok(Identity {
            run_id: name(self.run_dir)?,
            task: self.config.run.task.clone(),
            seed: self.config.run.seed,
            spec: self.spec.clone(),
            agent: self.config.agent(),
        })
    }
}

/// The run's name, which is its folder's.
///
/// # Errors
/// The folder has none, or is none.
pub(crate) fn name(run_dir: &Path) -> Result<String> {
    let place = || format!("--run-dir {}", run_dir.display());
    let folder = match run_dir.canonicalize() {
        Ok(folder) if !folder.is_dir() => {
            let file = std::io::Error::from(ErrorKind::NotADirectory);
            return Err(failure::storage(run_dir)(file));
        }
        Ok(folder) => folder,
        // It is still to be made.
        Err(_) => std::path::absolute(run_dir).with_context(place)?,
    };
    let Some(name) = folder.file_name() else {
        let error = anyhow!("expected a folder with a name");
        return Err(Usage::new(error.context(place())).into());
    };
    match (name.to_str(), folder.to_str()) {
        (Some(name), Some(_)) => Ok(name.to_owned()),
        _ => {
            let error = anyhow!("expected a path in UTF-8");
            Err(Usage::new(error.context(place())).into())
        }
    }
}

/// What tells the run of this folder from others of its name. Drawn when it is asked for first, by the
/// folder's owner.
pub(crate) fn uid(run_dir: &Path) -> Result<String> {
    let path = run_dir.join(UID);
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(failure::storage(&path)(error));
        }
        // A crash can leave an empty file.
        _ => {}
    }
    let uid = uuid::Uuid::new_v4().to_string();
    write_atomically(&path, uid.as_bytes()).map_err(failure::storage(&path))?;
    Ok(uid)
}

/// The folder of a new run that was given none.
pub(crate) fn new_run_dir(config: &Config) -> PathBuf {
    let now = humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string();
    let now: String = now
        .chars()
        .filter(|c| !matches!(c, ':' | '-' | '.'))
        .collect();
    // Names of environments in Python have characters that those of folders had better not have.
    let task = config.run.task.replace(['/', ':'], "-");
    Path::new("runs").join(format!("{task}-seed{}-{now}", config.run.seed))
}
