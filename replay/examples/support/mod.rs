//! What the slow proofs share: this very program again as a server or a writer, and items that can be
//! told apart.
#![allow(dead_code, unreachable_pub, reason = "each proof uses a part")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use pmpo_proto::counters_from_wire;
use pmpo_proto::replay::v1::{ListTablesRequest, replay_client::ReplayClient};
use pmpo_replay::{ReplayConfig, TableConfig};
use pmpo_service::grpc;
use pmpo_service::security::Credentials;
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature, TableCounters};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// An id, and a column that follows from it, together of a transition's size.
pub fn signature() -> Signature {
    Signature {
        columns: vec![
            ColumnSpec::new("id", DType::I64, &[]),
            ColumnSpec::new("values", DType::F32, &[54]),
        ],
    }
}

/// Items with these ids.
pub fn batch(ids: std::ops::Range<i64>) -> Result<ColumnBatch, AnyError> {
    let value = |id: i64| ((id & 0xffff) as f32 / 7.0).to_le_bytes().repeat(54);
    let columns: Vec<Bytes> = vec![
        ids.clone().flat_map(i64::to_le_bytes).collect(),
        ids.clone().flat_map(value).collect(),
    ];
    Ok(ColumnBatch::new(&signature(), ids.count(), columns)?)
}

/// The ids of items, which must be whole.
pub fn ids(items: &ColumnBatch) -> Result<Vec<i64>, AnyError> {
    let ids = items.columns()[0].as_chunks::<8>().0.iter();
    let ids: Vec<i64> = ids.map(|&bytes| i64::from_le_bytes(bytes)).collect();
    for (i, &id) in ids.iter().enumerate() {
        if items.slice(i..i + 1) != batch(id..id + 1)? {
            return Err(format!("item {id} is not what was inserted").into());
        }
    }
    Ok(ids)
}

/// This program again, as one of its parts.
pub struct Part {
    pub process: Child,
    /// What it prints.
    pub lines: Receiver<String>,
    /// Closing it tells the part to stop.
    pub input: Option<ChildStdin>,
}

impl Part {
    pub fn start(arguments: &[&str]) -> Result<Self, AnyError> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(process.stdout.take().ok_or("no output")?);
        let input = process.stdin.take();
        let (sender, lines) = channel();
        // Ends with the part's output.
        std::thread::spawn(move || {
            let mut lines = output.lines().map_while(Result::ok);
            lines.all(|line| sender.send(line).is_ok())
        });
        Ok(Self {
            process,
            lines,
            input,
        })
    }

    /// A part that serves, and its address.
    pub fn serve(arguments: &[&str]) -> Result<(Self, String), AnyError> {
        let part = Self::start(arguments)?;
        let address = part.lines.recv();
        Ok((
            part,
            address.map_err(|_| "a server ended; see its error above")?,
        ))
    }

    pub fn kill(&mut self) -> Result<(), AnyError> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Tells it to stop and waits until it has.
    pub fn stop(mut self) -> Result<(), AnyError> {
        drop(self.input.take());
        if self.process.wait()?.success() {
            return Ok(());
        }
        Err("a part failed".into())
    }
}

impl Drop for Part {
    /// Leaves no process behind.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None))
            && let Err(error) = self.kill()
        {
            eprintln!("{error}");
        }
    }
}

/// What the table of a service says of itself, once it serves.
pub fn counters(runtime: &Runtime, address: &str) -> Result<TableCounters, AnyError> {
    runtime.block_on(async {
        let channel = grpc::connect_lazy(address, &Credentials::default())?;
        let mut client = ReplayClient::new(channel);
        // It listens before it has recovered, and answers then.
        let tables = client.list_tables(ListTablesRequest {}).await?.into_inner();
        let table = tables.tables.first().ok_or("no table")?;
        Ok(counters_from_wire(table.counters)?)
    })
}

/// Serves at an address until standard input closes; prints the address.
pub fn serve(address: &str, table: TableConfig, data_dir: Option<&Path>) -> Result<(), AnyError> {
    let runtime = Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind(address))?;
    let address = listener.local_addr()?;
    let shutdown = CancellationToken::new();
    let config = ReplayConfig {
        table,
        data_dir: data_dir.map(Path::to_owned),
        ..ReplayConfig::default()
    };
    let running = runtime.spawn(pmpo_replay::run(config, listener, shutdown.clone()));
    println!("{address}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    shutdown.cancel();
    Ok(runtime.block_on(running)??)
}
