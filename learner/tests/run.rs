//! The learner as a service, against a replay service that the tests hold in their hands.

mod common;

use std::net::SocketAddr;
use std::path::Path;

use std::sync::atomic::Ordering;

use common::{FakeTable, options};
use pmpo_learner::{EndReason, LearnerError, LearnerOptions, Limits, RunOutcome, checkpoint};
use pmpo_learner::{best, progress};
use pmpo_policy::PolicyNetwork;
use pmpo_proto::v1::{self, run_client::RunClient, weights_client::WeightsClient};
use pmpo_service::grpc::{self, Channel};
use pmpo_service::security::Credentials;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

/// A learner in this process.
struct Learner {
    channel: Channel,
    shutdown: CancellationToken,
    running: JoinHandle<Result<RunOutcome, LearnerError>>,
}

impl Learner {
    async fn start(options: LearnerOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        Self {
            channel: grpc::connect_lazy(&address.to_string(), &Credentials::default()).unwrap(),
            running: tokio::spawn(pmpo_learner::run(options, listener, shutdown.clone())),
            shutdown,
        }
    }

    fn run(&self) -> RunClient<Channel> {
        RunClient::new(self.channel.clone())
    }

    async fn status(&self) -> v1::RunStatus {
        self.run()
            .get_status(v1::GetStatusRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    async fn subscribe(
        &self,
        digest: &[u8],
    ) -> Result<Streaming<v1::PolicySnapshot>, tonic::Status> {
        let request = v1::SubscribeRequest {
            subscriber: "test".to_owned(),
            spec_digest: digest.to_vec().into(),
        };
        let mut client = WeightsClient::new(self.channel.clone());
        Ok(client.subscribe(request).await?.into_inner())
    }

    async fn evaluate(&self, policy: &v1::PolicySnapshot, return_mean: f64) -> Result<(), Code> {
        let evaluation = v1::Evaluation {
            policy_version: policy.version,
            learner_step: policy.learner_step,
            return_mean,
            return_std: 1.5,
            episodes: 10,
        };
        let request = v1::ReportEvaluationRequest {
            evaluator: "test".to_owned(),
            evaluation: Some(evaluation),
        };
        let report = self.run().report_evaluation(request).await;
        report.map(drop).map_err(|status| status.code())
    }

    async fn ended(self) -> Result<RunOutcome, LearnerError> {
        self.running.await.unwrap()
    }
}

async fn newest(run_dir: &Path) -> String {
    let (path, _) = checkpoint::newest(run_dir).unwrap();
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn trains_to_its_limit_and_leaves_a_run_behind() {
    let folder = tempfile::tempdir().unwrap();
    let table = FakeTable::new(u64::MAX);
    table.inserts.store(500, Ordering::Relaxed);
    let limits = Limits {
        learner_steps: Some(205),
        ..Limits::default()
    };
    let options = options(folder.path(), table.serve().await, limits);
    let digest = options.spec.digest();
    let learner = Learner::start(options).await;

    let info = learner
        .run()
        .get_run(v1::GetRunRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (info.task.as_str(), info.seed, info.window),
        (
            "test-task",
            4,
            Some(v1::Window {
                steps: 5,
                period: 1
            })
        )
    );
    assert_eq!(info.spec_digest, digest.0.to_vec());

    let mut policies = learner.subscribe(&digest.0).await.unwrap();
    let mut last = None::<v1::PolicySnapshot>;
    while let Some(policy) = policies.message().await.unwrap() {
        PolicyNetwork::from_snapshot(&policy.weights).unwrap();
        assert!(last.is_none_or(|last| last.version < policy.version));
        if policy.version == 1 {
            assert_eq!(policy.learner_step, 0);
            learner.evaluate(&policy, 12.5).await.unwrap();
        }
        last = Some(policy);
    }
    // Steps 10 to 200, and 205 for the last checkpoint, after the initial one.
    let last = last.unwrap();
    assert_eq!((last.version, last.learner_step), (22, 205));
    assert_eq!(learner.status().await.state(), v1::RunState::Finished);

    let outcome = learner.ended().await.unwrap();
    assert_eq!(outcome.reason, EndReason::LearnerSteps);
    assert_eq!((outcome.learner_steps, outcome.policy_version), (205, 22));
    assert_eq!(newest(folder.path()).await, "step-000000205");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_run_has_the_version_and_step_that_were_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let table = FakeTable::new(u64::MAX);
    table.inserts.store(500, Ordering::Relaxed);
    let limits = Limits {
        learner_steps: Some(25),
        ..Limits::default()
    };
    let mut options = options(folder.path(), table.serve().await, limits);
    let digest = options.spec.digest();
    let first = Learner::start(options.clone()).await.ended().await.unwrap();
    assert_eq!((first.learner_steps, first.policy_version), (25, 4));

    // No batches: it stays where the checkpoint left it.
    let empty = FakeTable::new(0);
    options.replay_addresses = vec![empty.serve().await.to_string()];
    options.resume = true;
    options.limits = Limits {
        env_steps: Some(700),
        ..Limits::default()
    };
    let learner = Learner::start(options.clone()).await;
    let mut policies = learner.subscribe(&digest.0).await.unwrap();
    let policy = policies.message().await.unwrap().unwrap();
    assert_eq!((policy.version, policy.learner_step), (4, 25));
    let (saved, _) = checkpoint::newest(folder.path()).unwrap();
    let saved = std::fs::read(saved.join(checkpoint::POLICY));
    assert_eq!(policy.weights, saved.unwrap());
    let status = learner.status().await;
    assert_eq!(status.state(), v1::RunState::WaitingForData);
    assert_eq!((status.learner_steps, status.policy_version), (25, 4));
    assert_eq!(status.environment_steps, first.env_steps);

    // The replay service began anew; the limit ends a run that is waiting for data.
    empty.inserts.store(300, Ordering::Relaxed);
    let outcome = learner.ended().await.unwrap();
    assert_eq!(outcome.reason, EndReason::EnvSteps);
    assert_eq!((outcome.learner_steps, outcome.policy_version), (25, 4));
    assert_eq!(outcome.env_steps, first.env_steps + 300);

    // And it goes on from there.
    empty.limit.store(u64::MAX, Ordering::Relaxed);
    options.limits = Limits {
        learner_steps: Some(30),
        ..Limits::default()
    };
    let outcome = Learner::start(options).await.ended().await.unwrap();
    assert_eq!((outcome.learner_steps, outcome.policy_version), (30, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_that_reaches_the_goal_ends_the_run_and_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let table = FakeTable::new(u64::MAX);
    let limits = Limits {
        stop_at_return: Some(800.0),
        ..Limits::default()
    };
    let options = options(folder.path(), table.serve().await, limits);
    let digest = options.spec.digest();
    let learner = Learner::start(options).await;
    let episode = |episode_return| v1::ReportEpisodeRequest {
        actor: "test".to_owned(),
        episode_return,
        length: 10,
        policy_version: 1,
        discounted: Some(v1::DiscountedReturns {
            mean: 1.0,
            square: 2.0,
            largest: 3.0,
        }),
    };
    for value in [1.0, 2.0] {
        learner.run().report_episode(episode(value)).await.unwrap();
    }
    let mut wrong = episode(1.0);
    wrong.discounted.as_mut().unwrap().largest = f64::INFINITY;
    for (refused, field) in [
        (episode(f64::NAN), "episode_return"),
        (episode(1e308), "episode_return"),
        (wrong, "discounted.largest"),
    ] {
        let refused = learner.run().report_episode(refused).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(field), "{refused}");
    }

    let mut policies = learner.subscribe(&digest.0).await.unwrap();
    let policy = policies.message().await.unwrap().unwrap();
    for value in [f64::INFINITY, f64::NAN, 1.7e308, -1e101] {
        let refused = learner.evaluate(&policy, value).await;
        assert_eq!(refused, Err(Code::InvalidArgument), "{value}");
    }
    let unknown = v1::PolicySnapshot {
        learner_step: u64::MAX,
        ..policy.clone()
    };
    learner.evaluate(&unknown, 900.0).await.unwrap();
    learner.evaluate(&policy, 799.0).await.unwrap();
    learner.evaluate(&policy, 800.0).await.unwrap();

    let outcome = learner.ended().await.unwrap();
    assert_eq!(outcome.reason, EndReason::StopAtReturn(800.0));
    assert_eq!(outcome.last_return_mean, Some(800.0));
    let rows = progress::read(folder.path()).unwrap();
    let returns: Vec<f64> = rows.iter().map(|row| row.eval_return_mean).collect();
    assert_eq!(returns, [799.0, 800.0]);
    assert_eq!(rows[1].train_return_mean, Some(1.5));
    let step = format!("step-{:09}", outcome.learner_steps);
    assert_eq!(newest(folder.path()).await, step);
    // The policy that reached the goal is the best and the newest.
    let (best_folder, best) = best::read(folder.path()).unwrap().unwrap();
    assert_eq!(best.evaluation, rows[1]);
    let (newest_folder, subject) = checkpoint::newest(folder.path()).unwrap();
    assert_eq!(subject, best.subject);
    for kept in [best_folder, newest_folder] {
        let kept = std::fs::read(kept.join(checkpoint::POLICY)).unwrap();
        assert_eq!(kept, policy.weights);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_is_not_finite_ends_the_run_and_leaves_the_checkpoints_alone() {
    let folder = tempfile::tempdir().unwrap();
    let table = FakeTable::new(u64::MAX);
    table.poisoned_from.store(7, Ordering::Relaxed);
    let options = options(folder.path(), table.serve().await, Limits::default());
    let error = Learner::start(options)
        .await
        .ended()
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("learner step 8: critic_loss is inf"),
        "{error}"
    );
    assert_eq!(newest(folder.path()).await, "step-000000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_from_another_environment_is_refused_with_both_named() {
    let folder = tempfile::tempdir().unwrap();
    let table = FakeTable::new(0);
    let options = options(folder.path(), table.serve().await, Limits::default());
    let own = options
        .spec
        .digest()
        .0
        .map(|byte| format!("{byte:02x}"))
        .concat();
    let learner = Learner::start(options).await;
    let refused = learner.subscribe(&[7; 32]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for name in [own.as_str(), &"07".repeat(32)] {
        assert!(refused.message().contains(name), "{refused}");
    }
    let refused = learner.subscribe(&[7; 31]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    learner.shutdown.cancel();
    let outcome = learner.ended().await.unwrap();
    assert_eq!(
        (outcome.reason, outcome.learner_steps),
        (EndReason::Shutdown, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_a_run_in_it_is_not_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let replay = FakeTable::new(u64::MAX).serve().await;
    let limits = Limits {
        learner_steps: Some(1),
        ..Limits::default()
    };
    let options = options(folder.path(), replay, limits);
    Learner::start(options.clone()).await.ended().await.unwrap();
    let error = Learner::start(options.clone())
        .await
        .ended()
        .await
        .unwrap_err();
    assert!(matches!(error, LearnerError::NotFresh(_)), "{error}");

    let elsewhere = tempfile::tempdir().unwrap();
    let nothing = LearnerOptions {
        run_dir: elsewhere.path().to_owned(),
        resume: true,
        ..options
    };
    let error = Learner::start(nothing).await.ended().await.unwrap_err();
    assert!(
        matches!(error, LearnerError::NoCheckpoint { .. }),
        "{error}"
    );
}

/// A subscriber that never reads holds its connection, which must hold neither the records nor the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_nobody_reads_does_not_keep_the_run_from_ending() {
    let folder = tempfile::tempdir().unwrap();
    let table = FakeTable::new(0);
    let mut options = options(folder.path(), table.serve().await, Limits::default());
    options.learner.shutdown_grace_s = 0.1;
    let digest = options.spec.digest();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(pmpo_learner::run(options, listener, shutdown.clone()));

    // Room for a byte: the first policy is never wholly sent.
    let endpoint = tonic::transport::Endpoint::from_shared(server).unwrap();
    let endpoint = endpoint.initial_stream_window_size(1);
    let mut client = WeightsClient::new(endpoint.connect().await.unwrap());
    let request = v1::SubscribeRequest {
        subscriber: "unread".to_owned(),
        spec_digest: digest.0.to_vec().into(),
    };
    let _unread = client.subscribe(request).await.unwrap().into_inner();

    shutdown.cancel();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), running);
    let outcome = ended.await.expect("it ends").unwrap().unwrap();
    assert_eq!(outcome.reason, EndReason::Shutdown);
}

/// A file where the folder of checkpoints is to be stands for a disk that is full.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_written_is_tried_again_and_only_the_last_one_must_be() {
    let folder = tempfile::tempdir().unwrap();
    let table = FakeTable::new(u64::MAX);
    let mut options = options(folder.path(), table.serve().await, Limits::default());
    options.learner.checkpoint_period_s = 0.02;
    let place = folder.path().join("checkpoints");
    let aside = folder.path().join("aside");
    for full_to_the_end in [false, true] {
        options.resume = full_to_the_end;
        let learner = Learner::start(options.clone()).await;
        let steps = async || learner.status().await.learner_steps;
        wait_until(async || steps().await > 0).await;
        std::fs::rename(&place, &aside).unwrap();
        std::fs::write(&place, "full").unwrap();
        let full_at = steps().await;
        wait_until(async || steps().await > full_at + 200).await;
        if full_to_the_end {
            learner.shutdown.cancel();
            let error = learner.ended().await.unwrap_err();
            assert!(matches!(error, LearnerError::File { .. }), "{error}");
            return;
        }
        std::fs::remove_file(&place).unwrap();
        std::fs::rename(&aside, &place).unwrap();
        let newest_step = || checkpoint::newest(folder.path()).unwrap().0;
        let before = newest_step();
        wait_until(async || newest_step() > before).await;
        learner.shutdown.cancel();
        let outcome = learner.ended().await.unwrap();
        let step = format!("step-{:09}", outcome.learner_steps);
        assert_eq!(newest(folder.path()).await, step);
    }
}

async fn wait_until(mut holds: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds().await {
        assert!(start.elapsed().as_secs() < 60, "it does not come");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
