//! The edge through its public API and its sockets.

#![allow(
    clippy::unwrap_used,
    reason = "what a test cannot set up ends the test"
)]

mod admin;
mod clusters;
mod crash;
mod support;
