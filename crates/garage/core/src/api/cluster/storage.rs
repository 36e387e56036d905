//! Volumes of a storage cluster. Data only.

use k8s_openapi::api::core::v1::PersistentVolumeClaimSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{is_false, words};

/// Volumes and how Garage writes to them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Volume of the metadata; 10Gi of the default class when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<VolumeSpec>,
    /// Volume or volumes of the data; required in practice, since its size is the node's capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStorage>,
    /// Sync the metadata to disk at each write.
    #[serde(default, skip_serializing_if = "is_false")]
    pub metadata_fsync: bool,
    /// Sync the data to disk at each write.
    #[serde(default, skip_serializing_if = "is_false")]
    pub data_fsync: bool,
    /// Folder of metadata snapshots, in the metadata volume when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_snapshots_dir: Option<String>,
    /// How often Garage takes a snapshot of its metadata, for example `6h`; never when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_auto_snapshot_interval: Option<String>,
    /// What becomes of the volumes when the cluster is deleted or scaled down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pvc_retention_policy: Option<PvcRetentionPolicy>,
}

/// Data volumes: one of `size`, or several `paths`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataStorage {
    /// Size of the one data volume; it may only grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Storage class of the one data volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Several folders with a volume each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<DataPath>,
}

/// One data folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataPath {
    /// Absolute path in the container.
    pub path: String,
    /// How much of it Garage may use; the size of the volume when absent, and its size when there is no `volume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// True: Garage reads what is there and writes nothing (a folder that is being emptied).
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Volume of the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeSpec>,
}

/// A volume by size and class, or in full by `volumeClaimTemplateSpec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// Size; it may only grow.
    pub size: Quantity,
    /// Storage class; the cluster's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Access modes; ReadWriteOnce when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access_modes: Vec<String>,
    /// Which existing volumes may be bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// The whole claim; the fields above win where both are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_claim_template_spec: Option<PersistentVolumeClaimSpec>,
}

/// What becomes of PersistentVolumeClaims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PvcRetentionPolicy {
    /// When the GarageCluster is deleted.
    #[serde(default)]
    pub when_deleted: RetentionPolicy,
    /// When the cluster is scaled down.
    #[serde(default)]
    pub when_scaled: RetentionPolicy,
}

words! {
    /// Keep or delete.
    pub enum RetentionPolicy {
        /// The claims stay.
        #[default]
        Retain = "Retain",
        /// The claims go.
        Delete = "Delete",
    }
}
