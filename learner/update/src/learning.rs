//! Steps one after another: the state, and what its steps leave to be read back later.

use burn::tensor::Device;

use crate::{BatchSource, Drawn, NotFinite, PriorityUpdates, Statistics, TrainState};

/// An update under way. A learner's thread and a run in lockstep both take their steps here.
#[derive(Debug)]
pub struct Learning {
    state: TrainState,
    statistics: Statistics,
    priorities: PriorityUpdates,
}

/// Which policies acted in a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Acted {
    /// Mean version over the batch's steps.
    pub mean_version: f64,
    /// The oldest version.
    pub oldest_version: i64,
}

impl Learning {
    /// Goes on from `state`.
    pub fn new(state: TrainState) -> Self {
        Self {
            state,
            statistics: Statistics::default(),
            priorities: PriorityUpdates::default(),
        }
    }

    /// The state.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// The state, for what happens between steps.
    pub fn state_mut(&mut self) -> &mut TrainState {
        &mut self.state
    }

    /// Takes a step on a batch of `source`; answers who acted in it.
    ///
    /// # Errors
    /// The source takes no priorities any more.
    pub fn step<S: BatchSource>(
        &mut self,
        drawn: &Drawn,
        source: &mut S,
    ) -> Result<Acted, S::Error> {
        self.deliver(source)?;
        let batch = self.state.prepare(&drawn.batch, drawn.weight);
        let mut statistics = self.state.update(&batch);
        if let Some(errors) = statistics.take_errors() {
            self.priorities.push(drawn, errors);
            // On the CPU they are there already; a GPU goes on meanwhile.
            if *self.state.device() == Device::flex() {
                self.deliver(source)?;
            }
        }
        let acted = Acted {
            mean_version: batch.mean_policy_version,
            oldest_version: *batch.name.policy_versions.start(),
        };
        self.statistics.push(statistics, batch.name);
        Ok(acted)
    }

    fn deliver<S: BatchSource>(&mut self, source: &mut S) -> Result<(), S::Error> {
        self.priorities
            .deliver(&self.state.config().priorities, source)
    }

    /// Steps whose statistics were not read.
    pub fn unread_steps(&self) -> u64 {
        self.statistics.pending()
    }

    /// Reads the statistics of those steps back: their means by name.
    ///
    /// # Errors
    /// A statistic is not finite.
    pub fn read_statistics(&mut self) -> Result<Vec<(&'static str, f32)>, NotFinite> {
        self.statistics.read(self.state.step())
    }
}
