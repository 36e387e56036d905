//! Reads everything that is decided on about one GarageBucket. May not write, and has no opinion.

use super::Buckets;
use crate::admin::{BucketSelector, Client};
use crate::error::{Error, Result};
use crate::home::{Home, layout_at, place};
use gatewright_garage::admin::{BucketInfo, BucketPermissions};
use gatewright_garage::api::{self, BucketPermission, GarageBucket, GarageKey};
use gatewright_garage::bucket::{Desired, Key, Observed, Rival, permissions};
use gatewright_garage::cluster::ClusterKey;
use gatewright_garage::tenant;
use kube::ResourceExt as _;
use std::collections::{BTreeMap, BTreeSet};

/// The access keys of a GarageKey, as its status tells them.
pub(super) fn ids(key: &GarageKey) -> BTreeSet<String> {
    let status = key.status.clone().unwrap_or_default();
    let previous = status
        .rotation
        .and_then(|rotation| rotation.previous_access_key_id);
    [status.key_id, status.access_key_id, previous]
        .into_iter()
        .flatten()
        .collect()
}

/// Whether one of the key's permissions is about the bucket.
pub(super) fn asks_for(key: &GarageKey, bucket: &GarageBucket) -> bool {
    let near = key.namespace() == bucket.namespace();
    let status = bucket.status.as_ref();
    let id = status.and_then(|status| status.bucket_id.as_deref());
    let alias = status.and_then(|status| status.global_alias.as_deref());
    let names: Vec<&str> = alias
        .into_iter()
        .chain(bucket.spec.global_alias.as_deref())
        .collect();
    let name = bucket.name_any();
    key.spec
        .bucket_permissions
        .iter()
        .any(|one| is_about(one, near.then_some(&*name), id, &names))
}

fn is_about(
    one: &BucketPermission,
    name: Option<&str>,
    id: Option<&str>,
    aliases: &[&str],
) -> bool {
    one.bucket_ref
        .as_deref()
        .is_some_and(|given| Some(given) == name)
        || one
            .bucket_id
            .as_deref()
            .is_some_and(|given| Some(given) == id)
        || one
            .global_alias
            .as_deref()
            .is_some_and(|given| aliases.contains(&given))
}

impl Buckets {
    pub(super) async fn observe(
        &self,
        bucket: &GarageBucket,
        desired: &Desired,
        not_empty: bool,
    ) -> Result<(Observed, Home)> {
        let operator = &self.operator;
        let ClusterKey { namespace, .. } = &desired.key;
        let home = operator
            .home("GarageBucket", namespace, &desired.cluster, desired.absent)
            .await?;
        let status = bucket.status.clone().unwrap_or_default();
        let former = status.local_aliases.iter();
        let mut seen = Observed {
            finalizer: bucket
                .finalizers()
                .iter()
                .any(|one| one == api::FINALIZER_BUCKET),
            namespace_ends: desired.absent && operator.ends(namespace).await?,
            home: home.seen.clone(),
            recorded: status.bucket_id.clone(),
            adopted: status.adopted.unwrap_or_default(),
            former_alias: status.global_alias.clone(),
            former_locals: former
                .filter_map(|local| Some((local.key_id.clone()?, local.alias.clone()?)))
                .collect(),
            not_empty,
            ..Observed::default()
        };
        let Some(asked) = &home.asked else {
            return Ok((seen, home));
        };
        seen.version = asked.version();
        let named = self.named_keys(desired);
        self.find(&asked.client, desired, &named, &mut seen).await?;
        seen.rivals = self.rivals(bucket, desired, &seen, &home);
        seen.keys = self.keys(desired, &seen, &home).await?;
        Ok((seen, home))
    }

    /// Looks for the bucket: by its recorded id, by its reservation, by the names that it should have.
    async fn find(
        &self,
        client: &Client,
        desired: &Desired,
        named: &BTreeMap<String, BTreeSet<String>>,
        seen: &mut Observed,
    ) -> Result<()> {
        let mut bucket = match &seen.recorded {
            Some(id) => get(client, BucketSelector::Id(id)).await?,
            None => None,
        };
        if bucket.is_none() {
            bucket = get(client, BucketSelector::GlobalAlias(&desired.reservation())).await?;
        }
        if let Some(alias) = &desired.global_alias {
            let has = bucket
                .as_ref()
                .is_some_and(|bucket| bucket.global_aliases.contains(alias));
            let holder = match has {
                true => bucket.clone(),
                false => get(client, BucketSelector::GlobalAlias(alias)).await?,
            };
            seen.alias_holder = holder.as_ref().map(|holder| holder.id.clone());
            bucket = bucket.or(holder);
        } else if bucket.is_none() && !desired.absent {
            bucket = by_local_alias(client, desired, named).await?;
        }
        seen.bucket = bucket;
        Ok(())
    }

    /// The access keys of the GarageKeys of the bucket's namespace.
    fn named_keys(&self, desired: &Desired) -> BTreeMap<String, BTreeSet<String>> {
        let keys = self.keys.all();
        let near = keys
            .iter()
            .filter(|key| key.namespace().as_deref() == Some(&desired.key.namespace));
        near.map(|key| (key.name_any(), ids(key))).collect()
    }

    fn rivals(
        &self,
        own: &GarageBucket,
        desired: &Desired,
        seen: &Observed,
        home: &Home,
    ) -> Vec<Rival> {
        let age = |bucket: &GarageBucket| {
            let created = bucket
                .metadata
                .creation_timestamp
                .clone()
                .map(|time| time.0);
            (created, bucket.metadata.uid.clone())
        };
        let id = seen.bucket.as_ref().map(|bucket| bucket.id.as_str());
        let rival = |other: &GarageBucket| {
            if other.metadata.uid == own.metadata.uid {
                return None;
            }
            let at = place(other);
            let cluster = tenant::target(&other.spec.cluster_ref, &at.namespace);
            if Some(layout_at(&self.clusters, &cluster)) != home.layout {
                return None;
            }
            let recorded = other
                .status
                .as_ref()
                .and_then(|status| status.bucket_id.as_deref());
            let manages = id.is_some() && recorded == id;
            let deleting = other.metadata.deletion_timestamp.is_some();
            let alias = Desired::parse(other)
                .ok()
                .and_then(|other| other.global_alias);
            let same = alias.is_some() && alias == desired.global_alias && !deleting;
            // One that has another bucket already does not want this one.
            let wants = same && (recorded.is_none() || manages);
            (manages || wants).then(|| Rival {
                key: at,
                manages,
                older: age(other) < age(own),
            })
        };
        let all = self.buckets.all();
        let mut rivals: Vec<Rival> = all.iter().filter_map(|other| rival(other)).collect();
        rivals.sort_by(|a, b| a.key.cmp(&b.key));
        rivals
    }

    /// The GarageKeys of the cluster, and those that are named.
    async fn keys(&self, desired: &Desired, seen: &Observed, home: &Home) -> Result<Vec<Key>> {
        let bucket = seen.bucket.as_ref();
        let id = bucket.map(|bucket| bucket.id.as_str());
        let held = bucket
            .map(|bucket| bucket.global_aliases.as_slice())
            .unwrap_or_default();
        let aliases: Vec<&str> = held.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        let mut grants: BTreeMap<String, bool> = BTreeMap::new();
        for key in self.keys.all() {
            let at = place(&*key);
            if key.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let near = at.namespace == desired.key.namespace;
            let cluster = tenant::target(&key.spec.cluster_ref, &at.namespace);
            let here = Some(layout_at(&self.clusters, &cluster)) == home.layout;
            let name = near.then_some(&*desired.key.name);
            let asked = key.spec.bucket_permissions.iter();
            let asked = asked.filter(|one| is_about(one, name, id, &aliases));
            let wants = asked.fold(BucketPermissions::default(), |all, one| {
                let more = permissions(one.rights());
                BucketPermissions {
                    read: all.read || more.read,
                    write: all.write || more.write,
                    owner: all.owner || more.owner,
                }
            });
            let allowed = match grants.get(&at.namespace) {
                _ if near || wants == BucketPermissions::default() => true,
                Some(granted) => *granted,
                None => {
                    let granted = self
                        .operator
                        .bucket_granted(&at.namespace, &desired.key)
                        .await?;
                    grants.insert(at.namespace.clone(), granted);
                    granted
                }
            };
            let wants = if allowed {
                wants
            } else {
                BucketPermissions::default()
            };
            found.push(Key {
                ids: ids(&key),
                key: at,
                here,
                wants,
            });
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}

/// The bucket with this name or id, if there is one.
pub(crate) async fn get(client: &Client, which: BucketSelector<'_>) -> Result<Option<BucketInfo>> {
    match client.get_bucket_info(which).await {
        Ok(bucket) => Ok(Some(bucket)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(Error::from(error)),
    }
}

/// The bucket that has one of the local aliases that are asked for.
async fn by_local_alias(
    client: &Client,
    desired: &Desired,
    named: &BTreeMap<String, BTreeSet<String>>,
) -> Result<Option<BucketInfo>> {
    let wanted = |id: &str, alias: &str| {
        desired.local_aliases.iter().any(|(key, wanted)| {
            wanted == alias && named.get(key).is_some_and(|ids| ids.contains(id))
        })
    };
    let buckets = client.list_buckets().await?;
    let found = buckets.iter().find(|bucket| {
        let mut locals = bucket.local_aliases.iter();
        locals.any(|local| wanted(&local.access_key_id, &local.alias))
    });
    match found {
        Some(bucket) => get(client, BucketSelector::Id(&bucket.id)).await,
        None => Ok(None),
    }
}
