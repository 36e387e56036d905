//! Identifiers of routes and clusters. Values only; a route's id is computed, a cluster's is given by the edge.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::route::PathType;

/// A route's name in the tunnel: 64 bits that stay the same while its source object, host, path and path type
/// do, whatever happens to its service or port. Written as 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub u64);

impl RouteId {
    /// The id of a route of `source` ("Ingress/namespace/name") for `host` (as displayed; empty: the cluster's own
    /// name) and `path`.
    ///
    /// The first 64 bits of a SHA-256: whoever may write one Ingress of a cluster cannot aim at the id of another.
    #[must_use]
    pub fn of(source: &str, host: &str, path: &str, path_type: PathType) -> Self {
        let mut hash = Sha256::new();
        for part in [source, host, path, path_type.as_str()] {
            // The length in front keeps ("a", "bc") and ("ab", "c") apart.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        Self(
            digest
                .iter()
                .take(8)
                .fold(0, |id, &byte| (id << 8) | u64::from(byte)),
        )
    }
}

/// Why a text is no identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 16 lower-case hexadecimal digits.
    #[error("a route id is 16 lower-case hexadecimal digits")]
    Route,
    /// Not 1 to 64 characters of `a-z`, `0-9` and `-`.
    #[error("a cluster id is 1 to 64 lower-case letters, digits and hyphens")]
    Cluster,
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for RouteId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        // from_str_radix alone would take a sign and capitals.
        if text.len() != 16
            || !text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(IdError::Route);
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| IdError::Route)
    }
}

impl Serialize for RouteId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RouteId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A cluster as the edge knows it: 1 to 64 characters of `a-z`, `0-9` and `-`. Cloning is cheap.
///
/// It comes from the credential of a connection, never from a field of a message.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(Arc<str>);

impl ClusterId {
    /// Parses an id.
    ///
    /// # Errors
    /// [`IdError::Cluster`].
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(IdError::Cluster)
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl AsRef<str> for ClusterId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for ClusterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_id_is_stable_and_depends_on_each_part() {
        let id = RouteId::of(
            "Ingress/default/my-app",
            "my-app.example.com",
            "/",
            PathType::Prefix,
        );
        // The id is written into edges' stores: a change of this value is a change of the protocol.
        assert_eq!(id.to_string(), "5c012aa2ddd394d0");
        for other in [
            RouteId::of(
                "Ingress/default/my-ap",
                "pmy-app.example.com",
                "/",
                PathType::Prefix,
            ),
            RouteId::of(
                "Ingress/default/my-app",
                "my-app.example.com",
                "/",
                PathType::Exact,
            ),
            RouteId::of(
                "Ingress/default/my-app",
                "my-app.example.com",
                "/a",
                PathType::Prefix,
            ),
            RouteId::of("Ingress/default/my-app", "", "/", PathType::Prefix),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn a_route_id_reads_what_it_writes_and_nothing_else() {
        let id = RouteId(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"00000000000000ab\"");
        for text in [
            "",
            "ab",
            "00000000000000AB",
            "+0000000000000ab",
            "00000000000000ab0",
            "0x000000000000ab",
        ] {
            assert_eq!(text.parse::<RouteId>(), Err(IdError::Route), "{text:?}");
        }
    }

    #[test]
    fn a_cluster_id_is_a_short_plain_word() {
        assert!(ClusterId::parse("abc-123").is_ok());
        assert!(ClusterId::parse(&"a".repeat(64)).is_ok());
        for text in ["", "A", "a b", "a/b", "a.b", &"a".repeat(65)] {
            assert_eq!(ClusterId::parse(text), Err(IdError::Cluster), "{text:?}");
        }
    }
}
