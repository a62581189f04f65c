//! A run in one process, in lockstep: a step of the environment, the learner steps that are due after it,
//! and so on. Acme's `run_experiment` beside its `make_distributed_experiment`.
//!
//! The parts are those of the services: the suite's environment and an actor's stepper, the core of the
//! replay service with its rate limiter, the update, the learner's progress, checkpoints and best policy.
//! What is missing are the sockets and threads between them, and with those all that depends on time:
//! which policy acts, when learner steps are taken and what is evaluated follows from counts alone. The
//! same seed gives the same `progress.csv`, but for `wall_s`, and the same weights.
//!
//! One environment is stepped. Each episode has seeds of its own, derived from the run's. A checkpoint
//! holds the table and, in place of the simulation, the actions of the episode under way: `--resume` takes
//! them again, and goes on as if the run had never ended.

mod source;
mod start;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use pmpo_actor::collector::Collector;
use pmpo_actor::environment::Environment;
use pmpo_actor::run_info::Window;
use pmpo_actor::stepper::{Episode, Stepper};
use pmpo_actor::weights::Policy;
use pmpo_learner::best::BestKeeper;
use pmpo_learner::checkpoint::{Checkpoints, EnvironmentSteps, Identity, Totals};
use pmpo_learner::progress::{Progress, Row};
use pmpo_learner::{EndReason, LearnerError, RunOutcome, encode_policy};
use pmpo_policy::PolicyNetwork;
use pmpo_proto::v1;
use pmpo_service::shutdown;
use pmpo_types::{Generator, PolicyVersion, derive_seed};
use pmpo_update::{BatchSource, Learning, TrainState, threads};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::environments;
use crate::output::complain;
use crate::run_folder;
use crate::train::display::Display;
use source::{Handed, TableSource};
pub(crate) use start::check;
use start::{ACTING, LOCKSTEP, Progressed, Start, TABLE, sizes};

/// Time between updates of the display.
const DISPLAY_PERIOD: Duration = Duration::from_millis(250);
/// Trains until a limit or Ctrl-C.
pub(crate) fn run(
    config: Config,
    run_dir: &Path,
    resume: bool,
    display: &Display,
) -> Result<RunOutcome> {
    // For the signals alone.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let stop = runtime.block_on(async { shutdown::on_signals() })?;
    let pool = threads::pool(config.update.threads)?;
    pool.install(|| Lockstep::start(config, run_dir, resume)?.run(display, &stop))
}

struct Lockstep {
    config: Config,
    learning: Learning,
    source: TableSource,
    stepper: Stepper<Handed>,
    /// The policy that acts, and its snapshot.
    acting: Policy,
    acting_weights: Bytes,
    evaluator: Box<dyn Environment>,
    progress: Progress,
    best: BestKeeper,
    checkpoints: Checkpoints,
    identity: Identity,
    progressed: Progressed,
    started: Instant,
    saved: Instant,
    /// Seconds of training before this process.
    seconds_before: f64,
    last_evaluation: Option<v1::Evaluation>,
    last_return: Option<f64>,
}

impl Lockstep {
    fn start(config: Config, run_dir: &Path, resume: bool) -> Result<Self> {
        let seed = config.run.seed;
        let load = |generator| {
            let seed = derive_seed(seed, generator, 0);
            environments::load(&config.run.task, config.run.action_repeat, seed)
        };
        let environment = load(Generator::Environment)?;
        let evaluator = load(Generator::Evaluator)?;
        let identity = Identity {
            run_id: run_folder::name(run_dir)?,
            task: config.run.task.clone(),
            seed,
            spec: environment.spec().clone(),
            agent: config.agent(),
        };
        let device = config.run.device()?.open()?;
        let learner = derive_seed(seed, Generator::Learner, 0);
        let state = TrainState::new(&identity.agent, sizes(&identity), learner, &device)?;
        let start = if resume {
            Start::resumed(&config, run_dir, &identity, state)?
        } else {
            Start::fresh(&config, run_dir, &identity, state)?
        };
        let window = config.update.window();
        let window = Window {
            steps: window.steps,
            period: window.period,
        };
        let progressed = start.progressed;
        let mut collector = Collector::new(window, &identity.spec, 1, Handed::default());
        collector
            .adder_mut()
            .set_until_next(progressed.until_window);
        let noise = progressed.noise(&config);
        let stepper = Stepper::new(
            environment,
            collector,
            noise,
            config.update.discount.gamma(),
        );
        let [version, step] = [progressed.policy_version, progressed.policy_step];
        let mut lockstep = Self {
            source: start.source,
            stepper,
            acting: acting(&start.acting, version, step)?,
            acting_weights: start.acting,
            evaluator,
            progress: start.progress,
            best: BestKeeper::open(run_dir, identity.subject(), start.state.step())?,
            checkpoints: start.checkpoints,
            progressed,
            learning: Learning::new(start.state),
            identity,
            config,
            started: Instant::now(),
            saved: Instant::now(),
            seconds_before: start.seconds_before,
            last_evaluation: None,
            last_return: None,
        };
        lockstep.retake()?;
        Ok(lockstep)
    }

    /// Takes the steps of the episode under way again; their rows are in the table.
    fn retake(&mut self) -> Result<()> {
        if self.progressed.actions.is_empty() {
            return Ok(());
        }
        self.reseed();
        let actions = &self.progressed.actions;
        let noise = self.progressed.noise(&self.config);
        ensure!(
            self.stepper.retake(actions, noise)?,
            "--resume: the episode under way does not go as it went before: {} steps of it were taken by \
             another version or on another machine",
            actions.len()
        );
        self.stepper.collector_mut().sink_mut().0.clear();
        Ok(())
    }

    /// The seeds of the newest episode.
    fn reseed(&mut self) {
        let (seed, episode) = (self.config.run.seed, self.progressed.episodes);
        self.stepper.reseed(
            derive_seed(seed, Generator::Environment, episode),
            derive_seed(seed, Generator::ActorPolicy, episode),
        );
    }

    fn run(mut self, display: &Display, stop: &CancellationToken) -> Result<RunOutcome> {
        let mut looked = Instant::now();
        let reason = loop {
            self.evaluate_if_due()?;
            if let Some(reason) = self.end(stop) {
                break reason;
            }
            if !self.learn()? {
                self.step()?;
            }
            if looked.elapsed() >= DISPLAY_PERIOD {
                display.update(&self.status());
                looked = Instant::now();
            }
            if self.saved.elapsed().as_secs_f64() >= self.config.learner.checkpoint_period_s {
                // The last one alone must be written.
                match self.checkpoint() {
                    Err(error) if is_of_a_file(&error) => {
                        complain!("no checkpoint; the next period tries again: {error}");
                        self.saved = Instant::now();
                    }
                    saved => saved?,
                }
            }
        };
        display.update(&self.status());
        self.checkpoint()?;
        Ok(self.outcome(reason))
    }

    /// One step of the environment, into the table.
    fn step(&mut self) -> Result<()> {
        if !self.stepper.in_episode() {
            self.progressed.episodes += 1;
            self.progressed.until_window = self.stepper.collector_mut().adder_mut().until_next();
            self.progressed.actions.clear();
            self.reseed();
        }
        let ended = self.stepper.step(&mut self.acting)?;
        self.progressed.env_steps += self.identity.spec.action_repeat as u64;
        let handed = &mut self.stepper.collector_mut().sink_mut().0;
        for batch in handed.drain(..) {
            self.source.insert(&batch)?;
        }
        self.progressed.actions.push(self.stepper.drawn().to_vec());
        if let Some(episode) = ended {
            self.end_episode(&episode);
        }
        Ok(())
    }

    fn end_episode(&mut self, episode: &Episode) {
        self.learning
            .state_mut()
            .observe_episode(&episode.discounted);
        let returns = &mut self.progressed.returns;
        if returns.len() == self.config.learner.train_return_episodes {
            returns.pop_front();
        }
        returns.push_back(episode.undiscounted);
    }

    /// A learner step, if the rate limiter says that one is due; answers whether it was.
    fn learn(&mut self) -> Result<bool> {
        let Some(drawn) = self.source.next_batch(Duration::ZERO)? else {
            return Ok(false);
        };
        self.learning.step(&drawn, &mut self.source)?;
        if self.learning.state().step() >= self.progressed.next_publication {
            self.publish()?;
        }
        if self.learning.unread_steps() >= self.config.learner.stats_period_steps {
            self.learning.read_statistics()?;
        }
        Ok(true)
    }

    fn reached(&self, learner_steps: u64) -> bool {
        let limit = self.config.run.learner_steps;
        limit.is_some_and(|limit| learner_steps >= limit)
    }

    /// The policy as it is acts from here on.
    fn publish(&mut self) -> Result<()> {
        self.learning.read_statistics()?;
        let step = self.learning.state().step();
        let progressed = &mut self.progressed;
        progressed.policy_version += 1;
        progressed.policy_step = step;
        progressed.next_publication = step + self.config.learner.publish_period_steps;
        self.acting_weights = self.weights()?;
        self.acting = acting(&self.acting_weights, self.progressed.policy_version, step)?;
        Ok(())
    }

    fn weights(&self) -> Result<Bytes> {
        let state = self.learning.state();
        Ok(encode_policy(
            &self.config.policy,
            &self.identity.spec,
            state,
        )?)
    }

    fn evaluate_if_due(&mut self) -> Result<()> {
        let step = self.learning.state().step();
        if step < self.progressed.next_evaluation {
            return Ok(());
        }
        self.learning.read_statistics()?;
        let evaluator = &self.config.evaluator;
        self.progressed.next_evaluation = step + evaluator.period_learner_steps;
        let weights = self.weights()?;
        let mut network = PolicyNetwork::from_snapshot(&weights)?;
        let seed = self.config.run.seed;
        let number = self.progressed.evaluations + 1;
        self.evaluator
            .reseed(derive_seed(seed, Generator::Evaluator, number));
        let result = pmpo_actor::evaluate(&mut network, self.evaluator.as_mut(), evaluator)?;
        self.progressed.evaluations += 1;
        let row = Row {
            wall_s: (self.seconds() * 1e3).round() / 1e3,
            env_steps: self.progressed.env_steps,
            learner_steps: step,
            policy_version: self.progressed.policy_version,
            eval_return_mean: result.mean,
            eval_return_std: result.std,
            train_return_mean: self.train_return_mean(),
        };
        let kept = self.best.evaluated(&row, &weights).map(drop);
        for error in [kept, self.progress.append(row)]
            .into_iter()
            .filter_map(Result::err)
        {
            complain!("evaluation not recorded: {error}");
        }
        self.last_return = Some(result.mean);
        self.last_evaluation = Some(v1::Evaluation {
            policy_version: self.progressed.policy_version,
            learner_step: step,
            return_mean: result.mean,
            return_std: result.std,
            episodes: result.returns.len() as u32,
        });
        Ok(())
    }

    fn train_return_mean(&self) -> Option<f64> {
        let returns = &self.progressed.returns;
        (!returns.is_empty()).then(|| returns.iter().sum::<f64>() / returns.len() as f64)
    }

    fn end(&self, stop: &CancellationToken) -> Option<EndReason> {
        let limits = self.config.run.limits();
        if let (Some(goal), Some(mean)) = (limits.stop_at_return, self.last_return)
            && mean >= goal
        {
            return Some(EndReason::StopAtReturn(mean));
        }
        let steps = self.progressed.env_steps;
        if limits.env_steps.is_some_and(|limit| steps >= limit) {
            return Some(EndReason::EnvSteps);
        }
        if self.reached(self.learning.state().step()) {
            return Some(EndReason::LearnerSteps);
        }
        if stop.is_cancelled() {
            return Some(EndReason::Shutdown);
        }
        let minutes = self.started.elapsed().as_secs_f64() / 60.0;
        limits
            .max_minutes
            .filter(|&limit| minutes >= limit)
            .map(|_| EndReason::MaxMinutes)
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.learning.read_statistics()?;
        if !self.stepper.in_episode() {
            self.progressed.until_window = self.stepper.collector_mut().adder_mut().until_next();
            self.progressed.actions.clear();
        }
        let (noise, left) = self.stepper.noise().state();
        (self.progressed.noise, self.progressed.noise_left) = (noise.clone(), left);
        let extra = [
            (TABLE, self.source.table.save()),
            (ACTING, self.acting_weights.to_vec()),
            (LOCKSTEP, postcard::to_allocvec(&self.progressed)?),
        ];
        let weights = self.weights()?;
        let totals = self.totals();
        self.checkpoints
            .save(self.learning.state(), &weights, &totals, &extra)?;
        self.saved = Instant::now();
        Ok(())
    }

    fn totals(&self) -> Totals {
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

    fn seconds(&self) -> f64 {
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

    fn outcome(&self, reason: EndReason) -> RunOutcome {
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

/// Whether it is a disk that failed, which may have room again later.
fn is_of_a_file(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LearnerError::File { .. }))
}

/// A policy as actors get it.
fn acting(weights: &[u8], version: u64, learner_step: u64) -> Result<Policy> {
    let network = PolicyNetwork::from_snapshot(weights)?;
    Ok(Policy::new(PolicyVersion(version), learner_step, network))
}
