//! How fast an actor acts: environment, policy, adder and insertion into a replay service, beside bare
//! `mj_step` on the same model in the same run. `pmpo bench actor`.
//!
//! What runs is the environment loop of [`run`](crate::run()), with one environment and a policy that
//! never changes. Where the loop asks for newer weights, this module takes its turn: it alternates
//! between slices of acting and slices of bare stepping, so that both see the same machine. The
//! actor's CPU time is that of the whole process, the writer's side of the connection included, less
//! that of the bare slices.

use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use pmpo_policy::{NamedTensor, NetworkConfig, PolicyNetwork, snapshot};
use pmpo_suite::bench::{BareStepper, Work};
use pmpo_types::{EnvironmentSpec, PolicyVersion};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rustix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;

use crate::environment_loop::EnvironmentLoop;
use crate::noise::Noise;
use crate::reports::EpisodeReports;
use crate::run::collector;
use crate::run_info::Window;
use crate::stepper::Stepper;
use crate::weights::{Policy, WeightsSource};
use crate::{ActorConfig, ActorError};

/// Time of acting between two slices of bare stepping.
const SLICE: Duration = Duration::from_millis(100);
/// Steps between looks at the clock.
const LOOK: u64 = 16;
/// Slices before the measurement: caches fill, the connection opens.
const WARM_UP_SLICES: u64 = 3;
/// Calls of the policy in a block, and blocks, of which the median counts.
const CALLS: [u32; 2] = [500, 51];

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Task, as `domain-task`.
    pub task: String,
    /// How long to measure, bare slices included.
    pub duration: Duration,
    /// The policy.
    pub network: NetworkConfig,
    /// The actor; one environment is measured whatever it says.
    pub actor: ActorConfig,
    /// Steps a transition spans.
    pub n_step: usize,
    /// gamma, a control step.
    pub discount: f64,
}

/// Control steps of an actor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// By the clock, while acting.
    pub steps_per_s: f64,
    /// For each second of CPU of this process.
    pub steps_per_cpu_s: f64,
    /// Of bare `mj_step`, for each second of CPU.
    pub raw_steps_per_cpu_s: f64,
    /// Microseconds of the policy's forward pass with sampling at batch 1, median over blocks.
    pub policy_us: f64,
}

/// Acts for a while against the replay service at `replay`.
///
/// # Errors
/// The task cannot be loaded, or the replay refuses the writer.
pub async fn run(options: Options, replay: &[String]) -> Result<Report, ActorError> {
    options.actor.validate()?;
    let environment = pmpo_suite::load(&options.task, 1)?;
    let spec = environment.spec().clone();
    let mut network = fresh_policy(&options.network, &spec);
    let policy_us = time_policy(&mut network, &spec);
    let (shutdown, writers_end) = (CancellationToken::new(), CancellationToken::new());
    let _end_writers = writers_end.clone().drop_guard();
    let window = Window {
        steps: options.n_step,
        period: 1,
    };
    let collector = collector(&options.actor, replay, window, &spec, &writers_end)?;
    let noise = Noise::new(options.actor.noise_repeat, ChaCha8Rng::seed_from_u64(1));
    let (sender, tally) = bounded(1);
    let (episodes, _unread) = EpisodeReports::new(options.actor.report_queue_episodes);
    let work = EnvironmentLoop {
        actor: "actor-0".to_owned(),
        weights: Turns {
            policy: Some(Policy {
                version: PolicyVersion(1),
                learner_step: 0,
                network,
                arrival: None,
            }),
            bare: BareStepper::new(&options.task)?,
            tally: Tally::default(),
            slice: Instant::now(),
            slices: 0,
            end: options.duration,
            measured: None,
            finished: sender,
            shutdown: shutdown.clone(),
        },
        stepper: Box::new(Stepper::new(
            environment,
            collector,
            noise,
            options.discount,
        )),
        episodes,
        shutdown,
        grace: options.actor.shutdown_grace(),
    };
    // What is in flight at the end is the actor's work too.
    let thread = tokio::task::spawn_blocking(move || work.run().map(|()| process_cpu()));
    let end = thread
        .await
        .unwrap_or_else(|_| Err(ActorError::Panicked("the environment".to_owned())))?;
    let tally = tally
        .recv()
        .map_err(|_| ActorError::Panicked("the measurement".to_owned()))?;
    let cpu = (end - tally.begin).saturating_sub(tally.bare.cpu);
    Ok(Report {
        steps_per_s: tally.steps as f64 / tally.wall.as_secs_f64(),
        steps_per_cpu_s: tally.steps as f64 / cpu.as_secs_f64(),
        raw_steps_per_cpu_s: tally.bare.steps as f64 / tally.bare.cpu.as_secs_f64(),
        policy_us,
    })
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// CPU time of the process when the measurement began.
    begin: Duration,
    /// Steps of the actor, and their time by the clock.
    steps: u64,
    wall: Duration,
    /// Bare stepping.
    bare: Work,
}

/// A source of weights that has one policy, and that measures.
struct Turns {
    policy: Option<Policy>,
    bare: BareStepper,
    tally: Tally,
    /// When the present slice of acting began, and how many there were.
    slice: Instant,
    slices: u64,
    end: Duration,
    /// Since when it is measured, and the bare work before.
    measured: Option<(Instant, Work)>,
    finished: Sender<Tally>,
    shutdown: CancellationToken,
}

impl WeightsSource for Turns {
    /// Called once a step.
    fn newer(&mut self) -> Option<Policy> {
        self.tally.steps += 1;
        if self.tally.steps.is_multiple_of(LOOK) && self.slice.elapsed() >= SLICE {
            self.turn();
        }
        None
    }

    fn wait(&mut self) -> Option<Policy> {
        self.policy.take()
    }
}

impl Turns {
    fn turn(&mut self) {
        self.tally.wall += self.slice.elapsed();
        self.slices += 1;
        match self.measured {
            Some((since, before)) if since.elapsed() >= self.end => {
                let work = self.bare.work();
                self.tally.bare = Work {
                    steps: work.steps - before.steps,
                    wall: work.wall - before.wall,
                    cpu: work.cpu - before.cpu,
                };
                if self.finished.send(self.tally).is_err() {
                    tracing::debug!("the measurement was given up");
                }
                self.shutdown.cancel();
                return;
            }
            Some(_) => self.bare.slice(),
            None => {
                self.bare.slice();
                if self.slices == WARM_UP_SLICES {
                    self.measured = Some((Instant::now(), self.bare.work()));
                    self.tally = Tally {
                        begin: process_cpu(),
                        ..Tally::default()
                    };
                }
            }
        }
        self.slice = Instant::now();
    }
}

/// A policy as training starts with: its head says mean 0 and the initial standard deviation.
fn fresh_policy(network: &NetworkConfig, spec: &EnvironmentSpec) -> PolicyNetwork {
    let (observations, actions) = (spec.observation_size(), spec.action_size());
    let specs = network.tensors(observations, actions);
    let tensors: Vec<NamedTensor> = specs
        .expect("a network that was validated")
        .iter()
        .map(|spec| {
            let scale = if spec.name.starts_with("head") {
                0.0
            } else {
                0.2
            };
            spec.filled(|i| scale * ((i * 37 % 101) as f32 / 101.0 - 0.5))
        })
        .collect();
    let bytes = snapshot::encode(network, observations, actions, &tensors);
    PolicyNetwork::from_snapshot(&bytes.expect("the expected tensors"))
        .expect("a snapshot just written")
}

/// Microseconds of a sampled action.
fn time_policy(network: &mut PolicyNetwork, spec: &EnvironmentSpec) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let observation = vec![0.5; spec.observation_size()];
    let mut action = vec![0.0; spec.action_size()];
    let [calls, blocks] = CALLS;
    let mut times: Vec<f64> = (0..blocks)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..calls {
                network.sample(std::hint::black_box(&observation), &mut rng, &mut action);
                std::hint::black_box(&action);
            }
            begin.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// CPU time of this process, all threads.
fn process_cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
