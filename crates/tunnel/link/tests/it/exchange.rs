//! What one request and its response carry through the tunnel, and how either side gives up.

use bytes::Bytes;
use gatewright_link::{BodyError, Limits, Protocol, Reason, RequestBody, SendError};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::rig::{
    BOTH, DATA, END_HEADERS, Fed, GOAWAY, HEADERS, HandMade, Kind, RST_STREAM, Rig, STATUS_200,
    fed, frame, pattern, post, soon, text,
};

type NoBody = RequestBody<Empty<Bytes>>;

fn trailers(name: &'static str) -> HeaderMap {
    let value = HeaderValue::from_static("at the end");
    HeaderMap::from_iter([(HeaderName::from_static(name), value)])
}

#[tokio::test]
async fn heads_pass_as_they_are() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let request = Request::builder()
            .method("PROPFIND")
            .uri("http://My-App.example.test:8443/a%2Fb//c?q=%20+&q")
            .header("x-gatewright-route", "0123456789abcdef")
            .header("x-twice", "1")
            .header("x-twice", "2")
            .header("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap())
            .body(())
            .unwrap();
        let slot = rig.tunnel.reserve().await.unwrap();
        let sending = tokio::spawn(slot.send(request, NoBody::Empty, |_| {}));
        let exchange = soon(rig.exchanges.recv()).await.unwrap();
        let head = &exchange.request;
        assert_eq!(head.method(), "PROPFIND");
        assert_eq!(head.uri().authority().unwrap(), "My-App.example.test:8443");
        assert_eq!(head.uri().path_and_query().unwrap(), "/a%2Fb//c?q=%20+&q");
        assert_eq!(head.headers()["x-gatewright-route"], "0123456789abcdef");
        assert_eq!(head.headers().get_all("x-twice").iter().count(), 2);
        assert_eq!(head.headers()["x-bytes"].as_bytes(), b"\xff\xfe");
        assert!(head.body().is_end_stream());
        assert!(exchange.protocol().is_none());

        let response = Response::builder()
            .status(StatusCode::IM_A_TEAPOT)
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(Empty::new())
            .unwrap();
        exchange.responder.send(response).await.unwrap();
        let (head, body) = soon(sending).await.unwrap().unwrap().into_parts();
        assert_eq!(head.status, StatusCode::IM_A_TEAPOT);
        assert_eq!(head.headers.get_all("set-cookie").iter().count(), 2);
        assert!(body.is_end_stream());
    }
}

#[tokio::test]
async fn bodies_pass_both_ways_over_sockets() {
    for kind in BOTH {
        let mut rig = Rig::tcp(kind, &Limits::default()).await;
        let up = pattern(5 * 1024 * 1024 + 1);
        let down = pattern(7 * 1024 * 1024 + 3);
        let (sending, exchange) = rig.open(RequestBody::Stream(Full::new(up.clone()))).await;
        let answering = tokio::spawn(
            exchange
                .responder
                .send(Response::new(Full::new(down.clone()))),
        );
        let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
        let (received, returned) = soon(async {
            tokio::join!(exchange.request.into_body().collect(), response.collect())
        })
        .await;
        assert!(received.unwrap().to_bytes() == up);
        assert!(returned.unwrap().to_bytes() == down);
        soon(answering).await.unwrap().unwrap();
        assert_eq!(rig.tunnel.in_flight(), 0);
    }
}

#[tokio::test]
async fn a_known_length_is_known_on_the_other_side() {
    let mut rig = Rig::new(Kind::WebSocket).await;
    let (sending, exchange) = rig.open(NoBody::Empty).await;
    let response = Response::builder()
        .header("content-length", "5")
        .body(text("12345"))
        .unwrap();
    exchange.responder.send(response).await.unwrap();
    let (_, body) = soon(sending).await.unwrap().unwrap().into_parts();
    assert_eq!(body.size_hint().exact(), Some(5));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let up = text("up").with_trailers(async { Some(Ok(trailers("x-up"))) });
        let (sending, exchange) = rig.open(RequestBody::Stream(up)).await;
        let received = soon(exchange.request.into_body().collect()).await.unwrap();
        assert_eq!(received.trailers(), Some(&trailers("x-up")));
        assert_eq!(received.to_bytes(), "up");
        let down = text("down").with_trailers(async { Some(Ok(trailers("grpc-status"))) });
        exchange.responder.send(Response::new(down)).await.unwrap();
        let (_, body) = soon(sending).await.unwrap().unwrap().into_parts();
        let returned = soon(body.collect()).await.unwrap();
        assert_eq!(returned.trailers(), Some(&trailers("grpc-status")));
        assert_eq!(returned.to_bytes(), "down");
    }
}

#[tokio::test]
async fn informational_responses_come_before_the_final_one() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let (early, mut informed) = mpsc::unbounded_channel();
        let slot = rig.tunnel.reserve().await.unwrap();
        let on_informational = move |response: Response<()>| early.send(response).unwrap();
        let sending = tokio::spawn(slot.send(post("/"), NoBody::Empty, on_informational));
        let mut exchange = soon(rig.exchanges.recv()).await.unwrap();
        for status in [StatusCode::CONTINUE, StatusCode::EARLY_HINTS] {
            let early = Response::builder()
                .status(status)
                .header("link", "</a.css>")
                .body(());
            exchange
                .responder
                .send_informational(early.unwrap())
                .unwrap();
            // It came although the final response is not even begun.
            let informed = soon(informed.recv()).await.unwrap();
            assert_eq!(informed.status(), status);
            assert_eq!(informed.headers()["link"], "</a.css>");
        }
        exchange
            .responder
            .send(Response::new(text("done")))
            .await
            .unwrap();
        let (head, body) = soon(sending).await.unwrap().unwrap().into_parts();
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "done");
    }
}

#[tokio::test]
async fn dropping_the_request_cancels_the_exchange() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let (_feed, body) = fed();
        let (sending, mut exchange) = rig.open(RequestBody::Stream(body)).await;
        sending.abort();
        soon(exchange.responder.cancelled()).await;
        let error = soon(exchange.request.into_body().collect())
            .await
            .unwrap_err();
        assert!(
            matches!(error, BodyError::Stream(_)),
            "a cut upload looked whole: {error:?}"
        );
        rig.small_request().await;
        assert_eq!(rig.tunnel.in_flight(), 0);
    }
}

#[tokio::test]
async fn dropping_the_response_stops_its_sender() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let (sending, exchange) = rig.open(NoBody::Empty).await;
        let (_feed, body) = fed();
        // A body that has nothing to say for now must hear it too.
        let answering = tokio::spawn(exchange.responder.send(Response::new(body)));
        drop(soon(sending).await.unwrap().unwrap().into_parts());
        let error = soon(answering).await.unwrap().unwrap_err();
        assert!(
            matches!(error, BodyError::Cancelled(Reason::CANCEL)),
            "{error:?}"
        );
        rig.small_request().await;
    }
}

#[tokio::test]
async fn a_broken_source_is_an_error_on_the_other_side_never_an_end() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let broken = || Err(std::io::Error::other("the backend went away"));

        let (feed, body) = fed();
        let (sending, exchange) = rig.open(RequestBody::Stream(body)).await;
        feed.send(Ok(Frame::data(Bytes::from_static(b"half"))))
            .unwrap();
        feed.send(broken()).unwrap();
        let error = soon(exchange.request.into_body().collect())
            .await
            .unwrap_err();
        assert!(matches!(error, BodyError::Stream(_)), "{error:?}");
        assert!(soon(sending).await.unwrap().is_err());

        let (feed, body) = fed();
        let (sending, exchange) = rig.open(NoBody::Empty).await;
        let answering = tokio::spawn(exchange.responder.send(Response::new(body)));
        let (_, mut response) = soon(sending).await.unwrap().unwrap().into_parts();
        feed.send(Ok(Frame::data(Bytes::from_static(b"half"))))
            .unwrap();
        let data = soon(response.frame())
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap();
        assert_eq!(data, "half");
        feed.send(broken()).unwrap();
        assert!(soon(response.frame()).await.unwrap().is_err());
        let error = soon(answering).await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Source(_)), "{error:?}");
        assert_eq!(error.to_string(), "the body's source failed");
        rig.small_request().await;
    }
}

#[tokio::test]
async fn a_dropped_responder_is_a_reset() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let (sending, exchange) = rig.open(NoBody::Empty).await;
        drop(exchange);
        assert!(matches!(
            soon(sending).await.unwrap(),
            Err(SendError::Lost(_))
        ));

        let (sending, exchange) = rig.open(NoBody::Empty).await;
        exchange.responder.reset(Reason::REFUSED_STREAM);
        assert!(matches!(
            soon(sending).await.unwrap(),
            Err(SendError::NotSent(Some(_)))
        ));
        rig.small_request().await;
    }
}

#[tokio::test]
async fn an_answer_before_the_upload_ended_is_whole() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let (_feed, body) = fed();
        let (sending, exchange) = rig.open(RequestBody::Stream(body)).await;
        exchange
            .responder
            .send(Response::new(text("enough")))
            .await
            .unwrap();
        drop(exchange.request);
        let (_, body) = soon(sending).await.unwrap().unwrap().into_parts();
        assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "enough");
    }
}

#[tokio::test]
async fn a_response_cut_by_a_reset_without_error_is_an_error_when_more_was_promised() {
    let mut rig = HandMade::new(&Limits::default()).await;
    let (sending, stream) = rig.open().await;
    // `content-length: 10`, a literal field with the name's index 28 (RFC 7541 §6.2.2).
    let head = [STATUS_200, &[0x0f, 0x0d, 0x02], b"10"].concat();
    rig.write(&frame(HEADERS, END_HEADERS, stream, &head)).await;
    rig.write(&frame(DATA, 0, stream, b"half.")).await;
    rig.write(&frame(RST_STREAM, 0, stream, &[0; 4])).await;
    let (_, body) = soon(sending).await.unwrap().unwrap().into_parts();
    assert!(matches!(
        soon(body.collect()).await,
        Err(BodyError::Stream(_))
    ));
}

#[tokio::test]
async fn a_request_after_the_last_of_a_goaway_was_not_sent() {
    let mut rig = HandMade::new(&Limits::default()).await;
    let (taken, first) = rig.open().await;
    let (refused, second) = rig.open().await;
    assert!(second > first);
    rig.write(&frame(
        GOAWAY,
        0,
        0,
        &[first.to_be_bytes(), [0; 4]].concat(),
    ))
    .await;
    assert!(matches!(
        soon(refused).await.unwrap(),
        Err(SendError::NotSent(Some(_)))
    ));
    assert!(matches!(
        rig.tunnel.reserve().await,
        Err(SendError::NotSent(Some(_)))
    ));
    assert!(!rig.tunnel.is_usable());
    // The one it names is answered still.
    rig.write(&frame(HEADERS, END_HEADERS | 1, first, STATUS_200))
        .await;
    assert_eq!(
        soon(taken).await.unwrap().unwrap().head.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn an_upgraded_stream_passes_both_ways_and_half_closes() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        // Extended CONNECT waits for the agent's SETTINGS, which a first request proves to be in.
        rig.small_request().await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("http://app.example.test/chat?room=1")
            .extension(Protocol::from_static("websocket"))
            .body(())
            .unwrap();
        let slot = rig.tunnel.reserve().await.unwrap();
        let upgrade = RequestBody::<Empty<Bytes>>::Upgrade;
        let sending = tokio::spawn(slot.send(request, upgrade, |_| {}));
        let exchange = soon(rig.exchanges.recv()).await.unwrap();
        assert_eq!(exchange.protocol().map(Protocol::as_str), Some("websocket"));
        assert_eq!(
            exchange.request.uri().path_and_query().unwrap(),
            "/chat?room=1"
        );
        let body = exchange.request.into_body();
        let mut agent = exchange.responder.upgrade(Response::new(()), body).unwrap();
        let (head, edge) = soon(sending).await.unwrap().unwrap().into_upgraded();
        assert_eq!(head.status, StatusCode::OK);
        let mut edge = edge.unwrap();

        edge.write_all(b"ping").await.unwrap();
        let mut four = [0; 4];
        soon(agent.read_exact(&mut four)).await.unwrap();
        assert_eq!(&four, b"ping");

        // More than a window, so that writing waits for reading.
        let up = pattern(3 * 1024 * 1024);
        let sent = up.clone();
        let (mut from_agent, mut to_agent) = tokio::io::split(edge);
        let writing = tokio::spawn(async move {
            to_agent.write_all(&sent).await.unwrap();
            to_agent.shutdown().await.unwrap();
            to_agent
        });
        let mut received = Vec::new();
        soon(agent.read_to_end(&mut received)).await.unwrap();
        assert!(received == up);
        let _to_agent = soon(writing).await.unwrap();

        // The other direction goes on after the first has ended.
        agent.write_all(b"still here").await.unwrap();
        agent.shutdown().await.unwrap();
        let mut last = String::new();
        soon(from_agent.read_to_string(&mut last)).await.unwrap();
        assert_eq!(last, "still here");
        rig.small_request().await;
    }
}

#[tokio::test]
async fn a_dropped_upgraded_stream_is_a_reset_on_the_other_side() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let (sending, exchange) = rig.open(RequestBody::<Empty<Bytes>>::Upgrade).await;
        let body = exchange.request.into_body();
        let mut agent = exchange.responder.upgrade(Response::new(()), body).unwrap();
        let (_, edge) = soon(sending).await.unwrap().unwrap().into_upgraded();
        assert_eq!(rig.tunnel.in_flight(), 1);
        drop(edge.unwrap());
        assert_eq!(rig.tunnel.in_flight(), 0);
        let error = soon(agent.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_thousand_requests_are_open_at_once() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let mut sending = Vec::new();
        let mut open = Vec::new();
        for _ in 0..1000 {
            let (future, exchange) = rig.open(NoBody::Empty).await;
            sending.push(future);
            open.push(exchange);
        }
        assert_eq!(rig.tunnel.in_flight(), 1000);
        assert!(!rig.tunnel.is_full());
        for (at, exchange) in open.into_iter().enumerate().rev() {
            let body = Full::new(Bytes::from(at.to_string()));
            exchange.responder.send(Response::new(body)).await.unwrap();
        }
        for (at, sending) in sending.into_iter().enumerate() {
            let (_, body) = soon(sending).await.unwrap().unwrap().into_parts();
            assert_eq!(
                soon(body.collect()).await.unwrap().to_bytes(),
                at.to_string()
            );
        }
        assert_eq!(rig.tunnel.in_flight(), 0);
    }
}

#[tokio::test]
async fn a_body_that_waits_sends_what_it_has() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let (sending, exchange) = rig.open(NoBody::Empty).await;
        let (feed, body) = fed();
        let _answering = tokio::spawn(exchange.responder.send(Response::new(body)));
        let (_, mut response) = soon(sending).await.unwrap().unwrap().into_parts();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            feed.send(Ok(Frame::data(Bytes::from_static(event.as_bytes()))))
                .unwrap();
            let data = soon(response.frame())
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap();
            assert_eq!(data, event);
        }
    }
}

#[tokio::test]
async fn a_request_body_is_not_polled_after_the_exchange_is_over() {
    let mut rig = Rig::new(Kind::WebSocket).await;
    let (feed, body) = fed();
    let (sending, exchange) = rig.open(RequestBody::Stream(body)).await;
    exchange
        .responder
        .send(Response::new(text("no")))
        .await
        .unwrap();
    let (_, body) = soon(sending).await.unwrap().unwrap().into_parts();
    soon(body.collect()).await.unwrap();
    // The upload's task is gone, and the body with it.
    soon(feed.closed()).await;
}

fn pass(kind: Kind, chunks: Vec<Vec<u8>>) -> (Bytes, Bytes) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let limits = Limits {
            stream_window: 1024,
            send_buffer: 512,
            ..Limits::default()
        };
        let mut rig = Rig::with(kind, 333, &limits).await;
        let body = |chunks: Vec<Vec<u8>>| -> Fed {
            let (feed, body) = fed();
            for chunk in chunks {
                feed.send(Ok(Frame::data(chunk.into()))).unwrap();
            }
            body
        };
        let (sending, exchange) = rig.open(RequestBody::Stream(body(chunks.clone()))).await;
        let (received, (), returned) = soon(async {
            tokio::join!(
                exchange.request.into_body().collect(),
                async {
                    exchange
                        .responder
                        .send(Response::new(body(chunks)))
                        .await
                        .unwrap()
                },
                async {
                    sending
                        .await
                        .unwrap()
                        .unwrap()
                        .into_parts()
                        .1
                        .collect()
                        .await
                },
            )
        })
        .await;
        (received.unwrap().to_bytes(), returned.unwrap().to_bytes())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_arrives_identical(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..12),
        raw in any::<bool>(),
    ) {
        let whole = chunks.concat();
        let (up, down) = pass(if raw { Kind::Raw } else { Kind::WebSocket }, chunks);
        prop_assert_eq!(&up[..], &whole[..]);
        prop_assert_eq!(&down[..], &whole[..]);
    }
}
