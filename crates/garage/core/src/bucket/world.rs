//! A small Garage in memory, in which the steps of a plan are carried out. It proves that plans end, and
//! that they end the same wherever a process dies.

use super::*;
use crate::admin::{BucketKey, WebsiteInfo};
use crate::api::GarageBucket;
use crate::tenant::Home;

/// Garage, and one object.
#[derive(Debug, Clone, PartialEq)]
struct World {
    buckets: Vec<BucketInfo>,
    finalizer: bool,
    /// What the status says.
    recorded: Option<String>,
    adopted: bool,
    former_alias: Option<String>,
    former_locals: BTreeSet<(String, String)>,
    keys: Vec<Key>,
    rivals: Vec<Rival>,
    released: bool,
    namespace_ends: bool,
}

fn empty(id: &str, alias: &str) -> BucketInfo {
    let text = format!("{{\"id\": \"{id}\", \"globalAliases\": [\"{alias}\"]}}");
    serde_json::from_str(&text).expect("a bucket")
}

impl World {
    fn new() -> Self {
        Self {
            buckets: Vec::new(),
            finalizer: false,
            recorded: None,
            adopted: false,
            former_alias: None,
            former_locals: BTreeSet::new(),
            keys: vec![
                key("app", &["GK1", "GK2"], true),
                key("other", &["GK3"], false),
            ],
            rivals: Vec::new(),
            released: false,
            namespace_ends: false,
        }
    }

    fn find(&self, id: &str) -> Option<&BucketInfo> {
        self.buckets.iter().find(|bucket| bucket.id == id)
    }

    fn named(&self, alias: &str) -> Option<&BucketInfo> {
        self.buckets
            .iter()
            .find(|bucket| bucket.global_aliases.iter().any(|one| one == alias))
    }

    fn observe(&self, desired: &Desired) -> Observed {
        let holder = desired
            .global_alias
            .as_ref()
            .and_then(|alias| self.named(alias));
        let bucket = self.recorded.as_ref().and_then(|id| self.find(id));
        let bucket = bucket
            .or_else(|| self.named(&desired.reservation()))
            .or(holder);
        Observed {
            finalizer: self.finalizer,
            namespace_ends: self.namespace_ends,
            home: Home::Reached,
            recorded: self.recorded.clone(),
            adopted: self.adopted,
            former_alias: self.former_alias.clone(),
            former_locals: self.former_locals.clone(),
            bucket: bucket.cloned(),
            alias_holder: holder.map(|bucket| bucket.id.clone()),
            rivals: self.rivals.clone(),
            keys: self.keys.clone(),
            version: Some(GarageVersion::new(2, 5, 0)),
            not_empty: false,
        }
    }

    fn the_bucket(&mut self, desired: &Desired) -> &mut BucketInfo {
        let id = self.observe(desired).bucket.expect("there is one").id;
        self.buckets
            .iter_mut()
            .find(|bucket| bucket.id == id)
            .expect("it is there")
    }

    fn apply(&mut self, desired: &Desired, step: &Step) {
        let grant = |bucket: &mut BucketInfo, id: &str| -> usize {
            let at = bucket.keys.iter().position(|key| key.access_key_id == id);
            at.unwrap_or_else(|| {
                bucket.keys.push(BucketKey {
                    access_key_id: id.to_owned(),
                    name: String::new(),
                    permissions: BucketPermissions::default(),
                    bucket_local_aliases: Vec::new(),
                });
                bucket.keys.len() - 1
            })
        };
        match step {
            Step::AddFinalizer => self.finalizer = true,
            Step::RemoveFinalizer => {
                self.finalizer = false;
                self.released = true;
            }
            Step::Create(alias) => {
                assert!(self.named(alias).is_none(), "409");
                let id = format!("{:064}", self.buckets.len() + 1);
                self.buckets.push(empty(&id, alias));
            }
            Step::Record(_) => {}
            Step::AddAlias(alias) => match alias {
                BucketAlias::Global { global_alias } => {
                    assert!(self.named(global_alias).is_none(), "taken");
                    self.the_bucket(desired)
                        .global_aliases
                        .push(global_alias.clone());
                }
                BucketAlias::Local {
                    local_alias,
                    access_key_id,
                } => {
                    let bucket = self.the_bucket(desired);
                    let at = grant(bucket, access_key_id);
                    bucket.keys[at]
                        .bucket_local_aliases
                        .push(local_alias.clone());
                }
            },
            Step::RemoveAlias(alias) => {
                let bucket = self.the_bucket(desired);
                assert!(names(bucket).len() > 1, "the last name");
                match alias {
                    BucketAlias::Global { global_alias } => {
                        bucket.global_aliases.retain(|one| one != global_alias);
                    }
                    BucketAlias::Local {
                        local_alias,
                        access_key_id,
                    } => {
                        let at = grant(bucket, access_key_id);
                        bucket.keys[at]
                            .bucket_local_aliases
                            .retain(|one| one != local_alias);
                    }
                }
            }
            Step::Update(update) => {
                let bucket = self.the_bucket(desired);
                if let Some(quotas) = update.quotas {
                    bucket.quotas = quotas;
                }
                if let Some(website) = &update.website_access {
                    bucket.website_access = website.enabled;
                    bucket.website_config =
                        website.index_document.clone().map(|index| WebsiteInfo {
                            index_document: index,
                            error_document: website.error_document.clone(),
                            routing_rules: None,
                        });
                }
                if let Some(rules) = &update.cors_rules {
                    bucket.cors_rules = Some(rules.clone());
                }
                if let Some(rules) = &update.lifecycle_rules {
                    bucket.lifecycle_rules = Some(rules.clone());
                }
            }
            Step::Allow(id, rights) => {
                let bucket = self.the_bucket(desired);
                let at = grant(bucket, id);
                bucket.keys[at].permissions = union(bucket.keys[at].permissions, *rights);
            }
            Step::Deny(id, rights) => {
                let bucket = self.the_bucket(desired);
                let at = grant(bucket, id);
                bucket.keys[at].permissions = minus(bucket.keys[at].permissions, *rights);
            }
            Step::Delete => {
                let id = self.the_bucket(desired).id.clone();
                self.buckets.retain(|bucket| bucket.id != id);
            }
        }
    }

    /// What the status says after a round.
    fn tell(&mut self, object: &GarageBucket, desired: &Desired, seen: &Observed, plan: &Plan) {
        let mut object = object.clone();
        let status = crate::api::GarageBucketStatus {
            global_alias: self.former_alias.clone(),
            ..Default::default()
        };
        object.status = Some(status);
        let report = report(&object, None, desired, seen, plan, Usage::Fresh, None);
        let text = |field: &str| report.status[field].as_str().map(str::to_owned);
        self.recorded = text("bucketId");
        self.adopted = report.status["adopted"] == true;
        self.former_alias = text("globalAlias");
        let locals = report.status["localAliases"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let local = |one: &serde_json::Value| {
            let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
            (text("keyId"), text("alias"))
        };
        self.former_locals = locals.iter().map(local).collect();
    }

    /// Until nothing is left to do, or `steps` steps were made and the process died. Returns the steps made.
    fn run(&mut self, object: &GarageBucket, mut steps: usize) -> (usize, Plan) {
        let desired = Desired::parse(object).expect("is fine");
        let mut made = 0;
        for _ in 0..20 {
            let seen = self.observe(&desired);
            let plan = plan(&desired, &seen);
            for step in &plan.steps {
                if steps == 0 {
                    return (made, plan);
                }
                steps -= 1;
                made += 1;
                self.apply(&desired, step);
            }
            if self.released {
                return (made, plan);
            }
            self.tell(object, &desired, &seen, &plan);
            if plan.steps.is_empty() {
                return (made, plan);
            }
        }
        panic!("no end of it: {self:#?}");
    }
}

fn key(name: &str, ids: &[&str], here: bool) -> Key {
    Key {
        key: ClusterKey {
            namespace: "ns".into(),
            name: name.into(),
        },
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        here,
        wants: BucketPermissions::default(),
    }
}

fn object(spec: &str) -> GarageBucket {
    let text = format!(
        "apiVersion: garage.rajsingh.info/v1alpha1\nkind: GarageBucket\nmetadata: {{ name: photos, namespace: ns, uid: u }}\nspec: {{ clusterRef: {{ name: c }}, {spec} }}"
    );
    serde_saphyr::from_str(&text).expect("a GarageBucket")
}

fn adopting(spec: &str) -> GarageBucket {
    let mut object = object(spec);
    let annotation = (crate::api::ANNOTATION_ADOPT.to_owned(), "true".to_owned());
    object.metadata.annotations = Some([annotation].into());
    object
}

fn ending(mut object: GarageBucket) -> GarageBucket {
    let time = tenant_time("2026-01-01T00:00:00Z");
    object.metadata.deletion_timestamp = Some(time);
    object
}

fn tenant_time(text: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(crate::tenant::time(text).expect("a time"))
}

const FULL: &str = "globalAlias: pics, localAliases: [{ keyRef: app, alias: mine }], quotas: { maxSize: 1Gi, maxObjects: 7 }, \
    website: { enabled: true, indexDocument: i.html }, keyPermissions: [{ keyRef: app, read: true, write: true }], \
    lifecycle: { rules: [{ id: a, status: Enabled, filter: { prefix: p, objectSizeGreaterThan: 1 }, expiration: { date: 2027-01-31T00:00:00Z } }] }, \
    cors: [{ allowedOrigins: ['*'], allowedMethods: [GET] }]";

#[test]
fn a_bucket_becomes_what_is_asked_and_then_rests() {
    for (spec, aliases) in [
        ("", vec!["photos"]),
        (FULL, vec!["pics"]),
        ("localAliases: [{ keyRef: app, alias: mine }]", vec![]),
        // No key for its only name: the reservation stays.
        (
            "localAliases: [{ keyRef: nobody, alias: mine }]",
            vec!["gatewright-u"],
        ),
    ] {
        let mut world = World::new();
        let (_, plan) = world.run(&object(spec), usize::MAX);
        assert_eq!(plan.verdict, Verdict::Ready, "{spec}: {world:#?}");
        assert_eq!(world.buckets.len(), 1);
        assert_eq!(world.buckets[0].global_aliases, aliases, "{spec}");
        assert_eq!(world.run(&object(spec), usize::MAX).0, 0, "{spec}");
        let missing = plan.missing_keys.keys().next().map(String::as_str);
        assert_eq!(missing, spec.contains("nobody").then_some("nobody"));
    }
}

#[test]
fn a_process_that_dies_anywhere_leaves_what_the_next_one_completes() {
    for spec in ["", FULL, "localAliases: [{ keyRef: app, alias: mine }]"] {
        let (object, gone) = (object(spec), ending(object(spec)));
        let mut whole = World::new();
        let (steps, _) = whole.run(&object, usize::MAX);
        for cut in 0..=steps {
            let mut world = World::new();
            world.run(&object, cut);
            let begun = world.clone();
            world.run(&object, usize::MAX);
            assert_eq!(world, whole, "{spec}: died after {cut} steps");
            // Deleted instead of completed, and dying once more meanwhile.
            for cut in 0..3 {
                let mut world = begun.clone();
                world.run(&gone, cut);
                world.run(&gone, usize::MAX);
                assert!(world.buckets.is_empty(), "{spec}: leaked {world:#?}");
                assert!(!world.finalizer);
            }
        }
    }
}

#[test]
fn names_settings_and_rights_follow_the_object() {
    let mut world = World::new();
    world.run(&object(FULL), usize::MAX);
    world.keys[1].here = true;
    let spec = "globalAlias: renamed, keyPermissions: [{ keyRef: other, owner: true }]";
    let (_, plan) = world.run(&object(spec), usize::MAX);
    assert_eq!(plan.verdict, Verdict::Ready);
    let bucket = &world.buckets[0];
    assert_eq!(bucket.global_aliases, ["renamed"]);
    assert_eq!(bucket.quotas, Default::default());
    assert!(!bucket.website_access);
    assert_eq!(bucket.cors_rules, Some(Vec::new()));
    for key in &bucket.keys {
        assert_eq!(key.permissions.owner, key.access_key_id == "GK3");
        assert!(!key.permissions.read && key.bucket_local_aliases.is_empty());
    }
}

#[test]
fn a_key_asks_for_itself_and_one_that_nobody_knows_is_left_alone() {
    let mut world = World::new();
    world.run(&object(""), usize::MAX);
    let manual = BucketPermissions {
        read: true,
        ..Default::default()
    };
    let desired = Desired::parse(&object("")).expect("is fine");
    world.apply(&desired, &Step::Allow("GKmanual".into(), manual));
    world.keys[0].wants = BucketPermissions {
        write: true,
        ..Default::default()
    };
    world.run(&object(""), usize::MAX);
    let rights = |id: &str| {
        let keys = &world.buckets[0].keys;
        keys.iter()
            .find(|key| key.access_key_id == id)
            .map(|key| key.permissions)
    };
    assert_eq!(rights("GKmanual"), Some(manual));
    assert_eq!(rights("GK1"), Some(world.keys[0].wants));
    assert_eq!(rights("GK2"), Some(world.keys[0].wants));
}

#[test]
fn a_bucket_that_exists_is_taken_over_unless_it_is_somebody_elses() {
    let rival = |manages, older| Rival {
        key: ClusterKey {
            namespace: "x".into(),
            name: "y".into(),
        },
        manages,
        older,
    };
    for (rivals, taken) in [
        (vec![], true),
        (vec![rival(false, false)], true),
        (vec![rival(false, true)], false),
        (vec![rival(true, false)], false),
    ] {
        let mut world = World::new();
        world.buckets.push(empty("old", "photos"));
        world.rivals = rivals;
        let object = adopting("deletionPolicy: Delete");
        let (_, plan) = world.run(&object, usize::MAX);
        assert_eq!(world.recorded.is_some(), taken);
        assert_eq!(plan.verdict == Verdict::Ready, taken, "{plan:?}");
        world.run(&ending(object), usize::MAX);
        assert_eq!(
            world.buckets.is_empty(),
            taken,
            "deleted, or not ours to delete"
        );
    }
}

#[test]
fn a_bucket_is_taken_over_only_where_the_object_says_so() {
    let exists = || {
        let mut world = World::new();
        world.buckets.push(empty("old", "photos"));
        world
    };
    let mut world = exists();
    let (steps, plan) = world.run(&object(""), usize::MAX);
    let Verdict::Refused(refusal) = &plan.verdict else {
        panic!("{plan:?}")
    };
    assert_eq!(refusal, &Refusal::Exists("old".into()));
    let todo = "garage.rajsingh.info/adopt=true";
    assert!(refusal.to_string().contains(todo), "{refusal}");
    assert_eq!((steps, &world.recorded), (1, &None), "the finalizer alone");
    world.run(&ending(object("")), usize::MAX);
    assert_eq!(world.buckets, exists().buckets, "not touched, not deleted");
    for (policy, left) in [
        ("", 1),
        ("deletionPolicy: Retain", 1),
        ("deletionPolicy: Delete", 0),
    ] {
        for cut in 0..4 {
            let mut world = exists();
            world.run(&adopting(policy), cut);
            world.run(&adopting(policy), usize::MAX);
            assert_eq!((world.buckets.len(), world.adopted), (1, true));
            // Adopted once, it stays so without the annotation.
            let (_, plan) = world.run(&object(policy), usize::MAX);
            assert_eq!(plan.verdict, Verdict::Ready);
            world.run(&ending(object(policy)), usize::MAX);
            assert_eq!(
                world.buckets.len(),
                left,
                "{policy}, died after {cut} steps"
            );
        }
    }
    // The annotation does not make a bucket adopted that the object made.
    let mut world = World::new();
    world.run(&adopting(""), usize::MAX);
    assert!(!world.adopted);
    world.run(&ending(adopting("")), usize::MAX);
    assert!(world.buckets.is_empty());
}

#[test]
fn a_name_that_another_bucket_has_is_not_taken_from_it() {
    let mut world = World::new();
    world.run(&object(""), usize::MAX);
    world.buckets.push(empty("theirs", "pics"));
    let (_, plan) = world.run(&object("globalAlias: pics"), usize::MAX);
    let Verdict::Refused(refusal) = plan.verdict else {
        panic!("{plan:?}")
    };
    assert!(
        refusal
            .to_string()
            .contains("pics belongs to bucket theirs"),
        "{refusal}"
    );
    assert_eq!(world.buckets[0].global_aliases, ["photos"]);
}

#[test]
fn data_is_never_deleted_and_never_holds_a_namespace() {
    for (spec, objects, ends, left, released) in [
        ("deletionPolicy: Delete", 0, false, 0, true),
        ("deletionPolicy: Delete", 3, false, 1, false),
        ("deletionPolicy: Delete", 3, true, 1, true),
        ("deletionPolicy: Retain", 0, false, 1, true),
        ("deletionPolicy: Retain", 3, false, 1, true),
    ] {
        let mut world = World::new();
        world.run(&object(spec), usize::MAX);
        world.buckets[0].objects = objects;
        world.buckets[0].bytes = objects * 10;
        world.namespace_ends = ends;
        let (_, plan) = world.run(&ending(object(spec)), usize::MAX);
        assert_eq!(world.buckets.len(), left, "{spec} {objects} {ends}");
        assert_eq!(world.released, released, "{spec} {objects} {ends}");
        if let Verdict::Waiting(wait @ Wait::NotEmpty { .. }) = &plan.verdict {
            assert!(wait.to_string().contains("3 objects, 30 bytes"), "{wait}");
        }
    }
}

#[test]
fn an_older_garage_is_not_asked_for_what_it_drops() {
    let mut world = World::new();
    world.run(&object(""), usize::MAX);
    let desired = Desired::parse(&object(FULL)).expect("is fine");
    let seen = Observed {
        version: Some(GarageVersion::new(2, 1, 0)),
        ..world.observe(&desired)
    };
    let plan = plan(&desired, &seen);
    let fields = vec!["spec.lifecycle", "spec.cors"];
    assert_eq!(plan.verdict, Verdict::Refused(Refusal::Unsupported(fields)));
    let updates = plan.steps.iter().filter_map(|step| match step {
        Step::Update(update) => Some(update),
        _ => None,
    });
    for update in updates {
        assert!(update.cors_rules.is_none() && update.lifecycle_rules.is_none());
        assert!(update.quotas.is_some());
    }
}
