//! The edge: accepts users and agents, and carries users' requests into the tunnel. It may not know
//! Kubernetes, and it serves no route that the registry did not accept.
//!
//! ```text
//!   user ─► server ─► guard ─► proxy: check ─► match ─► headers ─► tunnel ─► agent
//!                                        │        ▲
//!                                     respond     │ published snapshot
//!   agent ─► agents ─► control session ─► clusters (store, registry, table)
//! ```

mod access_log;
mod admin;
mod agents;
mod clock;
mod clusters;
mod config;
mod connections;
mod error;
mod framing;
mod guard;
mod headers;
mod metrics;
mod proxy;
mod respond;
mod server;
mod store;
mod tls;
mod token;

pub use clusters::{Cluster, ClusterEvent, ClusterRecord, ClusterView, Clusters, NewCluster};
pub use config::{
    AccessLogTarget, EdgeConfig, IpBlock, Listen, RequestLimits, StoreConfig, Timeouts, TlsFiles,
};
pub use connections::ConnectionInfo;
pub use error::Error;
pub use respond::ErrorCode;
pub use server::Edge;
pub use token::{Token, TokenId};
