//! Routes of the tunnel: what a route is, which one serves a request, who may have it, and how agent and edge
//! agree on the set. May not do I/O, read a clock or draw randomness: time and identity are arguments.

mod id;
pub mod message;
mod path;
mod reason;
pub mod registry;
mod route;
pub mod session;
mod table;

pub use id::{ClusterId, IdError, RouteId};
pub use reason::RefusedReason;
pub use registry::{Change, RouteSelector};
pub use route::{BackendProtocol, MAX_ANNOTATIONS, MAX_PATH, MAX_ROUTES, PathType, Route};
pub use table::{NoMatch, RouteTable};
