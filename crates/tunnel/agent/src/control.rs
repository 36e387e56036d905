//! The agent's side of the control channel of one connection: registers, sends heartbeats and
//! routes, hears what the edge refused. What to send is decided by the pure session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gatewright_link::ControlChannel;
use gatewright_routes::RouteId;
use gatewright_routes::message::{
    AgentMessage, EdgeMessage, Heartbeat, HeartbeatMetadata, Refused, Register, RegisterSuccess,
};
use gatewright_routes::session::AgentSession;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::shared::Shared;

/// Request id of the last heartbeat.
const LEAVE: &str = "leave";
/// How long the edge's answer to it is waited for.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// Why a control session ended.
pub(crate) enum Ended {
    /// The agent stops.
    Draining,
    /// The connection is over.
    Left,
    /// The edge does not want this agent, and said why.
    Refused(String),
}

/// One registered connection in the agent's status, until it is dropped.
struct Counted<'a> {
    shared: &'a Shared,
    edge: &'a str,
}

impl<'a> Counted<'a> {
    fn new(shared: &'a Shared, edge: &'a str, success: &RegisterSuccess) -> Self {
        shared.status.send_modify(|status| {
            *status.connections.entry(edge.to_owned()).or_default() += 1;
            if !success.own_host.is_empty() {
                status
                    .own_hosts
                    .insert(edge.to_owned(), success.own_host.clone());
            }
        });
        Self { shared, edge }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.shared.status.send_modify(|status| {
            if let Some(count) = status.connections.get_mut(self.edge) {
                *count = count.saturating_sub(1);
            }
        });
    }
}

/// Runs the control channel until the connection or the agent ends.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    edge: &str,
    slot: u32,
    session: &mut AgentSession,
    control: &mut ControlChannel,
) -> Ended {
    let success = match register(shared, slot, session, control).await {
        Ok(success) => success,
        Err(ended) => return ended,
    };
    tracing::info!(
        edge,
        slot,
        cluster = success.cluster_uuid,
        own_host = success.own_host,
        "registered"
    );
    let _counted = Counted::new(shared, edge, &success);
    if slot == 0 {
        exchange(shared, edge, session, control, &success).await
    } else {
        listen(shared, slot, control).await
    }
}

async fn register(
    shared: &Shared,
    slot: u32,
    session: &AgentSession,
    control: &mut ControlChannel,
) -> Result<RegisterSuccess, Ended> {
    let message = registration(shared, slot, session, false);
    send(control, "register", message).await;
    let answer = tokio::time::timeout(shared.limits.handshake_timeout, async {
        loop {
            let text = control.incoming.recv().await.ok_or(Ended::Left)?;
            match EdgeMessage::decode(&text) {
                Ok((_, EdgeMessage::RegisterSuccess(success))) => return Ok(success),
                Ok((_, EdgeMessage::Error(error))) => return Err(Ended::Refused(error.error)),
                Ok((
                    _,
                    EdgeMessage::HeartbeatAck(_)
                    | EdgeMessage::IngressRoutesAck(_)
                    | EdgeMessage::Unknown(_),
                )) => {}
                Err(error) => return Err(Ended::Refused(error.to_string())),
            }
        }
    });
    answer.await.unwrap_or_else(|_| {
        Err(Ended::Refused(
            "it did not answer the registration".to_owned(),
        ))
    })
}

fn registration(shared: &Shared, slot: u32, session: &AgentSession, drain: bool) -> AgentMessage {
    AgentMessage::Register(Register {
        agent_id: shared.agent_id.clone(),
        connection: slot,
        connections: shared.config.connections,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        k8s_version: shared.kubernetes_version.clone(),
        resume: (slot == 0).then(|| session.position()),
        drain,
        ..Register::default()
    })
}

/// A connection that carries requests only.
async fn listen(shared: &Shared, slot: u32, control: &mut ControlChannel) -> Ended {
    loop {
        tokio::select! {
            text = control.incoming.recv() => if text.is_none() { return Ended::Left },
            () = shared.drain.cancelled() => {
                let session = AgentSession::new(shared.generation);
                return take_leave(shared, slot, &session, control).await;
            }
        }
    }
}

/// The connection that also carries heartbeats and routes.
async fn exchange(
    shared: &Shared,
    edge: &str,
    session: &mut AgentSession,
    control: &mut ControlChannel,
    success: &RegisterSuccess,
) -> Ended {
    let began = Instant::now();
    let mut clock = Clock { began };
    let mut offer = shared.offer.subscribe();
    let routes = offer.borrow_and_update().routes.as_ref().clone();
    session.set_routes(routes);
    session.connected(clock.now(), success.resume);
    let mut heartbeat = interval(shared.config.timeouts.heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number: u64 = 0;
    loop {
        while let Some(message) = session.poll(clock.now()) {
            number += 1;
            send(
                control,
                &format!("routes-{number}"),
                AgentMessage::IngressRoutes(message),
            )
            .await;
        }
        publish(shared, edge, session);
        let timeout = session.next_timeout().map(|millis| clock.at(millis));
        tokio::select! {
            text = control.incoming.recv() => match text {
                None => return Ended::Left,
                Some(text) => take(edge, session, clock.now(), &text),
            },
            changed = offer.changed() => {
                if changed.is_err() {
                    return Ended::Left;
                }
                let routes = offer.borrow_and_update().routes.as_ref().clone();
                session.set_routes(routes);
            }
            _ = heartbeat.tick() => {
                number += 1;
                let message = beat(shared);
                send(control, &format!("heartbeat-{number}"), message).await;
            }
            () = sleep_until(timeout.unwrap_or(began)), if timeout.is_some() => {}
            () = shared.drain.cancelled() => {
                return take_leave(shared, 0, session, control).await;
            }
        }
    }
}

/// Tells the edge to choose this connection no more, and waits until it has heard it. Requests that it
/// had chosen the connection for by then are on their way, and come in before the GOAWAY counts; one
/// that came after it would be lost.
async fn take_leave(
    shared: &Shared,
    slot: u32,
    session: &AgentSession,
    control: &mut ControlChannel,
) -> Ended {
    send(control, "drain", registration(shared, slot, session, true)).await;
    // The edge takes messages in their order, so the answer to this one is the answer to both.
    send(control, LEAVE, beat(shared)).await;
    let heard = async {
        while let Some(text) = control.incoming.recv().await {
            match EdgeMessage::decode(&text) {
                Ok((id, EdgeMessage::HeartbeatAck(_))) if id == LEAVE => return,
                Ok(_) | Err(_) => {}
            }
        }
    };
    // An edge that does not answer must not keep the agent from stopping.
    let _ = tokio::time::timeout(LEAVE_PATIENCE, heard).await;
    Ended::Draining
}

/// The session's virtual time: milliseconds since this control session began.
struct Clock {
    began: Instant,
}

impl Clock {
    fn now(&mut self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, millis: u64) -> Instant {
        // One more, or rounding would wake us a fraction too early, again and again.
        self.began + std::time::Duration::from_millis(millis.saturating_add(1).min(1 << 40))
    }
}

fn take(edge: &str, session: &mut AgentSession, now: u64, text: &str) {
    match EdgeMessage::decode(text) {
        Ok((_, EdgeMessage::IngressRoutesAck(ack))) => {
            session.on_ack(now, &ack);
        }
        Ok((_, EdgeMessage::Error(error))) => {
            tracing::warn!(
                edge,
                code = error.code,
                "the edge reports an error: {}",
                error.error
            );
        }
        Ok((_, EdgeMessage::HeartbeatAck(_) | EdgeMessage::RegisterSuccess(_))) => {}
        Ok((_, EdgeMessage::Unknown(kind))) => {
            tracing::debug!(edge, kind, "unknown control message")
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(edge, error, "the edge sent a message that cannot be read");
        }
    }
}

fn beat(shared: &Shared) -> AgentMessage {
    let offer = shared.offer.borrow();
    AgentMessage::Heartbeat(Heartbeat {
        agent_id: Some(shared.agent_id.clone()),
        status: Some("healthy".to_owned()),
        metadata: HeartbeatMetadata {
            is_private: Some(offer.is_private),
            gateway_routes: Some(offer.routes.len() as u64),
            agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            k8s_version: shared.kubernetes_version.clone(),
            ..HeartbeatMetadata::default()
        },
        ..Heartbeat::default()
    })
}

/// Shows what the session knows to the reporter and to health checks, and logs what is new.
fn publish(shared: &Shared, edge: &str, session: &AgentSession) {
    let unchanged = |before: &BTreeMap<RouteId, Refused>| {
        let reasons = |all: &BTreeMap<RouteId, Refused>| {
            all.iter()
                .map(|(id, refused)| (*id, refused.reason))
                .collect::<Vec<_>>()
        };
        reasons(before) == reasons(session.refusals())
    };
    shared.refusals.send_if_modified(|all| {
        let before = all.entry(edge.to_owned()).or_default();
        if unchanged(before) {
            return false;
        }
        let now = with_places(shared, session.refusals());
        for (id, refused) in now.iter().filter(|(id, _)| !before.contains_key(id)) {
            tracing::warn!(edge, route = %id, host = refused.host, path = refused.path,
                reason = %refused.reason, "the edge refuses a route: {}", refused.message);
        }
        for (id, refused) in before.iter().filter(|(id, _)| !now.contains_key(id)) {
            tracing::info!(edge, route = %id, host = refused.host, path = refused.path,
                "the route is no longer refused");
        }
        *before = now;
        true
    });
    let in_sync = session.in_sync();
    shared.status.send_if_modified(|status| {
        status.in_sync.insert(edge.to_owned(), in_sync) != Some(in_sync)
    });
}

/// Refusals with the host and path that the route has here: an edge may answer with ids alone.
fn with_places(
    shared: &Shared,
    refusals: &BTreeMap<RouteId, Refused>,
) -> BTreeMap<RouteId, Refused> {
    let offer = shared.offer.borrow();
    let mut placed = refusals.clone();
    for (id, refused) in &mut placed {
        if let Some(route) = offer.routes.get(id) {
            refused.host = route
                .host
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            refused.path.clone_from(&route.path);
        }
    }
    placed
}

async fn send(control: &ControlChannel, request_id: &str, message: AgentMessage) {
    let text = message.encode(request_id, &crate::shared::rfc3339());
    // Fails only when the connection is over, which its driver reports.
    let _ = control.outgoing.send(text).await;
}
