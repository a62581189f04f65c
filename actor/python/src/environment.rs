//! Environments in Python, as an actor steps them: what `pmpo._environments.load` gives, between the arrays of
//! Rust and of NumPy.

use pmpo::Described;
use pmpo_actor::environment::{
    Environment, EnvironmentError, Frame, FrameOptions, Loaded, Request, Source,
};
use pmpo_types::{EnvironmentSpec, StepType, TimeStep};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::array::{Numbers, View, filled};
use crate::policy::empty;
use crate::vector::PythonVector;
use crate::watch::Watched;

/// The interpreter that runs this process.
pub(crate) struct Interpreter;

impl Source for Interpreter {
    fn load(&self, request: &Request<'_>) -> Result<Loaded, String> {
        Python::attach(|py| {
            let (world, count) = World::new(py, request)?;
            Ok(match count {
                None => Loaded::One(Box::new(PythonEnvironment::new(world))),
                Some(count) => Loaded::Vector(Box::new(PythonVector::new(world, count)?)),
            })
        })
    }

    fn describe(&self, task: &str) -> Result<String, String> {
        let loaded = Python::attach(|py| Methods::load(py, task, false));
        loaded.map(|(_, description, _)| description)
    }

    /// The interpreter makes a state for a thread that comes to it, with a stack mapped into memory, and throws
    /// it away when the thread goes: a fifth of a step of HalfCheetah. A thread that has come stays.
    fn on_thread(&self, work: &mut (dyn FnMut() + Send)) {
        Python::attach(|py| py.detach(work));
    }
}

/// The Python object's methods.
struct Methods {
    reset: Py<PyAny>,
    step: Py<PyAny>,
    frame: Option<Py<PyAny>>,
}

/// What was loaded: its methods, the JSON that describes it, and of a vector how many environments it has.
type Object = (Methods, String, Option<usize>);

impl Methods {
    fn load(py: Python<'_>, task: &str, pictures: bool) -> Result<Object, String> {
        let loaded = || -> PyResult<_> {
            let module = py.import("pmpo._environments")?;
            let object = module.call_method1("load", (task, pictures))?;
            let description = object.call_method0("description")?.extract()?;
            let count = object.getattr("count")?.extract()?;
            let reset = object.getattr("reset")?.unbind();
            let step = object.getattr("step")?.unbind();
            let frame = object.getattr_opt("frame")?.map(Bound::unbind);
            Ok((Self { reset, step, frame }, description, count))
        };
        loaded().map_err(|error| said(py, &error))
    }
}

/// An object in Python that is stepped, and what is known of it.
pub(crate) struct World {
    methods: Methods,
    pub(crate) spec: EnvironmentSpec,
    /// What the next reset is seeded with; absent where it goes on.
    seed: Option<u64>,
    /// It has raised: what it is in now, nobody knows.
    broken: bool,
    /// It was loaded to give pictures.
    pictures: bool,
    watched: Watched,
}

impl World {
    /// Loads it; answers also how many environments it has, if it is a vector.
    fn new(py: Python<'_>, request: &Request<'_>) -> Result<(Self, Option<usize>), String> {
        let (methods, description, count) = Methods::load(py, request.task, request.pictures)?;
        let described = Described::from_json(&description).map_err(|error| error.to_string())?;
        let mut spec = described.spec;
        spec.action_repeat = request.action_repeat;
        let world = Self {
            methods,
            seed: Some(request.seed),
            broken: false,
            pictures: request.pictures,
            watched: Watched::new(request.task, request.timeout),
            spec,
        };
        Ok((world, count))
    }

    /// Calls into Python under the watch; whatever is raised voids the episode.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Self, Python<'_>) -> PyResult<T>,
    ) -> Result<T, EnvironmentError> {
        let watch = self.watched.begin();
        let result = Python::attach(|py| call(self, py).map_err(|error| said(py, &error)));
        drop(watch);
        result.map_err(|message| {
            self.broken = true;
            EnvironmentError::Void(message)
        })
    }

    /// Resets, and answers what the Python side did.
    pub(crate) fn reset<T>(
        &mut self,
        take: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Result<T, EnvironmentError> {
        self.call(|this, py| {
            if this.broken {
                // Another one, and other draws than those that broke the one before.
                let again = Methods::load(py, &this.spec.task, this.pictures);
                (this.methods, ..) = again.map_err(PyRuntimeError::new_err)?;
                this.broken = false;
            }
            take(&this.methods.reset.bind(py).call1((this.seed.take(),))?)
        })
    }

    /// Has `actions` of this shape carried out for as many control steps as actions are repeated, and answers
    /// what the Python side did each time, until `take` says that it was the last.
    pub(crate) fn step(
        &mut self,
        shape: &[usize],
        actions: &[f64],
        mut take: impl FnMut(&Bound<'_, PyTuple>) -> PyResult<bool>,
    ) -> Result<(), EnvironmentError> {
        self.call(|this, py| {
            for _ in 0..this.spec.action_repeat {
                // An environment may keep what it is given.
                let actions = filled(empty(py)?, shape, actions)?;
                let outcome = this.methods.step.bind(py).call1((actions,))?;
                if take(outcome.cast::<PyTuple>()?)? {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// Takes float numbers over, of which there are to be so many.
pub(crate) fn take(
    array: &Bound<'_, PyAny>,
    expected: usize,
    values: &mut Vec<f64>,
) -> PyResult<()> {
    values.clear();
    match View::of(array).as_ref().and_then(View::numbers) {
        Some(Numbers::F64(given)) => values.extend_from_slice(given),
        Some(Numbers::F32(given)) => values.extend(given.iter().map(|&value| f64::from(value))),
        None => {}
    }
    if values.len() == expected {
        return Ok(());
    }
    let message = format!("expected {expected} values, got {}", values.len());
    Err(PyValueError::new_err(message))
}

/// An environment.
struct PythonEnvironment {
    world: World,
    observation: Vec<f64>,
}

impl PythonEnvironment {
    fn new(world: World) -> Self {
        Self {
            observation: Vec::with_capacity(world.spec.observation_size()),
            world,
        }
    }
}

impl Environment for PythonEnvironment {
    fn spec(&self) -> &EnvironmentSpec {
        &self.world.spec
    }

    fn reset(&mut self) -> Result<TimeStep<'_>, EnvironmentError> {
        let (size, observation) = (self.world.spec.observation_size(), &mut self.observation);
        self.world.reset(|first| take(first, size, observation))?;
        Ok(TimeStep {
            step_type: StepType::First,
            reward: None,
            discount: None,
            observation: &self.observation,
        })
    }

    fn step(&mut self, action: &[f64]) -> Result<TimeStep<'_>, EnvironmentError> {
        let (size, observation) = (self.world.spec.observation_size(), &mut self.observation);
        let (mut reward, mut discount, mut last) = (0.0, 1.0, false);
        self.world.step(&[action.len()], action, |outcome| {
            take(&outcome.get_item(0)?, size, observation)?;
            reward += outcome.get_item(1)?.extract::<f64>()?;
            discount *= outcome.get_item(2)?.extract::<f64>()?;
            last = outcome.get_item(3)?.extract()?;
            Ok(last)
        })?;
        Ok(TimeStep {
            step_type: if last { StepType::Last } else { StepType::Mid },
            reward: Some(reward),
            discount: Some(discount),
            observation: &self.observation,
        })
    }

    fn reseed(&mut self, seed: u64) {
        self.world.seed = Some(seed);
    }

    fn frame(&mut self, options: &FrameOptions<'_>) -> Result<Frame, String> {
        let FrameOptions {
            width,
            height,
            camera,
        } = *options;
        let drawn = |world: &mut World, py: Python<'_>| {
            let frame = world.methods.frame.as_ref().ok_or_else(|| {
                PyValueError::new_err("expected an environment that can be drawn")
            })?;
            let drawn = frame.bind(py).call1((width, height, camera))?;
            let drawn = drawn.cast::<PyTuple>()?;
            Ok(Frame {
                width: drawn.get_item(0)?.extract()?,
                height: drawn.get_item(1)?.extract()?,
                rgb: drawn.get_item(2)?.cast::<PyBytes>()?.as_bytes().to_vec(),
            })
        };
        self.world.call(drawn).map_err(|error| error.to_string())
    }
}

/// What was raised, in one line; the trace of calls goes to the log of those who look closer.
fn said(py: Python<'_>, error: &PyErr) -> String {
    if let Some(trace) = error.traceback(py)
        && let Ok(trace) = trace.format()
    {
        tracing::debug!(%trace, "raised");
    }
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(" ")
}
