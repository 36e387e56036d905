//! Reads everything that is decided on about one GarageKey. May not write, and has no opinion.

use super::Keys;
use crate::admin::{BucketSelector, Client};
use crate::bucket::get_bucket;
use crate::error::{Error, Result};
use crate::home::{Home, layout_at, place};
use gatewright_garage::admin::KeyInfo;
use gatewright_garage::api::{self, GarageKey};
use gatewright_garage::bucket::reservation;
use gatewright_garage::cluster::ClusterKey;
use gatewright_garage::key::secret::{self as secrets, IMPORT_ID, IMPORT_SECRET};
use gatewright_garage::key::{
    Access, Bucket, Desired, Import, Live, Material, Observed, SecretSeen, Taken, Target,
    access_key_id, number_of,
};
use gatewright_garage::secret::Redacted;
use gatewright_garage::tenant;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use std::collections::{BTreeMap, BTreeSet};

/// How many access keys of one object are told apart.
const NUMBERS: u32 = 1 << 20;
/// How many numbers beyond the last known one are looked for: each crash uses at most one.
const BEYOND: u32 = 64;

/// What `apply` needs of what `observe` has read.
pub(super) struct Hands {
    pub(super) home: Home,
    pub(super) given: Option<Material>,
    /// The Secret under the name that is asked for.
    pub(super) secret: Option<Secret>,
    /// Other Secrets of ours.
    pub(super) stale: BTreeMap<String, Secret>,
    /// Secrets of the access keys, as Garage tells them.
    pub(super) materials: BTreeMap<String, Redacted<String>>,
}

impl Keys {
    /// `whole`: look through all keys of Garage for ours.
    pub(super) async fn observe(
        &self,
        key: &GarageKey,
        desired: &Desired,
        whole: bool,
    ) -> Result<(Observed, Hands)> {
        let operator = &self.operator;
        let namespace = &desired.key.namespace;
        let home = operator
            .home("GarageKey", namespace, &desired.cluster, desired.absent)
            .await?;
        let mut hands = Hands {
            home,
            given: None,
            secret: None,
            stale: BTreeMap::new(),
            materials: BTreeMap::new(),
        };
        let mut seen = Observed {
            now: self.clock.now(),
            finalizer: key.finalizers().iter().any(|one| one == api::FINALIZER_KEY),
            namespace_ends: desired.absent && operator.ends(namespace).await?,
            home: hands.home.seen.clone(),
            listed: whole,
            ..Observed::default()
        };
        self.secrets(desired, &mut seen, &mut hands).await?;
        self.given(desired, &mut seen, &mut hands).await?;
        let Some(client) = hands.home.asked.as_ref().map(|asked| asked.client.clone()) else {
            return Ok((seen, hands));
        };
        self.live(key, desired, &client, &mut seen, &mut hands)
            .await?;
        if !desired.absent {
            self.targets(desired, &client, &mut seen, &hands.home)
                .await?;
        }
        Ok((seen, hands))
    }

    async fn secrets(
        &self,
        desired: &Desired,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<()> {
        let operator = &self.operator;
        let namespace = &desired.key.namespace;
        for secret in secrets_of(operator, namespace, &desired.uid).await? {
            if secret.name_any() == desired.secret.name {
                hands.secret = Some(secret);
            } else {
                hands.stale.insert(secret.name_any(), secret);
            }
        }
        seen.stale_secrets = hands.stale.keys().cloned().collect();
        if hands.secret.is_none() && !desired.absent {
            let found: Option<Secret> = operator
                .ctx
                .get_opt(Some(namespace), &desired.secret.name)
                .await?;
            match found {
                Some(secret) if secrets::is_of(&secret, &desired.uid) => {
                    hands.secret = Some(secret)
                }
                Some(_) => seen.secret = SecretSeen::Foreign,
                None => {}
            }
        }
        if let Some(secret) = &hands.secret {
            let template = &desired.secret.template;
            let since = secret.annotations().get(secrets::SINCE);
            seen.secret = SecretSeen::Ours {
                id: secrets::entry(secret, &template.access_key_id_key),
                since: since.and_then(|text| tenant::time(text)),
                type_matches: secret.type_.as_deref() == Some(&template.type_),
            };
        }
        Ok(())
    }

    /// The key material that is to be imported.
    async fn given(&self, desired: &Desired, seen: &mut Observed, hands: &mut Hands) -> Result<()> {
        let given = match &desired.import {
            None => return Ok(()),
            Some(Import::Inline(material)) => Ok(material.clone()),
            Some(Import::Secret(name)) => {
                let namespace = &desired.key.namespace;
                let found: Option<Secret> =
                    self.operator.ctx.get_opt(Some(namespace), name).await?;
                match found {
                    None => Err(format!("Secret {namespace}/{name} does not exist")),
                    Some(secret) => {
                        let id = secrets::entry(&secret, IMPORT_ID);
                        id.zip(secrets::entry(&secret, IMPORT_SECRET))
                            .map(|(id, secret)| Material {
                                id: id.trim_end().to_owned(),
                                secret: Redacted::new(secret.trim_end().to_owned()),
                            })
                            .ok_or_else(|| {
                                format!("Secret {namespace}/{name} needs the entries {IMPORT_ID} and {IMPORT_SECRET}")
                            })
                    }
                }
            }
        };
        seen.given = Some(
            given
                .as_ref()
                .map(|given| given.id.clone())
                .map_err(Clone::clone),
        );
        hands.given = given.ok();
        Ok(())
    }

    /// The access keys of ours that Garage has.
    async fn live(
        &self,
        key: &GarageKey,
        desired: &Desired,
        client: &Client,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<()> {
        let status = key.status.clone().unwrap_or_default();
        let previous = status
            .rotation
            .and_then(|rotation| rotation.previous_access_key_id);
        let mut known: BTreeSet<String> = [status.key_id, status.access_key_id, previous]
            .into_iter()
            .flatten()
            .collect();
        if let SecretSeen::Ours { id: Some(id), .. } = &seen.secret {
            known.insert(id.clone());
        }
        if desired.import.is_some() {
            // Only what is or was imported; a Secret that somebody edited names no key of ours.
            let given = hands.given.as_ref().map(|given| given.id.clone());
            let told = key
                .status
                .as_ref()
                .and_then(|status| status.access_key_id.clone());
            known = given.or(told).into_iter().collect();
            seen.listed = true;
        } else {
            let numbers = known
                .iter()
                .filter_map(|id| number_of(&desired.uid, id, NUMBERS));
            seen.last = numbers.max();
            known.retain(|id| number_of(&desired.uid, id, NUMBERS).is_some());
            let next = seen.last.map_or(0, |last| last.saturating_add(1));
            if seen.listed {
                let below = next.saturating_add(BEYOND);
                let ours: BTreeSet<String> = (0..below)
                    .map(|number| access_key_id(&desired.uid, number))
                    .collect();
                let all = client.list_keys().await?;
                known.extend(
                    all.into_iter()
                        .map(|item| item.id)
                        .filter(|id| ours.contains(id)),
                );
            } else if known.is_empty() {
                known.insert(access_key_id(&desired.uid, next));
            }
        }
        for id in known {
            let info = match client.get_key_info_with_secret(&id).await {
                Ok(info) => info,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(Error::from(error)),
            };
            let number = number_of(&desired.uid, &id, NUMBERS);
            seen.live.push(live(&info, number));
            if let Some(secret) = info.secret_access_key {
                hands.materials.insert(id, secret);
            }
        }
        seen.live.sort_by_key(|key| key.number);
        seen.last = seen.last.max(seen.live.last().and_then(|key| key.number));
        seen.taken = self.taken(key, hands);
        Ok(())
    }

    /// Whether an imported key is somebody else's.
    fn taken(&self, own: &GarageKey, hands: &Hands) -> Option<Taken> {
        let given = hands.given.as_ref()?;
        let age = |key: &GarageKey| {
            let created = key.metadata.creation_timestamp.clone().map(|time| time.0);
            (created, key.metadata.uid.clone())
        };
        let all = self.keys.all();
        let other = all.iter().find(|other| {
            let status = other.status.as_ref();
            let at = place(&***other);
            let cluster = tenant::target(&other.spec.cluster_ref, &at.namespace);
            other.metadata.uid != own.metadata.uid
                && status.and_then(|status| status.access_key_id.as_ref()) == Some(&given.id)
                && Some(layout_at(&self.clusters, &cluster)) == hands.home.layout
                && age(other) < age(own)
        });
        if let Some(other) = other {
            return Some(Taken::By(place(&**other)));
        }
        let present = hands.materials.get(&given.id)?;
        (*present != given.secret).then_some(Taken::OtherSecret)
    }

    /// The buckets that are asked for, and all buckets whose rights GarageBuckets set.
    async fn targets(
        &self,
        desired: &Desired,
        client: &Client,
        seen: &mut Observed,
        home: &Home,
    ) -> Result<()> {
        for bucket in self.buckets.all() {
            let at = place(&*bucket);
            let cluster = tenant::target(&bucket.spec.cluster_ref, &at.namespace);
            let id = bucket
                .status
                .as_ref()
                .and_then(|status| status.bucket_id.clone());
            if let Some(id) =
                id.filter(|_| Some(layout_at(&self.clusters, &cluster)) == home.layout)
            {
                seen.managed.insert(id, at);
            }
        }
        for wanted in &desired.buckets {
            let target = match &wanted.bucket {
                Bucket::Object(name) => self.object(desired, name, home),
                Bucket::Id(id) => {
                    let found = get_bucket(client, BucketSelector::Id(id)).await?;
                    self.found(desired, found, seen).await?
                }
                Bucket::Alias(alias) => {
                    let found = get_bucket(client, BucketSelector::GlobalAlias(alias)).await?;
                    self.found(desired, found, seen).await?
                }
            };
            seen.targets.push(target);
        }
        Ok(())
    }

    fn object(&self, desired: &Desired, name: &str, home: &Home) -> Target {
        let Some(bucket) = self.buckets.get(&desired.key.namespace, name) else {
            return Target::Missing;
        };
        let cluster = tenant::target(&bucket.spec.cluster_ref, &desired.key.namespace);
        if Some(layout_at(&self.clusters, &cluster)) != home.layout {
            return Target::Elsewhere;
        }
        let status = bucket.status.clone().unwrap_or_default();
        match status.bucket_id {
            Some(id) => Target::Bucket {
                id,
                alias: status.global_alias,
            },
            None => Target::NotYet,
        }
    }

    /// A bucket of a GarageBucket elsewhere needs that namespace's grant.
    async fn found(
        &self,
        desired: &Desired,
        found: Option<gatewright_garage::admin::BucketInfo>,
        seen: &Observed,
    ) -> Result<Target> {
        let Some(bucket) = found else {
            return Ok(Target::Missing);
        };
        if let Some(owner) = seen.managed.get(&bucket.id) {
            let ClusterKey { namespace, .. } = &desired.key;
            let near = owner.namespace == *namespace;
            if !near && !self.operator.bucket_granted(namespace, owner).await? {
                return Ok(Target::NotGranted(owner.clone()));
            }
        }
        let mut aliases = bucket.global_aliases.into_iter();
        let alias = aliases.find(|alias| !alias.starts_with(&reservation("")));
        Ok(Target::Bucket {
            id: bucket.id,
            alias,
        })
    }
}

/// The Secrets that carry the UID of an object and are its own.
pub(crate) async fn secrets_of(
    operator: &crate::operator::Operator,
    namespace: &str,
    uid: &str,
) -> Result<Vec<Secret>> {
    let api: Api<Secret> = Api::namespaced(operator.ctx.client().clone(), namespace);
    let selector = format!("{}={uid}", secrets::LABEL_OWNER);
    let list = api.list(&ListParams::default().labels(&selector)).await;
    let action = format!("list the Secrets of namespace {namespace}");
    let list = list.map_err(|source| Error::read(action, source))?;
    Ok(list
        .items
        .into_iter()
        .filter(|secret| secrets::is_of(secret, uid))
        .collect())
}

fn live(info: &KeyInfo, number: Option<u32>) -> Live {
    let buckets = info.buckets.iter().map(|bucket| {
        let mut aliases = bucket.global_aliases.clone();
        aliases.retain(|alias| !alias.starts_with(&reservation("")));
        let access = Access {
            rights: bucket.permissions,
            aliases,
            local_aliases: bucket.local_aliases.clone(),
        };
        (bucket.id.clone(), access)
    });
    Live {
        id: info.access_key_id.clone(),
        number,
        created: info.created.as_deref().and_then(tenant::time),
        name: info.name.clone(),
        expiration: info.expiration.as_deref().and_then(tenant::time),
        expired: info.expired,
        create_bucket: info.permissions.create_bucket,
        buckets: buckets.collect(),
    }
}
