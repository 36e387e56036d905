//! A small Garage in memory, in which the steps of a plan are carried out: tokens never leak.

use super::*;
use crate::api::GarageAdminToken;
use crate::tenant;

#[derive(Debug, Clone, PartialEq)]
struct World {
    now: Timestamp,
    tokens: Vec<Token>,
    made: u32,
    finalizer: bool,
    secret: Option<String>,
    released: bool,
}

impl World {
    fn new() -> Self {
        Self {
            now: tenant::time("2026-01-01T00:00:00Z").expect("a time"),
            tokens: vec![Token {
                id: "theirs".into(),
                name: "t (v)".into(),
                expiration: None,
                expired: false,
                scope: BTreeSet::new(),
            }],
            made: 0,
            finalizer: false,
            secret: None,
            released: false,
        }
    }

    fn observe(&self, desired: &Desired) -> Observed {
        let ours = self
            .tokens
            .iter()
            .filter(|token| desired.is_ours(&token.name));
        Observed {
            now: self.now,
            finalizer: self.finalizer,
            namespace_ends: false,
            home: Home::Reached,
            secret: match &self.secret {
                None => SecretSeen::Missing,
                Some(id) => SecretSeen::Ours {
                    id: Some(id.clone()),
                },
            },
            stale_secrets: Vec::new(),
            tokens: ours.cloned().collect(),
        }
    }

    fn change(token: &mut Token, change: &AdminTokenChange) {
        if let Some(name) = &change.name {
            token.name.clone_from(name);
        }
        if let Some(time) = &change.expiration {
            token.expiration = tenant::time(time);
        }
        if change.never_expires {
            token.expiration = None;
        }
        if let Some(scope) = &change.scope {
            token.scope = scope.iter().cloned().collect();
        }
    }

    /// `half`: the process dies between the call and the Secret.
    fn apply(&mut self, step: &Step, half: bool) {
        match step {
            Step::AddFinalizer => self.finalizer = true,
            Step::RemoveFinalizer => {
                self.finalizer = false;
                self.released = true;
            }
            Step::Create(change) => {
                self.made += 1;
                let mut token = Token {
                    id: format!("t{}", self.made),
                    name: String::new(),
                    expiration: None,
                    expired: false,
                    scope: BTreeSet::new(),
                };
                Self::change(&mut token, change);
                if !half {
                    self.secret = Some(token.id.clone());
                }
                self.tokens.push(token);
            }
            Step::Update(id, change) => {
                let token = self.tokens.iter_mut().find(|token| token.id == *id);
                Self::change(token.expect("404"), change);
            }
            Step::Delete(id) => self.tokens.retain(|token| token.id != *id),
            Step::DeleteSecret(_) => {}
        }
    }

    fn run(&mut self, object: &GarageAdminToken, mut steps: usize, half: bool) -> (usize, Plan) {
        let desired = Desired::parse(object).expect("is fine");
        let mut made = 0;
        for _ in 0..20 {
            let plan = plan(&desired, &self.observe(&desired));
            for step in &plan.steps {
                if steps == 0 {
                    return (made, plan);
                }
                steps -= 1;
                made += 1;
                self.apply(step, half && steps == 0);
            }
            if self.released || plan.steps.is_empty() {
                return (made, plan);
            }
        }
        panic!("no end of it: {self:#?}");
    }

    fn ours(&self) -> Vec<&Token> {
        self.tokens
            .iter()
            .filter(|token| token.id != "theirs")
            .collect()
    }
}

fn object(spec: &str) -> GarageAdminToken {
    let text = format!(
        "apiVersion: garage.rajsingh.info/v1alpha1\nkind: GarageAdminToken\nmetadata: {{ name: t, namespace: ns, uid: u }}\nspec: {{ clusterRef: {{ name: c }}, {spec} }}"
    );
    serde_saphyr::from_str(&text).expect("a GarageAdminToken")
}

const SPEC: &str = "scope: [GetClusterStatus], expiration: 2026-01-02T00:00:00+01:00";

#[test]
fn a_token_never_leaks_wherever_a_process_dies() {
    let mut gone = object(SPEC);
    let time = tenant::time("2026-01-01T00:00:00Z").expect("a time");
    gone.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    let mut whole = World::new();
    let (steps, plan) = whole.run(&object(SPEC), usize::MAX, false);
    assert_eq!(plan.verdict, Verdict::Ready);
    assert_eq!(whole.ours()[0].name, "t (u)");
    for cut in 0..=steps {
        for half in [false, true] {
            let mut world = World::new();
            world.run(&object(SPEC), cut, half);
            let mut end = world.clone();
            world.run(&object(SPEC), usize::MAX, false);
            assert_eq!(world.ours().len(), 1, "died after {cut} steps");
            assert_eq!(world.secret.as_ref(), Some(&world.ours()[0].id));
            assert_eq!(world.run(&object(SPEC), usize::MAX, false).0, 0);
            end.run(&gone, usize::MAX, false);
            assert!(end.ours().is_empty() && !end.finalizer);
            assert_eq!(end.tokens.len(), 1, "somebody else's token was deleted");
        }
    }
}

#[test]
fn scope_and_end_follow_the_object_and_an_end_is_told() {
    let mut world = World::new();
    let (_, plan) = world.run(&object(SPEC), usize::MAX, false);
    assert_eq!(plan.wake, tenant::time("2026-01-01T23:00:00Z"));
    world.now = tenant::time("2026-01-01T23:00:00Z").expect("a time");
    assert_eq!(
        world.run(&object(SPEC), usize::MAX, false).1.verdict,
        Verdict::Expired
    );
    let (_, plan) = world.run(
        &object("neverExpires: true, name: other"),
        usize::MAX,
        false,
    );
    assert_eq!((plan.verdict, world.made), (Verdict::Ready, 1));
    let token = world.ours()[0];
    assert_eq!((token.name.as_str(), token.expiration), ("other (u)", None));
    assert_eq!(token.scope, ["*".to_owned()].into());
}

#[test]
fn a_lost_or_changed_secret_means_a_new_token() {
    for secret in [None, Some("something".to_owned())] {
        let mut world = World::new();
        world.run(&object(SPEC), usize::MAX, false);
        world.secret = secret;
        world.run(&object(SPEC), usize::MAX, false);
        let ids: Vec<&str> = world.ours().iter().map(|token| token.id.as_str()).collect();
        assert_eq!(ids, ["t2"], "the old one is revoked");
    }
}
