//! Numbers of publications, of which none is ever used for two policies: `policy_versions` in the run's
//! folder holds the highest that may have been published. It is written ahead, a block at a time, so a
//! learner that was killed and has lost what it learned since its last checkpoint goes on above all that
//! it may have published in that time.
//!
//! Training does not end where the file cannot be written, on a full disk for one: the next block tries
//! again. Of a learner that is killed in between, numbers may come twice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pmpo_service::files::write_atomically;

use crate::LearnerError;

const FILE: &str = "policy_versions";

/// Numbers reserved at a time: as many publications for one write.
const BLOCK: u64 = 1000;

#[derive(Debug)]
pub(crate) struct Versions {
    /// Absent where nothing outlives the process.
    path: Option<PathBuf>,
    reserved: u64,
}

impl Versions {
    /// Of a fresh run.
    pub(crate) fn create(run_dir: &Path) -> Self {
        Self {
            path: Some(run_dir.join(FILE)),
            reserved: 0,
        }
    }

    /// Of no run.
    pub(crate) fn unrecorded() -> Self {
        Self {
            path: None,
            reserved: 0,
        }
    }

    /// Of a run that goes on from a checkpoint whose policy was published as `checkpoint`; also answers
    /// as what it is published again: the same, unless later ones may have been.
    pub(crate) fn resume(run_dir: &Path, checkpoint: u64) -> Result<(Self, u64), LearnerError> {
        let path = run_dir.join(FILE);
        let reserved = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|error| {
                LearnerError::format(&path, format!("expected a number, got {text:?}: {error}"))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => checkpoint,
            Err(error) => return Err(LearnerError::file(&path)(error)),
        };
        let version = if reserved <= checkpoint {
            checkpoint
        } else {
            reserved + 1
        };
        let path = Some(path);
        Ok((Self { path, reserved }, version))
    }

    /// Call before `version` is published.
    pub(crate) fn spend(&mut self, version: u64) {
        if version > self.reserved {
            self.write(version + BLOCK - 1);
        }
    }

    /// `version` is the last that was published, and is in a checkpoint.
    pub(crate) fn settle(&mut self, version: u64) {
        self.write(version);
    }

    fn write(&mut self, reserved: u64) {
        if let Some(path) = &self.path
            && let Err(error) = write_atomically(path, format!("{reserved}\n").as_bytes())
        {
            tracing::warn!(path = %path.display(), %error, "numbers of policies are not recorded");
        }
        self.reserved = reserved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_learner_never_gives_a_number_again_and_a_settled_one_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut versions = Versions::create(folder.path());
        for version in 1..=BLOCK + 7 {
            versions.spend(version);
        }
        drop(versions);
        // Killed; its newest checkpoint is of version 5.
        let (mut versions, version) = Versions::resume(folder.path(), 5).unwrap();
        assert_eq!(version, 2 * BLOCK + 1);
        versions.spend(version);
        versions.settle(version);
        let (_, again) = Versions::resume(folder.path(), version).unwrap();
        assert_eq!(again, version);
        std::fs::write(folder.path().join(FILE), "x").unwrap();
        let error = Versions::resume(folder.path(), 5).unwrap_err().to_string();
        assert!(error.contains("expected a number"), "{error}");
    }

    #[test]
    fn a_run_from_before_the_file_goes_on_with_its_checkpoints_number() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Versions::resume(folder.path(), 5).unwrap().1, 5);
    }
}
