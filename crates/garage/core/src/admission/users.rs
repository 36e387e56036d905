//! GarageBuckets, GarageKeys and GarageAdminTokens among clusters and each other. May not look anything up.

use super::{
    Verdict, World, check_exists, check_grant, check_own_namespace, place, resolve, settled,
};
use crate::api::{ClusterRef, GarageAdminToken, GarageBucket, GarageKey};
use crate::cluster::ClusterKey;

/// Secrets that the operator makes for a GarageCluster.
const CLUSTER_SECRETS: [&str; 3] = ["-rpc-secret", "-admin-token", "-node-keys"];

/// What there is to say about a GarageBucket that is created (`old` is None) or updated.
pub fn bucket(new: &GarageBucket, old: Option<&GarageBucket>, world: &World) -> Verdict {
    let mut verdict = Verdict::default();
    if settled(&new.metadata, &new.spec, old.map(|old| &old.spec)) {
        return verdict;
    }
    let own = place(&new.metadata);
    let home = check_cluster(
        &mut verdict,
        world,
        "GarageBucket",
        &own,
        &new.spec.cluster_ref,
        old.is_none(),
    );
    check_aliases(&mut verdict, new, &own, &home, world);
    let named = new
        .spec
        .key_permissions
        .iter()
        .map(|one| ("keyPermissions", &one.key_ref));
    let named = named.chain(
        new.spec
            .local_aliases
            .iter()
            .map(|one| ("localAliases", &one.key_ref)),
    );
    for (field, name) in named {
        let Some(keys) = &world.keys else { break };
        let key = ClusterKey {
            namespace: own.namespace.clone(),
            name: name.clone(),
        };
        match keys.get(&key) {
            None => verdict.warn(format!(
                "{field}: GarageKey {name} does not exist (yet) in namespace {}",
                own.namespace
            )),
            Some(found) => {
                let theirs = world.home(&resolve(&found.spec.cluster_ref, &own.namespace));
                if theirs != home {
                    verdict.deny(format!("{field}: GarageKey {name} is a key of GarageCluster {theirs}, and this bucket is in {home}"));
                }
            }
        }
    }
    verdict
}

/// The name of a bucket for all keys.
fn global_alias(bucket: &GarageBucket) -> String {
    bucket
        .spec
        .global_alias
        .clone()
        .or_else(|| bucket.metadata.name.clone())
        .unwrap_or_default()
}

fn check_aliases(
    verdict: &mut Verdict,
    new: &GarageBucket,
    own: &ClusterKey,
    home: &ClusterKey,
    world: &World,
) {
    let alias = global_alias(new);
    let locals = new.spec.local_aliases.iter().map(|one| one.alias.as_str());
    if let Some(coded) = std::iter::once(alias.as_str())
        .chain(locals)
        .find(|alias| alias.starts_with("xn--"))
    {
        let why = "starts with xn--, which Garage refuses unless security.allowPunycode is true";
        match world.clusters.get(home) {
            None => verdict.warn(format!("bucket name {coded} {why} in GarageCluster {home}")),
            // Storage elsewhere: its own configuration decides.
            Some(cluster) if cluster.spec.gateway => {
                verdict.warn(format!("bucket name {coded} {why} in the storage cluster"))
            }
            Some(cluster) => {
                if !cluster
                    .spec
                    .security
                    .as_ref()
                    .is_some_and(|security| security.allow_punycode)
                {
                    verdict.deny(format!("bucket name {coded} {why} in GarageCluster {home}"));
                }
            }
        }
    }
    for (key, other) in world
        .buckets
        .iter()
        .flatten()
        .filter(|(key, _)| *key != own)
    {
        let theirs = world.home(&resolve(&other.spec.cluster_ref, &key.namespace));
        if theirs == *home && global_alias(other) == alias {
            verdict.warn(format!("GarageBucket {key} has the name {alias} in GarageCluster {home} already; the older object keeps it"));
        }
    }
}

/// What there is to say about a GarageKey that is created (`old` is None) or updated.
pub fn key(new: &GarageKey, old: Option<&GarageKey>, world: &World) -> Verdict {
    let mut verdict = Verdict::default();
    if settled(&new.metadata, &new.spec, old.map(|old| &old.spec)) {
        return verdict;
    }
    let own = place(&new.metadata);
    let home = check_cluster(
        &mut verdict,
        world,
        "GarageKey",
        &own,
        &new.spec.cluster_ref,
        old.is_none(),
    );
    let template = new.spec.secret_template.as_ref();
    check_own_namespace(
        &mut verdict,
        "secretTemplate.namespace",
        template.and_then(|template| template.namespace.as_deref()),
        &own.namespace,
    );
    if let Some(import) = &new.spec.import_key {
        let namespace = import
            .secret_ref
            .as_ref()
            .and_then(|secret| secret.namespace.as_deref());
        check_own_namespace(
            &mut verdict,
            "importKey.secretRef.namespace",
            namespace,
            &own.namespace,
        );
        if import.secret_access_key.is_some() {
            verdict.warn("importKey.secretAccessKey can be read by everyone who can read this object; use importKey.secretRef".to_owned());
        }
    }
    check_secret(&mut verdict, "GarageKey", &own, &key_secret(new), world);
    for name in new
        .spec
        .bucket_permissions
        .iter()
        .filter_map(|one| one.bucket_ref.as_ref())
    {
        let Some(buckets) = &world.buckets else { break };
        let bucket = ClusterKey {
            namespace: own.namespace.clone(),
            name: name.clone(),
        };
        match buckets.get(&bucket) {
            None => verdict.warn(format!(
                "bucketPermissions: GarageBucket {name} does not exist (yet) in namespace {}",
                own.namespace
            )),
            Some(found) => {
                let theirs = world.home(&resolve(&found.spec.cluster_ref, &own.namespace));
                if theirs != home {
                    verdict.deny(format!(
                        "bucketPermissions: GarageBucket {name} is in GarageCluster {theirs}, and this is a key of {home}"
                    ));
                }
            }
        }
    }
    check_uses(&mut verdict, new, &own, world);
    verdict
}

/// A key with which nothing can be done.
fn check_uses(verdict: &mut Verdict, new: &GarageKey, own: &ClusterKey, world: &World) {
    // Without the buckets it is not known whether one of them names the key.
    let Some(buckets) = &world.buckets else {
        return;
    };
    let named = buckets
        .iter()
        .filter(|(key, _)| key.namespace == own.namespace);
    let named = named
        .flat_map(|(_, bucket)| &bucket.spec.key_permissions)
        .any(|one| one.key_ref == own.name);
    let creates = new
        .spec
        .permissions
        .is_some_and(|permissions| permissions.create_bucket);
    if new.spec.bucket_permissions.is_empty() && !creates && !named {
        verdict.warn(
            "the key may do nothing: give it bucketPermissions or permissions.createBucket, or name it in a GarageBucket's keyPermissions"
                .to_owned(),
        );
    }
}

/// What there is to say about a GarageAdminToken that is created (`old` is None) or updated.
pub fn admin_token(
    new: &GarageAdminToken,
    old: Option<&GarageAdminToken>,
    world: &World,
) -> Verdict {
    let mut verdict = Verdict::default();
    if settled(&new.metadata, &new.spec, old.map(|old| &old.spec)) {
        return verdict;
    }
    let own = place(&new.metadata);
    check_cluster(
        &mut verdict,
        world,
        "GarageAdminToken",
        &own,
        &new.spec.cluster_ref,
        old.is_none(),
    );
    let template = new.spec.secret_template.as_ref();
    check_own_namespace(
        &mut verdict,
        "secretTemplate.namespace",
        template.and_then(|template| template.namespace.as_deref()),
        &own.namespace,
    );
    check_secret(
        &mut verdict,
        "GarageAdminToken",
        &own,
        &token_secret(new),
        world,
    );
    if new.spec.scope.iter().any(|call| call == "*")
        && new.spec.expiration.is_none()
        && !new.spec.never_expires
    {
        verdict.warn(
            "the token may do everything and never ends: name the calls it needs in scope, give it an expiration, or say neverExpires: true"
                .to_owned(),
        );
    }
    verdict
}

/// The cluster of an object: granted, there, and where its data is.
fn check_cluster(
    verdict: &mut Verdict,
    world: &World,
    kind: &str,
    own: &ClusterKey,
    reference: &ClusterRef,
    created: bool,
) -> ClusterKey {
    let to = resolve(reference, &own.namespace);
    // The reference is immutable: what was granted once is the controller's to watch.
    if created {
        check_grant(verdict, world, kind, &own.namespace, "clusterRef", &to);
    }
    check_exists(verdict, world, "clusterRef", &to);
    world.home(&to)
}

/// The Secret of a key.
fn key_secret(key: &GarageKey) -> String {
    let name = key
        .spec
        .secret_template
        .as_ref()
        .and_then(|template| template.name.clone());
    name.or_else(|| key.metadata.name.clone())
        .unwrap_or_default()
}

/// The Secret of a token.
fn token_secret(token: &GarageAdminToken) -> String {
    let name = token
        .spec
        .secret_template
        .as_ref()
        .and_then(|template| template.name.clone());
    name.or_else(|| token.metadata.name.clone())
        .unwrap_or_default()
}

/// A Secret that another object writes already.
fn check_secret(verdict: &mut Verdict, kind: &str, own: &ClusterKey, secret: &str, world: &World) {
    let sibling = |name: &str| ClusterKey {
        namespace: own.namespace.clone(),
        name: name.to_owned(),
    };
    for suffix in CLUSTER_SECRETS {
        let cluster = secret.strip_suffix(suffix).map(sibling);
        if let Some(cluster) = cluster.filter(|cluster| world.clusters.contains_key(cluster)) {
            verdict.deny(format!(
                "Secret {secret} belongs to GarageCluster {}; name another in secretTemplate.name",
                cluster.name
            ));
        }
    }
    let here = |key: &&ClusterKey, of: &str| {
        key.namespace == own.namespace && !(of == kind && *key == own)
    };
    let keys = world
        .keys
        .iter()
        .flatten()
        .filter(|(key, _)| here(key, "GarageKey"));
    let keys = keys
        .filter(|(_, other)| key_secret(other) == secret)
        .map(|(key, _)| ("GarageKey", key));
    let tokens = world
        .tokens
        .iter()
        .filter(|(key, _)| here(key, "GarageAdminToken"));
    let tokens = tokens
        .filter(|(_, other)| token_secret(other) == secret)
        .map(|(key, _)| ("GarageAdminToken", key));
    for (of, other) in keys.chain(tokens) {
        verdict.deny(format!(
            "Secret {secret} is written by {of} {} already; name another in secretTemplate.name",
            other.name
        ));
    }
}
