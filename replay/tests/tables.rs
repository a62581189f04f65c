//! Many tables, priorities, sequences, compression, deadlines that say why, and bounds that change:
//! over real connections, with messages by hand.

mod common;

use bytes::Bytes;
use common::{PATIENCE, Service, batch, roomy, signature, tight, writer};
use pmpo_proto::v1::{self, Compression, insert_request, sample_request};
use pmpo_proto::{SampledParts, signature_to_wire, steps_to_wire};
use pmpo_replay::{LimiterKind, ReplayConfig, SelectorKind, TableConfig};
use pmpo_types::{SampledBatch, StepBatch};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// A table for items of three steps, drawn by priority, beside the usual one.
fn two_tables() -> Service {
    let sequences = TableConfig {
        name: "sequences".to_owned(),
        sequence_length: 3,
        limiter: LimiterKind::MinSize,
        min_size_to_sample: 1,
        sampler: SelectorKind::MaxHeap,
        ..TableConfig::default()
    };
    let config = ReplayConfig {
        table: roomy(),
        tables: vec![sequences],
        ..ReplayConfig::default()
    };
    Service::start_at("127.0.0.1:0", config)
}

fn open_writer(table: &str, sequence_length: u32) -> insert_request::Request {
    insert_request::Request::Open(v1::OpenWriter {
        table: table.to_owned(),
        writer_id: Bytes::from_static(&[3; 16]),
        signature: Some(signature_to_wire(&signature())),
        sequence_length,
        timeout_ms: 50,
        ..Default::default()
    })
}

fn open_sampler(table: &str, sequence_length: u32, batch_size: u32) -> v1::OpenSampler {
    v1::OpenSampler {
        table: table.to_owned(),
        batch_size,
        signature: Some(signature_to_wire(&signature())),
        sequence_length,
        timeout_ms: 50,
        compression: Compression::None.into(),
        ..Default::default()
    }
}

/// The last number acknowledged, and how the stream ended.
fn insert(service: &Service, requests: Vec<insert_request::Request>) -> (u64, Status) {
    let requests = requests.into_iter().map(|request| v1::InsertRequest {
        request: Some(request),
    });
    let requests: Vec<_> = requests.collect();
    let mut client = service.client();
    service.runtime.block_on(async {
        let mut responses = client
            .insert(tokio_stream::iter(requests))
            .await
            .unwrap()
            .into_inner();
        let mut next_sequence = 0;
        loop {
            match responses.message().await {
                Ok(Some(response)) => next_sequence = response.next_sequence,
                Ok(None) => return (next_sequence, Status::ok("ended")),
                Err(status) => return (next_sequence, status),
            }
        }
    })
}

/// One batch, and the parts it came in.
fn sample(
    service: &Service,
    open: v1::OpenSampler,
) -> Result<(SampledBatch, Vec<v1::SampleResponse>), Status> {
    let rows = (open.batch_size * open.sequence_length.max(1)) as usize;
    let mut client = service.client();
    service.runtime.block_on(async {
        let (requests, stream) = mpsc::channel(2);
        let demand = sample_request::Request::Demand(v1::Demand { batches: 1 });
        for request in [sample_request::Request::Open(open), demand] {
            let request = v1::SampleRequest {
                request: Some(request),
            };
            requests.send(request).await.unwrap();
        }
        let mut responses = client
            .sample(ReceiverStream::new(stream))
            .await?
            .into_inner();
        let (mut whole, mut parts) = (SampledParts::default(), Vec::new());
        while let Some(part) = responses.message().await? {
            parts.push(part.clone());
            if let Some(batch) = whole.push(&signature(), rows, part).unwrap() {
                return Ok((batch, parts));
            }
        }
        Err(Status::ok("ended"))
    })
}

fn sequences(first: i64, ends: &[u32], priorities: &[f64]) -> insert_request::Request {
    let steps = batch(first..first + 5);
    let items = StepBatch::new(3, steps, ends.to_vec(), priorities.to_vec()).unwrap();
    insert_request::Request::Items(steps_to_wire(&signature(), first as u64, &items))
}

#[test]
fn tables_are_apart_and_priorities_choose_among_overlapping_sequences() {
    let service = two_tables();
    let shutdown = CancellationToken::new();
    let mut transitions = writer(&service.runtime, &service.address, 100, &shutdown);
    transitions.push(batch(0..7)).unwrap();
    transitions.flush(PATIENCE).unwrap();
    let requests = vec![
        open_writer("sequences", 3),
        sequences(0, &[2, 3, 4], &[1.0, 5.0, 2.0]),
        sequences(5, &[0], &[3.0]),
    ];
    assert_eq!(insert(&service, requests).0, 10);

    let (drawn, _) = sample(&service, open_sampler("sequences", 3, 2)).unwrap();
    assert_eq!(common::ids(&drawn.columns), [1, 2, 3, 1, 2, 3]);
    assert_eq!(drawn.items.times_sampled, [1, 2]);
    let mut client = service.client();
    let update = v1::UpdatePrioritiesRequest {
        table: "sequences".to_owned(),
        keys: vec![drawn.items.keys[0], u64::MAX],
        priorities: vec![0.5, 9.0],
    };
    let updated = service.runtime.block_on(client.update_priorities(update));
    let v1::UpdatePrioritiesResponse { updated, missing } = updated.unwrap().into_inner();
    assert_eq!((updated, missing), (1, 1));
    let (drawn, _) = sample(&service, open_sampler("sequences", 3, 1)).unwrap();
    assert_eq!(common::ids(&drawn.columns), [3, 4, 5], "of priority 3");

    let tables = service
        .runtime
        .block_on(client.list_tables(v1::ListTablesRequest {}));
    let tables = tables.unwrap().into_inner().tables;
    let seen: Vec<_> = tables
        .iter()
        .map(|t| (&t.name[..], t.bytes, t.durable))
        .collect();
    assert_eq!(
        seen,
        [("replay", 7 * 20, false), ("sequences", 6 * 20, false)]
    );
    service.stop().unwrap();
}

#[test]
fn bad_items_and_priorities_are_refused_by_name_and_leave_nothing() {
    let service = two_tables();
    let of = |change: fn(&mut v1::Items)| {
        let insert_request::Request::Items(mut items) = sequences(0, &[2, 3], &[1.0, 2.0]) else {
            unreachable!()
        };
        change(&mut items);
        insert_request::Request::Items(items)
    };
    let range = "priorities: expected numbers from 0 to 1e30, got";
    let cases = [
        (
            of(|i| i.priorities[1] = -1.0),
            format!("{range} -1 at position 1"),
        ),
        (
            of(|i| i.priorities[0] = f64::NAN),
            format!("{range} NaN at position 0"),
        ),
        (
            of(|i| i.priorities[0] = f64::INFINITY),
            format!("{range} inf at position 0"),
        ),
        (
            of(|i| i.priorities.truncate(1)),
            "priorities: expected 2, one for each item, got 1".to_owned(),
        ),
        (
            of(|i| i.ends[1] = 5),
            "items.ends: expected less than 5 steps, got 5".to_owned(),
        ),
        (
            of(|i| i.ends[0] = 1),
            "items.ends: expected at least 3 steps up to the end of an item, got 2 at position 1"
                .to_owned(),
        ),
    ];
    for (items, message) in cases {
        let (_, status) = insert(&service, vec![open_writer("sequences", 3), items]);
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, &message[..])
        );
    }
    let (_, status) = insert(&service, vec![open_writer("sequences", 1)]);
    let message = "sequence_length: expected 3 as in the table, got 1";
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, message)
    );
    let (_, status) = insert(&service, vec![open_writer("third", 3)]);
    let message = "table: expected `replay` or `sequences`, got `third`";
    assert_eq!((status.code(), status.message()), (Code::NotFound, message));

    let update = |table: &str, keys: Vec<u64>, priorities: Vec<f64>| {
        let mut client = service.client();
        let request = v1::UpdatePrioritiesRequest {
            table: table.to_owned(),
            keys,
            priorities,
        };
        let refused = service.runtime.block_on(client.update_priorities(request));
        refused.unwrap_err().message().to_owned()
    };
    assert_eq!(
        update("sequences", vec![1, 2], vec![1.0]),
        "priorities: expected 2, one for each key, got 1"
    );
    assert_eq!(
        update("sequences", vec![1, 2], vec![1.0, f64::NAN]),
        format!("{range} NaN at position 1")
    );
    assert_eq!(
        update("replay", vec![1], vec![1.0]),
        "table `replay` has no selector that uses priorities"
    );
    let tables = service.tables();
    assert!(
        tables
            .iter()
            .all(|table| table.counters.unwrap().inserts == 0)
    );
}

#[test]
fn a_step_of_more_than_a_message_is_refused_before_it_is_sent() {
    let service = Service::start(roomy());
    let mut huge = signature();
    huge.columns[1].shape = vec![16 << 20];
    let insert_request::Request::Open(mut open) = open_writer("replay", 1) else {
        unreachable!()
    };
    open.signature = Some(signature_to_wire(&huge));
    let (_, status) = insert(&service, vec![insert_request::Request::Open(open)]);
    let message = "signature.columns[1].shape: expected an item of at most 16777216 bytes, got \
                   [16777216]";
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, message)
    );
    assert_eq!(service.counters(), (0, 0, 0));
}

#[test]
fn who_waits_too_long_is_told_why_since_when_and_by_which_counter() {
    let service = Service::start(tight());
    let steps = StepBatch::transitions(batch(0..20));
    let items = insert_request::Request::Items(steps_to_wire(&signature(), 0, &steps));
    let status = sample(&service, open_sampler("replay", 1, 4)).unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let blocked = v1::Blocked::decode(status.details()).unwrap();
    assert_eq!(
        (
            &blocked.reason[..],
            &blocked.counter[..],
            blocked.value,
            blocked.bound
        ),
        ("min_size", "size", 0.0, 10.0)
    );
    assert!(blocked.seconds >= 0.05, "{}", blocked.seconds);

    let (_, status) = insert(&service, vec![open_writer("replay", 1), items]);
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let reason = "waiting for samples: inserts * samples_per_insert - samples is 28, at most 26 is \
                  needed";
    assert!(
        status.message().starts_with("table `replay`: blocked for "),
        "{status}"
    );
    assert!(status.message().ends_with(reason), "{status}");
    assert_eq!(service.counters(), (14, 14, 0), "what fitted stays stored");
    let (next_sequence, _) = insert(&service, vec![open_writer("replay", 1)]);
    assert_eq!(next_sequence, 14, "and the writer learns of it");
}

#[test]
fn tables_list_who_waits_and_bounds_that_change_let_them_go() {
    let service = Service::start(tight());
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 100, &shutdown);
    writer.push(batch(0..20)).unwrap();
    let blocked = loop {
        if let [blocked] = &service.table().blocked[..] {
            break blocked.clone();
        }
        std::thread::yield_now();
    };
    assert_eq!(
        (
            &blocked.reason[..],
            blocked.callers,
            blocked.value,
            blocked.bound
        ),
        ("samples", 1, 28.0, 26.0)
    );
    let configure = |request: v1::ConfigureTableRequest| {
        let mut client = service.client();
        service.runtime.block_on(client.configure_table(request))
    };
    let refused = configure(v1::ConfigureTableRequest {
        table: "replay".to_owned(),
        samples_per_insert: Some(-1.0),
        max_size: Some(5),
        ..Default::default()
    });
    let refused = refused.unwrap_err();
    let message = "min_size_to_sample: expected at most max_size = 5, or nothing could be sampled, \
                   got 10";
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, message)
    );
    let configured = configure(v1::ConfigureTableRequest {
        table: "replay".to_owned(),
        error_buffer: Some(40.0),
        max_size: Some(12),
        ..Default::default()
    });
    let table = configured.unwrap().into_inner().table.unwrap();
    assert_eq!((table.max_size, table.error_buffer), (12, 40.0));
    writer.flush(PATIENCE).unwrap();
    assert_eq!(service.counters(), (12, 20, 0));
    assert!(service.table().blocked.is_empty());
}

#[test]
fn columns_are_compressed_on_request() {
    let service = Service::start(roomy());
    let steps = StepBatch::transitions(batch(0..200));
    let items = insert_request::Request::Items(steps_to_wire(&signature(), 0, &steps));
    assert_eq!(
        insert(&service, vec![open_writer("replay", 1), items]).0,
        200
    );
    let size = |compression: Compression| {
        let open = v1::OpenSampler {
            compression: compression.into(),
            ..open_sampler("replay", 1, 512)
        };
        let (drawn, parts) = sample(&service, open).unwrap();
        assert_eq!(common::ids(&drawn.columns).len(), 512);
        let columns = parts.iter().flat_map(|part| &part.columns);
        columns.map(|column| column.data.len()).sum::<usize>()
    };
    assert_eq!(size(Compression::None), 512 * 20);
    assert!(size(Compression::Lz4) < 512 * 16);
    assert!(size(Compression::Zstd) < 512 * 12);
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let config = ReplayConfig {
        max_streams: 1,
        table: roomy(),
        ..ReplayConfig::default()
    };
    let service = Service::start_at("127.0.0.1:0", config);
    let mut client = service.client();
    service.runtime.block_on(async {
        let (requests, stream) = mpsc::channel(1);
        let first = client.insert(ReceiverStream::new(stream)).await.unwrap();
        let second = client.insert(tokio_stream::pending()).await.unwrap_err();
        assert_eq!(
            (second.code(), second.message()),
            (
                Code::ResourceExhausted,
                "max_streams: 1 are open, no more fit"
            )
        );
        drop((requests, first));
        // The place is free once the service has noticed.
        for _ in 0..PATIENCE.as_millis() {
            if client.insert(tokio_stream::pending()).await.is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("a stream that has ended takes no place");
    });
}
