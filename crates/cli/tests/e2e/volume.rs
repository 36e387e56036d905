//! Much: a GiB each way, two hundred readers that stand still. What these measure is the memory of this
//! whole process, so they run one after the other.

use std::time::Duration;

use gatewright_testkit::await_condition;
use gatewright_testkit::backend::Backend;
use gatewright_testkit::http::Connection;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::tunnel::{APP, Carrier, Tunnel};

on_both_carriers! {
    a_gibibyte_each_way_takes_little_memory,
    an_echo_of_many_blocks_is_the_same_bytes,
}

/// Held by the tests that use much memory.
pub(crate) static MUCH: Mutex<()> = Mutex::const_new(());

const MIB: u64 = 1024 * 1024;
/// Bound of a transfer, for a busy machine and a build that is not optimised.
const LONG: Duration = Duration::from_secs(150);

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process's status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    let kib = line
        .trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .expect("a number of kB");
    kib * 1024
}

/// The bytes that the backend sends, from any place on: twice its block of 64 KiB.
fn pattern() -> Vec<u8> {
    let block = (0..64 * 1024).map(|place: usize| (place % 251) as u8);
    block.clone().chain(block).collect()
}

async fn send(socket: &mut TcpStream, text: String) {
    socket.write_all(text.as_bytes()).await.expect("send");
}

/// Reads a response of `size` bytes, compares each with the pattern, and returns the most memory used.
async fn download(tunnel: &Tunnel, size: u64) -> u64 {
    let mut socket = TcpStream::connect(tunnel.http()).await.expect("connect");
    send(
        &mut socket,
        format!("GET /bytes/{size} HTTP/1.1\r\nHost: {APP}\r\n\r\n"),
    )
    .await;
    let mut connection = Connection::over(socket);
    let head = connection.read_head().await.expect("a head");
    assert_eq!(
        head.header("content-length"),
        Some(size.to_string().as_str())
    );
    let (mut socket, early) = connection.into_parts();
    let pattern = pattern();
    let mut buffer = vec![0; 64 * 1024];
    buffer[..early.len()].copy_from_slice(&early);
    let (mut count, mut taken, mut most) = (early.len(), 0, 0);
    loop {
        let place = (taken % (64 * 1024)) as usize;
        assert!(
            buffer[..count] == pattern[place..place + count],
            "the bytes from {taken} on differ"
        );
        if taken / (64 * MIB) != (taken + count as u64) / (64 * MIB) {
            most = most.max(resident());
        }
        taken += count as u64;
        if taken >= size {
            assert_eq!(taken, size);
            return most;
        }
        count = socket.read(&mut buffer).await.expect("more of the body");
        assert!(count > 0, "the body ended after {taken} of {size} bytes");
    }
}

/// Sends a body of `size` bytes, and returns the most memory used.
async fn upload(tunnel: &Tunnel, size: u64) -> u64 {
    let mut socket = TcpStream::connect(tunnel.http()).await.expect("connect");
    send(
        &mut socket,
        format!("POST /sink HTTP/1.1\r\nHost: {APP}\r\nContent-Length: {size}\r\n\r\n"),
    )
    .await;
    let block = vec![b'x'; MIB as usize];
    let mut most = 0;
    for sent in 0..size / MIB {
        socket
            .write_all(&block)
            .await
            .expect("send a part of the body");
        if sent % 64 == 0 {
            most = most.max(resident());
        }
    }
    let response = Connection::over(socket)
        .read_response()
        .await
        .expect("a response");
    assert_eq!(response.json::<Value>()["bytes"], size);
    most
}

async fn a_gibibyte_each_way_takes_little_memory(carrier: Carrier) {
    let _much = MUCH.lock().await;
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let before = resident();
    let most = tokio::time::timeout(LONG, async {
        download(&tunnel, 1024 * MIB)
            .await
            .max(upload(&tunnel, 1024 * MIB).await)
    });
    let most = most.await.expect("both transfers in time");
    let grown = most.saturating_sub(before) / MIB;
    assert!(grown < 200, "{grown} MiB were used for a stream");
}

async fn an_echo_of_many_blocks_is_the_same_bytes(carrier: Carrier) {
    const SIZE: u64 = 64 * MIB;
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let socket = TcpStream::connect(tunnel.http()).await.expect("connect");
    let (reading, mut writing) = socket.into_split();
    let sending = tokio::spawn(async move {
        let head = format!("POST /body HTTP/1.1\r\nHost: {APP}\r\nContent-Length: {SIZE}\r\n\r\n");
        writing
            .write_all(head.as_bytes())
            .await
            .expect("send a head");
        let pattern = pattern();
        for _ in 0..SIZE / pattern.len() as u64 {
            writing
                .write_all(&pattern)
                .await
                .expect("send a part of the body");
        }
        writing
    });
    // The raw client reads; its other half is never used.
    let mut connection = Connection::over(tokio::io::join(reading, tokio::io::sink()));
    assert_eq!(connection.read_head().await.expect("a head").status, 200);
    let pattern = pattern();
    let mut taken = 0;
    while let Some(chunk) = connection.read_chunk().await.expect("a chunk") {
        for piece in chunk.chunks(64 * 1024) {
            let place = taken % (64 * 1024);
            assert!(
                *piece == pattern[place..place + piece.len()],
                "the bytes from {taken} on differ"
            );
            taken += piece.len();
        }
    }
    assert_eq!(taken as u64, SIZE);
    sending.await.expect("a sender that did not fail");
}

/// Readers that take the head of a large response and no more, beside small requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_readers_that_stand_still_stop_nobody_else() {
    const READERS: u64 = 200;
    let _much = MUCH.lock().await;
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut reader = tunnel.connect().await;
        reader
            .send(format!(
                "GET /bytes/67108864 HTTP/1.1\r\nHost: {APP}\r\n\r\n"
            ))
            .await
            .expect("send");
        assert_eq!(reader.read_head().await.expect("a head").status, 200);
        readers.push(reader);
    }
    let mut connection = tunnel.connect().await;
    for round in 0..500 {
        let request = format!("GET /bytes/1024 HTTP/1.1\r\nHost: {APP}\r\n\r\n");
        connection.send(request).await.expect("send");
        let response = connection
            .read_response()
            .await
            .expect("a response beside the readers");
        assert_eq!(
            (response.status(), response.body.len()),
            (200, 1024),
            "round {round}"
        );
    }
    assert_eq!(backend.counters().in_flight, READERS, "they still stand");
    let beside = resident();
    drop(readers);
    backend
        .await_counters("their end", |seen| seen.in_flight == 0)
        .await;
    // What is given back to the allocator need not go back to the system; it may not grow, though.
    await_condition(
        "memory that does not grow after they left",
        Duration::from_secs(20),
        || async { resident() <= beside },
    )
    .await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
}
