//! The credential of a cluster's agents: `gwt_<id>_<secret>`. Only a hash of the secret is ever kept;
//! the text leaves this module once, when it is made.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::Error;

const PREFIX: &str = "gwt_";
const ID_LENGTH: usize = 12;
const SECRET_BYTES: usize = 32;
/// RFC 4648 base32, lower case: 32 symbols, so that five random bits make one without bias.
const SYMBOLS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A token as its owner gets it, once. Prints as `[redacted]`.
pub struct Token(String);

impl Token {
    /// Draws a token: a 12-character id, which is public, and a secret of 256 random bits.
    ///
    /// # Errors
    /// [`Error::Random`] when the operating system gives no random bytes.
    pub fn draw() -> Result<Self, Error> {
        let id = random_label(ID_LENGTH)?;
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|_| Error::Random)?;
        Ok(Self(format!("{PREFIX}{id}_{}", hex(&secret))))
    }

    /// The text, to be shown to its owner and nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub(crate) fn digest(&self) -> Digested {
        let (id, secret) = split(&self.0).unwrap_or_default();
        Digested {
            id: TokenId::kept(id),
            sha256: sha256(secret),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A token at rest.
pub(crate) struct Digested {
    pub(crate) id: TokenId,
    pub(crate) sha256: [u8; 32],
}

/// The public part of a token: for logs, for revoking, and to find what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(Arc<str>);

impl TokenId {
    /// The id of a presented token; `None` if the text is no token.
    #[must_use]
    pub fn of(presented: &str) -> Option<Self> {
        split(presented).map(|(id, _)| Self(id.into()))
    }

    /// An id from the store.
    pub(crate) fn kept(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl PartialEq<TokenId> for String {
    fn eq(&self, other: &TokenId) -> bool {
        self.as_str() == other.as_str()
    }
}

/// Whether the presented token's secret has this hash. The time it takes does not depend on how much
/// of it is right.
pub(crate) fn proves(presented: &str, sha256_kept: &[u8; 32]) -> bool {
    split(presented).is_some_and(|(_, secret)| sha256(secret).ct_eq(sha256_kept).into())
}

/// Unguessable text that may stand in a host name; each character holds 5 random bits.
pub(crate) fn random_label(length: usize) -> Result<String, Error> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(SYMBOLS[usize::from(byte & 31)]))
        .collect())
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn random_uuid() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| Error::Random)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    Ok([
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ]
    .join("-"))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

/// 32 bytes from 64 hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    if digits.len() == 64 {
        bytes.try_into().ok()
    } else {
        None
    }
}

/// Id and secret of a well-formed token.
fn split(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let well_formed = id.len() == ID_LENGTH
        && id.bytes().all(|byte| SYMBOLS.contains(&byte))
        && secret.len() == SECRET_BYTES * 2
        && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
    well_formed.then_some((id, secret))
}

fn sha256(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_proves_itself_and_no_other_does() {
        let token = Token::draw().unwrap();
        let kept = token.digest();
        assert_eq!(TokenId::of(token.reveal()), Some(kept.id.clone()));
        assert!(proves(token.reveal(), &kept.sha256));
        assert!(!proves(Token::draw().unwrap().reveal(), &kept.sha256));
        let mut last_digit_changed = token.reveal().to_owned();
        let digit = if last_digit_changed.pop() == Some('0') {
            '1'
        } else {
            '0'
        };
        last_digit_changed.push(digit);
        assert!(!proves(&last_digit_changed, &kept.sha256));
    }

    #[test]
    fn a_token_is_redacted_when_printed() {
        let token = Token::draw().unwrap();
        assert_eq!(
            format!("{token:?} {:?}", Some(&token)),
            "[redacted] Some([redacted])"
        );
    }

    #[test]
    fn what_is_kept_does_not_contain_the_secret() {
        let token = Token::draw().unwrap();
        let (_, secret) = split(token.reveal()).unwrap();
        assert!(!hex(&token.digest().sha256).contains(secret));
    }

    #[test]
    fn texts_that_are_no_tokens() {
        let good = Token::draw().unwrap().reveal().to_owned();
        for text in [
            "",
            "gwt_",
            "gwt__",
            "gwt_abcdefghijkl_",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}0"),
            &good.to_uppercase(),
            &good.replace('_', "-"),
            "gwt_abcdefghijk1_0000000000000000000000000000000000000000000000000000000000000000",
            "gwt_äbcdefghijk_0000000000000000000000000000000000000000000000000000000000000000",
        ] {
            assert_eq!(TokenId::of(text), None, "{text}");
        }
    }

    #[test]
    fn uuids_are_of_version_4_and_hex_goes_both_ways() {
        let uuid = random_uuid().unwrap();
        let dashes: Vec<usize> = uuid.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((uuid.len(), dashes), (36, vec![8, 13, 18, 23]));
        assert!(
            &uuid[14..15] == "4" && "89ab".contains(&uuid[19..20]),
            "{uuid}"
        );
        let bytes: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 8).unwrap());
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for text in ["", "0", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64)] {
            assert_eq!(unhex(text), None);
        }
    }
}
