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

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use pmpo_actor::collector::Collector;
use pmpo_actor::insertion::StepSink;
use pmpo_actor::run_info::Window;
use pmpo_actor::stepper::{Episode, Stepper};
use pmpo_actor::weights::Policy;
use pmpo_learner::best::BestKeeper;
use pmpo_learner::checkpoint::{self, Checkpoints, EnvironmentSteps, Identity, Totals};
use pmpo_learner::progress::{Progress, Row};
use pmpo_learner::{EndReason, LearnerError, RunOutcome, encode_policy};
use pmpo_policy::PolicyNetwork;
use pmpo_proto::v1;
use pmpo_replay_client::ClientError;
use pmpo_replay_core::Table;
use pmpo_service::shutdown;
use pmpo_suite::Environment;
use pmpo_types::{
    EnvironmentSpec, Generator, PolicyVersion, StepBatch, WriterId, derive_seed, step,
};
use pmpo_update::{BatchSource, Drawn, Learning, TrainState, threads};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::commands;
use crate::config::Config;
use crate::failure::Usage;
use crate::output::complain;
use crate::train::display::Display;

/// Time between updates of the display.
const DISPLAY_PERIOD: Duration = Duration::from_millis(250);
/// Files of a checkpoint beside the usual ones: the table, the policy that acts, and the rest.
const TABLE: &str = "table.bin";
const ACTING: &str = "acting.safetensors";
const LOCKSTEP: &str = "lockstep.bin";
/// The only writer of the table.
const WRITER: WriterId = WriterId(1);

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

/// What a stepper hands over, until it is inserted.
#[derive(Default)]
struct Handed(VecDeque<StepBatch>);

impl StepSink for Handed {
    fn push(&mut self, batch: &StepBatch) -> Result<(), ClientError> {
        self.0.push_back(batch.clone());
        Ok(())
    }

    fn flush(&mut self, _: Duration) -> Result<(), ClientError> {
        Ok(())
    }
}

/// A table in this process as a source of batches.
struct TableSource {
    table: Table,
    batch_size: usize,
    next_sequence: u64,
}

impl TableSource {
    /// Of a fresh table, or of the `saved` one.
    fn new(
        config: &Config,
        [observation_size, action_size]: [usize; 2],
        saved: Option<&[u8]>,
    ) -> Result<Self> {
        let replay = &config.replay;
        let tables = std::iter::once(&replay.table).chain(&replay.tables);
        let table = tables
            .into_iter()
            .find(|table| table.name == config.learner.table)
            .with_context(|| format!("learner.table: no table {}", config.learner.table))?;
        let seed = derive_seed(config.run.seed, Generator::Replay, 0);
        let mut table = match saved {
            Some(saved) => Table::load(table.clone(), saved)?,
            None => Table::new(table.clone(), seed)?,
        };
        let signature = step::signature(observation_size, action_size);
        let rows = config.update.window().rows();
        let next_sequence = table.open_writer(WRITER, &signature, rows)?;
        table.open_sampler(config.update.batch_size, &signature, rows)?;
        Ok(Self {
            table,
            batch_size: config.update.batch_size,
            next_sequence,
        })
    }

    fn insert(&mut self, batch: &StepBatch) -> Result<()> {
        let end = self.next_sequence + batch.len() as u64;
        let next = self.table.insert(WRITER, self.next_sequence, batch)?;
        ensure!(
            next == end,
            "the rate limiter holds inserts back ({:?}): samples_per_insert, batch size and error_buffer \
             of the table do not go together",
            self.table.insert_hold()
        );
        self.next_sequence = next;
        Ok(())
    }
}

impl BatchSource for TableSource {
    type Error = anyhow::Error;

    /// `None` where the rate limiter says that no learner step is due.
    fn next_batch(&mut self, _: Duration) -> Result<Option<Drawn>> {
        Ok(self.table.sample(self.batch_size).ok().map(|batch| Drawn {
            batch,
            origin: 0,
            trace: None,
        }))
    }

    fn update_priorities(&mut self, _: usize, keys: &[u64], priorities: &[f64]) -> Result<()> {
        self.table.update_priorities(keys, priorities)?;
        Ok(())
    }
}

/// What a checkpoint holds besides the update, the table and the policy that acts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Progressed {
    /// Environment steps.
    env_steps: u64,
    /// Episodes begun.
    episodes: u64,
    /// Steps, when the newest of them began, until a window begins.
    until_window: usize,
    /// Its actions so far, as they were drawn; none between episodes.
    actions: Vec<Vec<f32>>,
    /// The generator of their noise.
    noise: ChaCha8Rng,
    /// Returns of the episodes that ended last.
    returns: VecDeque<f64>,
    /// Version of the policy that acts, and its learner step.
    policy_version: u64,
    policy_step: u64,
    /// Learner steps at the next publication and at the next evaluation.
    next_publication: u64,
    next_evaluation: u64,
    evaluations: u64,
}

impl Progressed {
    fn new(config: &Config) -> Self {
        Self {
            env_steps: 0,
            episodes: 0,
            until_window: 0,
            actions: Vec::new(),
            noise: ChaCha8Rng::seed_from_u64(0),
            returns: VecDeque::new(),
            policy_version: 1,
            policy_step: 0,
            next_publication: config.learner.publish_period_steps,
            next_evaluation: 0,
            evaluations: 0,
        }
    }
}

/// Where a run begins, or goes on.
struct Start {
    state: TrainState,
    checkpoints: Checkpoints,
    progress: Progress,
    progressed: Progressed,
    source: TableSource,
    acting: Bytes,
    seconds_before: f64,
}

impl Start {
    fn fresh(
        config: &Config,
        run_dir: &Path,
        identity: &Identity,
        state: TrainState,
    ) -> Result<Self> {
        let kept = config.learner.checkpoints_kept;
        Ok(Self {
            checkpoints: Checkpoints::create(run_dir, identity.clone(), kept)?,
            progress: Progress::create(run_dir)?,
            progressed: Progressed::new(config),
            source: TableSource::new(config, sizes(identity), None)?,
            acting: encode_policy(&config.policy, &identity.spec, &state)?,
            state,
            seconds_before: 0.0,
        })
    }

    fn resumed(
        config: &Config,
        run_dir: &Path,
        identity: &Identity,
        state: TrainState,
    ) -> Result<Self> {
        let kept = config.learner.checkpoints_kept;
        let (checkpoints, resumed) = Checkpoints::resume(run_dir, identity.clone(), kept, state)?;
        let saved = Saved::read(config, &resumed.path, sizes(identity))?;
        Ok(Self {
            progress: Progress::resume(run_dir, resumed.totals.learner_steps)?,
            checkpoints,
            progressed: saved.progressed,
            source: saved.source,
            acting: saved.acting,
            state: resumed.state,
            seconds_before: resumed.totals.training_seconds,
        })
    }
}

/// What a checkpoint of a run in lockstep has beside the usual.
struct Saved {
    progressed: Progressed,
    source: TableSource,
    acting: Bytes,
}

impl Saved {
    fn read(config: &Config, folder: &Path, sizes: [usize; 2]) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).with_context(|| {
                let path = path.display();
                format!("--lockstep: expected the checkpoint of a run in lockstep, but no {path}")
            })
        };
        let progressed = postcard::from_bytes(&read(LOCKSTEP)?)
            .map_err(|error| anyhow!("{}: {error}", folder.join(LOCKSTEP).display()))?;
        let source = TableSource::new(config, sizes, Some(&read(TABLE)?))
            .with_context(|| folder.join(TABLE).display().to_string())?;
        Ok(Self {
            progressed,
            source,
            acting: read(ACTING)?.into(),
        })
    }
}

/// Refuses a resumption that cannot be, before anything is changed.
pub(crate) fn check(config: &Config, run_dir: &Path, spec: &EnvironmentSpec) -> Result<()> {
    let (folder, _) = checkpoint::newest(run_dir)?;
    let sizes = [spec.observation_size(), spec.action_size()];
    Saved::read(config, &folder, sizes).map_err(Usage::new)?;
    Ok(())
}

struct Lockstep {
    config: Config,
    learning: Learning,
    source: TableSource,
    stepper: Stepper<Handed>,
    /// The policy that acts, and its snapshot.
    acting: Policy,
    acting_weights: Bytes,
    evaluator: Environment,
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
        let environment =
            commands::load_environment(&config.run, derive_seed(seed, Generator::Environment, 0))?;
        let evaluator =
            commands::load_environment(&config.run, derive_seed(seed, Generator::Evaluator, 0))?;
        let identity = Identity {
            run_id: run_id(run_dir)?,
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
        let noise = progressed.noise.clone();
        let stepper = Stepper::new(environment, collector, noise, config.update.discount);
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
        let Progressed { actions, noise, .. } = &self.progressed;
        self.stepper.retake(actions, noise.clone())?;
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
        let result = pmpo_actor::evaluate(&mut network, &mut self.evaluator, evaluator)?;
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
        self.progressed.noise = self.stepper.noise().clone();
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

fn sizes(identity: &Identity) -> [usize; 2] {
    [
        identity.spec.observation_size(),
        identity.spec.action_size(),
    ]
}

fn run_id(run_dir: &Path) -> Result<String> {
    let folder = run_dir.canonicalize()?;
    let name = folder.file_name();
    name.map(|name| name.to_string_lossy().into_owned())
        .context("--run-dir: expected a folder with a name")
}
