//! How agent and edge agree on a cluster's routes, without I/O: messages and virtual time in, messages out. May not
//! judge routes; verdicts pass through.
//!
//! The agent counts its messages within a generation and has one of them unanswered at a time. It begins with a
//! snapshot, in parts if it is large, and goes on with deltas. The edge applies a message only if it is the next
//! one; at a gap it keeps what it has and asks for a snapshot. After a reconnect both name the position they are
//! at, and only if these agree the agent continues with deltas.
//!
//! An edge learns of no verdicts that changed while it could not tell the agent, so after `register_success` with a
//! `resume` it sends [`IngressRoutesAck::all_refusals`](crate::message::IngressRoutesAck::all_refusals).

mod agent;
mod edge;

pub use agent::{ACK_TIMEOUT, AgentSession, MAX_ROUTES_PER_MESSAGE};
pub use edge::{EdgeSession, Step};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
