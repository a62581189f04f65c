//! One valid encoding of each kind.

use bytes::Bytes;
use pmpo_policy::{NetworkConfig, TorsoConfig, snapshot};
use pmpo_proto::replay::v1::{self, insert_request, sample_request, sample_response};
use pmpo_proto::{
    BatchShape, compress, sampled_to_wire, signature_to_wire, steps_to_wire, writer_id_to_wire,
};
use pmpo_replay_core::Restorer;
use pmpo_service::announce::Announcement;
use pmpo_types::{
    ColumnBatch, SampledBatch, SampledItems, Signature, StepBatch, TableCounters, WriterId,
};
use prost::Message;

use super::decoders::{BATCH, table, table_config};

fn columns(signature: &Signature, len: usize) -> ColumnBatch {
    let columns = signature.columns.iter().map(|spec| {
        let bytes = spec.item_bytes() * len;
        let bytes: Bytes = (0..bytes)
            .map(|i| if i % 4 == 2 { 0x80 } else { 0 })
            .collect();
        bytes
    });
    ColumnBatch::new(signature, len, columns.collect()).unwrap()
}

fn insert(request: insert_request::Request) -> Vec<u8> {
    let request = Some(request);
    v1::InsertRequest { request }.encode_to_vec()
}

fn sample(request: sample_request::Request) -> Vec<u8> {
    let request = Some(request);
    v1::SampleRequest { request }.encode_to_vec()
}

fn response(compression: v1::Compression) -> Vec<u8> {
    let (signature, length) = table();
    let batch = SampledBatch {
        columns: columns(&signature, BATCH * length),
        counters: TableCounters {
            size: 10,
            inserts: 20,
            samples: 300,
        },
        items: SampledItems {
            keys: (0..BATCH as u64).collect(),
            probabilities: vec![0.1; BATCH],
            priorities: vec![2.0; BATCH],
            times_sampled: vec![1; BATCH],
            lengths: Vec::new(),
        },
    };
    let shape = BatchShape {
        items: BATCH,
        sequence_length: length,
        ragged: false,
    };
    let mut parts = sampled_to_wire(&signature, shape, batch, usize::MAX);
    let mut part = parts.pop().unwrap();
    compress(&mut part.columns, compression);
    response_of(sample_response::Response::Part(part))
}

fn response_of(response: sample_response::Response) -> Vec<u8> {
    let response = Some(response);
    v1::SampleResponse { response }.encode_to_vec()
}

fn policy() -> Vec<u8> {
    let network = NetworkConfig {
        torso: TorsoConfig::hidden(&[4, 4]),
        ..NetworkConfig::default()
    };
    let specs = network.tensors(3, 2).unwrap();
    let tensors: Vec<_> = specs.iter().map(|spec| spec.filled(|_| 0.5)).collect();
    snapshot::encode(&network, 3, 2, &tensors).unwrap().to_vec()
}

/// The log of a table that a writer has put a few items into.
fn log(length: usize) -> Vec<u8> {
    let (signature, writer) = (table().0, WriterId(7));
    let loader = Restorer::new(table_config(length)).unwrap().finish(1);
    let (mut table, _) = loader.unwrap().finish();
    table.open_writer(writer, &signature, length).unwrap();
    let steps = columns(&signature, 5);
    let ends = if length == 1 { vec![] } else { vec![1, 2, 4] };
    let steps = StepBatch::new(length, steps, ends, vec![]).unwrap();
    for first in [0, 5, 10] {
        table.insert(writer, first, &steps).unwrap();
    }
    table.open_sampler(2, &signature, length).unwrap();
    table.sample(2).unwrap();
    let mut bytes = Vec::new();
    table.take_log(&mut bytes);
    bytes
}

/// Decoder, name, bytes.
pub(super) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (signature, length) = table();
    let open = v1::OpenWriter {
        table: "replay".to_owned(),
        writer_id: writer_id_to_wire(WriterId(7)),
        signature: Some(signature_to_wire(&signature)),
        sequence_length: length as u32,
        blocked_after_ms: 1000,
        owner: "walk".to_owned(),
        owner_id: "1".to_owned(),
    };
    let steps = columns(&signature, 5);
    let steps = StepBatch::new(length, steps, vec![1, 4], vec![0.5, 2.0]).unwrap();
    let items = steps_to_wire(&signature, 9, &steps);
    let sampler = v1::OpenSampler {
        table: "replay".to_owned(),
        batch_size: BATCH as u32,
        signature: Some(signature_to_wire(&signature)),
        sequence_length: length as u32,
        blocked_after_ms: 1000,
        compression: v1::Compression::Zstd.into(),
        owner: "walk".to_owned(),
        owner_id: "1".to_owned(),
        max_part_bytes: 1 << 20,
    };
    let blocked = v1::Blocked {
        reason: v1::BlockedReason::Inserts.into(),
        counter: "size".to_owned(),
        message: "table `replay`: blocked".to_owned(),
        ..v1::Blocked::default()
    };
    let priorities = v1::UpdatePrioritiesRequest {
        table: "replay".to_owned(),
        keys: vec![1, u64::MAX],
        priorities: vec![0.0, 1.5],
    };
    let announcement = Announcement {
        role: "replay".to_owned(),
        index: Some(0),
        pid: 17,
        listen: Some(([127, 0, 0, 1], 7001).into()),
        metrics: None,
    };
    vec![
        (
            "insert_request",
            "open",
            insert(insert_request::Request::Open(open)),
        ),
        (
            "insert_request",
            "steps",
            insert(insert_request::Request::Steps(items)),
        ),
        (
            "sample_request",
            "open",
            sample(sample_request::Request::Open(sampler)),
        ),
        (
            "sample_request",
            "demand",
            sample(sample_request::Request::Demand(v1::Demand { batches: 2 })),
        ),
        ("sample_response", "plain", response(v1::Compression::None)),
        ("sample_response", "lz4", response(v1::Compression::Lz4)),
        ("sample_response", "zstd", response(v1::Compression::Zstd)),
        (
            "sample_response",
            "blocked",
            response_of(sample_response::Response::Blocked(blocked)),
        ),
        ("update_priorities", "two", priorities.encode_to_vec()),
        ("policy_snapshot", "small", policy()),
        ("replay_log", "transitions", log(1)),
        ("replay_log_sequences", "sequences", log(length)),
        (
            "announcement",
            "replay",
            serde_json::to_vec(&announcement).unwrap(),
        ),
    ]
}
