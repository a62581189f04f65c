//! `checkpoints/best/` in a run's folder: the policy of the best evaluation so far, and its return.
//!
//! - `policy.safetensors`: a snapshot of the policy as actors got it;
//! - `meta.json`: [`Best`].
//!
//! Of equal returns the first stays. An evaluation's mean is an estimate: the best of many is better than
//! it really is by about their spread.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pmpo_service::files::{sync_folder, write_atomically};
use serde::{Deserialize, Serialize};

use crate::LearnerError;
use crate::checkpoint::{FOLDER, META, POLICY, Subject, sha256};
use crate::progress::Row;

/// The folder's name among the checkpoints.
pub(crate) const NAME: &str = "best";
const TEMPORARY: &str = ".writing-best";

/// What is known of the best policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// What it acts in, and as what.
    #[serde(flatten)]
    pub subject: Subject,
    /// The evaluation.
    pub evaluation: Row,
    /// Digest of the policy's file.
    pub policy_sha256: String,
}

/// The best policy's folder, and what is known of it; `None` if no policy was evaluated yet.
///
/// # Errors
/// It is damaged.
pub fn read(run_dir: &Path) -> Result<Option<(PathBuf, Best)>, LearnerError> {
    let folder = run_dir.join(FOLDER).join(NAME);
    let path = folder.join(META);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(LearnerError::file(&path))?;
    let best: Best =
        serde_json::from_slice(&bytes).map_err(|error| LearnerError::format(&path, error))?;
    let path = folder.join(POLICY);
    let policy = fs::read(&path).map_err(LearnerError::file(&path))?;
    if sha256(&policy) != best.policy_sha256 {
        return Err(LearnerError::format(&path, "its digest does not match"));
    }
    Ok(Some((folder, best)))
}

/// Keeps the best policy of a run.
#[derive(Debug)]
pub struct BestKeeper {
    folder: PathBuf,
    subject: Subject,
    best: Option<f64>,
}

impl BestKeeper {
    /// Goes on with what the run's folder holds, unless it is of a policy that a resumed run, whose
    /// checkpoint is of `learner_step`, will train again.
    ///
    /// # Errors
    /// What it holds cannot be read or removed.
    pub fn open(run_dir: &Path, subject: Subject, learner_step: u64) -> Result<Self, LearnerError> {
        let folder = run_dir.join(FOLDER);
        let best = match read(run_dir) {
            Ok(best) => best,
            Err(error) => {
                tracing::warn!(%error, "the best policy so far is damaged; keeping the best from here on");
                None
            }
        };
        let kept = best.filter(|(_, best)| best.evaluation.learner_steps <= learner_step);
        let target = folder.join(NAME);
        if kept.is_none() && target.exists() {
            fs::remove_dir_all(&target).map_err(LearnerError::file(&target))?;
        }
        Ok(Self {
            folder,
            subject,
            best: kept.map(|(_, best)| best.evaluation.eval_return_mean),
        })
    }

    /// A policy was evaluated; it is kept if it is the best. Answers whether it is.
    ///
    /// # Errors
    /// It is, and cannot be written; the one before stays.
    pub fn evaluated(&mut self, row: &Row, policy: &Bytes) -> Result<bool, LearnerError> {
        if self.best.is_some_and(|best| row.eval_return_mean <= best) {
            return Ok(false);
        }
        let best = Best {
            subject: self.subject.clone(),
            evaluation: row.clone(),
            policy_sha256: sha256(policy),
        };
        let target = self.folder.join(NAME);
        let meta = serde_json::to_vec_pretty(&best)
            .map_err(|error| LearnerError::format(&target.join(META), error))?;
        let temporary = self.folder.join(TEMPORARY);
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(LearnerError::file(&temporary))?;
        }
        fs::create_dir_all(&temporary).map_err(LearnerError::file(&temporary))?;
        for (name, bytes) in [(POLICY, &policy[..]), (META, &meta)] {
            let path = temporary.join(name);
            write_atomically(&path, bytes).map_err(LearnerError::file(&path))?;
        }
        // A folder cannot be replaced by another in one go: for a moment there is none.
        if target.exists() {
            fs::remove_dir_all(&target).map_err(LearnerError::file(&target))?;
        }
        fs::rename(&temporary, &target).map_err(LearnerError::file(&target))?;
        sync_folder(&self.folder).map_err(LearnerError::file(&self.folder))?;
        self.best = Some(row.eval_return_mean);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::tests::row;

    fn subject() -> Subject {
        Subject {
            run_id: "run".to_owned(),
            task: "cartpole-swingup".to_owned(),
            action_repeat: 1,
            spec_digest: "00".to_owned(),
            policy: serde_json::json!({}),
            spec: None,
        }
    }

    #[test]
    fn the_best_is_kept_whatever_comes_after_it() {
        let run = tempfile::tempdir().unwrap();
        let mut keeper = BestKeeper::open(run.path(), subject(), 0).unwrap();
        assert_eq!(read(run.path()).unwrap(), None);
        for (step, mean, is_best) in [
            (0, 1.0, true),
            (100, 5.0, true),
            (200, 5.0, false),
            (300, 4.0, false),
        ] {
            let policy = Bytes::from(format!("policy of {step}"));
            let kept = keeper.evaluated(&row(step, mean), &policy).unwrap();
            assert_eq!(kept, is_best, "step {step}");
        }
        let (folder, best) = read(run.path()).unwrap().unwrap();
        assert_eq!(best.evaluation, row(100, 5.0));
        assert_eq!(best.subject, subject());
        assert_eq!(fs::read(folder.join(POLICY)).unwrap(), b"policy of 100");

        // A run that goes on from step 300 must beat it; one from step 50 trains that policy again.
        let mut resumed = BestKeeper::open(run.path(), subject(), 300).unwrap();
        let policy = Bytes::from_static(b"other");
        assert!(!resumed.evaluated(&row(400, 5.0), &policy).unwrap());
        BestKeeper::open(run.path(), subject(), 50).unwrap();
        assert_eq!(read(run.path()).unwrap(), None);
    }

    #[test]
    fn damage_is_named_and_stops_nothing() {
        let run = tempfile::tempdir().unwrap();
        let mut keeper = BestKeeper::open(run.path(), subject(), 0).unwrap();
        keeper
            .evaluated(&row(0, 1.0), &Bytes::from_static(b"policy"))
            .unwrap();
        let path = run.path().join(FOLDER).join(NAME).join(POLICY);
        fs::write(&path, "other").unwrap();
        let message = read(run.path()).unwrap_err().to_string();
        assert!(message.ends_with("its digest does not match"), "{message}");
        let mut keeper = BestKeeper::open(run.path(), subject(), 0).unwrap();
        assert!(
            keeper
                .evaluated(&row(0, 0.5), &Bytes::from_static(b"policy"))
                .unwrap()
        );
    }
}
