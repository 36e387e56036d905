//! One host name in normal form. May not know ports, schemes or patterns; those are at the door.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{NameError, Shown};
use crate::{MAX_LABEL, MAX_NAME};

/// A host name in normal form: lower-case A-labels, no final dot, at most 253 characters, labels of 1 to 63
/// letters, digits, hyphens (not at the ends) and, but for the last label, underscores; never an IP literal.
///
/// Two hosts are the same host exactly when their `Hostname`s are equal. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// Parses a bare name, without a port. Unicode is mapped and encoded after UTS 46 (non-transitional).
    ///
    /// # Errors
    /// Any [`NameError`] but `Port`, `BareWildcard` and `MisplacedAsterisk`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.contains('*') {
            return Err(NameError::Wildcard {
                name: Shown::new(text),
            });
        }
        if text.starts_with('[') || text.bytes().filter(|&byte| byte == b':').count() > 1 {
            return Err(NameError::IpAddress {
                name: Shown::new(text),
            });
        }
        let mapped = map(text)?;
        let name = mapped.strip_suffix('.').unwrap_or(&mapped);
        check(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// Parses the value of a `Host` header or of `:authority`: a name with an optional `:port`, which is dropped
    /// (RFC 9110 section 7.2).
    ///
    /// # Errors
    /// As [`Hostname::parse`], and `Port` if what follows the colon is no port.
    pub fn from_authority(text: &str) -> Result<Self, NameError> {
        Self::parse(strip_port(text)?)
    }

    /// The normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether this name lies strictly below `parent`: `a.b.c` is under `b.c` and under `c`, not under `a.b.c`.
    #[must_use]
    pub fn is_under(&self, parent: &Hostname) -> bool {
        self.0
            .strip_suffix(parent.as_str())
            .is_some_and(|rest| rest.ends_with('.'))
    }

    /// The name without its first label; `None` for a single label.
    #[must_use]
    pub fn parent(&self) -> Option<Hostname> {
        self.0
            .split_once('.')
            .map(|(_, parent)| Self(Arc::from(parent)))
    }
}

/// Splits a `:port` off. Everything left of the colon is judged later.
pub(crate) fn strip_port(text: &str) -> Result<&str, NameError> {
    if text.starts_with('[') {
        return Err(NameError::IpAddress {
            name: Shown::new(text),
        });
    }
    let Some((name, port)) = text.split_once(':') else {
        return Ok(text);
    };
    if port.contains(':') {
        return Err(NameError::IpAddress {
            name: Shown::new(text),
        });
    }
    // RFC 3986 section 3.2.3 allows an empty port.
    if port.is_empty()
        || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
    {
        Ok(name)
    } else {
        Err(NameError::Port {
            port: Shown::new(port),
        })
    }
}

/// Lower case and A-labels. Plain ASCII without `xn--` labels needs no tables.
fn map(text: &str) -> Result<Cow<'_, str>, NameError> {
    if text.is_ascii() && !has_punycode(text.as_bytes()) {
        return Ok(if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        });
    }
    // The tables cost time in proportion to the text, so a text that cannot fit is turned away first: UTS 46
    // never makes one character out of more than a few.
    if text.len() > MAX_NAME * 8 {
        return Err(NameError::TooLong {
            length: text.chars().count(),
        });
    }
    Uts46::new()
        .to_ascii(
            text.as_bytes(),
            AsciiDenyList::EMPTY,
            Hyphens::CheckFirstLast,
            DnsLength::Ignore,
        )
        .map_err(|_| NameError::Idna {
            name: Shown::new(text),
        })
}

/// Whether any label begins with `xn--` in any case.
pub(crate) fn has_punycode(text: &[u8]) -> bool {
    text.split(|&byte| byte == b'.')
        .any(|label| label.len() >= 4 && label[..4].eq_ignore_ascii_case(b"xn--"))
}

/// Checks a mapped name without its final dot.
fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(NameError::TooLong { length: name.len() });
    }
    let mut last = "";
    for label in name.split('.') {
        if label.is_empty() {
            return Err(NameError::EmptyLabel {
                name: Shown::new(name),
            });
        }
        if label.len() > MAX_LABEL {
            return Err(NameError::LabelTooLong {
                label: Shown::new(label),
                length: label.len(),
            });
        }
        if let Some(character) = label.chars().find(|&c| !is_label_character(c)) {
            return Err(NameError::Character {
                name: Shown::new(name),
                character,
            });
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(NameError::Hyphen {
                label: Shown::new(label),
            });
        }
        last = label;
    }
    if last.contains('_') {
        return Err(NameError::UnderscoreInLastLabel {
            name: Shown::new(name),
        });
    }
    if is_numeric(last.as_bytes()) {
        return Err(NameError::IpAddress {
            name: Shown::new(name),
        });
    }
    Ok(())
}

fn is_label_character(character: char) -> bool {
    matches!(character, 'a'..='z' | '0'..='9' | '-' | '_')
}

/// Whether clients would read a name that ends with this (lower-case) label as an IPv4 address (WHATWG URL,
/// "ends in a number"): decimal or `0x` hexadecimal digits only.
pub(crate) fn is_numeric(label: &[u8]) -> bool {
    let hexadecimal = label
        .strip_prefix(b"0x")
        .is_some_and(|rest| rest.iter().all(u8::is_ascii_hexdigit));
    hexadecimal || label.iter().all(u8::is_ascii_digit)
}

impl AsRef<str> for Hostname {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for Hostname {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl Serialize for Hostname {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hostname {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}
