//! The shared parts of controllers against a real apiserver.

mod apply;
mod lease;
