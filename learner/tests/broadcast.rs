//! Publications to many subscribers over real connections, one of whom never reads.

use std::time::Duration;

use pmpo_learner::broadcaster::Broadcaster;
use pmpo_policy::{NetworkConfig, TorsoConfig};
use pmpo_proto::v1::{self, weights_client::WeightsClient};
use pmpo_service::grpc;
use pmpo_service::process::resident_bytes;
use pmpo_service::security::Credentials;
use pmpo_types::{ActionSpec, EnvironmentSpec, ObservationField};
use tokio::net::TcpListener;
use tonic::Streaming;

/// Far more than the test takes, should it hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn spec() -> EnvironmentSpec {
    EnvironmentSpec {
        task: "test-task".to_owned(),
        observation: vec![ObservationField {
            name: "x".to_owned(),
            size: 3,
        }],
        action: ActionSpec {
            minimum: vec![-1.0; 2],
            maximum: vec![1.0; 2],
        },
        control_timestep: 0.01,
        step_limit: None,
        action_repeat: 1,
    }
}

/// On a connection of its own.
async fn subscribe(address: &str) -> Streaming<v1::PolicySnapshot> {
    let request = v1::SubscribeRequest {
        subscriber: "test".to_owned(),
        spec_digest: spec().digest().0.to_vec().into(),
    };
    let mut client =
        WeightsClient::new(grpc::connect_lazy(address, &Credentials::default()).unwrap());
    client.subscribe(request).await.unwrap().into_inner()
}

/// Waits for this version, however many are skipped on the way.
async fn reaches(stream: &mut Streaming<v1::PolicySnapshot>, version: u64) {
    loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await;
        let snapshot = message.expect("in time").unwrap().expect("no end");
        if snapshot.version == version {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_never_reads_delays_nobody_and_costs_bounded_memory() {
    const PUBLICATIONS: u64 = 400;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let network = NetworkConfig {
        torso: TorsoConfig::hidden(&[512; 2]),
        ..NetworkConfig::default()
    };
    let mut learner = Broadcaster::start(network, spec(), listener).unwrap();
    let stuck = subscribe(&address).await;
    let mut others = [subscribe(&address).await, subscribe(&address).await];
    for other in &mut others {
        reaches(other, 1).await;
    }
    let warm = PUBLICATIONS / 4;
    let mut before = 0;
    for version in 2..=PUBLICATIONS {
        assert_eq!(learner.publish().unwrap(), version);
        for other in &mut others {
            reaches(other, version).await;
        }
        if version == warm {
            before = resident_bytes(std::process::id()).unwrap();
        }
    }
    let after = resident_bytes(std::process::id()).unwrap();
    let grown = after.saturating_sub(before);
    let published = (PUBLICATIONS - warm) * learner.snapshot_bytes() as u64;
    assert!(
        grown < published / 20,
        "{grown} bytes grown, {published} published"
    );

    // Once it reads, it gets what it was sent before it stopped, and then the newest.
    let mut stuck = stuck;
    reaches(&mut stuck, PUBLICATIONS).await;
    learner.end().await.unwrap();
    let end = tokio::time::timeout(PATIENCE, stuck.message()).await;
    assert!(end.expect("in time").unwrap().is_none(), "an orderly end");
}
