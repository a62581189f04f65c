//! Actor and evaluator as roles, over real connections to a learner and a replay of the test.

use crate::support::{Learner, Replay, publication};
use pmpo_actor::{ActorConfig, ActorError, Addresses, EvaluatorConfig};
use pmpo_proto::v1;
use pmpo_service::security::Credentials;
use pmpo_types::{EnvironmentSpec, step};
use tokio_util::sync::CancellationToken;
use tonic::Status;

fn spec() -> EnvironmentSpec {
    pmpo_suite::load("cartpole-swingup", 1)
        .unwrap()
        .spec()
        .clone()
}

#[tokio::test]
async fn an_actor_inserts_every_step_in_order_and_stops_cleanly() {
    let spec = spec();
    let (learner, mut told) = Learner::new(&spec);
    let weights = learner.next_stream();
    weights.send(Ok(publication(&spec, 1, 0))).await.unwrap();
    let (replay, mut inserted) = Replay::serve().await;
    let addresses = Addresses {
        learner: learner.serve().await,
        replay: vec![replay],
        credentials: Credentials::default(),
    };
    let shutdown = CancellationToken::new();
    let actor = tokio::spawn(pmpo_actor::run(
        ActorConfig {
            environments: 1,
            ..ActorConfig::default()
        },
        addresses,
        2,
        shutdown.clone(),
    ));

    let episode = told.episodes.recv().await.unwrap();
    assert_eq!((episode.actor.as_str(), episode.length), ("actor-2", 1000));
    assert_eq!(episode.policy_version, 1);
    shutdown.cancel();
    actor.await.unwrap().unwrap();

    let mut items = 0;
    while let Ok(batch) = inserted.try_recv() {
        assert_eq!(batch.first_sequence, items);
        let signature = step::signature(spec.observation_size(), spec.action_size());
        let batch = pmpo_proto::batch_from_wire(&signature, batch.columns, usize::MAX).unwrap();
        items += batch.len() as u64;
    }
    assert!(items >= 1000, "{items} items");
}

#[tokio::test]
async fn environments_have_writers_and_seeds_of_their_own() {
    let spec = spec();
    let (learner, mut told) = Learner::new(&spec);
    let weights = learner.next_stream();
    weights.send(Ok(publication(&spec, 1, 0))).await.unwrap();
    let (replay, mut inserted) = Replay::serve().await;
    let addresses = Addresses {
        learner: learner.serve().await,
        replay: vec![replay],
        credentials: Credentials::default(),
    };
    let shutdown = CancellationToken::new();
    let config = ActorConfig {
        environments: 2,
        ..ActorConfig::default()
    };
    let actor = tokio::spawn(pmpo_actor::run(config, addresses, 0, shutdown.clone()));
    told.episodes.recv().await.unwrap();
    told.episodes.recv().await.unwrap();
    shutdown.cancel();
    actor.await.unwrap().unwrap();

    let mut first_observations = Vec::new();
    while let Ok(batch) = inserted.try_recv() {
        if batch.first_sequence == 0 {
            first_observations.push(batch.columns[step::OBSERVATION].data.slice(..20));
        }
    }
    assert_eq!(first_observations.len(), 2);
    assert_ne!(first_observations[0], first_observations[1]);
}

#[tokio::test]
async fn an_evaluator_reports_until_it_is_heard() {
    let spec = spec();
    let (learner, mut told) = Learner::new(&spec);
    let weights = learner.next_stream();
    weights.send(Ok(publication(&spec, 1, 0))).await.unwrap();
    let answers = [
        Status::unavailable("busy"),
        Status::unavailable("still busy"),
    ];
    learner.evaluation_answers.lock().unwrap().extend(answers);
    let address = learner.serve().await;
    let shutdown = CancellationToken::new();
    let config = EvaluatorConfig {
        episodes: 2,
        threads: 2,
        ..EvaluatorConfig::default()
    };
    let stop = shutdown.clone();
    let evaluator = tokio::spawn(async move {
        pmpo_actor::evaluator::run(config, &address, &Credentials::default(), 0, stop).await
    });

    let first = told.evaluations.recv().await.unwrap();
    assert_eq!(
        (first.policy_version, first.learner_step, first.episodes),
        (1, 0, 2)
    );
    assert!((0.0..1000.0).contains(&first.return_mean));
    weights.send(Ok(publication(&spec, 2, 999))).await.unwrap();
    weights.send(Ok(publication(&spec, 3, 1000))).await.unwrap();
    assert_eq!(told.evaluations.recv().await.unwrap().policy_version, 3);
    shutdown.cancel();
    evaluator.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_role_that_waits_for_an_absent_learner_stops_when_told() {
    let absent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let learner = absent.local_addr().unwrap().to_string();
    drop(absent);
    let shutdown = CancellationToken::new();
    let addresses = Addresses {
        learner: learner.clone(),
        replay: vec![learner.clone()],
        credentials: Credentials::default(),
    };
    let none = Credentials::default();
    let actor = pmpo_actor::run(ActorConfig::default(), addresses, 0, shutdown.clone());
    let evaluator = pmpo_actor::evaluator::run(
        EvaluatorConfig::default(),
        &learner,
        &none,
        0,
        shutdown.clone(),
    );
    let (actor, evaluator, ()) = tokio::join!(actor, evaluator, async { shutdown.cancel() });
    actor.unwrap();
    evaluator.unwrap();
}

#[tokio::test]
async fn a_learner_with_another_idea_of_the_task_is_refused() {
    type Change = fn(&mut v1::RunInfo);
    let cases: [(Change, &str); 4] = [
        (
            |info| info.spec_digest = vec![0; 32].into(),
            "run the same version everywhere",
        ),
        (
            |info| info.task = "cartpole-swingdown".to_owned(),
            "unknown task \"cartpole-swingdown\"",
        ),
        (
            |info| info.window = None,
            "window: expected a window, got nothing",
        ),
        (
            |info| {
                info.window = Some(v1::Window {
                    steps: 3,
                    period: 4,
                })
            },
            "window.period: expected 1..=3, got 4",
        ),
    ];
    for (change, expected) in cases {
        let (learner, _told) = Learner::new(&spec());
        change(&mut learner.info.lock().unwrap());
        let address = learner.serve().await;
        let addresses = Addresses {
            learner: address,
            replay: vec!["127.0.0.1:1".to_owned()],
            credentials: Credentials::default(),
        };
        let shutdown = CancellationToken::new();
        let error: ActorError = pmpo_actor::run(ActorConfig::default(), addresses, 0, shutdown)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn addresses_and_configurations_are_checked_first() {
    let addresses = Addresses {
        learner: "nowhere".to_owned(),
        replay: vec!["a:1".to_owned()],
        credentials: Credentials::default(),
    };
    let shutdown = CancellationToken::new();
    let run = pmpo_actor::run(
        ActorConfig::default(),
        addresses.clone(),
        0,
        shutdown.clone(),
    );
    assert!(matches!(run.await, Err(ActorError::Address(_))));
    let config = ActorConfig {
        environments: 0,
        ..ActorConfig::default()
    };
    let run = pmpo_actor::run(config, addresses, 0, shutdown);
    assert!(matches!(run.await, Err(ActorError::Config(_))));
}
