//! Installs the CRDs that this release brings. May not touch any other, and never goes back to an
//! older state of one.

use crate::apply::{Ctx, Ensured, field_manager};
use crate::error::{Error, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::conditions::{is_crd_established, is_deleted};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::timeout;

/// The annotation that tells which state of a CRD is the newer one: an integer that grows with
/// every release that changes a schema.
pub const REVISION: &str = "gatewright.dev/crd-revision";

/// How long the apiserver gets to serve a CRD, or to remove one that is being deleted.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a CRD is tried anew when others write it at the same time: another replica does so three
/// times, the apiserver's controllers about as often, and each of ours may meet one of these.
const ATTEMPTS: u32 = 20;

/// What became of one CRD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Plural and group: `garagebuckets.garage.rajsingh.info`.
    pub name: String,
    /// What was done.
    pub outcome: Outcome,
}

/// What was done about a CRD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was as it should be.
    Unchanged,
    /// It was not there.
    Created,
    /// It was of an older revision, or had been changed.
    Updated,
    /// A newer release has installed it. It stays, for that release's objects would lose fields.
    NewerKept {
        /// Its revision.
        revision: u64,
    },
}

/// The controller's name whose field manager writes the CRDs.
const CONTROLLER: &str = "crds";

/// Installs CRDs by server-side apply as `gatewright/crds`, and waits until the apiserver serves
/// each of them. May run in several replicas at once, of different releases, too: the newest
/// `revision` wins.
///
/// # Errors
/// [`Error::StoredVersions`] for a CRD that may hold objects in a version that ours lacks,
/// [`Error::NotEstablished`] after half a minute, else what the apiserver says.
pub async fn install(
    client: &Client,
    crds: &[CustomResourceDefinition],
    revision: u64,
) -> Result<Vec<Installed>> {
    let ctx = Ctx::new(client.clone(), CONTROLLER, None);
    let mut installed = Vec::new();
    for crd in crds {
        let outcome = Box::pin(install_one(&ctx, crd, revision)).await?;
        let name = crd.name_any();
        match outcome {
            Outcome::NewerKept { revision: theirs } => {
                tracing::warn!(
                    crd = name,
                    ours = revision,
                    theirs,
                    "a newer release has installed this CRD; it stays"
                );
            }
            Outcome::Created | Outcome::Updated => {
                tracing::info!(crd = name, revision, "CRD installed");
            }
            Outcome::Unchanged => {}
        }
        installed.push(Installed { name, outcome });
    }
    Ok(installed)
}

/// The names of those CRDs whose kinds the apiserver does not serve. Asks by discovery, which every
/// account may, not for the CRDs themselves, which takes a right on the whole cluster.
///
/// # Errors
/// What the apiserver says.
pub async fn unserved(client: &Client, crds: &[CustomResourceDefinition]) -> Result<Vec<String>> {
    let groups = Box::pin(client.list_api_groups()).await;
    let groups = groups.map_err(|source| Error::api("find out which kinds are served", source))?;
    // Of these alone: to ask for another is a warning of the client's in the log.
    let versions = groups.groups.iter().flat_map(|group| &group.versions);
    let mut served = BTreeMap::new();
    for version in versions.map(|version| &version.group_version) {
        let is_ours = |crd: &CustomResourceDefinition| versions_of(crd).any(|one| one == *version);
        if !crds.iter().any(is_ours) {
            continue;
        }
        let kinds = Box::pin(client.list_api_group_resources(version)).await;
        let action = format!("find out which kinds of {version} are served");
        let kinds = kinds.map_err(|source| Error::api(&action, source))?;
        let names: BTreeSet<String> = kinds.resources.into_iter().map(|kind| kind.name).collect();
        served.insert(version, names);
    }
    let is_served = |crd: &&CustomResourceDefinition| {
        let plural = &crd.spec.names.plural;
        versions_of(crd).all(|version| {
            served
                .get(&version)
                .is_some_and(|names| names.contains(plural))
        })
    };
    let missing = crds.iter().filter(|crd| !is_served(crd));
    Ok(missing.map(ResourceExt::name_any).collect())
}

/// `group/version` of what a CRD makes the apiserver serve.
fn versions_of(crd: &CustomResourceDefinition) -> impl Iterator<Item = String> {
    let spec = &crd.spec;
    let served = spec.versions.iter().filter(|version| version.served);
    served.map(|version| format!("{}/{}", spec.group, version.name))
}

async fn install_one(ctx: &Ctx, crd: &CustomResourceDefinition, revision: u64) -> Result<Outcome> {
    let name = crd.name_any();
    let mut attempt = 1;
    let mut created = false;
    loop {
        let present: Option<CustomResourceDefinition> = ctx.get_opt(None, &name).await?;
        let outcome = match judge(present.as_ref(), crd, revision) {
            Verdict::Terminating => {
                gone(ctx, &name, present.and_then(|crd| crd.uid())).await?;
                continue;
            }
            Verdict::Drops(versions) => {
                let crd = name;
                return Err(Error::StoredVersions { crd, versions });
            }
            Verdict::Newer(revision) => Outcome::NewerKept { revision },
            Verdict::Claim => {
                let desired = desired(crd, revision, None);
                match Box::pin(claimant(ctx, revision).claim(&desired)).await {
                    Ok(_) => created = true,
                    Err(error) if error.is_conflict() && attempt < ATTEMPTS => {}
                    Err(error) => return Err(error),
                }
                attempt += 1;
                continue;
            }
            Verdict::Apply => {
                let desired = desired(crd, revision, present.as_ref());
                let claimants = claimants(present.as_ref());
                // It may be as it should be and still belong to who has claimed it.
                let known = present.as_ref().filter(|_| claimants.is_empty());
                match ctx.ensure(&desired, known).await {
                    Ok(done) => {
                        for revision in claimants {
                            let claimant = claimant(ctx, revision);
                            claimant
                                .disown::<CustomResourceDefinition>(None, &name)
                                .await?;
                        }
                        match done {
                            Ensured::Unchanged => Outcome::Unchanged,
                            Ensured::Created | Ensured::Changed if created => Outcome::Created,
                            Ensured::Created | Ensured::Changed => Outcome::Updated,
                        }
                    }
                    Err(error) if error.is_conflict() && attempt < ATTEMPTS => {
                        attempt += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let served = established(ctx, &name).await?;
        if revision_of(&served) >= Some(revision) || attempt >= ATTEMPTS {
            return Ok(outcome);
        }
        attempt += 1;
    }
}

/// What to do about a CRD.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// There is none.
    Claim,
    Apply,
    /// It carries this newer revision.
    Newer(u64),
    /// These stored versions would be dropped.
    Drops(String),
    Terminating,
}

fn judge(
    present: Option<&CustomResourceDefinition>,
    desired: &CustomResourceDefinition,
    revision: u64,
) -> Verdict {
    let Some(present) = present else {
        return Verdict::Claim;
    };
    if present.metadata.deletion_timestamp.is_some() {
        return Verdict::Terminating;
    }
    if let Some(theirs) = revision_of(present).filter(|theirs| *theirs > revision) {
        return Verdict::Newer(theirs);
    }
    let ours: BTreeSet<_> = desired
        .spec
        .versions
        .iter()
        .map(|version| &version.name)
        .collect();
    let stored = present
        .status
        .iter()
        .flat_map(|status| status.stored_versions.iter().flatten());
    let dropped: Vec<_> = stored
        .filter(|stored| !ours.contains(stored))
        .cloned()
        .collect();
    if dropped.is_empty() {
        return Verdict::Apply;
    }
    Verdict::Drops(dropped.join(", "))
}

/// Who brings a CRD into being. An apply without an object to refer to has no precondition, and one
/// manager never conflicts with itself: of two releases that both see none, the older one would overwrite
/// the newer one's. So each claims it under a name of its own first, by an apply that yields.
fn claimant(ctx: &Ctx, revision: u64) -> Ctx {
    Ctx::new(
        ctx.client().clone(),
        &format!("{CONTROLLER}-{revision}"),
        None,
    )
}

/// The revisions whose claimants own fields. They have to give them up, or a field that a later release
/// leaves out would stay.
fn claimants(crd: Option<&CustomResourceDefinition>) -> Vec<u64> {
    let prefix = format!("{}-", field_manager(CONTROLLER));
    let managers = crd.into_iter().flat_map(ResourceExt::managed_fields);
    let applied = managers.filter(|entry| entry.operation.as_deref() == Some("Apply"));
    let revision = applied.filter_map(|entry| entry.manager.as_deref()?.strip_prefix(&prefix));
    revision
        .filter_map(|revision| revision.parse().ok())
        .collect()
}

fn revision_of(crd: &CustomResourceDefinition) -> Option<u64> {
    crd.annotations().get(REVISION)?.parse().ok()
}

/// What is applied. On top of exactly the version that was seen, for it was judged.
fn desired(
    crd: &CustomResourceDefinition,
    revision: u64,
    present: Option<&CustomResourceDefinition>,
) -> CustomResourceDefinition {
    let mut crd = crd.clone();
    crd.status = None;
    crd.annotations_mut()
        .insert(REVISION.to_owned(), revision.to_string());
    crd.metadata.resource_version = present.and_then(ResourceExt::resource_version);
    crd
}

async fn gone(ctx: &Ctx, name: &str, uid: Option<String>) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(ctx.client().clone());
    let uid = uid.unwrap_or_default();
    let deleted = await_condition(api, name, is_deleted(&uid));
    match timeout(PATIENCE, Box::pin(deleted)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Error::NotEstablished {
            crd: name.to_owned(),
            seconds: PATIENCE.as_secs(),
            why: "it is being deleted; wait until its objects are gone, or remove their finalizers"
                .to_owned(),
        }),
    }
}

async fn established(ctx: &Ctx, name: &str) -> Result<CustomResourceDefinition> {
    let api = Api::<CustomResourceDefinition>::all(ctx.client().clone());
    let served = await_condition(api, name, is_crd_established());
    if let Ok(Ok(Some(crd))) = timeout(PATIENCE, Box::pin(served)).await {
        return Ok(crd);
    }
    let now: Option<CustomResourceDefinition> = ctx.get_opt(None, name).await?;
    let conditions = now
        .and_then(|crd| crd.status?.conditions)
        .unwrap_or_default();
    let mut why: Vec<_> = conditions
        .iter()
        .filter(|condition| condition.status == "False" || condition.type_ == "NonStructuralSchema")
        .map(|condition| {
            let message = condition.message.as_deref().unwrap_or("no message");
            format!("{}: {message}", condition.type_)
        })
        .collect();
    if why.is_empty() {
        why.push("it has no condition that says why; look at the apiserver's log".to_owned());
    }
    Err(Error::NotEstablished {
        crd: name.to_owned(),
        seconds: PATIENCE.as_secs(),
        why: why.join("; "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn crd(versions: &[&str], rest: Value) -> CustomResourceDefinition {
        let versions: Vec<_> = versions
            .iter()
            .map(|name| json!({ "name": name, "served": true, "storage": true }))
            .collect();
        let mut crd = json!({
            "metadata": { "name": "things.example.dev" },
            "spec": {
                "group": "example.dev",
                "names": { "kind": "Thing", "plural": "things" },
                "scope": "Namespaced",
                "versions": versions,
            },
        });
        for (name, value) in rest.as_object().expect("is a map") {
            crd[name] = value.clone();
        }
        serde_json::from_value(crd).expect("is a CRD")
    }

    #[test]
    fn a_crd_is_never_made_older_and_never_loses_a_stored_version() {
        let ours = crd(&["v1"], json!({}));
        let with =
            |revision: &str| json!({ "metadata": { "annotations": { REVISION: revision } } });
        let stored = |versions: Value| json!({ "status": { "storedVersions": versions } });
        let deleting = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        for (present, verdict) in [
            (None, Verdict::Claim),
            (Some(crd(&["v1"], json!({}))), Verdict::Apply),
            (Some(crd(&["v1"], with("6"))), Verdict::Apply),
            (Some(crd(&["v1"], with("7"))), Verdict::Apply),
            (Some(crd(&["v1"], with("8"))), Verdict::Newer(8)),
            (Some(crd(&["v1"], with("eight"))), Verdict::Apply),
            (Some(crd(&["v1"], stored(json!(["v1"])))), Verdict::Apply),
            (
                Some(crd(&["v1"], stored(json!(["v1alpha1", "v1", "v1beta1"])))),
                Verdict::Drops("v1alpha1, v1beta1".to_owned()),
            ),
            (Some(crd(&["v1"], deleting)), Verdict::Terminating),
        ] {
            assert_eq!(judge(present.as_ref(), &ours, 7), verdict, "{present:?}");
        }
    }
}
