//! One thread of the agent: keeps one connection to each edge, serves the streams that come in, and
//! dials again when a connection ends. Times between dials are decided in `backoff`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatewright_link::{
    ControlChannel, Dialled, Driver, Endpoint, Exchange, LinkError, ServerHandle, dial, serve_raw,
    serve_websocket,
};
use gatewright_routes::session::AgentSession;
use http::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::control::{self, Ended};
use crate::forward::Forwarder;
use crate::pool::Pool;
use crate::shared::Shared;
use crate::{Error, backoff};

/// How often idle backend connections are looked at.
const SWEEP: Duration = Duration::from_secs(15);
/// Tasks that run before the thread asks the kernel for events.
const EVENT_INTERVAL: u32 = 128;

/// Runs a thread until the agent has drained.
pub(crate) fn run(shared: &Arc<Shared>, slot: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(shared, slot)),
        Err(error) => tracing::error!(%error, "an agent's thread has no runtime"),
    }
}

async fn serve(shared: &Arc<Shared>, slot: u32) {
    let pool = Pool::new(
        shared.config.limits.idle_backends,
        shared.config.timeouts.connect,
    );
    let forwarder = Arc::new(Forwarder {
        targets: Arc::clone(&shared.targets),
        pool: Arc::clone(&pool),
        first_byte: shared.config.timeouts.first_byte,
    });
    let mut dialling = JoinSet::new();
    for endpoint in &shared.config.edges {
        let line = Line {
            shared: Arc::clone(shared),
            forwarder: Arc::clone(&forwarder),
            endpoint: endpoint.clone(),
            slot,
        };
        dialling.spawn(line.keep());
    }
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            ended = dialling.join_next() => if ended.is_none() { return },
            _ = sweep.tick() => pool.sweep(),
            () = shared.cancel.cancelled() => return,
        }
    }
}

/// The `Authorization` value for the token in a file.
pub(crate) fn authorization(path: &Path) -> Result<HeaderValue, Error> {
    let bad = |source| Error::TokenFile {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(Some(error)))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(bad(None));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| bad(None))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The connection of one thread to one edge.
struct Line {
    shared: Arc<Shared>,
    forwarder: Arc<Forwarder>,
    endpoint: Endpoint,
    slot: u32,
}

impl Line {
    /// Dials until the agent drains.
    async fn keep(self) {
        let shared = &self.shared;
        let edge = self.endpoint.to_string();
        // Outlives connections, so that a reconnect can go on where the last one ended.
        let mut session = AgentSession::new(shared.generation);
        let mut failures = 0;
        while !shared.drain.is_cancelled() {
            let began = Instant::now();
            let ended = self.connect(&mut session, &edge).await;
            session.disconnected();
            if shared.drain.is_cancelled() {
                return;
            }
            if began.elapsed() >= backoff::HEALTHY {
                failures = 0;
            }
            failures += 1;
            let wait = match &ended {
                Err(LinkError::Refused { .. }) => backoff::refused(random()),
                Ok(()) | Err(_) => backoff::full_jitter(failures, random()),
            };
            match &ended {
                Ok(()) => tracing::info!(
                    edge,
                    slot = self.slot,
                    ?wait,
                    "the edge closed the connection; dialling again"
                ),
                Err(error) => {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(
                        edge,
                        slot = self.slot,
                        ?wait,
                        error,
                        "no connection to the edge; dialling again"
                    );
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shared.drain.cancelled() => return,
            }
        }
    }

    /// One connection from its dial to its end.
    async fn connect(&self, session: &mut AgentSession, edge: &str) -> Result<(), LinkError> {
        let shared = &self.shared;
        let authorization = authorization(&shared.config.token_file).map_err(|error| {
            let source = std::io::Error::other(error);
            LinkError::Io {
                doing: "cannot read the token",
                source,
            }
        })?;
        let dialled = tokio::select! {
            dialled = dial(&self.endpoint, &shared.tls, &authorization, &shared.limits) => dialled?,
            () = shared.drain.cancelled() => return Ok(()),
        };
        let streams = TaskTracker::new();
        let on_exchange = {
            let forwarder = Arc::clone(&self.forwarder);
            let streams = streams.clone();
            move |exchange: Exchange| {
                streams.spawn(Arc::clone(&forwarder).serve(exchange));
            }
        };
        let (handle, control, driver) = match dialled {
            Dialled::WebSocket(socket) => {
                serve_websocket(*socket, &shared.limits, on_exchange).await?
            }
            Dialled::SecureWebSocket(socket) => {
                serve_websocket(*socket, &shared.limits, on_exchange).await?
            }
            Dialled::Tls(socket) => {
                serve_raw(*socket, authorization, &shared.limits, on_exchange).await?
            }
        };
        self.drive(session, edge, handle, control, driver).await
    }

    async fn drive(
        &self,
        session: &mut AgentSession,
        edge: &str,
        handle: ServerHandle,
        mut control: ControlChannel,
        mut driver: Driver,
    ) -> Result<(), LinkError> {
        let shared = &self.shared;
        let ended = tokio::select! {
            ended = &mut driver => return ended,
            ended = control::run(shared, edge, self.slot, session, &mut control) => ended,
        };
        match ended {
            Ended::Draining => {
                // GOAWAY: the driver ends when the last stream is over.
                handle.shut_down();
                let limit = shared.config.timeouts.drain;
                tokio::time::timeout(limit, driver).await.unwrap_or(Ok(()))
            }
            Ended::Left => driver.await,
            Ended::Refused(message) => Err(LinkError::NotAnEdge {
                endpoint: edge.to_owned(),
                detail: message,
            }),
        }
    }
}

/// Between 0 and 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the delays are full ones, which is safe.
    if getrandom::fill(&mut bytes).is_err() {
        return 1.0;
    }
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
