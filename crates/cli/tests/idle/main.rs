//! Many connections that do nothing, or too little, beside requests that want an answer. The edge is
//! a process of its own, so that each side has its own file descriptors.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gatewright_testkit::ports::free_port;
use gatewright_testkit::scratch::Scratch;

/// Connections without a byte.
const IDLE: usize = 9_000;
/// Connections that send a head one byte at a time and never end it.
const SLOW: usize = 1_000;
/// What else this process has open.
const SPARE: u64 = 500;

/// The demo as a process; ended by dropping it.
struct Demo {
    process: Child,
    users: SocketAddr,
    _manifests: Scratch,
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start() -> Demo {
    let (users, backend) = (address(), address());
    let manifests = Scratch::new("idle");
    let text = include_str!("../../../../examples/demo/hello.yaml")
        .replace("8081", &backend.port().to_string());
    std::fs::write(manifests.path().join("hello.yaml"), text).expect("writing the manifest");
    let mut process = Command::new(env!("CARGO_BIN_EXE_gatewright"))
        .args(["demo", "--admin", "127.0.0.1:0"])
        .args([
            "--listen",
            &users.to_string(),
            "--backend",
            &backend.to_string(),
        ])
        .arg("--manifests")
        .arg(manifests.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starting the demo");
    let output = process.stdout.take().expect("the demo's output");
    let ready = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("Ctrl-C"));
    assert!(ready, "the demo ended before it was ready");
    Demo {
        process,
        users,
        _manifests: manifests,
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn status_line(users: SocketAddr) -> String {
    let mut socket = TcpStream::connect(users).expect("connecting as a user");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a read timeout");
    socket
        .write_all(
            b"GET / HTTP/1.1\r\nHost: hello.demo.gateway.localhost\r\nConnection: close\r\n\r\n",
        )
        .expect("sending a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn ten_thousand_connections_that_do_nothing_stop_nobody() {
    let wanted = (IDLE + SLOW) as u64 + SPARE;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert!(
        limit.maximum.is_none_or(|maximum| maximum >= wanted),
        "this test needs {wanted} file descriptors; raise the hard limit (ulimit -Hn)"
    );
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)
        .expect("raising the limit");
    let demo = start();
    assert_eq!(status_line(demo.users), "HTTP/1.1 200 OK");

    let mut connections = Vec::with_capacity(IDLE + SLOW);
    for _ in 0..IDLE {
        connections.push(TcpStream::connect(demo.users).expect("an idle connection"));
    }
    for _ in 0..SLOW {
        let mut socket = TcpStream::connect(demo.users).expect("a slow connection");
        socket
            .write_all(b"GET / HTTP/1.1\r\nHost: hello.demo.gateway.localhost\r\nX-S")
            .expect("half a head");
        connections.push(socket);
    }
    for byte in b"low: 1" {
        for socket in &mut connections[IDLE..] {
            // The edge may have lost its patience with it.
            let _ = socket.write_all(&[*byte]);
        }
        for _ in 0..10 {
            assert_eq!(status_line(demo.users), "HTTP/1.1 200 OK");
        }
    }
    assert_eq!(connections.len(), IDLE + SLOW);
}
