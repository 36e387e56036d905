//! One dialled connection that carries many HTTP/2 streams the other way round. It moves bytes and
//! streams; it may not know routes, clusters or Kubernetes.
//!
//! The agent dials the edge and then plays the HTTP/2 *server*; the edge, which accepted the
//! connection, plays the HTTP/2 *client* and opens a stream for each of its users' requests.
//!
//! ```text
//!   edge                                                      agent
//!   Slot::send   ──► h2 client ─┐                        ┌─ h2 server ──► Exchange (a handler's)
//!                               ├─ Batched ─ carrier ─ Batched
//!   ControlChannel ◄────────────┘                        └────────────► ControlChannel
//! ```
//!
//! Two carriers exist. On a WebSocket, binary messages are the HTTP/2 byte stream and text messages
//! are the JSON control protocol. On raw TLS (chosen by ALPN) the bytes are HTTP/2 as they are, and
//! control messages travel on a stream of their own, which the edge opens first.
//!
//! # Memory of one connection
//!
//! | what | bound |
//! |---|---|
//! | bytes received and not yet read by the application | streams × [`Limits::stream_window`] |
//! | bytes handed over by the application and not yet sent | streams × [`Limits::send_buffer`] |
//! | write batch | 64 KiB, with answers that cannot wait 256 KiB, and one DATA frame |
//! | batch on its way out, on a WebSocket | as the write batch, or one control message of 4 MiB |
//! | WebSocket payload read ahead | 32 KiB |
//! | control message that comes in | 4 MiB |
//! | control messages that wait | 64 in, 64 out, each at most 4 MiB |
//! | streams that we reset and still remember | 8,192 × 0.5 KiB |
//!
//! The connection window is as wide as HTTP/2 allows, so that streams whose readers stand still
//! never take the window from the others.

mod agent_end;
mod body;
mod carrier;
mod control;
mod dial;
mod driver;
mod edge_end;
mod error;
mod frames;
mod limits;
mod masks;
mod progress;
mod raw;
mod upgrade;
mod websocket;

pub use agent_end::{Exchange, Responder, ServerHandle, StreamIo, serve_raw, serve_websocket};
pub use body::{BodyError, RecvBody, send_body};
pub use control::ControlChannel;
pub use dial::{Dialled, Endpoint, EndpointError, dial};
pub use driver::Driver;
pub use edge_end::{
    RawAccepted, RequestBody, ResponseBody, SendError, Slot, Tunnel, TunnelResponse, accept_raw,
    accept_websocket,
};
pub use error::LinkError;
pub use frames::FrameError;
pub use h2::Reason;
pub use h2::ext::Protocol;
pub use limits::Limits;
pub use progress::{Progress, Watched};
pub use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
pub use upgrade::Upgraded;
pub use websocket::{ALPN, SUBPROTOCOL_H2R, SUBPROTOCOL_JSON, is_upgrade_token};
