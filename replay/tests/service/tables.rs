//! Many tables, priorities, sequences, compression, deadlines that say why, and bounds that change:
//! over real connections, with messages by hand.

use bytes::Bytes;
use pmpo_proto::replay::v1::{
    self, BlockedReason, Compression, insert_request, insert_response, sample_request,
    sample_response,
};
use pmpo_proto::{BatchShape, SampledParts, signature_to_wire, steps_to_wire};
use pmpo_replay::{LimiterKind, ReplayConfig, SelectorKind, TableConfig};
use pmpo_types::{SampledBatch, StepBatch};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::common::{PATIENCE, Service, acknowledged, batch, ids, roomy, signature, tight, writer};

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
        blocked_after_ms: 50,
        ..Default::default()
    })
}

fn open_sampler(table: &str, sequence_length: u32, batch_size: u32) -> v1::OpenSampler {
    v1::OpenSampler {
        table: table.to_owned(),
        batch_size,
        signature: Some(signature_to_wire(&signature())),
        sequence_length,
        blocked_after_ms: 50,
        compression: Compression::None.into(),
        ..Default::default()
    }
}

/// The last number acknowledged, and how the stream ended, which a writer that is held back leaves.
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
                Ok(Some(response)) => next_sequence = acknowledged(response),
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
) -> Result<(SampledBatch, Vec<v1::BatchPart>), Status> {
    let shape = BatchShape {
        items: open.batch_size as usize,
        sequence_length: open.sequence_length.max(1) as usize,
        ragged: false,
    };
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
        while let Some(response) = responses.message().await? {
            let Some(sample_response::Response::Part(part)) = response.response else {
                panic!("expected a part, got {response:?}");
            };
            parts.push(part.clone());
            if let Some(batch) = whole.push(&signature(), shape, part).unwrap() {
                return Ok((batch, parts));
            }
        }
        Err(Status::ok("ended"))
    })
}

fn sequences(first: i64, ends: &[u32], priorities: &[f64]) -> insert_request::Request {
    let steps = batch(first..first + 5);
    let items = StepBatch::new(3, steps, ends.to_vec(), priorities.to_vec()).unwrap();
    insert_request::Request::Steps(steps_to_wire(&signature(), first as u64, &items))
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
    assert_eq!(ids(&drawn.columns), [1, 2, 3, 1, 2, 3]);
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
    assert_eq!(ids(&drawn.columns), [3, 4, 5], "of priority 3");
    assert_eq!(drawn.items.priorities, [3.0]);
    let (drawn, _) = sample(&service, open_sampler("replay", 1, 1)).unwrap();
    assert!(drawn.items.priorities.is_empty(), "nobody looks at them");

    let tables = service
        .runtime
        .block_on(client.list_tables(v1::ListTablesRequest {}));
    let tables = tables.unwrap().into_inner().tables;
    let seen: Vec<_> = tables
        .iter()
        .map(|t| (&t.config.as_ref().unwrap().name[..], t.bytes, t.durable))
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
    let of = |change: fn(&mut v1::Steps)| {
        let insert_request::Request::Steps(mut items) = sequences(0, &[2, 3], &[1.0, 2.0]) else {
            unreachable!()
        };
        change(&mut items);
        insert_request::Request::Steps(items)
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
            "steps.ends: expected less than 5 steps, got 5".to_owned(),
        ),
        (
            of(|i| i.ends[0] = 1),
            "steps.ends: expected at least 3 steps up to the end of an item, got 2 at position 1"
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
    let message = "signature.columns[1].shape: expected a step of at most 16777216 bytes, got \
                   [16777216]";
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, message)
    );
    assert_eq!(service.counters(), (0, 0, 0));
}

/// What a stream that stays open says next, within a while.
async fn next<T>(responses: &mut tonic::Streaming<T>) -> T {
    let next = tokio::time::timeout(PATIENCE, responses.message()).await;
    next.expect("an answer")
        .unwrap()
        .expect("the stream stays open")
}

#[test]
fn a_sampler_that_waits_is_told_why_on_a_stream_that_stays_open() {
    let service = Service::start(tight());
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 100, &shutdown);
    let mut client = service.client();
    let requests = [
        sample_request::Request::Open(open_sampler("replay", 1, 4)),
        sample_request::Request::Demand(v1::Demand { batches: 2 }),
    ];
    let requests = requests.map(|request| v1::SampleRequest {
        request: Some(request),
    });
    // The client has no more to say: what it has demanded comes all the same, and then the end.
    let mut responses = service.runtime.block_on(async {
        let responses = client.sample(tokio_stream::iter(requests)).await;
        let mut responses = responses.unwrap().into_inner();
        for _ in 0..2 {
            let Some(sample_response::Response::Blocked(blocked)) =
                next(&mut responses).await.response
            else {
                panic!("expected why there is no batch");
            };
            assert_eq!(
                (blocked.reason(), &blocked.counter[..]),
                (BlockedReason::MinSize, "size")
            );
            assert_eq!((blocked.value, blocked.bound), (0.0, 10.0));
            assert!(blocked.seconds >= 0.05, "{}", blocked.seconds);
        }
        responses
    });
    writer.push(batch(0..12)).unwrap();
    writer.flush(PATIENCE).unwrap();
    service.runtime.block_on(async {
        let mut batches = 0;
        while let Some(response) = responses.message().await.unwrap() {
            let part = matches!(response.response, Some(sample_response::Response::Part(_)));
            batches += usize::from(part);
        }
        assert_eq!(batches, 2);
    });
    assert_eq!(service.counters(), (12, 12, 8));
}

#[test]
fn a_writer_that_waits_is_told_why_and_goes_on_where_it_was() {
    let service = Service::start(tight());
    let steps = StepBatch::transitions(batch(0..20));
    let steps = insert_request::Request::Steps(steps_to_wire(&signature(), 0, &steps));
    let requests = [open_writer("replay", 1), steps].map(|request| v1::InsertRequest {
        request: Some(request),
    });
    let mut client = service.client();
    let mut responses = service.runtime.block_on(async {
        let responses = client.insert(tokio_stream::iter(requests)).await;
        let mut responses = responses.unwrap().into_inner();
        assert_eq!(acknowledged(next(&mut responses).await), 0);
        for _ in 0..2 {
            let Some(insert_response::Response::Blocked(blocked)) =
                next(&mut responses).await.response
            else {
                panic!("expected why nothing is stored");
            };
            assert_eq!(blocked.reason(), BlockedReason::Samples);
            let reason = "waiting for samples: inserts * samples_per_insert - samples is 28, at \
                          most 26 is needed";
            let message = &blocked.message;
            assert!(
                message.starts_with("table `replay`: blocked for "),
                "{message}"
            );
            assert!(message.ends_with(reason), "{message}");
        }
        responses
    });
    assert_eq!(service.counters(), (14, 14, 0), "what fits is stored");
    let (_, parts) = sample(&service, open_sampler("replay", 1, 8)).unwrap();
    assert_eq!(parts.len(), 1);
    sample(&service, open_sampler("replay", 1, 8)).unwrap();
    // It has half-closed, so that the stream ends once all is stored.
    let stored = service.runtime.block_on(async {
        let mut stored = Vec::new();
        while let Some(response) = responses.message().await.unwrap() {
            if let Some(insert_response::Response::NextSequence(next)) = response.response {
                stored.push(next);
            }
        }
        stored
    });
    assert_eq!(stored, [20]);
    assert_eq!(service.counters(), (20, 20, 16));
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
            blocked.reason(),
            blocked.callers,
            blocked.value,
            blocked.bound
        ),
        (BlockedReason::Samples, 1, 28.0, 26.0)
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
    let config = table.config.unwrap();
    assert_eq!((config.max_size(), config.error_buffer()), (12, 40.0));
    writer.flush(PATIENCE).unwrap();
    assert_eq!(service.counters(), (12, 20, 0));
    assert!(service.table().blocked.is_empty());
}

#[test]
fn columns_are_compressed_on_request() {
    let service = Service::start(roomy());
    let steps = StepBatch::transitions(batch(0..200));
    let items = insert_request::Request::Steps(steps_to_wire(&signature(), 0, &steps));
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
        assert_eq!(ids(&drawn.columns).len(), 512);
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
