//! What can go wrong between us and Garage's Admin API. It may not hold a token or a secret: the API's
//! answers are quoted without ours.

use std::time::Duration;

use gatewright_garage::identity::NodeId;

/// A call that did not do what it should. `at` is the API's address, without credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client was given an address that it cannot use.
    #[error(
        "{address:?} is no address of a Garage Admin API: {why}; write http://host:port or https://host:port"
    )]
    Address {
        /// As it was given, without what stands before an `@`.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The client was given a token that cannot be a header's value.
    #[error(
        "the admin token for {at} has characters that no token has; check that the Secret holds the token alone, without a line break"
    )]
    Token {
        /// The API's address.
        at: String,
    },
    /// There are no certificates to check an https address with.
    #[error(
        "cannot check the certificate of {at}: this machine has no certificates of authorities; install ca-certificates or use http://"
    )]
    Roots {
        /// The API's address.
        at: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No connection, or it broke off.
    #[error(
        "{call}: {at} does not answer; check that Garage runs there and that nothing is in between"
    )]
    Unreachable {
        /// The API's name of the call.
        call: &'static str,
        /// The API's address.
        at: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No whole answer in time. Whether the call took effect is unknown.
    #[error("{call}: {at} did not answer within {after:?}; whether it took effect is unknown")]
    Timeout {
        /// The API's name of the call.
        call: &'static str,
        /// The API's address.
        at: String,
        /// The patience it was given.
        after: Duration,
    },
    /// The answer is longer than we keep.
    #[error("{call}: the answer of {at} is longer than {limit} bytes; is it Garage's Admin API?")]
    TooLarge {
        /// The API's name of the call.
        call: &'static str,
        /// The API's address.
        at: String,
        /// Bytes.
        limit: usize,
    },
    /// A success whose body is not what the call answers. The parser's own words could quote a secret.
    #[error(
        "{call}: the answer of {at} is not what Garage 2 answers ({what}, line {line}, column {column}); is it Garage's Admin API v2?"
    )]
    Unreadable {
        /// The API's name of the call.
        call: &'static str,
        /// The API's address.
        at: String,
        /// `no JSON`, `JSON of another shape`, `cut off`.
        what: &'static str,
        /// In the answer, from 1.
        line: usize,
        /// In the answer, from 1.
        column: usize,
    },
    /// An HTTP status other than success.
    #[error("{call}: {at} refused: {message} ({code}, HTTP {status})")]
    Refused {
        /// The API's name of the call.
        call: &'static str,
        /// The API's address.
        at: String,
        /// The HTTP status.
        status: u16,
        /// Garage's own code, `NoSuchBucket` and the like; empty if the answer was not Garage's.
        code: String,
        /// Garage's own words.
        message: String,
    },
    /// HTTP 200, but the node for which the call was meant could not do it.
    #[error("{call}: node {node} could not, {at} says: {message}")]
    Node {
        /// The API's name of the call.
        call: &'static str,
        /// The API's address.
        at: String,
        /// Which node.
        node: NodeId,
        /// Its own words.
        message: String,
    },
    /// HTTP 200, but nothing about the node for which the call was meant.
    #[error("{call}: {at} answered without a word about the node that was asked for")]
    NoNode {
        /// The API's name of the call.
        call: &'static str,
        /// The API's address.
        at: String,
    },
    /// HTTP 200 of `PreviewClusterLayoutChanges`, but the staged changes cannot be applied.
    #[error("the staged layout at {at} cannot be applied: {message}")]
    Layout {
        /// The API's address.
        at: String,
        /// Garage's own words.
        message: String,
    },
    /// HTTP 200 of `ConnectClusterNodes`, but some were not connected.
    #[error("{at} could not connect to {} of {asked} nodes: {}", .failed.len(), list(.failed))]
    NotConnected {
        /// The API's address.
        at: String,
        /// How many were asked for.
        asked: usize,
        /// Which failed, and why.
        failed: Vec<(String, String)>,
    },
    /// HTTP 200 of `UpdateBucket`, but this Garage does not know some of the settings.
    #[error("{at} dropped {} without a word: its Garage is too old; 2.3 or newer is needed", .settings.join(", "))]
    Dropped {
        /// The API's address.
        at: String,
        /// In the API's names.
        settings: Vec<&'static str>,
    },
}

fn list(failed: &[(String, String)]) -> String {
    let parts: Vec<String> = failed
        .iter()
        .map(|(peer, why)| format!("{peer} ({why})"))
        .collect();
    parts.join(", ")
}

impl Error {
    /// Whether the same call may succeed later without anybody's doing: nobody answered, no quorum, the
    /// layout has not arrived.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::NotConnected { .. } => true,
            // A node that is down or that does not know the layout yet; refusals come as HTTP errors.
            Self::Node { .. } | Self::NoNode { .. } => true,
            Self::Refused {
                status, message, ..
            } => {
                matches!(status, 429 | 502..=504)
                    || (*status == 500 && message.contains("Layout not ready"))
            }
            Self::Address { .. }
            | Self::Token { .. }
            | Self::Roots { .. }
            | Self::TooLarge { .. }
            | Self::Unreadable { .. }
            | Self::Layout { .. }
            | Self::Dropped { .. } => false,
        }
    }

    /// Whether the bucket, key or token is not there (HTTP 404).
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether a name or id is taken, or a bucket not empty (HTTP 409).
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }

    /// Whether the token is wrong, expired, or not for this call (HTTP 401 or 403; Garage does not tell
    /// them apart). A node without a role knows no tokens but its configured one.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }

    /// Whether somebody applied another layout in between (Garage 2.5: HTTP 500 and no code of its own).
    /// Read the layout again.
    pub fn is_stale_layout_version(&self) -> bool {
        self.status() == Some(500) && self.says("Invalid new layout version")
    }

    /// Whether too few nodes answered for a write or a read (HTTP 503).
    pub fn is_quorum_lost(&self) -> bool {
        self.status() == Some(503) && self.says("Could not reach quorum")
    }

    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        if let Self::Refused { status, .. } = self {
            return Some(*status);
        }
        None
    }

    /// Garage's own code of a refusal: `NoSuchBucket`, `AccessDenied`, ...
    pub fn code(&self) -> Option<&str> {
        if let Self::Refused { code, .. } = self
            && !code.is_empty()
        {
            return Some(code);
        }
        None
    }

    fn says(&self, words: &str) -> bool {
        self.message()
            .is_some_and(|message| message.contains(words))
    }

    /// Garage's own words, where it had any.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. }
            | Self::Node { message, .. }
            | Self::Layout { message, .. } => Some(message),
            Self::Address { .. }
            | Self::Token { .. }
            | Self::Roots { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::TooLarge { .. }
            | Self::Unreadable { .. }
            | Self::NoNode { .. }
            | Self::NotConnected { .. }
            | Self::Dropped { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, message: &str) -> Error {
        Error::Refused {
            call: "ApplyClusterLayout",
            at: "http://garage:3903".into(),
            status,
            code: "InternalError".into(),
            message: message.into(),
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let stale = "Invalid new layout version";
        let quorum = "Could not reach quorum of 2 (sets=None)";
        for (status, message, want) in [
            (403, "Forbidden", "unauthorized"),
            (404, "Bucket not found: x", "not found"),
            (409, "Bucket already exists", "conflict"),
            (500, stale, "stale"),
            (500, "Layout not ready", "transient"),
            (500, "Zone error", ""),
            (503, quorum, "transient quorum"),
            (503, stale, "transient"),
            (502, "", "transient"),
            (400, stale, ""),
        ] {
            let error = refused(status, message);
            let mut traits = Vec::new();
            for (holds, name) in [
                (error.is_unauthorized(), "unauthorized"),
                (error.is_not_found(), "not found"),
                (error.is_conflict(), "conflict"),
                (error.is_stale_layout_version(), "stale"),
                (error.is_transient(), "transient"),
                (error.is_quorum_lost(), "quorum"),
            ] {
                if holds {
                    traits.push(name);
                }
            }
            assert_eq!(traits.join(" "), want, "{error}");
        }
    }

    #[test]
    fn texts_say_what_failed_why_and_what_to_do() {
        assert_eq!(
            refused(500, "Zone error").to_string(),
            "ApplyClusterLayout: http://garage:3903 refused: Zone error (InternalError, HTTP 500)"
        );
        let error = Error::NotConnected {
            at: "http://garage:3903".into(),
            asked: 3,
            failed: vec![("ab@host:3901".into(), "Timeout".into())],
        };
        assert_eq!(
            error.to_string(),
            "http://garage:3903 could not connect to 1 of 3 nodes: ab@host:3901 (Timeout)"
        );
    }
}
