//! Measures the service over loopback, server and clients in processes of their own:
//! `load [writers] [seconds] [items a batch]` inserts, then samples; items are transitions of 24
//! observations and 6 actions.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
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
        return serve();
    }
    let number = |i: usize, default: u64| arguments.get(i).map_or(Ok(default), |text| text.parse());
    let (writers, seconds, batch) = (number(0, 4)?, number(1, 3)?, number(2, 64)? as usize);

    let mut server = Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut address = String::new();
    BufReader::new(server.stdout.take().ok_or("no stdout")?).read_line(&mut address)?;
    let (address, pid) = (address.trim(), server.id().to_string());
    let runtime = Runtime::new()?;
    let duration = Duration::from_secs(seconds);

    measure("insert", &pid, || {
        std::thread::scope(|scope| {
            let insert = || insert(&runtime, address, duration, batch);
            let threads: Vec<_> = (0..writers).map(|_| scope.spawn(insert)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a writer's thread"))
                .sum()
        })
    })?;
    measure("sample", &pid, || sample(&runtime, address, duration))?;
    drop(server.stdin.take());
    server.wait()?;
    Ok(())
}

/// Serves on port 0 until standard input closes.
fn serve() -> Result<(), AnyError> {
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
    while start.elapsed() < duration {
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
