//! A client of Garage's Admin API v2: one method per call, named as the API names it. It may not decide
//! what to call, and it tries nothing twice.
//!
//! Garage takes the lock of bucket, alias and key changes on the node that was asked, not in the cluster
//! (2.5.0): all changes of a cluster go to one node, not to a Service that spreads them.
//!
//! Source: `https://garagehq.deuxfleurs.fr/api/garage-admin-v2.html`, and what Garage 2.5.0 does.

mod buckets;
mod cluster;
mod error;
mod keys;
mod nodes;
mod transport;

pub use buckets::BucketSelector;
pub use error::Error;
pub use nodes::Node;
pub use transport::{Client, Connections, Settings};
