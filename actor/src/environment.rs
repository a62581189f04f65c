//! What an actor steps: the seam between its loop and environments of whatever kind.
//!
//! The Control Suite's tasks are compiled in. Environments of another world, `python:module:function` for one,
//! are loaded by whoever [registers](register) as their source: the interpreter that the actor runs in.

use std::sync::OnceLock;
use std::time::Duration;

use pmpo_suite::SuiteError;
use pmpo_types::{EnvironmentSpec, TimeStep};
use thiserror::Error;

/// Why a step or a reset gave nothing.
#[derive(Debug, Error)]
pub enum EnvironmentError {
    /// The episode is void; a reset starts another.
    #[error("{0}")]
    Void(String),
    /// The simulation.
    #[error("{0}")]
    Suite(SuiteError),
    /// An environment that is not the suite's cannot be loaded.
    #[error("{task}: {message}")]
    Load {
        /// Its name.
        task: String,
        /// Why.
        message: String,
    },
}

impl From<SuiteError> for EnvironmentError {
    fn from(error: SuiteError) -> Self {
        match error {
            SuiteError::Physics(error) => Self::Void(error.to_string()),
            error => Self::Suite(error),
        }
    }
}

/// An environment that is stepped, as `dm_env.Environment`.
pub trait Environment: Send {
    /// What it promises about its observations and actions.
    fn spec(&self) -> &EnvironmentSpec;

    /// Starts a new episode.
    ///
    /// # Errors
    /// [`EnvironmentError::Void`] where another reset may do better.
    fn reset(&mut self) -> Result<TimeStep<'_>, EnvironmentError>;

    /// Carries out an action `[action_size]` within the bounds, for as many control steps as actions are
    /// repeated.
    ///
    /// # Errors
    /// [`EnvironmentError::Void`]: the episode is, a reset starts another.
    fn step(&mut self, action: &[f64]) -> Result<TimeStep<'_>, EnvironmentError>;

    /// From the next reset on its draws are those of this seed.
    fn reseed(&mut self, seed: u64);

    /// A picture of the present state, of an environment that was loaded for pictures.
    ///
    /// # Errors
    /// It cannot be drawn; in one line.
    fn frame(&mut self, _options: &FrameOptions<'_>) -> Result<Frame, String> {
        Err(format!("{} is not drawn here", self.spec().task))
    }
}

/// How an environment is drawn, where it can choose.
#[derive(Clone, Copy, Debug)]
pub struct FrameOptions<'a> {
    /// Pixels across.
    pub width: u16,
    /// Pixels down.
    pub height: u16,
    /// A camera's name.
    pub camera: Option<&'a str>,
}

/// A picture: three bytes (red, green, blue) a pixel, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels across.
    pub width: u16,
    /// Pixels down.
    pub height: u16,
    /// `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

/// Several environments that are stepped together, as `gymnasium.vector.VectorEnv`. What each has come to is
/// asked for after the call.
pub trait VectorEnvironment: Send {
    /// What each of them promises about its observations and actions.
    fn spec(&self) -> &EnvironmentSpec;

    /// How many there are, at least one.
    fn count(&self) -> usize;

    /// Starts a new episode in all of them.
    ///
    /// # Errors
    /// [`EnvironmentError::Void`]: whatever was under way in any of them is void.
    fn reset(&mut self) -> Result<(), EnvironmentError>;

    /// Carries out actions `[count, action_size]` within the bounds for a control step. An environment whose
    /// episode has ended begins another, with this step or with the next, whatever its action is.
    ///
    /// # Errors
    /// As [`reset`](Self::reset).
    fn step(&mut self, actions: &[f64]) -> Result<(), EnvironmentError>;

    /// What came of the last call in environment `index`.
    fn outcome(&self, index: usize) -> TimeStep<'_>;

    /// The first observation of the episode that environment `index`, after the last step of the one before, is
    /// already in.
    fn begun(&self, index: usize) -> Option<TimeStep<'_>>;
}

/// What a name stands for.
pub enum Loaded {
    /// An environment.
    One(Box<dyn Environment>),
    /// A vector of them.
    Vector(Box<dyn VectorEnvironment>),
}

impl Loaded {
    /// What an environment of it promises.
    pub fn spec(&self) -> &EnvironmentSpec {
        match self {
            Self::One(environment) => environment.spec(),
            Self::Vector(vector) => vector.spec(),
        }
    }

    /// The environments that are stepped at once.
    pub fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Vector(vector) => vector.count(),
        }
    }
}

impl Environment for pmpo_suite::Environment {
    fn spec(&self) -> &EnvironmentSpec {
        self.spec()
    }

    fn reset(&mut self) -> Result<TimeStep<'_>, EnvironmentError> {
        Ok(self.reset()?)
    }

    fn step(&mut self, action: &[f64]) -> Result<TimeStep<'_>, EnvironmentError> {
        Ok(self.step(action)?)
    }

    fn reseed(&mut self, seed: u64) {
        self.reseed(seed);
    }
}

impl From<pmpo_suite::Environment> for Box<dyn Environment> {
    fn from(environment: pmpo_suite::Environment) -> Self {
        Box::new(environment)
    }
}

/// An environment that is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// A task of the suite, or the name of an environment of another world, see [`is_external`].
    pub task: &'a str,
    /// Control steps for which an action is carried out.
    pub action_repeat: usize,
    /// Its draws begin here.
    pub seed: u64,
    /// How long a step of an environment of another world may take before the process is given up.
    pub timeout: Duration,
    /// Whether an environment of another world is to give pictures.
    pub pictures: bool,
}

/// Loads environments of another world.
pub trait Source: Send + Sync {
    /// Loads one.
    ///
    /// # Errors
    /// There is no such environment, or it cannot be acted in; in one line.
    fn load(&self, request: &Request<'_>) -> Result<Loaded, String>;

    /// Says in JSON what one is, for learners that cannot load it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn describe(&self, task: &str) -> Result<String, String>;

    /// Does `work`, which loads or steps environments on this thread again and again, with all that would
    /// else be made for each of its calls into the other world.
    fn on_thread(&self, work: &mut (dyn FnMut() + Send));
}

static SOURCE: OnceLock<Box<dyn Source>> = OnceLock::new();

/// From here on, until the process ends, environments of another world come from `source`; a second source
/// is passed over.
pub fn register(source: Box<dyn Source>) {
    SOURCE.get_or_init(|| source);
}

/// Whether a name is of another world: `gymnasium:ID`, `dm_control:domain-task`, `python:module:function`.
/// Names of the suite's tasks have no colon.
pub fn is_external(task: &str) -> bool {
    task.contains(':')
}

/// Loads an environment, for those who step one.
///
/// # Errors
/// As [`load_any`]; or it is a vector of them.
pub fn load(request: &Request<'_>) -> Result<Box<dyn Environment>, EnvironmentError> {
    match load_any(request)? {
        Loaded::One(environment) => Ok(environment),
        Loaded::Vector(vector) => Err(EnvironmentError::Load {
            task: request.task.to_owned(),
            message: format!(
                "expected one environment here, got a vector of {}",
                vector.count()
            ),
        }),
    }
}

/// Loads what a name stands for.
///
/// # Errors
/// There is nothing of this name, or what it needs is missing.
pub fn load_any(request: &Request<'_>) -> Result<Loaded, EnvironmentError> {
    let Request {
        task,
        action_repeat,
        seed,
        ..
    } = *request;
    if !is_external(task) {
        let environment = pmpo_suite::load(task, seed)?.with_action_repeat(action_repeat);
        return Ok(Loaded::One(environment.into()));
    }
    external(task, |source| source.load(request))
}

/// Does work that steps environments on this thread.
pub fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let Some(source) = SOURCE.get() else {
        return work();
    };
    let (mut work, mut answer) = (Some(work), None);
    source.on_thread(&mut || answer = work.take().map(|work| work()));
    answer.expect("a source does the work it is given")
}

/// Whether environments of another world can be loaded in this process.
pub fn loads_external() -> bool {
    SOURCE.get().is_some()
}

/// Says in JSON what an environment of another world is.
///
/// # Errors
/// As [`load_any`].
pub fn describe(task: &str) -> Result<String, EnvironmentError> {
    external(task, |source| source.describe(task))
}

fn external<T>(
    task: &str,
    ask: impl FnOnce(&dyn Source) -> Result<T, String>,
) -> Result<T, EnvironmentError> {
    let no_interpreter = || {
        "an environment in Python, which this program has not loaded; start the role with \
         `python -m pmpo`, of the package that `make wheel` makes"
            .to_owned()
    };
    let source = SOURCE.get().ok_or_else(no_interpreter);
    let answer = source.and_then(|source| ask(&**source));
    answer.map_err(|message| EnvironmentError::Load {
        task: task.to_owned(),
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_interpreter_an_environment_in_python_is_refused_in_one_line() {
        let request = Request {
            task: "python:mine:make",
            action_repeat: 1,
            seed: 0,
            timeout: Duration::MAX,
            pictures: false,
        };
        let refused = load(&request).err().unwrap().to_string();
        assert!(
            refused.starts_with("python:mine:make: an environment in Python"),
            "{refused}"
        );
        assert!(refused.contains("`python -m pmpo`"), "{refused}");
    }
}
