//! A learner as a service: puts the parts together, and takes them apart in order.

use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam::channel::bounded;
use pmpo_proto::FILE_DESCRIPTOR_SET;
use pmpo_proto::v1::run_server::RunServer;
use pmpo_replay_client::{Sampler, SamplerConfig};
use pmpo_service::readiness::Readiness;
use pmpo_service::{grpc, health};
use pmpo_types::{Generator, derive_seed, step};
use pmpo_update::{Learning, TrainState, threads};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::best::BestKeeper;
use crate::board::{Board, Totals};
use crate::broadcast::Broadcast;
use crate::checkpoint::{Checkpoints, Identity};
use crate::progress::Progress;
use crate::publisher::Publisher;
use crate::records::{self, Records};
use crate::replay_source::ReplaySource;
use crate::service::Service;
use crate::stops::Stops;
use crate::table::{self, Watched};
use crate::trainer::Trainer;
use crate::versions::Versions;
use crate::{EndReason, LearnerError, LearnerOptions, RunOutcome, disk_space, metrics};

/// How long a run that reached a limit still answers that it has finished.
const FINISHED_VISIBLE: Duration = Duration::from_secs(1);

/// What a learner waits for before it is ready. It stays ready when that is away later: it still serves
/// the policy, and whoever waits for its readiness must not stop for that.
pub(crate) const REPLAY: &str = "the replay service";

const SERVICES: [&str; 2] = ["pmpo.v1.Weights", "pmpo.v1.Run"];

/// Finished episodes on their way to the update; one more is dropped.
const EPISODES: usize = 1024;

/// Trains until a limit, an evaluation that reaches `stop_at_return`, or `shutdown`, and serves
/// `Weights` and `Run` on `listener` meanwhile. The initial policy, or the checkpoint's when the run
/// is resumed, is published before the first connection is accepted.
///
/// However a run ends cleanly, a checkpoint of its last step is written. One that ends by a limit
/// remains visible as finished for a second.
///
/// # Errors
/// The options contradict themselves or the run's folder, the device cannot be used, a statistic of
/// the update is not finite, the replay service refuses the sampler, or a file cannot be written.
pub async fn run(
    options: LearnerOptions,
    listener: impl Into<grpc::Listener>,
    shutdown: CancellationToken,
) -> Result<RunOutcome, LearnerError> {
    metrics::describe();
    pmpo_replay_client::metrics::describe();
    let (agent, learner) = (&options.agent, &options.learner);
    agent.validate()?;
    learner
        .validate(&agent.update)
        .map_err(|error| error.within("learner"))?;
    let listener = listener.into();
    let stop = shutdown.child_token();
    let _stopped_with_us = stop.clone().drop_guard();
    let mut shards = Vec::with_capacity(options.replay_addresses.len());
    for address in &options.replay_addresses {
        shards.push(grpc::connect_lazy(address, &options.credentials)?);
    }
    // What the update does belongs to its thread: on a GPU its streams are that thread's.
    let (options, prepared) =
        spawn_blocking(|| prepare(&options).map(|prepared| (options, prepared)))
            .await
            .map_err(|_| LearnerError::Panicked("the preparation of the run"))??;
    let Prepared {
        state,
        checkpoints,
        board,
        publisher,
        records,
        mut stops,
    } = prepared;

    let (evaluations, records) = records::spawn(records, &options.run_dir)?;
    let (episodes, finished) = bounded(EPISODES);
    let stop_serving = CancellationToken::new();
    let service = Service::new(
        &options,
        board.clone(),
        publisher.subscribe(),
        evaluations.downgrade(),
        episodes,
        stop_serving.clone(),
    );
    let readiness = Readiness::new(&[REPLAY], &shutdown);
    let source = source(&options, &stop)?;
    let mut watching = watch_tables(&options, shards, &board, &readiness);
    watching.spawn(disk_space::watch(options.run_dir.clone()));
    let trainer = Trainer {
        options,
        learning: Learning::new(state),
        source,
        episodes: finished,
        saved_version: None,
        publisher,
        checkpoints,
        board: board.clone(),
        stop,
    };
    let observed = health::routes(&readiness, &SERVICES, FILE_DESCRIPTOR_SET).await;
    let served = Served {
        service,
        observed,
        listener,
        stop_serving,
    };
    let ended = serve_and_train(served, trainer, &shutdown).await;
    drop(watching);
    // Evaluations that were accepted are written before the thread ends.
    drop(evaluations);
    let ended = spawn_blocking(move || {
        stops.note(&ended);
        records.join().map(|()| ended)
    });
    let ended = ended.await.ok().and_then(Result::ok);
    let ended = ended.ok_or(LearnerError::Panicked("the records thread"))?;
    let outcome = outcome(ended?, &board);
    tracing::info!(%outcome, "ended");
    Ok(outcome)
}

/// The replay service's table as a source of batches.
fn source(
    options: &LearnerOptions,
    stop: &CancellationToken,
) -> Result<ReplaySource, LearnerError> {
    let sampling = SamplerConfig {
        credentials: options.credentials.clone(),
        ..options.learner.sampler(&options.agent.update)
    };
    Ok(ReplaySource(Sampler::new(
        &options.replay_addresses,
        sampling,
        step::signature(options.spec.observation_size(), options.spec.action_size()),
        &tokio::runtime::Handle::current(),
        stop,
    )?))
}

/// Has the board follow the table's shards.
fn watch_tables(
    options: &LearnerOptions,
    shards: Vec<grpc::Channel>,
    board: &Board,
    readiness: &Readiness,
) -> JoinSet<()> {
    let table = Watched {
        name: options.learner.table.clone(),
        steps_per_item: (options.agent.update.window().period * options.spec.action_repeat) as u64,
    };
    let shards = shards.into_iter().enumerate();
    shards
        .map(|(shard, channel)| {
            table::watch(
                shard,
                channel,
                table.clone(),
                board.clone(),
                readiness.clone(),
            )
        })
        .collect()
}

/// What there is before anything is served.
struct Prepared {
    state: TrainState,
    checkpoints: Checkpoints,
    board: Board,
    publisher: Publisher,
    records: Records,
    stops: Stops,
}

fn prepare(options: &LearnerOptions) -> Result<Prepared, LearnerError> {
    let device = options.device.open()?;
    let sizes = [options.spec.observation_size(), options.spec.action_size()];
    let seed = derive_seed(options.seed, Generator::Learner, 0);
    let state = TrainState::new(&options.agent, sizes, seed, &device)?;
    let identity = Identity {
        run_id: options.run_id.clone(),
        task: options.task.clone(),
        seed: options.seed,
        spec: options.spec.clone(),
        agent: options.agent.clone(),
    };
    let (run_dir, kept) = (&options.run_dir, options.learner.checkpoints_kept);
    let subject = identity.subject();
    let (checkpoints, state, mut totals, progress) = if options.resume {
        let (checkpoints, resumed) = Checkpoints::resume(run_dir, identity, kept, state)?;
        let progress = Progress::resume(run_dir, resumed.totals.learner_steps)?;
        (checkpoints, resumed.state, resumed.totals, progress)
    } else {
        let checkpoints = Checkpoints::create(run_dir, identity, kept)?;
        let totals = Totals::default();
        (checkpoints, state, totals, Progress::create(run_dir)?)
    };
    let recorded = totals.policy_version;
    let (versions, version) = if options.resume {
        Versions::resume(run_dir, recorded)?
    } else {
        (Versions::create(run_dir), 1)
    };
    totals.policy_version = version;
    let records = Records {
        best: BestKeeper::open(run_dir, subject, totals.learner_steps)?,
        progress,
    };
    let evaluations = records.progress.rows().len() as u64;
    let board = Board::new(totals, evaluations, options.learner.train_return_episodes);
    board.lost(recorded + 1..version);
    if !options.resume {
        board.fresh();
    }
    let publisher = Publisher::new(options, &state, (versions, version), board.clone())?;
    // So that a run can be resumed from its first moment on.
    checkpoints.save(&state, &publisher.newest_policy(), &board.totals(), &[])?;
    Ok(Prepared {
        state,
        checkpoints,
        board,
        publisher,
        records,
        stops: Stops::read(run_dir),
    })
}

/// What is served, and until when.
struct Served {
    service: Service,
    observed: Routes,
    listener: grpc::Listener,
    stop_serving: CancellationToken,
}

/// Serves until training has ended and everyone may know.
async fn serve_and_train(
    served: Served,
    trainer: Trainer<ReplaySource>,
    shutdown: &CancellationToken,
) -> Result<EndReason, LearnerError> {
    let Served {
        service,
        observed,
        listener,
        stop_serving,
    } = served;
    let grace = Duration::from_secs_f64(trainer.options.learner.shutdown_grace_s);
    let routes = observed
        .add_service(Broadcast::new(service.clone()))
        .add_service(RunServer::new(service));
    let server = grpc::serve(listener, routes, stop_serving.clone());
    let stop_training = trainer.stop.clone();
    let (thread, ended) = train(trainer)?;
    let training = async {
        let ended = ended
            .await
            .unwrap_or(Err(LearnerError::Panicked("the update thread")));
        if !matches!(ended, Ok(EndReason::Shutdown) | Err(_)) {
            // Not a wait for anything: whoever asks in this time learns how it ended.
            drop(tokio::time::timeout(FINISHED_VISIBLE, shutdown.cancelled()).await);
        }
        ended
    };
    let mut server = std::pin::pin!(server);
    let ended = tokio::select! {
        ended = training => {
            stop_serving.cancel();
            // Connections that outlive the grace period end with the process.
            drop(tokio::time::timeout(grace, server).await);
            ended
        }
        () = &mut server => {
            stop_training.cancel();
            Err(LearnerError::Panicked("the server"))
        }
    };
    spawn_blocking(|| thread.join())
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or(LearnerError::Panicked("the update thread"))?;
    ended
}

type Ended = oneshot::Receiver<Result<EndReason, LearnerError>>;

/// Starts the update thread.
fn train(trainer: Trainer<ReplaySource>) -> Result<(JoinHandle<()>, Ended), LearnerError> {
    let (sender, ended) = oneshot::channel();
    let pool =
        threads::pool(trainer.options.agent.update.threads).map_err(LearnerError::Threads)?;
    let run_dir = trainer.options.run_dir.clone();
    let thread = Builder::new()
        .name("learner".to_owned())
        .spawn(move || {
            // Nobody listens only if the run was dropped.
            drop(sender.send(pool.install(|| trainer.run())));
        })
        .map_err(LearnerError::file(&run_dir))?;
    Ok((thread, ended))
}

fn outcome(reason: EndReason, board: &Board) -> RunOutcome {
    let totals = board.totals();
    RunOutcome {
        reason,
        learner_steps: totals.learner_steps,
        env_steps: totals.environment.total,
        policy_version: totals.policy_version,
        training_seconds: totals.training_seconds,
        last_return_mean: board.last_return_mean(),
    }
}
