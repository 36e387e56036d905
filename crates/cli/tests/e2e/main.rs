//! The tunnel end to end on loopback: users' sockets, a real edge, real agents, real backends. What a
//! test observes, a user, a backend or an operator could observe.

#[macro_use]
mod tunnel;

mod agents;
mod cancellation;
mod client;
mod edge;
mod grpc;
mod headers;
mod limits;
mod manifests;
mod ownership;
mod smuggling;
mod statuses;
mod streaming;
mod volume;
mod websocket;
