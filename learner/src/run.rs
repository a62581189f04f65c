//! A learner as a service: puts the parts together, and takes them apart in order.

use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use pmpo_proto::FILE_DESCRIPTOR_SET;
use pmpo_proto::v1::run_server::RunServer;
use pmpo_replay_client::{Sampler, SamplerConfig};
use pmpo_service::readiness::Readiness;
use pmpo_service::{grpc, health};
use pmpo_types::{Role, derive_seed};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::bench::random_batch;
use crate::board::{Board, Totals};
use crate::broadcast::Broadcast;
use crate::checkpoint::Checkpoints;
use crate::priorities::{Priorities, PriorityUpdates};
use crate::progress::Progress;
use crate::publisher::Publisher;
use crate::service::Service;
use crate::statistics::Statistics;
use crate::stops::Stops;
use crate::trainer::Trainer;
use crate::versions::Versions;
use crate::{
    Batch, DeviceChoice, EndReason, LearnerConfig, LearnerError, LearnerOptions, RunOutcome,
    TrainState, host, metrics, records, table, threads,
};

/// How long a run that reached a limit still answers that it has finished.
const FINISHED_VISIBLE: Duration = Duration::from_secs(1);

/// What a learner waits for before it is ready. It stays ready when that is away later: it still serves
/// the policy, and whoever waits for its readiness must not stop for that.
pub(crate) const REPLAY: &str = "the replay service";

const SERVICES: [&str; 2] = ["pmpo.v1.Weights", "pmpo.v1.Run"];

/// Updates that a GPU is warmed up with.
const WARM_UP_STEPS: usize = 10;

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
    options.policy.validate()?;
    options.learner.validate(&options.policy.head)?;
    let listener = listener.into();
    let stop = shutdown.child_token();
    let _stopped_with_us = stop.clone().drop_guard();
    let mut shards = Vec::with_capacity(options.replay_addresses.len());
    for address in &options.replay_addresses {
        shards.push(grpc::connect_lazy(address, &options.credentials)?);
    }
    let (options, prepared) =
        spawn_blocking(|| prepare(&options).map(|prepared| (options, prepared)))
            .await
            .map_err(|_| LearnerError::Panicked("the preparation of the run"))??;
    let Prepared {
        state,
        checkpoints,
        board,
        publisher,
        progress,
        mut stops,
    } = prepared;

    let (rows, records) = records::spawn(progress, options.run_dir.clone())?;
    let stop_serving = CancellationToken::new();
    let service = Service::new(
        &options,
        board.clone(),
        publisher.subscribe(),
        rows.downgrade(),
        stop_serving.clone(),
    );
    let readiness = Readiness::new(&[REPLAY], &shutdown);
    let targets = &options.learner.targets;
    let signature = targets.signature(options.spec.observation_size(), options.spec.action_size());
    let sampling = SamplerConfig {
        credentials: options.credentials.clone(),
        ..options.learner.sampler()
    };
    let sampler = Sampler::new(
        &options.replay_addresses,
        sampling,
        signature,
        &tokio::runtime::Handle::current(),
        &stop,
    )?;
    let watching: JoinSet<()> = shards
        .into_iter()
        .enumerate()
        .map(|(shard, channel)| {
            let config = options.learner.clone();
            table::watch(shard, channel, config, board.clone(), readiness.clone())
        })
        .collect();
    let _host = host::watch(&options.run_dir, options.device != DeviceChoice::Cpu)?;
    let trainer = Trainer {
        options,
        state,
        statistics: Statistics::default(),
        sampler,
        priorities: PriorityUpdates::default(),
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
    let ended = serve_and_train(served, trainer, &board, &shutdown).await;
    drop(watching);
    // Evaluations that were accepted are written before the thread ends.
    drop(rows);
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

/// What there is before anything is served.
struct Prepared {
    state: TrainState,
    checkpoints: Checkpoints,
    board: Board,
    publisher: Publisher,
    progress: Progress,
    stops: Stops,
}

fn prepare(options: &LearnerOptions) -> Result<Prepared, LearnerError> {
    let device = options.device.open()?;
    let sizes = [options.spec.observation_size(), options.spec.action_size()];
    let state = TrainState::new(
        &options.policy,
        &options.learner,
        sizes,
        derive_seed(options.seed, Role::Learner, 0),
        &device,
    );
    let run_dir = &options.run_dir;
    let (checkpoints, state, mut totals, progress) = if options.resume {
        let (checkpoints, state, totals) = Checkpoints::resume(options, state)?;
        let progress = Progress::resume(run_dir, totals.learner_steps)?;
        (checkpoints, state, totals, progress)
    } else {
        let checkpoints = Checkpoints::create(options)?;
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
    if options.device != DeviceChoice::Cpu {
        warm_up(&options.learner, sizes, &state);
    }
    let evaluations = progress.rows().len() as u64;
    let board = Board::new(totals, evaluations, options.learner.train_return_episodes);
    board.lost(recorded + 1..version);
    let publisher = Publisher::new(options, &state, (versions, version), board.clone())?;
    // So that a run can be resumed from its first moment on.
    checkpoints.save(options, &state, &publisher.newest_policy(), &board.totals())?;
    Ok(Prepared {
        state,
        checkpoints,
        board,
        publisher,
        progress,
        stops: Stops::read(run_dir),
    })
}

/// Takes updates on random numbers and throws them away, before anything is served: a GPU compiles its
/// kernels and chooses among them when it first meets their shapes.
pub(crate) fn warm_up(
    config: &LearnerConfig,
    [observation_size, action_size]: [usize; 2],
    state: &TrainState,
) {
    let start = Instant::now();
    let mut state = state.clone();
    let signature = config.targets.signature(observation_size, action_size);
    let items = config.batch_size;
    let columns = random_batch(&signature, items * config.targets.steps_per_item());
    let weights = matches!(config.priorities, Priorities::TdError(_)).then(|| vec![1.0; items]);
    for _ in 0..WARM_UP_STEPS {
        let mut batch = Batch::sampled(&config.targets, &columns, state.device());
        if let Some(weights) = &weights {
            batch = batch.weighted(weights, state.device());
        }
        // Read, so that the step has run when the next begins.
        drop(state.update(config, &batch).read());
    }
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(seconds, "warmed up");
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
    trainer: Trainer,
    board: &Board,
    shutdown: &CancellationToken,
) -> Result<EndReason, LearnerError> {
    let Served {
        service,
        observed,
        listener,
        stop_serving,
    } = served;
    let grace = Duration::from_secs_f64(trainer.options.learner.shutdown_grace_s);
    let server = grpc::server(&listener)
        .add_routes(observed)
        .add_service(Broadcast::new(service.clone()))
        .add_service(RunServer::new(service))
        .serve_with_incoming_shutdown(
            grpc::incoming(listener),
            stop_serving.clone().cancelled_owned(),
        );
    let stop_training = trainer.stop.clone();
    let (thread, ended) = train(trainer)?;
    let training = async {
        let ended = ended
            .await
            .unwrap_or(Err(LearnerError::Panicked("the update thread")));
        if !matches!(ended, Ok(EndReason::Shutdown) | Err(_)) {
            board.finished();
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
            if let Ok(Err(error)) = tokio::time::timeout(grace, server).await {
                tracing::warn!(%error, "server");
            }
            ended
        }
        served = &mut server => {
            stop_training.cancel();
            Err(served.err().map_or(LearnerError::Panicked("the server"), LearnerError::Server))
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
fn train(trainer: Trainer) -> Result<(JoinHandle<()>, Ended), LearnerError> {
    let (sender, ended) = oneshot::channel();
    let pool = threads::pool(trainer.options.learner.threads)?;
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use pmpo_policy::NetworkConfig;

    use super::*;
    use crate::{RetraceTargets, Targets, TdErrorPriorities};

    /// What a GPU is warmed up with has the form of what will come.
    #[test]
    fn the_warm_up_fits_every_kind_of_experience() {
        let network = NetworkConfig {
            hidden_sizes: vec![8, 8],
            ..NetworkConfig::default()
        };
        let retrace = Targets::Retrace(RetraceTargets::default());
        for targets in [Targets::default(), retrace] {
            for priorities in [
                Priorities::default(),
                Priorities::TdError(TdErrorPriorities::default()),
            ] {
                let config = LearnerConfig {
                    batch_size: 4,
                    targets: targets.clone(),
                    priorities,
                    ..LearnerConfig::default()
                };
                let state = TrainState::new(&network, &config, [3, 2], 1, &Device::flex());
                warm_up(&config, [3, 2], &state);
                assert_eq!(state.step(), 0, "it is thrown away");
            }
        }
    }
}
