//! Kubernetes objects in; routes, backends, statuses and refusals out. May not do I/O, read a clock or change an object.
//!
//! [`translate`] is a function of everything the agent watches, so a delete, an update that drops a host and a Service
//! that comes late need no code of their own: the routes are always those of the objects as they are now.

mod backend;
mod class;
mod manifest;
mod network;
mod objects;
mod refusal;
mod rules;
mod status;
mod translation;

pub use backend::{Backend, Endpoint};
pub use class::{CLASS_NAME, CONTROLLER_NAME};
pub use manifest::{Object, ObjectError, object_from_value, objects_from_value};
pub use network::{Network, is_globally_routable, network};
pub use objects::{Key, Objects};
pub use refusal::{Refusal, RefusalReason};
pub use status::{ingress_status, status_patch};
pub use translation::{IngressVerdict, Options, Translation, translate};
