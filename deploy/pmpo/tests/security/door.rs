//! Peers that take and give nothing: over real sockets, at a real replay, whoever holds a connection or a
//! port of it has to let go.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pmpo_service::grpc;
use pmpo_service::process::open_files;
use pmpo_service::security::Credentials;
use tokio::net::TcpSocket;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::common::{Process, metrics, wait_for};
use crate::start;

const CONNECTIONS: &str = "pmpo_security_connections";

/// How long nothing may happen before a peer's socket counts as full.
const FULL_AFTER: Duration = Duration::from_millis(300);

fn replay(folder: &tempfile::TempDir, set: &[&str]) -> Process {
    let mut flags = ["--listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
    for set in set {
        flags.extend(["--set".to_owned(), (*set).to_owned()]);
    }
    start(folder.path(), "replay", &flags)
}

/// A connection with a small receive buffer that has said who it is in HTTP/2.
fn connect(address: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let socket = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    socket.set_nonblocking(false).unwrap();
    let mut socket = socket;
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    socket
}

/// Asks for answers and reads none of them, until there is no room for another question.
fn flood(socket: &mut TcpStream) {
    let ping = b"\0\0\x08\x06\0\0\0\0\0deafdeaf".repeat(4096);
    socket.set_write_timeout(Some(FULL_AFTER)).unwrap();
    let error = loop {
        if let Err(error) = socket.write_all(&ping) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

/// A connection that is flooded and not read.
fn deaf(address: SocketAddr) -> TcpStream {
    let mut socket = connect(address);
    flood(&mut socket);
    socket
}

/// Makes a call on a connection, and reads its answer if there is one.
fn call(socket: &mut TcpStream) {
    let literal = |index: &[u8], value: &str| {
        let length = [u8::try_from(value.len()).unwrap()];
        [index, &length, value.as_bytes()].concat()
    };
    // HPACK, RFC 7541: POST and http by their index, the others as literals that are not indexed.
    let block = [
        vec![0x83, 0x86],
        literal(b"\x04", "/grpc.health.v1.Health/Check"),
        literal(b"\x01", "localhost"),
        literal(b"\x0f\x10", "application/grpc"),
    ]
    .concat();
    let length = u32::try_from(block.len()).unwrap().to_be_bytes();
    // HEADERS that end, then a message of no bytes that ends the stream.
    let headers = [&length[1..], b"\x01\x04\0\0\0\x01", &block].concat();
    let data = b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0";
    socket.write_all(&[&headers[..], data].concat()).unwrap();
    assert!(socket.read(&mut [0; 256]).unwrap() > 0);
}

/// Whether an honest peer gets an answer now.
fn serves(door: &Process) -> Result<(), tonic::Code> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let address = door.address().to_string();
        let channel = grpc::connect_lazy(&address, &Credentials::default()).unwrap();
        let mut client = HealthClient::new(channel);
        let asked = client.check(HealthCheckRequest::default()).await;
        asked.map(drop).map_err(|status| status.code())
    })
}

/// The deadline of the first call holds while HTTP/2 is stuck in writing.
#[test]
fn a_peer_that_never_reads_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let replay = replay(&folder, &["security.first_call_timeout_s=2.0"]);
    let _deaf = deaf(replay.address());
    replay.wait_metric(CONNECTIONS, "", |connections| connections == 0.0);
    let reason = "reason=\"first_call_timeout\"";
    assert_eq!(replay.metric("pmpo_security_refusals_total", reason), 1.0);
}

/// A peer that stops reading after it has made a call, as one that is frozen with a full window; and one
/// that reads and says nothing, as one that is frozen with an empty one.
#[test]
fn a_peer_that_freezes_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let keepalive = [
        "replay.keepalive_interval_s=1.0",
        "replay.keepalive_timeout_s=1.0",
    ];
    let replay = replay(&folder, &keepalive);
    let mut frozen = [connect(replay.address()), connect(replay.address())];
    frozen.iter_mut().for_each(call);
    flood(&mut frozen[0]);
    let start = Instant::now();
    replay.wait_metric(CONNECTIONS, "", |connections| connections == 0.0);
    assert!(start.elapsed() < Duration::from_secs(20), "{start:?}");
    assert_eq!(serves(&replay), Ok(()));
}

/// Those that have lost their place and stay in it do not add up, and keep nobody out.
#[test]
fn eviction_is_not_outgrown_by_peers_that_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let replay = replay(&folder, &["security.max_connections=4"]);
    let _deaf: Vec<_> = (0..12).map(|_| deaf(replay.address())).collect();
    assert_eq!(serves(&replay), Ok(()));
    replay.wait_metric(CONNECTIONS, "", |connections| connections <= 4.0);
}

#[test]
fn idle_peers_of_an_address_do_not_keep_an_honest_one_out() {
    let folder = tempfile::tempdir().unwrap();
    let replay = replay(&folder, &["security.max_connections_per_peer=4"]);
    let _idle: Vec<_> = (0..4).map(|_| connect(replay.address())).collect();
    replay.wait_metric(CONNECTIONS, "", |connections| connections == 4.0);
    assert_eq!(serves(&replay), Ok(()));
}

/// The metrics' port takes a bounded number of descriptors, for a bounded time, and stays of use.
#[test]
fn the_metrics_port_cannot_be_held() {
    let folder = tempfile::tempdir().unwrap();
    let replay = replay(&folder, &[]);
    let open = || open_files(replay.pid()).unwrap();
    let before = open();
    let idle: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(replay.metrics()).unwrap())
        .collect();
    assert!(metrics(replay.metrics()).contains("pmpo_"));
    wait_for("the bound", || (open() <= before + 70).then_some(()));
    wait_for("their end", || (open() <= before).then_some(()));
    drop(idle);
    let mut long = TcpStream::connect(replay.metrics()).unwrap();
    // The server may hang up while this is being written.
    drop(long.write_all(&b"GET /metrics HTTP/1.1\r\nX: ".repeat(100_000)));
    let mut answer = Vec::new();
    drop(long.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("200 OK"), "{answer}");
}
