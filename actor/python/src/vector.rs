//! Vectors of environments in Python, as an actor steps them: `gymnasium.vector.VectorEnv` by
//! `pmpo._environments`.

use pmpo_actor::environment::{EnvironmentError, VectorEnvironment};
use pmpo_types::{EnvironmentSpec, StepType, TimeStep};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::environment::{World, take};

/// A vector, and what its environments have come to.
pub(crate) struct PythonVector {
    world: World,
    count: usize,
    /// `[count, observation_size]`.
    observations: Vec<f64>,
    /// `[count]`.
    rewards: Vec<f64>,
    discounts: Vec<f64>,
    kinds: Vec<StepType>,
    /// `[count, observation_size]`, where episodes that have ended are followed by others within a step.
    first: Option<Vec<f64>>,
}

impl PythonVector {
    /// Refuses an empty one.
    pub(crate) fn new(world: World, count: usize) -> Result<Self, String> {
        if count == 0 {
            return Err("expected at least one environment in the vector, got none".to_owned());
        }
        Ok(Self {
            world,
            count,
            observations: Vec::new(),
            rewards: vec![0.0; count],
            discounts: vec![1.0; count],
            kinds: vec![StepType::First; count],
            first: None,
        })
    }

    fn of<'a>(&self, rows: &'a [f64], index: usize) -> &'a [f64] {
        let size = self.world.spec.observation_size();
        &rows[index * size..][..size]
    }
}

impl VectorEnvironment for PythonVector {
    fn spec(&self) -> &EnvironmentSpec {
        &self.world.spec
    }

    fn count(&self) -> usize {
        self.count
    }

    fn reset(&mut self) -> Result<(), EnvironmentError> {
        let all = self.count * self.world.spec.observation_size();
        let observations = &mut self.observations;
        self.world.reset(|first| take(first, all, observations))?;
        self.kinds.fill(StepType::First);
        self.first = None;
        Ok(())
    }

    fn step(&mut self, actions: &[f64]) -> Result<(), EnvironmentError> {
        let (count, spec) = (self.count, &self.world.spec);
        let all = count * spec.observation_size();
        let shape = [count, spec.action_size()];
        let (observations, rewards, discounts) = (
            &mut self.observations,
            &mut self.rewards,
            &mut self.discounts,
        );
        let (kinds, first) = (&mut self.kinds, &mut self.first);
        let mut numbers = Vec::new();
        self.world.step(&shape, actions, |outcome| {
            take(&outcome.get_item(0)?, all, observations)?;
            take(&outcome.get_item(1)?, count, rewards)?;
            take(&outcome.get_item(2)?, count, discounts)?;
            take(&outcome.get_item(3)?, count, &mut numbers)?;
            for (kind, number) in kinds.iter_mut().zip(&numbers) {
                *kind = StepType::from_number(*number as i64)
                    .ok_or_else(|| PyValueError::new_err(format!("no kind of step: {number}")))?;
            }
            let begun = outcome.get_item(4)?;
            *first = None;
            if !begun.is_none() {
                take(&begun, all, first.insert(Vec::new()))?;
            }
            Ok(true)
        })
    }

    fn outcome(&self, index: usize) -> TimeStep<'_> {
        let step_type = self.kinds[index];
        let is_first = step_type == StepType::First;
        TimeStep {
            step_type,
            reward: (!is_first).then_some(self.rewards[index]),
            discount: (!is_first).then_some(self.discounts[index]),
            observation: self.of(&self.observations, index),
        }
    }

    fn begun(&self, index: usize) -> Option<TimeStep<'_>> {
        let first = self.first.as_ref()?;
        (self.kinds[index] == StepType::Last).then(|| TimeStep {
            step_type: StepType::First,
            reward: None,
            discount: None,
            observation: self.of(first, index),
        })
    }
}
