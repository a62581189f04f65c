//! Whatever arrives at the port: a clear answer, nothing stored, and the service lives.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use pmpo_proto::replay::v1::{self, insert_request, sample_request};
use pmpo_proto::{batch_to_wire, signature_to_wire};
use pmpo_replay::{ReplayConfig, TableConfig};
use prost::Message;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::common::{PATIENCE, Service, batch, roomy, signature, writer};

fn open(change: impl FnOnce(&mut v1::OpenWriter)) -> v1::InsertRequest {
    let mut open = v1::OpenWriter {
        table: "replay".to_owned(),
        writer_id: Bytes::from_static(&[7; 16]),
        signature: Some(signature_to_wire(&signature())),
        ..Default::default()
    };
    change(&mut open);
    v1::InsertRequest {
        request: Some(insert_request::Request::Open(open)),
    }
}

fn items(change: impl FnOnce(&mut v1::Steps)) -> v1::InsertRequest {
    let columns = batch_to_wire(&signature(), batch(0..2));
    let mut items = v1::Steps {
        first_sequence: 0,
        columns,
        ..v1::Steps::default()
    };
    change(&mut items);
    v1::InsertRequest {
        request: Some(insert_request::Request::Steps(items)),
    }
}

fn open_sampler(change: impl FnOnce(&mut v1::OpenSampler)) -> v1::SampleRequest {
    let mut open = v1::OpenSampler {
        table: "replay".to_owned(),
        batch_size: 4,
        signature: Some(signature_to_wire(&signature())),
        ..Default::default()
    };
    change(&mut open);
    v1::SampleRequest {
        request: Some(sample_request::Request::Open(open)),
    }
}

/// How a stream with these requests ends.
fn insert(service: &Service, requests: Vec<v1::InsertRequest>) -> Status {
    let mut client = service.client();
    service.runtime.block_on(async {
        let mut responses = match client.insert(tokio_stream::iter(requests)).await {
            Ok(responses) => responses.into_inner(),
            Err(status) => return status,
        };
        loop {
            match responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("ended"),
                Err(status) => return status,
            }
        }
    })
}

fn sample(service: &Service, requests: Vec<v1::SampleRequest>) -> Status {
    let mut client = service.client();
    service.runtime.block_on(async {
        let mut responses = client
            .sample(tokio_stream::iter(requests))
            .await
            .unwrap()
            .into_inner();
        responses
            .message()
            .await
            .err()
            .unwrap_or_else(|| Status::ok("ended"))
    })
}

#[test]
fn bad_inserts_are_refused_by_name_and_leave_nothing() {
    let service = Service::start(roomy());
    let column = |i: usize, change: fn(&mut v1::Tensor)| {
        vec![open(|_| ()), items(|items| change(&mut items.columns[i]))]
    };
    let two_opens = vec![open(|_| ()), open(|_| ())];
    let nothing = v1::InsertRequest { request: None };
    let cases: Vec<(Vec<v1::InsertRequest>, Code, &str)> = vec![
        (
            vec![open(|open| open.table = "other".to_owned())],
            Code::NotFound,
            "table: expected `replay`, got `other`",
        ),
        (
            vec![open(|open| open.writer_id = Bytes::from_static(b"short"))],
            Code::InvalidArgument,
            "writer_id: expected 16 bytes, got 5 bytes",
        ),
        (
            vec![open(|open| open.signature = None)],
            Code::InvalidArgument,
            "signature: expected a signature, got nothing",
        ),
        (
            vec![items(|_| ())],
            Code::InvalidArgument,
            "request: expected `open`, got `steps`",
        ),
        (
            two_opens,
            Code::InvalidArgument,
            "request: expected `steps`, got `open`",
        ),
        (
            vec![nothing.clone()],
            Code::InvalidArgument,
            "request: expected `open`, got nothing",
        ),
        (
            vec![open(|_| ()), nothing],
            Code::InvalidArgument,
            "request: expected `steps`, got nothing",
        ),
        (
            vec![open(|_| ()), items(|items| drop(items.columns.pop()))],
            Code::InvalidArgument,
            "steps.columns: expected 2 columns, got 1",
        ),
        (
            column(1, |tensor| tensor.dtype = v1::DType::I64.into()),
            Code::InvalidArgument,
            "steps.column `thirds`.dtype: expected f32, got i64",
        ),
        (
            column(1, |tensor| tensor.shape = vec![2, 4]),
            Code::InvalidArgument,
            "steps.column `thirds`.shape: expected [2, 3], got [2, 4]",
        ),
        (
            column(0, |tensor| tensor.data = Bytes::from_static(b"1234567")),
            Code::InvalidArgument,
            "steps.column `id`: expected 16 bytes for 2 items, got 7",
        ),
        (
            column(1, |tensor| {
                tensor.data = f32::NAN.to_le_bytes().repeat(6).into()
            }),
            Code::InvalidArgument,
            "steps.column `thirds`: expected finite values, got NaN in item 0",
        ),
        (
            column(1, |tensor| {
                let mut data = tensor.data.to_vec();
                data[12..16].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
                tensor.data = data.into();
            }),
            Code::InvalidArgument,
            "steps.column `thirds`: expected finite values, got -inf in item 1",
        ),
        (
            vec![open(|_| ()), items(|items| items.first_sequence = 3)],
            Code::InvalidArgument,
            "first_sequence: expected at most 0, got 3",
        ),
        (
            vec![open(|_| ()), items(|items| items.first_sequence = u64::MAX)],
            Code::InvalidArgument,
            "first_sequence: expected at most 0, got 18446744073709551615",
        ),
    ];
    for (requests, code, message) in cases {
        let status = insert(&service, requests);
        assert_eq!((status.code(), status.message()), (code, message));
        assert_has_details(&status);
    }
    assert_eq!(service.counters(), (0, 0, 0));
    assert_still_serves(&service);
    // Now the table has a signature.
    let renamed = open(|open| {
        open.signature.as_mut().unwrap().columns[0].name = "ID".to_owned();
    });
    let status = insert(&service, vec![renamed]);
    let message = "signature.columns[0]: expected `id` i64 [] as in the table, got `ID` i64 []";
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, message)
    );
}

#[test]
fn bad_samplers_are_refused_by_name() {
    let table = TableConfig {
        max_batch_size: 1 << 30,
        ..roomy()
    };
    let service = Service::start(table);
    let demand = v1::SampleRequest {
        request: Some(sample_request::Request::Demand(v1::Demand { batches: 1 })),
    };
    let cases: Vec<(Vec<v1::SampleRequest>, Code, &str)> = vec![
        (
            vec![open_sampler(|open| open.table = String::new())],
            Code::NotFound,
            "table: expected `replay`, got ``",
        ),
        (
            vec![demand],
            Code::InvalidArgument,
            "request: expected `open`, got `demand`",
        ),
        (
            vec![open_sampler(|open| open.batch_size = 0)],
            Code::InvalidArgument,
            "batch_size: expected 1 to 1073741824 (max_batch_size), got 0",
        ),
        (
            vec![open_sampler(|open| open.batch_size = 1 << 29)],
            Code::InvalidArgument,
            "batch_size: expected at most 3352166, as many as fit 67043328 bytes, got 536870912",
        ),
        (
            vec![open_sampler(|open| {
                open.signature.as_mut().unwrap().columns.clear()
            })],
            Code::InvalidArgument,
            "signature.columns: expected 1 to 64 columns, got 0",
        ),
        (
            vec![open_sampler(|open| open.max_part_bytes = 100)],
            Code::InvalidArgument,
            "max_part_bytes: expected 402, which hold a step, to 67108864, got 100",
        ),
        (
            vec![open_sampler(|open| open.max_part_bytes = u32::MAX)],
            Code::InvalidArgument,
            "max_part_bytes: expected 402, which hold a step, to 67108864, got 4294967295",
        ),
        (
            vec![open_sampler(|_| ()), open_sampler(|_| ())],
            Code::InvalidArgument,
            "request: expected `demand`, got `open`",
        ),
    ];
    for (requests, code, message) in cases {
        let status = sample(&service, requests);
        assert_eq!((status.code(), status.message()), (code, message));
        assert_has_details(&status);
    }
    assert_still_serves(&service);
}

#[test]
fn a_message_beyond_the_limit_is_refused_unread() {
    let service = Service::start(roomy());
    let huge = items(|items| items.columns[0].data = vec![0; 65 << 20].into());
    let status = insert(&service, vec![open(|_| ()), huge]);
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains("67108864"), "{status:?}");
    assert_eq!(service.counters(), (0, 0, 0));
    assert_still_serves(&service);
}

#[test]
fn random_bytes_and_silent_connections_do_no_harm() {
    let service = Service::start(roomy());
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let silent = TcpStream::connect(&service.address).unwrap();
    for i in 0..20 {
        let mut stream = TcpStream::connect(&service.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut noise = vec![0; 1 << (i % 14)];
        rng.fill_bytes(&mut noise);
        if i % 2 == 0 {
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .unwrap();
        }
        // The service may hang up before it has read all of it.
        if stream.write_all(&noise).is_ok() && stream.shutdown(std::net::Shutdown::Write).is_ok() {
            let mut answer = Vec::new();
            let end = stream.read_to_end(&mut answer);
            let reset = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
            assert!(end.map_or_else(reset, |_| true), "the service hangs up");
        }
    }
    assert_still_serves(&service);
    drop(silent);
    service.stop().unwrap();
}

#[test]
fn a_stream_that_says_nothing_is_ended() {
    let config = ReplayConfig {
        open_timeout_s: 0.05,
        table: roomy(),
        ..ReplayConfig::default()
    };
    let service = Service::start_at("127.0.0.1:0", config);
    let mut client = service.client();
    let status = service.runtime.block_on(async {
        let mut responses = client
            .insert(tokio_stream::pending())
            .await
            .unwrap()
            .into_inner();
        responses.message().await.unwrap_err()
    });
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::DeadlineExceeded,
            "request: expected `open` within 50ms, got nothing"
        )
    );
    assert_still_serves(&service);
}

#[test]
fn a_service_with_a_silent_connection_stops() {
    let service = Service::start(roomy());
    let silent = TcpStream::connect(&service.address).unwrap();
    assert_still_serves(&service);
    service.stop().unwrap();
    drop(silent);
}

/// A google.rpc.Status with the same code and message, a reason, and the field where one is to blame.
fn assert_has_details(status: &Status) {
    let details = tonic_types::pb::Status::decode(status.details()).unwrap();
    assert_eq!(
        (details.code, &details.message[..]),
        (i32::from(status.code()), status.message())
    );
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.domain, "pmpo");
    let protocol = include_str!("../../../proto/proto/pmpo/replay/v1/replay.proto");
    assert!(protocol.contains(&info.reason), "{}", info.reason);
    if info.reason == "INVALID_FIELD" {
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.description, status.message());
    }
}

fn assert_still_serves(service: &Service) {
    let (_, before, _) = service.counters();
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 8, &shutdown);
    writer.push(batch(0..3)).unwrap();
    writer.flush(PATIENCE).unwrap();
    assert_eq!(service.counters().1, before + 3);
}
