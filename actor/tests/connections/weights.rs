//! The subscription to weights over real connections: latest wins, a lost stream is renewed, and
//! what does not fit is refused.

use crate::support::{Learner, Snapshots, publication};
use pmpo_actor::ActorError;
use pmpo_actor::run_info::RunInfo;
use pmpo_actor::weights::{Newest, Policy, WeightsSource, subscribe};
use pmpo_proto::v1;
use pmpo_service::grpc;
use pmpo_service::security::Credentials;
use pmpo_types::EnvironmentSpec;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

struct Fixture {
    spec: EnvironmentSpec,
    learner: Learner,
    first: Snapshots,
    newest: Newest,
    subscription: JoinHandle<Result<(), ActorError>>,
    shutdown: CancellationToken,
}

async fn fixture() -> Fixture {
    let spec = pmpo_suite::load("cartpole-swingup", 1)
        .unwrap()
        .spec()
        .clone();
    let (learner, _) = Learner::new(&spec);
    let first = learner.next_stream();
    let channel =
        grpc::connect_lazy(&learner.clone().serve().await, &Credentials::default()).unwrap();
    let shutdown = CancellationToken::new();
    let run = RunInfo::get(&channel, &shutdown).await.unwrap().unwrap();
    let (newest, subscription) = subscribe(channel, "test".to_owned(), &run, &spec, &shutdown);
    let subscription = tokio::spawn(subscription);
    Fixture {
        spec,
        learner,
        first,
        newest,
        subscription,
        shutdown,
    }
}

impl Fixture {
    async fn wait(&self) -> Option<Policy> {
        let mut newest = self.newest.clone();
        tokio::task::spawn_blocking(move || newest.wait())
            .await
            .unwrap()
    }

    /// Waits until `version` is the newest, however many are skipped.
    async fn wait_for(&mut self, version: u64) -> Policy {
        loop {
            let mut newest = self.newest.clone();
            let (taken, policy) = tokio::task::spawn_blocking(move || {
                let policy = newest.wait();
                (newest, policy)
            })
            .await
            .unwrap();
            self.newest = taken;
            let policy = policy.expect("the subscription has not ended");
            if policy.version.0 == version {
                return policy;
            }
        }
    }

    async fn refusal(self) -> ActorError {
        let error = self.subscription.await.unwrap().unwrap_err();
        let mut newest = self.newest;
        let end = tokio::task::spawn_blocking(move || newest.wait())
            .await
            .unwrap();
        assert!(end.is_none(), "a thread that waits is let go");
        error
    }
}

#[tokio::test]
async fn the_newest_policy_wins_and_is_taken_once() {
    let mut fixture = fixture().await;
    assert!(fixture.newest.newer().is_none());
    for version in 1..=3 {
        let snapshot = publication(&fixture.spec, version, 10 * version);
        fixture.first.send(Ok(snapshot)).await.unwrap();
    }
    assert_eq!(fixture.wait_for(3).await.learner_step, 30);
    assert!(fixture.newest.newer().is_none());

    fixture.shutdown.cancel();
    assert!(fixture.wait().await.is_none());
    fixture.subscription.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lost_stream_is_renewed_and_an_older_version_is_the_learners_right() {
    let mut fixture = fixture().await;
    fixture
        .first
        .send(Ok(publication(&fixture.spec, 5, 50)))
        .await
        .unwrap();
    fixture.wait_for(5).await;
    let second = fixture.learner.next_stream();
    fixture
        .first
        .send(Err(Status::unavailable("gone")))
        .await
        .unwrap();
    second
        .send(Ok(publication(&fixture.spec, 4, 40)))
        .await
        .unwrap();
    assert_eq!(fixture.wait_for(4).await.learner_step, 40);
    let third = fixture.learner.next_stream();
    drop(second);
    third
        .send(Ok(publication(&fixture.spec, 6, 60)))
        .await
        .unwrap();
    fixture.wait_for(6).await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_passed_over() {
    let mut fixture = fixture().await;
    let other = pmpo_suite::load("walker-walk", 1).unwrap().spec().clone();
    let good = publication(&fixture.spec, 1, 0);
    let truncated = good.weights.slice(..good.weights.len() - 1);
    let other_sizes = publication(&other, 1, 0).weights;
    for weights in [truncated, other_sizes] {
        let bad = v1::PolicySnapshot {
            weights,
            ..good.clone()
        };
        fixture.first.send(Ok(bad)).await.unwrap();
    }
    fixture
        .first
        .send(Ok(v1::PolicySnapshot { version: 2, ..good }))
        .await
        .unwrap();
    let first = fixture.wait().await.unwrap();
    assert_eq!(
        first.version.0, 2,
        "the damaged ones never reached a thread"
    );
    fixture.wait_for(2).await;
}

#[tokio::test]
async fn another_environments_policy_ends_the_subscription() {
    let fixture = fixture().await;
    let other = pmpo_suite::load("walker-walk", 1).unwrap().spec().clone();
    fixture
        .first
        .send(Ok(publication(&other, 1, 0)))
        .await
        .unwrap();
    let error = fixture.refusal().await;
    assert!(matches!(error, ActorError::Spec { .. }), "{error}");
}

#[tokio::test]
async fn a_learner_that_comes_back_with_other_settings_ends_the_subscription() {
    let mut fixture = fixture().await;
    fixture
        .first
        .send(Ok(publication(&fixture.spec, 1, 0)))
        .await
        .unwrap();
    fixture.wait_for(1).await;
    fixture.learner.info.lock().unwrap().discount = 0.5;
    fixture
        .first
        .send(Err(Status::unavailable("gone")))
        .await
        .unwrap();
    let error = fixture.refusal().await;
    assert!(matches!(error, ActorError::OtherRun { .. }), "{error}");
}

#[tokio::test]
async fn a_refusal_ends_the_subscription() {
    let fixture = fixture().await;
    let status = Status::failed_precondition("spec_digest: expected another");
    fixture.first.send(Err(status)).await.unwrap();
    let error = fixture.refusal().await;
    assert!(
        matches!(
            error,
            ActorError::Refused {
                code: Code::FailedPrecondition,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("spec_digest: expected another"));
}
