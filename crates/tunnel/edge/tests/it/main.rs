//! The edge through its public API and its sockets.

mod admin;
mod clusters;
mod crash;
mod support;
