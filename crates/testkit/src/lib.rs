//! For tests only: a real apiserver, loopback backends, raw HTTP and waiting for conditions. No product code may depend on it.
//!
//! Everything here panics on failure, because its callers are tests; a panic says what failed and why.
//! A part that the machine does not have is a counted skip ([`part`]) or, under `CI=true`, a failure.

pub mod backend;
pub mod cluster;
pub mod garage;
pub mod http;
pub mod keeper;
pub mod parts;
pub mod ports;
pub mod scratch;
pub mod wait;

pub use cluster::Cluster;
pub use garage::Garage;
pub use parts::{leave_out, part};
pub use wait::await_condition;
