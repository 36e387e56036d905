//! Host names, wildcard patterns and their precedence: the one model of "a name" for every wing.
//! May not do I/O, read a clock or draw randomness; text comes in, values or clear errors go out.

mod authority;
mod error;
mod hostname;
mod pattern;

pub use authority::normalise_authority;
pub use error::{NameError, Shown};
pub use hostname::Hostname;
pub use pattern::{HostPattern, WildcardMode};

/// Longest name in characters, without the final dot (RFC 1035 section 3.1: 255 octets on the wire).
pub const MAX_NAME: usize = 253;
/// Longest label in characters (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;
