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

mod account;
mod source;
mod start;

use std::path::Path;
use std::time::{Duration, Instant};

use ::metrics::gauge;
use anyhow::{Result, ensure};
use bytes::Bytes;
use pmpo_actor::Episode;
use pmpo_actor::collector::Collector;
use pmpo_actor::environment::Environment;
use pmpo_actor::run_info::Window;
use pmpo_actor::stepper::Stepper;
use pmpo_actor::weights::Policy;
use pmpo_learner::best::BestKeeper;
use pmpo_learner::checkpoint::{Checkpoints, Identity};
use pmpo_learner::metrics;
use pmpo_learner::progress::{Progress, Row};
use pmpo_learner::{EndReason, LearnerError, RunOutcome, encode_policy};
use pmpo_policy::PolicyNetwork;
use pmpo_proto::v1;
use pmpo_service::shutdown;
use pmpo_service::worker_time::WorkerTime;
use pmpo_types::{Generator, PolicyVersion, derive_seed};
use pmpo_update::{Acted, BatchSource, Learning, TrainState, threads};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::environments;
use crate::output::complain;
use crate::run_folder;
use crate::train::display::Display;
use source::{Handed, TableSource};
use start::{ACTING, DATA, LOCKSTEP, Progressed, Start, TABLE, sizes};
pub(crate) use start::{check, check_fresh, table};

/// Time between updates of the display.
const DISPLAY_PERIOD: Duration = Duration::from_millis(250);

/// Whole seconds of a run in lockstep, by `state`.
pub(crate) const WORKER_SECONDS: &str = "pmpo_lockstep_worker_seconds_total";

/// What a run in lockstep does.
#[derive(Clone, Copy)]
enum State {
    Acting,
    Updating,
    Evaluating,
    Saving,
}

/// The names of [`State`], in its order.
const STATES: [&str; 4] = ["acting", "updating", "evaluating", "saving"];

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
    /// Who acted in the newest batch.
    acted: Option<Acted>,
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
            acted: None,
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
        let mut time = WorkerTime::new(WORKER_SECONDS, STATES);
        let reason = loop {
            if self.evaluate_if_due()? {
                time.lap(State::Evaluating as usize);
            }
            if let Some(reason) = self.end(stop) {
                break reason;
            }
            if self.learn()? {
                time.lap(State::Updating as usize);
            } else {
                self.step()?;
                time.lap(State::Acting as usize);
            }
            if looked.elapsed() >= DISPLAY_PERIOD {
                self.show(display);
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
                time.lap(State::Saving as usize);
            }
        };
        self.show(display);
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
        self.acted = Some(self.learning.step(&drawn, &mut self.source)?);
        if self.learning.state().step() >= self.progressed.next_publication {
            self.publish()?;
        }
        if self.learning.unread_steps() >= self.config.learner.stats_period_steps {
            self.read_statistics()?;
        }
        Ok(true)
    }

    fn reached(&self, learner_steps: u64) -> bool {
        let limit = self.config.run.learner_steps;
        limit.is_some_and(|limit| learner_steps >= limit)
    }

    /// The policy as it is acts from here on.
    fn publish(&mut self) -> Result<()> {
        self.read_statistics()?;
        let step = self.learning.state().step();
        let progressed = &mut self.progressed;
        progressed.policy_version += 1;
        progressed.policy_step = step;
        progressed.next_publication = step + self.config.learner.publish_period_steps;
        self.acting_weights = self.weights()?;
        self.acting = acting(&self.acting_weights, self.progressed.policy_version, step)?;
        Ok(())
    }

    /// Also the check that everything is finite, which comes before whatever leaves this process.
    fn read_statistics(&mut self) -> Result<()> {
        for (name, mean) in self.learning.read_statistics()? {
            gauge!(metrics::STATISTIC, "name" => name).set(mean);
        }
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

    /// Answers whether it was due.
    fn evaluate_if_due(&mut self) -> Result<bool> {
        let step = self.learning.state().step();
        if step < self.progressed.next_evaluation {
            return Ok(false);
        }
        self.read_statistics()?;
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
        Ok(true)
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
        self.read_statistics()?;
        if !self.stepper.in_episode() {
            self.progressed.until_window = self.stepper.collector_mut().adder_mut().until_next();
            self.progressed.actions.clear();
        }
        let (noise, left) = self.stepper.noise().state();
        (self.progressed.noise, self.progressed.noise_left) = (noise.clone(), left);
        let mut extra = vec![
            (TABLE, self.source.table.save()),
            (ACTING, self.acting_weights.to_vec()),
            (LOCKSTEP, postcard::to_allocvec(&self.progressed)?),
        ];
        if let Some(data) = &self.source.data {
            extra.push((DATA, postcard::to_allocvec(data.state())?));
        }
        let weights = self.weights()?;
        let totals = self.totals();
        self.checkpoints
            .save(self.learning.state(), &weights, &totals, &extra)?;
        self.saved = Instant::now();
        Ok(())
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
