//! Tests of the link through its public interface: both ends, both carriers, and ends that behave
//! badly. Nothing here leaves the process but loopback sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod control;
mod dial;
mod drain;
mod exchange;
mod flow;
mod frames;
mod hostile;
mod rig;
