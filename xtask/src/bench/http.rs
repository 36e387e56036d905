//! Just enough of an HTTP/1.1 client for measuring on loopback. It may not follow, retry or cache.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Socket, Type};

use crate::stopwatch;

/// A whole answer; small ones only.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// One kept-alive connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    closing: bool,
}

impl Connection {
    /// Connects to a loopback port; each read and write then has `timeout`.
    pub(crate) fn open(port: u16, timeout: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&loopback(port), timeout)
            .with_context(|| format!("cannot connect to port {port}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self {
            stream: BufReader::new(stream),
            closing: false,
        })
    }

    /// The server said that it will not answer on this connection again.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// One GET and its whole answer, which has to have a Content-Length.
    pub(crate) fn get(&mut self, host: &str, path: &str) -> Result<Response> {
        self.stream
            .get_mut()
            .write_all(request(host, path).as_bytes())?;
        let head = read_head(&mut self.stream)?;
        self.closing = head.closing;
        let length = head
            .length
            .with_context(|| format!("the answer {} has no Content-Length", head.status))?;
        let mut body = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut body)?;
        Ok(Response {
            status: head.status,
            body,
        })
    }
}

/// One GET on a connection of its own.
pub(crate) fn get(port: u16, host: &str, path: &str, timeout: Duration) -> Result<Response> {
    Connection::open(port, timeout)?.get(host, path)
}

/// What a download came to.
pub(crate) struct Download {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

/// Reads the document at `path` to its end and throws it away; an error unless it is whole.
pub(crate) fn download(port: u16, host: &str, path: &str) -> Result<Download> {
    let started = stopwatch::now();
    let mut connection = Connection::open(port, Duration::from_secs(30))?;
    let stream = &mut connection.stream;
    stream.get_mut().write_all(request(host, path).as_bytes())?;
    let head = read_head(stream)?;
    anyhow::ensure!(head.status == 200, "the download answered {}", head.status);
    let want = head.length.context("the download has no Content-Length")?;
    let mut bytes = stream.buffer().len() as u64;
    stream.consume(stream.buffer().len());
    let mut buffer = vec![0; 256 * 1024];
    while bytes < want {
        match stream.get_mut().read(&mut buffer)? {
            0 => bail!("the download ended after {bytes} of {want} bytes"),
            read => bytes += read as u64,
        }
    }
    Ok(Download {
        bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Connections that have read a little of a large answer and then stopped; dropping closes them.
pub(crate) struct StalledReaders {
    /// How many got as far as they wanted before stopping.
    pub(crate) stalled: usize,
    _open: Vec<TcpStream>,
}

/// Opens `count` connections that ask for `path`, read `enough` bytes (20 s at most for all of
/// them) and read no more.
pub(crate) fn stall(
    port: u16,
    host: &str,
    path: &str,
    count: usize,
    enough: usize,
) -> StalledReaders {
    let deadline = stopwatch::now() + Duration::from_secs(20);
    let outcomes: Vec<(Option<TcpStream>, bool)> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| stalled_reader(port, host, path, enough, deadline)))
            .collect();
        readers
            .into_iter()
            .filter_map(|reader| reader.join().ok())
            .collect()
    });
    StalledReaders {
        stalled: outcomes
            .iter()
            .filter(|(_, got_enough)| *got_enough)
            .count(),
        _open: outcomes.into_iter().filter_map(|(open, _)| open).collect(),
    }
}

/// One of them: the open connection, if there is one, and whether it got what it wanted.
fn stalled_reader(
    port: u16,
    host: &str,
    path: &str,
    enough: usize,
    deadline: Instant,
) -> (Option<TcpStream>, bool) {
    let Ok(mut stream) = connect_with_small_buffer(port) else {
        return (None, false);
    };
    let got_enough = read_until(&mut stream, &request(host, path), enough, deadline).is_ok();
    (Some(stream), got_enough)
}

/// A small receive buffer brings the stall to the other end at once, not megabytes later.
fn connect_with_small_buffer(port: u16) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(32 * 1024)?;
    socket.connect_timeout(&loopback(port).into(), Duration::from_secs(20))?;
    Ok(socket.into())
}

fn read_until(
    stream: &mut TcpStream,
    request: &str,
    enough: usize,
    deadline: Instant,
) -> Result<()> {
    stream.write_all(request.as_bytes())?;
    let mut buffer = vec![0; 16 * 1024];
    let mut got = 0;
    while got < enough {
        let left = deadline.saturating_duration_since(stopwatch::now());
        anyhow::ensure!(!left.is_zero(), "too late");
        stream.set_read_timeout(Some(left))?;
        let want = buffer.len().min(enough - got);
        let read = stream.read(&mut buffer[..want])?;
        anyhow::ensure!(read > 0, "closed");
        anyhow::ensure!(got > 0 || buffer.starts_with(b"HTTP/1.1 200"), "refused");
        got += read;
    }
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn request(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[derive(Debug, PartialEq)]
struct Head {
    status: u16,
    length: Option<u64>,
    closing: bool,
}

fn read_head(stream: &mut BufReader<TcpStream>) -> Result<Head> {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        if stream.read_line(&mut text)? == 0 {
            bail!("the connection ended before the end of the head");
        }
    }
    parse_head(&text).with_context(|| format!("not a head of HTTP/1.1: {text:?}"))
}

fn parse_head(text: &str) -> Option<Head> {
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let mut head = Head {
        status: status.parse().ok()?,
        length: None,
        closing: false,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            head.length = Some(value.trim().parse().ok()?);
        } else if name.eq_ignore_ascii_case("connection") {
            head.closing = value.trim().eq_ignore_ascii_case("close");
        }
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_head_is_parsed_whatever_the_case() {
        let text = "HTTP/1.1 404 Not Found\r\ncontent-LENGTH: 12\r\nConnection: Close\r\n\r\n";
        assert_eq!(
            parse_head(text),
            Some(Head {
                status: 404,
                length: Some(12),
                closing: true
            })
        );
        assert_eq!(parse_head("SSH-2.0-x\r\n\r\n"), None);
    }

    /// Serves each connection `answer`, then holds it open until the client has gone.
    fn server(answer: Vec<u8>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let answer = answer.clone();
                std::thread::spawn(move || {
                    let mut ask = [0; 1024];
                    let _ = stream.read(&mut ask);
                    let _ = stream.write_all(&answer);
                    let _ = stream.read(&mut ask);
                });
            }
        });
        port
    }

    #[test]
    fn a_whole_download_is_counted() {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n".to_vec();
        answer.resize(answer.len() + 100_000, b'x');
        let port = server(answer);
        assert_eq!(download(port, "a.test", "/").expect("whole").bytes, 100_000);
        let body = get(port, "a.test", "/", Duration::from_secs(5))
            .expect("whole")
            .body;
        assert_eq!(body.len(), 100_000);
    }

    #[test]
    fn a_refused_download_is_an_error() {
        let port = server(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec());
        assert!(download(port, "a.test", "/").is_err());
    }

    #[test]
    fn stalled_readers_are_counted_and_a_refused_one_is_not() {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n".to_vec();
        answer.resize(answer.len() + 100_000, b'x');
        assert_eq!(
            stall(server(answer), "a.test", "/", 3, 64 * 1024).stalled,
            3
        );
        let refusing = server(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_vec());
        assert_eq!(stall(refusing, "a.test", "/", 3, 10).stalled, 0);
    }
}
