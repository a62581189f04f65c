//! Which of a run's policies a tool acts with.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use pmpo_learner::{best, checkpoint};
use pmpo_policy::PolicyNetwork;
use pmpo_suite::Environment;

use super::load_task;
use crate::failure::Usage;

/// A policy of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Of the best evaluation; before there is one, the newest.
    Best,
    /// Of the newest checkpoint.
    Newest,
    /// Of the checkpoint of this learner step.
    Step(u64),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "newest" => Ok(Self::Newest),
            step => {
                let step = step.parse().map(Self::Step);
                step.map_err(|_| "expected best, newest or a learner step".to_owned())
            }
        }
    }
}

/// A policy, ready to act, and what it acts in.
pub(super) struct Chosen {
    pub(super) task: String,
    action_repeat: usize,
    spec_digest: String,
    /// Where it was.
    pub(super) folder: PathBuf,
    pub(super) policy: PolicyNetwork,
}

impl Chosen {
    /// Reads it; a checkpoint says itself what it is of.
    pub(super) fn load(run_dir: &Path, choice: Choice) -> Result<Self> {
        let newest = || checkpoint::newest(run_dir).map_err(Usage::new);
        let (folder, subject) = match choice {
            Choice::Best => match best::read(run_dir).map_err(Usage::new)? {
                Some((folder, best)) => (folder, best.subject),
                None => newest()?,
            },
            Choice::Newest => newest()?,
            Choice::Step(step) => checkpoint::of_step(run_dir, step).map_err(Usage::new)?,
        };
        let path = folder.join(checkpoint::POLICY);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let policy = PolicyNetwork::from_snapshot(&bytes)
            .map_err(Usage::new)
            .with_context(|| path.display().to_string())?;
        Ok(Self {
            task: subject.task,
            action_repeat: subject.action_repeat,
            spec_digest: subject.spec_digest,
            folder,
            policy,
        })
    }

    /// The environment that it was trained in.
    pub(super) fn environment(&self, seed: u64) -> Result<Environment> {
        let environment = load_task(&self.task, seed)?.with_action_repeat(self.action_repeat);
        let digest = checkpoint::hex(&environment.spec().digest().0);
        if digest == self.spec_digest {
            return Ok(environment);
        }
        Err(Usage::new(anyhow!(
            "{}: trained in another {} than this build has (specification {}, here {digest})",
            self.folder.display(),
            self.task,
            self.spec_digest
        ))
        .into())
    }
}
