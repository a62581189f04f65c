//! The table of attempts: who tries what at which door, and what comes of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_proto::replay::v1::{
    CheckpointRequest, ConfigureTableRequest, CreateTableRequest, InsertRequest, ListTablesRequest,
    SampleRequest, UpdatePrioritiesRequest,
};
use pmpo_proto::v1::run_client::RunClient;
use pmpo_proto::v1::{GetStatusRequest, ReportEpisodeRequest, ReportEvaluationRequest};
use pmpo_service::grpc::{self, Channel};
use pmpo_service::security::{Credentials, Role, SecurityConfig};
use tonic::{Code, Status};

use crate::common::{LIMIT, Process, wait_for};
use crate::lab::Lab;

/// A call, of which only matters whether it gets through.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    Insert,
    Sample,
    UpdatePriorities,
    ListTables,
    ConfigureTable,
    CreateTable,
    Checkpoint,
    GetStatus,
    ReportEpisode,
    ReportEvaluation,
    Unknown,
}

impl Call {
    pub async fn make(self, channel: Channel) -> Result<(), Status> {
        let mut replay = ReplayClient::new(channel.clone());
        let mut run = RunClient::new(channel.clone());
        match self {
            Self::Insert => {
                let requests = tokio_stream::once(InsertRequest::default());
                let mut answers = replay.insert(requests).await?.into_inner();
                answers.message().await.map(drop)
            }
            Self::Sample => {
                let requests = tokio_stream::once(SampleRequest::default());
                let mut answers = replay.sample(requests).await?.into_inner();
                answers.message().await.map(drop)
            }
            Self::UpdatePriorities => {
                let request = UpdatePrioritiesRequest::default();
                replay.update_priorities(request).await.map(drop)
            }
            Self::ListTables => replay.list_tables(ListTablesRequest {}).await.map(drop),
            Self::ConfigureTable => {
                let request = ConfigureTableRequest {
                    table: "replay".to_owned(),
                    ..ConfigureTableRequest::default()
                };
                replay.configure_table(request).await.map(drop)
            }
            Self::CreateTable => {
                let request = CreateTableRequest::default();
                replay.create_table(request).await.map(drop)
            }
            Self::Checkpoint => replay
                .checkpoint(CheckpointRequest::default())
                .await
                .map(drop),
            Self::GetStatus => run.get_status(GetStatusRequest {}).await.map(drop),
            Self::ReportEpisode => {
                let request = ReportEpisodeRequest::default();
                run.report_episode(request).await.map(drop)
            }
            Self::ReportEvaluation => {
                let request = ReportEvaluationRequest::default();
                run.report_evaluation(request).await.map(drop)
            }
            Self::Unknown => unknown(channel).await,
        }
    }
}

/// Whether the service itself refuses, as it does an empty request, or a checkpoint without a disk.
fn is_the_services(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition
    )
}

/// Publishes weights, which nobody serves.
async fn unknown(channel: Channel) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/pmpo.v1.Weights/Publish");
    let codec = tonic_prost::ProstCodec::<ListTablesRequest, ListTablesRequest>::default();
    let request = tonic::Request::new(ListTablesRequest {});
    client.unary(request, path, codec).await.map(drop)
}

/// What came of an attempt.
#[derive(Debug)]
pub struct Outcome {
    pub who: String,
    pub what: String,
    pub expected: &'static str,
    pub got: String,
    /// The reason it was counted under, and by how much that grew.
    pub counted: Option<(&'static str, f64)>,
}

impl Outcome {
    pub fn is_as_expected(&self) -> bool {
        self.got.starts_with(self.expected) && self.counted.is_none_or(|(_, count)| count >= 1.0)
    }
}

pub fn print(outcomes: &[Outcome]) {
    println!("{:42} {:17} {:26} outcome", "who", "tries", "counted as");
    for outcome in outcomes {
        let Outcome { who, what, got, .. } = outcome;
        let got: String = got.chars().take(90).collect();
        let counted = outcome
            .counted
            .map(|(reason, count)| format!("{reason} +{count}"));
        let counted = counted.unwrap_or_default();
        println!("{who:42} {what:17} {counted:26} {got}");
    }
}

/// Refusals that a service has counted for this reason.
fn refusals(door: &Process, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    door.metric("pmpo_security_refusals_total", &label)
}

/// The doors that are tried: a replay and a learner with mutual TLS and tokens, a replay with tokens
/// alone, and one with nothing but small limits.
pub struct Doors {
    pub lab: Lab,
    other: Lab,
    runtime: tokio::runtime::Runtime,
    pub replay: Process,
    pub learner: Process,
    pub tokens: Process,
    pub open: Process,
}

impl Doors {
    pub fn new(pmpo: &Path, folder: &Path) -> Self {
        let lab = Lab::new(pmpo, &folder.join("lab"));
        let other = Lab::new(pmpo, &folder.join("other"));
        let listen = ["--listen", "127.0.0.1:0"].map(str::to_owned);
        let start = |name: &str, role, flags: &[String]| {
            let mut command = Command::new(pmpo);
            command.arg(role).args(&listen).args(flags);
            Process::start(command, folder, name)
        };
        let replay = start("replay", "replay", &lab.server_flags(Role::Replay));
        let mut flags = lab.server_flags(Role::Learner);
        flags.extend([
            "--run-dir".to_owned(),
            folder.join("run").display().to_string(),
        ]);
        flags.extend(["--replay".to_owned(), replay.address().to_string()]);
        flags.push("cartpole-swingup".to_owned());
        let learner = start("learner", "learner", &flags);
        let file = lab.path("tokens").display().to_string();
        let tokens = start("tokens", "replay", &["--token-file".to_owned(), file]);
        let small = [
            "security.first_call_timeout_s=1.0",
            "security.max_connections_per_peer=4",
            "security.max_requests_per_second_per_connection=50",
        ];
        let small = small
            .map(|limit| ["--set".to_owned(), limit.to_owned()])
            .concat();
        Self {
            runtime: tokio::runtime::Runtime::new().expect("a runtime"),
            open: start("open", "replay", &small),
            replay,
            learner,
            tokens,
            lab,
            other,
        }
    }

    pub fn all(&self) -> Vec<Outcome> {
        let mut outcomes = self.by_certificate();
        outcomes.extend(self.by_token());
        outcomes.extend(self.by_role());
        outcomes.extend(self.by_protocol());
        outcomes.extend(self.by_limit());
        outcomes
    }

    /// One call with these credentials.
    fn call(&self, door: &Process, config: &SecurityConfig, role: Role, call: Call) -> String {
        self.runtime.block_on(async {
            let credentials = Credentials::load(config, role).expect("credentials");
            let address = door.address().to_string();
            let channel = grpc::connect_lazy(&address, &credentials).expect("an address");
            let made = tokio::time::timeout(LIMIT, call.make(channel)).await;
            match made.expect("an answer in time") {
                Ok(()) => "let through".to_owned(),
                Err(status) if is_the_services(&status) => "let through".to_owned(),
                Err(status) => format!("{:?}: {}", status.code(), status.message()),
            }
        })
    }

    fn attempt(
        &self,
        (who, config, role): (&str, &SecurityConfig, Role),
        door: &Process,
        call: Call,
        (expected, reason): (&'static str, Option<&'static str>),
    ) -> Outcome {
        let before = reason.map(|reason| refusals(door, reason));
        let got = self.call(door, config, role, call);
        let what = format!("{call:?}");
        Outcome {
            who: who.to_owned(),
            what,
            expected,
            got,
            counted: reason.zip(before).map(|(reason, before)| {
                // A server says so before or after it counts.
                let grown = wait_for("the count", || {
                    let grown = refusals(door, reason) - before;
                    (grown > 0.0).then_some(grown)
                });
                (reason, grown)
            }),
        }
    }

    fn by_certificate(&self) -> Vec<Outcome> {
        let actor = self.lab.config(Role::Actor);
        let without = SecurityConfig {
            tls_cert: None,
            tls_key: None,
            ..actor.clone()
        };
        let stranger = SecurityConfig {
            tls_ca: actor.tls_ca.clone(),
            ..self.other.config(Role::Actor)
        };
        let distrustful = SecurityConfig {
            tls_ca: self.other.config(Role::Actor).tls_ca,
            ..actor.clone()
        };
        let plain = SecurityConfig {
            token_file: actor.token_file.clone(),
            ..SecurityConfig::default()
        };
        let away = |reason| ("Unavailable", Some(reason));
        let attempts = [
            ("no certificate", without, "no_certificate"),
            ("a certificate of another CA", stranger, "wrong_certificate"),
            (
                "an expired certificate",
                self.lab.expired(),
                "expired_certificate",
            ),
            ("a client that trusts another CA", distrustful, "handshake"),
            ("a plaintext client on a TLS port", plain, "plaintext"),
        ];
        let attempts = attempts.map(|(who, config, reason)| {
            let who = (who, &config, Role::Actor);
            self.attempt(who, &self.replay, Call::Insert, away(reason))
        });
        attempts.into()
    }

    fn by_token(&self) -> Vec<Outcome> {
        let actor = self.lab.config(Role::Actor);
        let without = SecurityConfig {
            token_file: None,
            ..actor.clone()
        };
        let wrong = SecurityConfig {
            token_file: self.other.config(Role::Actor).token_file,
            ..actor.clone()
        };
        let mixed = SecurityConfig {
            token_file: Some(self.lab.path("learner.token")),
            ..actor.clone()
        };
        let only = |config: &SecurityConfig| SecurityConfig {
            token_file: config.token_file.clone(),
            ..SecurityConfig::default()
        };
        let try_at = |door, who, config: &SecurityConfig, code, reason| {
            self.attempt(
                (who, config, Role::Actor),
                door,
                Call::Insert,
                (code, reason),
            )
        };
        let (missing, unknown) = (Some("no_token"), Some("wrong_token"));
        let denied = "Unauthenticated";
        vec![
            try_at(
                &self.replay,
                "an actor without a token",
                &without,
                denied,
                missing,
            ),
            try_at(
                &self.replay,
                "an actor with a wrong token",
                &wrong,
                denied,
                unknown,
            ),
            try_at(
                &self.replay,
                "an actor's certificate, a learner's token",
                &mixed,
                "PermissionDenied",
                Some("role"),
            ),
            try_at(
                &self.tokens,
                "tokens only: none",
                &only(&without),
                denied,
                missing,
            ),
            try_at(
                &self.tokens,
                "tokens only: a wrong one",
                &only(&wrong),
                denied,
                unknown,
            ),
            try_at(
                &self.tokens,
                "tokens only: an actor",
                &only(&actor),
                "let through",
                None,
            ),
        ]
    }

    fn by_role(&self) -> Vec<Outcome> {
        use Call::*;
        let (replay, learner) = (&self.replay, &self.learner);
        let refused = [
            (replay, Role::Actor, ConfigureTable),
            (replay, Role::Actor, Sample),
            (replay, Role::Actor, Unknown),
            (replay, Role::Writer, Sample),
            (replay, Role::Writer, UpdatePriorities),
            (replay, Role::Writer, ConfigureTable),
            (replay, Role::Sampler, Insert),
            (replay, Role::Sampler, ConfigureTable),
            (learner, Role::Writer, ReportEpisode),
            (learner, Role::Sampler, ReportEvaluation),
            (replay, Role::Evaluator, ListTables),
            (replay, Role::Evaluator, Insert),
            (replay, Role::Learner, Insert),
            (replay, Role::Learner, ConfigureTable),
            (replay, Role::Sampler, CreateTable),
            (replay, Role::Actor, CreateTable),
            (replay, Role::Writer, Checkpoint),
            (replay, Role::Replay, Insert),
            (learner, Role::Actor, ReportEvaluation),
            (learner, Role::Actor, Unknown),
            (learner, Role::Evaluator, ReportEpisode),
        ];
        let allowed = [
            (replay, Role::Actor, Insert),
            (replay, Role::Actor, ListTables),
            (replay, Role::Writer, Insert),
            (replay, Role::Writer, ListTables),
            (replay, Role::Sampler, Sample),
            (replay, Role::Sampler, UpdatePriorities),
            (replay, Role::Sampler, ListTables),
            (replay, Role::Learner, Sample),
            (replay, Role::Learner, UpdatePriorities),
            (replay, Role::Learner, ListTables),
            (replay, Role::Learner, CreateTable),
            (replay, Role::Admin, ConfigureTable),
            (replay, Role::Admin, CreateTable),
            (replay, Role::Admin, Checkpoint),
            (learner, Role::Actor, GetStatus),
            (learner, Role::Actor, ReportEpisode),
            (learner, Role::Evaluator, ReportEvaluation),
        ];
        let attempt = |(door, role, call), outcome| {
            let who = format!("{role}, all in order");
            self.attempt((&who, &self.lab.config(role), role), door, call, outcome)
        };
        let refused = refused.map(|tried| attempt(tried, ("PermissionDenied", Some("role"))));
        let allowed = allowed.map(|tried| attempt(tried, ("let through", None)));
        refused.into_iter().chain(allowed).collect()
    }

    fn by_protocol(&self) -> Vec<Outcome> {
        let tls = self.lab.config(Role::Actor);
        let who = ("a TLS client on a plaintext port", &tls, Role::Actor);
        let outcome = ("Unavailable", Some("protocol"));
        vec![
            self.attempt(who, &self.tokens, Call::Insert, outcome),
            raw(
                "HTTP/1.1 on a gRPC port",
                &self.tokens,
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                "protocol",
            ),
        ]
    }

    /// Each of these ends by the server's closing the connection.
    fn by_limit(&self) -> Vec<Outcome> {
        let open = &self.open;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let mut outcomes = vec![
            raw(
                "a client that says nothing",
                open,
                b"",
                "first_call_timeout",
            ),
            raw(
                "a client that stops in the middle",
                open,
                b"PRI * H",
                "first_call_timeout",
            ),
            raw("HTTP/2 without a call", open, preface, "first_call_timeout"),
        ];
        let before = refusals(open, "connections");
        let mut held: Vec<_> = (0..5).map(|_| connect(open.address())).collect();
        outcomes.push(ended(
            "the oldest of five connections, of four",
            (open, &mut held[0]),
            ("connections", before),
        ));
        drop(held);
        wait_for("the connections' end", || {
            (open.metric("pmpo_security_connections", "") == 0.0).then_some(())
        });
        outcomes.push(self.too_fast());
        outcomes
    }

    fn too_fast(&self) -> Outcome {
        let before = refusals(&self.open, "rate");
        let got = self.runtime.block_on(async {
            let address = self.open.address().to_string();
            let channel = grpc::connect_lazy(&address, &Credentials::default()).expect("address");
            for _ in 0..10_000 {
                if let Err(status) = Call::ListTables.make(channel.clone()).await {
                    return format!("{:?}: {}", status.code(), status.message());
                }
            }
            "let through".to_owned()
        });
        Outcome {
            who: "more than 50 calls a second".to_owned(),
            what: "ListTables".to_owned(),
            expected: "ResourceExhausted",
            got,
            counted: Some(("rate", refusals(&self.open, "rate") - before)),
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).expect("the port is open")
}

/// Sends `bytes` and waits until the server hangs up.
fn raw(who: &str, door: &Process, bytes: &[u8], reason: &'static str) -> Outcome {
    let before = refusals(door, reason);
    let mut socket = connect(door.address());
    // It may fail, where the server has hung up already.
    drop(socket.write_all(bytes));
    let what = format!("{} bytes", bytes.len());
    Outcome {
        what,
        ..ended(who, (door, &mut socket), (reason, before))
    }
}

/// Waits until the server hangs up and has counted why, more often than `before`.
fn ended(
    who: &str,
    (door, socket): (&Process, &mut TcpStream),
    (reason, before): (&'static str, f64),
) -> Outcome {
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let ended = socket.read_to_end(&mut Vec::new());
    let timed_out = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    let grown = wait_for("the count", || {
        let grown = refusals(door, reason) - before;
        (grown > 0.0).then_some(grown)
    });
    Outcome {
        who: who.to_owned(),
        what: String::new(),
        expected: "closed",
        got: if timed_out { "still open" } else { "closed" }.to_owned(),
        counted: Some((reason, grown)),
    }
}
