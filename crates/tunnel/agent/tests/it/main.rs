//! The agent's parts against a real kernel and a real apiserver.

mod directory;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(feature = "kubernetes")]
mod report;
#[cfg(feature = "kubernetes")]
mod support;
