//! What the crate promises to its users, driven through the public interface alone. May not touch a network or a cluster.

mod conformance;
mod flaws;
mod goldens;
mod properties;
mod semantics;
mod support;
