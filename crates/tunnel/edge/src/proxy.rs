//! One user's request from its head to the end of its response: check, match, choose a tunnel,
//! carry. Each phase is a function; the hot path takes no lock and touches no network but the
//! tunnel. It may not decide who owns a host.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gatewright_link::{
    BodyError, Progress, Protocol, RequestBody, ResponseBody, SendError, Slot, Watched,
};
use gatewright_names::normalise_authority;
use gatewright_routes::NoMatch;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::clusters::EdgeRoute;
use crate::connections::Pick;
use crate::guard::Active;
use crate::headers::{self, Origin};
use crate::respond::{self, ErrorCode, Form};
use crate::server::UserConnection;
use crate::{access_log, agents};

/// Handles one request. Errors become responses; only a body that breaks off breaks the connection.
pub(crate) async fn handle(
    user: Arc<UserConnection>,
    request: Request<Incoming>,
) -> Result<Response<EdgeBody>, std::convert::Infallible> {
    let active = user.state.begin();
    let started = Instant::now();
    let mut record = Record {
        user,
        _active: active,
        route: None,
        started,
        host: HeaderValue::from_static(""),
        target: request.uri().path_and_query().cloned(),
        method: request.method().clone(),
        status: StatusCode::OK,
        bytes: 0,
        error: None,
    };
    let form = Form::of(request.headers());
    let response = match carry(&mut record, request).await {
        Ok(Answer::Streamed(head, body)) => {
            record.status = head.status;
            let tracked = Tracked::new(body, record);
            return Ok(Response::from_parts(
                head,
                EdgeBody::Tunnel(Box::new(tracked)),
            ));
        }
        Ok(Answer::Own(response)) => {
            record.status = response.status();
            response
        }
        Err(code) => {
            record.error = Some(code);
            record.note_error(code);
            let response = respond::error(code, form);
            record.status = response.status();
            response
        }
    };
    record.bytes = response.body().len() as u64;
    Ok(response.map(EdgeBody::from))
}

/// How a request was answered.
enum Answer {
    Streamed(http::response::Parts, ResponseBody),
    Own(Response<Bytes>),
}

async fn carry(record: &mut Record, mut request: Request<Incoming>) -> Result<Answer, ErrorCode> {
    let user = Arc::clone(&record.user);
    check_head(&user, &request)?;
    let host = authority(&request)?;
    record.host = host.clone();
    let mut buffer = [0; 256];
    let name = normalise_authority(host.as_bytes(), &mut buffer);
    if request.uri().path() == "/ws" && agents::is_own_host(&user.edge, host.as_bytes(), name) {
        return Ok(Answer::Own(agents::upgrade(&user, request)));
    }
    let route = match_route(&user, name, request.uri().path())?;
    record.route = Some(Arc::clone(&route));
    let length = body_length(&user, &request)?;
    let wanted = wanted_upgrade(&request);
    let on_upgrade = wanted.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    let uri = target(&host, head.uri)?;
    headers::request(
        &mut head.headers,
        &Origin {
            address: &user.address,
            host: &host,
            scheme: user.scheme,
            trusted: user.trusted,
        },
    );
    head.headers.insert(headers::ROUTE, route.id_header.clone());
    if !head.headers.contains_key(headers::REQUEST_ID) {
        head.headers
            .insert(headers::REQUEST_ID, user.edge.request_id());
    }
    let mut outgoing = Request::new(());
    *outgoing.uri_mut() = uri;
    *outgoing.headers_mut() = head.headers;
    // Last of all: a connection may be left by its agent at any moment after this.
    let slot = reserve(&user, &route).await?;
    let Some((protocol, on_upgrade)) = wanted.zip(on_upgrade) else {
        *outgoing.method_mut() = head.method;
        let (parts, body) = exchange(&user, slot, outgoing, body, head.version, length).await?;
        return Ok(Answer::Streamed(parts, body));
    };
    *outgoing.method_mut() = Method::CONNECT;
    outgoing
        .extensions_mut()
        .insert(Protocol::from(protocol.as_str()));
    upgrade(record, slot, outgoing, on_upgrade, &protocol, head.version).await
}

/// Refuses heads that are too large, ambiguous or not for a gateway.
fn check_head(user: &UserConnection, request: &Request<Incoming>) -> Result<(), ErrorCode> {
    let limits = &user.edge.config.limits;
    if user.state.is_ambiguous() {
        return Err(ErrorCode::BadRequest);
    }
    if request
        .uri()
        .path_and_query()
        .is_some_and(|target| target.as_str().len() > limits.uri)
    {
        return Err(ErrorCode::UriTooLong);
    }
    if request.headers().len() > limits.header_count
        || headers::size(request.headers()) > limits.headers
    {
        return Err(ErrorCode::HeadersTooLarge);
    }
    let is_tunnelled = request.extensions().get::<hyper::ext::Protocol>().is_some();
    if request.method() == Method::CONNECT && !is_tunnelled {
        return Err(ErrorCode::MethodNotAllowed);
    }
    Ok(())
}

/// The host that the request is for, as the user wrote it. An absolute target beats `Host`
/// (RFC 9112 §3.2.2); two different answers are refused.
fn authority(request: &Request<Incoming>) -> Result<HeaderValue, ErrorCode> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(ErrorCode::BadRequest);
    }
    match (request.uri().authority(), host) {
        (Some(authority), host) => {
            let same = host.is_none_or(|host| {
                host.as_bytes()
                    .eq_ignore_ascii_case(authority.as_str().as_bytes())
            });
            if !same && request.version() == Version::HTTP_2 {
                return Err(ErrorCode::BadRequest);
            }
            HeaderValue::from_str(authority.as_str()).map_err(|_| ErrorCode::BadRequest)
        }
        (None, Some(host)) if !host.is_empty() => Ok(host.clone()),
        (None, _) => Err(ErrorCode::BadRequest),
    }
}

fn match_route(
    user: &UserConnection,
    name: Option<&str>,
    path: &str,
) -> Result<Arc<EdgeRoute>, ErrorCode> {
    let name = name.ok_or(ErrorCode::UnknownHost)?;
    let snapshot = user.edge.clusters.snapshot();
    match snapshot.table.lookup(name, path) {
        Ok(route) => Ok(Arc::clone(route)),
        Err(NoMatch::UnknownHost) => Err(ErrorCode::UnknownHost),
        Err(NoMatch::UnknownPath) => Err(ErrorCode::UnknownPath),
        Err(NoMatch::BadPath(_)) => Err(ErrorCode::AmbiguousPath),
    }
}

/// The declared length of the body, checked against the limit.
fn body_length(
    user: &UserConnection,
    request: &Request<Incoming>,
) -> Result<Option<u64>, ErrorCode> {
    let length = match request.headers().get(CONTENT_LENGTH) {
        None => return Ok(None),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(ErrorCode::BadRequest)?,
    };
    match user.edge.config.limits.body {
        Some(limit) if length > limit => Err(ErrorCode::BodyTooLarge),
        Some(_) | None => Ok(Some(length)),
    }
}

/// A place on one of the cluster's connections.
async fn reserve(user: &UserConnection, route: &EdgeRoute) -> Result<Slot, ErrorCode> {
    loop {
        match route.cluster.connections.pick(user.worker) {
            Pick::None => return Err(ErrorCode::NoTunnel),
            Pick::Full => return Err(ErrorCode::TunnelFull),
            Pick::Connection(connection) => {
                // A connection that refuses marks itself unusable, so the loop ends.
                if let Ok(slot) = connection.tunnel.reserve().await {
                    return Ok(slot);
                }
            }
        }
    }
}

fn wanted_upgrade(request: &Request<Incoming>) -> Option<String> {
    match request.version() {
        Version::HTTP_11 => headers::upgrade(request.headers()),
        Version::HTTP_2 => request
            .extensions()
            .get::<hyper::ext::Protocol>()
            .map(|protocol| protocol.as_str().to_ascii_lowercase()),
        _ => None,
    }
}

/// The request target with the user's `Host` as its authority; path and query byte for byte.
fn target(host: &HeaderValue, uri: Uri) -> Result<Uri, ErrorCode> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority =
        Some(Authority::try_from(host.as_bytes()).map_err(|_| ErrorCode::BadRequest)?);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    Uri::from_parts(parts).map_err(|_| ErrorCode::BadRequest)
}

/// Sends the request and waits for the response head.
async fn exchange(
    user: &UserConnection,
    slot: Slot,
    request: Request<()>,
    body: Incoming,
    version: Version,
    length: Option<u64>,
) -> Result<(http::response::Parts, ResponseBody), ErrorCode> {
    let first_byte = user.edge.config.timeouts.first_byte;
    let on_informational = |early: Response<()>| pass_early(user, version, early);
    let response = if body.is_end_stream() {
        let sent = slot.send(request, RequestBody::<UserBody>::Empty, on_informational);
        match tokio::time::timeout(first_byte, sent).await {
            Ok(response) => response.map_err(|error| lost(&error))?,
            Err(_) => return Err(ErrorCode::FirstByteTimeout),
        }
    } else {
        let upload = Arc::new(Upload::default());
        let progress = Arc::new(Progress::default());
        let body = UserBody {
            body,
            upload: Arc::clone(&upload),
            taken: 0,
            limit: user.edge.config.limits.body.filter(|_| length.is_none()),
            idle: Idle::new(user.edge.config.timeouts.request_idle),
        };
        let body = RequestBody::Stream(Watched::new(body, Arc::clone(&progress)));
        let sent = slot.send(request, body, on_informational);
        // The time for the first byte counts from the request's last, or from the last that was
        // taken of it.
        let response = progress
            .answer_within(first_byte, sent)
            .await
            .ok_or(ErrorCode::FirstByteTimeout)?;
        response.map_err(|error| upload.why().unwrap_or_else(|| lost(&error)))?
    };
    let (mut head, body) = response.into_parts();
    if let Some(code) = head
        .headers
        .get(headers::ERROR)
        .and_then(ErrorCode::from_agent)
    {
        return Err(code);
    }
    head.version = Version::HTTP_11;
    headers::response(&mut head.headers);
    Ok((head, body))
}

/// Passes an informational response on to a client that knows them. `100 Continue` is hyper's: it
/// is sent when the body is first read.
fn pass_early(user: &UserConnection, version: Version, mut early: Response<()>) {
    if version == Version::HTTP_11 && early.status() != StatusCode::CONTINUE {
        headers::response(early.headers_mut());
        user.state.push_early(&early);
    }
}

fn lost(error: &SendError) -> ErrorCode {
    match error {
        SendError::NotSent(_) => ErrorCode::NoTunnel,
        SendError::Lost(_) => ErrorCode::TunnelLost,
    }
}

/// Carries an upgrade: the backend decides, and after its yes the bytes pass as they are.
async fn upgrade(
    record: &mut Record,
    slot: Slot,
    request: Request<()>,
    on_upgrade: hyper::upgrade::OnUpgrade,
    protocol: &str,
    version: Version,
) -> Result<Answer, ErrorCode> {
    let user = Arc::clone(&record.user);
    let sent = slot.send(request, RequestBody::<UserBody>::Upgrade, |_| {});
    let response = tokio::time::timeout(user.edge.config.timeouts.first_byte, sent)
        .await
        .map_err(|_| ErrorCode::FirstByteTimeout)?
        .map_err(|error| lost(&error))?;
    if let Some(code) = response
        .head
        .headers
        .get(headers::ERROR)
        .and_then(ErrorCode::from_agent)
    {
        return Err(code);
    }
    if !response.head.headers.contains_key(headers::UPGRADED) {
        let (mut head, body) = response.into_parts();
        head.version = Version::HTTP_11;
        headers::response(&mut head.headers);
        return Ok(Answer::Streamed(head, body));
    }
    let (mut head, stream) = response.into_upgraded();
    let mut stream = stream.ok_or(ErrorCode::TunnelLost)?;
    headers::response(&mut head.headers);
    let mut answer = Response::new(Bytes::new());
    *answer.headers_mut() = head.headers;
    if version == Version::HTTP_11 {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let value = HeaderValue::from_str(protocol).map_err(|_| ErrorCode::BadRequest)?;
        answer.headers_mut().insert(UPGRADE, value);
        user.state.upgraded();
    }
    let tasks = user.edge.tasks.clone();
    let stop = user.edge.stop.clone();
    let held = user.state.begin();
    tasks.spawn(async move {
        let _held = held;
        let Ok(upgraded) = on_upgrade.await else {
            return;
        };
        let mut upgraded = hyper_util::rt::TokioIo::new(upgraded);
        tokio::select! {
            // Either side's failure ends both; a clean end of one direction leaves the other open.
            _ = tokio::io::copy_bidirectional(&mut upgraded, &mut stream) => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(Answer::Own(answer))
}

/// How far a request body has come, shared with the task that sends it.
#[derive(Debug, Default)]
struct Upload {
    too_large: AtomicBool,
    too_slow: AtomicBool,
    /// Its framing is malformed, or the user has gone.
    broken: AtomicBool,
}

impl Upload {
    fn why(&self) -> Option<ErrorCode> {
        if self.too_large.load(Ordering::Relaxed) {
            Some(ErrorCode::BodyTooLarge)
        } else if self.too_slow.load(Ordering::Relaxed) {
            Some(ErrorCode::RequestTimeout)
        } else if self.broken.load(Ordering::Relaxed) {
            Some(ErrorCode::BadRequest)
        } else {
            None
        }
    }
}

/// A user's request body with its limits.
struct UserBody {
    body: Incoming,
    upload: Arc<Upload>,
    taken: u64,
    limit: Option<u64>,
    idle: Idle,
}

/// Why a user's body ends early.
#[derive(Debug, thiserror::Error)]
enum UserBodyError {
    #[error("the body is longer than allowed")]
    TooLarge,
    #[error("the body stopped coming")]
    Idle,
    #[error("the user's connection failed")]
    User(#[source] hyper::Error),
}

impl Body for UserBody {
    type Data = Bytes;
    type Error = UserBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UserBodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending if this.idle.poll_over(cx) => {
                this.upload.too_slow.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(UserBodyError::Idle)))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => {
                this.upload.broken.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(UserBodyError::User(error))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.moved();
                this.taken += frame.data_ref().map_or(0, |data| data.len() as u64);
                if this.limit.is_some_and(|limit| this.taken > limit) {
                    this.upload.too_large.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(UserBodyError::TooLarge)));
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A limit on standing still. The timer is made only when something does stand still.
struct Idle {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    fn moved(&mut self) {
        if let Some(timer) = self.timer.as_mut() {
            timer.as_mut().reset(Instant::now() + self.limit);
        }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> bool {
        let limit = self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).is_ready()
    }
}

/// A response body to a user.
pub(crate) enum EdgeBody {
    /// From memory.
    Full(Option<Bytes>),
    /// From the tunnel.
    Tunnel(Box<Tracked>),
}

impl From<Bytes> for EdgeBody {
    fn from(bytes: Bytes) -> Self {
        Self::Full(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

/// Why a response breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error("the tunnel broke the response off")]
    Tunnel(#[source] BodyError),
    #[error("the backend sent nothing for too long")]
    Idle,
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Tunnel(tracked) => tracked.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Tunnel(tracked) => tracked.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Tunnel(tracked) => tracked.body.size_hint(),
        }
    }
}

/// A response body that knows what it is part of, and tells when it is over.
pub(crate) struct Tracked {
    body: ResponseBody,
    idle: Idle,
    record: Record,
}

impl Tracked {
    fn new(body: ResponseBody, record: Record) -> Self {
        let idle = Idle::new(record.user.edge.config.timeouts.response_idle);
        Self { body, idle, record }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending if self.idle.poll_over(cx) => {
                self.record.error = Some(ErrorCode::FirstByteTimeout);
                Poll::Ready(Some(Err(ResponseError::Idle)))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.moved();
                self.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.record.error = Some(ErrorCode::BackendRefused);
                self.record.note_error(ErrorCode::BackendRefused);
                Poll::Ready(Some(Err(ResponseError::Tunnel(error))))
            }
        }
    }
}

/// What is known of a request; counted and logged when it is over, however it ends.
struct Record {
    user: Arc<UserConnection>,
    _active: Active,
    route: Option<Arc<EdgeRoute>>,
    started: Instant,
    host: HeaderValue,
    target: Option<PathAndQuery>,
    method: Method,
    status: StatusCode,
    bytes: u64,
    error: Option<ErrorCode>,
}

impl Record {
    fn cluster(&self) -> &str {
        self.route
            .as_ref()
            .map_or("", |route| route.cluster.id.as_str())
    }

    /// Shows trouble with a known route on the status page.
    fn note_error(&self, code: ErrorCode) {
        if self.route.is_some() {
            let host = String::from_utf8_lossy(self.host.as_bytes());
            self.user
                .edge
                .recent_errors
                .push(code.as_str(), self.cluster(), &host, code.message());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let edge = &self.user.edge;
        match &self.route {
            Some(route) => route.cluster.stats.record(self.status.as_u16(), duration),
            None => edge.metrics.record_unrouted(self.status.as_u16(), duration),
        }
        edge.access_log.write(&access_log::Line {
            cluster: self.cluster(),
            host: self.host.to_str().unwrap_or_default(),
            path: self.target.as_ref().map_or("*", PathAndQuery::path),
            method: self.method.as_str(),
            status: self.status.as_u16(),
            duration,
            bytes: self.bytes,
            client: &self.user.address_text,
            error: self.error.map(ErrorCode::as_str),
        });
    }
}
