//! Environments by name, the suite's and those in Python, from the command's side: loaded where they are
//! stepped, described by a process of their own where their specification is enough.

use std::ffi::OsString;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use pmpo_actor::environment::{self, Environment, Loaded, Request, is_external};
use pmpo_losses::{JointKl, KlPenalty};
use pmpo_policy::{CategoricalHead, HeadConfig};
use pmpo_types::EnvironmentSpec;
use pmpo_update::PolicyLoss;
use serde::Deserialize;

use crate::config::{Config, RunConfig};
use crate::failure::Usage;
use crate::host;

/// How long an interpreter may take to load an environment and to say what it is.
const DESCRIPTION_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

/// What an environment promises.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Described {
    /// Its observations and actions.
    pub spec: EnvironmentSpec,
    /// Choices of each dimension of the action, where it is made of choices and not of numbers.
    #[serde(default)]
    pub choices: Option<usize>,
    /// How many environments it is, if it is a vector of them.
    #[serde(default)]
    pub environments: Option<usize>,
}

impl Described {
    /// Reads what an interpreter says of an environment.
    ///
    /// # Errors
    /// It says something else.
    pub fn from_json(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }
}

/// Loads an environment to step it in this process; an unknown one is the caller's error, and so is a vector.
pub(crate) fn load(task: &str, action_repeat: usize, seed: u64) -> Result<Box<dyn Environment>> {
    environment::load(&request(task, action_repeat, seed)).map_err(|error| Usage::new(error).into())
}

/// The same, or a vector of environments.
pub(crate) fn load_any(task: &str, action_repeat: usize, seed: u64) -> Result<Loaded> {
    let request = request(task, action_repeat, seed);
    environment::load_any(&request).map_err(|error| Usage::new(error).into())
}

fn request(task: &str, action_repeat: usize, seed: u64) -> Request<'_> {
    Request {
        task,
        action_repeat,
        seed,
        // Whoever watches a tool can end it.
        timeout: Duration::MAX,
        pictures: false,
    }
}

/// Loads an environment in Python that gives pictures.
pub(crate) fn load_drawn(
    task: &str,
    action_repeat: usize,
    seed: u64,
) -> Result<Box<dyn Environment>> {
    let request = Request {
        pictures: true,
        ..request(task, action_repeat, seed)
    };
    environment::load(&request).map_err(|error| Usage::new(error).into())
}

/// What the environment of a run promises, asked in a process of its own if it is in Python.
pub(crate) fn describe(run: &RunConfig) -> Result<Described> {
    if !is_external(&run.task) {
        let environment = load(&run.task, run.action_repeat, 0)?;
        return Ok(Described {
            spec: environment.spec().clone(),
            choices: None,
            environments: None,
        });
    }
    promised(run, ask(run).map_err(Usage::new)?)
}

/// What a run's environment promises that was described as this.
fn promised(run: &RunConfig, mut described: Described) -> Result<Described> {
    if let Some(count) = described.environments
        && run.action_repeat != 1
    {
        let got = run.action_repeat;
        return Err(Usage::new(anyhow!(
            "run.action_repeat: expected 1 with a vector of {count} environments, whose episodes begin by \
             themselves, got {got}"
        ))
        .into());
    }
    described.spec.action_repeat = run.action_repeat;
    Ok(described)
}

/// The same; where actions are choices, head and loss that nobody has set become those that are for choices.
pub(crate) fn fit(config: &mut Config) -> Result<Described> {
    let described = describe(&config.run)?;
    fit_to(config, described)
}

/// Whether a learner is to be told by an actor what its environment is: it is in Python, and nobody has said
/// with which interpreter this machine would load it.
pub(crate) fn is_told(run: &RunConfig) -> bool {
    is_external(&run.task) && run.python.is_none()
}

/// Reads what an actor says of a run's environment, and has the configuration fit it.
///
/// # Errors
/// It says something else, or the configuration is not for such an environment; in one line.
pub(crate) fn read_description(
    mut config: Config,
    json: &str,
) -> Result<(Config, EnvironmentSpec), String> {
    let described = Described::from_json(json).map_err(|error| format!("description: {error}"))?;
    let fitted = promised(&config.run, described)
        .and_then(|described| fit_to(&mut config, described))
        .map_err(|error| format!("{error:#}"))?;
    Ok((config, fitted.spec))
}

fn fit_to(config: &mut Config, described: Described) -> Result<Described> {
    let Some(bins) = described.choices else {
        return Ok(described);
    };
    let fitting = HeadConfig::Categorical(CategoricalHead { bins });
    let head = &mut config.policy.head;
    if *head == HeadConfig::default() {
        *head = fitting;
        if let PolicyLoss::Pmpo(loss) = &mut config.update.policy_loss
            && loss.kl == KlPenalty::default()
        {
            loss.kl = KlPenalty::Joint(JointKl::default());
        }
        config.validate().map_err(Usage::new)?;
    } else if *head != fitting {
        return Err(Usage::new(anyhow!(
            "policy.head: expected {{ kind = \"categorical\", bins = {bins} }}, for the {bins} choices of {}, \
             got another; without the key it follows",
            described.spec.task
        ))
        .into());
    }
    Ok(described)
}

/// The interpreter that runs environments in Python.
pub(crate) fn interpreter(run: &RunConfig) -> OsString {
    let named = run.python.as_ref().map(OsString::from);
    let ours = || host::program().first().cloned();
    named.or_else(ours).unwrap_or_else(|| "python3".into())
}

fn ask(run: &RunConfig) -> Result<Described> {
    let interpreter = interpreter(run);
    let place = || format!("run.python: starting {}", interpreter.display());
    let mut process = Command::new(&interpreter)
        .args(["-m", "pmpo._describe", &run.task])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(place)?;
    let pipes = (process.stdout.take(), process.stderr.take());
    let (answer, complaint) = (read(pipes.0), read(pipes.1));
    let started = Instant::now();
    let exit = loop {
        if let Some(exit) = process.try_wait().with_context(place)? {
            break exit;
        }
        if started.elapsed() > DESCRIPTION_LIMIT {
            process.kill().with_context(place)?;
            process.wait().with_context(place)?;
            bail!("{}: not loaded within {DESCRIPTION_LIMIT:?}", run.task);
        }
        std::thread::sleep(POLL);
    };
    let text = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let (answer, complaint) = (text(answer), text(complaint));
    if exit.success() {
        let last = answer.lines().last().unwrap_or_default();
        return Described::from_json(last)
            .with_context(|| format!("{}: its description", run.task));
    }
    let said = complaint.lines().rev().find(|line| !line.trim().is_empty());
    let said = said.unwrap_or("it says nothing");
    if said.contains("No module named 'pmpo'") {
        bail!(
            "run.python: expected an interpreter with the package pmpo (`make wheel`, then pip install \
             target/wheels/pmpo-*.whl), got {}",
            interpreter.display()
        );
    }
    bail!("{said}")
}

/// Reads a pipe to its end, so that no process waits for a reader.
fn read<R: Read + Send + 'static>(pipe: Option<R>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe
            && let Err(error) = pipe.read_to_end(&mut bytes)
        {
            tracing::debug!(%error, "a pipe of the interpreter's");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
