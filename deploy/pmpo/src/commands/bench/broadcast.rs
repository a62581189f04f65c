//! `pmpo bench broadcast`: the learner's publisher and services in a process of their own, subscribers
//! as actors have them in another, real gRPC over loopback, a connection each.
//!
//! A publication begins when the publisher is handed the tensors, and is applied when a thread that
//! acts holds its network. Both processes read the machine's monotonic clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Subcommand};
use crossbeam::channel::{Receiver, Sender, unbounded};
use pmpo_actor::run_info::RunInfo;
use pmpo_actor::weights::{WeightsSource, subscribe};
use pmpo_learner::broadcaster::Broadcaster;
use pmpo_learner::metrics::SNAPSHOT_ENCODINGS;
use pmpo_policy::{NetworkConfig, TorsoConfig};
use pmpo_proto::v1::{PolicySnapshot, SubscribeRequest, weights_client::WeightsClient};
use pmpo_service::process::{cpu_seconds, monotonic_ns, resident_bytes};
use pmpo_service::security::Credentials;
use pmpo_service::{grpc, telemetry};
use pmpo_types::EnvironmentSpec;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::partner::{self, Partner};
use crate::environments;
use crate::failure::Usage;
use crate::output::answer;

/// 24 observations and 6 actions.
const TASK: &str = "walker-walk";
/// Width of the policy's two layers.
const WIDTH: usize = 256;
/// How long subscribers may take to begin, and to apply the last publication.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(crate) struct BroadcastBenchArgs {
    /// Subscribers.
    #[arg(long, default_value_t = 64)]
    subscribers: usize,
    /// Subscribers besides them that never read what they are sent.
    #[arg(long, default_value_t = 0)]
    never_reading: usize,
    /// Seconds to measure.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Milliseconds from one publication to the next.
    #[arg(long, default_value_t = 100)]
    period_ms: u64,
    /// One JSON object on the last line.
    #[arg(long)]
    pub(super) json: bool,
}

/// What runs in a process of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum BroadcastPart {
    /// Publishes.
    Publisher {
        /// Seconds to publish for.
        #[arg(long)]
        seconds: f64,
        /// Milliseconds from one publication to the next.
        #[arg(long)]
        period_ms: u64,
    },
    /// Subscribes.
    Subscribers {
        /// The publisher's address.
        #[arg(long)]
        learner: String,
        /// Subscribers.
        #[arg(long)]
        subscribers: usize,
        /// Subscribers that never read.
        #[arg(long)]
        never_reading: usize,
    },
}

/// Times in milliseconds; CPU over all threads of a process.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    publish_to_apply_ms_p50: f64,
    publish_to_apply_ms_p99: f64,
    publish_to_apply_ms_max: f64,
    bytes_per_snapshot: usize,
    subscribers: usize,
    publications: usize,
    /// Publications that a subscriber passed over for a newer one, over all subscribers.
    skipped: usize,
    encodings: u64,
    server_cpu_ms_per_publication: f64,
    subscribers_cpu_ms_per_publication: f64,
    server_bytes_grown: i64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:.2} ms from publication to application at the median, {:.2} ms at p99, {:.2} ms at most",
            self.publish_to_apply_ms_p50,
            self.publish_to_apply_ms_p99,
            self.publish_to_apply_ms_max
        )?;
        writeln!(
            f,
            "{} publications of {} bytes, {} encodings, {} subscribers, {} skipped",
            self.publications,
            self.bytes_per_snapshot,
            self.encodings,
            self.subscribers,
            self.skipped
        )?;
        write!(
            f,
            "ms of CPU a publication: server {:.2}, subscribers {:.2}; server grown by {} bytes",
            self.server_cpu_ms_per_publication,
            self.subscribers_cpu_ms_per_publication,
            self.server_bytes_grown
        )
    }
}

/// Publications that are not timed: the first few find connections and allocators cold.
const WARM_UP: usize = 5;

/// What was published: versions, and the nanoseconds at which it began.
#[derive(Debug, Deserialize, Serialize)]
struct Published {
    publications: Vec<(u64, u64)>,
    bytes: usize,
    encodings: u64,
}

/// What was applied: versions, and when.
type Applied = Vec<(u64, u64)>;

/// Measures.
pub(super) fn run(args: &BroadcastBenchArgs) -> Result<Report> {
    super::duration(args.seconds)?;
    ensure!(
        args.subscribers > 0 && args.period_ms > 0,
        Usage::new(anyhow!(
            "--subscribers and --period-ms: expected at least 1"
        ))
    );
    let mut server = Partner::start(&[
        "broadcast-part",
        "publisher",
        &format!("--seconds={}", args.seconds),
        &format!("--period-ms={}", args.period_ms),
    ])?;
    let address = server.line()?;
    let mut clients = Partner::start(&[
        "broadcast-part",
        "subscribers",
        &format!("--learner={address}"),
        &format!("--subscribers={}", args.subscribers),
        &format!("--never-reading={}", args.never_reading),
    ])?;
    clients.line()?;
    let usage =
        |of: &Partner| Ok::<_, std::io::Error>((cpu_seconds(of.pid())?, resident_bytes(of.pid())?));
    let (before, clients_before) = (usage(&server)?, usage(&clients)?);
    server.tell("go")?;
    let last = server.line()?;
    clients.tell(&last)?;
    clients.line()?;
    let (after, clients_after) = (usage(&server)?, usage(&clients)?);
    clients.tell("end")?;
    let applied: Applied = clients.figures()?;
    server.tell("end")?;
    let published: Published = server.figures()?;
    let milliseconds = |seconds: f64| seconds * 1e3 / published.publications.len() as f64;
    ensure!(
        published.publications.len() > WARM_UP,
        Usage::new(anyhow!(
            "--seconds: expected time for more than {WARM_UP} publications"
        ))
    );
    let times = times(&published, &applied)?;
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    Ok(Report {
        publish_to_apply_ms_p50: at(0.5),
        publish_to_apply_ms_p99: at(0.99),
        publish_to_apply_ms_max: at(1.0),
        bytes_per_snapshot: published.bytes,
        subscribers: args.subscribers,
        publications: published.publications.len(),
        skipped: (published.publications.len() - WARM_UP) * args.subscribers - times.len(),
        encodings: published.encodings,
        server_cpu_ms_per_publication: milliseconds(after.0 - before.0),
        subscribers_cpu_ms_per_publication: milliseconds(clients_after.0 - clients_before.0),
        server_bytes_grown: after.1 as i64 - before.1 as i64,
    })
}

/// Milliseconds from each publication to its applications, ascending.
fn times(published: &Published, applied: &Applied) -> Result<Vec<f64>> {
    let measured = published.publications.iter().skip(WARM_UP);
    let begun: HashMap<u64, u64> = measured.copied().collect();
    // The first version was there before the measurement.
    let counted = applied
        .iter()
        .filter_map(|(version, at)| Some((begun.get(version)?, at)));
    let mut times = counted
        .map(|(begun, at)| {
            Ok(at
                .checked_sub(*begun)
                .context("applied before publication")? as f64
                * 1e-6)
        })
        .collect::<Result<Vec<f64>>>()?;
    ensure!(!times.is_empty(), "nothing was applied");
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Runs one process.
pub(crate) fn part(part: BroadcastPart) -> Result<()> {
    match part {
        BroadcastPart::Publisher { seconds, period_ms } => {
            publish(super::duration(seconds)?, Duration::from_millis(period_ms))
        }
        BroadcastPart::Subscribers {
            learner,
            subscribers,
            never_reading,
        } => apply(&learner, subscribers, never_reading),
    }
}

fn publish(duration: Duration, period: Duration) -> Result<()> {
    let metrics = telemetry::install_metrics()?;
    let runtime = Runtime::new()?;
    let _within = runtime.enter();
    let spec = environments::load(TASK, 1, 0)?.spec().clone();
    let network = NetworkConfig {
        torso: TorsoConfig::hidden(&[WIDTH; 2]),
        ..NetworkConfig::default()
    };
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let mut broadcaster = Broadcaster::start(network, spec, listener)?;
    partner::tell_and_hear(&address.to_string())?;

    let encoded = |text: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(SNAPSHOT_ENCODINGS));
        line.and_then(|count| count.trim().parse::<u64>().ok())
            .context(SNAPSHOT_ENCODINGS)
    };
    let before = encoded(&metrics.render())?;
    let (mut publications, mut next) = (Vec::new(), Instant::now());
    let end = next + duration;
    while next < end {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let begun = monotonic_ns();
        publications.push((broadcaster.publish()?, begun));
        next += period;
    }
    let published = Published {
        bytes: broadcaster.snapshot_bytes(),
        encodings: encoded(&metrics.render())? - before,
        publications,
    };
    let (last, _) = published.publications.last().context("no publication")?;
    partner::tell_and_hear(&last.to_string())?;
    answer!("{}", serde_json::to_string(&published)?)?;
    Ok(runtime.block_on(broadcaster.end())?)
}

fn apply(learner: &str, subscribers: usize, never_reading: usize) -> Result<()> {
    let runtime = Runtime::new()?;
    let _within = runtime.enter();
    let spec = environments::load(TASK, 1, 0)?.spec().clone();
    let stop = CancellationToken::new();
    let (applications, applied) = unbounded();
    for subscriber in 0..subscribers {
        act(
            &runtime,
            learner,
            subscriber,
            &spec,
            &stop,
            applications.clone(),
        )?;
    }
    let _unread = (0..never_reading)
        .map(|_| runtime.block_on(never_read(learner, &spec)))
        .collect::<Result<Vec<_>>>()?;
    let mut newest = vec![0; subscribers];
    let mut times = Vec::new();
    await_all(&applied, 1, &mut newest, &mut times)?;
    let last = partner::tell_and_hear("ready")?;
    await_all(&applied, last.parse()?, &mut newest, &mut times)?;
    partner::tell_and_hear("done")?;
    stop.cancel();
    answer!("{}", serde_json::to_string(&times)?)?;
    Ok(())
}

/// Who applied which version, and when.
type Application = (usize, u64, u64);

/// A subscription as an actor has it, and a thread that takes its policies as an environment's does.
fn act(
    runtime: &Runtime,
    learner: &str,
    subscriber: usize,
    spec: &EnvironmentSpec,
    stop: &CancellationToken,
    applications: Sender<Application>,
) -> Result<()> {
    let channel = grpc::connect_lazy(learner, &Credentials::default())?;
    let run = runtime
        .block_on(RunInfo::get(&channel, stop))?
        .context("told to stop")?;
    let name = format!("subscriber-{subscriber}");
    let (mut newest, subscription) = subscribe(channel, name.clone(), &run, spec, stop);
    runtime.spawn(subscription);
    std::thread::Builder::new().name(name).spawn(move || {
        while let Some(policy) = newest.wait() {
            let application = (subscriber, policy.version.0, monotonic_ns());
            if applications.send(application).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

async fn never_read(learner: &str, spec: &EnvironmentSpec) -> Result<Streaming<PolicySnapshot>> {
    let request = SubscribeRequest {
        subscriber: "never-reading".to_owned(),
        spec_digest: spec.digest().0.to_vec().into(),
    };
    let mut client = WeightsClient::new(grpc::connect_lazy(learner, &Credentials::default())?);
    Ok(client.subscribe(request).await?.into_inner())
}

/// Notes applications until all subscribers have applied `version`.
fn await_all(
    applied: &Receiver<Application>,
    version: u64,
    newest: &mut [u64],
    times: &mut Applied,
) -> Result<()> {
    while newest.iter().any(|&newest| newest < version) {
        let (subscriber, version, at) = applied
            .recv_timeout(PATIENCE)
            .with_context(|| format!("a subscriber has not applied version {version}"))?;
        newest[subscriber] = version;
        times.push((version, at));
    }
    Ok(())
}
