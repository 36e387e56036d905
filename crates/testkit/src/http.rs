//! A raw HTTP/1.1 client for tests: sends the bytes it is given, reads what comes. It may not correct either side.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A silent peer fails a test by name instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A response's first lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Names as they came, in the order of arrival.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of the first header called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The final head.
    pub head: Head,
    /// 1xx heads that came before it.
    pub informational: Vec<Head>,
    /// The body, without chunk framing.
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Response {
    /// The final status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The value of the first header called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text, with invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics with the body if it is none.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON of that shape ({e}): {}", self.text()))
    }
}

/// One connection to an HTTP/1.1 server.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
}

impl Connection<TcpStream> {
    /// Connects over TCP.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    /// Ends the connection with RST, as a crashed client's kernel does.
    pub fn reset(self) -> io::Result<()> {
        self.stream.set_zero_linger()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Speaks over any byte stream, for instance a TLS one.
    pub fn over(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Says that no more bytes will come (FIN).
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Reads one head, which may be a 1xx one.
    pub async fn read_head(&mut self) -> io::Result<Head> {
        let mut lines = Vec::new();
        loop {
            let line = self.read_line().await?;
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        parse_head(&lines)
    }

    /// Reads the response to a request that was not a HEAD.
    pub async fn read_response(&mut self) -> io::Result<Response> {
        let mut informational = Vec::new();
        let head = loop {
            let head = self.read_head().await?;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
            informational.push(head);
        };
        let (body, trailers) = self.read_body(&head).await?;
        Ok(Response {
            head,
            informational,
            body,
            trailers,
        })
    }

    /// Reads the body that `head` announces, and the trailers of a chunked one.
    pub async fn read_body(&mut self, head: &Head) -> io::Result<(Vec<u8>, Vec<(String, String)>)> {
        if matches!(head.status, 101 | 204 | 304) {
            return Ok((Vec::new(), Vec::new()));
        }
        let chunked = head
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        if chunked {
            let mut body = Vec::new();
            while let Some(chunk) = self.read_chunk().await? {
                body.extend(chunk);
            }
            return Ok((body, self.read_trailers().await?));
        }
        let body = match head.header("content-length") {
            Some(length) => {
                let length = length.parse().map_err(invalid)?;
                self.read_exactly(length).await?
            }
            None => self.read_to_end().await?,
        };
        Ok((body, Vec::new()))
    }

    /// Reads one chunk of a chunked body; `None` is the last one, after which come the trailers.
    pub async fn read_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.read_line().await?;
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).map_err(invalid)?;
        if size == 0 {
            return Ok(None);
        }
        let chunk = self.read_exactly(size).await?;
        match self.read_line().await?.as_str() {
            "" => Ok(Some(chunk)),
            other => Err(invalid(format!("{other:?} after a chunk"))),
        }
    }

    async fn read_trailers(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut trailers = Vec::new();
        loop {
            let line = self.read_line().await?;
            if line.is_empty() {
                return Ok(trailers);
            }
            trailers.push(parse_field(&line)?);
        }
    }

    /// Reads exactly `size` bytes.
    pub async fn read_exactly(&mut self, size: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < size {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..size).collect())
    }

    /// Reads until the peer closes; a reset is an error.
    pub async fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill().await {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(std::mem::take(&mut self.buffer));
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The stream and what was read ahead of it, for what follows a 101.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer)
    }

    async fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(16 * 1024);
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
        match read.await {
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing came for {PATIENCE:?}"),
            )),
        }
    }
}

/// Sends `request` on a connection of its own and reads one response; panics if that fails.
pub async fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    let answered = async {
        let mut connection = Connection::connect(address).await?;
        connection.send(&request).await?;
        connection.read_response().await
    };
    answered.await.unwrap_or_else(|e| {
        let request = String::from_utf8_lossy(request.as_ref());
        let line = request.lines().next().unwrap_or_default();
        panic!("no response from {address} to {line:?}: {e}")
    })
}

/// `GET target` with `Host: host` on a connection of its own; panics if no response comes.
pub async fn get(address: SocketAddr, host: &str, target: &str) -> Response {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    exchange(address, request).await
}

fn parse_head(lines: &[String]) -> io::Result<Head> {
    let (first, fields) = lines
        .split_first()
        .ok_or_else(|| invalid("an empty head"))?;
    let mut words = first.splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|code| code.parse().ok());
    match status {
        Some(status) if version == "HTTP/1.1" || version == "HTTP/1.0" => Ok(Head {
            status,
            headers: fields
                .iter()
                .map(|line| parse_field(line))
                .collect::<io::Result<_>>()?,
        }),
        _ => Err(invalid(format!("{first:?} is no status line"))),
    }
}

fn parse_field(line: &str) -> io::Result<(String, String)> {
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| invalid(format!("{line:?} is no header")))?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection to a peer that sends `bytes` and closes.
    async fn receiving(bytes: &'static [u8]) -> Connection<tokio::io::DuplexStream> {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        Connection::over(ours)
    }

    #[tokio::test]
    async fn informational_heads_chunks_and_trailers_are_read() {
        let mut connection = receiving(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n",
        )
        .await;
        let response = connection.read_response().await.unwrap();
        assert_eq!(response.informational[0].header("link"), Some("</a>"));
        assert_eq!(response.text(), "abcde");
        assert_eq!(response.trailers, [("X-Sum".to_owned(), "5".to_owned())]);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let error = receiving(bytes).await.read_response().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[tokio::test]
    async fn a_body_without_length_ends_with_the_connection() {
        let mut connection = receiving(b"HTTP/1.0 200 OK\r\n\r\nall of it").await;
        assert_eq!(
            connection.read_response().await.unwrap().text(),
            "all of it"
        );
    }

    #[tokio::test]
    async fn what_is_no_http_is_refused() {
        let error = receiving(b"SSH-2.0-x\r\n\r\n").await.read_head().await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
