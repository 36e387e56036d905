//! The testkit against the real parts it starts. No product code takes part.

mod backend;
mod cluster;
mod parts;
