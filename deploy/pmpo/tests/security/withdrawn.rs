//! What was let in by a credential ends with it; and what a peer sends is in no log.

use std::time::Duration;

use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_proto::replay::v1::{InsertRequest, OpenWriter, insert_request};
use pmpo_service::files::write_atomically;
use pmpo_service::grpc;
use pmpo_service::security::{Credentials, Role, SecurityConfig};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::{Code, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::common::{LIMIT, Process};
use crate::lab::Lab;
use crate::{pmpo, start};

/// A stream that has nothing more to say until somebody ends it.
fn watch(
    runtime: &Runtime,
    replay: &Process,
    credentials: &Credentials,
) -> Streaming<HealthCheckResponse> {
    runtime.block_on(async {
        let channel = grpc::connect_lazy(&replay.address().to_string(), credentials).unwrap();
        let mut client = HealthClient::new(channel);
        let watching = client.watch(HealthCheckRequest::default()).await;
        let mut watching = watching.unwrap().into_inner();
        watching.message().await.unwrap().unwrap();
        watching
    })
}

/// Whether a stream ends, with an error, within `limit`.
fn ended(runtime: &Runtime, stream: &mut Streaming<HealthCheckResponse>, limit: Duration) -> bool {
    let next = runtime.block_on(async { timeout(limit, stream.message()).await });
    match next {
        Ok(Err(status)) => {
            assert_ne!(status.code(), Code::Ok);
            true
        }
        Ok(Ok(message)) => panic!("{message:?}"),
        Err(_) => false,
    }
}

#[test]
fn open_streams_end_with_the_token_that_let_them_in() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::new(pmpo(), &folder.path().join("lab"));
    let tokens = lab.path("tokens");
    let listen = ["--listen", "127.0.0.1:0", "--token-file"];
    let flags = [
        &listen.map(str::to_owned)[..],
        &[tokens.display().to_string()],
    ]
    .concat();
    let replay = start(folder.path(), "replay", &flags);
    let runtime = Runtime::new().unwrap();
    let with_token = |role: Role| {
        let config = SecurityConfig {
            token_file: Some(lab.path(&format!("{role}.token"))),
            ..SecurityConfig::default()
        };
        watch(
            &runtime,
            &replay,
            &Credentials::load(&config, role).unwrap(),
        )
    };
    let (mut actor, mut learner) = (with_token(Role::Actor), with_token(Role::Learner));

    let left = lab.read("tokens");
    let left: Vec<&str> = left
        .lines()
        .filter(|line| !line.starts_with("actor"))
        .collect();
    write_atomically(&tokens, left.join("\n").as_bytes()).unwrap();
    assert!(ended(&runtime, &mut actor, LIMIT));
    assert!(!ended(&runtime, &mut learner, Duration::from_secs(2)));
    let withdrawn = "reason=\"withdrawn\"";
    assert_eq!(
        replay.metric("pmpo_security_refusals_total", withdrawn),
        1.0
    );
}

#[test]
fn open_streams_end_with_the_ca_that_let_them_in() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::new(pmpo(), &folder.path().join("lab"));
    let other = Lab::new(pmpo(), &folder.path().join("other"));
    let mut flags = lab.server_flags(Role::Replay);
    flags.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    let replay = start(folder.path(), "replay", &flags);
    let runtime = Runtime::new().unwrap();
    let mut stream = watch(&runtime, &replay, &lab.credentials(Role::Actor));
    // Another file of the server's changes nothing for those that are there.
    write_atomically(&lab.path("replay.pem"), lab.read("replay.pem").as_bytes()).unwrap();
    replay.wait_metric("pmpo_security_reloads_total", "", |reloads| reloads == 1.0);
    assert!(!ended(&runtime, &mut stream, Duration::from_secs(2)));
    write_atomically(&lab.path("ca.pem"), other.read("ca.pem").as_bytes()).unwrap();
    assert!(ended(&runtime, &mut stream, LIMIT));
}

#[test]
fn names_that_a_peer_sends_are_in_no_log() {
    const NAME: &str = "tell-nobody";
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--listen", "127.0.0.1:0"].map(str::to_owned);
    let replay = start(folder.path(), "replay", &flags);
    let runtime = Runtime::new().unwrap();
    let refused = || {
        runtime.block_on(async {
            let address = replay.address().to_string();
            let channel = grpc::connect_lazy(&address, &Credentials::default()).unwrap();
            let open = OpenWriter {
                table: NAME.to_owned(),
                ..OpenWriter::default()
            };
            let request = InsertRequest {
                request: Some(insert_request::Request::Open(open)),
            };
            let mut client = ReplayClient::new(channel);
            let answers = client.insert(tokio_stream::once(request)).await?;
            answers.into_inner().message().await.map(drop)
        })
    };
    for _ in 0..20 {
        let status: tonic::Status = refused().unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert!(
            status.message().contains(NAME),
            "the peer is told: {status}"
        );
    }
    let log = replay.log();
    assert!(!log.contains(NAME), "{log}");
    let lines = log.lines().filter(|line| line.contains("stream refused"));
    // A second has passed at most once or twice.
    assert!((1..=10).contains(&lines.count()), "{log}");
}
