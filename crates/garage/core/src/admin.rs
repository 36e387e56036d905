//! Data shapes of Garage's Admin API v2, as they travel. It may not send or receive any.
//!
//! Field names and meanings are Garage's (`https://garagehq.deuxfleurs.fr/api/garage-admin-v2.html`, read
//! off Garage 2.5.0). Fields that we do not know are ignored and optional ones default, so that an older
//! or newer Garage can be read.

mod bucket;
mod key;
mod layout;
mod node;
mod token;
mod version;

pub use bucket::{
    AbortIncompleteUpload, AliasChange, BucketAlias, BucketInfo, BucketKey, BucketKeyChange,
    BucketListItem, BucketPermissions, BucketQuotas, BucketUpdate, CleanupUploads, CorsRule,
    CreateBucket, CreateLocalAlias, Expiration, LifecycleFilter, LifecycleRule, LocalAlias,
    RoutingCondition, RoutingRedirect, RoutingRule, UploadsCleaned, WebsiteAccess, WebsiteInfo,
};
pub use key::{ImportKey, KeyBucket, KeyChange, KeyInfo, KeyListItem, KeyPermissions};
pub use layout::{
    ApplyLayout, ClusterLayout, LayoutApplied, LayoutChange, LayoutHistory, LayoutParameters,
    LayoutPreview, LayoutRole, LayoutStatistics, LayoutVersion, LayoutVersionStatus, SkipDeadNodes,
    SkippedDeadNodes, StagedRoleChange, UpdateTracker, ZoneRedundancy, ZoneStatistics,
};
pub use node::{
    BlockError, BlockStatistics, BlocksRetried, ClusterHealth, ClusterStatus, ConnectOutcome,
    ConnectionParameters, FreeSpace, HealthStatus, MultiResponse, NodeInfo, NodeRole,
    NodeStatistics, NodeStatus, RepairType, ScrubCommand, TableStatistics,
};
pub use token::{AdminTokenChange, AdminTokenInfo, CreatedAdminToken};
pub use version::GarageVersion;

use serde::{Deserialize, Deserializer};

use crate::secret::Redacted;

/// A secret as it comes over the wire. The way out is open to requests alone.
fn read_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Redacted<String>, D::Error> {
    Ok(Redacted::new(String::deserialize(deserializer)?))
}

/// A secret that may be absent.
fn read_optional_secret<'de, D>(deserializer: D) -> Result<Option<Redacted<String>>, D::Error>
where
    D: Deserializer<'de>,
{
    let secret: Option<String> = Option::deserialize(deserializer)?;
    Ok(secret.map(Redacted::new))
}

/// Reads `null` as the default, for fields that some version of Garage leaves empty that way.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
