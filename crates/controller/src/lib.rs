//! What every controller shares: server-side apply, status, events, lease. May not decide.
//!
//! A controller holds one [`Ctx`]. All its writes pass through it, so that three rules hold at one
//! place: the field manager is `gatewright/<controller>`, only the holder of the [`Lease`](lease)
//! writes, and a write that would change nothing is not sent.

mod apply;
mod backoff;
mod client;
mod clock;
mod error;
mod events;
pub mod lease;

pub use apply::{Ctx, status_differs};
pub use backoff::Backoff;
pub use client::{Access, connect};
pub use error::{Error, Result};
pub use events::{Notice, Severity};
