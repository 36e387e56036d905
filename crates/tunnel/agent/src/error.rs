//! What can keep an agent from starting, and what to do about it.

use std::path::PathBuf;

use crate::source::SourceError;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token's file is of no use.
    #[error(
        "cannot use {path} (token_file): it must hold the token that `gatewright clusters create` printed"
    )]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read; absent when it can, and holds no token.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The certificates' file is of no use.
    #[error("cannot use {path} (ca_file): it must hold certificates in PEM form")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Neither source or both.
    #[error("source needs exactly one of `directory: PATH` and `kubernetes: {{}}`")]
    OneSource,
    /// The build has no Kubernetes client.
    #[error(
        "this build has no Kubernetes support; use `source: {{ directory: PATH }}`, or a build with the feature `kubernetes`"
    )]
    NoKubernetes,
    /// The source gave no first set of objects.
    #[error("the source cannot be read")]
    Source(#[source] SourceError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The operating system gave no thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random,
    /// The health listener's port is taken.
    #[error("cannot listen on {address} (health); is another process using the port?")]
    Health {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the configuration has to change before a start can succeed (exit code 2).
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::TokenFile { .. }
            | Self::CaFile { .. }
            | Self::OneSource
            | Self::NoKubernetes
            | Self::Source(_)
            | Self::Health { .. } => true,
            Self::Tls(_) | Self::Thread(_) | Self::Random => false,
        }
    }
}
