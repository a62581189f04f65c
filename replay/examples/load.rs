//! Measures the service over loopback, server and clients in processes of their own:
//! `load [writers] [seconds] [items a batch] [data directory]` inserts, then samples; items are
//! transitions of 24 observations and 6 actions. With a data directory it also starts the server anew
//! and says how long it took until it answered.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pmpo_replay::{ReplayConfig, TableConfig};
use pmpo_replay_client::{Sampler, SamplerConfig, Writer, WriterConfig};
use pmpo_types::{ColumnBatch, transition};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return serve(arguments.get(1).map(PathBuf::from));
    }
    let number = |i: usize, default: u64| arguments.get(i).map_or(Ok(default), |text| text.parse());
    let (writers, seconds, batch) = (number(0, 4)?, number(1, 3)?, number(2, 64)? as usize);

    let data_dir = arguments.get(3);
    let (mut server, address) = start(data_dir)?;
    let pid = server.id().to_string();
    let runtime = Runtime::new()?;
    let duration = Duration::from_secs(seconds);

    measure("insert", &pid, || {
        std::thread::scope(|scope| {
            let insert = || insert(&runtime, &address, duration, batch);
            let threads: Vec<_> = (0..writers).map(|_| scope.spawn(insert)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a writer's thread"))
                .sum()
        })
    })?;
    measure("sample", &pid, || sample(&runtime, &address, duration))?;
    if data_dir.is_some() {
        server.kill()?;
        server.wait()?;
        let start_again = Instant::now();
        (server, _) = start(data_dir).and_then(|(server, address)| {
            let items = sample(&runtime, &address, Duration::ZERO)?;
            Ok((server, items))
        })?;
        let seconds = start_again.elapsed().as_secs_f64();
        let megabytes = resident_kb(&server.id().to_string())? >> 10;
        println!(
            "killed and started anew: first batch after {seconds:.2} s; server holds {megabytes} MB"
        );
    }
    drop(server.stdin.take());
    server.wait()?;
    Ok(())
}

/// A server process and its address.
fn start(data_dir: Option<&String>) -> Result<(Child, String), AnyError> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg("serve")
        .args(data_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut address = String::new();
    BufReader::new(server.stdout.take().ok_or("no stdout")?).read_line(&mut address)?;
    Ok((server, address.trim().to_owned()))
}

/// Serves on port 0 until standard input closes.
fn serve(data_dir: Option<PathBuf>) -> Result<(), AnyError> {
    let table = TableConfig {
        min_size_to_sample: 1,
        error_buffer: Some(1e15),
        ..TableConfig::default()
    };
    let runtime = Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!("{}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    let config = ReplayConfig {
        data_dir,
        table,
        ..ReplayConfig::default()
    };
    let running = runtime.spawn(pmpo_replay::run(config, listener, shutdown.clone()));
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    shutdown.cancel();
    Ok(runtime.block_on(running)??)
}

fn insert(
    runtime: &Runtime,
    address: &str,
    duration: Duration,
    len: usize,
) -> Result<u64, AnyError> {
    let signature = transition::signature(24, 6);
    let columns = signature
        .columns
        .iter()
        .map(|column| vec![1; column.item_bytes() * len].into());
    let batch = ColumnBatch::new(&signature, len, columns.collect())?;
    let config = WriterConfig {
        max_in_flight_items: 16 * len,
        ..WriterConfig::default()
    };
    let shutdown = CancellationToken::new();
    let mut writer = Writer::new(address, config, signature, runtime.handle(), &shutdown)?;
    let start = Instant::now();
    while start.elapsed() < duration {
        writer.push(batch.clone())?;
    }
    writer.flush(Duration::from_secs(10))?;
    Ok(writer.acknowledged_items())
}

fn sample(runtime: &Runtime, address: &str, duration: Duration) -> Result<u64, AnyError> {
    let config = SamplerConfig {
        prefetch_batches: 4,
        ..SamplerConfig::default()
    };
    let signature = transition::signature(24, 6);
    let shutdown = CancellationToken::new();
    let mut sampler = Sampler::new(address, config, signature, runtime.handle(), &shutdown)?;
    let (start, mut items) = (Instant::now(), 0);
    while items == 0 || start.elapsed() < duration {
        items += sampler.next()?.columns.len() as u64;
    }
    Ok(items)
}

fn measure(
    name: &str,
    server: &str,
    work: impl FnOnce() -> Result<u64, AnyError>,
) -> Result<(), AnyError> {
    let (start, server_cpu, client_cpu) = (Instant::now(), cpu_s(server)?, cpu_s("self")?);
    let items = work()? as f64;
    println!(
        "{name}: {:.0} items/s, us of CPU an item: server {:.2}, client {:.2}; server holds {} MB",
        items / start.elapsed().as_secs_f64(),
        (cpu_s(server)? - server_cpu) / items * 1e6,
        (cpu_s("self")? - client_cpu) / items * 1e6,
        resident_kb(server)? >> 10,
    );
    Ok(())
}

/// User and system time, from /proc; the tick is 10 ms on Linux.
fn cpu_s(pid: &str) -> Result<f64, AnyError> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no command in stat")?;
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

fn resident_kb(pid: &str) -> Result<u64, AnyError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
}
