//! Lost connections and restarts: what was pushed is in the table once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use pmpo_proto::replay::v1::{self, insert_request};
use pmpo_proto::{batch_to_wire, signature_to_wire};
use pmpo_replay::ReplayConfig;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::common::{
    PATIENCE, Service, acknowledged, batch, ids, roomy, sampler, signature, writer,
};

/// Passes bytes on and cuts each connection, both ways at once, after a random number of them.
struct Proxy {
    address: String,
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(runtime: &Runtime, target: String, seed: u64) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cuts = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&cuts);
        runtime.spawn(async move {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut server = TcpStream::connect(&target).await.unwrap();
                let (up, down) = (
                    rng.random_range(1_000..60_000),
                    rng.random_range(1_000..20_000),
                );
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let (from_client, to_client) = client.split();
                    let (from_server, to_server) = server.split();
                    tokio::select! {
                        () = pass(from_client, to_server, up) => {}
                        () = pass(from_server, to_client, down) => {}
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, cuts }
    }

    fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

async fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut budget: usize) {
    let mut buffer = [0; 4096];
    while budget > 0 {
        let most = budget.min(buffer.len());
        match from.read(&mut buffer[..most]).await {
            Ok(read) if read > 0 && to.write_all(&buffer[..read]).await.is_ok() => budget -= read,
            _ => return,
        }
    }
}

#[test]
fn connections_cut_anywhere_lose_and_double_nothing() {
    const ITEMS: i64 = 20_000;
    let service = Service::start(roomy());
    let proxy = Proxy::start(&service.runtime, service.address.clone(), 5);
    let shutdown = CancellationToken::new();
    std::thread::scope(|scope| {
        for first in [0, ITEMS / 2] {
            let (runtime, address, shutdown) = (&service.runtime, &proxy.address, &shutdown);
            scope.spawn(move || {
                let mut writer = writer(runtime, address, 512, shutdown);
                for start in (first..first + ITEMS / 2).step_by(50) {
                    writer.push(batch(start..start + 50)).unwrap();
                }
                writer.flush(PATIENCE).unwrap();
                assert_eq!(writer.acknowledged_items(), ITEMS as u64 / 2);
            });
        }
    });
    assert!(proxy.cuts() >= 5, "{} cuts", proxy.cuts());
    assert_eq!(service.counters().1, ITEMS as u64);
    assert!(service.contents(ITEMS as usize).into_keys().eq(0..ITEMS));
}

#[test]
fn a_sampler_survives_cut_connections() {
    let service = Service::start(roomy());
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 100, &shutdown);
    writer.push(batch(0..100)).unwrap();
    writer.flush(PATIENCE).unwrap();
    let proxy = Proxy::start(&service.runtime, service.address.clone(), 6);
    let mut sampler = sampler(&service.runtime, &proxy.address, 64, &shutdown);
    for _ in 0..50 {
        assert_eq!(ids(&sampler.next().unwrap().columns).len(), 64);
    }
    assert!(proxy.cuts() >= 3, "{} cuts", proxy.cuts());
}

#[test]
fn a_writer_outlives_its_server_and_sends_what_was_not_acknowledged() {
    let first = Service::start(roomy());
    let address = first.address.clone();
    let runtime = Runtime::new().unwrap();
    let shutdown = CancellationToken::new();
    let mut writer = writer(&runtime, &address, 1_000, &shutdown);
    let mut sampler = sampler(&runtime, &address, 10, &shutdown);
    writer.push(batch(0..100)).unwrap();
    writer.flush(PATIENCE).unwrap();
    sampler.next().unwrap();
    first.stop().unwrap();
    writer.push(batch(100..150)).unwrap();
    let config = ReplayConfig {
        table: roomy(),
        ..ReplayConfig::default()
    };
    let second = Service::start_at(&address, config);
    writer.flush(PATIENCE).unwrap();
    assert_eq!(writer.acknowledged_items(), 150);
    assert_eq!(second.counters().1, 50);
    assert!(second.contents(50).into_keys().eq(100..150));
    // At most the batch that was drawn ahead is of the first server.
    let fresh = (0..3)
        .map(|_| sampler.next().unwrap())
        .any(|batch| batch.counters.inserts == 50);
    assert!(fresh);
}

#[test]
fn a_second_stream_of_a_writer_supersedes_the_first() {
    let service = Service::start(roomy());
    let mut client = service.client();
    let open = v1::OpenWriter {
        table: "replay".to_owned(),
        writer_id: Bytes::from_static(&[7; 16]),
        signature: Some(signature_to_wire(&signature())),
        ..Default::default()
    };
    let items = |first: i64| {
        let columns = batch_to_wire(&signature(), batch(first..first + 2));
        let items = v1::Steps {
            first_sequence: first as u64,
            columns,
            ..v1::Steps::default()
        };
        v1::InsertRequest {
            request: Some(insert_request::Request::Steps(items)),
        }
    };
    service.runtime.block_on(async {
        let mut streams = vec![];
        for expected in [0, 2] {
            let (requests, stream) = tokio::sync::mpsc::channel(4);
            let opening = v1::InsertRequest {
                request: Some(insert_request::Request::Open(open.clone())),
            };
            requests.send(opening).await.unwrap();
            let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
            let mut responses = client.insert(stream).await.unwrap().into_inner();
            let opened = responses.message().await.unwrap().unwrap();
            assert_eq!(acknowledged(opened), expected);
            requests.send(items(expected as i64)).await.unwrap();
            let stored = responses.message().await.unwrap().unwrap();
            assert_eq!(acknowledged(stored), expected + 2);
            streams.push((requests, responses));
        }
        let (requests, responses) = &mut streams[0];
        requests.send(items(4)).await.unwrap();
        assert_eq!(responses.message().await.unwrap_err().code(), Code::Aborted);
        let (requests, responses) = &mut streams[1];
        requests.send(items(4)).await.unwrap();
        let stored = responses.message().await.unwrap().unwrap();
        assert_eq!(acknowledged(stored), 6);
    });
    assert_eq!(service.counters().1, 6);
}
