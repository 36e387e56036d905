//! A host or a wildcard, what it matches and which of two wins. May not decide who owns one; that is a registry's.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::error::{NameError, Shown};
use crate::hostname::Hostname;

/// How many labels the asterisk of a wildcard stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WildcardMode {
    /// Exactly one, as in an Ingress: `*.foo.com` matches `a.foo.com`, not `a.b.foo.com`.
    OneLabel,
    /// One or more, as in the Gateway API: `*.foo.com` matches `a.foo.com` and `a.b.foo.com`.
    ManyLabels,
}

/// One host, or all hosts below a name. Neither kind of wildcard matches its own suffix.
///
/// The order of the type is for printing and for map keys; which pattern serves a host is decided by
/// [`HostPattern::specificity`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This host only.
    Exact(Hostname),
    /// The hosts below `suffix`.
    Wildcard {
        /// What follows the `*.`.
        suffix: Hostname,
        /// How far below.
        mode: WildcardMode,
    },
}

impl HostPattern {
    /// Parses `host.example.com` or `*.example.com`; `mode` says what an asterisk means where the text came from.
    ///
    /// # Errors
    /// As [`Hostname::parse`] for the name or suffix; `BareWildcard` for `*` and `*.`; `MisplacedAsterisk` for an
    /// asterisk that is not the whole first label.
    pub fn parse(text: &str, mode: WildcardMode) -> Result<Self, NameError> {
        if !text.contains('*') {
            return Hostname::parse(text).map(Self::Exact);
        }
        if text == "*" || text == "*." {
            return Err(NameError::BareWildcard);
        }
        match text.strip_prefix("*.") {
            Some(suffix) if !suffix.contains('*') => Ok(Self::Wildcard {
                suffix: Hostname::parse(suffix)?,
                mode,
            }),
            Some(_) | None => Err(NameError::MisplacedAsterisk {
                name: Shown::new(text),
            }),
        }
    }

    /// Whether `host` is one of the hosts of this pattern.
    #[must_use]
    pub fn matches(&self, host: &Hostname) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard { suffix, mode } => match mode {
                WildcardMode::OneLabel => host
                    .as_str()
                    .split_once('.')
                    .is_some_and(|(_, parent)| parent == suffix.as_str()),
                WildcardMode::ManyLabels => host.is_under(suffix),
            },
        }
    }

    /// Whether every host of `other` is a host of this pattern.
    #[must_use]
    pub fn covers(&self, other: &HostPattern) -> bool {
        match (self, other) {
            (_, Self::Exact(host)) => self.matches(host),
            (Self::Exact(_), Self::Wildcard { .. }) => false,
            (
                Self::Wildcard { suffix, mode },
                Self::Wildcard {
                    suffix: below,
                    mode: wanted,
                },
            ) => match mode {
                WildcardMode::OneLabel => suffix == below && *wanted == WildcardMode::OneLabel,
                WildcardMode::ManyLabels => suffix == below || below.is_under(suffix),
            },
        }
    }

    /// A total order, most specific first: exact before wildcard, then the longer suffix, then one label before
    /// many, then the text. Of the patterns that match a host, the least in this order serves it.
    #[must_use]
    pub fn specificity(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a.cmp(b),
            (Self::Exact(_), Self::Wildcard { .. }) => Ordering::Less,
            (Self::Wildcard { .. }, Self::Exact(_)) => Ordering::Greater,
            (
                Self::Wildcard {
                    suffix: a,
                    mode: first,
                },
                Self::Wildcard {
                    suffix: b,
                    mode: second,
                },
            ) => (b.as_str().len().cmp(&a.as_str().len()))
                .then(first.cmp(second))
                .then_with(|| a.cmp(b)),
        }
    }

    /// The host of an exact pattern, or the suffix of a wildcard.
    #[must_use]
    pub fn name(&self) -> &Hostname {
        match self {
            Self::Exact(name) | Self::Wildcard { suffix: name, .. } => name,
        }
    }
}

impl From<Hostname> for HostPattern {
    fn from(host: Hostname) -> Self {
        Self::Exact(host)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Wildcard { suffix, .. } => f.pad(&format!("*.{suffix}")),
        }
    }
}

/// As displayed. There is no `Deserialize`: the text does not say what the asterisk means, its source does.
impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
