//! Policies that were trained, to act with: the network as an actor runs it, between the environment's own
//! numbers.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use pmpo::policies::{Choice, Chosen};
use pmpo_actor::{ActionScale, narrow};
use pmpo_policy::PolicyNetwork;
use pmpo_types::EnvironmentSpec;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::array::{Numbers, View, filled};

/// Observations for which it pays to let other threads of Python run meanwhile.
const LONG_BATCH: usize = 8;

/// Where the draws of actions come from: the same seed, the same draws.
///
/// Args:
///     seed: a number from 0 to 2**64 - 1.
#[pyclass(module = "pmpo")]
pub(crate) struct Generator(ChaCha8Rng);

#[pymethods]
impl Generator {
    #[new]
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }
}

/// A trained policy: `policy(observation)` is its action.
///
/// Observations and actions are the environment's own: normalisation and the action's bounds are inside.
/// `Policy.load` reads one.
#[pyclass(module = "pmpo", frozen)]
pub(crate) struct Policy {
    network: Mutex<Acting>,
    spec: EnvironmentSpec,
    checkpoint: String,
}

/// What a call works with; a copy shares the weights.
#[derive(Clone)]
struct Acting {
    network: PolicyNetwork,
    scale: ActionScale,
    action: Vec<f32>,
}

impl Acting {
    /// Appends the actions for rows of observations: the most likely ones, or draws.
    fn act(&mut self, observations: &[f32], mut rng: Option<&mut ChaCha8Rng>, out: &mut Vec<f64>) {
        for observation in observations.chunks_exact(self.network.observation_size()) {
            match &mut rng {
                Some(rng) => self.network.sample(observation, *rng, &mut self.action),
                None => self.network.mode(observation, &mut self.action),
            }
            out.extend_from_slice(self.scale.scale(&self.action));
        }
    }
}

#[pymethods]
impl Policy {
    /// Reads a policy.
    ///
    /// Args:
    ///     path: the folder of a run or of a checkpoint, or a file of `pmpo export --safetensors`.
    ///     checkpoint: which of a run's: "best", "newest", or a learner step.
    ///
    /// Raises:
    ///     ValueError: there is none, it is damaged, or nothing says what it acts in.
    #[staticmethod]
    #[pyo3(signature = (path, checkpoint = None))]
    fn load(path: PathBuf, checkpoint: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let choice = match checkpoint {
            Some(choice) => Choice::from_str(&choice.str()?.to_cow()?)
                .map_err(|expected| refused(format!("checkpoint: {expected}, got {choice}")))?,
            None => Choice::Best,
        };
        let chosen = Chosen::load(&path, choice).map_err(|error| refused(format!("{error:#}")))?;
        let spec = chosen
            .spec()
            .map_err(|error| refused(format!("{error:#}")))?;
        Ok(Self {
            network: Mutex::new(Acting {
                scale: ActionScale::new(&spec.action),
                action: vec![0.0; spec.action_size()],
                network: chosen.policy,
            }),
            spec,
            checkpoint: chosen.place.display().to_string(),
        })
    }

    /// The action for an observation, or the actions for a batch of them.
    ///
    /// Args:
    ///     observation: an array `[observation_size]` or `[batch, observation_size]`, or a mapping of the
    ///         fields' names to arrays, as an environment gives it.
    ///     generator: where draws come from; without it the action is the policy's most likely one.
    ///
    /// Returns:
    ///     float64 `[action_size]` or `[batch, action_size]`, in the environment's units and bounds.
    ///
    /// Raises:
    ///     ValueError: the observation has another size, or a value that is not finite in float32.
    #[pyo3(signature = (observation, generator = None))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        observation: &Bound<'py, PyAny>,
        generator: Option<PyRefMut<'py, Generator>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (narrowed, rows) = self.observations(observation)?;
        let mut generator = generator;
        let rng = generator.as_mut().map(|generator| &mut generator.0);
        let columns = self.spec.action_size();
        let mut actions = Vec::with_capacity(rows.unwrap_or(1) * columns);
        if rows.is_some_and(|rows| rows >= LONG_BATCH) {
            let mut acting = self.acting().clone();
            py.detach(|| acting.act(&narrowed, rng, &mut actions));
        } else {
            self.acting().act(&narrowed, rng, &mut actions);
        }
        match rows {
            Some(rows) => filled(empty(py)?, &[rows, columns], &actions),
            None => filled(empty(py)?, &[columns], &actions),
        }
    }

    /// The environment's name.
    #[getter]
    fn task(&self) -> &str {
        &self.spec.task
    }

    /// Where it was read from.
    #[getter]
    fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

    /// The observation's fields in their order: name and number of values.
    #[getter]
    fn observation_fields(&self) -> Vec<(&str, usize)> {
        let fields = self.spec.observation.iter();
        fields
            .map(|field| (field.name.as_str(), field.size))
            .collect()
    }

    /// Number of an observation's values.
    #[getter]
    fn observation_size(&self) -> usize {
        self.spec.observation_size()
    }

    /// Number of an action's values.
    #[getter]
    fn action_size(&self) -> usize {
        self.spec.action_size()
    }

    /// Lower bounds of the action, float64 `[action_size]`.
    #[getter]
    fn action_minimum<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bounds = &self.spec.action.minimum;
        filled(empty(py)?, &[bounds.len()], bounds)
    }

    /// Upper bounds of the action, float64 `[action_size]`.
    #[getter]
    fn action_maximum<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bounds = &self.spec.action.maximum;
        filled(empty(py)?, &[bounds.len()], bounds)
    }

    fn __repr__(&self) -> String {
        format!(
            "<pmpo.Policy of {} from {}>",
            self.spec.task, self.checkpoint
        )
    }
}

impl Policy {
    fn acting(&self) -> std::sync::MutexGuard<'_, Acting> {
        // Whatever a panic left half done is written anew by the next call.
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The observations as the network takes them, and their number if they are a batch.
    fn observations(&self, object: &Bound<'_, PyAny>) -> PyResult<(Vec<f32>, Option<usize>)> {
        let numbers = View::of(object).filter(|view| view.numbers().is_some());
        let view = match numbers {
            Some(view) => view,
            None => {
                let flat = flatten(object.py())?.call1((object, self.observation_fields()))?;
                View::of(&flat)
                    .ok_or_else(|| refused("observation: expected numbers".to_owned()))?
            }
        };
        let rows = self.rows(view.shape())?;
        let mut narrowed = Vec::new();
        let finite = match view.numbers() {
            Some(Numbers::F32(values)) => {
                narrowed.extend_from_slice(values);
                values.iter().all(|value| value.is_finite())
            }
            Some(Numbers::F64(values)) => narrow(values, &mut narrowed),
            None => return Err(refused("observation: expected numbers".to_owned())),
        };
        if finite {
            return Ok((narrowed, rows));
        }
        Err(refused(
            "observation: a value is not finite in float32".to_owned(),
        ))
    }

    fn rows(&self, shape: &[isize]) -> PyResult<Option<usize>> {
        let size = self.spec.observation_size();
        match *shape {
            [columns] if columns == size as isize => Ok(None),
            [rows, columns] if columns == size as isize => Ok(Some(rows as usize)),
            _ => Err(refused(format!(
                "observation: expected {size} values, {}, or a batch of them, got an array of shape {shape:?}",
                self.described()
            ))),
        }
    }

    fn described(&self) -> String {
        let fields = self.spec.observation.iter();
        let fields: Vec<_> = fields
            .map(|field| format!("{} {}", field.name, field.size))
            .collect();
        fields.join(", ")
    }
}

fn refused(message: String) -> PyErr {
    PyValueError::new_err(message)
}

/// `numpy.empty`.
pub(crate) fn empty(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    EMPTY.import(py, "numpy", "empty")
}

/// What flattens an observation that is no array yet.
fn flatten(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FLATTEN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    FLATTEN.import(py, "pmpo._observations", "flatten")
}
