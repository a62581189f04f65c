//! Evaluation: returns of whole episodes with the mode of the policy. [`evaluate`] for one policy;
//! [`run`] as a role that follows a learner.

use std::time::Instant;

use ::metrics::{counter, gauge};
use pmpo_policy::PolicyNetwork;
use pmpo_proto::v1::{self, MemberRole};
use pmpo_service::grpc;
use pmpo_service::metrics::unix_seconds;
use pmpo_service::readiness::Readiness;
use pmpo_service::security::Credentials;
use pmpo_types::{EnvironmentSpec, Generator, derive_seed, usable_return};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::canonical::ActionScale;
use crate::environment::{self, Environment, Loaded};
use crate::lane::valid;
use crate::membership::Joined;
use crate::reports::report_evaluations;
use crate::run::{POLICY, until};
use crate::vector_evaluation::vector_returns;
use crate::weights::{Policy, WeightsSource, subscribe};
use crate::{ActorError, EvaluatorConfig, metrics};

/// Evaluations waiting to be reported; the evaluator waits beyond it, for none may be lost.
const REPORT_QUEUE_EVALUATIONS: usize = 4;

/// Returns of an evaluation's episodes.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationResult {
    /// Return of each episode.
    pub returns: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their population standard deviation.
    pub std: f64,
}

impl EvaluationResult {
    /// What these returns come to, of which there is at least one.
    pub fn new(returns: Vec<f64>) -> Self {
        let n = returns.len() as f64;
        let mean = returns.iter().sum::<f64>() / n;
        let variance = returns
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
            / n;
        Self {
            returns,
            mean,
            std: variance.sqrt(),
        }
    }
}

/// Runs as many episodes as `config` says, one after the other, with the mode of the policy. Episodes that
/// diverge are void and repeated.
///
/// # Errors
/// The environment fails, or more episodes diverge than there are to be.
///
/// # Panics
/// If there are none to be, or the sizes of policy and environment differ.
pub fn evaluate(
    policy: &mut PolicyNetwork,
    environment: &mut dyn Environment,
    config: &EvaluatorConfig,
) -> Result<EvaluationResult, ActorError> {
    let part = Part::all(config, environment.spec());
    let stop = CancellationToken::new();
    let returns = returns(policy, environment, part, &stop)?;
    Ok(EvaluationResult::new(returns))
}

/// Episodes for one environment, or for a vector.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) episodes: usize,
    /// After which each is over.
    pub(crate) steps: usize,
}

impl Part {
    /// An evaluation's, of which there is at least one.
    pub(crate) fn all(config: &EvaluatorConfig, spec: &EnvironmentSpec) -> Self {
        let episodes = config.episodes;
        assert!(episodes > 0, "an evaluation has at least one episode");
        Self {
            episodes,
            steps: config.episode_steps(spec),
        }
    }
}

/// Returns of the episodes of a part; fewer where `stop` was cancelled.
fn returns(
    policy: &mut PolicyNetwork,
    environment: &mut dyn Environment,
    Part { episodes, steps }: Part,
    stop: &CancellationToken,
) -> Result<Vec<f64>, ActorError> {
    let mut returns = Vec::with_capacity(episodes);
    let mut divergences = 0;
    while returns.len() < episodes && !stop.is_cancelled() {
        match episode(policy, environment, steps, &mut |_| !stop.is_cancelled())? {
            // It was cut short.
            Ok(_) if stop.is_cancelled() => {}
            Ok(value) => returns.push(value),
            Err(error) => diverged(&mut divergences, episodes, &environment.spec().task, error)?,
        }
    }
    Ok(returns)
}

/// An episode is void; no more of them may be than there are to be episodes.
pub(crate) fn diverged(
    divergences: &mut usize,
    episodes: usize,
    task: &str,
    error: String,
) -> Result<(), ActorError> {
    *divergences += 1;
    counter!(metrics::DIVERGENT_EPISODES).increment(1);
    tracing::warn!(
        task,
        error,
        "an evaluation's episode diverged and is repeated"
    );
    if *divergences <= episodes {
        return Ok(());
    }
    Err(ActorError::Divergence {
        attempts: *divergences,
        error,
    })
}

/// Plays one episode with the mode of the policy and shows the environment in each of its states, the
/// initial one first, to `watch`, until that answers `false`, or for so many `steps`. Returns the return up
/// to there.
///
/// # Errors
/// The environment fails, or the episode diverges.
///
/// # Panics
/// If the sizes of policy and environment differ.
pub fn play<E: Environment + ?Sized>(
    policy: &mut PolicyNetwork,
    environment: &mut E,
    steps: usize,
    mut watch: impl FnMut(&mut E) -> bool,
) -> Result<f64, ActorError> {
    episode(policy, environment, steps, &mut watch)?
        .map_err(|error| ActorError::Divergence { attempts: 1, error })
}

/// The return of one episode of at most so many `steps`, or why it is void.
fn episode<E: Environment + ?Sized>(
    policy: &mut PolicyNetwork,
    environment: &mut E,
    steps: usize,
    watch: &mut dyn FnMut(&mut E) -> bool,
) -> Result<Result<f64, String>, ActorError> {
    let mut scale = ActionScale::new(&environment.spec().action);
    let mut action = vec![0.0; environment.spec().action_size()];
    let mut observation = Vec::new();
    if let Err(divergence) = valid(environment.reset(), &mut observation)? {
        return Ok(Err(divergence));
    }
    let mut episode_return = 0.0;
    for _ in 0..steps {
        if !watch(environment) {
            return Ok(Ok(episode_return));
        }
        policy.mode(&observation, &mut action);
        match valid(environment.step(scale.scale(&action)), &mut observation)? {
            Ok((reward, _, false)) => episode_return += reward,
            Ok((reward, _, true)) => {
                episode_return += reward;
                break;
            }
            Err(divergence) => return Ok(Err(divergence)),
        }
    }
    watch(environment);
    Ok(Ok(episode_return))
}

/// As [`evaluate`], the episodes divided among the environments, a thread each; `None` where `stop` was
/// cancelled before the end.
fn evaluate_in_parallel(
    policy: &PolicyNetwork,
    environments: &mut [Loaded],
    config: &EvaluatorConfig,
    stop: &CancellationToken,
) -> Result<Option<EvaluationResult>, ActorError> {
    let (threads, episodes) = (environments.len(), config.episodes);
    let parts = std::thread::scope(|scope| {
        let workers: Vec<_> = environments
            .iter_mut()
            .enumerate()
            .map(|(i, environment)| {
                let part = Part {
                    episodes: episodes / threads + usize::from(i < episodes % threads),
                    steps: config.episode_steps(environment.spec()),
                };
                let mut policy = policy.clone();
                let play = move || match environment {
                    Loaded::One(one) => returns(&mut policy, one.as_mut(), part, stop),
                    Loaded::Vector(all) => vector_returns(&mut policy, all.as_mut(), part, stop),
                };
                scope.spawn(move || environment::on_thread(play))
            })
            .collect();
        let panicked = |_| Err(ActorError::Panicked("an evaluation's thread".to_owned()));
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(panicked))
            .collect()
    });
    let parts: Result<Vec<Vec<f64>>, ActorError> = parts;
    let returns = parts?.concat();
    Ok((returns.len() == episodes).then(|| EvaluationResult::new(returns)))
}

/// Follows the learner at `learner` (`host:port`), shown `credentials`, and evaluates its policy each
/// period of learner steps, until `shutdown`, as the run's evaluator number `index` or the lowest that
/// is free.
///
/// # Errors
/// The configuration, the task or the learner cannot be used, or the index is another's; an absent
/// learner is waited for.
pub async fn run(
    config: EvaluatorConfig,
    learner: &str,
    credentials: &Credentials,
    index: impl Into<Option<u64>>,
    shutdown: CancellationToken,
) -> Result<(), ActorError> {
    metrics::describe_evaluator();
    config.validate()?;
    let channel = grpc::connect_lazy(learner, credentials)?;
    let readiness = Readiness::new(&[POLICY], &shutdown);
    let joined = Joined::wait(&channel, MemberRole::Evaluator, index.into(), &shutdown).await?;
    let Some(joined) = joined else {
        return Ok(());
    };
    let Joined {
        run,
        index,
        mut crew,
        shutdown,
    } = joined;
    let _stop = shutdown.clone().drop_guard();
    let count = config.threads as u64;
    let seeds = (index * count..(index + 1) * count)
        .map(|number| derive_seed(run.seed, Generator::Evaluator, number));
    let environments = run
        .environments(seeds.collect(), config.environment_timeout())
        .await?;
    let name = format!("evaluator-{index}");
    tracing::info!(task = run.task, threads = config.threads, "evaluating");

    let spec = environments[0].spec();
    let (weights, subscription) = subscribe(channel.clone(), name.clone(), &run, spec, &shutdown);
    crew.task(subscription);
    let first = weights.clone().first();
    let waiting = async move {
        if first.await {
            readiness.met(POLICY);
        }
    };
    crew.task(until(shutdown.clone(), waiting));
    let (reports, queue) = mpsc::channel(REPORT_QUEUE_EVALUATIONS);
    crew.task(report_evaluations(channel, queue, shutdown.clone()));
    let follower = Follower {
        name: name.clone(),
        config,
        weights,
        environments,
        shutdown,
    };
    crew.thread(name, move || {
        // The queue is closed only when the process is ending.
        follower.run(|report| reports.blocking_send(report).is_ok())
    });
    crew.join().await
}

/// The evaluator's thread.
struct Follower<W> {
    name: String,
    config: EvaluatorConfig,
    weights: W,
    environments: Vec<Loaded>,
    shutdown: CancellationToken,
}

impl<W: WeightsSource> Follower<W> {
    /// Evaluates what is due, until told to stop or the reports' receiver is gone.
    fn run(
        mut self,
        mut report: impl FnMut(v1::ReportEvaluationRequest) -> bool,
    ) -> Result<(), ActorError> {
        let mut last_period = None;
        while let Some(policy) = self.weights.wait() {
            let period = policy.learner_step / self.config.period_learner_steps;
            if last_period == Some(period) {
                continue;
            }
            last_period = Some(period);
            let Some(evaluation) = self.evaluate(&policy)? else {
                break;
            };
            let (mean, std) = (evaluation.return_mean, evaluation.return_std);
            if !(usable_return(mean) && usable_return(std)) {
                // The learner would refuse it, and an evaluator that was refused ends.
                tracing::warn!(
                    mean,
                    std,
                    "an evaluation with rewards that are too large is not reported"
                );
                continue;
            }
            let evaluator = self.name.clone();
            if !report(v1::ReportEvaluationRequest {
                evaluator,
                evaluation: Some(evaluation),
            }) {
                break;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, policy: &Policy) -> Result<Option<v1::Evaluation>, ActorError> {
        let start = Instant::now();
        let (config, environments) = (&self.config, &mut self.environments);
        let result = evaluate_in_parallel(&policy.network, environments, config, &self.shutdown)?;
        let Some(result) = result else {
            return Ok(None);
        };
        counter!(metrics::EVALUATIONS).increment(1);
        gauge!(metrics::EVALUATION_RETURN).set(result.mean);
        gauge!(metrics::EVALUATION_SECONDS).set(start.elapsed().as_secs_f64());
        gauge!(metrics::LAST_EVALUATION).set(unix_seconds());
        tracing::info!(
            policy_version = policy.version.0,
            learner_step = policy.learner_step,
            return_mean = result.mean,
            return_std = result.std,
            seconds = start.elapsed().as_secs_f64(),
            "evaluated"
        );
        Ok(Some(v1::Evaluation {
            policy_version: policy.version.0,
            learner_step: policy.learner_step,
            return_mean: result.mean,
            return_std: result.std,
            episodes: self.config.episodes as u32,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ENDLESS_EPISODE_STEPS;
    use crate::testing::{Script, policy};

    fn environment(seed: u64) -> pmpo_suite::Environment {
        pmpo_suite::load("cartpole-balance", seed).unwrap()
    }

    fn one(seed: u64) -> Loaded {
        Loaded::One(environment(seed).into())
    }

    fn episodes(episodes: usize) -> EvaluatorConfig {
        EvaluatorConfig {
            episodes,
            ..EvaluatorConfig::default()
        }
    }

    #[test]
    fn the_deviation_is_that_of_the_population() {
        let result = EvaluationResult::new(vec![1.0, 3.0]);
        assert_eq!((result.mean, result.std), (2.0, 1.0));
        assert_eq!(EvaluationResult::new(vec![5.0]).std, 0.0);
    }

    #[test]
    fn evaluations_are_reproducible_and_episodes_differ() {
        let mut network = policy(environment(1).spec(), 1, 0).network;
        let result = evaluate(&mut network, &mut environment(1), &episodes(3)).unwrap();
        assert_eq!(result.returns.len(), 3);
        assert_ne!(result.returns[0], result.returns[1]);
        assert!(
            result
                .returns
                .iter()
                .all(|value| (1.0..1000.0).contains(value))
        );
        assert_eq!(
            evaluate(&mut network, &mut environment(1), &episodes(3)).unwrap(),
            result
        );
    }

    #[test]
    fn threads_share_the_episodes() {
        let mut network = policy(environment(1).spec(), 1, 0).network;
        let mut environments = [one(1), one(2)];
        let stop = CancellationToken::new();
        let shared = evaluate_in_parallel(&network, &mut environments, &episodes(3), &stop)
            .unwrap()
            .unwrap();
        let first = evaluate(&mut network, &mut environment(1), &episodes(2)).unwrap();
        let second = evaluate(&mut network, &mut environment(2), &episodes(1)).unwrap();
        assert_eq!(shared.returns, [first.returns, second.returns].concat());

        stop.cancel();
        let stopped =
            evaluate_in_parallel(&network, &mut environments, &episodes(3), &stop).unwrap();
        assert_eq!(stopped, None);
    }

    /// lqr has no time limit, and ends by itself at rest in the origin alone.
    #[test]
    fn a_task_without_a_time_limit_is_evaluated_for_so_many_steps() {
        let mut environment = pmpo_suite::load("lqr-lqr-2-1", 1).unwrap();
        let mut network = policy(environment.spec(), 1, 0).network;
        let steps_of = |environment: &mut pmpo_suite::Environment,
                        network: &mut PolicyNetwork,
                        config: &EvaluatorConfig| {
            let steps = config.episode_steps(environment.spec());
            let mut states = 0;
            play(network, environment, steps, |_| {
                states += 1;
                true
            })
            .unwrap();
            states - 1
        };
        let endless = episodes(1);
        let endless = steps_of(&mut environment, &mut network, &endless);
        assert_eq!(endless, ENDLESS_EPISODE_STEPS);
        let bounded = EvaluatorConfig {
            max_episode_steps: Some(7),
            ..episodes(2)
        };
        assert_eq!(steps_of(&mut environment, &mut network, &bounded), 7);
        let result = evaluate(&mut network, &mut environment, &bounded).unwrap();
        assert_eq!(result.returns.len(), 2);
    }

    #[test]
    fn a_stop_is_heeded_within_an_episode() {
        let environment = pmpo_suite::load("lqr-lqr-6-2", 1).unwrap();
        let network = policy(environment.spec(), 1, 0).network;
        let config = EvaluatorConfig {
            max_episode_steps: Some(usize::MAX),
            ..episodes(1)
        };
        let stop = CancellationToken::new();
        let (stopped, stopping) = (stop.clone(), std::time::Duration::from_millis(50));
        let thread = std::thread::spawn(move || {
            std::thread::sleep(stopping);
            stopped.cancel();
        });
        let result = evaluate_in_parallel(
            &network,
            &mut [Loaded::One(environment.into())],
            &config,
            &stop,
        );
        assert_eq!(result.unwrap(), None);
        thread.join().unwrap();
    }

    #[test]
    fn evaluates_once_a_period_of_learner_steps() {
        let shutdown = CancellationToken::new();
        let mut weights = Script::new(&shutdown);
        let environment = environment(1);
        for (version, learner_step) in [0, 300, 1000, 1999, 2500, 4000, 900]
            .into_iter()
            .enumerate()
        {
            let policy = policy(environment.spec(), version as u64, learner_step);
            weights.later.insert(version, policy);
        }
        let config = EvaluatorConfig {
            episodes: 1,
            ..EvaluatorConfig::default()
        };
        let name = "evaluator-0".to_owned();
        let follower = Follower {
            name,
            config,
            weights,
            environments: vec![Loaded::One(environment.into())],
            shutdown,
        };
        let mut evaluated = Vec::new();
        follower
            .run(|report| {
                let evaluation = report.evaluation.unwrap();
                assert_eq!((evaluation.episodes, evaluation.return_std), (1, 0.0));
                evaluated.push((evaluation.policy_version, evaluation.learner_step));
                true
            })
            .unwrap();
        // The last is a learner that went back to an older checkpoint.
        assert_eq!(
            evaluated,
            [(0, 0), (2, 1000), (4, 2500), (5, 4000), (6, 900)]
        );
    }
}
