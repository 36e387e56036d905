//! The JSON control messages `{type, request_id, payload, timestamp}`. May not act on them; it reads and writes text.
//!
//! Reading is tolerant: unknown types become `Unknown`, unknown fields are ignored, and a wrong field of one route
//! spoils that route only. What cannot be read at all is a [`DecodeError`], to be answered with `error` and counted.

mod lenient;
mod payload;
mod wire;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use payload::{
    Action, ErrorReply, Heartbeat, HeartbeatAck, HeartbeatMetadata, IngressRoutes,
    IngressRoutesAck, Position, Refused, Register, RegisterSuccess,
};
pub use wire::WireRoute;

/// Longest control message in bytes.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Routes in one message at most; more of them come in several.
pub const MAX_ROUTES_IN_MESSAGE: usize = 10_000;

/// What every message has around its payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The kind of message; the only field that is required.
    pub r#type: String,
    /// Repeated in the answer; may be empty.
    #[serde(default, deserialize_with = "lenient::text_or_empty")]
    pub request_id: String,
    /// Depends on the type.
    #[serde(default)]
    pub payload: serde_json::Value,
    /// RFC 3339; informational.
    #[serde(
        default,
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub timestamp: Option<String>,
}

/// Why a text is no message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MAX_MESSAGE`].
    #[error(
        "the control message has {bytes} bytes; at most {MAX_MESSAGE} are allowed, send it in parts"
    )]
    TooLarge {
        /// Length of the text.
        bytes: usize,
    },
    /// No JSON object with a `type`.
    #[error("the control message is not a JSON object with a text field \"type\"")]
    Envelope(#[source] serde_json::Error),
    /// The payload of a known type cannot be read.
    #[error(
        "the payload of the {kind} message cannot be read; compare it with the protocol's description"
    )]
    Payload {
        /// The type.
        kind: &'static str,
        /// The request id of the message, for the answer.
        request_id: String,
        /// What was wrong, and where.
        #[source]
        source: serde_json::Error,
    },
}

impl DecodeError {
    /// The request id to answer to; empty if it could not be read.
    #[must_use]
    pub fn request_id(&self) -> &str {
        match self {
            Self::TooLarge { .. } | Self::Envelope(_) => "",
            Self::Payload { request_id, .. } => request_id,
        }
    }

    /// A stable code for `error` messages and counters.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "message_too_large",
            Self::Envelope(_) => "not_a_message",
            Self::Payload { .. } => "bad_payload",
        }
    }
}

/// What an agent says.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentMessage {
    /// The first message of every connection.
    Register(Register),
    /// The cluster lives.
    Heartbeat(Heartbeat),
    /// Routes of the cluster have changed.
    IngressRoutes(IngressRoutes),
    /// A type that this version does not know.
    Unknown(String),
}

/// What an edge says.
#[derive(Debug, Clone, PartialEq)]
pub enum EdgeMessage {
    /// The agent may stay.
    RegisterSuccess(RegisterSuccess),
    /// A heartbeat has arrived.
    HeartbeatAck(HeartbeatAck),
    /// Routes were taken or refused; also sent unasked when that changes later.
    IngressRoutesAck(IngressRoutesAck),
    /// The message with this request id could not be served.
    Error(ErrorReply),
    /// A type that this version does not know.
    Unknown(String),
}

const REGISTER: &str = "register";
const HEARTBEAT: &str = "heartbeat";
const INGRESS_ROUTES: &str = "ingress_routes";
const REGISTER_SUCCESS: &str = "register_success";
const HEARTBEAT_ACK: &str = "heartbeat_ack";
const INGRESS_ROUTES_ACK: &str = "ingress_routes_ack";
const ERROR: &str = "error";

impl AgentMessage {
    /// Reads a message and its request id.
    ///
    /// # Errors
    /// [`DecodeError`]; an unknown type is none.
    pub fn decode(text: &str) -> Result<(String, Self), DecodeError> {
        let Head {
            r#type: kind,
            request_id,
        } = open(text)?;
        let message = match kind.as_str() {
            REGISTER => Self::Register(read(REGISTER, &request_id, text)?),
            HEARTBEAT => Self::Heartbeat(read(HEARTBEAT, &request_id, text)?),
            INGRESS_ROUTES => Self::IngressRoutes(read(INGRESS_ROUTES, &request_id, text)?),
            _ => Self::Unknown(kind),
        };
        Ok((request_id, message))
    }

    /// Writes a message. `timestamp` is RFC 3339.
    #[must_use]
    pub fn encode(&self, request_id: &str, timestamp: &str) -> String {
        match self {
            Self::Register(payload) => write(REGISTER, request_id, payload, timestamp),
            Self::Heartbeat(payload) => write(HEARTBEAT, request_id, payload, timestamp),
            Self::IngressRoutes(payload) => write(INGRESS_ROUTES, request_id, payload, timestamp),
            Self::Unknown(kind) => write(kind, request_id, &(), timestamp),
        }
    }
}

impl EdgeMessage {
    /// Reads a message and its request id.
    ///
    /// # Errors
    /// [`DecodeError`]; an unknown type is none.
    pub fn decode(text: &str) -> Result<(String, Self), DecodeError> {
        let Head {
            r#type: kind,
            request_id,
        } = open(text)?;
        let message = match kind.as_str() {
            REGISTER_SUCCESS => Self::RegisterSuccess(read(REGISTER_SUCCESS, &request_id, text)?),
            HEARTBEAT_ACK => Self::HeartbeatAck(read(HEARTBEAT_ACK, &request_id, text)?),
            INGRESS_ROUTES_ACK => {
                Self::IngressRoutesAck(read(INGRESS_ROUTES_ACK, &request_id, text)?)
            }
            ERROR => Self::Error(read(ERROR, &request_id, text)?),
            _ => Self::Unknown(kind),
        };
        Ok((request_id, message))
    }

    /// Writes a message. `timestamp` is RFC 3339.
    #[must_use]
    pub fn encode(&self, request_id: &str, timestamp: &str) -> String {
        match self {
            Self::RegisterSuccess(payload) => {
                write(REGISTER_SUCCESS, request_id, payload, timestamp)
            }
            Self::HeartbeatAck(payload) => write(HEARTBEAT_ACK, request_id, payload, timestamp),
            Self::IngressRoutesAck(payload) => {
                write(INGRESS_ROUTES_ACK, request_id, payload, timestamp)
            }
            Self::Error(payload) => write(ERROR, request_id, payload, timestamp),
            Self::Unknown(kind) => write(kind, request_id, &(), timestamp),
        }
    }
}

/// A message without its payload, which is read once its type is known: an intermediate tree would take many times
/// the memory of the text.
#[derive(Deserialize)]
struct Head {
    r#type: String,
    #[serde(default, deserialize_with = "lenient::text_or_empty")]
    request_id: String,
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Body<T> {
    /// A message of which all fields are optional may come without a payload.
    #[serde(default = "Option::default")]
    payload: Option<T>,
}

fn open(text: &str) -> Result<Head, DecodeError> {
    if text.len() > MAX_MESSAGE {
        return Err(DecodeError::TooLarge { bytes: text.len() });
    }
    serde_json::from_str(text).map_err(DecodeError::Envelope)
}

fn read<T: DeserializeOwned>(
    kind: &'static str,
    request_id: &str,
    text: &str,
) -> Result<T, DecodeError> {
    let payload = serde_json::from_str::<Body<T>>(text).and_then(|body| match body.payload {
        Some(payload) => Ok(payload),
        None => serde_json::from_str("{}"),
    });
    payload.map_err(|source| DecodeError::Payload {
        kind,
        request_id: request_id.to_owned(),
        source,
    })
}

fn write<T: Serialize>(kind: &str, request_id: &str, payload: &T, timestamp: &str) -> String {
    #[derive(Serialize)]
    struct Outgoing<'a, T> {
        r#type: &'a str,
        request_id: &'a str,
        payload: &'a T,
        timestamp: &'a str,
    }
    // Writing to memory fails only for maps without text keys, and the payloads have none.
    serde_json::to_string(&Outgoing {
        r#type: kind,
        request_id,
        payload,
        timestamp,
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests;
