//! Several shards: where items go, where batches come from, and what a death changes.

use std::time::{Duration, Instant};

use pmpo_proto::replay::v1::{self, insert_request, replay_server};
use pmpo_replay::{ReplayConfig, TableConfig};
use pmpo_replay_client::{ClientError, Sampler, preference};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::common::{PATIENCE, Service, batch, ids, roomy, sampler_of, tight, writer, writer_to};

fn addresses(services: &[&Service]) -> Vec<String> {
    services.iter().map(|s| s.address.clone()).collect()
}

fn restart(address: &str) -> Service {
    let config = ReplayConfig {
        table: roomy(),
        ..ReplayConfig::default()
    };
    Service::start_at(address, config)
}

#[test]
fn writers_take_turns_as_to_their_first_shard() {
    let list: Vec<String> = ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec();
    assert_eq!(preference(&list, 0), list);
    assert_eq!(preference(&list, 4), ["b:1", "c:1", "a:1"]);
}

#[test]
fn a_writer_goes_elsewhere_while_its_shard_is_away_and_comes_back() {
    let (first, second) = (Service::start(roomy()), Service::start(roomy()));
    let list = addresses(&[&first, &second]);
    let runtime = Runtime::new().unwrap();
    let shutdown = CancellationToken::new();
    let mut writer = writer_to(&runtime, &list, 1_000, &shutdown);
    writer.push(batch(0..100)).unwrap();
    writer.flush(PATIENCE).unwrap();
    assert_eq!((first.counters().1, second.counters().1), (100, 0));

    first.stop().unwrap();
    // What is on its way when the shard dies may be bound to it; so push until something moves.
    let (start, mut pushed) = (Instant::now(), 100);
    while second.counters().1 == 0 {
        assert!(start.elapsed() < PATIENCE);
        writer.push(batch(pushed..pushed + 1)).unwrap();
        pushed += 1;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let first = restart(&list[0]);
    writer.flush(PATIENCE).unwrap();
    while first.counters().1 == 0 {
        assert!(start.elapsed() < PATIENCE);
        writer.push(batch(pushed..pushed + 1)).unwrap();
        pushed += 1;
        writer.flush(PATIENCE).unwrap();
    }
    assert_eq!(writer.acknowledged_items(), pushed as u64);
    let (ours, theirs) = (first.counters().1, second.counters().1);
    assert_eq!(
        ours + theirs,
        pushed as u64 - 100,
        "each item is in one shard"
    );
    let mut held: Vec<i64> = first.contents(ours as usize).into_keys().collect();
    held.extend(second.contents(theirs as usize).into_keys());
    held.sort_unstable();
    assert!(held.into_iter().eq(100..pushed));
}

/// Takes items in and never says so.
struct Silent(mpsc::UnboundedSender<v1::Steps>);

#[tonic::async_trait]
impl replay_server::Replay for Silent {
    type InsertStream = UnboundedReceiverStream<Result<v1::InsertResponse, Status>>;
    type SampleStream = UnboundedReceiverStream<Result<v1::SampleResponse, Status>>;

    async fn insert(
        &self,
        request: Request<Streaming<v1::InsertRequest>>,
    ) -> Result<Response<Self::InsertStream>, Status> {
        let mut requests = request.into_inner();
        let (responses, stream) = mpsc::unbounded_channel();
        let taken = self.0.clone();
        tokio::spawn(async move {
            let opened = v1::insert_response::Response::NextSequence(0);
            let opened = v1::InsertResponse {
                response: Some(opened),
            };
            responses.send(Ok(opened)).unwrap();
            while let Ok(Some(request)) = requests.message().await {
                if let Some(insert_request::Request::Steps(steps)) = request.request {
                    taken.send(steps).unwrap();
                }
            }
            drop(responses);
        });
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }

    async fn sample(
        &self,
        _: Request<Streaming<v1::SampleRequest>>,
    ) -> Result<Response<Self::SampleStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_tables(
        &self,
        _: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn update_priorities(
        &self,
        _: Request<v1::UpdatePrioritiesRequest>,
    ) -> Result<Response<v1::UpdatePrioritiesResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_writers(
        &self,
        _: Request<v1::ListWritersRequest>,
    ) -> Result<Response<v1::ListWritersResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn delete_items(
        &self,
        _: Request<v1::DeleteItemsRequest>,
    ) -> Result<Response<v1::DeleteItemsResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn reset_table(
        &self,
        _: Request<v1::ResetTableRequest>,
    ) -> Result<Response<v1::ResetTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn configure_table(
        &self,
        _: Request<v1::ConfigureTableRequest>,
    ) -> Result<Response<v1::ConfigureTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn create_table(
        &self,
        _: Request<v1::CreateTableRequest>,
    ) -> Result<Response<v1::CreateTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn checkpoint(
        &self,
        _: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

#[test]
fn what_a_dead_shard_may_have_stored_waits_for_it() {
    let silent = Runtime::new().unwrap();
    let listener = silent.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, mut taken) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder()
        .add_service(replay_server::ReplayServer::new(Silent(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    silent.spawn(server);
    let other = Service::start(roomy());
    let runtime = Runtime::new().unwrap();
    let shutdown = CancellationToken::new();
    let mut writer = writer_to(
        &runtime,
        &[address.clone(), other.address.clone()],
        4,
        &shutdown,
    );
    writer.push(batch(0..4)).unwrap();
    assert_eq!(taken.blocking_recv().unwrap().columns[0].shape, [4]);
    silent.shutdown_background();

    // Blocks until the other shard is tried: the first lane is full.
    writer.push(batch(4..8)).unwrap();
    let error = writer.flush(std::time::Duration::from_secs(1)).unwrap_err();
    let unacknowledged = 4;
    let reason = None;
    assert_eq!(
        error,
        ClientError::Deadline {
            unacknowledged,
            reason
        }
    );
    assert!(
        other.contents(4).into_keys().eq(4..8),
        "and nothing of the first"
    );

    let back = restart(&address);
    writer.flush(PATIENCE).unwrap();
    assert!(back.contents(4).into_keys().eq(0..4));
    assert_eq!(other.counters().1, 4);
}

fn filled(items: i64) -> Service {
    let service = Service::start(roomy());
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 1_000, &shutdown);
    writer.push(batch(0..items)).unwrap();
    writer.flush(PATIENCE).unwrap();
    service
}

fn shards(sampler: &mut Sampler, batches: usize) -> [usize; 2] {
    let mut counts = [0; 2];
    for _ in 0..batches {
        let batch = sampler.next().unwrap();
        assert_eq!(ids(&batch.columns).len(), 10);
        counts[batch.shard] += 1;
    }
    counts
}

#[test]
fn batches_come_from_shards_by_their_size_and_from_those_that_are_there() {
    let (large, small) = (filled(3_000), filled(1_000));
    let list = addresses(&[&large, &small]);
    let runtime = Runtime::new().unwrap();
    let shutdown = CancellationToken::new();
    let mut sampler = sampler_of(&runtime, &list, 10, &shutdown);
    // Until both have told their sizes.
    while shards(&mut sampler, 1)[1] == 0 {}
    let counts = shards(&mut sampler, 400);
    assert!(counts[0].abs_diff(300) <= 3, "{counts:?} of 400");

    large.stop().unwrap();
    // At most the batch at hand is of the dead shard.
    assert!(shards(&mut sampler, 50)[0] <= 1);
    let large = restart(&list[0]);
    let mut writer = writer(&large.runtime, &large.address, 1_000, &shutdown);
    writer.push(batch(0..1_000)).unwrap();
    writer.flush(PATIENCE).unwrap();
    let start = Instant::now();
    while shards(&mut sampler, 1)[0] == 0 {
        assert!(start.elapsed() < PATIENCE, "taken back");
    }
    let counts = shards(&mut sampler, 100);
    assert!(counts[0].abs_diff(50) <= 3, "{counts:?} of 100");
}

#[test]
fn a_shard_that_waits_for_inserts_does_not_hold_up_the_others() {
    // 10 items, at most 8 samples ahead: then it waits for inserts that never come.
    let (waiting, other) = (Service::start(tight()), filled(10));
    let shutdown = CancellationToken::new();
    let mut writer = writer(&waiting.runtime, &waiting.address, 100, &shutdown);
    writer.push(batch(0..10)).unwrap();
    writer.flush(PATIENCE).unwrap();
    let runtime = Runtime::new().unwrap();
    let mut sampler = sampler_of(&runtime, &addresses(&[&waiting, &other]), 4, &shutdown);
    let mut counts = [0; 2];
    for _ in 0..200 {
        counts[sampler.next().unwrap().shard] += 1;
    }
    assert_eq!(counts, [2, 198], "two batches of 4 are 8 samples");
}

/// Pushes an item every eight milliseconds, or whenever the limiter admits one, until it is stopped.
fn pace(address: &str, runtime: &Runtime, shutdown: &CancellationToken) {
    const PERIOD: Duration = Duration::from_millis(8);
    let mut writer = writer(runtime, address, 50, shutdown);
    let mut due = Instant::now();
    for id in 0.. {
        if writer.push(batch(id..id + 1)).is_err() {
            return;
        }
        // Who was held back does not catch up.
        due = due.max(Instant::now().checked_sub(PERIOD).unwrap()) + PERIOD;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Three actors on two shards of one size: each shard gives what its limiter admits, so neither holds up
/// the other's actors; and what is therefore drawn twice as often counts half.
#[test]
fn an_uneven_pair_runs_at_the_sum_of_both_rates() {
    let table = || TableConfig {
        max_size: 200,
        samples_per_insert: 4.0,
        min_size_to_sample: 50,
        error_buffer: Some(40.0),
        ..TableConfig::default()
    };
    let (two, one) = (Service::start(table()), Service::start(table()));
    let runtime = Runtime::new().unwrap();
    let shutdown = CancellationToken::new();
    let (inserts, weights) = std::thread::scope(|scope| {
        for service in [&two, &two, &one] {
            let (runtime, shutdown) = (&runtime, &shutdown);
            scope.spawn(move || pace(&service.address, runtime, shutdown));
        }
        let mut sampler = sampler_of(&runtime, &addresses(&[&two, &one]), 10, &shutdown);
        // Until the tables are full, and then for as long again.
        let mut run = |time: Duration| {
            let (start, mut weights) = (Instant::now(), [0.0; 2]);
            while start.elapsed() < time {
                let batch = sampler.next().unwrap();
                weights[batch.shard] = batch.weight;
            }
            weights
        };
        run(Duration::from_secs(4));
        let inserts = || [&two, &one].map(|service| service.counters().1);
        let before = inserts();
        let weights = run(Duration::from_secs(4));
        let after = inserts();
        shutdown.cancel();
        (
            [0, 1].map(|shard| (after[shard] - before[shard]) as f64),
            weights,
        )
    });
    let [two, one] = inserts;
    assert!((1.6..=2.4).contains(&(two / one)), "{inserts:?}");
    assert_eq!(weights[1], 1.0);
    assert!((0.4..=0.6).contains(&weights[0]), "{weights:?}");
}
