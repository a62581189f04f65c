//! The actor as a role: environments, their writers, one subscription and one reporter.

use std::time::Duration;

use ::metrics::gauge;
use pmpo_replay_client::{Writer, WriterConfig, preference};
use pmpo_service::{grpc, identity};
use pmpo_types::{EnvironmentSpec, Role, derive_seed};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::collector::Collector;
use crate::environment_loop::EnvironmentLoop;
use crate::experience::{Experience, Gatherer};
use crate::reports::{EpisodeReports, report_episodes};
use crate::run_info::RunInfo;
use crate::threads::Crew;
use crate::weights::subscribe;
use crate::{ActorConfig, ActorError, metrics};

/// The services an actor talks to, `host:port` each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The learner: the run, the weights, the reports.
    pub learner: String,
    /// The replay's shards: the experience.
    pub replay: Vec<String>,
}

/// Acts as the run's actor number `index` until `shutdown`.
///
/// # Errors
/// The configuration, the task, the learner or the replay cannot be used; absent services are waited
/// for.
pub async fn run(
    config: ActorConfig,
    addresses: Addresses,
    index: u64,
    shutdown: CancellationToken,
) -> Result<(), ActorError> {
    metrics::describe_actor();
    pmpo_replay_client::metrics::describe();
    config.validate()?;
    let learner = grpc::connect_lazy(&addresses.learner)?;
    let Some(run) = RunInfo::get(&learner, &shutdown).await? else {
        return Ok(());
    };
    identity::set_run(&run.run_id);
    let count = config.environments as u64;
    gauge!(metrics::ENVIRONMENTS).set(count as f64);
    let numbers = index * count..(index + 1) * count;
    let seeds = numbers
        .clone()
        .map(|number| derive_seed(run.seed, Role::Environment, number));
    let environments = run.environments(seeds.collect()).await?;
    let spec = environments[0].spec().clone();
    // Before any thread runs: an error here leaves nothing behind.
    let writers_end = CancellationToken::new();
    let _end_writers = writers_end.clone().drop_guard();
    // All environments of an actor share a first shard, so that its death stops whole actors' worth.
    let shards = preference(&addresses.replay, index);
    let collectors = environments
        .iter()
        .map(|_| {
            collector(
                &config,
                &shards,
                (run.experience, run.discount),
                &spec,
                &writers_end,
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    let actor = format!("actor-{index}");
    tracing::info!(task = run.task, environments = count, "acting");

    let shutdown = shutdown.child_token();
    let _stop = shutdown.clone().drop_guard();
    end_after(config.shutdown_grace(), &shutdown, writers_end);
    let mut crew = Crew::new(shutdown.clone());
    let (weights, subscription) = subscribe(learner.clone(), actor.clone(), &run, &spec, &shutdown);
    crew.task(subscription);
    let (episodes, queue) = EpisodeReports::new(config.report_queue_episodes);
    crew.task(report_episodes(learner, queue, shutdown.clone()));
    for ((number, environment), collector) in numbers.zip(environments).zip(collectors) {
        let work = EnvironmentLoop {
            actor: actor.clone(),
            environment,
            weights: weights.clone(),
            collector,
            rng: ChaCha8Rng::seed_from_u64(derive_seed(run.seed, Role::ActorPolicy, number)),
            episodes: episodes.clone(),
            shutdown: shutdown.clone(),
            grace: config.shutdown_grace(),
        };
        crew.thread(format!("environment-{number}"), move || work.run());
    }
    drop(episodes);
    crew.join().await
}

/// From an environment's steps to the replay service: adder, batch, writer.
pub(crate) fn collector(
    config: &ActorConfig,
    replay: &[String],
    (experience, discount): (Experience, f64),
    spec: &EnvironmentSpec,
    writers_end: &CancellationToken,
) -> Result<Collector<Writer>, ActorError> {
    let gatherer = Gatherer::new(experience, discount, spec);
    let writer_config = WriterConfig {
        sequence_length: gatherer.sequence_length(),
        ..config.writer.clone()
    };
    let writer = Writer::new(
        replay,
        writer_config,
        gatherer.signature().clone(),
        &Handle::current(),
        writers_end,
    )?;
    Ok(Collector::new(gatherer, config.insert_batch_items, writer))
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
