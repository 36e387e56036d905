//! The control channel: order, sizes, and that neither side is drowned by it or by the streams.

use std::sync::Arc;

use bytes::Bytes;
use gatewright_link::{Limits, LinkError, RequestBody};
use http::Response;
use http_body_util::{BodyExt, Empty};

use crate::rig::{BOTH, Counted, Counting, Rig, soon};

const LONGEST: usize = 4 * 1024 * 1024;

#[tokio::test]
async fn texts_pass_in_order_both_ways() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let (edge, agent) = (&mut rig.edge_control, &mut rig.agent_control);
        for at in 0..200 {
            edge.outgoing.send(format!("down {at} é")).await.unwrap();
            agent.outgoing.send(format!("up {at}")).await.unwrap();
            if at % 20 == 19 {
                for at in at - 19..=at {
                    assert_eq!(
                        soon(agent.incoming.recv()).await.unwrap(),
                        format!("down {at} é")
                    );
                    assert_eq!(
                        soon(edge.incoming.recv()).await.unwrap(),
                        format!("up {at}")
                    );
                }
            }
        }
        // An empty text is a text too.
        agent.outgoing.send(String::new()).await.unwrap();
        assert_eq!(soon(edge.incoming.recv()).await.unwrap(), "");
    }
}

#[tokio::test]
async fn the_longest_message_passes_and_a_longer_one_is_refused_where_it_was_made() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let longest = "x".repeat(LONGEST);
        rig.edge_control
            .outgoing
            .send(longest.clone())
            .await
            .unwrap();
        rig.agent_control
            .outgoing
            .send(longest.clone())
            .await
            .unwrap();
        assert!(soon(rig.agent_control.incoming.recv()).await.unwrap() == longest);
        assert!(soon(rig.edge_control.incoming.recv()).await.unwrap() == longest);

        rig.agent_control
            .outgoing
            .send(longest + "x")
            .await
            .unwrap();
        let error = soon(rig.agent).await.unwrap().unwrap_err();
        assert!(
            matches!(error, LinkError::ControlTooLong { bytes, limit: LONGEST } if bytes == LONGEST + 1)
        );
        assert_eq!(
            error.to_string(),
            "cannot send a control message of 4194305 bytes: at most 4194304 are allowed"
        );
        assert!(soon(rig.edge).await.is_ok());
    }
}

#[tokio::test]
async fn a_flood_that_nobody_takes_ends_its_own_connection_only() {
    for kind in BOTH {
        for from in ["agent", "edge"] {
            let mut rig = Rig::new(kind).await;
            let mut other = Rig::new(kind).await;
            let flooding = match from {
                "agent" => rig.agent_control.outgoing.clone(),
                _ => rig.edge_control.outgoing.clone(),
            };
            let flood =
                tokio::spawn(
                    async move { while flooding.send("again".to_owned()).await.is_ok() {} },
                );
            let (flooded, flooder) = match from {
                "agent" => (rig.edge, rig.agent),
                _ => (rig.agent, rig.edge),
            };
            let error = soon(flooded).await.unwrap().unwrap_err();
            assert!(
                matches!(error, LinkError::ControlOverflow),
                "{kind:?} {from}: {error:?}"
            );
            // The flooder's end is over too, however it tells it.
            let _ended = soon(flooder).await.unwrap();
            soon(flood).await.unwrap();
            // What was taken before stays readable, and then the channel ends.
            let victim = match from {
                "agent" => &mut rig.edge_control,
                _ => &mut rig.agent_control,
            };
            let mut taken = 0;
            while soon(victim.incoming.recv()).await.is_some() {
                taken += 1;
            }
            assert_eq!(taken, 64);
            other.small_request().await;
        }
    }
}

#[tokio::test]
async fn nobody_listening_is_no_overflow() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let (kept, dropped) = (rig.agent_control.outgoing.clone(), rig.edge_control);
        drop(dropped);
        for _ in 0..200 {
            kept.send("to nobody".to_owned()).await.unwrap();
        }
        rig.edge_control = Rig::new(kind).await.edge_control;
        rig.small_request().await;
    }
}

/// A snapshot of routes must not wait behind somebody's download.
#[tokio::test]
async fn control_passes_while_bulk_saturates_the_connection() {
    for kind in BOTH {
        let limits = Limits::default();
        let mut rig = Rig::tcp(kind, &limits).await;
        let counted: Arc<Counted> = Arc::default();
        let mut reading = Vec::new();
        for _ in 0..8 {
            let (sending, exchange) = rig.open(RequestBody::<Empty<Bytes>>::Empty).await;
            let body = Counting::new(usize::MAX, 16 * 1024, &counted);
            tokio::spawn(exchange.responder.send(Response::new(body)));
            let (_, mut response) = soon(sending).await.unwrap().unwrap().into_parts();
            reading.push(tokio::spawn(async move {
                while let Some(Ok(_)) = response.frame().await {}
            }));
        }
        let snapshot = "r".repeat(64 * 1024);
        let mut between = Vec::new();
        for _ in 0..50 {
            let before = counted.bytes();
            rig.agent_control
                .outgoing
                .send(snapshot.clone())
                .await
                .unwrap();
            assert!(soon(rig.edge_control.incoming.recv()).await.unwrap() == snapshot);
            rig.edge_control
                .outgoing
                .send("ack".to_owned())
                .await
                .unwrap();
            assert_eq!(
                soon(rig.agent_control.incoming.recv()).await.unwrap(),
                "ack"
            );
            between.push(counted.bytes() - before);
        }
        between.sort_unstable();
        let median = between[between.len() / 2];
        assert!(
            counted.bytes() > 50 * 64 * 1024,
            "nothing saturates the connection"
        );
        // What the sockets and buffers hold passes first, and no more than that.
        assert!(median < 32 * 1024 * 1024, "{median} bytes passed a message");
        for reading in reading {
            reading.abort();
        }
    }
}
