//! Agents at the edge: the `/ws` endpoint, the handshake, and the control session of each
//! connection. It carries out what the pure session decides; it may not decide about routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatewright_link::{
    ControlChannel, Driver, SUBPROTOCOL_H2R, Tunnel, accept_raw, accept_websocket,
    derive_accept_key, is_upgrade_token,
};
use gatewright_routes::message::{
    AgentMessage, DecodeError, EdgeMessage, ErrorReply, HeartbeatAck, IngressRoutes, Register,
    RegisterSuccess,
};
use gatewright_routes::session::{EdgeSession, Step};
use http::header::{
    AUTHORIZATION, CONNECTION, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::clusters::{Cluster, ClusterEvent};
use crate::connections::Connection;
use crate::guard::Guarded;
use crate::server::{Shared, UserConnection};
use crate::token::TokenId;

/// How long a cluster counts as alive without a heartbeat.
const LEASE: Duration = Duration::from_secs(300);
/// How long a connection that is refused may take to hear why.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Malformed control messages after which a connection is ended.
const MAX_BAD_MESSAGES: u32 = 16;

/// Whether a request's host is the edge's own: its domain, an address, or localhost. Users' hosts
/// never are, so a user's `/ws` stays the user's.
pub(crate) fn is_own_host(edge: &Shared, authority: &[u8], name: Option<&str>) -> bool {
    if let Some(name) = name {
        return name == edge.config.domain.as_str() || name == "localhost";
    }
    let Ok(text) = std::str::from_utf8(authority) else {
        return false;
    };
    if let Some(rest) = text.strip_prefix('[') {
        return rest
            .split_once(']')
            .is_some_and(|(address, _)| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    host.parse::<std::net::Ipv4Addr>().is_ok()
}

/// An agent's connection on its way to the worker that will drive it.
pub(crate) struct Arrival {
    socket: std::net::TcpStream,
    remote: SocketAddr,
    kind: ArrivalKind,
}

enum ArrivalKind {
    /// Upgraded and authenticated; the bytes were read early.
    WebSocket {
        place: Place,
        token: TokenId,
        early: Vec<u8>,
    },
    /// Just accepted.
    Tls(TlsAcceptor),
}

/// A connection's place at a worker, from the choice of the worker to the connection's end.
struct Place {
    cluster: Arc<Cluster>,
    worker: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cluster.connections.leave_place(self.worker);
    }
}

impl Arrival {
    pub(crate) fn tls(
        socket: std::net::TcpStream,
        remote: SocketAddr,
        acceptor: TlsAcceptor,
    ) -> Self {
        Self {
            socket,
            remote,
            kind: ArrivalKind::Tls(acceptor),
        }
    }
}

fn refuse(status: StatusCode, message: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(message.as_bytes()));
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if status == StatusCode::UPGRADE_REQUIRED {
        response
            .headers_mut()
            .insert(UPGRADE, HeaderValue::from_static("websocket"));
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    response
}

/// Answers an agent's upgrade request. The credential comes first: without one, a caller learns
/// nothing else.
pub(crate) fn upgrade(
    user: &Arc<UserConnection>,
    mut request: Request<Incoming>,
) -> Response<Bytes> {
    let edge = &user.edge;
    let bearer = bearer(request.headers());
    let Some((cluster, token)) = bearer.and_then(|bearer| edge.clusters.authenticate(bearer))
    else {
        edge.metrics.agent_rejected();
        return refuse(
            StatusCode::UNAUTHORIZED,
            "the token is missing, unknown or revoked\n",
        );
    };
    if edge.drain.is_cancelled() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "this edge is stopping\n");
    }
    let headers = request.headers();
    let is_websocket = headers.get(UPGRADE).is_some_and(is_upgrade_token)
        && headers
            .get(SEC_WEBSOCKET_VERSION)
            .is_some_and(|version| version == "13");
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_websocket) else {
        return refuse(
            StatusCode::UPGRADE_REQUIRED,
            "this is the agents' WebSocket endpoint\n",
        );
    };
    let offers_h2r = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|offer| offer.trim_ascii() == SUBPROTOCOL_H2R.as_bytes());
    if !offers_h2r {
        return refuse(
            StatusCode::BAD_REQUEST,
            "no common subprotocol: this edge speaks gatewright.h2r.v1\n",
        );
    }
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is malformed\n");
    };
    user.state.upgraded();
    let on_upgrade = hyper::upgrade::on(&mut request);
    let arriving = arrive(Arc::clone(user), on_upgrade, cluster, token);
    edge.tasks.spawn(arriving);
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    fields.insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL_H2R),
    );
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Waits for the 101 to be out, and hands the socket to the worker that has the fewest of this
/// cluster's connections, so that each worker gets one of its own.
async fn arrive(
    user: Arc<UserConnection>,
    on_upgrade: hyper::upgrade::OnUpgrade,
    cluster: Arc<Cluster>,
    token: TokenId,
) {
    let Ok(upgraded) = on_upgrade.await else {
        return;
    };
    type Inner = TokioIo<Guarded<TcpStream>>;
    let Ok(parts) = hyper_util::server::conn::auto::upgrade::downcast::<Inner>(upgraded) else {
        tracing::error!("an upgraded connection is not a TCP connection");
        return;
    };
    let early = parts.read_buf.to_vec();
    let Ok(socket) = parts.io.into_inner().into_inner().into_std() else {
        return;
    };
    let edge = &user.edge;
    let worker = cluster
        .connections
        .take_place(edge.handoffs.len(), user.worker);
    let kind = ArrivalKind::WebSocket {
        place: Place { cluster, worker },
        token,
        early,
    };
    let _ = edge.handoffs[worker].send(Arrival {
        socket,
        remote: user.remote,
        kind,
    });
}

/// A connection that an agent may use, with everything that belongs to it.
struct Accepted {
    cluster: Arc<Cluster>,
    place: Option<Place>,
    token: TokenId,
    carrier: &'static str,
    tunnel: Tunnel,
    control: ControlChannel,
    driver: Driver,
}

/// Drives one agent's connection from its arrival to its end.
pub(crate) async fn run(edge: Arc<Shared>, worker: usize, arrival: Arrival) {
    let remote = arrival.remote;
    let accepted = match accept(&edge, arrival).await {
        Ok(Some(accepted)) => accepted,
        Ok(None) => {
            return tracing::warn!(%remote, "an agent presented an unknown or revoked token");
        }
        Err(error) => {
            return tracing::debug!(%remote, error = &error as &dyn std::error::Error, "an agent's connection failed");
        }
    };
    let Accepted {
        cluster,
        place: _place,
        token,
        carrier,
        tunnel,
        control,
        mut driver,
    } = accepted;
    let close = CancellationToken::new();
    let session = Session {
        edge: &edge,
        cluster: &cluster,
        token,
        carrier,
        tunnel,
        worker,
        remote,
        close: close.clone(),
        connection: None,
        routes: None,
        bad_messages: 0,
    };
    let ended = tokio::select! {
        ended = &mut driver => ended.map_err(|error| Chain(&error).to_string()),
        ended = session.run(control) => {
            // The last answer says why; it needs the driver to get out.
            let _ = tokio::time::timeout(LAST_WORDS, &mut driver).await;
            Err(ended.to_owned())
        }
        () = close.cancelled() => Err("the token was revoked or the cluster deleted".to_owned()),
        () = edge.stop.cancelled() => Ok(()),
    };
    match ended {
        Ok(()) => tracing::info!(cluster = %cluster.id, %remote, "an agent's connection ended"),
        Err(reason) => {
            tracing::info!(cluster = %cluster.id, %remote, reason, "an agent's connection ended");
        }
    }
}

/// An error with its sources, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

async fn accept(
    edge: &Shared,
    arrival: Arrival,
) -> Result<Option<Accepted>, gatewright_link::LinkError> {
    let io = |doing| move |source| gatewright_link::LinkError::Io { doing, source };
    let socket = TcpStream::from_std(arrival.socket).map_err(io("cannot take the socket over"))?;
    socket
        .set_nodelay(true)
        .map_err(io("cannot set TCP_NODELAY"))?;
    match arrival.kind {
        ArrivalKind::WebSocket {
            place,
            token,
            early,
        } => {
            let (tunnel, control, driver) =
                accept_websocket(socket, early, &edge.link_limits).await?;
            Ok(Some(Accepted {
                cluster: Arc::clone(&place.cluster),
                place: Some(place),
                token,
                carrier: "websocket",
                tunnel,
                control,
                driver,
            }))
        }
        ArrivalKind::Tls(acceptor) => {
            let limits = &edge.link_limits;
            let handshake = tokio::time::timeout(limits.handshake_timeout, acceptor.accept(socket));
            let socket = handshake
                .await
                .map_err(|_| {
                    gatewright_link::LinkError::HandshakeTimeout(limits.handshake_timeout)
                })?
                .map_err(io("the TLS handshake failed"))?;
            let raw = accept_raw(socket, limits).await?;
            let token = raw
                .authorization
                .strip_prefix("Bearer ")
                .unwrap_or_default();
            let Some((cluster, token)) = edge.clusters.authenticate(token) else {
                edge.metrics.agent_rejected();
                return Ok(None);
            };
            Ok(Some(Accepted {
                cluster,
                // The listener has spread these by turns.
                place: None,
                token,
                carrier: "tls",
                tunnel: raw.tunnel,
                control: raw.control,
                driver: raw.driver,
            }))
        }
    }
}

/// The control session of one connection.
struct Session<'a> {
    edge: &'a Arc<Shared>,
    cluster: &'a Arc<Cluster>,
    token: TokenId,
    carrier: &'static str,
    tunnel: Tunnel,
    worker: usize,
    remote: SocketAddr,
    close: CancellationToken,
    connection: Option<Arc<Connection>>,
    /// Made by the first `ingress_routes`: only one connection of an agent carries them.
    routes: Option<EdgeSession>,
    bad_messages: u32,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            self.cluster.connections.remove(connection.id);
        }
    }
}

impl Session<'_> {
    /// Answers messages until the connection is over; says why it ended it.
    async fn run(mut self, mut control: ControlChannel) -> &'static str {
        let patience = self.edge.link_limits.handshake_timeout;
        let Ok(first) = tokio::time::timeout(patience, control.incoming.recv()).await else {
            return "it did not register in time";
        };
        let Some(first) = first else {
            return "it left before it registered";
        };
        let mut events = self.edge.clusters.events();
        let (request_id, register) = match AgentMessage::decode(&first) {
            Ok((request_id, AgentMessage::Register(register))) => (request_id, register),
            Ok((
                request_id,
                AgentMessage::Heartbeat(_)
                | AgentMessage::IngressRoutes(_)
                | AgentMessage::Unknown(_),
            )) => {
                let reply = error_reply("not_registered", "the first message must be register");
                send(&control, &request_id, reply).await;
                return "its first message was not register";
            }
            Err(error) => {
                self.answer_bad(&control, &error).await;
                return "its first message could not be read";
            }
        };
        if self.cluster.connections.len() >= self.edge.config.limits.tunnels {
            let reply = error_reply(
                "too_many_connections",
                "the cluster has as many connections as it may; stop agents that are not needed",
            );
            send(&control, &request_id, reply).await;
            return "its cluster has too many connections";
        }
        let reply = self.register(&register);
        if !self.edge.clusters.is_valid(&self.token) {
            // Revoked between its check and its place among the connections.
            return "its token was revoked";
        }
        send(&control, &request_id, reply).await;
        if register.resume.is_some() {
            // Verdicts may have changed while nobody could be told.
            self.tell_all(&control).await;
        }
        loop {
            tokio::select! {
                text = control.incoming.recv() => {
                    let Some(text) = text else { return "it left" };
                    if !self.take(&control, &text).await {
                        return "it sent too many malformed messages";
                    }
                }
                event = events.recv() => {
                    match event {
                        Ok(event) => self.tell(&control, &event).await,
                        Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                            self.tell_all(&control).await;
                        }
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => return "the edge is stopping",
                    }
                }
            }
        }
    }

    fn register(&mut self, register: &Register) -> EdgeMessage {
        let connection = Arc::new(Connection {
            id: self.edge.connection_id(),
            worker: self.worker,
            agent_id: register.agent_id.clone(),
            agent_version: register.agent_version.clone(),
            carrier: self.carrier,
            remote: self.remote,
            since: clock::unix_seconds(),
            token: self.token.clone(),
            tunnel: self.tunnel.clone(),
            close: self.close.clone(),
        });
        self.cluster.connections.add(Arc::clone(&connection));
        self.cluster.touch(clock::unix_millis());
        self.connection = Some(connection);
        tracing::info!(cluster = %self.cluster.id, name = %self.cluster.name, remote = %self.remote,
            carrier = self.carrier, agent = %register.agent_id, "an agent connected");
        EdgeMessage::RegisterSuccess(RegisterSuccess {
            cluster_id: self.cluster.id.to_string(),
            cluster_uuid: self.cluster.id.to_string(),
            name: self.cluster.name.clone(),
            own_host: self.cluster.own_host.to_string(),
            edge_id: self.edge.edge_id.clone(),
            resume: self.edge.clusters.position(&self.cluster.id),
            max_streams: self.edge.link_limits.max_streams,
        })
    }

    /// Answers one message; false when the agent has sent too many that are malformed.
    async fn take(&mut self, control: &ControlChannel, text: &str) -> bool {
        match AgentMessage::decode(text) {
            Ok((request_id, AgentMessage::Heartbeat(heartbeat))) => {
                self.cluster.touch(clock::unix_millis());
                self.cluster.note_heartbeat(&heartbeat.metadata);
                let ack = HeartbeatAck {
                    lease_seconds: Some(LEASE.as_secs()),
                };
                send(control, &request_id, EdgeMessage::HeartbeatAck(ack)).await;
            }
            Ok((request_id, AgentMessage::IngressRoutes(routes))) => {
                for reply in self.routes(routes).await {
                    send(control, &request_id, reply).await;
                }
            }
            Ok((_, AgentMessage::Register(register))) => {
                if register.drain {
                    self.tunnel.drain();
                }
            }
            Ok((_, AgentMessage::Unknown(kind))) => {
                // A later agent's: tolerated, and counted so that somebody sees it.
                self.edge.metrics.count_control("unknown_type");
                tracing::debug!(cluster = %self.cluster.id, kind, "unknown control message");
            }
            Err(error) => {
                self.answer_bad(control, &error).await;
                self.bad_messages += 1;
                return self.bad_messages < MAX_BAD_MESSAGES;
            }
        }
        true
    }

    async fn answer_bad(&self, control: &ControlChannel, error: &DecodeError) {
        self.edge.metrics.count_control(error.code());
        let reply = error_reply(error.code(), &Chain(error).to_string());
        send(control, error.request_id(), reply).await;
    }

    async fn routes(&mut self, message: IngressRoutes) -> Vec<EdgeMessage> {
        let edge = self.edge;
        let cluster = self.cluster;
        let session = self.routes.get_or_insert_with(|| {
            let position = edge.clusters.position(&cluster.id);
            EdgeSession::with_limit(position, edge.config.limits.routes)
        });
        match session.on_routes(message) {
            Step::Apply { change, position } => {
                match edge.clusters.apply(&cluster.id, change, position).await {
                    Ok(acks) => acks
                        .into_iter()
                        .map(EdgeMessage::IngressRoutesAck)
                        .collect(),
                    Err(error) => {
                        tracing::error!(cluster = %cluster.id, error = &error as &dyn std::error::Error, "cannot keep routes");
                        let ack = session.apply_failed();
                        vec![
                            error_reply("store_failed", &error.to_string()),
                            EdgeMessage::IngressRoutesAck(ack),
                        ]
                    }
                }
            }
            Step::Staged(ack) | Step::Resync(ack) => vec![EdgeMessage::IngressRoutesAck(ack)],
        }
    }

    /// Passes on what changed without the agent's doing, as when another cluster gave up a host.
    async fn tell(&self, control: &ControlChannel, event: &ClusterEvent) {
        if self.routes.is_none() {
            return;
        }
        if let ClusterEvent::VerdictsChanged { cluster, ack } = event
            && *cluster == self.cluster.id
        {
            send(control, "", EdgeMessage::IngressRoutesAck(ack.clone())).await;
        }
    }

    async fn tell_all(&self, control: &ControlChannel) {
        for ack in self.edge.clusters.full_ack(&self.cluster.id) {
            send(control, "", EdgeMessage::IngressRoutesAck(ack)).await;
        }
    }
}

fn error_reply(code: &str, message: &str) -> EdgeMessage {
    EdgeMessage::Error(ErrorReply {
        code: code.to_owned(),
        error: message.to_owned(),
    })
}

async fn send(control: &ControlChannel, request_id: &str, message: EdgeMessage) {
    let text = message.encode(request_id, &clock::rfc3339());
    // Fails only when the connection is over, which its driver reports.
    let _ = control.outgoing.send(text).await;
}

/// Ends the connections of tokens that were revoked and of clusters that were deleted.
pub(crate) fn watch_revocations(edge: &Arc<Shared>) -> tokio::task::JoinHandle<()> {
    let edge = Arc::clone(edge);
    let mut events = edge.clusters.events();
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                () = edge.stop.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(ClusterEvent::TokenRevoked { cluster, token }) => {
                    cluster
                        .connections
                        .close_where(|connection| connection.token == token);
                }
                Ok(ClusterEvent::Deleted(cluster)) => cluster.connections.close_where(|_| true),
                Ok(ClusterEvent::VerdictsChanged { .. }) => {}
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                    edge.clusters.close_unknown();
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    })
}
