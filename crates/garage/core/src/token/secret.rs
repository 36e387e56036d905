//! The Secret of a GarageAdminToken, built from values. May not invent any.

use super::Desired;
use crate::api::GarageAdminToken;
use crate::key::secret::metadata;
use crate::objects::secrets;
use crate::secret::Redacted;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;

/// Annotation: hash of the token, so that one that somebody changed is noticed.
pub const HASH: &str = "garage.rajsingh.info/token-hash";

/// The Secret of a token.
#[must_use]
pub fn secret(
    object: &GarageAdminToken,
    desired: &Desired,
    token: &Redacted<String>,
    endpoint: Option<&str>,
) -> Secret {
    let template = &desired.template;
    let mut data: BTreeMap<String, ByteString> = BTreeMap::new();
    data.insert(
        template.token_key.clone(),
        ByteString(token.expose().clone().into_bytes()),
    );
    if let Some(endpoint) = endpoint.filter(|_| template.include_endpoint.unwrap_or(true)) {
        data.insert(
            template.endpoint_key.clone(),
            ByteString(endpoint.as_bytes().to_vec()),
        );
    }
    let mut annotations = template.annotations.clone();
    annotations.insert(HASH.to_owned(), hash(token.expose()));
    Secret {
        metadata: metadata(
            "GarageAdminToken",
            &object.metadata,
            &desired.secret_name,
            &template.labels,
            annotations,
        ),
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// The token in a Secret under any of its entries, if it is as it was written.
#[must_use]
pub fn token(secret: &Secret) -> Option<Redacted<String>> {
    let written = secret.metadata.annotations.as_ref()?.get(HASH)?;
    let texts = secret
        .data
        .iter()
        .flatten()
        .map(|(_, bytes)| String::from_utf8(bytes.0.clone()).ok());
    // The entry's name may have changed since.
    texts
        .flatten()
        .find(|text| hash(text) == *written)
        .map(Redacted::new)
}

/// The id of a token: what stands before the dot.
#[must_use]
pub fn id(token: &Redacted<String>) -> Option<String> {
    token.expose().split_once('.').map(|(id, _)| id.to_owned())
}

fn hash(token: &str) -> String {
    secrets::hash(&[Some(token.as_bytes())])
}
