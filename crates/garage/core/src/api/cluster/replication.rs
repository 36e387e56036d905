//! Replication and layout policy of a GarageCluster. Data and one parser; no decisions.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::api::common::words;

/// How many copies, where.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationSpec {
    /// Number of copies. Storage: 3 when absent; gateway: inherited. Cannot be changed once set, because Garage has
    /// no call that changes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7))]
    pub factor: Option<i32>,
    /// Read-after-write consistency; `degraded` and `dangerous` give it up for availability.
    #[serde(default)]
    pub consistency_mode: ConsistencyMode,
    /// `Maximum`, or `AtLeast(n)`: over how many zones the copies of each partition spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_redundancy: Option<ZoneRedundancy>,
}

words! {
    /// Garage's `consistency_mode`.
    pub enum ConsistencyMode {
        /// Reads see all acknowledged writes.
        #[default]
        Consistent = "consistent",
        /// Reads need one copy only.
        Degraded = "degraded",
        /// Reads and writes need one copy only.
        Dangerous = "dangerous",
    }
}

words! {
    /// Who says which nodes are in the layout.
    pub enum LayoutPolicy {
        /// One node per replica.
        #[default]
        Auto = "Auto",
        /// The GarageNode objects of the cluster.
        Manual = "Manual",
    }
}

/// When staged layout changes are applied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayoutManagement {
    /// False: changes are staged and previewed in the status, and a person applies them. True when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_apply: Option<bool>,
    /// No layout change is applied while fewer nodes than this are up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_nodes_healthy: Option<i32>,
}

/// Garage's zone redundancy parameter; `Maximum` or `AtLeast(n)` with n from 1 to 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ZoneRedundancy {
    /// As many zones as there are, up to the replication factor.
    #[default]
    Maximum,
    /// At least that many zones.
    AtLeast(u8),
}

/// A zone redundancy that is neither `Maximum` nor `AtLeast(1)` to `AtLeast(7)`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("zoneRedundancy is {0:?}; it must be Maximum or AtLeast(n) with n from 1 to 7")]
pub struct ZoneRedundancyError(String);

impl FromStr for ZoneRedundancy {
    type Err = ZoneRedundancyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ZoneRedundancyError(text.to_owned());
        if text == "Maximum" {
            return Ok(Self::Maximum);
        }
        let number = text
            .strip_prefix("AtLeast(")
            .and_then(|rest| rest.strip_suffix(')'));
        match number.map(str::as_bytes) {
            Some([digit @ b'1'..=b'7']) => Ok(Self::AtLeast(digit - b'0')),
            Some(_) | None => Err(refused()),
        }
    }
}

impl TryFrom<String> for ZoneRedundancy {
    type Error = ZoneRedundancyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ZoneRedundancy> for String {
    fn from(value: ZoneRedundancy) -> Self {
        value.to_string()
    }
}

impl fmt::Display for ZoneRedundancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Maximum => f.write_str("Maximum"),
            Self::AtLeast(zones) => write!(f, "AtLeast({zones})"),
        }
    }
}

impl JsonSchema for ZoneRedundancy {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ZoneRedundancy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^(Maximum|AtLeast\([1-7]\))$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_redundancies() {
        for (text, parsed) in [
            ("Maximum", Some(ZoneRedundancy::Maximum)),
            ("AtLeast(1)", Some(ZoneRedundancy::AtLeast(1))),
            ("AtLeast(7)", Some(ZoneRedundancy::AtLeast(7))),
            ("AtLeast(8)", None),
            ("AtLeast(10)", None),
            ("AtLeast()", None),
            ("maximum", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), parsed, "{text}");
            if let Some(value) = parsed {
                assert_eq!(value.to_string(), text);
            }
        }
    }
}
