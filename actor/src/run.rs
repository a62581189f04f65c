//! The actor as a role: environments, their writers, one subscription and one reporter.

use std::future::Future;
use std::time::Duration;

use ::metrics::gauge;
use pmpo_proto::v1::MemberRole;
use pmpo_replay_client::{Writer, WriterConfig, preference};
use pmpo_service::grpc::{self, Channel};
use pmpo_service::readiness::Readiness;
use pmpo_service::security::Credentials;
use pmpo_types::{EnvironmentSpec, Generator, derive_seed, step};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::collector::Collector;
use crate::description;
use crate::environment::{self, Loaded};
use crate::environment_loop::EnvironmentLoop;
use crate::membership::Joined;
use crate::noise::Noise;
use crate::reports::{EpisodeReports, report_episodes};
use crate::run_info::Window;
use crate::stepper::{Acting, Stepper};
use crate::vector_stepper::VectorStepper;
use crate::weights::{Newest, subscribe};
use crate::{ActorConfig, ActorError, metrics};

/// The services an actor talks to, `host:port` each, and as whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Addresses {
    /// The learner: the run, the weights, the reports.
    pub learner: String,
    /// The replay's shards: the experience.
    pub replay: Vec<String>,
    /// What they are shown.
    pub credentials: Credentials,
}

/// What an actor waits for before it is ready.
pub(crate) const POLICY: &str = "a policy";
const WRITER: &str = "the replay service";

/// Acts as the run's actor number `index`, or the lowest that is free, until `shutdown`.
///
/// # Errors
/// The configuration, the task, the learner or the replay cannot be used, or the index is another's;
/// absent services are waited for.
pub async fn run(
    mut config: ActorConfig,
    addresses: Addresses,
    index: impl Into<Option<u64>>,
    shutdown: CancellationToken,
) -> Result<(), ActorError> {
    metrics::describe_actor();
    pmpo_replay_client::metrics::describe();
    config.validate()?;
    config.writer.credentials = addresses.credentials.clone();
    let learner = grpc::connect_lazy(&addresses.learner, &addresses.credentials)?;
    let readiness = Readiness::new(&[POLICY, WRITER], &shutdown);
    description::tell(&learner, &shutdown).await?;
    let joined = Joined::wait(&learner, MemberRole::Actor, index.into(), &shutdown).await?;
    match joined {
        Some(joined) => act(joined, config, learner, &addresses.replay, readiness).await,
        None => Ok(()),
    }
}

/// The work of an actor that has joined the run.
async fn act(
    joined: Joined,
    config: ActorConfig,
    learner: Channel,
    replay: &[String],
    readiness: Readiness,
) -> Result<(), ActorError> {
    let Joined {
        run,
        index,
        mut crew,
        shutdown,
    } = joined;
    let _stop = shutdown.clone().drop_guard();
    let count = config.environments as u64;
    let numbers = index * count..(index + 1) * count;
    let seeds = numbers
        .clone()
        .map(|number| derive_seed(run.seed, Generator::Environment, number));
    let environments = run
        .environments(seeds.collect(), config.environment_timeout())
        .await?;
    let spec = environments[0].spec().clone();
    // Before any thread runs: an error here leaves nothing behind.
    let writers_end = CancellationToken::new();
    let _end_writers = writers_end.clone().drop_guard();
    // All environments of an actor share a first shard, so that its death stops whole actors' worth.
    let shards = preference(replay, index);
    let collectors = |environment: &Loaded| {
        (0..environment.count())
            .map(|_| collector(&config, &shards, run.window, &spec, &writers_end))
            .collect::<Result<Vec<_>, _>>()
    };
    let collectors = environments
        .iter()
        .map(collectors)
        .collect::<Result<Vec<_>, _>>()?;
    let acting: usize = collectors.iter().map(Vec::len).sum();
    gauge!(metrics::ENVIRONMENTS).set(acting as f64);
    let actor = format!("actor-{index}");
    tracing::info!(task = run.task, environments = acting, "acting");
    end_after(config.shutdown_grace(), &shutdown, writers_end);
    let (weights, subscription) = subscribe(learner.clone(), actor.clone(), &run, &spec, &shutdown);
    crew.task(subscription);
    let writers = collectors.iter().flatten();
    let writers = writers.map(|collector| collector.sink().opened());
    let waiting = become_ready(readiness, weights.clone(), writers.collect());
    crew.task(until(shutdown.clone(), waiting));
    let (episodes, queue) = EpisodeReports::new(config.report_queue_episodes);
    crew.task(report_episodes(learner, queue, shutdown.clone()));
    for ((number, environment), collectors) in numbers.zip(environments).zip(collectors) {
        let seed = derive_seed(run.seed, Generator::ActorPolicy, number);
        let noise = |lane| {
            // The first of a vector has the generator of an environment by itself.
            let seed = match lane {
                0 => seed,
                lane => derive_seed(seed, Generator::ActorPolicy, lane),
            };
            Noise::new(config.noise_repeat, ChaCha8Rng::seed_from_u64(seed))
        };
        let mut lanes = collectors.into_iter().zip((0..).map(noise));
        let stepper: Box<dyn Acting> = match environment {
            Loaded::One(environment) => {
                let (collector, noise) = lanes.next().expect("one for an environment");
                Box::new(Stepper::new(environment, collector, noise, run.discount))
            }
            Loaded::Vector(all) => Box::new(VectorStepper::new(all, lanes, run.discount)),
        };
        let work = EnvironmentLoop {
            actor: actor.clone(),
            stepper,
            weights: weights.clone(),
            episodes: episodes.clone(),
            shutdown: shutdown.clone(),
            grace: config.shutdown_grace(),
        };
        crew.thread(format!("environment-{number}"), move || {
            environment::on_thread(|| work.run())
        });
    }
    drop(episodes);
    crew.join().await
}

/// A member of a crew that does `work`, unless told to stop before its end.
pub(crate) async fn until(
    shutdown: CancellationToken,
    work: impl Future<Output = ()>,
) -> Result<(), ActorError> {
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

/// From an environment's steps to the replay service: adder, batch, writer.
pub(crate) fn collector(
    config: &ActorConfig,
    replay: &[String],
    window: Window,
    spec: &EnvironmentSpec,
    writers_end: &CancellationToken,
) -> Result<Collector<Writer>, ActorError> {
    let writer_config = WriterConfig {
        sequence_length: window.steps + 1,
        ..config.writer.clone()
    };
    let writer = Writer::new(
        replay,
        writer_config,
        step::signature(spec.observation_size(), spec.action_size()),
        &Handle::current(),
        writers_end,
    )?;
    let batch_rows = config.insert_batch_items;
    Ok(Collector::new(window, spec, batch_rows, writer))
}

/// Waits for a policy, and for all writers.
async fn become_ready(readiness: Readiness, weights: Newest, writers: Vec<watch::Receiver<bool>>) {
    if !weights.first().await {
        return;
    }
    readiness.met(POLICY);
    for mut writer in writers {
        if writer.wait_for(|opened| *opened).await.is_err() {
            return;
        }
    }
    readiness.met(WRITER);
}

/// Cancels `end` some time after `shutdown`: the writers may still store what is left.
fn end_after(grace: Duration, shutdown: &CancellationToken, end: CancellationToken) {
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        tokio::select! {
            () = tokio::time::sleep(grace) => end.cancel(),
            () = end.cancelled() => {}
        }
    });
}
