//! What every controller shares: server-side apply, status, events, lease. May not decide.
//!
//! A controller holds one [`Ctx`]. All its writes pass through it, so that three rules hold at one
//! place: the field manager is `gatewright/<controller>`, only the holder of the [`Lease`](lease)
//! writes, and a write that would change nothing is not sent. [`runner::run`] calls its reconciler
//! while [`leading`]; [`webhook`], [`crds`] and [`health`] are what an operator has beside that.

mod apply;
mod backoff;
mod client;
mod clock;
pub mod conditions;
mod covers;
pub mod crds;
mod error;
mod events;
pub mod health;
mod kind;
mod leading;
pub mod lease;
mod metrics;
mod namespaces;
pub mod runner;
mod serve;
mod status;
mod watched;
pub mod webhook;
mod write;

pub use apply::{APPLIED, Ctx, Ensured};
pub use backoff::Backoff;
pub use client::{Access, connect};
pub use clock::now;
pub use covers::covers;
pub use error::{Answer, Error, Result};
pub use events::{Notice, Severity};
pub use health::Health;
pub use kind::{Kind, Reach};
pub use leading::leading;
pub use metrics::Metrics;
pub use namespaces::Namespaces;
pub use runner::Next;
pub use status::status_differs;
pub use watched::{Changes, Feed, Watched};
pub use write::{Created, Deleted};
