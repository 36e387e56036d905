//! A small Garage in memory with a clock of its own, in which the steps of a plan are carried out. It
//! proves that plans end, that they end the same wherever a process dies, and that clients keep a key.

use super::*;
use crate::api::GarageKey;
use crate::cluster::ClusterKey;
use crate::tenant::{self, Home};
use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq)]
struct World {
    now: Timestamp,
    keys: Vec<Live>,
    /// Ids that were ever used.
    used: BTreeSet<String>,
    finalizer: bool,
    /// Access key id and time in the Secret.
    secret: Option<(String, Timestamp)>,
    foreign: bool,
    stale: Vec<String>,
    told: Vec<String>,
    targets: Vec<Target>,
    managed: BTreeMap<String, ClusterKey>,
    given: Option<Result<String, String>>,
    released: bool,
    /// Garage itself lost the key: nothing in the Secret can work then.
    lost: bool,
}

impl World {
    fn new() -> Self {
        Self {
            now: tenant::time("2026-01-01T00:00:00Z").expect("a time"),
            keys: Vec::new(),
            used: BTreeSet::new(),
            finalizer: false,
            secret: None,
            foreign: false,
            stale: Vec::new(),
            told: Vec::new(),
            targets: Vec::new(),
            managed: BTreeMap::new(),
            given: None,
            released: false,
            lost: false,
        }
    }

    fn observe(&self, desired: &Desired) -> Observed {
        let in_secret = self.secret.as_ref().map(|(id, _)| id.clone());
        let numbers = self.told.iter().chain(&in_secret);
        let numbers = numbers.filter_map(|id| number_of(&desired.uid, id, 100));
        Observed {
            now: self.now,
            finalizer: self.finalizer,
            namespace_ends: false,
            home: Home::Reached,
            last: numbers
                .chain(self.keys.iter().filter_map(|key| key.number))
                .max(),
            given: self.given.clone(),
            taken: None,
            secret: match &self.secret {
                _ if self.foreign => SecretSeen::Foreign,
                None => SecretSeen::Missing,
                Some((id, since)) => SecretSeen::Ours {
                    id: Some(id.clone()),
                    since: Some(*since),
                    type_matches: true,
                },
            },
            stale_secrets: self.stale.clone(),
            live: self.keys.clone(),
            listed: true,
            targets: self.targets.clone(),
            managed: self.managed.clone(),
        }
    }

    fn make(&mut self, id: &str, number: Option<u32>) -> bool {
        if !self.used.insert(id.to_owned()) {
            return false;
        }
        self.keys.push(Live {
            id: id.to_owned(),
            number,
            created: Some(self.now),
            name: String::new(),
            expiration: None,
            expired: false,
            create_bucket: false,
            buckets: BTreeMap::new(),
        });
        true
    }

    fn key(&mut self, id: &str) -> &mut Live {
        self.keys.iter_mut().find(|key| key.id == id).expect("404")
    }

    fn apply(&mut self, desired: &Desired, plan: &Plan, step: &Step) {
        match step {
            Step::AddFinalizer => self.finalizer = true,
            Step::RemoveFinalizer => {
                self.finalizer = false;
                self.released = true;
            }
            Step::Create { number, .. } => {
                let mut number = *number;
                while !self.make(&access_key_id(&desired.uid, number), Some(number)) {
                    number += 1;
                }
            }
            Step::Import => {
                let id = self.given.clone().expect("given").expect("readable");
                assert!(self.make(&id, None), "409");
            }
            Step::Update(id, change) => {
                let key = self.key(id);
                key.name = change.name.clone().unwrap_or(key.name.clone());
                if let Some(time) = &change.expiration {
                    key.expiration = tenant::time(time);
                }
                if change.never_expires {
                    key.expiration = None;
                }
                key.create_bucket |= change.allow.is_some();
                key.create_bucket &= change.deny.is_none();
            }
            Step::Allow(id, bucket, rights) => {
                let access = self.key(id).buckets.entry(bucket.clone()).or_default();
                access.rights = union(access.rights, *rights);
            }
            Step::Deny(id, bucket, rights) => {
                let access = self.key(id).buckets.entry(bucket.clone()).or_default();
                access.rights = minus(access.rights, *rights);
            }
            Step::Publish(id) => {
                let published = plan.secret.clone().expect("what to publish");
                assert_eq!(published.id, *id);
                self.secret = Some((published.id, published.since));
            }
            Step::DeleteSecret(name) => self.stale.retain(|one| one != name),
            Step::Delete(id) => self.keys.retain(|key| key.id != *id),
        }
        // Whoever reads the Secret can work at any moment.
        if let Some((id, _)) = &self.secret {
            assert!(desired.absent || self.lost || self.keys.iter().any(|key| key.id == *id));
        }
        assert!(self.keys.len() <= 2, "more than two keys are valid");
    }

    fn run(&mut self, object: &GarageKey, mut steps: usize) -> (usize, Plan) {
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
                self.apply(&desired, &plan, step);
            }
            if self.released {
                return (made, plan);
            }
            let status = report(object, &desired, &seen, &plan, None).status;
            let told =
                ["keyId", "accessKeyId"].map(|field| status[field].as_str().map(str::to_owned));
            self.told = told.into_iter().flatten().collect();
            if plan.steps.is_empty() {
                return (made, plan);
            }
        }
        panic!("no end of it: {self:#?}");
    }

    fn later(&mut self, seconds: i64) {
        self.now = after(self.now, seconds);
    }
}

fn object(spec: &str) -> GarageKey {
    let text = format!(
        "apiVersion: garage.rajsingh.info/v1alpha1\nkind: GarageKey\nmetadata: {{ name: app, namespace: ns, uid: u }}\nspec: {{ clusterRef: {{ name: c }}, {spec} }}"
    );
    serde_saphyr::from_str(&text).expect("a GarageKey")
}

fn ending(mut object: GarageKey) -> GarageKey {
    let time = tenant::time("2026-01-01T00:00:00Z").expect("a time");
    object.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    object
}

fn bucket(id: &str) -> Target {
    Target::Bucket {
        id: id.into(),
        alias: Some(format!("{id}-name")),
    }
}

const READ: BucketPermissions = BucketPermissions {
    read: true,
    write: false,
    owner: false,
};
const USE: &str = "expiration: 2027-01-01T00:00:00Z, permissions: { createBucket: true }, \
    bucketPermissions: [{ bucketRef: b, read: true }]";
const ROTATE: &str =
    "rotation: { interval: 10h, overlap: 1h }, bucketPermissions: [{ globalAlias: b, read: true }]";

#[test]
fn a_process_that_dies_anywhere_leaves_what_the_next_one_completes() {
    for spec in ["", USE, ROTATE] {
        let (object, gone) = (object(spec), ending(object(spec)));
        let mut start = World::new();
        start.targets = vec![bucket("b")];
        let mut whole = start.clone();
        let (steps, plan) = whole.run(&object, usize::MAX);
        assert_eq!(plan.verdict, Verdict::Ready, "{spec}");
        assert_eq!(whole.run(&object, usize::MAX).0, 0, "{spec}");
        for cut in 0..=steps {
            let mut world = start.clone();
            world.run(&object, cut);
            let begun = world.clone();
            world.run(&object, usize::MAX);
            assert_eq!(world, whole, "{spec}: died after {cut} steps");
            for cut in 0..3 {
                let mut world = begun.clone();
                world.run(&gone, cut);
                world.run(&gone, usize::MAX);
                assert!(
                    world.keys.is_empty() && !world.finalizer,
                    "{spec}: leaked {world:#?}"
                );
            }
        }
    }
}

#[test]
fn a_key_has_the_name_the_end_and_the_rights_that_are_asked_for() {
    let mut world = World::new();
    world.targets = vec![bucket("b")];
    let (_, plan) = world.run(&object(USE), usize::MAX);
    let key = &world.keys[0];
    assert_eq!(key.id, access_key_id("u", 0));
    assert_eq!((key.name.as_str(), key.create_bucket), ("app", true));
    assert_eq!(key.expiration, tenant::time("2027-01-01T00:00:00Z"));
    assert_eq!(key.buckets["b"].rights, READ);
    assert_eq!(
        plan.secret.expect("a Secret").bucket.as_deref(),
        Some("b-name")
    );
    // A bucket that it has created is its own; one that it was given is not.
    let owner = BucketPermissions {
        owner: true,
        ..READ
    };
    let own = Access {
        rights: owner,
        ..Access::default()
    };
    world.keys[0].buckets.insert("own".into(), own.clone());
    world.targets.clear();
    world.run(
        &object("neverExpires: true, permissions: { createBucket: true }"),
        usize::MAX,
    );
    assert_eq!(world.keys[0].expiration, None);
    assert_eq!(world.keys[0].buckets["own"], own);
    world.run(&object(""), usize::MAX);
    assert!(
        world.keys[0]
            .buckets
            .values()
            .all(|access| is_none(access.rights))
    );
}

#[test]
fn a_key_is_replaced_before_the_old_one_ends() {
    let mut world = World::new();
    world.targets = vec![bucket("b")];
    let (_, plan) = world.run(&object(ROTATE), usize::MAX);
    let start = world.now;
    assert_eq!(plan.wake, Some(after(start, 36_000)));
    world.later(36_000 - 1);
    assert_eq!(
        world.run(&object(ROTATE), usize::MAX).0,
        0,
        "a second too early"
    );
    world.later(1);
    let begun = world.clone();
    let (steps, plan) = world.run(&object(ROTATE), usize::MAX);
    let ids: Vec<&str> = world.keys.iter().map(|key| key.id.as_str()).collect();
    assert_eq!(ids, [access_key_id("u", 0), access_key_id("u", 1)]);
    assert_eq!(world.secret.as_ref().expect("one").0, access_key_id("u", 1));
    assert_eq!(world.keys[1].buckets["b"].rights, READ);
    assert_eq!(plan.wake, Some(after(start, 39_600)));
    for cut in 0..=steps {
        let mut other = begun.clone();
        other.run(&object(ROTATE), cut);
        other.run(&object(ROTATE), usize::MAX);
        assert_eq!(other, world, "died after {cut} steps");
    }
    world.later(3599);
    assert_eq!(
        world.run(&object(ROTATE), usize::MAX).0,
        0,
        "within the overlap"
    );
    world.later(1);
    world.run(&object(ROTATE), usize::MAX);
    assert_eq!(world.keys.len(), 1, "the old one has ended");
    // Ten more, however late the operator comes.
    for _ in 0..10 {
        world.later(100_000);
        world.run(&object(ROTATE), usize::MAX);
        world.later(100_000);
        world.run(&object(ROTATE), usize::MAX);
        let (id, _) = world.secret.clone().expect("one");
        assert!(world.keys.iter().any(|key| key.id == id));
    }
}

#[test]
fn a_successor_waits_for_the_rights_that_its_bucket_gives() {
    let mut world = World::new();
    world.targets = vec![bucket("b")];
    let owner = ClusterKey {
        namespace: "ns".into(),
        name: "b".into(),
    };
    world.managed.insert("b".into(), owner);
    let (_, plan) = world.run(&object(ROTATE), usize::MAX);
    assert_eq!(
        plan.verdict,
        Verdict::Waiting(Wait::Rights(vec!["bucket b".into()]))
    );
    assert!(world.secret.is_some(), "the first one is there at once");
    let grant = |world: &mut World| {
        for key in &mut world.keys {
            let local_aliases = vec!["mine".to_owned()];
            key.buckets.insert(
                "b".into(),
                Access {
                    rights: READ,
                    local_aliases,
                    ..Access::default()
                },
            );
        }
    };
    grant(&mut world);
    assert_eq!(
        world.run(&object(ROTATE), usize::MAX).1.verdict,
        Verdict::Ready
    );
    world.later(40_000);
    let (_, plan) = world.run(&object(ROTATE), usize::MAX);
    assert!(matches!(plan.verdict, Verdict::Waiting(Wait::Rights(_))));
    let secret = |world: &World| world.secret.clone().expect("one").0;
    assert_eq!(secret(&world), access_key_id("u", 0));
    assert_eq!(
        world.told,
        [access_key_id("u", 1), access_key_id("u", 0)],
        "the bucket can see both"
    );
    world.later(100_000);
    world.run(&object(ROTATE), usize::MAX);
    assert_eq!(world.keys.len(), 2, "the old one stays as long as it takes");
    grant(&mut world);
    assert_eq!(
        world.run(&object(ROTATE), usize::MAX).1.verdict,
        Verdict::Ready
    );
    assert_eq!(secret(&world), access_key_id("u", 1));
    assert_eq!(world.keys.len(), 2, "its overlap begins now");
}

#[test]
fn a_key_that_garage_lost_comes_back() {
    for reset in [true, false] {
        let mut world = World::new();
        world.targets = vec![bucket("b")];
        world.run(&object(USE), usize::MAX);
        world.keys.clear();
        world.lost = true;
        if reset {
            world.used.clear();
        }
        let (_, plan) = world.run(&object(USE), usize::MAX);
        assert_eq!(plan.verdict, Verdict::Ready);
        // With a new Garage the same key goes on; an id that was deleted can never be used again.
        let number = u32::from(!reset);
        assert_eq!(world.keys[0].id, access_key_id("u", number));
        assert_eq!(world.secret.expect("one").0, access_key_id("u", number));
    }
}

#[test]
fn imported_keys_stay_what_they_are() {
    let spec = "importKey: { accessKeyId: GKimported, secretAccessKey: 0123456789abcdef }";
    let mut world = World::new();
    world.given = Some(Err("no Secret".into()));
    let (_, plan) = world.run(&object(spec), usize::MAX);
    assert_eq!(
        plan.verdict,
        Verdict::Waiting(Wait::Material("no Secret".into()))
    );
    world.given = Some(Ok("GKimported".into()));
    let (_, plan) = world.run(&object(spec), usize::MAX);
    assert_eq!(plan.verdict, Verdict::Ready);
    assert_eq!(world.secret.clone().expect("one").0, "GKimported");
    let desired = Desired::parse(&object(spec)).expect("is fine");
    let seen = Observed {
        taken: Some(Taken::OtherSecret),
        ..world.observe(&desired)
    };
    assert!(matches!(
        super::plan(&desired, &seen).verdict,
        Verdict::Refused(Refusal::IdTaken(_))
    ));
    let gone = Desired::parse(&ending(object(spec))).expect("is fine");
    let plan = super::plan(&gone, &seen);
    assert_eq!(
        plan.steps,
        [Step::RemoveFinalizer],
        "somebody else's key was deleted"
    );
}

#[test]
fn a_key_is_not_ready_before_its_bucket_is() {
    // Who reads the Secret of a ready key finds the bucket's name in it.
    let spec = "bucketPermissions: [{ bucketRef: b, read: true }]";
    let mut world = World::new();
    world.targets = vec![Target::NotYet];
    let (_, plan) = world.run(&object(spec), usize::MAX);
    let pending = Wait::Rights(vec!["GarageBucket b".into()]);
    assert_eq!(plan.verdict, Verdict::Waiting(pending));
    assert_eq!(plan.secret.and_then(|secret| secret.bucket), None);
    assert_eq!(plan.left_out.len(), 0);
    world.targets = vec![bucket("b")];
    let (_, plan) = world.run(&object(spec), usize::MAX);
    assert_eq!(plan.verdict, Verdict::Ready);
    assert!(plan.secret.is_some_and(|secret| secret.bucket.is_some()));
}

#[test]
fn what_cannot_be_used_is_told_and_does_not_stop_the_rest() {
    let spec = "bucketPermissions: [{ bucketRef: a, read: true }, { globalAlias: b, read: true }, { bucketRef: c, read: true }]";
    let mut world = World::new();
    let owner = ClusterKey {
        namespace: "x".into(),
        name: "y".into(),
    };
    world.targets = vec![Target::Missing, Target::NotGranted(owner), bucket("c")];
    let (_, plan) = world.run(&object(spec), usize::MAX);
    assert_eq!(plan.verdict, Verdict::Ready);
    assert_eq!(plan.left_out.len(), 2);
    assert_eq!(world.keys[0].buckets["c"].rights, READ);
    world.foreign = true;
    let (steps, plan) = world.run(&object(spec), usize::MAX);
    assert_eq!(steps, 0);
    assert_eq!(
        plan.verdict,
        Verdict::Refused(Refusal::SecretTaken("app".into()))
    );
}
