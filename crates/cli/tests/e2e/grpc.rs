//! gRPC, with tonic at both ends: unary and streaming calls, trailers, and what the edge says when it
//! has to answer by itself.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::{Stream, StreamExt as _, stream};
use gatewright_testkit::ports::free_port;
use http::uri::PathAndQuery;
use tokio::sync::{Semaphore, mpsc};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, BoxStream, Context, Poll, Service};
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::manifests;
use crate::tunnel::{Carrier, SOON, Tunnel};

on_both_carriers! {
    a_call_that_ends_early_is_felt_by_the_service,
    a_status_with_details_comes_through,
    a_unary_call_with_metadata,
    both_streams_at_the_same_time,
    without_a_tunnel_the_status_is_unavailable,
}

const HOST: &str = "grpc.example.test";

/// Messages are bytes; nothing has to be generated.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A method of a service, made from a function.
struct Method<F>(F);

impl<F, R, Fut, T> Service<R> for Method<F>
where
    F: FnMut(R) -> Fut,
    Fut: Future<Output = Result<T, Status>>,
{
    type Response = T;
    type Error = Status;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Fut {
        (self.0)(request)
    }
}

/// The service under test: each message that its ticker sends waits for a permit.
#[derive(Clone)]
struct Words {
    permits: Arc<Semaphore>,
    /// Told when a stream of the ticker's is dropped.
    left: mpsc::UnboundedSender<()>,
}

impl NamedService for Words {
    const NAME: &'static str = "test.Words";
}

struct Told(mpsc::UnboundedSender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

async fn upper(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let from = request.metadata().get("x-from").cloned();
    let mut response = Response::new(Bytes::from(request.into_inner().to_ascii_uppercase()));
    if let Some(from) = from {
        response.metadata_mut().insert("x-to", from);
    }
    Ok(response)
}

async fn fail(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let details = request.into_inner();
    Err(Status::with_details(
        Code::FailedPrecondition,
        "not now: 100 % sure",
        details,
    ))
}

async fn join(request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
    let mut words = request.into_inner();
    let mut all = Vec::new();
    while let Some(word) = words.message().await? {
        all.extend_from_slice(&word);
    }
    Ok(Response::new(all.into()))
}

async fn each(request: Request<Streaming<Bytes>>) -> Result<Response<BoxStream<Bytes>>, Status> {
    let words = request.into_inner();
    Ok(Response::new(Box::pin(
        words.map(|word| Ok(Bytes::from(word?.to_ascii_uppercase()))),
    )))
}

fn ticks(words: &Words) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    let permits = Arc::clone(&words.permits);
    let told = Told(words.left.clone());
    stream::unfold(
        (permits, told, 0_u32),
        |(permits, told, count)| async move {
            permits.acquire().await.ok()?.forget();
            Some((
                Ok(Bytes::from(format!("tick {count}"))),
                (permits, told, count + 1),
            ))
        },
    )
}

impl Service<http::Request<Body>> for Words {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let words = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Plain);
            Ok(match request.uri().path() {
                "/test.Words/Upper" => grpc.unary(Method(upper), request).await,
                "/test.Words/Fail" => grpc.unary(Method(fail), request).await,
                "/test.Words/Join" => grpc.client_streaming(Method(join), request).await,
                "/test.Words/Each" => grpc.streaming(Method(each), request).await,
                "/test.Words/Ticks" => {
                    let method = |_: Request<Bytes>| {
                        let ticks: BoxStream<Bytes> = Box::pin(ticks(&words));
                        std::future::ready(Ok(Response::new(ticks)))
                    };
                    grpc.server_streaming(Method(method), request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

struct Running {
    address: SocketAddr,
    permits: Arc<Semaphore>,
    left: mpsc::UnboundedReceiver<()>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn serve() -> Running {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let permits = Arc::new(Semaphore::new(0));
    let (sender, left) = mpsc::unbounded_channel();
    let words = Words {
        permits: Arc::clone(&permits),
        left: sender,
    };
    let server = tokio::spawn(async move {
        Server::builder()
            .add_service(words)
            .serve(address)
            .await
            .expect("the service runs");
    });
    Running {
        address,
        permits,
        left,
        server,
    }
}

async fn tunnel_to(carrier: Carrier, service: SocketAddr) -> Tunnel {
    let mut objects = vec![manifests::ingress("grpc", &[(HOST, "/", "grpc")])];
    objects.extend(manifests::h2c_service("grpc", &[service]));
    Tunnel::with(carrier)
        .file("grpc.yaml", manifests::file(objects))
        .start()
        .await
}

async fn client(tunnel: &Tunnel) -> Grpc<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", tunnel.http())).expect("an endpoint");
    let origin = format!("http://{HOST}").parse().expect("an origin");
    let channel = endpoint
        .origin(origin)
        .connect()
        .await
        .expect("connect to the edge");
    let mut client = Grpc::new(channel);
    client.ready().await.expect("a channel that is ready");
    client
}

fn method(name: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(name)
}

async fn unary(
    client: &mut Grpc<Channel>,
    name: &'static str,
    text: &'static str,
) -> Result<Bytes, Status> {
    client.ready().await.expect("a channel that is ready");
    let request = Request::new(Bytes::from_static(text.as_bytes()));
    client
        .unary(request, method(name), Plain)
        .await
        .map(Response::into_inner)
}

async fn a_unary_call_with_metadata(carrier: Carrier) {
    let service = serve();
    let tunnel = tunnel_to(carrier, service.address).await;
    let mut client = client(&tunnel).await;
    let mut request = Request::new(Bytes::from_static(b"hello"));
    request
        .metadata_mut()
        .insert("x-from", "me".parse().expect("a value"));
    request.set_timeout(Duration::from_secs(60));
    let response = client
        .unary(request, method("/test.Words/Upper"), Plain)
        .await
        .expect("an answer");
    assert_eq!(response.metadata().get("x-to").expect("metadata"), "me");
    // tonic puts the trailers beside the metadata.
    assert_eq!(
        response.metadata().get("grpc-status").expect("the trailer"),
        "0"
    );
    assert_eq!(response.into_inner(), "HELLO");
    assert_eq!(
        unary(&mut client, "/test.Words/Upper", "")
            .await
            .expect("an answer"),
        ""
    );
}

async fn a_status_with_details_comes_through(carrier: Carrier) {
    let service = serve();
    let tunnel = tunnel_to(carrier, service.address).await;
    let mut client = client(&tunnel).await;
    let status = unary(&mut client, "/test.Words/Fail", "why")
        .await
        .expect_err("a failure");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), "not now: 100 % sure");
    assert_eq!(status.details(), b"why");
    let status = unary(&mut client, "/test.Words/Nothing", "")
        .await
        .expect_err("a failure");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, "no such method")
    );
}

async fn both_streams_at_the_same_time(carrier: Carrier) {
    let service = serve();
    let tunnel = tunnel_to(carrier, service.address).await;
    let mut client = client(&tunnel).await;

    // Server streaming: a message arrives before the next is sent.
    let request = Request::new(Bytes::new());
    let ticks = client
        .server_streaming(request, method("/test.Words/Ticks"), Plain)
        .await;
    let mut ticks = ticks.expect("a stream").into_inner();
    for count in 0..10 {
        service.permits.add_permits(1);
        let tick = ticks
            .message()
            .await
            .expect("no failure")
            .expect("not the end");
        assert_eq!(tick, format!("tick {count}"));
    }
    drop(ticks);

    // Client streaming.
    client.ready().await.expect("a channel that is ready");
    let words = stream::iter(["a", "b", "c"].map(Bytes::from));
    let joined = client
        .client_streaming(Request::new(words), method("/test.Words/Join"), Plain)
        .await;
    assert_eq!(joined.expect("an answer").into_inner(), "abc");

    // Both: each answer comes before the next question.
    client.ready().await.expect("a channel that is ready");
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let questions = stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    sender
        .send(Bytes::from_static(b"first"))
        .await
        .expect("ask");
    let answers = client
        .streaming(Request::new(questions), method("/test.Words/Each"), Plain)
        .await;
    let mut answers = answers.expect("a stream").into_inner();
    assert_eq!(
        answers
            .message()
            .await
            .expect("no failure")
            .expect("not the end"),
        "FIRST"
    );
    sender
        .send(Bytes::from_static(b"second"))
        .await
        .expect("ask");
    assert_eq!(
        answers
            .message()
            .await
            .expect("no failure")
            .expect("not the end"),
        "SECOND"
    );
    drop(sender);
    assert_eq!(answers.message().await.expect("a clean end"), None);
    assert!(answers.trailers().await.expect("trailers").is_some());
}

async fn a_call_that_ends_early_is_felt_by_the_service(carrier: Carrier) {
    let mut service = serve();
    let tunnel = tunnel_to(carrier, service.address).await;
    let mut client = client(&tunnel).await;
    service.permits.add_permits(1);
    let ticks = client
        .server_streaming(
            Request::new(Bytes::new()),
            method("/test.Words/Ticks"),
            Plain,
        )
        .await;
    let mut ticks = ticks.expect("a stream").into_inner();
    assert_eq!(
        ticks
            .message()
            .await
            .expect("no failure")
            .expect("not the end"),
        "tick 0"
    );
    drop(ticks);
    tokio::time::timeout(SOON, service.left.recv())
        .await
        .expect("the service hears of it")
        .expect("a word");
    assert_eq!(
        unary(&mut client, "/test.Words/Upper", "x")
            .await
            .expect("an answer"),
        "X"
    );
}

async fn without_a_tunnel_the_status_is_unavailable(carrier: Carrier) {
    let service = serve();
    let mut tunnel = tunnel_to(carrier, service.address).await;
    let mut client = client(&tunnel).await;
    assert_eq!(
        unary(&mut client, "/test.Words/Upper", "x")
            .await
            .expect("an answer"),
        "X"
    );
    tunnel.stop_agent(0).await;
    tunnel.await_answer(HOST, "/", 503, "no_tunnel").await;
    let status = unary(&mut client, "/test.Words/Upper", "x")
        .await
        .expect_err("a failure");
    assert_eq!(
        (status.code() as i32, status.code()),
        (14, Code::Unavailable)
    );
    assert_eq!(
        status
            .metadata()
            .get("x-gatewright-error")
            .expect("the code"),
        "no_tunnel"
    );
    assert!(
        status.message().contains("not connected"),
        "{}",
        status.message()
    );
}
