//! One request from the tunnel to a backend and back. It goes where the agent's own table says; the
//! edge's word counts for the route's id only.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use gatewright_link::{Exchange, Progress, RecvBody, Responder, Watched};
use gatewright_routes::{BackendProtocol, RouteId};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

use crate::pool::{ConnectError, Pool, PooledBody, RequestBody, Sender};
use crate::table::{Target, Targets};

const ROUTE: HeaderName = HeaderName::from_static("x-gatewright-route");
const ERROR: HeaderName = HeaderName::from_static("x-gatewright-error");
const UPGRADED: HeaderName = HeaderName::from_static("x-gatewright-upgraded");
const OWN_PREFIX: &str = "x-gatewright-";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Endpoints that a request tries when connections are refused.
const TRIES: usize = 3;
/// A kept-alive connection that idled this long may be closing at the other end; a request that is
/// safe to repeat is kept for a second try then.
const STALE: Duration = Duration::from_millis(500);

/// What one thread's requests need.
pub(crate) struct Forwarder {
    pub(crate) targets: Arc<ArcSwap<Targets>>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) first_byte: Duration,
}

/// Why the agent answers by itself: `X-Gatewright-Error` and a status, as the edge knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    RouteGone,
    NoEndpoints,
    BackendRefused,
    ConnectTimeout,
    BackendProtocol,
    FirstByteTimeout,
}

impl Failure {
    fn response(self) -> Response<Empty<Bytes>> {
        let (status, code) = match self {
            Self::RouteGone => (StatusCode::SERVICE_UNAVAILABLE, "route_gone"),
            Self::NoEndpoints => (StatusCode::SERVICE_UNAVAILABLE, "no_endpoints"),
            Self::BackendRefused => (StatusCode::BAD_GATEWAY, "backend_refused"),
            Self::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "backend_connect_timeout"),
            Self::BackendProtocol => (StatusCode::BAD_GATEWAY, "backend_protocol"),
            Self::FirstByteTimeout => (StatusCode::GATEWAY_TIMEOUT, "first_byte_timeout"),
        };
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(ERROR, HeaderValue::from_static(code));
        response
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Timeout => Self::ConnectTimeout,
            ConnectError::Refused(_) => Self::BackendRefused,
            ConnectError::Handshake(_) => Self::BackendProtocol,
        }
    }
}

fn failure_of(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        Failure::BackendProtocol
    } else {
        Failure::BackendRefused
    }
}

impl Forwarder {
    /// Serves one stream to its end.
    pub(crate) async fn serve(self: Arc<Self>, exchange: Exchange) {
        let upgrade = exchange
            .protocol()
            .map(|protocol| protocol.as_str().to_ascii_lowercase());
        let Exchange { request, responder } = exchange;
        let Some(target) = self.target(request.headers()) else {
            answer(responder, Failure::RouteGone).await;
            return;
        };
        if let Some(protocol) = upgrade {
            return self.upgrade(&target, request, responder, &protocol).await;
        }
        // Shared with the backend's connection, which hears informational responses.
        let shared = Arc::new(Mutex::new(Some(responder)));
        let outcome = tokio::select! {
            biased;
            outcome = self.exchange(&target, request, &shared) => outcome,
            // Nobody waits for the answer: the backend's work ends with this future.
            () = poll_fn(|cx| match lock(&shared).as_mut() {
                Some(responder) => responder.poll_cancelled(cx),
                None => Poll::Pending,
            }) => return,
        };
        let Some(responder) = lock(&shared).take() else {
            return;
        };
        match outcome {
            Ok(response) => {
                if let Err(error) = responder.send(response).await {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a response ended early"
                    );
                }
            }
            Err(failure) => answer(responder, failure).await,
        }
    }

    fn target(&self, headers: &HeaderMap) -> Option<Arc<Target>> {
        let id: RouteId = headers.get(ROUTE)?.to_str().ok()?.parse().ok()?;
        self.targets.load().get(id).cloned()
    }

    async fn exchange(
        &self,
        target: &Target,
        request: Request<RecvBody>,
        responder: &SharedResponder,
    ) -> Result<Response<PooledBody>, Failure> {
        let (head, body) = request.into_parts();
        let empty = http_body::Body::is_end_stream(&body);
        let progress = Arc::new(Progress::default());
        let mut request = outgoing(head, target.protocol)?.map(|()| {
            if empty {
                no_body()
            } else {
                Watched::new(body, Arc::clone(&progress)).boxed_unsync()
            }
        });
        pass_informational(&mut request, responder);
        for attempt in 1.. {
            let address = target.pick().ok_or(Failure::NoEndpoints)?;
            let sender = match self.pool.check_out(address, target.protocol).await {
                Ok(sender) => sender,
                Err(ConnectError::Refused(_)) if attempt < TRIES.min(target.endpoints.len()) => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match sender {
                Sender::Http2(mut sender) => {
                    let sent = sender.send_request(request);
                    let response = progress
                        .answer_within(self.first_byte, sent)
                        .await
                        .ok_or(Failure::FirstByteTimeout)?
                        .map_err(|error| failure_of(&error))?;
                    return Ok(incoming(response.map(|body| PooledBody::new(body, None))));
                }
                Sender::Http1 {
                    mut sender,
                    idle_since,
                } => {
                    let spare = idle_since
                        .filter(|since| {
                            empty && since.elapsed() >= STALE && is_safe(request.method())
                        })
                        .and_then(|_| copy(&request));
                    let sent = sender.try_send_request(request);
                    match progress.answer_within(self.first_byte, sent).await {
                        None => return Err(Failure::FirstByteTimeout),
                        // Nobody asked for another protocol.
                        Some(Ok(response))
                            if response.status() == StatusCode::SWITCHING_PROTOCOLS =>
                        {
                            return Err(Failure::BackendProtocol);
                        }
                        Some(Ok(response)) => {
                            let home = Some((Arc::clone(&self.pool), address, sender));
                            return Ok(incoming(response.map(|body| PooledBody::new(body, home))));
                        }
                        Some(Err(mut error)) => match error.take_message().or(spare) {
                            // A kept-alive connection that the backend closed meanwhile.
                            Some(unsent) if idle_since.is_some() => request = unsent,
                            Some(_) | None => return Err(failure_of(error.error())),
                        },
                    }
                }
            }
        }
        Err(Failure::BackendRefused)
    }

    async fn upgrade(
        &self,
        target: &Target,
        request: Request<RecvBody>,
        mut responder: Responder,
        protocol: &str,
    ) {
        let (mut head, body) = request.into_parts();
        head.method = Method::GET;
        let accepted = tokio::select! {
            biased;
            accepted = self.ask_upgrade(target, head, protocol) => accepted,
            () = responder.cancelled() => return,
        };
        let response = match accepted {
            Ok(response) => response,
            Err(failure) => return answer(responder, failure).await,
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let response = incoming(response.map(|body| PooledBody::new(body, None)));
            let _ = responder.send(response).await;
            return;
        }
        let (head, _) = {
            let (parts, body) = response.into_parts();
            (Response::from_parts(parts, ()), body)
        };
        let mut answer_head = Response::new(());
        *answer_head.headers_mut() = head.headers().clone();
        strip(answer_head.headers_mut());
        if let Ok(value) = HeaderValue::from_str(protocol) {
            answer_head.headers_mut().insert(UPGRADED, value);
        }
        let Ok(backend) = hyper::upgrade::on(head).await else {
            return answer(responder, Failure::BackendProtocol).await;
        };
        let Ok(mut stream) = responder.upgrade(answer_head, body) else {
            return;
        };
        let mut backend = TokioIo::new(backend);
        // Bytes pass as they are; a clean end of one direction leaves the other open.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut backend).await;
    }

    /// Asks a backend over HTTP/1.1 to switch protocols, on a connection of its own.
    async fn ask_upgrade(
        &self,
        target: &Target,
        head: http::request::Parts,
        protocol: &str,
    ) -> Result<Response<hyper::body::Incoming>, Failure> {
        let mut request = outgoing(head, BackendProtocol::Http)?.map(|()| no_body());
        let headers = request.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(
            UPGRADE,
            HeaderValue::from_str(protocol).map_err(|_| Failure::BackendProtocol)?,
        );
        let by_extended_connect =
            protocol == "websocket" && !headers.contains_key(SEC_WEBSOCKET_KEY);
        if by_extended_connect {
            // The user came over HTTP/2, which has no key (RFC 8441 §5); HTTP/1.1 needs one.
            headers.insert(SEC_WEBSOCKET_KEY, websocket_key());
            headers
                .entry(SEC_WEBSOCKET_VERSION)
                .or_insert(HeaderValue::from_static("13"));
        }
        let address = target.pick().ok_or(Failure::NoEndpoints)?;
        let Sender::Http1 { mut sender, .. } = self.pool.connect_http1(address).await? else {
            return Err(Failure::BackendProtocol);
        };
        let sent = tokio::time::timeout(self.first_byte, sender.send_request(request));
        let mut response = sent
            .await
            .map_err(|_| Failure::FirstByteTimeout)?
            .map_err(|error| failure_of(&error))?;
        if by_extended_connect {
            response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        }
        Ok(response)
    }
}

/// The answering half of a stream, shared until the final response begins.
type SharedResponder = Arc<Mutex<Option<Responder>>>;

fn lock(responder: &SharedResponder) -> MutexGuard<'_, Option<Responder>> {
    responder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a backend's 1xx responses passed on as they come. `100 Continue` ends here: the edge answers
/// `Expect` by itself when it begins to read the body.
fn pass_informational(request: &mut Request<RequestBody>, responder: &SharedResponder) {
    let responder = Arc::clone(responder);
    hyper::ext::on_informational(request, move |early| {
        let status = early.status();
        if status == StatusCode::CONTINUE || status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = early.headers().clone();
        strip(head.headers_mut());
        if let Some(responder) = lock(&responder).as_mut() {
            // Fails only when the stream is gone, which the exchange notices.
            let _ = responder.send_informational(head);
        }
    });
}

async fn answer(responder: Responder, failure: Failure) {
    // Fails only when nobody waits for it.
    let _ = responder.send(failure.response()).await;
}

fn no_body() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The request as the backend gets it: origin form (or with its authority for HTTP/2), `Host` as
/// the user wrote it, nothing of ours.
fn outgoing(
    mut head: http::request::Parts,
    protocol: BackendProtocol,
) -> Result<Request<()>, Failure> {
    drop_own(&mut head.headers);
    let mut request = Request::new(());
    let path = head.uri.path_and_query().cloned();
    match protocol {
        BackendProtocol::Http => {
            let authority = head.uri.authority().ok_or(Failure::RouteGone)?;
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Failure::RouteGone)?;
            head.headers.insert(HOST, host);
            if head.headers.contains_key(TE) {
                // Only `trailers` is left of it here; it concerns this connection (RFC 9110 §10.1.4).
                head.headers
                    .insert(CONNECTION, HeaderValue::from_static("te"));
            }
            join_cookies(&mut head.headers);
            *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        }
        BackendProtocol::H2c => {
            *request.uri_mut() = head.uri;
            *request.version_mut() = Version::HTTP_2;
        }
    }
    *request.method_mut() = head.method;
    *request.headers_mut() = head.headers;
    Ok(request)
}

/// HTTP/2 may carry cookies in several fields, HTTP/1.1 in one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() < 2 {
        return;
    }
    // Joined from valid values with valid bytes.
    if let Ok(value) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, value);
    }
}

/// A second copy of a request without a body.
fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let mut copy = Request::new(no_body());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Safe to repeat (RFC 9110 §9.2.1).
fn is_safe(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD || *method == Method::OPTIONS
}

/// A backend's response as it travels through the tunnel.
fn incoming(mut response: Response<PooledBody>) -> Response<PooledBody> {
    *response.version_mut() = Version::HTTP_2;
    strip(response.headers_mut());
    response
}

/// Drops what ends here: hop-by-hop fields (HTTP/2 forbids them), those that `Connection`
/// nominates, and fields that only we may set.
fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
            .filter(|name| {
                // What the user relies on is not the backend's to hide behind `Connection`.
                *name != http::header::SET_COOKIE
                    && *name != CONTENT_LENGTH
                    && *name != http::header::CONTENT_TYPE
                    && *name != http::header::LOCATION
            })
            .collect();
        for name in nominated {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION] {
        headers.remove(name);
    }
    drop_own(headers);
}

fn drop_own(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(OWN_PREFIX))
        .cloned()
        .collect();
    for name in own {
        headers.remove(name);
    }
}

fn websocket_key() -> HeaderValue {
    use base64::Engine as _;
    let mut bytes = [0; 16];
    // A predictable key is no weakness towards our own backend (RFC 6455 §10.3 protects caches).
    let _ = getrandom::fill(&mut bytes);
    HeaderValue::from_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
        .unwrap_or_else(|_| HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}
