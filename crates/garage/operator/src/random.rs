//! The one place of this crate that asks the system for random bytes.

use crate::error::{Error, Result};
use gatewright_garage::secret::Redacted;

/// 32 random bytes.
pub(crate) fn seed() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(bytes)
}

/// 32 random bytes as 64 hexadecimal digits: an RPC secret, or a token without a dot.
pub(crate) fn hex() -> Result<Redacted<String>> {
    let bytes = seed()?;
    Ok(Redacted::new(
        bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}

/// Something to differ in from other processes; 0 where there is nothing random.
pub(crate) fn byte() -> u8 {
    seed().map_or(0, |[byte, ..]| byte)
}
