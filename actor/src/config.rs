//! Configuration of actors and evaluators.

use std::time::Duration;

use pmpo_replay_client::WriterConfig;
use pmpo_types::{ConfigError, EnvironmentSpec};
use serde::{Deserialize, Serialize};

use crate::noise::NoiseRepeat;

/// Refuses `got` for `field` unless what is expected holds.
fn check(
    holds: bool,
    field: &str,
    expected: impl Into<String>,
    got: impl ToString,
) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::new(field, expected, got))
}

/// Seconds that a step of an environment in Python may take, unless it is said.
const ENVIRONMENT_TIMEOUT_S: f64 = 60.0;

fn check_timeout(seconds: f64) -> Result<(), ConfigError> {
    check(
        seconds > 0.0 && seconds <= 86_400.0,
        "environment_timeout_s",
        "more than 0, at most 86400 seconds",
        seconds,
    )
}

/// How an actor acts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActorConfig {
    /// Environments in the process, each with its thread and its writer.
    pub environments: usize,
    /// Steps of the policy for which a draw of its noise is kept: a number, or `"zeta"`.
    pub noise_repeat: NoiseRepeat,
    /// Transitions or steps an environment gathers before it hands them to its writer; at the end of an
    /// episode it hands over what there is.
    pub insert_batch_items: usize,
    /// Finished episodes waiting to be reported to the learner; beyond it reports are dropped and
    /// counted, for they are only for display.
    pub report_queue_episodes: usize,
    /// How long a process that is told to stop waits for its transitions to be stored.
    pub shutdown_grace_s: f64,
    /// How long a step or a reset of an environment in Python may take: beyond it the process ends, and
    /// whoever supervises it starts it anew.
    pub environment_timeout_s: f64,
    /// Insertion into the replay.
    pub writer: WriterConfig,
}

impl Default for ActorConfig {
    fn default() -> Self {
        Self {
            environments: 4,
            noise_repeat: NoiseRepeat::default(),
            insert_batch_items: 32,
            report_queue_episodes: 64,
            shutdown_grace_s: 2.0,
            environment_timeout_s: ENVIRONMENT_TIMEOUT_S,
            writer: WriterConfig::default(),
        }
    }
}

impl ActorConfig {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check(
            (1..=1024).contains(&self.environments),
            "environments",
            "1 to 1024",
            self.environments,
        )?;
        self.noise_repeat.validate()?;
        self.writer
            .validate()
            .map_err(|error| error.within("writer"))?;
        let most = self.writer.max_in_flight_items;
        check(
            (1..=most).contains(&self.insert_batch_items),
            "insert_batch_items",
            format!("1 to writer.max_in_flight_items = {most}"),
            self.insert_batch_items,
        )?;
        check(
            self.report_queue_episodes > 0,
            "report_queue_episodes",
            "at least 1",
            self.report_queue_episodes,
        )?;
        check(
            (0.0..=3600.0).contains(&self.shutdown_grace_s),
            "shutdown_grace_s",
            "0 to 3600 seconds",
            self.shutdown_grace_s,
        )?;
        check_timeout(self.environment_timeout_s)
    }

    pub(crate) fn environment_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.environment_timeout_s)
    }

    pub(crate) fn shutdown_grace(&self) -> Duration {
        Duration::from_secs_f64(self.shutdown_grace_s)
    }
}

/// How an evaluator evaluates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluatorConfig {
    /// Episodes of an evaluation.
    pub episodes: usize,
    /// Learner steps between evaluations, as recorded in the snapshots; the initial policy is
    /// evaluated too.
    pub period_learner_steps: u64,
    /// Threads that share the episodes of an evaluation, each with its environment.
    pub threads: usize,
    /// Steps after which an episode of an evaluation is over; not set: the task's time limit, and
    /// [`ENDLESS_EPISODE_STEPS`] where it has none.
    pub max_episode_steps: Option<usize>,
    /// As an actor's.
    pub environment_timeout_s: f64,
}

/// Steps of an evaluation's episode in a task without a time limit: as many as the suite's others have.
pub const ENDLESS_EPISODE_STEPS: usize = 1000;

impl Default for EvaluatorConfig {
    fn default() -> Self {
        Self {
            episodes: 10,
            period_learner_steps: 1000,
            threads: 1,
            max_episode_steps: None,
            environment_timeout_s: ENVIRONMENT_TIMEOUT_S,
        }
    }
}

impl EvaluatorConfig {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check(
            (1..=100_000).contains(&self.episodes),
            "episodes",
            "1 to 100000",
            self.episodes,
        )?;
        check(
            self.period_learner_steps > 0,
            "period_learner_steps",
            "at least 1",
            self.period_learner_steps,
        )?;
        check(
            (1..=self.episodes).contains(&self.threads),
            "threads",
            format!("1 to episodes = {}", self.episodes),
            self.threads,
        )?;
        check(
            self.max_episode_steps != Some(0),
            "max_episode_steps",
            "at least 1",
            0,
        )?;
        check_timeout(self.environment_timeout_s)
    }

    pub(crate) fn environment_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.environment_timeout_s)
    }

    /// Steps after which an episode of an evaluation is over in a task.
    pub fn episode_steps(&self, spec: &EnvironmentSpec) -> usize {
        let own = spec.step_limit.unwrap_or(ENDLESS_EPISODE_STEPS);
        self.max_episode_steps.unwrap_or(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_work_and_quotes_it() {
        assert_eq!(ActorConfig::default().validate(), Ok(()));
        assert_eq!(EvaluatorConfig::default().validate(), Ok(()));
        let actor = |change: fn(&mut ActorConfig)| {
            let mut config = ActorConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let evaluator = |change: fn(&mut EvaluatorConfig)| {
            let mut config = EvaluatorConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let cases = [
            (
                actor(|c| c.environments = 0),
                "environments: expected 1 to 1024, got 0",
            ),
            (
                actor(|c| c.noise_repeat = NoiseRepeat::Fixed(0)),
                "noise_repeat: expected 1 to 1000 steps, or zeta, got 0",
            ),
            (
                actor(|c| c.insert_batch_items = 300),
                "insert_batch_items: expected 1 to writer.max_in_flight_items = 256, got 300",
            ),
            (
                actor(|c| c.writer.max_in_flight_items = 0),
                "writer.max_in_flight_items: expected at least 1, got 0",
            ),
            (
                actor(|c| c.report_queue_episodes = 0),
                "report_queue_episodes: expected at least 1, got 0",
            ),
            (
                actor(|c| c.environment_timeout_s = 0.0),
                "environment_timeout_s: expected more than 0, at most 86400 seconds, got 0",
            ),
            (
                actor(|c| c.shutdown_grace_s = f64::NAN),
                "shutdown_grace_s: expected 0 to 3600 seconds, got NaN",
            ),
            (
                evaluator(|c| c.episodes = 0),
                "episodes: expected 1 to 100000, got 0",
            ),
            (
                evaluator(|c| c.period_learner_steps = 0),
                "period_learner_steps: expected at least 1, got 0",
            ),
            (
                evaluator(|c| c.threads = 11),
                "threads: expected 1 to episodes = 10, got 11",
            ),
            (
                evaluator(|c| c.max_episode_steps = Some(0)),
                "max_episode_steps: expected at least 1, got 0",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }
}
