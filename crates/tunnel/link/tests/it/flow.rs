//! Back-pressure: how much is held for readers that stand still, and that nobody waits for them.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gatewright_link::{BodyError, Limits, LinkError, RequestBody};
use http::Response;
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::time::sleep;

use crate::rig::{
    BOTH, Counted, Counting, END_HEADERS, HEADERS, HandMade, Kind, PING, PIPE, Rig, STATUS_200,
    fed, frame, pattern, post, settled, soon,
};

type NoBody = RequestBody<Empty<Bytes>>;

const CHUNK: usize = 16 * 1024;

/// What a stream may hold at most: the reader's window, the writer's buffer, and the piece in hand.
fn most(limits: &Limits) -> usize {
    limits.stream_window as usize + limits.send_buffer + CHUNK
}

#[tokio::test(start_paused = true)]
async fn a_response_that_nobody_reads_is_held_within_the_window() {
    for kind in BOTH {
        let limits = Limits::default();
        let mut rig = Rig::new(kind).await;
        let counted = Arc::default();
        let (sending, exchange) = rig.open(NoBody::Empty).await;
        let body = Counting::new(1000, CHUNK, &counted);
        let answering = tokio::spawn(exchange.responder.send(Response::new(body)));
        let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
        settled().await;
        let held = counted.bytes();
        assert!(
            held >= limits.stream_window as usize,
            "the window is not used: {held}"
        );
        assert!(held <= most(&limits), "{held} bytes are held");

        let whole = soon(response.collect()).await.unwrap().to_bytes();
        assert_eq!(whole.len(), 1000 * CHUNK);
        soon(answering).await.unwrap().unwrap();
        assert_eq!(counted.alive(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_reads_is_held_within_the_window() {
    for kind in BOTH {
        let limits = Limits::default();
        let mut rig = Rig::new(kind).await;
        let counted = Arc::default();
        let body = Counting::new(1000, CHUNK, &counted);
        let (sending, exchange) = rig.open(RequestBody::Stream(body)).await;
        settled().await;
        let held = counted.bytes();
        assert!(
            held >= limits.stream_window as usize,
            "the window is not used: {held}"
        );
        assert!(held <= most(&limits), "{held} bytes are held");

        let whole = soon(exchange.request.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(whole.len(), 1000 * CHUNK);
        exchange
            .responder
            .send(Response::new(Empty::<Bytes>::new()))
            .await
            .unwrap();
        assert!(soon(sending).await.unwrap().is_ok());
        assert_eq!(counted.alive(), 0);
    }
}

/// Named after the flaw of reverse tunnels whose connection window equals a stream's.
#[tokio::test(start_paused = true)]
async fn two_hundred_stalled_readers_do_not_stop_the_others() {
    const READERS: usize = 200;
    for kind in BOTH {
        let limits = Limits {
            stream_window: 256 * 1024,
            ..Limits::default()
        };
        let mut rig = Rig::with(kind, PIPE, &limits).await;
        let counted: Arc<Counted> = Arc::default();
        let mut stalled = Vec::new();
        let mut answering = Vec::new();
        for _ in 0..READERS {
            let (sending, exchange) = rig.open(NoBody::Empty).await;
            let body = Counting::new(4096, CHUNK, &counted);
            answering.push(tokio::spawn(exchange.responder.send(Response::new(body))));
            stalled.push(soon(sending).await.unwrap().unwrap().into_parts());
        }
        settled().await;
        let held = counted.bytes();
        assert!(
            held >= READERS * limits.stream_window as usize,
            "not stalled yet: {held}"
        );
        assert!(held <= READERS * most(&limits), "{held} bytes are held");
        for _ in 0..100 {
            rig.small_request().await;
        }
        let body = pattern(4 * 1024 * 1024);
        let (sending, exchange) = rig.open(NoBody::Empty).await;
        let bulk = tokio::spawn(
            exchange
                .responder
                .send(Response::new(Full::new(body.clone()))),
        );
        let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
        assert!(soon(response.collect()).await.unwrap().to_bytes() == body);
        soon(bulk).await.unwrap().unwrap();

        // They leave: every source ends and nothing more is asked of one.
        drop(stalled);
        for answering in answering {
            let error = soon(answering).await.unwrap().unwrap_err();
            assert!(matches!(error, BodyError::Cancelled(_)), "{error:?}");
        }
        assert_eq!((counted.alive(), rig.tunnel.in_flight()), (0, 0));
        assert_eq!(counted.bytes(), held);
        rig.small_request().await;
    }
}

#[tokio::test]
async fn many_aborted_downloads_do_not_end_the_connection() {
    for kind in BOTH {
        let limits = Limits {
            stream_window: 64 * 1024,
            ..Limits::default()
        };
        let mut rig = Rig::with(kind, PIPE, &limits).await;
        let counted: Arc<Counted> = Arc::default();
        for _ in 0..4 {
            let mut open = Vec::new();
            for _ in 0..100 {
                let (sending, exchange) = rig.open(NoBody::Empty).await;
                // Small frames: many are under way for streams that are reset meanwhile.
                let body = Counting::new(10_000, 300, &counted);
                tokio::spawn(exchange.responder.send(Response::new(body)));
                open.push(soon(sending).await.unwrap().unwrap().into_parts());
            }
            drop(open);
        }
        for _ in 0..10 {
            rig.small_request().await;
        }
        assert!(!rig.edge.is_finished() && !rig.agent.is_finished());
    }
}

#[tokio::test]
async fn rapidly_aborted_requests_do_not_end_the_connection() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        for _ in 0..20 {
            let mut sending = Vec::new();
            for _ in 0..100 {
                let slot = rig.tunnel.reserve().await.unwrap();
                let (_feed, body) = fed();
                let mut future = Box::pin(slot.send(post("/"), RequestBody::Stream(body), |_| {}));
                // Polled once, so that the request is on its way when it is dropped.
                let pending =
                    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
                assert!(pending);
                sending.push(future);
            }
            tokio::task::yield_now().await;
            drop(sending);
        }
        // Those that the agent has seen are cancelled; all others were never heard of.
        let (sending, _) = rig.open(NoBody::Empty).await;
        sending.abort();
        while let Ok(mut exchange) = rig.exchanges.try_recv() {
            soon(exchange.responder.cancelled()).await;
        }
        rig.small_request().await;
        assert!(!rig.edge.is_finished() && !rig.agent.is_finished());
    }
}

/// Two ends that both have a PING or its answer to write, and no room for it, must not both stop
/// reading: neither would ever have room again.
#[tokio::test(start_paused = true)]
async fn an_end_that_cannot_write_still_reads() {
    let limits = Limits::default();
    for own_ping in [false, true] {
        let mut rig = HandMade::new(&limits).await;
        rig.grant_everything().await;
        let (sending, stream) = rig.open().await;
        let counted: Arc<Counted> = Arc::default();
        let slot = rig.tunnel.reserve().await.unwrap();
        let body = RequestBody::Stream(Counting::new(10_000, CHUNK, &counted));
        let _upload = tokio::spawn(slot.send(post("/"), body, |_| {}));
        settled().await;
        let stuck = counted.bytes();
        assert!(stuck > 2 * PIPE, "the upload is not stuck yet: {stuck}");
        for _ in 0..5 {
            rig.write(&frame(PING, 0, 0, &[7; 8])).await;
            settled().await;
        }
        if own_ping {
            sleep(limits.keep_alive_interval).await; // virtual time
        }
        rig.write(&frame(HEADERS, END_HEADERS | 1, stream, STATUS_200))
            .await;
        settled().await;
        assert!(
            sending.is_finished(),
            "it waits for us to read before it reads itself"
        );
        assert!(sending.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn full_pipes_both_ways_do_not_lock_the_ends_when_pings_meet() {
    for kind in BOTH {
        let limits = Limits {
            keep_alive_interval: Duration::from_millis(1),
            keep_alive_timeout: Duration::from_secs(5),
            ..Limits::default()
        };
        let mut rig = Rig::with(kind, 512, &limits).await;
        let counted = Arc::default();
        let bytes = 1024 * CHUNK;
        let up = Counting::new(1024, CHUNK, &counted);
        let (sending, exchange) = rig.open(RequestBody::Stream(up)).await;
        let down = Counting::new(1024, CHUNK, &counted);
        let answering = tokio::spawn(exchange.responder.send(Response::new(down)));
        let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
        let (up, down) = soon(async {
            tokio::join!(exchange.request.into_body().collect(), response.collect())
        })
        .await;
        assert_eq!(up.unwrap().to_bytes().len(), bytes);
        assert_eq!(down.unwrap().to_bytes().len(), bytes);
        soon(answering).await.unwrap().unwrap();
    }
}

/// A socket that keeps written bytes until it is flushed, and then lets them out bit by bit, as TLS
/// does over a full socket.
struct Holding {
    socket: DuplexStream,
    held: Vec<u8>,
}

impl AsyncRead for Holding {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Holding {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        while !this.held.is_empty() {
            let sent = std::task::ready!(Pin::new(&mut this.socket).poll_write(cx, &this.held))?;
            this.held.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        std::task::ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_socket_holds_back_is_flushed_when_it_can_be() {
    for kind in BOTH {
        let (edge, agent) = duplex(100);
        let edge = Holding {
            socket: edge,
            held: Vec::new(),
        };
        let agent = Holding {
            socket: agent,
            held: Vec::new(),
        };
        let mut rig = Rig::over(kind, edge, agent, &Limits::default()).await;
        let begun = tokio::time::Instant::now();
        let body = pattern(300_000);
        let (sending, exchange) = rig.open(RequestBody::Stream(Full::new(body.clone()))).await;
        assert!(
            soon(exchange.request.into_body().collect())
                .await
                .unwrap()
                .to_bytes()
                == body
        );
        let response = Response::new(Full::new(body.clone()));
        let answering = tokio::spawn(exchange.responder.send(response));
        let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
        assert!(soon(response.collect()).await.unwrap().to_bytes() == body);
        soon(answering).await.unwrap().unwrap();
        // The clock stands while anything moves: nothing waited for the next PING to push it out.
        assert_eq!(begun.elapsed(), Duration::ZERO, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_never_reads_is_held_within_bounds_and_found_out() {
    let limits = Limits::default();
    let mut rig = HandMade::new(&limits).await;
    let counted: Arc<Counted> = Arc::default();
    // It grants wide windows for 50 uploads and then reads no more.
    rig.grant_everything().await;
    let mut sending = Vec::new();
    for _ in 0..50 {
        let slot = rig.tunnel.reserve().await.unwrap();
        let body = RequestBody::Stream(Counting::new(10_000, CHUNK, &counted));
        sending.push(tokio::spawn(slot.send(post("/"), body, |_| {})));
    }
    settled().await;
    let held = counted.bytes();
    assert!(held >= 50 * CHUNK, "no upload has begun: {held}");
    assert!(
        held <= 50 * (limits.send_buffer + 2 * CHUNK) + 2 * PIPE,
        "{held} bytes are held"
    );
    let error = soon(rig.edge).await.unwrap().unwrap_err();
    assert!(matches!(error, LinkError::KeepAlive(_)), "{error:?}");
    for sending in sending {
        assert!(soon(sending).await.unwrap().is_err());
    }
    settled().await;
    assert_eq!(counted.alive(), 0);
}

#[tokio::test]
async fn windows_of_both_kinds_are_given_back() {
    // More than a connection's first window of 64 KiB and than any stream's, many times over.
    let mut rig = Rig::new(Kind::Raw).await;
    for _ in 0..50 {
        let body = pattern(200_000);
        let (sending, exchange) = rig.open(RequestBody::Stream(Full::new(body.clone()))).await;
        let received = soon(exchange.request.into_body().collect()).await.unwrap();
        exchange
            .responder
            .send(Response::new(Full::new(received.to_bytes())))
            .await
            .unwrap();
        let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
        assert!(soon(response.collect()).await.unwrap().to_bytes() == body);
    }
}
