//! The Secret of a GarageKey, built from values. May not invent any.

use super::{Desired, Material, Published};
use crate::api::{API_VERSION, APP, GarageKey, LABEL_MANAGED_BY, LABEL_NAME, MANAGER};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// Label of Secrets of GarageKeys and GarageAdminTokens: the UID of the object.
pub const LABEL_OWNER: &str = "garage.rajsingh.info/owner";
/// Annotation: since when this access key is in the Secret.
pub const SINCE: &str = "garage.rajsingh.info/published-at";
/// Entry of the access key id in a Secret that is imported.
pub const IMPORT_ID: &str = "access-key-id";
/// Entry of the secret access key in a Secret that is imported.
pub const IMPORT_SECRET: &str = "secret-access-key";

/// Where clients find the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// URL of the S3 API.
    pub endpoint: Option<String>,
    /// S3 region.
    pub region: Option<String>,
}

/// Labels, annotations and owner of a Secret of ours.
#[must_use]
pub fn metadata(
    kind: &str,
    owner: &ObjectMeta,
    name: &str,
    labels: &BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> ObjectMeta {
    let uid = owner.uid.clone().unwrap_or_default();
    let mut labels = labels.clone();
    labels.insert(LABEL_NAME.to_owned(), APP.to_owned());
    labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.insert(LABEL_OWNER.to_owned(), uid.clone());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: owner.namespace.clone(),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: kind.to_owned(),
            name: owner.name.clone().unwrap_or_default(),
            uid,
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// Whether the object with this UID controls the Secret.
#[must_use]
pub fn is_of(secret: &Secret, uid: &str) -> bool {
    let owners = secret.metadata.owner_references.iter().flatten();
    owners
        .into_iter()
        .any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// An entry as text.
#[must_use]
pub fn entry(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

/// The Secret of a key.
#[must_use]
pub fn secret(
    key: &GarageKey,
    desired: &Desired,
    published: &Published,
    material: &Material,
    place: &Place,
) -> Secret {
    let template = &desired.secret.template;
    let mut data = template.additional_data.clone();
    data.insert(template.access_key_id_key.clone(), material.id.clone());
    data.insert(
        template.secret_access_key_key.clone(),
        material.secret.expose().clone(),
    );
    let mut more = |wanted: bool, key: &str, value: Option<&String>| {
        if let Some(value) = value.filter(|_| wanted) {
            data.insert(key.to_owned(), value.clone());
        }
    };
    let endpoint = template.include_endpoint.unwrap_or(true);
    more(endpoint, &template.endpoint_key, place.endpoint.as_ref());
    more(
        template.include_region.unwrap_or(true),
        &template.region_key,
        place.region.as_ref(),
    );
    more(true, &template.bucket_key, published.bucket.as_ref());
    let mut annotations = template.annotations.clone();
    annotations.insert(SINCE.to_owned(), published.since.to_string());
    let bytes = |(key, value): (String, String)| (key, ByteString(value.into_bytes()));
    Secret {
        metadata: metadata(
            "GarageKey",
            &key.metadata,
            &desired.secret.name,
            &template.labels,
            annotations,
        ),
        type_: Some(template.type_.clone()),
        data: Some(data.into_iter().map(bytes).collect()),
        ..Secret::default()
    }
}
