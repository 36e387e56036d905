//! Users that the raw client cannot play: HTTP/2 with prior knowledge, and a body that is counted
//! instead of kept. It may not retry anything.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// A request body of any kind.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// One HTTP/2 connection of a user.
#[derive(Clone)]
pub(crate) struct H2 {
    sender: http2::SendRequest<Body>,
}

impl H2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("connect to the edge");
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(256 * 1024)
            .handshake(TokioIo::new(socket))
            .await
            .expect("an HTTP/2 handshake");
        // Its end shows in the requests on it.
        tokio::spawn(connection);
        Self { sender }
    }

    pub(crate) async fn send(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, hyper::Error> {
        self.sender.clone().send_request(request).await
    }

    pub(crate) async fn get(&self, host: &str, target: &str) -> http::Response<Incoming> {
        let request = http::Request::get(format!("http://{host}{target}")).body(empty());
        self.send(request.expect("a request")).await.expect("a response")
    }
}
