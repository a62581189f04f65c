//! `pmpo bench replay`: the replay service as a process of its own, writers and a sampler as others,
//! real gRPC over loopback. First the writers insert, then the sampler draws.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use pmpo_proto::replay::v1::ListTablesRequest;
use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_service::grpc;
use pmpo_service::process::{cpu_seconds, resident_bytes};
use pmpo_service::security::Credentials;
use pmpo_service::telemetry::LogFormat;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::partner::Partner;
use super::replay_client::Figures;
use crate::cli::{BenchItem, ReplayBenchArgs};
use crate::config::{Config, Source};
use crate::failure::Usage;
use crate::train::child::{self, Child, Grace, Launcher};

/// How long the server may take to end.
const GRACE: std::time::Duration = std::time::Duration::from_secs(20);

/// Rates, sizes and times; `us` are microseconds of CPU over all of a process's threads.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    inserts_per_s: f64,
    samples_per_s: f64,
    server_bytes_per_item: f64,
    raw_bytes_per_item: usize,
    server_cpu_us_per_insert: f64,
    client_cpu_us_per_insert: f64,
    server_cpu_us_per_sample: f64,
    client_cpu_us_per_sample: f64,
    items: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<Recovery>,
}

/// What came back after the server was killed.
#[derive(Debug, Serialize)]
struct Recovery {
    /// From the start of the process until it serves.
    seconds: f64,
    items_before: u64,
    items: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:.0} inserts/s, us of CPU each: server {:.2}, client {:.2}",
            self.inserts_per_s, self.server_cpu_us_per_insert, self.client_cpu_us_per_insert
        )?;
        writeln!(
            f,
            "{:.0} samples/s in batches of 256, us of CPU each: server {:.2}, client {:.2}",
            self.samples_per_s, self.server_cpu_us_per_sample, self.client_cpu_us_per_sample
        )?;
        write!(
            f,
            "{:.0} bytes an item in the server, {} raw, with {} items held",
            self.server_bytes_per_item, self.raw_bytes_per_item, self.items
        )?;
        if let Some(recovery) = &self.recovery {
            write!(
                f,
                "\n{} of {} items back {:.2} s after a kill",
                recovery.items, recovery.items_before, recovery.seconds
            )?;
        }
        Ok(())
    }
}

/// Measures.
pub(super) fn run(args: &ReplayBenchArgs) -> Result<Report> {
    ensure!(
        args.writers > 0 && args.batch_steps > 0 && args.batch_steps <= args.in_flight_steps,
        Usage::new(anyhow!(
            "--writers and --batch-steps: expected at least 1, and no more than --in-flight-steps"
        ))
    );
    let folder = tempfile::tempdir()?;
    let runtime = Runtime::new()?;
    let mut server = Server::start(args, folder.path(), &runtime)?;
    let base = server.resident()?;

    let inserted = server.measure(args, "writer", args.writers)?;
    let held = server.items()?;
    let grown = server.resident()?.saturating_sub(base);
    let sampled = server.measure(args, "sampler", 1)?;
    let recovery = args.recovery.then(|| server.recover()).transpose()?;
    server.stop()?;
    Ok(Report {
        inserts_per_s: inserted.per_second,
        samples_per_s: sampled.per_second,
        server_bytes_per_item: grown as f64 / held as f64,
        raw_bytes_per_item: args.item.raw_bytes(),
        server_cpu_us_per_insert: inserted.server_us,
        client_cpu_us_per_insert: inserted.client_us,
        server_cpu_us_per_sample: sampled.server_us,
        client_cpu_us_per_sample: sampled.client_us,
        items: held,
        recovery,
    })
}

/// Rate and CPU of one phase.
struct Phase {
    per_second: f64,
    server_us: f64,
    client_us: f64,
}

/// The replay service.
struct Server<'a> {
    launcher: Launcher,
    child: Child,
    address: String,
    runtime: &'a Runtime,
}

impl<'a> Server<'a> {
    fn start(args: &ReplayBenchArgs, folder: &Path, runtime: &'a Runtime) -> Result<Self> {
        let config = Config::resolve(Source {
            assignments: &assignments(args)?,
            ..Source::default()
        })?;
        for name in ["logs", "roles"] {
            std::fs::create_dir(folder.join(name))?;
        }
        std::fs::write(folder.join("config.toml"), config.to_toml()?)?;
        let launcher = Launcher::new(folder, LogFormat::Text);
        let mut child = launch(&launcher)?;
        let address = serving(&mut child, runtime)?;
        Ok(Self {
            launcher,
            child,
            address,
            runtime,
        })
    }

    fn resident(&self) -> Result<u64> {
        Ok(resident_bytes(self.child.pid())?)
    }

    /// Items the table holds.
    fn items(&self) -> Result<u64> {
        self.runtime.block_on(async {
            let mut client =
                ReplayClient::new(grpc::connect_lazy(&self.address, &Credentials::default())?);
            let tables = client
                .list_tables(grpc::timed(ListTablesRequest {}))
                .await?
                .into_inner();
            let table = tables.tables.first().context("no table")?;
            Ok(table.counters.context("no counters")?.size)
        })
    }

    /// Lets clients of one kind do their work, all at once.
    fn measure(&mut self, args: &ReplayBenchArgs, role: &str, clients: usize) -> Result<Phase> {
        let mut clients: Vec<Partner> = (0..clients)
            .map(|seed| client(args, role, &self.address, seed))
            .collect::<Result<_>>()?;
        for client in &mut clients {
            client.line()?;
        }
        let before = cpu_seconds(self.child.pid())?;
        for client in &mut clients {
            client.tell("go")?;
        }
        let figures: Vec<Figures> = clients
            .into_iter()
            .map(Partner::figures)
            .collect::<Result<_>>()?;
        let server = cpu_seconds(self.child.pid())? - before;
        let items: u64 = figures.iter().map(|f| f.items).sum();
        let client: f64 = figures.iter().map(|f| f.cpu_seconds).sum();
        ensure!(items > 0, "the {role} moved nothing");
        Ok(Phase {
            per_second: figures.iter().map(|f| f.items as f64 / f.seconds).sum(),
            server_us: server / items as f64 * 1e6,
            client_us: client / items as f64 * 1e6,
        })
    }

    /// Kills the server and times its return.
    fn recover(&mut self) -> Result<Recovery> {
        let items_before = self.items()?;
        self.child.kill()?;
        let start = Instant::now();
        self.child = launch(&self.launcher)?;
        self.address = serving(&mut self.child, self.runtime)?;
        let items = self.items()?;
        Ok(Recovery {
            seconds: start.elapsed().as_secs_f64(),
            items_before,
            items,
        })
    }

    fn stop(mut self) -> Result<()> {
        self.runtime
            .block_on(child::stop_all(
                [&mut self.child].into_iter(),
                &Grace::from(GRACE),
            ))
            .map(drop)
    }
}

fn launch(launcher: &Launcher) -> Result<Child> {
    let listen = ["--listen", "127.0.0.1:0"].map(str::to_owned);
    launcher.start("replay", 0, &listen)
}

fn serving(child: &mut Child, runtime: &Runtime) -> Result<String> {
    let address = runtime.block_on(child.address(&CancellationToken::new()))?;
    Ok(address.context("the server was told to stop")?.to_string())
}

/// A table that makes nobody wait.
fn assignments(args: &ReplayBenchArgs) -> Result<Vec<String>> {
    let length = args.item.sequence_length();
    let max_size = args.max_size.unwrap_or(match args.item {
        BenchItem::Transition => 1_000_000,
        BenchItem::Seq64 | BenchItem::Seq64Overlapping | BenchItem::Seq64Ragged => 50_000,
        BenchItem::Image => 20_000,
    });
    let mut assignments = vec![
        format!("replay.table.sequence_length={length}"),
        format!("replay.table.max_size={max_size}"),
        "replay.table.min_size_to_sample=1".to_owned(),
        "replay.table.limiter=min_size".to_owned(),
        // Nobody learns from it, whose windows its items would have to be.
        "learner.table=nobody".to_owned(),
    ];
    if let Some(least) = args.item.min_sequence_length() {
        assignments.push(format!("replay.table.min_sequence_length={least}"));
    }
    if let Some(folder) = &args.data_dir {
        let folder: PathBuf = std::path::absolute(folder)?;
        let used = folder.exists() && std::fs::read_dir(&folder)?.next().is_some();
        ensure!(
            !used,
            Usage::new(anyhow!(
                "--data-dir {}: expected an empty folder",
                folder.display()
            ))
        );
        assignments.push(format!(
            "replay.data_dir={:?}",
            folder.display().to_string()
        ));
    }
    assignments.extend(args.set.iter().cloned());
    Ok(assignments)
}

fn client(args: &ReplayBenchArgs, role: &str, address: &str, seed: usize) -> Result<Partner> {
    let item = clap::ValueEnum::to_possible_value(&args.item).context("a hidden item")?;
    let compression = clap::ValueEnum::to_possible_value(&args.compression).context("hidden")?;
    Partner::start(&[
        "replay-client",
        role,
        &format!("--replay={address}"),
        &format!("--item={}", item.get_name()),
        &format!("--compression={}", compression.get_name()),
        &format!("--seed={seed}"),
        &format!("--seconds={}", args.seconds),
        &format!("--batch-steps={}", args.batch_steps),
        &format!("--in-flight-steps={}", args.in_flight_steps),
    ])
}
