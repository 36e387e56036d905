//! Why a text is not a name. May not hold secrets: a name is public, and at most 80 characters of it are shown.

/// Why a text was refused as a host name or as a pattern.
///
/// The text of each variant says what was wrong with which part and what is allowed instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing was left of the text.
    #[error("the host name is empty; give a name such as app.example.com")]
    Empty,
    /// Longer than 253 characters.
    #[error("the host name has {length} characters; at most 253 are allowed")]
    TooLong {
        /// Characters after normalising.
        length: usize,
    },
    /// Two dots in a row or a dot in front.
    #[error("the host name {name} has an empty label; remove the extra dot")]
    EmptyLabel {
        /// The name, shortened for display.
        name: Shown,
    },
    /// A label of more than 63 characters.
    #[error("the label {label} has {length} characters; at most 63 are allowed")]
    LabelTooLong {
        /// The label, shortened for display.
        label: Shown,
        /// Characters of the label.
        length: usize,
    },
    /// A label that begins or ends with a hyphen.
    #[error("the label {label} begins or ends with a hyphen")]
    Hyphen {
        /// The label, shortened for display.
        label: Shown,
    },
    /// A character that no host name has.
    #[error(
        "the host name {name} has the character {character:?}; letters, digits, hyphens and dots are allowed"
    )]
    Character {
        /// The name, shortened for display.
        name: Shown,
        /// The first such character.
        character: char,
    },
    /// An underscore in the last label.
    #[error(
        "the last label of {name} has an underscore; underscores are only allowed further left"
    )]
    UnderscoreInLastLabel {
        /// The name, shortened for display.
        name: Shown,
    },
    /// An IPv4 or IPv6 address, in any spelling.
    #[error("{name} is an IP address or ends like one; a host name is needed")]
    IpAddress {
        /// The text, shortened for display.
        name: Shown,
    },
    /// UTS 46 processing failed: not a valid internationalised name, or Punycode that encodes none.
    #[error(
        "{name} is not a valid internationalised name (UTS 46); check its xn-- labels and its letters"
    )]
    Idna {
        /// The text, shortened for display.
        name: Shown,
    },
    /// Not UTF-8.
    #[error("the host name is not UTF-8 text")]
    NotText,
    /// The part after the colon is no port.
    #[error("{port} is not a port; 0 to 65535 is allowed after the colon")]
    Port {
        /// The text after the colon, shortened for display.
        port: Shown,
    },
    /// A wildcard where a single host is needed.
    #[error("{name} is a wildcard; a single host name is needed here")]
    Wildcard {
        /// The text, shortened for display.
        name: Shown,
    },
    /// `*` alone: no pattern of ours covers every host.
    #[error("a wildcard for every host is not allowed; name a domain, as in *.example.com")]
    BareWildcard,
    /// An asterisk that is not the whole first label.
    #[error("the asterisk in {name} must be the whole first label, as in *.example.com")]
    MisplacedAsterisk {
        /// The text, shortened for display.
        name: Shown,
    },
}

/// Text from outside as it appears in an error: quoted, escaped and at most 80 characters long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    pub(crate) fn new(text: &str) -> Self {
        const LIMIT: usize = 80;
        let mut quoted = String::from("\"");
        for (index, character) in text.chars().enumerate() {
            if index == LIMIT {
                quoted.push_str("...");
                break;
            }
            quoted.extend(character.escape_debug());
        }
        quoted.push('"');
        Self(quoted)
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
