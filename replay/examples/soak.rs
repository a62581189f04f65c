//! Many writers for many minutes: `cargo run --release -p pmpo-replay --example soak [minutes]
//! [writers]`, by default 10 minutes and 128 writers.
//!
//! The service is one process, the writers are threads of four others, a sampler draws meanwhile. The
//! table is small enough to be full within the first minute, so that whatever grows afterwards is a
//! leak. Fails if the last minute's rate is below 0.95 of the second's, or memory has grown by more
//! than a twentieth.

mod support;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pmpo_replay::{LimiterKind, TableConfig};
use pmpo_replay_client::{Sampler, SamplerConfig, Writer, WriterConfig};
use pmpo_service::process::resident_bytes;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use support::{AnyError, Part, batch, counters, serve, signature};

const PROCESSES: usize = 4;
const BATCH: i64 = 32;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["serve"] => serve("127.0.0.1:0", table(), None),
        ["write", address, writers] => write(address, writers),
        ["sample", address] => sample(address),
        [] => run("10", "128"),
        [minutes] => run(minutes, "128"),
        [minutes, writers] => run(minutes, writers),
        _ => Err("usage: soak [minutes] [writers]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn table() -> TableConfig {
    TableConfig {
        max_size: 200_000,
        min_size_to_sample: 1,
        limiter: LimiterKind::MinSize,
        ..TableConfig::default()
    }
}

/// Set when standard input closes.
fn stop() -> &'static AtomicBool {
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        let closed = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(closed);
        STOP.store(true, Ordering::Relaxed);
    });
    &STOP
}

fn write(address: &str, writers: &str) -> Result<(), AnyError> {
    let runtime = Runtime::new()?;
    let (addresses, shutdown, stop) = ([address.to_owned()], CancellationToken::new(), stop());
    let insert = || -> Result<(), AnyError> {
        let config = WriterConfig::default();
        let handle = runtime.handle();
        let mut writer = Writer::new(&addresses, config, signature(), handle, &shutdown)?;
        let mut next = 0;
        while !stop.load(Ordering::Relaxed) {
            writer.push(batch(next..next + BATCH)?)?;
            next += BATCH;
        }
        Ok(writer.flush(Duration::from_secs(30))?)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers.parse::<usize>()?)
            .map(|_| scope.spawn(insert))
            .collect();
        let mut results = threads.into_iter().map(|thread| thread.join());
        results.try_for_each(|result| result.map_err(|_| "a writer panicked")?)
    })
}

fn sample(address: &str) -> Result<(), AnyError> {
    let runtime = Runtime::new()?;
    let (addresses, shutdown, stop) = ([address.to_owned()], CancellationToken::new(), stop());
    let (config, handle) = (SamplerConfig::default(), runtime.handle());
    let mut sampler = Sampler::new(&addresses, config, signature(), handle, &shutdown)?;
    while !stop.load(Ordering::Relaxed) {
        sampler.next_timeout(Duration::from_millis(100))?;
        // As often as a learner would.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// One minute.
struct Minute {
    inserts_per_s: f64,
    server_bytes: u64,
    client_bytes: u64,
}

fn run(minutes: &str, writers: &str) -> Result<(), AnyError> {
    let (minutes, writers): (usize, usize) = (minutes.parse()?, writers.parse()?);
    if minutes < 3 {
        return Err("minutes: expected at least 3, the first is not counted".into());
    }
    let (server, address) = Part::serve(&["serve"])?;
    let each = writers.div_ceil(PROCESSES).to_string();
    let mut clients = vec![Part::start(&["sample", &address])?];
    for _ in 0..PROCESSES {
        clients.push(Part::start(&["write", &address, &each])?);
    }
    let runtime = Runtime::new()?;
    let mut past = Vec::new();
    let mut before = (Instant::now(), counters(&runtime, &address)?.inserts);
    for minute in 1..=minutes {
        std::thread::sleep(Duration::from_secs(60));
        let now = (Instant::now(), counters(&runtime, &address)?.inserts);
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        let resident = |part: &Part| resident_bytes(part.process.id());
        let measured = Minute {
            inserts_per_s: (now.1 - before.1) as f64 / seconds,
            server_bytes: resident(&server)?,
            client_bytes: clients.iter().map(resident).sum::<Result<u64, _>>()?,
        };
        println!(
            "minute {minute}: {:.0} inserts/s, server {:.1} MB, clients {:.1} MB",
            measured.inserts_per_s,
            measured.server_bytes as f64 / 1e6,
            measured.client_bytes as f64 / 1e6
        );
        past.push(measured);
        before = now;
    }
    clients.into_iter().try_for_each(Part::stop)?;
    server.stop()?;
    judge(&past[1], &past[minutes - 1])
}

fn judge(second: &Minute, last: &Minute) -> Result<(), AnyError> {
    let rate = last.inserts_per_s / second.inserts_per_s;
    let server = last.server_bytes as f64 / second.server_bytes as f64;
    let clients = last.client_bytes as f64 / second.client_bytes as f64;
    println!(
        "last minute against the second: rate {rate:.3}, server's memory {server:.3}, clients' memory \
         {clients:.3}"
    );
    if rate < 0.95 || server > 1.05 || clients > 1.05 {
        return Err("the rate fell or memory grew".into());
    }
    Ok(())
}
