//! The handshake that makes a dialled connection a WebSocket (RFC 6455 §4.1). It may not read past
//! the answer's head: what follows is the carrier's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, handshake::client::Response};

/// A connection whose upgrade is done.
#[derive(Debug)]
pub struct Upgraded<S> {
    pub(crate) socket: S,
    pub(crate) early: Vec<u8>,
}

impl<S> Upgraded<S> {
    /// Takes a connection that somebody else has upgraded. `early` are bytes that were read after
    /// the answer's head.
    pub fn new(socket: S, early: Vec<u8>) -> Self {
        Self { socket, early }
    }
}

/// Asks for the upgrade; an answer other than 101 is an error.
pub(crate) async fn ask<S>(
    request: impl IntoClientRequest + Unpin,
    socket: S,
) -> Result<(Upgraded<S>, Response), tungstenite::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (websocket, response) = client_async(request, HeadOnly::new(socket)).await?;
    // Only its handshake is wanted; it has been given no byte of the first frame.
    let HeadOnly { socket, read, .. } = websocket.into_inner();
    Ok((Upgraded::new(socket, read.to_vec()), response))
}

/// A socket that gives out the head of an answer and keeps the rest.
struct HeadOnly<S> {
    socket: S,
    /// What was read and not given out.
    read: BytesMut,
    line: Line,
}

/// What the last byte of the head says about the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Within,
    /// At the beginning of a line, or after a carriage return there.
    Empty,
    /// The empty line is over, and the head with it.
    Over,
}

impl<S> HeadOnly<S> {
    fn new(socket: S) -> Self {
        Self {
            socket,
            read: BytesMut::new(),
            line: Line::Within,
        }
    }

    /// How many of the bytes that were read belong to the head, `most` at the most.
    fn advance(&mut self, most: usize) -> usize {
        let mut count = 0;
        for byte in self.read.iter().take(most) {
            self.line = match (self.line, byte) {
                (Line::Over, _) => return count,
                // Lines may end without a carriage return (RFC 9112 §2.2).
                (Line::Empty, b'\n') => Line::Over,
                (Line::Within, b'\n') | (Line::Empty, b'\r') => Line::Empty,
                (Line::Within | Line::Empty, _) => Line::Within,
            };
            count += 1;
        }
        count
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadOnly<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.line == Line::Over {
            return Poll::Ready(Ok(()));
        }
        if this.read.is_empty() {
            let mut piece = [0; 1024];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut piece))?;
            this.read.extend_from_slice(piece.filled());
        }
        let count = this.advance(buf.remaining());
        buf.put_slice(&this.read[..count]);
        this.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadOnly<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given out of an answer that is read in pieces of `size`.
    fn head_of(answer: &[u8], size: usize) -> (Vec<u8>, Vec<u8>) {
        let mut head = HeadOnly::new(());
        head.read.extend_from_slice(answer);
        let mut given = Vec::new();
        loop {
            let count = head.advance(size);
            if count == 0 {
                return (given, head.read.to_vec());
            }
            given.extend_from_slice(&head.read[..count]);
            head.read.advance(count);
        }
    }

    #[test]
    fn the_head_ends_at_the_empty_line_however_lines_end() {
        for head in [
            "HTTP/1.1 101 \r\na: b\r\n\r\n",
            "HTTP/1.1 101 \na: b\n\n",
            "HTTP/1.1 101 \r\na: b\n\r\n",
            "HTTP/1.1 101 \n\r\n",
        ] {
            for size in [1, 2, 3, 1000] {
                for rest in ["", "\r\n\r\n", "\u{2}\n\n frames"] {
                    let (given, kept) = head_of(format!("{head}{rest}").as_bytes(), size);
                    assert_eq!(
                        (given.as_slice(), kept.as_slice()),
                        (head.as_bytes(), rest.as_bytes())
                    );
                }
            }
        }
    }

    #[test]
    fn a_head_without_an_end_is_given_out_whole() {
        let head = b"HTTP/1.1 400 No\r\nx: \r y\r\n";
        assert_eq!(head_of(head, 1000), (head.to_vec(), Vec::new()));
    }
}
