//! Environments in Python, as an actor steps them: what `pmpo._environments.load` gives, between the arrays of
//! Rust and of NumPy.

use pmpo::Described;
use pmpo_actor::environment::{Environment, EnvironmentError, Request, Source};
use pmpo_types::{EnvironmentSpec, StepType, TimeStep};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::array::{Numbers, View, filled};
use crate::policy::empty;
use crate::watch::Watched;

/// The interpreter that runs this process.
pub(crate) struct Interpreter;

impl Source for Interpreter {
    fn load(&self, request: &Request<'_>) -> Result<Box<dyn Environment>, String> {
        let python = Python::attach(|py| PythonEnvironment::new(py, request))?;
        Ok(Box::new(python))
    }
}

/// An environment, and what is known of it.
struct PythonEnvironment {
    object: Loaded,
    spec: EnvironmentSpec,
    observation: Vec<f64>,
    /// What the next reset is seeded with; absent where it goes on.
    seed: Option<u64>,
    /// It has raised: what it is in now, nobody knows.
    broken: bool,
    watched: Watched,
}

/// The Python object's methods.
struct Loaded {
    reset: Py<PyAny>,
    step: Py<PyAny>,
}

impl Loaded {
    /// Loads it; answers also the JSON that describes it.
    fn new(py: Python<'_>, task: &str) -> Result<(Self, String), String> {
        let loaded = || -> PyResult<_> {
            let module = py.import("pmpo._environments")?;
            let object = module.call_method1("load", (task,))?;
            let description = object.call_method0("description")?.extract()?;
            let reset = object.getattr("reset")?.unbind();
            let step = object.getattr("step")?.unbind();
            Ok((Self { reset, step }, description))
        };
        loaded().map_err(|error| said(py, &error))
    }
}

impl PythonEnvironment {
    fn new(py: Python<'_>, request: &Request<'_>) -> Result<Self, String> {
        let (object, description) = Loaded::new(py, request.task)?;
        let described = Described::from_json(&description).map_err(|error| error.to_string())?;
        let mut spec = described.spec;
        spec.action_repeat = request.action_repeat;
        Ok(Self {
            object,
            observation: Vec::with_capacity(spec.observation_size()),
            seed: Some(request.seed),
            broken: false,
            watched: Watched::new(request.task, request.timeout),
            spec,
        })
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

    /// Takes an observation over, float64 `[observation_size]`.
    fn observe(&mut self, flat: &Bound<'_, PyAny>) -> PyResult<()> {
        self.observation.clear();
        match View::of(flat).as_ref().and_then(View::numbers) {
            Some(Numbers::F64(values)) => self.observation.extend_from_slice(values),
            Some(Numbers::F32(values)) => {
                let values = values.iter().map(|&value| f64::from(value));
                self.observation.extend(values);
            }
            None => {}
        }
        let (expected, got) = (self.spec.observation_size(), self.observation.len());
        if got == expected {
            return Ok(());
        }
        let message = format!("expected an observation of {expected} values, got {got}");
        Err(PyValueError::new_err(message))
    }

    /// One control step: reward, discount, and whether it is the last.
    fn control_step(&mut self, py: Python<'_>, action: &[f64]) -> PyResult<(f64, f64, bool)> {
        let action = filled(empty(py)?, &[action.len()], action)?;
        let outcome = self.object.step.bind(py).call1((action,))?;
        let outcome = outcome.cast::<PyTuple>()?;
        self.observe(&outcome.get_item(0)?)?;
        let (reward, discount) = (
            outcome.get_item(1)?.extract()?,
            outcome.get_item(2)?.extract()?,
        );
        Ok((reward, discount, outcome.get_item(3)?.extract()?))
    }
}

impl Environment for PythonEnvironment {
    fn spec(&self) -> &EnvironmentSpec {
        &self.spec
    }

    fn reset(&mut self) -> Result<TimeStep<'_>, EnvironmentError> {
        self.call(|this, py| {
            if this.broken {
                // Another one, and other draws than those that broke the one before.
                let again = Loaded::new(py, &this.spec.task);
                (this.object, _) = again.map_err(PyRuntimeError::new_err)?;
                this.broken = false;
            }
            let first = this.object.reset.bind(py).call1((this.seed.take(),))?;
            this.observe(&first)
        })?;
        Ok(TimeStep {
            step_type: StepType::First,
            reward: None,
            discount: None,
            observation: &self.observation,
        })
    }

    fn step(&mut self, action: &[f64]) -> Result<TimeStep<'_>, EnvironmentError> {
        let (reward, discount, last) = self.call(|this, py| {
            let (mut reward, mut discount, mut last) = this.control_step(py, action)?;
            for _ in 1..this.spec.action_repeat {
                if last {
                    break;
                }
                let (more, of_step, ended) = this.control_step(py, action)?;
                (reward, discount, last) = (reward + more, discount * of_step, ended);
            }
            Ok((reward, discount, last))
        })?;
        Ok(TimeStep {
            step_type: if last { StepType::Last } else { StepType::Mid },
            reward: Some(reward),
            discount: Some(discount),
            observation: &self.observation,
        })
    }

    fn reseed(&mut self, seed: u64) {
        self.seed = Some(seed);
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
