//! Every Garage cluster of the measurement behind one listener: the address that was dialled says which
//! node is meant. Counts the calls. It may not know what a call does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use super::garage::{Answer, Garage, Node, refusal};

/// The operator reconciles eight clusters at a time.
const THREADS: usize = 4;

/// By storage cluster, then by call.
pub(super) type Calls = BTreeMap<String, BTreeMap<String, u64>>;

/// All clusters.
#[derive(Default)]
pub(super) struct Farm {
    garages: Mutex<BTreeMap<String, Garage>>,
    /// Which cluster and node has an address.
    addresses: Mutex<BTreeMap<Ipv4Addr, (String, String)>>,
    calls: Mutex<Calls>,
}

/// The listener and its threads. They end when this is dropped.
pub(super) struct Serving {
    listener: TcpListener,
    threads: Vec<JoinHandle<()>>,
}

impl Farm {
    /// A node of the storage cluster `cluster` starts at `address`.
    pub(super) fn join(&self, cluster: &str, id: &str, address: Ipv4Addr, hostname: &str) {
        let node = Node {
            addr: format!("{address}:3901"),
            hostname: hostname.to_owned(),
        };
        let mut garages = lock(&self.garages);
        garages
            .entry(cluster.to_owned())
            .or_default()
            .join(id, node);
        lock(&self.addresses).insert(address, (cluster.to_owned(), id.to_owned()));
    }

    /// How often each cluster was asked what since the last [`Farm::reset`].
    pub(super) fn calls(&self) -> Calls {
        lock(&self.calls).clone()
    }

    pub(super) fn reset(&self) {
        lock(&self.calls).clear();
    }

    fn answer(&self, at: Ipv4Addr, call: &str, body: &Value) -> Answer {
        let Some((cluster, node)) = lock(&self.addresses).get(&at).cloned() else {
            return refusal(
                503,
                "ServiceUnavailable",
                &format!("nothing runs at {at}"),
                call,
            );
        };
        let mut calls = lock(&self.calls);
        let of_cluster = calls.entry(cluster.clone()).or_default();
        *of_cluster.entry(call.to_owned()).or_default() += 1;
        drop(calls);
        let mut garages = lock(&self.garages);
        garages
            .entry(cluster)
            .or_default()
            .answer(&node, call, body)
    }
}

/// Answers at `port` of every loopback address, and of no other.
pub(super) fn serve(farm: &Arc<Farm>, port: u16) -> Result<Serving> {
    let listener = listen(port).with_context(|| {
        format!("port {port} has to be free on all addresses 127.x.y.z for the fake Garage (--first-port)")
    })?;
    let threads = (0..THREADS).map(|_| {
        let (farm, listener) = (farm.clone(), listener.try_clone()?);
        Ok(std::thread::spawn(move || {
            // Shut down: the measurement ends.
            while let Ok((stream, _)) = listener.accept() {
                // A client that left is its own affair; the operator will say so.
                let _ = exchange(&farm, &stream);
            }
        }))
    });
    let threads = threads.collect::<std::io::Result<_>>()?;
    Ok(Serving { listener, threads })
}

/// The wildcard address of the loopback interface: nobody outside of this machine can reach it.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(b"lo"))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One request on a connection of its own, as the operator makes them.
fn exchange(farm: &Farm, stream: &TcpStream) -> Result<()> {
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    let IpAddr::V4(at) = stream.local_addr()?.ip() else {
        anyhow::bail!("not IPv4");
    };
    let (call, token, body) = read(&mut BufReader::new(stream))?;
    let (status, answer) = match token {
        true => farm.answer(at, &call, &body),
        false => refusal(
            403,
            "AccessDenied",
            "Forbidden: Invalid bearer token",
            &call,
        ),
    };
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{answer}",
        answer.len()
    );
    Ok((&*stream).write_all(head.as_bytes())?)
}

/// The call, whether it came with a token, and its body.
fn read(stream: &mut BufReader<&TcpStream>) -> Result<(String, bool, Value)> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let target = line.split(' ').nth(1).context("no request line")?;
    let call = target.strip_prefix("/v2/").unwrap_or(target);
    let call = call.split('?').next().unwrap_or(call).to_owned();
    let (mut length, mut token) = (0, false);
    loop {
        line.clear();
        anyhow::ensure!(stream.read_line(&mut line)? > 0, "the head has no end");
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
        token |= name.eq_ignore_ascii_case("authorization") && value.trim().starts_with("Bearer ");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((
        call,
        token,
        serde_json::from_slice(&body).unwrap_or(Value::Null),
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(address: (Ipv4Addr, u16), head: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        write!(stream, "GET /v2/{head}\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    #[test]
    fn the_address_says_which_cluster_is_asked_and_calls_are_counted() {
        let farm = Arc::new(Farm::default());
        let serving = serve(&farm, 0).expect("a port");
        let port = serving.listener.local_addr().expect("an address").port();
        let (one, other) = (Ipv4Addr::new(127, 99, 0, 1), Ipv4Addr::new(127, 99, 0, 2));
        farm.join("one", &"a".repeat(64), one, "one-0");
        farm.join("other", &"b".repeat(64), other, "other-0");
        let call = "GetClusterStatus?x=y HTTP/1.1\r\nauthorization: Bearer t";
        assert!(ask((one, port), call).contains("one-0"));
        let answer = ask((other, port), call);
        assert!(
            answer.contains("other-0") && !answer.contains("one-0"),
            "{answer}"
        );
        let nobody = ask((Ipv4Addr::new(127, 99, 0, 3), port), call);
        assert!(nobody.starts_with("HTTP/1.1 503"), "{nobody}");
        let refused = ask((one, port), "GetClusterStatus HTTP/1.1");
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
        assert_eq!(farm.calls()["one"]["GetClusterStatus"], 1);
        farm.reset();
        assert_eq!(farm.calls(), Calls::new());
    }
}
