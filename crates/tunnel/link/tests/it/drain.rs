//! How a connection ends well, and that everything of it ends with it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatewright_link::{Limits, RequestBody, SendError};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::{AsyncWriteExt, duplex};

use crate::rig::{
    ACK, BOTH, Counted, Counting, GOAWAY, Kind, PING, PIPE, Rig, SETTINGS, agent_end, edge_end,
    fed, frame, pattern, read_frame, settled, soon,
};

type NoBody = RequestBody<Empty<Bytes>>;

#[tokio::test(start_paused = true)]
async fn requests_under_way_end_well_when_the_agent_leaves() {
    for kind in BOTH {
        let begun = tokio::time::Instant::now();
        let mut rig = Rig::new(kind).await;
        let (up, body) = fed();
        let (sending, exchange) = rig.open(RequestBody::Stream(body)).await;
        let (down, body) = fed();
        let answering = tokio::spawn(exchange.responder.send(Response::new(body)));
        let (_, mut response) = soon(sending).await.unwrap().unwrap().into_parts();

        rig.handle.shut_down();
        settled().await;
        assert!(matches!(
            rig.tunnel.reserve().await,
            Err(SendError::NotSent(_))
        ));
        assert!(!rig.tunnel.is_usable());
        assert!(!rig.edge.is_finished() && !rig.agent.is_finished());
        // Control messages pass for as long as a request is open.
        rig.agent_control
            .outgoing
            .send("still here".to_owned())
            .await
            .unwrap();
        assert_eq!(
            soon(rig.edge_control.incoming.recv()).await.unwrap(),
            "still here"
        );

        up.send(Ok(Frame::data(Bytes::from_static(b"up")))).unwrap();
        drop(up);
        assert_eq!(
            soon(exchange.request.into_body().collect())
                .await
                .unwrap()
                .to_bytes(),
            "up"
        );
        down.send(Ok(Frame::data(Bytes::from_static(b"down"))))
            .unwrap();
        let data = soon(response.frame())
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap();
        assert_eq!(data, "down");
        drop(down);
        assert!(soon(response.frame()).await.is_none());
        soon(answering).await.unwrap().unwrap();
        soon(rig.agent).await.unwrap().unwrap();
        soon(rig.edge).await.unwrap().unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "an end waited for a timeout"
        );
        assert_eq!(rig.edge_control.incoming.recv().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_at_once_when_the_agent_leaves() {
    for kind in BOTH {
        let begun = tokio::time::Instant::now();
        let rig = Rig::new(kind).await;
        rig.handle.shut_down();
        soon(rig.agent).await.unwrap().unwrap();
        soon(rig.edge).await.unwrap().unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{kind:?} took {:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_bytes_pass_a_slow_line_before_it_closes() {
    for kind in BOTH {
        let mut rig = Rig::with(kind, 64, &Limits::default()).await;
        let body = pattern(500_000);
        let (sending, exchange) = rig.open(NoBody::Empty).await;
        let response = Response::new(Full::new(body.clone()));
        let answering = tokio::spawn(exchange.responder.send(response));
        rig.handle.shut_down();
        let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
        assert!(soon(response.collect()).await.unwrap().to_bytes() == body);
        soon(answering).await.unwrap().unwrap();
        soon(rig.agent).await.unwrap().unwrap();
        soon(rig.edge).await.unwrap().unwrap();
    }
}

/// A response may be complete on the wire while its user still reads slowly.
#[tokio::test(start_paused = true)]
async fn a_response_that_arrived_is_readable_after_the_connection() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let body = pattern(500_000);
        let (sending, exchange) = rig.open(NoBody::Empty).await;
        exchange
            .responder
            .send(Response::new(Full::new(body.clone())))
            .await
            .unwrap();
        let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
        rig.handle.shut_down();
        soon(rig.agent).await.unwrap().unwrap();
        soon(rig.edge).await.unwrap().unwrap();
        assert!(soon(response.collect()).await.unwrap().to_bytes() == body);
    }
}

/// Dropping a socket resets it when something unread is in it, and the other end loses what was
/// sent last; so the end that leaves waits for the other to close.
#[tokio::test(start_paused = true)]
async fn the_agent_waits_for_the_edge_to_close_but_not_for_ever() {
    for closes in [true, false] {
        let limits = Limits::default();
        let (mut edge, agent) = duplex(PIPE);
        edge.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        edge.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let end = agent_end(Kind::Raw, agent, &limits).await.unwrap();
        let agent = tokio::spawn(end.driver);
        end.handle.shut_down();
        let mut last = None;
        while let Some((kind, _, payload)) = soon(read_frame(&mut edge)).await {
            if kind == PING {
                edge.write_all(&frame(PING, ACK, 0, &payload))
                    .await
                    .unwrap();
            }
            last = Some(kind);
        }
        // The agent has said its last word and closed its direction.
        assert_eq!(last, Some(GOAWAY));
        let begun = tokio::time::Instant::now();
        settled().await;
        assert!(
            !agent.is_finished(),
            "the socket was dropped with the edge still sending"
        );
        if closes {
            drop(edge);
            soon(agent).await.unwrap().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(1));
        } else {
            soon(agent).await.unwrap().unwrap();
            assert!(begun.elapsed() >= limits.keep_alive_timeout);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_driver_owned_ends_when_it_is_dropped() {
    for kind in BOTH {
        for side in ["edge", "agent"] {
            let mut rig = Rig::new(kind).await;
            let counted: Arc<Counted> = Arc::default();
            let up = Counting::new(1000, 16 * 1024, &counted);
            let (waiting, mut unanswered) = rig.open(RequestBody::Stream(up)).await;
            let (sending, exchange) = rig.open(NoBody::Empty).await;
            let down = Counting::new(1000, 16 * 1024, &counted);
            let answering = tokio::spawn(exchange.responder.send(Response::new(down)));
            let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
            settled().await;

            if side == "edge" {
                rig.edge.abort()
            } else {
                rig.agent.abort()
            }

            assert!(matches!(
                soon(waiting).await.unwrap(),
                Err(SendError::Lost(_))
            ));
            soon(unanswered.responder.cancelled()).await;
            assert!(soon(answering).await.unwrap().is_err());
            assert!(
                soon(response.collect()).await.is_err(),
                "a cut response looked whole"
            );
            assert_eq!(soon(rig.edge_control.incoming.recv()).await, None);
            assert_eq!(soon(rig.agent_control.incoming.recv()).await, None);
            let (edge, agent) = (soon(rig.edge).await, soon(rig.agent).await);
            assert!(if side == "edge" {
                edge.is_err()
            } else {
                agent.is_err()
            });
            assert!(!rig.tunnel.is_usable());
            assert!(matches!(
                rig.tunnel.reserve().await,
                Err(SendError::NotSent(_))
            ));
            settled().await;
            assert_eq!(counted.alive(), 0, "a body's task outlived its connection");
        }
    }
}

#[tokio::test]
async fn a_tunnel_whose_driver_never_ran_is_closed() {
    let (edge, _agent) = duplex(PIPE);
    let (tunnel, _control, driver) = edge_end(Kind::WebSocket, edge, &Limits::default())
        .await
        .unwrap();
    assert!(tunnel.is_usable());
    drop(driver);
    assert!(!tunnel.is_usable());
    assert!(matches!(tunnel.reserve().await, Err(SendError::NotSent(_))));
}

#[tokio::test]
async fn a_draining_tunnel_finishes_what_it_has() {
    let mut rig = Rig::new(Kind::WebSocket).await;
    let (sending, exchange) = rig.open(NoBody::Empty).await;
    rig.tunnel.drain();
    assert!(!rig.tunnel.is_usable());
    exchange
        .responder
        .send(Response::new(Full::new(Bytes::from_static(b"ok"))))
        .await
        .unwrap();
    let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
    assert_eq!(soon(response.collect()).await.unwrap().to_bytes(), "ok");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_holds_closes() {
    for kind in BOTH {
        let rig = Rig::new(kind).await;
        // A raw connection's control stream keeps it open; its agent leaves by itself.
        if kind == Kind::Raw {
            rig.handle.shut_down();
        }
        drop(rig.tunnel);
        soon(rig.edge).await.unwrap().unwrap();
        soon(rig.agent).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn requests_on_a_new_connection_pass_while_the_old_one_drains() {
    let mut old = Rig::new(Kind::WebSocket).await;
    let (sending, exchange) = old.open(NoBody::Empty).await;
    old.handle.shut_down();
    let mut new = Rig::new(Kind::WebSocket).await;
    new.small_request().await;
    exchange
        .responder
        .send(Response::new(Full::new(Bytes::from_static(b"old"))))
        .await
        .unwrap();
    let (_, response) = soon(sending).await.unwrap().unwrap().into_parts();
    assert_eq!(soon(response.collect()).await.unwrap().to_bytes(), "old");
    soon(old.agent).await.unwrap().unwrap();
    new.small_request().await;
}

#[tokio::test]
async fn no_request_reaches_the_control_stream() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let slot = rig.tunnel.reserve().await.unwrap();
        let stolen = Request::builder()
            .uri("gatewright://control/")
            .body(())
            .unwrap();
        let sent = soon(slot.send(stolen, NoBody::Empty, |_| {})).await;
        assert!(matches!(sent, Err(SendError::NotSent(Some(_)))));
        rig.small_request().await;
        rig.agent_control
            .outgoing
            .send("unharmed".to_owned())
            .await
            .unwrap();
        assert_eq!(
            soon(rig.edge_control.incoming.recv()).await.unwrap(),
            "unharmed"
        );
    }
}
