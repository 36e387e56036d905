//! Which Garage answers, and what that one can do. It may not ask it.

use std::fmt;
use std::str::FromStr;

/// A Garage version, as in `garageVersion`: `v2.5.0`, `2.5.0`, `cargo:2.5.0`, `v2.3.0-12-gabcdef`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GarageVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number, 0 where there is none.
    pub patch: u32,
}

impl GarageVersion {
    /// The given version.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Whether `UpdateBucket` keeps `lifecycleRules`; older nodes answer 200 and drop them.
    pub fn supports_lifecycle(self) -> bool {
        self >= Self::new(2, 3, 0)
    }

    /// Whether `UpdateBucket` keeps `corsRules`; older nodes answer 200 and drop them.
    pub fn supports_cors(self) -> bool {
        self >= Self::new(2, 3, 0)
    }

    /// Whether `UpdateBucket` keeps a website's `routingRules`; older nodes answer 200 and drop them.
    pub fn supports_routing_rules(self) -> bool {
        self >= Self::new(2, 3, 0)
    }

    /// Whether `GetNodeStatistics` has `tableStats`.
    pub fn supports_table_statistics(self) -> bool {
        self >= Self::new(2, 3, 0)
    }

    /// Whether `PreviewClusterLayoutChanges` and `ApplyClusterLayout` have `statistics`.
    pub fn supports_layout_statistics(self) -> bool {
        self >= Self::new(2, 4, 0)
    }

    /// Whether `GetNodeInfo` has `isUp`, `role`, `draining` and the partitions.
    pub fn supports_rich_node_info(self) -> bool {
        self >= Self::new(2, 4, 0)
    }

    /// Whether lists can be asked for page by page.
    pub fn supports_paging(self) -> bool {
        self >= Self::new(2, 5, 0)
    }

    /// Whether `[s3_web]` may be without `root_domain`.
    pub fn supports_web_without_root_domain(self) -> bool {
        self >= Self::new(2, 5, 0)
    }
}

impl fmt::Display for GarageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text that names no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no Garage version: three numbers with dots between them are needed")]
pub struct NoVersion(String);

impl FromStr for GarageVersion {
    type Err = NoVersion;

    /// Reads the first `major.minor[.patch]` in `text`; what stands before and after it is how and from
    /// what this Garage was built.
    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let numbers = text
            .split(|c: char| !(c.is_ascii_digit() || c == '.'))
            .find_map(|word| {
                let mut numbers = word.split('.').map(str::parse::<u32>);
                let major = numbers.next()?.ok()?;
                let minor = numbers.next()?.ok()?;
                let patch = match numbers.next() {
                    Some(patch) => patch.ok()?,
                    None => 0,
                };
                Some(Self::new(major, minor, patch))
            });
        numbers.ok_or_else(|| NoVersion(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_however_garage_was_built() {
        for (text, want) in [
            ("v2.5.0", GarageVersion::new(2, 5, 0)),
            ("2.3.1", GarageVersion::new(2, 3, 1)),
            ("cargo:2.5.0", GarageVersion::new(2, 5, 0)),
            ("v2.3.0-12-gabc1.2def", GarageVersion::new(2, 3, 0)),
            ("git:v10.20.30-modified", GarageVersion::new(10, 20, 30)),
            ("2.6", GarageVersion::new(2, 6, 0)),
        ] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        for text in ["", "unknown", "v2", "2."] {
            assert!(text.parse::<GarageVersion>().is_err(), "{text}");
        }
    }

    #[test]
    fn abilities_come_with_their_version() {
        let abilities = |minor| {
            let version = GarageVersion::new(2, minor, 0);
            [
                version.supports_lifecycle(),
                version.supports_layout_statistics(),
                version.supports_paging(),
            ]
        };
        assert_eq!(abilities(2), [false, false, false]);
        assert_eq!(abilities(3), [true, false, false]);
        assert_eq!(abilities(4), [true, true, false]);
        assert_eq!(abilities(5), [true, true, true]);
        assert!(GarageVersion::new(3, 0, 0).supports_cors());
    }
}
