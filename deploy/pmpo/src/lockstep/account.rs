//! What a run in lockstep says of itself: to whoever watches while it goes on, to its checkpoints, and at its
//! end. The metrics are those of a learner by itself, so that the record of either is the same.

use ::metrics::gauge;
use pmpo_learner::checkpoint::{EnvironmentSteps, Totals};
use pmpo_learner::{EndReason, RunOutcome, metrics};
use pmpo_proto::v1;

use super::Lockstep;
use crate::train::display::Display;

impl Lockstep {
    /// Tells whoever watches, on the terminal and beyond, how it stands.
    pub(super) fn show(&self, display: &Display) {
        let status = self.status();
        let (newest, acted) = (status.policy_version as f64, self.acted);
        let lag = |version: Option<f64>| version.map(|version| newest - version);
        for (name, value) in [
            (metrics::STEPS, Some(status.learner_steps as f64)),
            (
                metrics::ENVIRONMENT_STEPS,
                Some(status.environment_steps as f64),
            ),
            (metrics::POLICY_VERSION, Some(newest)),
            (metrics::REPLAY_ITEMS, Some(status.replay_size as f64)),
            (metrics::TRAIN_RETURN, status.train_return_mean),
            (
                metrics::STALENESS,
                lag(acted.map(|acted| acted.mean_version)),
            ),
            (
                metrics::MAX_STALENESS,
                lag(acted.map(|acted| acted.oldest_version as f64)),
            ),
        ] {
            if let Some(value) = value {
                gauge!(name).set(value);
            }
        }
        display.update(&status);
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            learner_steps: self.learning.state().step(),
            policy_version: self.progressed.policy_version,
            environment: EnvironmentSteps {
                total: self.progressed.env_steps,
                table_inserts: vec![self.source.table.counters().inserts],
            },
            training_seconds: self.seconds(),
        }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    fn status(&self) -> v1::RunStatus {
        let totals = self.totals();
        let training = totals.learner_steps > 0;
        v1::RunStatus {
            state: if training {
                v1::RunState::Training
            } else {
                v1::RunState::WaitingForData
            }
            .into(),
            learner_steps: totals.learner_steps,
            policy_version: totals.policy_version,
            environment_steps: totals.environment.total,
            replay_size: self.source.table.counters().size,
            training_seconds: totals.training_seconds,
            evaluations: self.progressed.evaluations,
            last_evaluation: self.last_evaluation,
            train_return_mean: self.train_return_mean(),
        }
    }

    pub(super) fn outcome(&self, reason: EndReason) -> RunOutcome {
        let totals = self.totals();
        RunOutcome {
            reason,
            learner_steps: totals.learner_steps,
            env_steps: totals.environment.total,
            policy_version: totals.policy_version,
            training_seconds: totals.training_seconds,
            last_return_mean: self.last_return,
        }
    }
}
