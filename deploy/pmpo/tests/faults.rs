//! Roles as separate services that are frozen, killed, stopped and asked how they are.

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use pmpo_service::grpc;
use pmpo_service::security::Credentials;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use common::{Process, wait_for};

/// Small networks and batches, and short leases and signs of life.
const SETTINGS: [&str; 11] = [
    "policy.hidden_sizes=[32, 32]",
    "learner.batch_size=32",
    "learner.publish_period_steps=10",
    "learner.checkpoint_period_s=2.0",
    "learner.lease_s=1.0",
    "replay.table.samples_per_insert=16.0",
    "replay.table.min_size_to_sample=200",
    "replay.keepalive_interval_s=0.3",
    "replay.keepalive_timeout_s=0.5",
    "evaluator.episodes=1",
    "actor.environments=2",
];

fn command(role: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    command.arg(role).args(flags);
    for setting in SETTINGS {
        command.args(["--set", setting]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn start(folder: &Path, name: &str, role: &str, flags: &[&str]) -> Process {
    Process::start(command(role, flags), folder, name)
}

fn health(address: &str, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    let output = command.arg("health").arg(address).args(flags).output();
    output.unwrap()
}

fn wait_ready(service: &Process) {
    wait_for(&format!("{} ready", service.name), || {
        health(&service.metrics().to_string(), &["--http"])
            .status
            .success()
            .then_some(())
    });
}

const ACTORS: &str = "role=\"actor\"";

#[test]
fn members_are_noticed_when_they_freeze_die_and_return() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run_dir = folder.join("run").display().to_string();
    let data_dir = folder.join("data").display().to_string();
    let any = ["--listen", "127.0.0.1:0"];
    let replay_flags = [&any[..], &["--data-dir", &data_dir]].concat();
    let replay = start(folder, "replay", "replay", &replay_flags);
    wait_ready(&replay);
    let (r, listen) = (replay.address().to_string(), "127.0.0.1:0");
    let learner_flags = |listen| {
        let run = ["cartpole-swingup", "--run-dir", &run_dir, "--resume=auto"];
        [&run[..], &["--replay", &r, "--listen", listen]].concat()
    };
    let learner = start(folder, "learner", "learner", &learner_flags(listen));
    let l = learner.address().to_string();
    let actor_flags = |index| vec!["--replay", &r, "--learner", &l, "--index", index];
    let first = start(folder, "actor-0", "actor", &actor_flags("0"));
    wait_ready(&first);
    wait_ready(&learner);
    assert!(health(&r, &[]).status.success());
    assert!(health(&l, &[]).status.success());

    for (server, service) in [
        (&r, "pmpo.replay.v1.Replay"),
        (&l, "pmpo.v1.Weights"),
        (&l, "pmpo.v1.Run"),
    ] {
        let services = reflected(server);
        for expected in [service, "grpc.health.v1.Health"] {
            assert!(services.iter().any(|name| name == expected), "{services:?}");
        }
        // And nothing that is served elsewhere.
        let elsewhere = |name: &String| {
            name.starts_with("pmpo.") && (name == "pmpo.replay.v1.Replay") != (server == &r)
        };
        assert!(!services.iter().any(elsewhere), "{server}: {services:?}");
    }

    // An index has one holder; without one, the next is given.
    let second = command("actor", &actor_flags("0")).output().unwrap();
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(6), "{stderr}");
    assert!(
        stderr.contains("actor-0 is in the run and alive"),
        "{stderr}"
    );
    let auto = start(folder, "actor-auto", "actor", &actor_flags("auto"));
    learner.wait_metric("pmpo_learner_members", ACTORS, |members| members == 2.0);
    wait_ready(&auto);

    // Two environments each, and the learner's sampler.
    replay.wait_metric("pmpo_replay_open_streams", "", |streams| streams == 5.0);
    first.signal("STOP");
    learner.wait_metric("pmpo_learner_members", ACTORS, |members| members == 1.0);
    replay.wait_metric("pmpo_replay_open_streams", "", |streams| streams == 3.0);
    let expired = learner.metric("pmpo_learner_leases_expired_total", ACTORS);
    assert_eq!(expired, 1.0);
    first.signal("CONT");
    learner.wait_metric("pmpo_learner_members", ACTORS, |members| members == 2.0);
    replay.wait_metric("pmpo_replay_open_streams", "", |streams| streams == 5.0);
    let log = learner.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("its lease ran out"));
    assert_eq!(lines.count(), 1, "{log}");

    // A learner that is killed comes back with new numbers, and everyone takes its policies.
    let version = "pmpo_learner_policy_version";
    let before = learner.wait_metric(version, "", |version| version > 5.0);
    learner.kill();
    let learner = start(folder, "learner", "learner", &learner_flags(&l));
    let after = learner.wait_metric(version, "", |version| version > 0.0);
    assert!(after > before, "{after} after {before}");
    for actor in [&first, &auto] {
        actor.wait_metric("pmpo_actor_policy_version", "", |now| now >= after);
        let regressions = actor.metric("pmpo_actor_version_regressions_total", "");
        assert_eq!(regressions, 0.0);
    }
    learner.wait_metric("pmpo_learner_members", ACTORS, |members| members == 2.0);

    // So does a replay, with its data.
    let inserts = replay.metric("pmpo_replay_inserts_total", "");
    replay.kill();
    let replay_flags = ["--listen", &r, "--data-dir", &data_dir];
    let replay = start(folder, "replay", "replay", &replay_flags);
    replay.wait_metric("pmpo_replay_inserts_total", "", |now| now > inserts);
    let writers = Command::new(env!("CARGO_BIN_EXE_pmpo"))
        .args(["tables", "--writers", "--replay", &r])
        .output()
        .unwrap();
    let writers = String::from_utf8(writers.stdout).unwrap();
    let listed = writers.lines().filter(|line| line.contains("  writer "));
    assert_eq!(listed.count(), 4, "{writers}");

    for service in [first, auto, learner, replay] {
        let (name, address) = (service.name.clone(), service.metrics().to_string());
        assert_eq!(service.stop(), Some(0), "{name}");
        assert_eq!(health(&address, &["--http"]).status.code(), Some(1));
    }
    assert_eq!(health(&l, &["--timeout", "1"]).status.code(), Some(1));
    let meta = std::fs::read_dir(folder.join("run/checkpoints")).unwrap();
    assert!(meta.count() > 0);
}

/// What a server says it serves to tools that have no copy of the protocol.
fn reflected(address: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answer = runtime.block_on(async {
        let channel = grpc::connect_lazy(address, &Credentials::default()).unwrap();
        let mut client = ServerReflectionClient::new(channel);
        let requests = tokio_stream::once(request);
        let answers = client.server_reflection_info(requests).await.unwrap();
        answers.into_inner().message().await.unwrap().unwrap()
    });
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => list
            .service
            .into_iter()
            .map(|service| service.name)
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn exit_codes_tell_causes_apart() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data").display().to_string();
    let flags = ["--listen", "127.0.0.1:0", "--data-dir", &data_dir];
    let replay = start(folder.path(), "replay", "replay", &flags);
    wait_ready(&replay);
    let run_dir = folder.path().join("run").display().to_string();
    let learner = [
        "cartpole-swingup",
        "--run-dir",
        &run_dir,
        "--listen",
        "127.0.0.1:0",
    ];
    let gpu = [&learner[..], &["--device", "cuda:63"]].concat();
    let nothing = [&learner[..], &["--resume"]].concat();
    let cases: [(&str, &[&str], i32, &str); 4] = [
        ("replay", &flags, 5, "in use by process"),
        // In this order: the second leaves its configuration behind.
        ("learner", &nothing, 2, "no such file"),
        ("learner", &gpu, 4, "device cuda:63"),
        (
            "actor",
            &["--index", "first"],
            2,
            "expected a number or auto",
        ),
    ];
    for (role, flags, code, expected) in cases {
        let output = command(role, flags).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{role}: {stderr}");
        assert!(stderr.contains(expected), "{role}: {stderr}");
    }
}
