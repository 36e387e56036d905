//! Dials an edge: resolves, connects, wraps in TLS, upgrades to a WebSocket or takes the raw
//! carrier. One attempt each; when to try again is the caller's decision.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderValue, Request, StatusCode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::driver::within;
use crate::upgrade::{self, Upgraded};
use crate::websocket::{ALPN, SUBPROTOCOL_H2R, SUBPROTOCOL_JSON};
use crate::{Limits, LinkError};

/// Where an edge listens for agents: `ws://host[:port]`, `wss://host[:port]` or `tls://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    carrier: CarrierKind,
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CarrierKind {
    WebSocket,
    SecureWebSocket,
    Tls,
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an edge's address: {why}; write ws://HOST[:PORT], wss://HOST[:PORT] or tls://HOST:PORT"
)]
pub struct EndpointError {
    text: String,
    why: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        // What is no host may be a secret, which must not reach a log.
        let shown = || match text.split_once("://") {
            Some((scheme, rest)) if rest.contains(['/', '?', '#', '@']) => {
                format!("{scheme}://...")
            }
            Some(_) | None => text.to_owned(),
        };
        let error = |why| EndpointError { text: shown(), why };
        let (scheme, rest) = text.split_once("://").ok_or(error("it has no scheme"))?;
        let (carrier, default_port) = match scheme {
            "ws" => (CarrierKind::WebSocket, Some(80)),
            "wss" => (CarrierKind::SecureWebSocket, Some(443)),
            "tls" => (CarrierKind::Tls, None),
            _ => return Err(error("its scheme is unknown")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(error("it has more than a host and a port"));
        }
        if rest.is_empty() {
            return Err(error("its host is empty"));
        }
        let authority: http::uri::Authority = rest
            .parse()
            .map_err(|_| error("its host or port is not valid"))?;
        if authority.host().is_empty() {
            return Err(error("its host is empty"));
        }
        // `Authority::port` has no answer to a port that is no number, which is not "none".
        let port = match &authority.as_str()[authority.host().len()..] {
            "" => default_port.ok_or(error("it has no port"))?,
            ":" => return Err(error("its port is empty")),
            port => match port.trim_start_matches(':').parse() {
                Ok(0) | Err(_) => return Err(error("its port is not valid")),
                Ok(port) => port,
            },
        };
        Ok(Self {
            carrier,
            host: authority.host().to_owned(),
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.carrier {
            CarrierKind::WebSocket => "ws",
            CarrierKind::SecureWebSocket => "wss",
            CarrierKind::Tls => "tls",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Endpoint {
    /// Whether the connection is encrypted.
    pub fn is_secure(&self) -> bool {
        match self.carrier {
            CarrierKind::WebSocket => false,
            CarrierKind::SecureWebSocket | CarrierKind::Tls => true,
        }
    }
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl Socket for TcpStream {}
impl Socket for tokio_rustls::client::TlsStream<TcpStream> {}

/// A connection that was dialled, ready to be served.
pub enum Dialled {
    /// A WebSocket on which the edge accepted reversed HTTP/2.
    WebSocket(Box<Upgraded<TcpStream>>),
    /// The same over TLS.
    SecureWebSocket(Box<Upgraded<tokio_rustls::client::TlsStream<TcpStream>>>),
    /// Raw TLS with our ALPN token.
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Dials once. `authorization` is the whole field value (`Bearer ...`), marked sensitive.
///
/// # Errors
/// [`LinkError::Refused`] when the edge refuses the token; other variants say what failed.
pub async fn dial(
    endpoint: &Endpoint,
    tls: &Arc<rustls::ClientConfig>,
    authorization: &HeaderValue,
    limits: &Limits,
) -> Result<Dialled, LinkError> {
    // Boxed, for the state of a TLS handshake is large.
    let dialling = Box::pin(async {
        let tcp = connect(endpoint).await?;
        Ok(match endpoint.carrier {
            CarrierKind::WebSocket => {
                Dialled::WebSocket(Box::new(upgrade(endpoint, tcp, authorization).await?))
            }
            CarrierKind::SecureWebSocket => {
                let tls = secure(endpoint, tcp, tls, b"http/1.1").await?;
                Dialled::SecureWebSocket(Box::new(upgrade(endpoint, tls, authorization).await?))
            }
            CarrierKind::Tls => {
                let tls = secure(endpoint, tcp, tls, ALPN).await?;
                if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
                    return Err(LinkError::NotAnEdge {
                        endpoint: endpoint.to_string(),
                        detail: "it did not choose the tunnel's ALPN token".to_owned(),
                    });
                }
                Dialled::Tls(Box::new(tls))
            }
        })
    });
    within(limits, dialling).await
}

async fn connect(endpoint: &Endpoint) -> Result<TcpStream, LinkError> {
    let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
    let unreachable = |source| LinkError::Unreachable {
        endpoint: endpoint.to_string(),
        source,
    };
    let tcp = TcpStream::connect((host, endpoint.port))
        .await
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    Ok(tcp)
}

async fn secure(
    endpoint: &Endpoint,
    tcp: TcpStream,
    config: &Arc<rustls::ClientConfig>,
    alpn: &[u8],
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, LinkError> {
    let host = endpoint
        .host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(host).map_err(|_| LinkError::NotAnEdge {
        endpoint: endpoint.to_string(),
        detail: "its host cannot be a certificate's name".to_owned(),
    })?;
    let mut config = rustls::ClientConfig::clone(config);
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|source| LinkError::Tls {
            endpoint: endpoint.to_string(),
            source,
        })
}

async fn upgrade<S: Socket>(
    endpoint: &Endpoint,
    socket: S,
    authorization: &HeaderValue,
) -> Result<Upgraded<S>, LinkError> {
    let not_an_edge = |detail: String| LinkError::NotAnEdge {
        endpoint: endpoint.to_string(),
        detail,
    };
    let other_subprotocol = || not_an_edge(format!("it did not choose {SUBPROTOCOL_H2R}"));
    let request = Request::builder()
        .uri(format!("ws://{}:{}/ws", endpoint.host, endpoint.port))
        .header("host", format!("{}:{}", endpoint.host, endpoint.port))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .header(
            "sec-websocket-protocol",
            format!("{SUBPROTOCOL_H2R}, {SUBPROTOCOL_JSON}"),
        )
        .header("authorization", authorization)
        .body(())
        .map_err(|error| not_an_edge(error.to_string()))?;
    match upgrade::ask(request, socket).await {
        Ok((socket, response)) => {
            let chosen = response.headers().get("sec-websocket-protocol");
            if chosen.is_none_or(|chosen| chosen != SUBPROTOCOL_H2R) {
                return Err(other_subprotocol());
            }
            Ok(socket)
        }
        Err(WsError::Http(response)) => match response.status() {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(LinkError::Refused {
                    status: status.as_u16(),
                })
            }
            status => Err(not_an_edge(format!("HTTP {status}"))),
        },
        Err(WsError::Io(source)) => Err(LinkError::Io {
            doing: "the edge broke the WebSocket handshake off",
            source,
        }),
        Err(WsError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_))) => {
            Err(other_subprotocol())
        }
        Err(WsError::Protocol(ProtocolError::HandshakeIncomplete)) => Err(not_an_edge(
            "it closed the connection instead of answering".to_owned(),
        )),
        // Whatever else it said, it was no answer to an upgrade request.
        Err(_) => Err(not_an_edge(
            "its answer is not a WebSocket handshake".to_owned(),
        )),
    }
}
