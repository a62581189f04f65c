//! Policies that runs have left: which of a run's, and what it acts in.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use pmpo_actor::environment::{Environment, Loaded};
use pmpo_learner::checkpoint::{META, Subject};
use pmpo_learner::{best, checkpoint};
use pmpo_policy::{PolicyNetwork, snapshot};
use pmpo_types::EnvironmentSpec;

use crate::environments;
use crate::failure::Usage;

/// Under this an exported policy says its environment's specification, as JSON.
pub(crate) const ENVIRONMENT: &str = "pmpo.environment";

/// A policy of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
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
#[derive(Debug)]
pub struct Chosen {
    /// What it was trained in, as `domain-task`.
    pub task: String,
    /// The folder or file it was in.
    pub place: PathBuf,
    /// It, as a snapshot.
    pub snapshot: Vec<u8>,
    /// It, ready to act.
    pub policy: PolicyNetwork,
    action_repeat: usize,
    spec_digest: String,
    spec: Option<EnvironmentSpec>,
}

impl Chosen {
    /// Reads a policy: of a run's folder the one that is chosen; of a checkpoint's folder, or of a file that
    /// `pmpo export --safetensors` has written, the one there is.
    ///
    /// # Errors
    /// There is none, it is damaged, or nothing says what it acts in.
    pub fn load(path: &Path, choice: Choice) -> Result<Self> {
        if path.is_file() {
            return Self::of_file(path);
        }
        if path.join(checkpoint::POLICY).is_file() {
            return Self::of_file(&path.join(checkpoint::POLICY));
        }
        let newest = || checkpoint::newest(path).map_err(Usage::new);
        let (folder, subject) = match choice {
            Choice::Best => match best::read(path).map_err(Usage::new)? {
                Some((folder, best)) => (folder, best.subject),
                None => newest()?,
            },
            Choice::Newest => newest()?,
            Choice::Step(step) => checkpoint::of_step(path, step).map_err(Usage::new)?,
        };
        let file = folder.join(checkpoint::POLICY);
        let snapshot = fs::read(&file).with_context(|| file.display().to_string())?;
        Self::new(folder, snapshot, subject).with_context(|| file.display().to_string())
    }

    fn of_file(file: &Path) -> Result<Self> {
        let place = || file.display().to_string();
        let bytes = fs::read(file).with_context(place)?;
        let entry = snapshot::entry(&bytes, ENVIRONMENT).map_err(Usage::new);
        let subject = match entry.with_context(place)? {
            Some(json) => {
                let spec = serde_json::from_str(&json).with_context(|| ENVIRONMENT.to_owned());
                of_spec(spec.map_err(Usage::new).with_context(place)?)
            }
            None => {
                let meta = file.with_file_name(META);
                let json = fs::read(&meta).map_err(|_| {
                    Usage::new(anyhow!(
                        "{}: does not say what it acts in, and no {META} is beside it; give the run's \
                         folder, or a file of `pmpo export --safetensors`",
                        file.display()
                    ))
                })?;
                let subject = serde_json::from_slice(&json).map_err(Usage::new);
                subject.with_context(|| meta.display().to_string())?
            }
        };
        Self::new(file.to_owned(), bytes, subject).with_context(place)
    }

    fn new(place: PathBuf, snapshot: Vec<u8>, subject: Subject) -> Result<Self> {
        let policy = PolicyNetwork::from_snapshot(&snapshot).map_err(Usage::new)?;
        let chosen = Self {
            task: subject.task,
            place,
            snapshot,
            policy,
            action_repeat: subject.action_repeat,
            spec_digest: subject.spec_digest,
            spec: subject.spec,
        };
        if let Some(spec) = &chosen.spec {
            chosen.check_sizes(spec)?;
        }
        Ok(chosen)
    }

    /// The observations and actions of what it acts in.
    ///
    /// # Errors
    /// It is of before checkpoints said them, and the task cannot be asked.
    pub fn spec(&self) -> Result<EnvironmentSpec> {
        if let Some(spec) = &self.spec {
            return Ok(spec.clone());
        }
        let environment = self.environments(0)?;
        self.check_sizes(environment.spec())?;
        Ok(environment.spec().clone())
    }

    fn check_sizes(&self, spec: &EnvironmentSpec) -> Result<()> {
        let expected = (spec.observation_size(), spec.action_size());
        let got = (self.policy.observation_size(), self.policy.action_size());
        if got == expected {
            return Ok(());
        }
        Err(Usage::new(anyhow!(
            "expected a policy between the {expected:?} numbers of {}, got one between {got:?}",
            spec.task
        ))
        .into())
    }

    /// The environment that it was trained in.
    pub(crate) fn environment(&self, seed: u64) -> Result<Box<dyn Environment>> {
        let environment = environments::load(&self.task, self.action_repeat, seed)?;
        self.check(environment.spec())?;
        Ok(environment)
    }

    /// The same, or a vector of environments.
    pub(crate) fn environments(&self, seed: u64) -> Result<Loaded> {
        let environments = environments::load_any(&self.task, self.action_repeat, seed)?;
        self.check(environments.spec())?;
        Ok(environments)
    }

    /// The same, of those in Python, to be drawn.
    pub(crate) fn drawn_environment(&self, seed: u64) -> Result<Box<dyn Environment>> {
        let environment = environments::load_drawn(&self.task, self.action_repeat, seed)?;
        self.check(environment.spec())?;
        Ok(environment)
    }

    /// The same, of the suite, to be drawn.
    pub(crate) fn suite_environment(&self, seed: u64) -> Result<pmpo_suite::Environment> {
        let environment = pmpo_suite::load(&self.task, seed).map_err(Usage::new)?;
        let environment = environment.with_action_repeat(self.action_repeat);
        self.check(environment.spec())?;
        Ok(environment)
    }

    fn check(&self, spec: &EnvironmentSpec) -> Result<()> {
        let digest = checkpoint::hex(&spec.digest().0);
        if digest == self.spec_digest {
            return Ok(());
        }
        Err(Usage::new(anyhow!(
            "{}: trained in another {} than this build has (specification {}, here {digest})",
            self.place.display(),
            self.task,
            self.spec_digest
        ))
        .into())
    }
}

/// What is known of a policy that knows its environment alone.
fn of_spec(spec: EnvironmentSpec) -> Subject {
    Subject {
        run_id: String::new(),
        task: spec.task.clone(),
        action_repeat: spec.action_repeat,
        spec_digest: checkpoint::hex(&spec.digest().0),
        policy: serde_json::Value::Null,
        spec: Some(spec),
    }
}
