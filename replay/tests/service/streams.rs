//! Inserting and sampling over real connections.

use pmpo_proto::replay::v1::{self, sample_request};
use pmpo_proto::signature_to_wire;
use pmpo_replay_client::{ClientError, Sampler, SamplerConfig, Writer, WriterConfig};
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::common::{MOMENT, PATIENCE, Service, batch, roomy, sampler, signature, tight, writer};

#[test]
fn what_two_writers_insert_a_sampler_draws() {
    let service = Service::start(roomy());
    let shutdown = CancellationToken::new();
    std::thread::scope(|scope| {
        for offset in [0, 1_000] {
            let (service, shutdown) = (&service, &shutdown);
            scope.spawn(move || {
                let mut writer = writer(&service.runtime, &service.address, 256, shutdown);
                for start in (offset..offset + 1_000).step_by(50) {
                    writer.push(batch(start..start + 50)).unwrap();
                }
                writer.flush(PATIENCE).unwrap();
                assert_eq!(
                    (writer.acknowledged_items(), writer.in_flight_steps()),
                    (1_000, 0)
                );
            });
        }
    });
    assert_eq!(service.counters(), (2_000, 2_000, 0));
    assert!(service.contents(2_000).into_keys().eq(0..2_000));
    let mut sampler = sampler(&service.runtime, &service.address, 64, &shutdown);
    let batch = sampler.next().unwrap();
    assert_eq!((batch.columns.len(), batch.counters.inserts), (64, 2_000));
    service.stop().unwrap();
}

#[test]
fn a_writer_ahead_waits_for_samples() {
    let service = Service::start(tight());
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 100, &shutdown);
    for id in 0..20 {
        writer.push(batch(id..id + 1)).unwrap();
    }
    // 14 fit: 2 * 14 - 20 = 8, the error buffer.
    let left = ClientError::Deadline {
        unacknowledged: 6,
        reason: None,
    };
    let mut attempts = PATIENCE.as_millis() / MOMENT.as_millis();
    while writer.flush(MOMENT) != Err(left.clone()) {
        attempts = attempts
            .checked_sub(1)
            .expect("14 items are acknowledged in time");
    }
    assert_eq!(writer.flush(MOMENT), Err(left));
    assert_eq!(service.counters(), (14, 14, 0));
    let mut sampler = sampler(&service.runtime, &service.address, 4, &shutdown);
    for _ in 0..2 {
        sampler.next().unwrap();
    }
    writer.flush(PATIENCE).unwrap();
    assert_eq!(writer.acknowledged_items(), 20);
}

#[test]
fn a_sampler_ahead_waits_for_inserts_and_what_waits_is_not_counted() {
    let service = Service::start(tight());
    let shutdown = CancellationToken::new();
    let mut sampler = sampler(&service.runtime, &service.address, 8, &shutdown);
    let mut writer = writer(&service.runtime, &service.address, 100, &shutdown);
    writer.push(batch(0..9)).unwrap();
    writer.flush(PATIENCE).unwrap();
    assert_eq!(
        sampler.next_timeout(MOMENT),
        Ok(None),
        "min_size_to_sample is 10"
    );
    assert_eq!(service.counters(), (9, 9, 0));
    writer.push(batch(9..10)).unwrap();
    let first = sampler.next().unwrap();
    assert_eq!((first.counters.inserts, first.counters.samples), (10, 8));
    assert_eq!(sampler.next_timeout(MOMENT), Ok(None), "8 samples ahead");
    assert_eq!(service.counters(), (10, 10, 8));
    writer.push(batch(10..14)).unwrap();
    let second = sampler.next().unwrap();
    assert_eq!((second.counters.inserts, second.counters.samples), (14, 16));
}

#[test]
fn push_blocks_at_the_bound_of_items_in_flight_until_shutdown() {
    let service = Service::start(tight());
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 6, &shutdown);
    let cancel = shutdown.clone();
    let (pushed, progress) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        loop {
            if let Err(error) = writer.push(batch(0..1)) {
                return (error, writer.in_flight_steps());
            }
            pushed.send(()).unwrap();
        }
    });
    // 14 stored, 6 in flight, and the next waits.
    for _ in 0..20 {
        progress.recv_timeout(PATIENCE).unwrap();
    }
    assert!(progress.recv_timeout(MOMENT).is_err());
    assert_eq!(service.counters(), (14, 14, 0));
    cancel.cancel();
    assert_eq!(thread.join().unwrap(), (ClientError::Shutdown, 6));
    // A sampler that waits ends too.
    let mut sampler = sampler(&service.runtime, &service.address, 4, &shutdown);
    assert_eq!(sampler.next(), Err(ClientError::Shutdown));
}

#[test]
fn room_can_be_waited_for_until_samplers_have_made_it() {
    let service = Service::start(tight());
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 6, &shutdown);
    // 14 stored, 6 in flight.
    for _ in 0..20 {
        assert_eq!(writer.wait_for_room(1, PATIENCE), Ok(true));
        writer.push(batch(0..1)).unwrap();
    }
    assert_eq!(writer.wait_for_room(1, MOMENT), Ok(false));
    let mut sampler = sampler(&service.runtime, &service.address, 4, &shutdown);
    sampler.next().unwrap();
    assert_eq!(writer.wait_for_room(1, PATIENCE), Ok(true));
    shutdown.cancel();
    let end = writer.flush(PATIENCE);
    assert_eq!(writer.wait_for_room(1, PATIENCE).err(), end.err());
}

#[test]
fn a_batch_larger_than_the_bound_or_a_message_is_split() {
    let signature = images();
    let service = Service::start(roomy());
    let shutdown = CancellationToken::new();
    let config = WriterConfig {
        max_in_flight_items: 8,
        ..WriterConfig::default()
    };
    let mut writer = Writer::new(
        std::slice::from_ref(&service.address),
        config,
        signature.clone(),
        service.runtime.handle(),
        &shutdown,
    )
    .unwrap();
    let columns = vec![vec![1u8; 70 << 20].into()];
    let batch = ColumnBatch::new(&signature, 70, columns).unwrap();
    writer.push(batch).unwrap();
    writer.flush(PATIENCE).unwrap();
    assert_eq!(service.counters(), (70, 70, 0));
}

#[test]
fn refusals_for_good_reach_the_caller() {
    let service = Service::start(roomy());
    let shutdown = CancellationToken::new();
    let mut good = writer(&service.runtime, &service.address, 8, &shutdown);
    good.push(batch(0..1)).unwrap();
    good.flush(PATIENCE).unwrap();

    let mut other = signature();
    other.columns[1].shape = vec![3, 1];
    let config = WriterConfig {
        max_in_flight_items: 1,
        ..WriterConfig::default()
    };
    let mut writer = Writer::new(
        std::slice::from_ref(&service.address),
        config,
        other,
        service.runtime.handle(),
        &shutdown,
    )
    .unwrap();
    // The first push may find that the server has refused the stream already, or be ahead of it.
    let refused = writer
        .push(batch(0..1))
        .and_then(|()| writer.push(batch(1..2)))
        .unwrap_err();
    let message = "signature.columns[1]: expected `thirds` f32 [3] as in the table, got `thirds` \
                   f32 [3, 1]";
    let code = Code::FailedPrecondition;
    assert_eq!(
        refused,
        ClientError::Refused {
            code,
            message: message.to_owned()
        }
    );
    assert_eq!(writer.flush(PATIENCE), Err(refused));

    let mut sampler = sampler(&service.runtime, &service.address, 5_000, &shutdown);
    let message = "batch_size: expected 1 to 4096 (max_batch_size), got 5000".to_owned();
    let code = Code::InvalidArgument;
    assert_eq!(sampler.next(), Err(ClientError::Refused { code, message }));
    assert_eq!(service.counters(), (1, 1, 0));
}

#[test]
fn a_batch_of_another_signature_is_not_even_taken() {
    let service = Service::start(roomy());
    let mut other = signature();
    other.columns.pop();
    let shutdown = CancellationToken::new();
    let config = WriterConfig::default();
    let runtime = service.runtime.handle();
    let mut writer = Writer::new(
        std::slice::from_ref(&service.address),
        config,
        other,
        runtime,
        &shutdown,
    )
    .unwrap();
    assert_eq!(
        writer.push(batch(0..2)).unwrap_err().to_string(),
        "batch of 2 items: expected columns of [16] bytes, got [16, 24]"
    );
    assert_eq!(writer.in_flight_steps(), 0);
}

/// A mebibyte an item.
fn images() -> Signature {
    let column = ColumnSpec::new("image", DType::F32, &[1 << 18]);
    Signature {
        columns: vec![column],
    }
}

fn writer_of_images(service: &Service, shutdown: &CancellationToken) -> Writer {
    Writer::new(
        std::slice::from_ref(&service.address),
        WriterConfig::default(),
        images(),
        service.runtime.handle(),
        shutdown,
    )
    .unwrap()
}

#[test]
fn a_batch_larger_than_a_message_ought_to_be_arrives_in_parts_and_whole() {
    let service = Service::start(roomy());
    let shutdown = CancellationToken::new();
    let runtime = service.runtime.handle();
    let mut writer = writer_of_images(&service, &shutdown);
    let image = |value: f32| value.to_le_bytes().repeat(1 << 18);
    for value in 0..4u8 {
        let columns = vec![image(value.into()).into()];
        writer
            .push(ColumnBatch::new(&images(), 1, columns).unwrap())
            .unwrap();
    }
    writer.flush(PATIENCE).unwrap();
    let config = SamplerConfig {
        batch_size: 30,
        prefetch_batches: 1,
        ..SamplerConfig::default()
    };
    let mut sampler = Sampler::new(
        std::slice::from_ref(&service.address),
        config,
        images(),
        runtime,
        &shutdown,
    )
    .unwrap();
    for _ in 0..2 {
        let columns = sampler.next().unwrap().columns;
        assert_eq!(columns.len(), 30);
        for item in columns.columns()[0].chunks(1 << 20) {
            assert_eq!(
                item,
                image(f32::from_le_bytes(item[..4].try_into().unwrap()))
            );
        }
    }
}

#[test]
fn a_sampler_that_does_not_read_holds_no_more_than_it_was_sent() {
    let service = Service::start(roomy());
    let shutdown = CancellationToken::new();
    let mut writer = writer_of_images(&service, &shutdown);
    let columns = vec![vec![0; 1 << 20].into()];
    writer
        .push(ColumnBatch::new(&images(), 1, columns).unwrap())
        .unwrap();
    writer.flush(PATIENCE).unwrap();
    let mut client = service.client();
    let (requests, stream) = tokio::sync::mpsc::channel(2);
    let open = sample_request::Request::Open(v1::OpenSampler {
        table: "replay".to_owned(),
        batch_size: 16,
        signature: Some(signature_to_wire(&images())),
        ..Default::default()
    });
    let demand = sample_request::Request::Demand(v1::Demand { batches: 1_000 });
    let responses = service.runtime.block_on(async {
        for request in [open, demand] {
            let request = v1::SampleRequest {
                request: Some(request),
            };
            requests.send(request).await.unwrap();
        }
        client
            .sample(tokio_stream::wrappers::ReceiverStream::new(stream))
            .await
            .unwrap()
    });
    std::thread::sleep(5 * MOMENT);
    let (_, _, samples) = service.counters();
    assert!(samples <= 3 * 16, "{samples} items drawn for nobody");
    drop((responses, requests));
    service.stop().unwrap();
}
