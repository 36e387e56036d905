//! Dialling: the whole way through sockets and TLS, and what each failure says.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use gatewright_link::{
    ALPN, Dialled, Endpoint, Limits, LinkError, RequestBody, SUBPROTOCOL_H2R, SUBPROTOCOL_JSON,
    accept_raw, accept_websocket, derive_accept_key, dial, serve_raw, serve_websocket,
};
use http::Response;
use http_body_util::{BodyExt, Empty};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::rig::{TOKEN, authorization, post, soon, text};

/// A certificate authority of a test's own, with a certificate for localhost.
struct Tls {
    client: Arc<ClientConfig>,
    server: ServerConfig,
}

fn tls(alpn: &[&[u8]]) -> Tls {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = issued.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    server.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    Tls {
        client: Arc::new(client),
        server,
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn read_head<S: AsyncRead + Unpin>(socket: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(socket.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Answers an upgrade as an edge does, with the subprotocol line as given.
async fn accept_upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    subprotocol: &str,
) -> String {
    let head = read_head(socket).await;
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let (_, key) = fields
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .unwrap();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {}\r\n{subprotocol}\r\n",
        derive_accept_key(key.as_bytes()),
    );
    socket.write_all(answer.as_bytes()).await.unwrap();
    head
}

async fn dial_error(endpoint: &str, tls: &Arc<ClientConfig>) -> LinkError {
    let endpoint: Endpoint = endpoint.parse().unwrap();
    let dialled = soon(dial(&endpoint, tls, &authorization(), &Limits::default())).await;
    let error = dialled.map(|_| ()).unwrap_err();
    let everything = format!("{error} {error:?} {:?}", error.source());
    assert!(
        !everything.contains(TOKEN) && !everything.contains("gw_secret"),
        "{everything}"
    );
    error
}

/// The error of dialling something that answers a request with these bytes and closes.
async fn answered_with(answer: &'static str) -> (LinkError, SocketAddr) {
    let (listener, address) = listen().await;
    let answering = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_head(&mut socket).await;
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        // Closed only after the other side, so that no reset overtakes the answer.
        let _ = socket.read_to_end(&mut Vec::new()).await;
    });
    let error = dial_error(&format!("ws://{address}"), &tls(&[]).client).await;
    soon(answering).await.unwrap();
    (error, address)
}

#[tokio::test]
async fn a_websocket_carries_requests_from_the_dial_on() {
    let Tls { client, server } = tls(&[b"http/1.1"]);
    for secure in [false, true] {
        let (listener, address) = listen().await;
        let acceptor = TlsAcceptor::from(Arc::new(server.clone()));
        let edge = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let subprotocol = format!("sec-websocket-protocol: {SUBPROTOCOL_H2R}\r\n");
            if secure {
                let mut socket = acceptor.accept(socket).await.unwrap();
                let head = accept_upgrade(&mut socket, &subprotocol).await;
                (
                    head,
                    accept_websocket(socket, Vec::new(), &Limits::default())
                        .await
                        .unwrap(),
                )
            } else {
                let head = accept_upgrade(&mut socket, &subprotocol).await;
                (
                    head,
                    accept_websocket(socket, Vec::new(), &Limits::default())
                        .await
                        .unwrap(),
                )
            }
        });
        let scheme = if secure { "wss" } else { "ws" };
        let endpoint: Endpoint = format!("{scheme}://localhost:{}", address.port())
            .parse()
            .unwrap();
        assert_eq!(endpoint.is_secure(), secure);
        let limits = Limits::default();
        let dialled = soon(dial(&endpoint, &client, &authorization(), &limits))
            .await
            .unwrap();
        let (head, (tunnel, _control, driver)) = soon(edge).await.unwrap();
        let edge = tokio::spawn(driver);
        assert!(head.starts_with("GET /ws HTTP/1.1\r\n"), "{head}");
        for line in [
            &format!("host: localhost:{}", address.port()),
            &format!("authorization: {TOKEN}"),
            &format!("sec-websocket-protocol: {SUBPROTOCOL_H2R}, {SUBPROTOCOL_JSON}"),
        ] {
            assert!(
                head.to_ascii_lowercase()
                    .contains(&line.to_ascii_lowercase()),
                "{head}"
            );
        }
        let answer = |exchange: gatewright_link::Exchange| {
            tokio::spawn(exchange.responder.send(Response::new(text("through"))));
        };
        let (handle, _control, driver) = match dialled {
            Dialled::WebSocket(socket) => serve_websocket(*socket, &limits, answer).await,
            Dialled::SecureWebSocket(socket) => serve_websocket(*socket, &limits, answer).await,
            Dialled::Tls(_) => unreachable!("it was not asked for"),
        }
        .unwrap();
        let agent = tokio::spawn(driver);
        request_through(&tunnel).await;
        handle.shut_down();
        soon(agent).await.unwrap().unwrap();
        soon(edge).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn raw_tls_carries_requests_from_the_dial_on() {
    let Tls { client, server } = tls(&[ALPN]);
    let (listener, address) = listen().await;
    let edge = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let socket = TlsAcceptor::from(Arc::new(server))
            .accept(socket)
            .await
            .unwrap();
        accept_raw(socket, &Limits::default()).await.unwrap()
    });
    let endpoint: Endpoint = format!("tls://localhost:{}", address.port())
        .parse()
        .unwrap();
    let limits = Limits::default();
    let dialled = soon(dial(&endpoint, &client, &authorization(), &limits))
        .await
        .unwrap();
    let Dialled::Tls(socket) = dialled else {
        panic!("another carrier")
    };
    let answer = |exchange: gatewright_link::Exchange| {
        tokio::spawn(exchange.responder.send(Response::new(text("through"))));
    };
    let (handle, _control, driver) = serve_raw(*socket, authorization(), &limits, answer)
        .await
        .unwrap();
    let agent = tokio::spawn(driver);
    let accepted = soon(edge).await.unwrap();
    assert_eq!(accepted.authorization, TOKEN);
    let edge = tokio::spawn(accepted.driver);
    request_through(&accepted.tunnel).await;
    handle.shut_down();
    soon(agent).await.unwrap().unwrap();
    soon(edge).await.unwrap().unwrap();
}

async fn request_through(tunnel: &gatewright_link::Tunnel) {
    let slot = tunnel.reserve().await.unwrap();
    let body = RequestBody::<Empty<Bytes>>::Empty;
    let (_, body) = soon(slot.send(post("/"), body, |_| {}))
        .await
        .unwrap()
        .into_parts();
    assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "through");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_unreachable() {
    let (listener, address) = listen().await;
    drop(listener);
    let error = dial_error(&format!("ws://{address}"), &tls(&[]).client).await;
    assert!(matches!(&error, LinkError::Unreachable { source, .. }
        if source.kind() == std::io::ErrorKind::ConnectionRefused));
    assert_eq!(
        error.to_string(),
        format!("cannot resolve or reach ws://{address}")
    );
}

#[tokio::test]
async fn a_refused_token_says_what_to_check() {
    for (answer, refused) in [
        (
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
            401,
        ),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", 403),
    ] {
        let (error, _) = answered_with(answer).await;
        assert!(
            matches!(error, LinkError::Refused { status } if status == refused),
            "{error:?}"
        );
        assert_eq!(
            error.to_string(),
            format!(
                "the edge refused the token (HTTP {refused}); check that the token file belongs to \
                 this edge and was not revoked"
            )
        );
    }
}

#[tokio::test]
async fn whatever_is_no_edge_is_named_so() {
    for (answer, detail) in [
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP 404 Not Found",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP 200 OK",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: https://evil.test/\r\n\r\n",
            "HTTP 302 Found",
        ),
        (
            "SSH-2.0-OpenSSH_9.6\r\n\r\n",
            "its answer is not a WebSocket handshake",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "its answer is not a WebSocket handshake",
        ),
        ("", "it closed the connection instead of answering"),
    ] {
        let (error, address) = answered_with(answer).await;
        assert_eq!(
            error.to_string(),
            format!("ws://{address} did not answer as a Gatewright edge: {detail}")
        );
    }
}

#[tokio::test]
async fn another_subprotocol_is_refused() {
    for subprotocol in [
        format!("sec-websocket-protocol: {SUBPROTOCOL_JSON}\r\n"),
        "sec-websocket-protocol: chat\r\n".to_owned(),
        String::new(),
    ] {
        let (listener, address) = listen().await;
        let answering = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            accept_upgrade(&mut socket, &subprotocol).await;
            let _ = socket.read_to_end(&mut Vec::new()).await;
        });
        let error = dial_error(&format!("ws://{address}"), &tls(&[]).client).await;
        assert_eq!(
            error.to_string(),
            format!(
                "ws://{address} did not answer as a Gatewright edge: it did not choose {SUBPROTOCOL_H2R}"
            )
        );
        soon(answering).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_never_answers_is_given_up() {
    let (listener, address) = listen().await;
    let error = dial_error(&format!("ws://{address}"), &tls(&[]).client).await;
    assert_eq!(error.to_string(), "the handshake was not over within 10s");
    drop(listener);
}

/// Dials a TLS server that has no part in the tunnel.
async fn tls_error(scheme: &str, client: &Arc<ClientConfig>, server: ServerConfig) -> LinkError {
    let (listener, address) = listen().await;
    let answering = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        if let Ok(mut socket) = TlsAcceptor::from(Arc::new(server)).accept(socket).await {
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    });
    let error = dial_error(&format!("{scheme}://localhost:{}", address.port()), client).await;
    soon(answering).await.unwrap();
    error
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_named_so() {
    for scheme in ["wss", "tls"] {
        let error = tls_error(scheme, &tls(&[]).client, tls(&[]).server).await;
        assert!(matches!(error, LinkError::Tls { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("the TLS handshake with {scheme}://localhost:")),
            "{text}"
        );
        assert!(text.contains("the CA that the agent trusts"), "{text}");
        let source = error.source().unwrap().to_string();
        assert!(source.contains("certificate"), "{source}");
    }
}

#[tokio::test]
async fn a_tls_server_without_our_protocol_is_named_so() {
    // One that knows other tokens refuses the handshake, one that knows none chooses none.
    let Tls { client, server } = tls(&[b"h2"]);
    let error = tls_error("tls", &client, server).await;
    assert!(matches!(error, LinkError::Tls { .. }), "{error:?}");
    let Tls { client, server } = tls(&[]);
    let error = tls_error("tls", &client, server).await;
    assert!(
        matches!(&error, LinkError::NotAnEdge { detail, .. }
        if detail == "it did not choose the tunnel's ALPN token"),
        "{error:?}"
    );
}

#[tokio::test]
async fn plain_text_where_tls_is_spoken_is_named_so() {
    let (listener, address) = listen().await;
    let answering = tokio::spawn(async move {
        let (mut socket, _): (TcpStream, _) = listener.accept().await.unwrap();
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
    });
    let error = dial_error(
        &format!("wss://localhost:{}", address.port()),
        &tls(&[]).client,
    )
    .await;
    assert!(matches!(error, LinkError::Tls { .. }), "{error:?}");
    soon(answering).await.unwrap();
}

#[test]
fn endpoints_that_can_be_dialled() {
    for (text, shown, secure) in [
        ("ws://edge.example.test", "ws://edge.example.test:80", false),
        ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080", false),
        ("ws://127.0.0.1:8080/", "ws://127.0.0.1:8080", false),
        (
            "wss://edge.example.test",
            "wss://edge.example.test:443",
            true,
        ),
        ("wss://[2001:db8::1]:7443", "wss://[2001:db8::1]:7443", true),
        (
            "tls://edge.example.test:7443",
            "tls://edge.example.test:7443",
            true,
        ),
    ] {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint.to_string(), shown);
        assert_eq!(endpoint.is_secure(), secure);
        assert_eq!(shown.parse(), Ok(endpoint));
    }
}

#[test]
fn endpoints_that_cannot_be_dialled_say_why() {
    for (text, why) in [
        ("edge.example.test", "it has no scheme"),
        ("127.0.0.1:8080", "it has no scheme"),
        ("", "it has no scheme"),
        ("https://edge.example.test", "its scheme is unknown"),
        ("WSS://edge.example.test", "its scheme is unknown"),
        ("wss://", "its host is empty"),
        ("wss:///", "its host is empty"),
        ("wss://:7443", "its host is empty"),
        ("tls://edge.example.test", "it has no port"),
        ("wss://edge.example.test:", "its port is empty"),
        ("wss://edge.example.test:0", "its port is not valid"),
        ("wss://edge.example.test:65536", "its port is not valid"),
        ("wss://edge.example.test:http", "its port is not valid"),
        ("wss://edge example.test", "its host or port is not valid"),
        ("wss://[2001:db8::1", "its host or port is not valid"),
        (
            "wss://edge.example.test/ws",
            "it has more than a host and a port",
        ),
        (
            "wss://edge.example.test?token=1",
            "it has more than a host and a port",
        ),
        (
            "wss://user:pw@edge.example.test",
            "it has more than a host and a port",
        ),
    ] {
        let error = text.parse::<Endpoint>().unwrap_err();
        assert!(error.to_string().contains(&format!(": {why};")), "{error}");
    }
    // Whoever put a secret there does not find it in a log.
    for text in [
        "wss://user:hunter2@edge.example.test",
        "ws://edge.example.test?token=hunter2",
    ] {
        let error = text.parse::<Endpoint>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}
