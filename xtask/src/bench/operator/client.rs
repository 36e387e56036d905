//! A client of the apiserver behind `kubectl proxy`: JSON over plain HTTP/1.1 on loopback. It may not
//! know any kind, and tries nothing twice.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// How a patch is merged.
pub(super) const MERGE: &str = "application/merge-patch+json";
/// Lists are merged by their keys, such as conditions by their type.
pub(super) const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Lists without what is in the objects.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// How long one answer may take; lists of thousands of objects beside a busy apiserver are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// One kept-alive connection.
pub(super) struct Client {
    port: u16,
    open: Option<BufReader<TcpStream>>,
}

impl Client {
    /// Of the proxy on a loopback port. Connects when it is first asked.
    pub(super) fn new(port: u16) -> Self {
        Self { port, open: None }
    }

    pub(super) fn get(&mut self, path: &str) -> Result<Value> {
        self.json("GET", path, "", None)
    }

    /// A list of objects of which only the metadata is told.
    pub(super) fn metadata(&mut self, path: &str) -> Result<Value> {
        let answer = self.exchange(
            "GET",
            path,
            Body {
                accept: METADATA,
                ..Body::default()
            },
        )?;
        serde_json::from_slice(&answer).with_context(|| format!("{path} is no JSON"))
    }

    /// An answer that is no JSON.
    pub(super) fn text(&mut self, path: &str) -> Result<String> {
        let body = self.exchange("GET", path, Body::default())?;
        String::from_utf8(body).with_context(|| format!("{path} is no text"))
    }

    pub(super) fn post(&mut self, path: &str, object: &Value) -> Result<Value> {
        self.json("POST", path, "application/json", Some(object))
    }

    pub(super) fn patch(&mut self, path: &str, kind: &str, patch: &Value) -> Result<Value> {
        self.json("PATCH", path, kind, Some(patch))
    }

    fn json(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let bytes = body.as_bytes();
        let answer = self.exchange(
            method,
            path,
            Body {
                kind,
                bytes,
                ..Body::default()
            },
        )?;
        serde_json::from_slice(&answer).with_context(|| format!("{path} is no JSON"))
    }

    fn exchange(&mut self, method: &str, path: &str, body: Body<'_>) -> Result<Vec<u8>> {
        let mut stream = match self.open.take() {
            Some(stream) => stream,
            None => connect(self.port)?,
        };
        let what = || format!("{method} {path}");
        send(stream.get_mut(), method, path, body).with_context(what)?;
        let head = read_head(&mut stream).with_context(what)?;
        let mut answer = Vec::new();
        match head.length {
            Some(length) => {
                answer.resize(length, 0);
                stream.read_exact(&mut answer).with_context(what)?;
            }
            None => {
                let mut chunked = Chunked::new(&mut stream);
                chunked.read_to_end(&mut answer).with_context(what)?;
            }
        }
        self.open = Some(stream);
        let text = || String::from_utf8_lossy(&answer[..answer.len().min(500)]).into_owned();
        anyhow::ensure!(head.status < 300, "{}: {} {}", what(), head.status, text());
        Ok(answer)
    }
}

/// Follows a collection: each event that `path` (with `?watch=1`) tells, until `each` says no or the
/// server ends it.
pub(super) fn watch(port: u16, path: &str, mut each: impl FnMut(Value) -> bool) -> Result<()> {
    let mut stream = connect(port)?;
    stream.get_ref().set_read_timeout(None)?;
    send(stream.get_mut(), "GET", path, Body::default())?;
    let head = read_head(&mut stream)?;
    anyhow::ensure!(head.status == 200, "watch {path}: {}", head.status);
    for line in BufReader::new(Chunked::new(stream)).lines() {
        let event = serde_json::from_str(&line?).with_context(|| format!("watch {path}"))?;
        if !each(event) {
            break;
        }
    }
    Ok(())
}

fn connect(port: u16) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("cannot connect to port {port}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// What goes with a request.
#[derive(Clone, Copy, Default)]
struct Body<'a> {
    /// Which answers are taken; empty: any.
    accept: &'a str,
    /// Empty: there is no body.
    kind: &'a str,
    bytes: &'a [u8],
}

fn send(stream: &mut TcpStream, method: &str, path: &str, body: Body<'_>) -> std::io::Result<()> {
    let Body {
        accept,
        kind,
        bytes,
    } = body;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    if !accept.is_empty() {
        request.push_str(&format!("Accept: {accept}\r\n"));
    }
    if !kind.is_empty() {
        let length = bytes.len();
        request.push_str(&format!(
            "Content-Type: {kind}\r\nContent-Length: {length}\r\n"
        ));
    }
    request.push_str("\r\n");
    // In one piece: a head alone would wait for its acknowledgement.
    stream.write_all(&[request.as_bytes(), bytes].concat())
}

/// The head of an answer; without a length it comes in chunks.
struct Head {
    status: u16,
    length: Option<usize>,
}

fn read_head(stream: &mut impl BufRead) -> Result<Head> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let mut head = Head {
        status: status.with_context(|| format!("no status line: {line:?}"))?,
        length: None,
    };
    loop {
        line.clear();
        anyhow::ensure!(stream.read_line(&mut line)? > 0, "the head has no end");
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok(head);
        };
        if name.eq_ignore_ascii_case("content-length") {
            head.length = Some(value.trim().parse()?);
        }
    }
}

/// The body of `Transfer-Encoding: chunked`.
struct Chunked<R> {
    inner: R,
    left: u64,
    ended: bool,
}

impl<R: BufRead> Chunked<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            left: 0,
            ended: false,
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.inner.read_line(&mut line)?;
        Ok(line)
    }
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !self.ended {
            let size = self.line()?;
            self.left = u64::from_str_radix(size.trim_end(), 16)
                .map_err(|_| std::io::Error::other(format!("no size of a chunk: {size:?}")))?;
            if self.left == 0 {
                self.ended = true;
                self.line()?;
            }
        }
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let read = self.inner.by_ref().take(self.left).read(buffer)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        if self.left == 0 {
            self.line()?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unchunk(wire: &str) -> std::io::Result<String> {
        let mut text = String::new();
        // A small buffer, so that chunks are cut.
        let inner = BufReader::with_capacity(3, wire.as_bytes());
        Chunked::new(inner).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn chunks_are_joined_and_a_cut_one_is_an_error() {
        let whole = "5\r\nhello\r\nB\r\n, 11 bytes.\r\n0\r\n\r\nnext";
        assert_eq!(unchunk(whole).expect("whole"), "hello, 11 bytes.");
        for cut in ["", "5\r\nhel", "5\r\nhello\r\n", "zz\r\nhello\r\n"] {
            assert!(unchunk(cut).is_err(), "{cut:?}");
        }
    }

    #[test]
    fn a_head_tells_status_and_length() {
        let mut wire = &b"HTTP/1.1 201 Created\r\nA: b\r\ncontent-LENGTH: 7\r\n\r\n{}"[..];
        let head = read_head(&mut wire).expect("a head");
        assert_eq!((head.status, head.length, wire), (201, Some(7), &b"{}"[..]));
        assert!(read_head(&mut &b"HTTP/1.1 200 OK\r\nA: b\r\n"[..]).is_err());
    }
}
