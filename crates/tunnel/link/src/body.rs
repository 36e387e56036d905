//! Bodies on a stream: receiving with flow control, sending with back-pressure. Data and trailers
//! pass as they are; a reset on either side becomes an error or a reset on the other.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame, SizeHint};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other end of the tunnel reset the stream, or the connection ended.
    #[error("the stream through the tunnel was reset")]
    Stream(#[source] h2::Error),
    /// The source of the body failed; the stream was reset.
    #[error("the body's source failed")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The other end does not want the rest.
    #[error("the other end cancelled the stream ({0})")]
    Cancelled(Reason),
}

/// The body that comes in on a stream. Window is given back as frames are taken from it.
#[derive(Debug)]
pub struct RecvBody {
    stream: RecvStream,
    of: BodyOf,
    length: Option<u64>,
    data_over: bool,
    over: bool,
}

/// Whose body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyOf {
    Request,
    Response,
}

impl RecvBody {
    pub(crate) fn new(stream: RecvStream, of: BodyOf, headers: &http::HeaderMap) -> Self {
        let length = headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        Self {
            stream,
            of,
            length,
            data_over: false,
            over: false,
        }
    }

    /// Whether a reset only says that the other end, having answered in full, needs no more of our
    /// request (RFC 9113 §8.1). A body that is known to go on was cut all the same.
    fn is_clean(&self, error: &h2::Error) -> bool {
        self.of == BodyOf::Response
            && error.reason() == Some(Reason::NO_ERROR)
            && error.is_reset()
            && self.length.is_none_or(|left| left == 0)
    }
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        while !this.data_over {
            match ready!(this.stream.poll_data(cx)) {
                // The frame that only ends the stream.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    let taken = data.len();
                    if let Some(left) = this.length.as_mut() {
                        *left = left.saturating_sub(taken as u64);
                    }
                    // Only fails when the connection is gone, which the next poll reports.
                    let _ = this.stream.flow_control().release_capacity(taken);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) if this.is_clean(&error) => {
                    this.over = true;
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Stream(error)))),
                None => this.data_over = true,
            }
        }
        let trailers = ready!(this.stream.poll_trailers(cx));
        this.over = true;
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) if this.is_clean(&error) => None,
            Err(error) => Some(Err(BodyError::Stream(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Sends a body on a stream, as fast as the other end's window allows, and ends the stream.
///
/// # Errors
/// [`BodyError::Source`] after resetting the stream when the body fails, so that a cut body never
/// looks complete; [`BodyError::Cancelled`] or [`BodyError::Stream`] when the other end is gone.
pub async fn send_body<B>(body: B, mut stream: SendStream<Bytes>) -> Result<(), BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    if body.is_end_stream() {
        return stream
            .send_data(Bytes::new(), true)
            .map_err(BodyError::Stream);
    }
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
                return Poll::Ready(Ok(frame.map(|frame| frame.map_err(Into::into))));
            }
            // Nothing to send: hear a cancellation, or the backend would go on for nobody.
            match stream.poll_reset(cx) {
                Poll::Ready(Ok(reason)) => Poll::Ready(Err(BodyError::Cancelled(reason))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(BodyError::Stream(error))),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        match frame {
            None => {
                return stream
                    .send_data(Bytes::new(), true)
                    .map_err(BodyError::Stream);
            }
            Some(Err(error)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Err(BodyError::Source(error));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    send_data(&mut stream, data, last).await?;
                    if last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return stream.send_trailers(trailers).map_err(BodyError::Stream);
                    }
                }
            },
        }
    }
}

/// Sends one piece, split where the window ends.
async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
) -> Result<(), BodyError> {
    if data.is_empty() {
        return if last {
            stream.send_data(data, true).map_err(BodyError::Stream)
        } else {
            Ok(())
        };
    }
    stream.reserve_capacity(data.len());
    loop {
        let room = match stream.capacity() {
            0 => {
                poll_fn(|cx| {
                    if let Poll::Ready(Ok(reason)) = stream.poll_reset(cx) {
                        return Poll::Ready(Err(BodyError::Cancelled(reason)));
                    }
                    match ready!(stream.poll_capacity(cx)) {
                        Some(Ok(room)) => Poll::Ready(Ok(room)),
                        Some(Err(error)) => Poll::Ready(Err(BodyError::Stream(error))),
                        None => Poll::Ready(Err(BodyError::Cancelled(Reason::CANCEL))),
                    }
                })
                .await?
            }
            room => room,
        };
        if room >= data.len() {
            return stream.send_data(data, last).map_err(BodyError::Stream);
        }
        if room > 0 {
            stream
                .send_data(data.split_to(room), false)
                .map_err(BodyError::Stream)?;
        }
    }
}

/// Sends one piece that is not the stream's last.
pub(crate) async fn send_all(
    stream: &mut SendStream<Bytes>,
    data: Bytes,
) -> Result<(), crate::LinkError> {
    match send_data(stream, data, false).await {
        Ok(()) => Ok(()),
        Err(BodyError::Stream(error)) => Err(error.into()),
        Err(BodyError::Cancelled(reason)) => Err(h2::Error::from(reason).into()),
        Err(BodyError::Source(_)) => Err(crate::LinkError::ControlMessage),
    }
}
