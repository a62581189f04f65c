//! What an actor writes: the closed set of adders, each with the batch that its output is gathered in.

use pmpo_types::{EnvironmentSpec, Signature, StepBatch};

use crate::ActorError;
use crate::adder::{NStepAdder, Step};
use crate::insertion::{SequenceBatch, TransitionBatch};
use crate::sequence_adder::SequenceAdder;

/// What the learner of a run wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experience {
    /// Transitions over so many steps.
    NStep(usize),
    /// Windows over single steps.
    Sequences {
        /// Steps of a window to learn from.
        length: usize,
        /// Steps for each window.
        period: usize,
    },
}

/// An adder and its batch.
#[derive(Debug)]
pub(crate) enum Gatherer {
    NStep(NStepAdder, TransitionBatch),
    Sequences(SequenceAdder, SequenceBatch),
}

impl Gatherer {
    /// Gathers experience of an environment of this kind, discounted by `gamma` a step.
    pub(crate) fn new(experience: Experience, gamma: f64, spec: &EnvironmentSpec) -> Self {
        let (observations, actions) = (spec.observation_size(), spec.action_size());
        match experience {
            Experience::NStep(n_step) => Self::NStep(
                NStepAdder::new(n_step, gamma),
                TransitionBatch::new(observations, actions),
            ),
            Experience::Sequences { length, period } => Self::Sequences(
                SequenceAdder::new(length, period, gamma),
                SequenceBatch::new(observations, actions, length + 1),
            ),
        }
    }

    /// What the columns of its batches are.
    pub(crate) fn signature(&self) -> &Signature {
        match self {
            Self::NStep(_, batch) => batch.signature(),
            Self::Sequences(_, batch) => batch.signature(),
        }
    }

    /// Steps that are stored for an item.
    pub(crate) fn sequence_length(&self) -> usize {
        match self {
            Self::NStep(..) => 1,
            Self::Sequences(_, batch) => batch.sequence_length(),
        }
    }

    /// An episode has begun.
    pub(crate) fn first(&mut self, observation: &[f32]) {
        match self {
            Self::NStep(adder, _) => adder.first(observation),
            Self::Sequences(adder, _) => adder.first(observation),
        }
    }

    /// A step was taken.
    pub(crate) fn add(&mut self, step: Step<'_>) {
        match self {
            Self::NStep(adder, batch) => adder.add(step, |transition| batch.push(transition)),
            Self::Sequences(adder, batch) => adder.add(step, |stored| batch.push(stored)),
        }
    }

    /// The episode ends at the present state as by a time limit.
    pub(crate) fn truncate(&mut self) {
        match self {
            Self::NStep(adder, batch) => adder.truncate(|transition| batch.push(transition)),
            Self::Sequences(adder, batch) => adder.truncate(|stored| batch.push(stored)),
        }
    }

    /// The episode has become invalid; returns how many of its steps are dropped.
    pub(crate) fn discard(&mut self) -> usize {
        match self {
            Self::NStep(adder, _) => adder.discard(),
            Self::Sequences(adder, _) => adder.discard(),
        }
    }

    /// Steps or transitions gathered.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::NStep(_, batch) => batch.len(),
            Self::Sequences(_, batch) => batch.len(),
        }
    }

    /// Takes what was gathered.
    pub(crate) fn take(&mut self) -> Result<StepBatch, ActorError> {
        match self {
            Self::NStep(_, batch) => Ok(StepBatch::transitions(batch.take()?)),
            Self::Sequences(_, batch) => Ok(batch.take()?),
        }
    }
}
