//! The claims behind a storage node: which volumes it has, how large, and where they are mounted. Decides nothing
//! about layouts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sha2::{Digest as _, Sha256};

use crate::api::{DataPath, GarageClusterSpec, LayoutPolicy, NodeVolume, StorageSpec, VolumeSpec};
use crate::cluster::Problem;
use crate::config::{DATA_DIR, METADATA_DIR};
use crate::quantity;

/// Size of the metadata volume when none is given. Metadata is about a hundredth of the data; ten gibibytes are
/// enough for some ten million objects and cheap everywhere.
pub const DEFAULT_METADATA_SIZE: &str = "10Gi";

/// One volume of each storage node.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Name of the claim template and of the pod's volume.
    pub name: String,
    /// Where it is mounted.
    pub path: String,
    /// Bytes asked for.
    pub bytes: u64,
    /// Bytes that Garage may put there; `None` for metadata and for folders that are only read.
    pub capacity: Option<u64>,
    /// The claim.
    pub spec: PersistentVolumeClaimSpec,
}

/// The volumes of a storage cluster: `metadata` first, then the data folders in the user's order. Only a cluster with
/// the manual layout may have no data volume.
pub fn claims(spec: &GarageClusterSpec) -> Result<Vec<Claim>, Vec<Problem>> {
    let none = StorageSpec::default();
    let storage = spec.storage.as_ref().unwrap_or(&none);
    let mut problems = Vec::new();
    let mut keep = |claim: Result<Claim, Problem>| match claim {
        Ok(claim) => Some(claim),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    let mut claims: Vec<Claim> = keep(metadata(storage)).into_iter().collect();
    let data = storage.data.clone().unwrap_or_default();
    if data.paths.is_empty() {
        // With the manual layout the GarageNodes may say it.
        if data.size.is_some() || spec.layout_policy == LayoutPolicy::Auto {
            claims.extend(keep(one_folder(data.size, data.storage_class_name)));
        }
    } else {
        if data.size.is_some() || data.storage_class_name.is_some() {
            let message =
                "give either one data volume (size, storageClassName) or several folders (paths)";
            keep(Err(problem("spec.storage.data", message)));
        }
        let mut paths: Vec<&str> = vec![
            METADATA_DIR,
            "/etc/garage",
            "/garage",
            "/proc",
            "/sys",
            "/dev",
        ];
        for (index, folder) in data.paths.iter().enumerate() {
            let field = format!("spec.storage.data.paths[{index}]");
            claims.extend(keep(data_folder(&field, folder, &paths)));
            paths.push(&folder.path);
        }
        if data.paths.iter().all(|folder| folder.read_only) {
            let message =
                "at least one folder must not be readOnly, or Garage has nowhere to write";
            keep(Err(problem("spec.storage.data.paths", message)));
        }
    }
    if problems.is_empty() {
        Ok(claims)
    } else {
        Err(problems)
    }
}

/// Bytes of each claim by the name of its template.
pub fn sizes(claims: &[Claim]) -> BTreeMap<String, u64> {
    claims
        .iter()
        .map(|claim| (claim.name.clone(), claim.bytes))
        .collect()
}

/// Bytes that Garage may put on each claim, by the name of its template.
pub fn shares(claims: &[Claim]) -> BTreeMap<String, u64> {
    let shares = claims.iter();
    shares
        .filter_map(|claim| Some((claim.name.clone(), claim.capacity?)))
        .collect()
}

/// Bytes that one node offers: the folders it may write to, less the part that is kept back.
pub fn offered(shares: impl IntoIterator<Item = u64>, reserve_percent: u32) -> u64 {
    let total: u128 = shares.into_iter().map(u128::from).sum();
    let kept = total * u128::from(100 - reserve_percent.min(100)) / 100;
    u64::try_from(kept).unwrap_or(u64::MAX)
}

fn problem(field: &str, message: impl Into<String>) -> Problem {
    Problem {
        field: field.to_owned(),
        message: message.into(),
    }
}

fn size(field: &str, quantity: &Quantity) -> Result<u64, Problem> {
    match quantity::bytes(quantity) {
        Ok(0) => Err(problem(field, "a volume cannot be empty")),
        Ok(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
        Ok(_) => Err(problem(field, "a volume cannot be larger than 8Ei")),
        Err(error) => Err(problem(field, error.to_string())),
    }
}

fn metadata(storage: &StorageSpec) -> Result<Claim, Problem> {
    let default = VolumeSpec {
        size: Quantity(DEFAULT_METADATA_SIZE.to_owned()),
        ..VolumeSpec::default()
    };
    let volume = storage.metadata.as_ref().unwrap_or(&default);
    let bytes = size("spec.storage.metadata.size", &volume.size)?;
    Ok(Claim {
        name: "metadata".to_owned(),
        path: METADATA_DIR.to_owned(),
        bytes,
        capacity: None,
        spec: claim_spec(volume),
    })
}

fn one_folder(
    quantity: Option<Quantity>,
    storage_class_name: Option<String>,
) -> Result<Claim, Problem> {
    let field = "spec.storage.data.size";
    let quantity = quantity.ok_or_else(|| {
        problem(
            field,
            "a storage cluster needs the size of its data volumes, for example 100Gi",
        )
    })?;
    let bytes = size(field, &quantity)?;
    let volume = VolumeSpec {
        size: quantity,
        storage_class_name,
        ..VolumeSpec::default()
    };
    Ok(Claim {
        name: "data".to_owned(),
        path: DATA_DIR.to_owned(),
        bytes,
        capacity: Some(bytes),
        spec: claim_spec(&volume),
    })
}

/// The volume of a GarageNode's pod: its own size and class, else the cluster's volume, else the node's capacity.
pub(super) fn node_claim(
    field: &str,
    name: &str,
    path: &str,
    volume: &NodeVolume,
    of_cluster: Option<&Claim>,
    capacity: Option<&Quantity>,
) -> Result<Claim, Problem> {
    let (quantity, bytes) = match (&volume.size, of_cluster, capacity) {
        (Some(own), _, _) => (own.clone(), size(&format!("{field}.size"), own)?),
        (None, Some(claim), _) => (quantity::canonical(claim.bytes), claim.bytes),
        (None, None, Some(capacity)) => (capacity.clone(), size("spec.capacity", capacity)?),
        (None, None, None) => {
            let message =
                "neither the node nor its cluster says how large this volume is, for example 100Gi";
            return Err(problem(&format!("{field}.size"), message));
        }
    };
    let own = VolumeSpec {
        size: quantity,
        storage_class_name: volume.storage_class_name.clone(),
        volume_claim_template_spec: of_cluster.map(|claim| claim.spec.clone()),
        ..VolumeSpec::default()
    };
    let capacity = (name == "data").then_some(bytes);
    Ok(Claim {
        name: name.to_owned(),
        path: path.to_owned(),
        bytes,
        capacity,
        spec: claim_spec(&own),
    })
}

fn data_folder(field: &str, folder: &DataPath, taken: &[&str]) -> Result<Claim, Problem> {
    let DataPath {
        path,
        capacity,
        read_only,
        volume,
    } = folder;
    let path_field = format!("{field}.path");
    let normal = path.starts_with('/')
        && path.len() > 1
        && path
            .split('/')
            .skip(1)
            .all(|part| !matches!(part, "" | "." | ".."))
        && !path.contains([':', '$']);
    if !normal {
        return Err(problem(
            &path_field,
            format!("\"{path}\" is not an absolute path such as /mnt/disk1"),
        ));
    }
    let within = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(other) = taken
        .iter()
        .find(|other| within(path, other) || within(other, path))
    {
        return Err(problem(
            &path_field,
            format!("{path} and {other} overlap; each folder is a volume of its own"),
        ));
    }
    let capacity = match capacity {
        Some(capacity) => Some((capacity, size(&format!("{field}.capacity"), capacity)?)),
        None => None,
    };
    let (volume, bytes) = match (volume, capacity) {
        (Some(volume), _) => (
            volume.clone(),
            size(&format!("{field}.volume.size"), &volume.size)?,
        ),
        (None, Some((quantity, bytes))) => (
            VolumeSpec {
                size: quantity.clone(),
                ..VolumeSpec::default()
            },
            bytes,
        ),
        (None, None) => {
            return Err(problem(
                &format!("{field}.volume"),
                "the folder has neither volume nor capacity; give volume.size",
            ));
        }
    };
    let share = capacity.map_or(bytes, |(_, bytes)| bytes);
    if share > bytes {
        return Err(problem(
            &format!("{field}.capacity"),
            "the folder cannot hold more than its volume",
        ));
    }
    Ok(Claim {
        name: volume_name(path),
        path: path.clone(),
        bytes,
        capacity: (!read_only).then_some(share),
        spec: claim_spec(&volume),
    })
}

/// The volume of a folder is named after the folder, not after its place in the list: a list in another order must
/// not mount yesterday's volume at another path.
fn volume_name(path: &str) -> String {
    let plain = path
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'/');
    if plain && path.len() <= 40 {
        return format!("data{}", path.replace('/', "-"));
    }
    let hash: String = Sha256::digest(path)
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("data-{hash}")
}

fn claim_spec(volume: &VolumeSpec) -> PersistentVolumeClaimSpec {
    let mut spec = volume
        .volume_claim_template_spec
        .clone()
        .unwrap_or_default();
    let resources = spec
        .resources
        .get_or_insert_with(VolumeResourceRequirements::default);
    resources
        .requests
        .get_or_insert_default()
        .insert("storage".to_owned(), volume.size.clone());
    if !volume.access_modes.is_empty() {
        spec.access_modes = Some(volume.access_modes.clone());
    }
    if spec.access_modes.as_ref().is_none_or(Vec::is_empty) {
        spec.access_modes = Some(vec!["ReadWriteOnce".to_owned()]);
    }
    if volume.storage_class_name.is_some() {
        spec.storage_class_name
            .clone_from(&volume.storage_class_name);
    }
    if volume.selector.is_some() {
        spec.selector.clone_from(&volume.selector);
    }
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(storage: Value) -> GarageClusterSpec {
        serde_json::from_value(json!({ "storage": storage })).expect("a spec")
    }

    #[test]
    fn the_specified_cluster_has_two_volumes() {
        let claims = claims(&spec(json!({"data": {"size": "100Gi"}}))).expect("claims");
        let table: Vec<_> = claims
            .iter()
            .map(|c| (c.name.as_str(), c.path.as_str(), c.bytes, c.capacity))
            .collect();
        assert_eq!(
            table,
            [
                ("metadata", METADATA_DIR, 10 << 30, None),
                ("data", DATA_DIR, 100 << 30, Some(100 << 30)),
            ]
        );
        assert_eq!(sizes(&claims)["data"], 100 << 30);
        assert_eq!(offered(shares(&claims).into_values(), 0), 100 << 30);
        assert_eq!(offered(shares(&claims).into_values(), 10), 90 << 30);
    }

    #[test]
    fn folders() {
        let paths = json!({"data": {"paths": [
            {"path": "/mnt/hdd1", "volume": {"size": "2Ti", "storageClassName": "slow"}, "capacity": "1Ti"},
            {"path": "/mnt/hdd-2", "capacity": "1Ti"},
            {"path": "/old", "readOnly": true, "volume": {"size": "1Gi"}},
        ]}});
        let claims = claims(&spec(paths)).expect("claims");
        let table: Vec<_> = claims[1..]
            .iter()
            .map(|c| (c.name.as_str(), c.bytes, c.capacity))
            .collect();
        assert_eq!(
            table,
            [
                ("data-mnt-hdd1", 2 << 40, Some(1 << 40)),
                (volume_name("/mnt/hdd-2").as_str(), 1 << 40, Some(1 << 40)),
                ("data-old", 1 << 30, None),
            ]
        );
        assert_eq!(offered(shares(&claims).into_values(), 0), 2 << 40);
        assert_eq!(claims[1].spec.storage_class_name.as_deref(), Some("slow"));
        assert_ne!(volume_name("/mnt/hdd-2"), volume_name("/mnt/hdd/2"));
    }

    #[test]
    fn a_claim_in_full() {
        let storage = json!({"data": {"size": "1Gi"}, "metadata": {
            "size": "20Gi",
            "storageClassName": "fast",
            "accessModes": ["ReadWriteOncePod"],
            "selector": {"matchLabels": {"disk": "nvme"}},
            "volumeClaimTemplateSpec": {
                "storageClassName": "slow",
                "volumeMode": "Filesystem",
                "volumeAttributesClassName": "gold",
                "resources": {"requests": {"storage": "1Gi"}, "limits": {"storage": "30Gi"}},
            },
        }});
        let claims = claims(&spec(storage)).expect("claims");
        assert_eq!(
            serde_json::to_value(&claims[0].spec).expect("JSON"),
            json!({
                "accessModes": ["ReadWriteOncePod"],
                "resources": {"requests": {"storage": "20Gi"}, "limits": {"storage": "30Gi"}},
                "selector": {"matchLabels": {"disk": "nvme"}},
                "storageClassName": "fast",
                "volumeAttributesClassName": "gold",
                "volumeMode": "Filesystem",
            })
        );
    }

    #[test]
    fn what_cannot_be_stored() {
        let one = |folder: Value| json!({"data": {"paths": [folder]}});
        for (storage, field, words) in [
            (json!({}), "spec.storage.data.size", "needs the size"),
            (
                json!({"data": {"size": "0"}}),
                "spec.storage.data.size",
                "cannot be empty",
            ),
            (
                json!({"data": {"size": "9Ei"}}),
                "spec.storage.data.size",
                "larger than 8Ei",
            ),
            (
                json!({"data": {"size": "1Gi"}, "metadata": {"size": "x"}}),
                "spec.storage.metadata.size",
                "is not a quantity",
            ),
            (
                one(json!({"path": "mnt", "capacity": "1Gi"})),
                "spec.storage.data.paths[0].path",
                "not an absolute path",
            ),
            (
                one(json!({"path": "/", "capacity": "1Gi"})),
                "spec.storage.data.paths[0].path",
                "not an absolute path",
            ),
            (
                one(json!({"path": "/a/../b", "capacity": "1Gi"})),
                "spec.storage.data.paths[0].path",
                "not an absolute path",
            ),
            (
                one(json!({"path": "/a/", "capacity": "1Gi"})),
                "spec.storage.data.paths[0].path",
                "not an absolute path",
            ),
            (
                one(json!({"path": "/var/lib/garage", "capacity": "1Gi"})),
                "spec.storage.data.paths[0].path",
                "overlap",
            ),
            (
                one(json!({"path": "/garage", "capacity": "1Gi"})),
                "spec.storage.data.paths[0].path",
                "overlap",
            ),
            (
                one(json!({"path": "/a"})),
                "spec.storage.data.paths[0].volume",
                "neither volume nor capacity",
            ),
            (
                one(json!({"path": "/a", "capacity": "2Gi", "volume": {"size": "1Gi"}})),
                "spec.storage.data.paths[0].capacity",
                "more than its volume",
            ),
            (
                one(json!({"path": "/a", "capacity": "1Gi", "readOnly": true})),
                "spec.storage.data.paths",
                "nowhere to write",
            ),
            (
                json!({"data": {"paths": [{"path": "/a", "capacity": "1Gi"}, {"path": "/a/b", "capacity": "1Gi"}]}}),
                "spec.storage.data.paths[1].path",
                "overlap",
            ),
            (
                json!({"data": {"size": "1Gi", "paths": [{"path": "/a", "capacity": "1Gi"}]}}),
                "spec.storage.data",
                "either one data volume",
            ),
        ] {
            let problems = claims(&spec(storage.clone())).expect_err("refused");
            let found = problems
                .iter()
                .any(|p| p.field == field && p.message.contains(words));
            assert!(found, "{storage}: {problems:?}");
        }
    }
}
