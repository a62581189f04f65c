//! What was acknowledged outlives the service: stopped, killed, or with its log damaged.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pmpo_replay::{DiskConfig, Fsync, LimiterKind, ReplayConfig, SelectorKind, TableConfig};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::common::{PATIENCE, Service, batch, bind, ids, roomy, sampler, writer};

fn config(data_dir: &Path, table: TableConfig) -> ReplayConfig {
    ReplayConfig {
        data_dir: Some(data_dir.to_owned()),
        table,
        ..ReplayConfig::default()
    }
}

/// Every item leaves with its first draw, the oldest first, so drawing shows each just once.
fn drained_by_drawing() -> TableConfig {
    TableConfig {
        limiter: LimiterKind::None,
        sampler: SelectorKind::Fifo,
        max_times_sampled: 1,
        max_size: u32::MAX as usize,
        ..TableConfig::default()
    }
}

/// Takes all items out of a table that is drained by drawing.
fn drain(runtime: &Runtime, address: &str, items: usize) -> Vec<i64> {
    let shutdown = CancellationToken::new();
    let mut all = Vec::new();
    for (batch_size, batches) in [(1_000, items / 1_000), (items % 1_000, 1)] {
        if batch_size > 0 && batches > 0 {
            let mut sampler = sampler(runtime, address, batch_size, &shutdown);
            for _ in 0..batches {
                all.extend(ids(&sampler
                    .next_timeout(PATIENCE)
                    .unwrap()
                    .unwrap()
                    .columns));
            }
        }
    }
    all
}

fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir.join("replay")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_writer_goes_on_over_restarts_under_every_policy() {
    for fsync in [Fsync::EachBatch, Fsync::Interval, Fsync::Never] {
        let folder = tempfile::tempdir().unwrap();
        let config = ReplayConfig {
            disk: DiskConfig {
                fsync,
                fsync_interval_ms: 5,
                ..DiskConfig::default()
            },
            ..config(folder.path(), roomy())
        };
        let runtime = Runtime::new().unwrap();
        let shutdown = CancellationToken::new();
        let mut service = Service::start_at("127.0.0.1:0", config.clone());
        let address = service.address.clone();
        let mut writer = writer(&runtime, &address, 100, &shutdown);
        for round in 0..3 {
            for start in (round * 200..round * 200 + 200).step_by(50) {
                writer.push(batch(start..start + 50)).unwrap();
            }
            if round == 1 {
                writer.flush(PATIENCE).unwrap();
            }
            service.stop().unwrap();
            service = Service::start_at(&address, config.clone());
        }
        writer.flush(PATIENCE).unwrap();
        assert_eq!(writer.acknowledged_items(), 600);
        assert_eq!(service.counters(), (600, 600, 0), "{fsync:?}");
        assert!(service.table().durable);
        assert!(service.contents(600).into_keys().eq(0..600));
        service.stop().unwrap();
    }
}

#[test]
fn a_torn_end_is_cut_off_and_the_rest_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start_at("127.0.0.1:0", config(folder.path(), roomy()));
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 100, &shutdown);
    for start in [0, 10] {
        writer.push(batch(start..start + 10)).unwrap();
        writer.flush(PATIENCE).unwrap();
    }
    service.stop().unwrap();
    let path = segments(folder.path()).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 7]).unwrap();
    for _ in 0..2 {
        let service = Service::start_at("127.0.0.1:0", config(folder.path(), roomy()));
        assert_eq!(service.counters().1, 10);
        assert!(service.contents(10).into_keys().eq(0..10));
        service.stop().unwrap();
    }
    assert!(std::fs::metadata(&path).unwrap().len() < whole.len() as u64 - 7);
}

#[test]
fn the_disk_holds_no_more_than_the_table_in_proportion() {
    for remover in [SelectorKind::Fifo, SelectorKind::Uniform] {
        let folder = tempfile::tempdir().unwrap();
        let table = TableConfig {
            max_size: 2_000,
            remover,
            ..roomy()
        };
        let disk = DiskConfig {
            segment_bytes: 16 << 10,
            fsync_interval_ms: 1,
            ..DiskConfig::default()
        };
        let config = ReplayConfig {
            disk,
            ..config(folder.path(), table)
        };
        let service = Service::start_at("127.0.0.1:0", config.clone());
        let shutdown = CancellationToken::new();
        let mut writer = writer(&service.runtime, &service.address, 100, &shutdown);
        for start in (0..40_000).step_by(50) {
            writer.push(batch(start..start + 50)).unwrap();
        }
        writer.flush(PATIENCE).unwrap();
        assert_eq!(service.table().bytes, 2_000 * 20);
        // Twice the table with what an item takes beside its step, two segments, and what a segment may be
        // too large by; once it is synced.
        let bound = 2 * 2_000 * (20 + 32) + 4 * (16 << 10);
        let bytes = || -> u64 {
            let sizes = segments(folder.path())
                .into_iter()
                .map(|path| path.metadata());
            sizes.flatten().map(|metadata| metadata.len()).sum()
        };
        let until = Instant::now() + PATIENCE;
        while bytes() >= bound {
            assert!(
                Instant::now() < until,
                "{remover:?}: {} of {bound}",
                bytes()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        service.stop().unwrap();
        let service = Service::start_at("127.0.0.1:0", config);
        assert_eq!(service.counters(), (2_000, 40_000, 0));
        assert_eq!(service.contents(2_000).len(), 2_000);
        service.stop().unwrap();
    }
}

#[test]
fn a_data_directory_is_one_services_alone_and_of_one_kind() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start_at("127.0.0.1:0", config(folder.path(), roomy()));
    assert_eq!(service.counters(), (0, 0, 0));
    let second = Service::start_at("127.0.0.1:0", config(folder.path(), roomy()));
    let message = second.stop().unwrap_err().to_string();
    let ours = format!("in use by process {} on ", std::process::id());
    assert!(message.contains(&ours), "{message}");
    service.stop().unwrap();
    let sequences = TableConfig {
        sequence_length: 8,
        ..roomy()
    };
    let third = Service::start_at("127.0.0.1:0", config(folder.path(), sequences));
    assert_eq!(
        third.stop().unwrap_err().to_string(),
        "table.sequence_length: expected 1 as in the data directory, got 8"
    );
}

#[test]
fn a_log_of_an_older_version_is_refused_in_one_line_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let segment = folder.path().join("replay/0000000003.log");
    std::fs::create_dir(folder.path().join("replay")).unwrap();
    let older = [&0x4c50_4d50u32.to_le_bytes()[..], b"and what follows"].concat();
    std::fs::write(&segment, &older).unwrap();
    let refused = Service::start_at("127.0.0.1:0", config(folder.path(), roomy()));
    let message = refused.stop().unwrap_err().to_string();
    let expected = "written by an older version, whose log this one cannot read; choose another data \
                    directory";
    assert!(message.ends_with(expected), "{message}");
    assert_eq!(segments(folder.path()), std::slice::from_ref(&segment));
    assert_eq!(std::fs::read(segment).unwrap(), older);
}

const CHILD_DIR: &str = "PMPO_TEST_DATA_DIR";
const CHILD_ADDRESS: &str = "PMPO_TEST_ADDRESS";

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "the service that another test runs in a process of its own"]
fn serve() {
    let (Ok(data_dir), Ok(address)) = (std::env::var(CHILD_DIR), std::env::var(CHILD_ADDRESS))
    else {
        return;
    };
    let runtime = Runtime::new().unwrap();
    let listener = bind(&runtime, &address);
    println!("\n{}", listener.local_addr().unwrap());
    let config = ReplayConfig {
        disk: DiskConfig {
            segment_bytes: 256 << 10,
            ..DiskConfig::default()
        },
        ..config(Path::new(&data_dir), drained_by_drawing())
    };
    runtime
        .block_on(pmpo_replay::run(config, listener, CancellationToken::new()))
        .unwrap();
}

/// The process, killed at the latest when it goes out of scope.
struct Server(Child);

impl Server {
    fn spawn(data_dir: &Path, address: &str) -> (Self, String) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::serve", "--ignored", "--nocapture"])
            .env(CHILD_DIR, data_dir)
            .env(CHILD_ADDRESS, address)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map(Result::unwrap)
            .find(|line| line.starts_with("127.0.0.1:"));
        (Self(child), address.expect("the address it listens on"))
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `PMPO_TEST_KILLS=20` for more than a few kills.
#[test]
fn killed_again_and_again_it_loses_and_doubles_nothing() {
    let kills: u64 = std::env::var("PMPO_TEST_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (mut server, address) = Server::spawn(folder.path(), "127.0.0.1:0");
    let runtime = Runtime::new().unwrap();
    let (stop, shutdown) = (AtomicBool::new(false), CancellationToken::new());
    let acknowledged: [std::sync::atomic::AtomicU64; 4] = Default::default();
    let recovered = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4i64)
            .map(|index| {
                let (runtime, address, stop, shutdown) = (&runtime, &address, &stop, &shutdown);
                let acknowledged = &acknowledged[index as usize];
                scope.spawn(move || {
                    let mut writer = writer(runtime, address, 500, shutdown);
                    let mut next = index << 32;
                    while !stop.load(Ordering::Relaxed) {
                        writer.push(batch(next..next + 50)).unwrap();
                        next += 50;
                        acknowledged.store(writer.acknowledged_items(), Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    writer.flush(PATIENCE).unwrap();
                    (index << 32)..next
                })
            })
            .collect();
        for kill in 0..kills {
            std::thread::sleep(Duration::from_millis(300 + 37 * (kill % 7)));
            let before: u64 = acknowledged.iter().map(|a| a.load(Ordering::Relaxed)).sum();
            server.kill();
            server = Server::spawn(folder.path(), &address).0;
            let after = inserts(&runtime, &address);
            println!("kill {kill}: acknowledged {before} before, {after} inserted after");
            assert!(after >= before, "{after} of {before}");
        }
        stop.store(true, Ordering::Relaxed);
        let ranges = threads.into_iter().map(|thread| thread.join().unwrap());
        ranges.collect::<Vec<_>>()
    });
    let mut expected: Vec<i64> = recovered.into_iter().flatten().collect();
    expected.sort_unstable();
    let mut held = drain(&runtime, &address, expected.len());
    held.sort_unstable();
    println!("{} items pushed, {} held", expected.len(), held.len());
    assert!(expected.len() > 1_000);
    assert!(held == expected, "each item once");
}

fn inserts(runtime: &Runtime, address: &str) -> u64 {
    use pmpo_proto::replay::v1::{ListTablesRequest, replay_client::ReplayClient};
    let _context = runtime.enter();
    let channel = pmpo_service::grpc::connect_lazy(address, &Default::default()).unwrap();
    let mut client = ReplayClient::new(channel);
    let tables = runtime
        .block_on(client.list_tables(ListTablesRequest {}))
        .unwrap();
    tables.into_inner().tables[0].counters.unwrap().inserts
}
