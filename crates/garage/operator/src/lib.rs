//! Makes Garage clusters what they should be: observes, applies, speaks the Admin API. May not decide:
//! what should be is `gatewright-garage`'s to say.

pub mod admin;
pub mod bucket;
mod clock;
pub mod cluster;
mod error;
mod farewell;
mod grants;
mod home;
pub mod key;
pub mod node;
mod operator;
mod random;
mod refusal;
mod run;
mod storage;
pub mod token;
mod tokens;
mod watches;
pub mod webhook;

pub use clock::Clock;
pub use error::{Error, Result};
pub use operator::{Operator, Options};
pub use run::run;
pub use tokens::KEPT_TOKENS;
pub use watches::Watches;
