//! Admission webhooks: the server, its certificates, and the configuration by which the apiserver
//! finds both. May not decide what is admitted.
//!
//! Every replica serves, with the certificate that they share ([`Certificates`]); only the holder
//! of the lease writes the configuration ([`keep`]).

mod authority;
mod bundle;
mod certs;
mod server;

pub use bundle::{Configuration, Endpoint, FailurePolicy, Webhook, keep};
pub use certs::{Certificates, Settings};
pub use server::{Denial, Server, Verdict};
