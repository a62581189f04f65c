//! All roles in one process, over real gRPC on ports that the system chose.

use std::path::Path;
use std::time::Duration;

use pmpo_actor::{ActorConfig, Addresses, EvaluatorConfig};
use pmpo_learner::{EndReason, LearnerConfig, LearnerOptions, Limits};
use pmpo_policy::TorsoConfig;
use pmpo_proto::replay::v1::ListTablesRequest;
use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_replay::{ReplayConfig, SelectorKind, TableConfig};
use pmpo_replay_client::{Sampler, SamplerConfig};
use pmpo_service::security::Credentials;
use pmpo_types::step;
use pmpo_update::{
    AgentConfig, DeviceChoice, Priorities, RetraceTargets, Targets, TdErrorPriorities, UpdateConfig,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const LEARNER_STEPS: u64 = 300;
const BATCH: usize = 32;
const SAMPLES_PER_INSERT: f64 = 16.0;
const MIN_SIZE: usize = 200;
const ERROR_BUFFER: f64 = 400.0;

fn update(targets: Targets, priorities: Priorities) -> UpdateConfig {
    UpdateConfig {
        batch_size: BATCH,
        targets,
        priorities,
        ..UpdateConfig::default()
    }
}

fn replay_config(update: &UpdateConfig, sampler: SelectorKind) -> ReplayConfig {
    ReplayConfig {
        table: TableConfig {
            sampler,
            sequence_length: update.window().rows(),
            samples_per_insert: SAMPLES_PER_INSERT,
            min_size_to_sample: MIN_SIZE,
            error_buffer: Some(ERROR_BUFFER),
            max_batch_size: BATCH,
            ..TableConfig::default()
        },
        ..ReplayConfig::default()
    }
}

fn learner_options(run_dir: &Path, replay_address: String, update: UpdateConfig) -> LearnerOptions {
    let task = "cartpole-swingup".to_owned();
    let spec = pmpo_suite::load(&task, 0).expect("the task").spec().clone();
    let mut agent = AgentConfig {
        update,
        ..AgentConfig::default()
    };
    agent.policy.torso = TorsoConfig::hidden(&[32, 32]);
    agent.critic.torso = TorsoConfig::hidden(&[32, 32]);
    LearnerOptions {
        run_id: "test".to_owned(),
        run_uid: String::new(),
        task,
        seed: 3,
        spec,
        agent,
        learner: LearnerConfig {
            publish_period_steps: 20,
            ..LearnerConfig::default()
        },
        limits: Limits {
            learner_steps: Some(LEARNER_STEPS),
            ..Limits::default()
        },
        replay_addresses: vec![replay_address],
        credentials: Credentials::default(),
        run_dir: run_dir.to_owned(),
        resume: false,
        device: DeviceChoice::Cpu,
    }
}

async fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_loop_learns_evaluates_and_shuts_down() {
    the_whole_loop(Targets::default(), Priorities::default(), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_loop_learns_from_sequences() {
    let targets = RetraceTargets {
        sequence_length: 4,
        sequence_period: 2,
        ..RetraceTargets::default()
    };
    the_whole_loop(Targets::Retrace(targets), Priorities::default(), 2).await;
}

/// Schaul et al. 2016: the learner's errors become the table's priorities.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_loop_learns_by_priority() {
    let priorities = Priorities::TdError(TdErrorPriorities::default());
    the_whole_loop(Targets::default(), priorities, 1).await;
}

/// Trains with a table each of whose items stands for `steps_per_item` environment steps.
async fn the_whole_loop(targets: Targets, priorities: Priorities, steps_per_item: u64) {
    let selector = match priorities {
        Priorities::None {} => SelectorKind::Uniform,
        Priorities::TdError(_) => SelectorKind::Prioritized,
    };
    let even = selector == SelectorKind::Uniform;
    let update = update(targets, priorities);
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let (replay_listener, replay) = bind().await;
    let (learner_listener, learner) = bind().await;

    let replay_task = tokio::spawn(pmpo_replay::run(
        replay_config(&update, selector),
        replay_listener,
        shutdown.clone(),
    ));
    let options = learner_options(folder.path(), replay.clone(), update.clone());
    let learner_task = tokio::spawn(pmpo_learner::run(
        options,
        learner_listener,
        shutdown.clone(),
    ));
    let addresses = Addresses {
        learner: learner.clone(),
        replay: vec![replay.clone()],
        credentials: Credentials::default(),
    };
    let actor_task = tokio::spawn(pmpo_actor::run(
        ActorConfig::default(),
        addresses,
        0,
        shutdown.clone(),
    ));
    let evaluator = EvaluatorConfig {
        period_learner_steps: 100,
        episodes: 2,
        ..EvaluatorConfig::default()
    };
    let evaluator_shutdown = shutdown.clone();
    let evaluator_task = tokio::spawn(async move {
        pmpo_actor::evaluator::run(
            evaluator,
            &learner,
            &Credentials::default(),
            0,
            evaluator_shutdown,
        )
        .await
    });

    let outcome = tokio::time::timeout(Duration::from_secs(120), learner_task)
        .await
        .expect("the learner ends")
        .expect("no panic")
        .expect("a clean end");
    assert_eq!(outcome.reason, EndReason::LearnerSteps);
    assert_eq!(outcome.learner_steps, LEARNER_STEPS);
    // The initial policy, one each 20 steps, and perhaps a last one.
    assert!((16..=17).contains(&outcome.policy_version), "{outcome:?}");

    let mut client = ReplayClient::connect(format!("http://{replay}"))
        .await
        .unwrap();
    let tables = client
        .list_tables(ListTablesRequest {})
        .await
        .unwrap()
        .into_inner()
        .tables;
    let counters = tables[0].counters.unwrap();
    let (inserts, samples) = (counters.inserts as f64, counters.samples);
    assert!(samples >= LEARNER_STEPS * BATCH as u64, "{counters:?}");
    assert_eq!(
        samples % BATCH as u64,
        0,
        "batches are drawn whole: {counters:?}"
    );
    // min_diff <= inserts * samples_per_insert - samples <= max_diff.
    let offset = MIN_SIZE as f64 * SAMPLES_PER_INSERT;
    let diff = inserts * SAMPLES_PER_INSERT - samples as f64;
    assert!(
        (diff - offset).abs() <= ERROR_BUFFER,
        "{diff} is not within {offset} ± 400"
    );
    let steps = outcome.env_steps;
    assert!(
        steps > 0 && steps.is_multiple_of(steps_per_item),
        "{outcome:?}"
    );
    assert!(
        steps <= counters.inserts * steps_per_item,
        "{outcome:?} {counters:?}"
    );

    let drawn = probabilities(replay, &update, shutdown.clone()).await;
    assert_eq!(drawn.iter().all(|&p| p == drawn[0]), even, "{drawn:?}");

    shutdown.cancel();
    let ended = async {
        actor_task
            .await
            .expect("no panic")
            .expect("the actor ends cleanly");
        evaluator_task
            .await
            .expect("no panic")
            .expect("the evaluator ends cleanly");
        replay_task
            .await
            .expect("no panic")
            .expect("the replay ends cleanly");
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .expect("all roles end");

    let (checkpoint, _) = pmpo_learner::checkpoint::newest(folder.path()).unwrap();
    assert!(
        checkpoint.ends_with(format!("step-{LEARNER_STEPS:09}")),
        "{}",
        checkpoint.display()
    );
    let progress = std::fs::read_to_string(folder.path().join("progress.csv")).unwrap();
    let header = "wall_s,env_steps,learner_steps,policy_version,eval_return_mean,eval_return_std,\
                  train_return_mean";
    assert_eq!(progress.lines().next(), Some(header));
    assert!(
        progress.lines().count() >= 2,
        "no evaluation arrived: {progress}"
    );
}

/// How likely the items of a batch were to be drawn.
async fn probabilities(
    replay: String,
    update: &UpdateConfig,
    shutdown: CancellationToken,
) -> Vec<f64> {
    let spec = pmpo_suite::load("cartpole-swingup", 0)
        .expect("the task")
        .spec()
        .clone();
    let sizes = (spec.observation_size(), spec.action_size());
    let signature = step::signature(sizes.0, sizes.1);
    let config = SamplerConfig {
        batch_size: BATCH,
        sequence_length: update.window().rows(),
        ..SamplerConfig::default()
    };
    let runtime = tokio::runtime::Handle::current();
    let draw = move || {
        let sampler = Sampler::new(&[replay], config, signature, &runtime, &shutdown);
        sampler
            .expect("a sampler")
            .next()
            .expect("a batch")
            .items
            .probabilities
    };
    tokio::task::spawn_blocking(draw).await.expect("no panic")
}
