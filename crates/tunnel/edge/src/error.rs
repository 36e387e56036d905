//! What can go wrong in an edge, and what to do about it. Texts never contain a source's text or a
//! secret; whoever prints an error prints its chain.

use std::path::PathBuf;

/// An edge's failures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store's folder or file cannot be made, read or written.
    #[error(
        "cannot use {path} as the edge's store (store.path): it must be a folder this user may write to"
    )]
    StoreFolder {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has the store open.
    #[error(
        "store {path} is in use by another edge; stop that one or give this one its own store.path"
    )]
    StoreInUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is no store, or a damaged one.
    #[error(
        "store {path} is damaged or is not an edge's store; move it away to start with an empty one, or restore a copy"
    )]
    StoreDamaged {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// One entry of the store cannot be understood.
    #[error("store {path} is damaged: entry {key} of its table {table} cannot be read")]
    StoreEntry {
        /// The file.
        path: PathBuf,
        /// Which table.
        table: &'static str,
        /// Which entry.
        key: String,
        /// What the parser said.
        #[source]
        source: Option<Box<serde_json::Error>>,
    },
    /// The store was written by a later version.
    #[error(
        "store {path} has format {found} and this edge knows up to {known}; run the newer version, or restore a copy of the store from before the upgrade"
    )]
    StoreNewer {
        /// The file.
        path: PathBuf,
        /// Format in the file.
        found: u64,
        /// Newest format that this build reads.
        known: u64,
    },
    /// The store refused a change. Nothing of the change is kept.
    #[error("cannot write the store {path}; the change was not made (is the disk full?)")]
    StoreWrite {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: std::sync::Arc<redb::Error>,
    },
    /// The store cannot be used at the moment, or the edge is stopping.
    #[error(
        "the edge takes no changes: it is stopping, or its store cannot be read (its log says why); try again later"
    )]
    StoreClosed,
    /// A cluster of this name exists.
    #[error("a cluster named {name} exists already; choose another name, or delete that one first")]
    ClusterExists {
        /// The name.
        name: String,
    },
    /// No cluster has this name or id.
    #[error("there is no cluster named {name}; `gatewright clusters list` shows those that exist")]
    NoSuchCluster {
        /// The name or id.
        name: String,
    },
    /// The text cannot name a cluster.
    #[error(
        "{name:?} cannot name a cluster: use 1 to 40 lower-case letters, digits and hyphens, a letter or digit at both ends, and no xn-- in front"
    )]
    ClusterName {
        /// The text, shortened.
        name: String,
    },
    /// A cluster would lie at a name that cannot be a host.
    #[error(
        "the cluster's own name would be too long under the edge's domain {domain}; use a shorter cluster name"
    )]
    OwnHost {
        /// The edge's domain.
        domain: String,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes, so no credential was made")]
    Random,
    /// The admin API would be reachable by others without a token.
    #[error(
        "listen.admin is {address}, which others can reach: set admin_token_file to a file that holds a secret of at least 16 characters, or listen on 127.0.0.1"
    )]
    AdminUnprotected {
        /// The address.
        address: std::net::SocketAddr,
    },
    /// A socket cannot be listened on.
    #[error("cannot listen on {address}; is the port taken by another process?")]
    Bind {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A listener for agents over TLS has no certificate.
    #[error("listen.tunnel needs a certificate: set tls.cert and tls.key to PEM files")]
    TunnelWithoutTls,
    /// A certificate or key file is of no use.
    #[error("cannot read {path} (tls) as PEM")]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<rustls::pki_types::pem::Error>,
    },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error("tls.cert and tls.key cannot be used together")]
    TlsPair(#[source] rustls::Error),
    /// The access log's file cannot be written.
    #[error("cannot append to {path} (access_log)")]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The operating system gave no thread.
    #[error("cannot start a thread; is a limit on processes reached?")]
    Thread(#[source] std::io::Error),
    /// The admin token's file is of no use.
    #[error("cannot use {path} (admin_token_file): {problem}")]
    AdminTokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
        /// Why it cannot be read.
        #[source]
        source: Option<std::io::Error>,
    },
}

impl Error {
    /// Whether the configuration has to change before the same thing can succeed; the process's exit
    /// code is 2 then.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::StoreFolder { .. }
            | Self::StoreInUse { .. }
            | Self::StoreDamaged { .. }
            | Self::StoreEntry { .. }
            | Self::StoreNewer { .. }
            | Self::AdminUnprotected { .. }
            | Self::AdminTokenFile { .. }
            | Self::Bind { .. }
            | Self::TunnelWithoutTls
            | Self::TlsFile { .. }
            | Self::TlsPair(_)
            | Self::AccessLog { .. } => true,
            Self::StoreWrite { .. }
            | Self::StoreClosed
            | Self::ClusterExists { .. }
            | Self::NoSuchCluster { .. }
            | Self::ClusterName { .. }
            | Self::OwnHost { .. }
            | Self::Thread(_)
            | Self::Random => false,
        }
    }
}
