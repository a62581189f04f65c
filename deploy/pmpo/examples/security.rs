//! Nobody uninvited, under load: the table of attempts, then a training run whose replay and learner
//! are each held by ten thousand idle connections and five hundred that send a byte a second. Prints
//! how fast it learned before and meanwhile, and whether an actor that is killed comes back.
//!
//! `cargo build --release && cargo run --release --example security [seconds]`
#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared with the test of the same name"
)]

#[path = "../tests/security/attempts.rs"]
mod attempts;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/security/lab.rs"]
mod lab;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pmpo_proto::v1::run_client::RunClient;
use pmpo_proto::v1::{GetStatusRequest, RunStatus};
use pmpo_service::announce::Announcement;
use pmpo_service::grpc;
use pmpo_service::process::{raise_open_files, resident_bytes};
use pmpo_service::security::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use attempts::Doors;
use common::{metrics, wait_for};

const IDLE: usize = 10_000;
const SLOW: usize = 500;

/// Addresses that the flood of one port comes from, none of them the roles' own.
const SOURCES: usize = 20;

/// What a patient client of HTTP/2 begins with: the preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flood, address] = &arguments[..]
        && flood == "flood"
    {
        return runtime()?.block_on(hold(address.parse()?));
    }
    let seconds = arguments.first().map_or(Ok(60), |text| text.parse())?;
    let pmpo = std::env::current_exe()?
        .ancestors()
        .nth(2)
        .context("a folder")?
        .join("pmpo");
    ensure!(
        pmpo.is_file(),
        "{}: run `cargo build --release` first",
        pmpo.display()
    );

    let folder = tempfile::tempdir()?;
    let outcomes = Doors::new(&pmpo, folder.path()).all();
    attempts::print(&outcomes);
    ensure!(
        outcomes.iter().all(attempts::Outcome::is_as_expected),
        "not as expected"
    );
    under_siege(
        &pmpo,
        &folder.path().join("siege"),
        Duration::from_secs(seconds),
    )
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

/// A child process, ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("pid {}: {error}", self.0.id());
        }
    }
}

fn under_siege(pmpo: &Path, run_dir: &Path, time: Duration) -> Result<()> {
    let train = Command::new(pmpo)
        .args(["train", "walker-walk", "--run-dir"])
        .arg(run_dir)
        .stdout(Stdio::null())
        .spawn()?;
    let _train = Ended(train);
    let announced = |name: &str| {
        let path: PathBuf = run_dir.join(format!("roles/{name}.json"));
        wait_for(name, || Announcement::read(&path).ok().flatten())
    };
    let (replay, learner) = (announced("replay-0"), announced("learner-0"));
    let runtime = runtime()?;
    let status = || -> Result<RunStatus> {
        runtime.block_on(async {
            let address = learner.listen.context("an address")?.to_string();
            let channel = grpc::connect_lazy(&address, &Credentials::default())?;
            let answer = RunClient::new(channel)
                .get_status(GetStatusRequest {})
                .await?;
            Ok(answer.into_inner())
        })
    };
    wait_for("training", || {
        status().ok().filter(|status| status.learner_steps > 100)
    });
    let pace = |name: &str| -> Result<()> {
        let (start, before) = (Instant::now(), status()?);
        std::thread::sleep(time);
        let (after, seconds) = (status()?, start.elapsed().as_secs_f64());
        println!(
            "{name}: {:.1} learner steps/s, {:.0} environment steps/s",
            (after.learner_steps - before.learner_steps) as f64 / seconds,
            (after.environment_steps - before.environment_steps) as f64 / seconds,
        );
        for role in [&replay, &learner] {
            println!(
                "  {}: {} connections, {:.0} MB{}",
                role.role,
                sum(role, "pmpo_security_connections "),
                resident_bytes(role.pid)? as f64 / 1e6,
                refusals(role),
            );
        }
        Ok(())
    };
    pace("before")?;
    let mut floods = Vec::new();
    for role in [&replay, &learner] {
        let address = role.listen.context("an address")?.to_string();
        let flood = Command::new(std::env::current_exe()?)
            .args(["flood", &address])
            .spawn()?;
        floods.push(Ended(flood));
    }
    wait_for("the flood", || {
        let full = |role| sum(role, "pmpo_security_connections ") >= 8000.0;
        (full(&replay) && full(&learner)).then_some(())
    });
    pace("with 10,000 idle and 500 slow connections to each of replay and learner")?;
    let killed = announced("actor-0");
    Command::new("kill")
        .arg("-9")
        .arg(killed.pid.to_string())
        .status()?;
    let start = Instant::now();
    let actor = wait_for("the actor's return", || {
        let actor = announced("actor-0");
        (actor.pid != killed.pid && sum(&actor, "pmpo_actor_environment_steps_total") > 0.0)
            .then_some(actor)
    });
    println!(
        "an actor killed meanwhile (pid {}) acts again as pid {} after {:.1} s",
        killed.pid,
        actor.pid,
        start.elapsed().as_secs_f64()
    );
    drop(floods);
    pace("after")
}

/// Of a role's metrics, the sum of those that `line` begins.
fn sum(role: &Announcement, line: &str) -> f64 {
    let text = role.metrics.map(metrics).unwrap_or_default();
    let lines = text.lines().filter(|found| found.starts_with(line));
    lines
        .filter_map(|found| found.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn refusals(role: &Announcement) -> String {
    let text = role.metrics.map(metrics).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (reason, count) = line
            .strip_prefix("pmpo_security_refusals_total{reason=\"")?
            .split_once("\"} ")?;
        Some(format!(", {reason} {count}"))
    });
    lines.collect()
}

/// Holds connections to `address`, for ever: what the server ends is begun again.
async fn hold(address: SocketAddr) -> Result<()> {
    raise_open_files()?;
    let mut connections = tokio::task::JoinSet::new();
    for number in 0..IDLE + SLOW {
        let source = Ipv4Addr::new(127, 0, 1, (1 + number % SOURCES) as u8);
        connections.spawn(async move {
            loop {
                // Refused, reset or ended: once more, though not at once.
                if let Ok(mut socket) = connect(address, source.into()).await {
                    drop(waste(&mut socket, number).await);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    connections.join_all().await;
    Ok(())
}

async fn connect(address: SocketAddr, source: IpAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(address).await
}

/// Half of the idle ones say nothing, half begin to speak HTTP/2; the slow ones take their time.
async fn waste(socket: &mut TcpStream, number: usize) -> std::io::Result<()> {
    if number >= IDLE {
        for byte in PREFACE {
            socket.write_all(&[*byte]).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    } else if number.is_multiple_of(2) {
        socket.write_all(PREFACE).await?;
    }
    let mut ignored = [0; 256];
    while socket.read(&mut ignored).await? > 0 {}
    Ok(())
}
