//! The raw carrier: HTTP/2 bytes straight on a socket (TLS, or plain in tests). It adds nothing but
//! the write batch.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::carrier::{Carrier, make_room};

pub(crate) struct Raw<S> {
    socket: S,
    batch: BytesMut,
    /// TLS may hold encrypted bytes back although it took the whole batch.
    unflushed: bool,
}

impl<S> Raw<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self {
            socket,
            batch: BytesMut::new(),
            unflushed: false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Raw<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Carrier for Raw<S> {
    fn take(&mut self, bytes: &[u8]) {
        make_room(&mut self.batch, bytes.len());
        self.batch.extend_from_slice(bytes);
    }

    fn waiting(&self) -> usize {
        self.batch.len() + usize::from(self.unflushed)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.batch.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.batch))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.batch.advance(sent);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_other_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}
