//! A service on port 0, and items that can be told apart.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pmpo_proto::replay::v1::{self, replay_client::ReplayClient};
use pmpo_replay::{ReplayConfig, ReplayError, TableConfig};
use pmpo_replay_client::{Sampler, SamplerConfig, Writer, WriterConfig};
use pmpo_service::grpc;
use pmpo_service::security::Credentials;
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for anything that must happen, short enough to fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Long enough to see that something does not happen by itself.
pub(crate) const MOMENT: Duration = Duration::from_millis(100);

/// An id, and a wider column that follows from it.
pub(crate) fn signature() -> Signature {
    let columns = vec![
        ColumnSpec::new("id", DType::I64, &[]),
        ColumnSpec::new("thirds", DType::F32, &[3]),
    ];
    Signature { columns }
}

pub(crate) fn batch(ids: std::ops::Range<i64>) -> ColumnBatch {
    batch_of(&ids.collect::<Vec<_>>())
}

fn batch_of(ids: &[i64]) -> ColumnBatch {
    let thirds = |id: i64| [id as f32, id as f32 / 3.0, -(id as f32)];
    let id: Bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let wide: Bytes = ids
        .iter()
        .flat_map(|&id| thirds(id))
        .flat_map(f32::to_le_bytes)
        .collect();
    ColumnBatch::new(&signature(), ids.len(), vec![id, wide]).unwrap()
}

/// The ids of a batch whose items must be whole.
pub(crate) fn ids(batch: &ColumnBatch) -> Vec<i64> {
    let ids = batch.columns()[0].chunks_exact(8);
    let ids: Vec<i64> = ids
        .map(|id| i64::from_le_bytes(id.try_into().unwrap()))
        .collect();
    assert_eq!(batch, &batch_of(&ids));
    ids
}

/// A limiter that hardly ever blocks.
pub(crate) fn roomy() -> TableConfig {
    TableConfig {
        min_size_to_sample: 1,
        error_buffer: Some(1e12),
        ..TableConfig::default()
    }
}

/// `offset` 20, at most 14 inserts ahead, at most 8 samples ahead.
pub(crate) fn tight() -> TableConfig {
    TableConfig {
        samples_per_insert: 2.0,
        min_size_to_sample: 10,
        error_buffer: Some(8.0),
        ..TableConfig::default()
    }
}

/// Listens on `address`. The port of a server that has stopped may for a moment be the near end of
/// somebody's connection, for instance of a client that tries to reach that server again.
pub(crate) fn bind(runtime: &Runtime, address: &str) -> TcpListener {
    for _ in 0..PATIENCE.as_millis() / 10 {
        match runtime.block_on(TcpListener::bind(address)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.unwrap(),
        }
    }
    panic!("{address} stays in use")
}

pub(crate) struct Service {
    pub(crate) runtime: Runtime,
    pub(crate) address: String,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ReplayError>>,
}

impl Service {
    pub(crate) fn start(table: TableConfig) -> Self {
        Self::start_at(
            "127.0.0.1:0",
            ReplayConfig {
                table,
                ..ReplayConfig::default()
            },
        )
    }

    pub(crate) fn start_at(address: &str, config: ReplayConfig) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = bind(&runtime, address);
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let task = runtime.spawn(pmpo_replay::run(config, listener, shutdown.clone()));
        Self {
            runtime,
            address,
            shutdown,
            task,
        }
    }

    /// Stops it and answers what `run` returned.
    pub(crate) fn stop(self) -> Result<(), ReplayError> {
        self.shutdown.cancel();
        self.runtime.block_on(self.task).unwrap()
    }

    pub(crate) fn client(&self) -> ReplayClient<grpc::Channel> {
        let _context = self.runtime.enter();
        ReplayClient::new(grpc::connect_lazy(&self.address, &Credentials::default()).unwrap())
            .max_encoding_message_size(usize::MAX)
    }

    pub(crate) fn tables(&self) -> Vec<v1::TableInfo> {
        let mut client = self.client();
        let list = client.list_tables(v1::ListTablesRequest {});
        self.runtime.block_on(list).unwrap().into_inner().tables
    }

    pub(crate) fn table(&self) -> v1::TableInfo {
        self.tables().remove(0)
    }

    /// (size, inserts, samples)
    pub(crate) fn counters(&self) -> (u64, u64, u64) {
        let counters = self.table().counters.unwrap();
        (counters.size, counters.inserts, counters.samples)
    }

    /// Draws until every one of `items` has been seen but for a chance below 10^-9, and counts how
    /// often each id is in the table; a uniform table without doubles shows each about equally.
    pub(crate) fn contents(&self, items: usize) -> BTreeMap<i64, usize> {
        let shutdown = CancellationToken::new();
        let mut sampler = sampler(&self.runtime, &self.address, 1_000, &shutdown);
        let mut seen = BTreeMap::new();
        for _ in 0..items.div_ceil(1_000) * 40 {
            for id in ids(&sampler.next().unwrap().columns) {
                *seen.entry(id).or_default() += 1;
            }
        }
        seen
    }
}

/// How far a response acknowledges what was sent.
pub(crate) fn acknowledged(response: v1::InsertResponse) -> u64 {
    match response.response {
        Some(v1::insert_response::Response::NextSequence(next_sequence)) => next_sequence,
        other => panic!("expected an acknowledgement, got {other:?}"),
    }
}

pub(crate) fn writer(
    runtime: &Runtime,
    address: &str,
    max_in_flight_items: usize,
    shutdown: &CancellationToken,
) -> Writer {
    writer_to(
        runtime,
        &[address.to_owned()],
        max_in_flight_items,
        shutdown,
    )
}

pub(crate) fn writer_to(
    runtime: &Runtime,
    addresses: &[String],
    max_in_flight_items: usize,
    shutdown: &CancellationToken,
) -> Writer {
    let config = WriterConfig {
        max_in_flight_items,
        ..WriterConfig::default()
    };
    Writer::new(addresses, config, signature(), runtime.handle(), shutdown).unwrap()
}

pub(crate) fn sampler(
    runtime: &Runtime,
    address: &str,
    batch_size: usize,
    shutdown: &CancellationToken,
) -> Sampler {
    sampler_of(runtime, &[address.to_owned()], batch_size, shutdown)
}

pub(crate) fn sampler_of(
    runtime: &Runtime,
    addresses: &[String],
    batch_size: usize,
    shutdown: &CancellationToken,
) -> Sampler {
    let config = SamplerConfig {
        batch_size,
        prefetch_batches: 1,
        ..SamplerConfig::default()
    };
    Sampler::new(addresses, config, signature(), runtime.handle(), shutdown).unwrap()
}
