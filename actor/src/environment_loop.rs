//! One environment's thread: act with the newest policy, step, collect; report each episode.
//!
//! Follows `acme/environment_loop.py`. An episode whose simulation diverges is void: it is counted,
//! its open steps are dropped, and a new one begins.

use std::time::Duration;

use ::metrics::{Counter, Gauge, counter, gauge};
use pmpo_policy::clip;
use pmpo_proto::v1;
use pmpo_service::worker_time::WorkerTime;
use pmpo_suite::{Environment, SuiteError};
use pmpo_types::TimeStep;
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;

use crate::adder::Step;
use crate::canonical::{ActionScale, narrow};
use crate::collector::Collector;
use crate::insertion::StepSink;
use crate::reports::EpisodeReports;
use crate::weights::{Policy, WeightsSource};
use crate::{ActorError, metrics};

/// Divergent episodes in a row after which the task is taken to be broken.
const MAX_DIVERGENCES: usize = 100;

/// What an environment's thread works with.
pub(crate) struct EnvironmentLoop<W, S> {
    pub(crate) actor: String,
    pub(crate) environment: Environment,
    pub(crate) weights: W,
    pub(crate) collector: Collector<S>,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) episodes: EpisodeReports,
    pub(crate) shutdown: CancellationToken,
    /// How long the sink may take to store what is left at the end.
    pub(crate) grace: Duration,
}

/// How an episode ended.
enum Ending {
    Finished(v1::ReportEpisodeRequest),
    Diverged(String),
    Interrupted,
}

/// What the thread does.
#[derive(Clone, Copy)]
enum State {
    Inference,
    Environment,
    Inserting,
}

/// The names of [`State`], in its order.
const STATES: [&str; 3] = ["inference", "environment", "inserting"];

/// Buffers and counters of the loop.
struct Workspace {
    scale: ActionScale,
    observation: Vec<f32>,
    /// The action as the policy drew it, and as it is carried out.
    drawn: Vec<f32>,
    action: Vec<f32>,
    steps: Counter,
    episodes: Counter,
    episode_return: Gauge,
    episode_length: Gauge,
    time: WorkerTime<3>,
}

impl<W: WeightsSource, S: StepSink> EnvironmentLoop<W, S> {
    /// Acts until told to stop, then leaves nothing unstored that can be stored in time.
    pub(crate) fn run(mut self) -> Result<(), ActorError> {
        let Some(mut policy) = self.weights.wait() else {
            return Ok(());
        };
        let spec = self.environment.spec();
        let mut workspace = Workspace {
            scale: ActionScale::new(&spec.action),
            observation: Vec::with_capacity(spec.observation_size()),
            drawn: vec![0.0; spec.action_size()],
            action: vec![0.0; spec.action_size()],
            steps: counter!(metrics::ENVIRONMENT_STEPS),
            episodes: counter!(metrics::EPISODES),
            episode_return: gauge!(metrics::EPISODE_RETURN),
            episode_length: gauge!(metrics::EPISODE_LENGTH),
            time: WorkerTime::new(metrics::WORKER_SECONDS, STATES),
        };
        let mut divergences = 0;
        loop {
            match self.episode(&mut policy, &mut workspace) {
                Ok(Ending::Finished(report)) => {
                    divergences = 0;
                    workspace.episodes.increment(1);
                    workspace.episode_return.set(report.episode_return);
                    workspace.episode_length.set(report.length as f64);
                    self.episodes.report(report);
                }
                Ok(Ending::Diverged(error)) => {
                    divergences += 1;
                    self.void_episode(&error);
                    if divergences == MAX_DIVERGENCES {
                        return Err(ActorError::Divergence {
                            attempts: divergences,
                            error,
                        });
                    }
                }
                Ok(Ending::Interrupted) => break,
                // A push that was blocked when the time to stop came; its batch is lost, and logged.
                Err(ActorError::Replay(pmpo_replay_client::ClientError::Shutdown)) => break,
                Err(error) => return Err(error),
            }
        }
        self.collector.finish(self.grace)
    }

    fn episode(
        &mut self,
        policy: &mut Policy,
        workspace: &mut Workspace,
    ) -> Result<Ending, ActorError> {
        let Workspace {
            scale,
            observation,
            drawn,
            action,
            steps,
            time,
            ..
        } = workspace;
        match valid(self.environment.reset(), observation)? {
            Ok(_) => self.collector.first(observation),
            Err(divergence) => return Ok(Ending::Diverged(divergence)),
        }
        time.lap(State::Environment as usize);
        let (mut episode_return, mut length) = (0.0, 0);
        loop {
            if self.shutdown.is_cancelled() {
                return Ok(Ending::Interrupted);
            }
            if let Some(newer) = self.weights.newer() {
                *policy = newer;
            }
            let rng = &mut self.rng;
            let log_prob = policy.network.sample_with_log_prob(observation, rng, drawn);
            action.copy_from_slice(drawn);
            clip(action);
            time.lap(State::Inference as usize);
            let step = self.environment.step(scale.scale(action));
            time.lap(State::Environment as usize);
            let (reward, discount, last) = match valid(step, observation)? {
                Ok(outcome) => outcome,
                Err(divergence) => return Ok(Ending::Diverged(divergence)),
            };
            episode_return += reward;
            length += 1;
            steps.increment(1);
            self.collector.step(Step {
                action,
                drawn,
                log_prob,
                policy_version: policy.version,
                reward,
                discount,
                next_observation: observation,
                last,
            })?;
            time.lap(State::Inserting as usize);
            if last {
                return Ok(Ending::Finished(v1::ReportEpisodeRequest {
                    actor: self.actor.clone(),
                    episode_return,
                    length,
                    policy_version: policy.version.0,
                }));
            }
        }
    }

    fn void_episode(&mut self, error: &str) {
        let dropped = self.collector.diverged();
        counter!(metrics::DIVERGENT_EPISODES).increment(1);
        counter!(metrics::DISCARDED_STEPS).increment(dropped as u64);
        tracing::warn!(
            error,
            dropped_steps = dropped,
            "an episode diverged and is void"
        );
    }
}

/// Reward, discount and whether the episode ended; a reset has none of them: 0, 1 and no.
pub(crate) type Outcome = (f64, f64, bool);

/// Takes a time step's observation over, or tells why the episode is void: the physics diverged, or
/// a number left the range of `f32`.
pub(crate) fn valid(
    step: Result<TimeStep<'_>, SuiteError>,
    observation: &mut Vec<f32>,
) -> Result<Result<Outcome, String>, SuiteError> {
    let step = match step {
        Ok(step) => step,
        Err(SuiteError::Physics(error)) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error),
    };
    let (reward, discount) = (step.reward.unwrap_or(0.0), step.discount.unwrap_or(1.0));
    if !narrow(step.observation, observation) {
        return Ok(Err("an observation is not finite in f32".to_owned()));
    }
    if !(reward as f32).is_finite() {
        return Ok(Err(format!("the reward is {reward}")));
    }
    Ok(Ok((reward, discount, step.is_last())))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use pmpo_replay_client::ClientError;
    use pmpo_types::{EnvironmentSpec, StepBatch, step, transition};
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::experience::{Experience, Gatherer};
    use crate::testing::{Script, policy};

    struct ChannelSink(Sender<StepBatch>);

    impl StepSink for ChannelSink {
        fn push(&mut self, batch: &StepBatch) -> Result<(), ClientError> {
            self.0
                .send(batch.clone())
                .map_err(|_| ClientError::Shutdown)
        }

        fn flush(&mut self, _: Duration) -> Result<(), ClientError> {
            Ok(())
        }
    }

    fn collector(
        experience: Experience,
        spec: &EnvironmentSpec,
        sender: Sender<StepBatch>,
    ) -> Collector<ChannelSink> {
        let gatherer = Gatherer::new(experience, 0.99, spec);
        Collector::new(gatherer, 32, ChannelSink(sender))
    }

    /// Acts for `steps` steps on cartpole swingup, with policy version 1 and, from step `switch` on,
    /// version 2.
    fn act(
        experience: Experience,
        steps: usize,
        switch: usize,
    ) -> (
        Receiver<StepBatch>,
        tokio::sync::mpsc::Receiver<v1::ReportEpisodeRequest>,
    ) {
        let environment = pmpo_suite::load("cartpole-swingup", 5).unwrap();
        let spec = environment.spec().clone();
        let shutdown = CancellationToken::new();
        let mut weights = Script::new(&shutdown);
        weights.first = Some(policy(environment.spec(), 1, 0));
        weights
            .later
            .insert(switch, policy(environment.spec(), 2, 100));
        weights.steps = steps;
        let (sender, batches) = channel();
        let (episodes, reports) = EpisodeReports::new(8);
        let work = EnvironmentLoop {
            actor: "actor-0".to_owned(),
            environment,
            weights,
            collector: collector(experience, &spec, sender),
            rng: ChaCha8Rng::seed_from_u64(3),
            episodes,
            shutdown,
            grace: Duration::ZERO,
        };
        work.run().unwrap();
        (batches, reports)
    }

    fn versions(batches: &[StepBatch], column: usize) -> Vec<i64> {
        batches
            .iter()
            .flat_map(|batch| batch.steps().columns()[column].chunks_exact(8))
            .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    fn floats(batches: &[StepBatch], column: usize) -> Vec<f32> {
        batches
            .iter()
            .flat_map(|batch| batch.steps().columns()[column].chunks_exact(4))
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn every_step_becomes_one_transition_of_the_version_that_acted() {
        let (batches, mut reports) = act(Experience::NStep(3), 1500, 600);
        let batches: Vec<_> = batches.iter().collect();
        let actions = floats(&batches, transition::ACTION);
        assert!(
            actions.iter().all(|action| action.abs() <= 1.0),
            "carried out"
        );
        let versions = versions(&batches, transition::POLICY_VERSION);
        assert_eq!(versions.len(), 1500);
        assert!(versions[..600].iter().all(|version| *version == 1));
        assert!(versions[600..].iter().all(|version| *version == 2));

        let report = reports.try_recv().unwrap();
        assert_eq!((report.length, report.policy_version), (1000, 2));
        assert!((0.0..1000.0).contains(&report.episode_return));
        assert!(
            reports.try_recv().is_err(),
            "the second episode did not finish"
        );
    }

    /// Episodes of 1000 steps: 1000 rows and the last observation, then 500 rows and the state that the
    /// actor was stopped in.
    #[test]
    fn sequences_hold_actions_as_drawn_with_their_log_probabilities() {
        let experience = Experience::Sequences {
            length: 8,
            period: 4,
        };
        let (batches, _) = act(experience, 1500, 600);
        let batches: Vec<_> = batches.iter().collect();
        let versions = versions(&batches, step::POLICY_VERSION);
        assert_eq!(versions.len(), 1502);
        assert!(versions[..600].iter().all(|version| *version == 1));
        assert!(versions[600..].iter().all(|version| *version == 2));
        let windows: usize = batches.iter().map(StepBatch::items).sum();
        assert_eq!(windows, 1500 / 4);

        let actions = floats(&batches, step::ACTION);
        assert!(
            actions.iter().any(|action| action.abs() > 1.0),
            "not clipped"
        );
        let log_probs = floats(&batches, step::LOG_PROB);
        // The untrained policy's mean is 0, its standard deviation 0.7.
        for (row, (action, log_prob)) in actions.iter().zip(log_probs).enumerate() {
            let expected =
                -0.5 * (action / 0.7).powi(2) - (0.7 * std::f32::consts::TAU.sqrt()).ln();
            let last = [1000, 1501].contains(&row);
            let expected = if last { 0.0 } else { expected };
            assert!(
                (log_prob - expected).abs() < 1e-4,
                "row {row}: {log_prob}, {expected}"
            );
        }
    }

    #[test]
    fn the_same_seeds_give_the_same_experience() {
        let experience = || {
            act(Experience::NStep(3), 300, 200)
                .0
                .iter()
                .collect::<Vec<_>>()
        };
        let first = experience();
        assert!(!first.is_empty());
        assert_eq!(first, experience());
    }

    #[test]
    fn without_a_policy_nothing_happens() {
        let environment = pmpo_suite::load("cartpole-swingup", 5).unwrap();
        let shutdown = CancellationToken::new();
        let (sender, batches) = channel();
        let work = EnvironmentLoop {
            actor: "actor-0".to_owned(),
            collector: collector(Experience::NStep(3), environment.spec(), sender),
            environment,
            weights: Script::new(&shutdown),
            rng: ChaCha8Rng::seed_from_u64(3),
            episodes: EpisodeReports::new(8).0,
            shutdown,
            grace: Duration::ZERO,
        };
        work.run().unwrap();
        assert_eq!(batches.iter().count(), 0);
    }

    #[test]
    fn steps_that_cannot_be_learned_from_void_the_episode() {
        let step = |reward, observation| {
            Ok(TimeStep {
                step_type: pmpo_types::StepType::Mid,
                reward: Some(reward),
                discount: Some(1.0),
                observation,
            })
        };
        let mut observation = Vec::new();
        assert_eq!(
            valid(step(0.5, &[1.0]), &mut observation).unwrap(),
            Ok((0.5, 1.0, false))
        );
        assert_eq!(observation, [1.0]);
        for bad in [
            step(f64::NAN, &[1.0]),
            step(1e300, &[1.0]),
            step(0.0, &[f64::INFINITY]),
        ] {
            assert!(valid(bad, &mut observation).unwrap().is_err());
        }
        let broken = SuiteError::ActionSize {
            found: 1,
            expected: 2,
        };
        assert!(
            valid(Err(broken), &mut observation).is_err(),
            "not every error is a divergence"
        );
    }
}
