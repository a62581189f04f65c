//! Memory of a replay whose rate limiter holds back thousands of writers, all of which send as much as they
//! may: `cargo run --release -p pmpo-replay --example writers [writers] [KiB a message] [budget in MiB]
//! [seconds]`, by default 4000 writers, 256 KiB, a budget of 1024 MiB and 20 s.
//!
//! The service is one process, the writers are streams of another, each over a connection of its own. Prints
//! what the table takes of its budget at most, by its gauge, and what the service's process has taken at
//! most, before the writers came and since. A budget of a million MiB is as good as none.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pmpo_proto::replay::v1::{
    InsertRequest, OpenWriter, insert_request, replay_client::ReplayClient,
};
use pmpo_proto::{signature_to_wire, steps_to_wire, writer_id_to_wire};
use pmpo_replay::{ReplayConfig, TableConfig};
use pmpo_service::process::raise_open_files;
use pmpo_service::security::{Credentials, Role, SecurityConfig};
use pmpo_service::{grpc, telemetry};
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature, StepBatch, WriterId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use support::{AnyError, Part};

/// Bytes of a step.
const STEP_BYTES: usize = 16 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        [serve, budget] if serve == "serve" => serve_with(budget),
        others => measure(others),
    };
    if let Err(error) = result {
        eprintln!("writers: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Serves until standard input closes; prints where, and where its metrics are.
fn serve_with(budget_mib: &str) -> Result<(), AnyError> {
    raise_open_files()?;
    let config = ReplayConfig {
        table_budget_bytes: budget_mib.parse::<u64>()? << 20,
        // A few items, and nobody samples.
        table: TableConfig {
            min_size_to_sample: 1,
            samples_per_insert: 1.0,
            error_buffer: Some(16.0),
            max_batch_size: 1,
            ..TableConfig::default()
        },
        ..ReplayConfig::default()
    };
    let security = SecurityConfig {
        max_connections_per_peer: 8192,
        ..SecurityConfig::default()
    };
    let credentials = Credentials::load(&security, Role::Replay)?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    std::thread::spawn(move || {
        let ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stop.cancel();
        ended
    });
    Runtime::new()?.block_on(async {
        let handle = telemetry::install_metrics()?;
        let listener = grpc::Listener::bind("127.0.0.1:0".parse()?, &credentials).await?;
        let metrics = TcpListener::bind("127.0.0.1:0").await?;
        println!("{} {}", listener.local_addr()?, metrics.local_addr()?);
        let metrics = telemetry::serve_metrics(metrics, handle, shutdown.clone());
        tokio::spawn(metrics);
        Ok(pmpo_replay::run(config, listener, shutdown).await?)
    })
}

fn measure(arguments: &[String]) -> Result<(), AnyError> {
    raise_open_files()?;
    let number = |at: usize, default: u64| arguments.get(at).map_or(Ok(default), |n| n.parse());
    let (writers, message_kib) = (number(0, 4000)?, number(1, 256)?);
    let (budget_mib, seconds) = (number(2, 1024)?, number(3, 20)?);
    let server = Part::start(&["serve", &budget_mib.to_string()])?;
    let addresses = server.lines.recv()?;
    let (address, metrics) = addresses.split_once(' ').ok_or("two addresses")?;
    let metrics: SocketAddr = metrics.parse()?;
    let pid = server.process.id();
    let before = peak_mib(pid)?;

    let runtime = Runtime::new()?;
    let steps = (message_kib as usize * 1024).div_ceil(STEP_BYTES);
    for id in 0..writers {
        let address = address.to_owned();
        runtime.spawn(async move {
            // It ends with the program; what it sends is never stored.
            drop(write(&address, WriterId(id.into()), steps).await);
        });
    }
    let (start, mut most, mut open) = (Instant::now(), 0.0_f64, 0.0_f64);
    while start.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(200));
        let text = scrape(metrics)?;
        most = most.max(sum(&text, "pmpo_replay_table_transit_bytes"));
        open = open.max(sum(&text, "pmpo_replay_open_streams"));
    }
    println!(
        "{writers} writers, messages of {message_kib} KiB, budget {budget_mib} MiB: {open} streams open, \
         at most {:.0} MiB by the gauge; peak of the process {before:.0} MiB before, {:.0} MiB since",
        most / f64::from(1 << 20),
        peak_mib(pid)?
    );
    runtime.shutdown_background();
    Ok(())
}

/// Sends messages for as long as there is room for them.
async fn write(address: &str, id: WriterId, steps: usize) -> Result<(), AnyError> {
    let signature = Signature {
        columns: vec![ColumnSpec::new("frame", DType::U8, &[STEP_BYTES])],
    };
    let columns = ColumnBatch::new(&signature, steps, vec![vec![0; steps * STEP_BYTES].into()])?;
    let batch = StepBatch::transitions(columns);
    let (requests, stream) = mpsc::channel(1);
    let request = |request| InsertRequest {
        request: Some(request),
    };
    let open = OpenWriter {
        table: "replay".to_owned(),
        writer_id: writer_id_to_wire(id),
        signature: Some(signature_to_wire(&signature)),
        ..OpenWriter::default()
    };
    requests
        .send(request(insert_request::Request::Open(open)))
        .await?;
    let channel = grpc::connect_lazy(address, &Credentials::default())?;
    let mut client = ReplayClient::new(channel);
    let mut answers = client
        .insert(ReceiverStream::new(stream))
        .await?
        .into_inner();
    let sending = async {
        for first in (0..).step_by(steps) {
            let steps = steps_to_wire(&signature, first, &batch);
            let sent = requests.send(request(insert_request::Request::Steps(steps)));
            if sent.await.is_err() {
                return;
            }
        }
    };
    let answers = async { while let Ok(Some(_)) = answers.message().await {} };
    tokio::join!(sending, answers);
    Ok(())
}

/// The most memory that a process has taken.
fn peak_mib(pid: u32) -> Result<f64, AnyError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no VmHWM")?.parse::<f64>()? / 1024.0)
}

fn scrape(address: SocketAddr) -> Result<String, AnyError> {
    let mut socket = TcpStream::connect(address)?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}

/// Of all series of a metric.
fn sum(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
