//! Kills a durable replay service again and again while writers insert, and counts:
//! `cargo run --release -p pmpo-replay --example kill [kills] [writers]`.
//!
//! Writers are processes too; each numbers its items and reports what was acknowledged. After each
//! `kill -9` the service's folder is copied, and a second service over the copy, with a table that
//! gives each item once and then removes it, is emptied. Every acknowledged item must come out, none
//! twice, and of each writer nothing but an unbroken beginning of what it pushed. Then the service
//! starts again on its own folder and the writers go on. Every fifth time a writer is killed as well
//! and another one takes its place.

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use pmpo_replay::{LimiterKind, SelectorKind, TableConfig};
use pmpo_replay_client::{Sampler, SamplerConfig, Writer, WriterConfig};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use support::{AnyError, Part, batch, counters, ids, serve, signature};

/// Ids of a writer begin at its number times this.
const IDS: i64 = 1 << 40;
/// Items that every writer has acknowledged between two kills, at least.
const BETWEEN_KILLS: i64 = 1000;
/// How long reports of acknowledgements may take to arrive.
const SETTLE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["serve", address, folder] => serve(address, table(), Some(Path::new(folder))),
        ["empty", folder] => serve("127.0.0.1:0", emptied(), Some(Path::new(folder))),
        ["write", address, number] => write(address, number),
        [] => run("20", "4"),
        [kills] => run(kills, "4"),
        [kills, writers] => run(kills, writers),
        _ => Err("usage: kill [kills] [writers]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kill: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Nothing is removed and nobody waits.
fn table() -> TableConfig {
    TableConfig {
        max_size: 20_000_000,
        min_size_to_sample: 1,
        limiter: LimiterKind::MinSize,
        ..TableConfig::default()
    }
}

/// The same table, that gives each item once.
fn emptied() -> TableConfig {
    TableConfig {
        sampler: SelectorKind::Fifo,
        max_times_sampled: 1,
        ..table()
    }
}

/// Inserts until standard input closes; prints how many items are acknowledged whenever that changes.
fn write(address: &str, number: &str) -> Result<(), AnyError> {
    let first = number.parse::<i64>()? * IDS;
    let runtime = Runtime::new()?;
    let (addresses, shutdown) = ([address.to_owned()], CancellationToken::new());
    let config = WriterConfig::default();
    let mut writer = Writer::new(&addresses, config, signature(), runtime.handle(), &shutdown)?;
    let (sender, stop) = channel::<()>();
    std::thread::spawn(move || {
        let closed = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop((closed, sender));
    });
    let (mut pushed, mut reported) = (0, 0);
    let mut report = |acknowledged: u64| -> Result<(), AnyError> {
        if acknowledged > reported {
            println!("{acknowledged}");
            std::io::stdout().flush()?;
            reported = acknowledged;
        }
        Ok(())
    };
    while stop.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
        let len = 1 + pushed % 50;
        writer.push(batch(first + pushed..first + pushed + len)?)?;
        pushed += len;
        report(writer.acknowledged_items())?;
        std::thread::sleep(Duration::from_millis(1));
    }
    writer.flush(PATIENCE)?;
    report(writer.acknowledged_items())?;
    println!("pushed {pushed}");
    Ok(())
}

/// A writer process and what it has reported.
struct Reporter {
    first: i64,
    part: Part,
    acknowledged: i64,
    /// Items in all, once it has stopped by itself.
    pushed: Option<i64>,
}

impl Reporter {
    fn start(address: &str, number: i64) -> Result<Self, AnyError> {
        Ok(Self {
            first: number * IDS,
            part: Part::start(&["write", address, &number.to_string()])?,
            acknowledged: 0,
            pushed: None,
        })
    }

    fn read(&mut self) -> Result<(), AnyError> {
        for line in self.part.lines.try_iter() {
            match line.strip_prefix("pushed ") {
                Some(pushed) => self.pushed = Some(pushed.parse()?),
                None => self.acknowledged = line.parse()?,
            }
        }
        Ok(())
    }
}

fn run(kills: &str, writers: &str) -> Result<(), AnyError> {
    let (kills, count): (usize, i64) = (kills.parse()?, writers.parse()?);
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let data = data.to_str().ok_or("a folder's name")?;
    let (mut server, address) = Part::serve(&["serve", "127.0.0.1:0", data])?;
    let start = |number| Reporter::start(&address, number);
    let mut live: Vec<Reporter> = (0..count).map(start).collect::<Result<_, _>>()?;
    let mut dead: Vec<Reporter> = Vec::new();
    let mut next = count;
    for kill in 1..=kills {
        insert_more(&mut live)?;
        server.kill()?;
        if kill % 5 == 0 {
            let mut victim = live.remove(0);
            victim.part.kill()?;
            dead.push(victim);
            live.push(start(next)?);
            next += 1;
        }
        std::thread::sleep(SETTLE);
        check(kill, data, &mut dead, &mut live)?;
        (server, _) = Part::serve(&["serve", &address, data])?;
    }
    insert_more(&mut live)?;
    for reporter in &mut live {
        drop(reporter.part.input.take());
    }
    for reporter in &mut live {
        if !reporter.part.process.wait()?.success() {
            return Err("a writer failed".into());
        }
    }
    std::thread::sleep(SETTLE);
    server.kill()?;
    check(kills + 1, data, &mut dead, &mut live)?;
    for reporter in &live {
        if reporter.pushed != Some(reporter.acknowledged) {
            return Err("a writer stopped before everything was acknowledged".into());
        }
    }
    println!("every acknowledged item was recovered after each kill, and none twice");
    Ok(())
}

/// Returns in the middle of every writer's insertions, once each has a good part behind it.
fn insert_more(live: &mut [Reporter]) -> Result<(), AnyError> {
    let before: Vec<i64> = live.iter().map(|reporter| reporter.acknowledged).collect();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for reporter in live.iter_mut() {
            reporter.read()?;
        }
        let mut grown = live.iter().zip(&before);
        if grown.all(|(reporter, before)| reporter.acknowledged >= before + BETWEEN_KILLS) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err("a writer did not come back".into())
}

/// Counts what a service over a copy of the folder gives.
fn check(
    kill: usize,
    data: &str,
    dead: &mut [Reporter],
    live: &mut [Reporter],
) -> Result<(), AnyError> {
    let copy = format!("{data}-copy");
    copy_folder(Path::new(data), &PathBuf::from(&copy))?;
    let start = Instant::now();
    let (server, address) = Part::serve(&["empty", &copy])?;
    let runtime = Runtime::new()?;
    let held = counters(&runtime, &address)?.size;
    let recovery = start.elapsed().as_secs_f64();
    let found = empty(&runtime, &address, held)?;
    server.stop()?;
    std::fs::remove_dir_all(&copy)?;

    let (mut acknowledged, mut missing, mut stray) = (0, 0, 0);
    let doubled: usize = found.values().filter(|&&times| times > 1).count();
    for reporter in dead.iter_mut().chain(live) {
        reporter.read()?;
        acknowledged += reporter.acknowledged;
        let items = found.range(reporter.first..reporter.first + IDS);
        // In order: the items are an unbroken beginning where the last number is one less than the count.
        let (count, last) = items.fold((0, 0), |(count, _), (&id, _)| {
            (count + 1, id + 1 - reporter.first)
        });
        stray += last - count;
        missing += (reporter.acknowledged - count).max(0);
    }
    println!(
        "kill {kill}: {acknowledged} acknowledged, {} recovered in {recovery:.2} s, {missing} missing, \
         {doubled} doubled, {stray} out of order",
        found.len()
    );
    if missing > 0 || doubled > 0 || stray > 0 {
        return Err("items were lost or doubled".into());
    }
    Ok(())
}

/// Takes all items out of a table that gives each once and holds `held`; how often each was in it.
fn empty(runtime: &Runtime, address: &str, held: u64) -> Result<BTreeMap<i64, usize>, AnyError> {
    let (addresses, shutdown) = ([address.to_owned()], CancellationToken::new());
    let (mut found, mut left) = (BTreeMap::new(), held);
    // The last items are fewer than a large batch.
    for batch_size in [1_000, 1] {
        let config = SamplerConfig {
            batch_size,
            prefetch_batches: 1,
            ..SamplerConfig::default()
        };
        let (handle, signature) = (runtime.handle(), signature());
        let mut sampler = Sampler::new(&addresses, config, signature, handle, &shutdown)?;
        while left >= batch_size as u64 {
            let batch = sampler.next_timeout(PATIENCE)?;
            let batch = batch.ok_or("a table that holds items gives none")?;
            left -= batch.columns.len() as u64;
            for id in ids(&batch.columns)? {
                *found.entry(id).or_default() += 1;
            }
        }
    }
    Ok(found)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), AnyError> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
