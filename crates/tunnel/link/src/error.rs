//! What can go wrong with a connection. Text only.

use crate::frames::FrameError;

/// Why a connection could not be made, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The HTTP/2 layer ended the connection.
    #[error("the HTTP/2 connection failed")]
    Http2(#[source] h2::Error),
    /// The WebSocket layer ended the connection.
    #[error("the WebSocket failed")]
    WebSocket(#[source] FrameError),
    /// The socket failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
    /// No answer to a PING in time.
    #[error("the other end did not answer a PING within {0:?}")]
    KeepAlive(std::time::Duration),
    /// The handshake took too long.
    #[error("the handshake was not over within {0:?}")]
    HandshakeTimeout(std::time::Duration),
    /// The other end sends control messages faster than they can be handled.
    #[error("the other end sent more control messages than it may have waiting")]
    ControlOverflow,
    /// A control message that is too long, or not text.
    #[error("the other end sent a control message that is too long or not text")]
    ControlMessage,
    /// A control message that we wanted to send is longer than the other end takes.
    #[error("cannot send a control message of {bytes} bytes: at most {limit} are allowed")]
    ControlTooLong {
        /// Its length.
        bytes: usize,
        /// The greatest length.
        limit: usize,
    },
    /// The edge refused the credential.
    #[error(
        "the edge refused the token (HTTP {status}); check that the token file belongs to this edge and was not revoked"
    )]
    Refused {
        /// The status it answered with.
        status: u16,
    },
    /// The other end answered something else than a tunnel.
    #[error("{endpoint} did not answer as a Gatewright edge: {detail}")]
    NotAnEdge {
        /// Where we dialled.
        endpoint: String,
        /// What came back.
        detail: String,
    },
    /// TLS could not be agreed on, or the certificate is not trusted.
    #[error(
        "the TLS handshake with {endpoint} failed; check the edge's certificate, the CA that the agent trusts and both clocks"
    )]
    Tls {
        /// Where we dialled.
        endpoint: String,
        /// What TLS says.
        #[source]
        source: std::io::Error,
    },
    /// An address that cannot be dialled.
    #[error("cannot resolve or reach {endpoint}")]
    Unreachable {
        /// Where we dialled.
        endpoint: String,
        /// The last address's failure.
        #[source]
        source: std::io::Error,
    },
}

impl From<h2::Error> for LinkError {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}
