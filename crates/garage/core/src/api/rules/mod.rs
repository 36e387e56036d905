//! What the apiserver checks of a single object: bounds and CEL rules, one table for each kind. What needs a second
//! object, or the object's namespace, is in `admission`.

mod admin_token;
mod bucket;
mod cluster;
mod key;
mod node;
mod serving;
mod volumes;

pub(super) use admin_token::admin_token;
pub(super) use bucket::bucket;
pub(super) use cluster::cluster;
pub(super) use key::key;
pub(super) use node::node;

use serde_json::{Map, Value, json};

/// A CEL rule at a path of the schema.
pub(super) struct Rule {
    pub(super) path: String,
    pub(super) rule: String,
    pub(super) message: String,
    pub(super) expression: Option<String>,
}

/// Schema keywords at a path: lengths, patterns, list types.
pub(super) struct Bound {
    pub(super) path: String,
    pub(super) keywords: Map<String, Value>,
}

/// All of one kind.
#[derive(Default)]
pub(super) struct Rules {
    pub(super) bounds: Vec<Bound>,
    pub(super) rules: Vec<Rule>,
}

impl Rules {
    /// Adds keywords, given as a JSON object.
    fn bound(&mut self, path: &str, keywords: Value) {
        let Value::Object(keywords) = keywords else {
            panic!("bounds of {path} are not an object");
        };
        self.bounds.push(Bound {
            path: path.to_owned(),
            keywords,
        });
    }

    /// Adds a rule: `rule` must be true of `self` at `path`, or the user reads `message`.
    fn rule(&mut self, path: &str, rule: impl Into<String>, message: &str) {
        self.rules.push(Rule {
            path: path.to_owned(),
            rule: rule.into(),
            message: message.to_owned(),
            expression: None,
        });
    }

    /// As [`Rules::rule`], with a CEL expression that makes a better message than the fixed one.
    fn rule_saying(
        &mut self,
        path: &str,
        rule: impl Into<String>,
        message: &str,
        expression: impl Into<String>,
    ) {
        self.rule(path, rule, message);
        if let Some(rule) = self.rules.last_mut() {
            rule.expression = Some(expression.into());
        }
    }

    /// A `clusterRef` at `path`: complete, and inside this Kubernetes cluster.
    fn cluster_ref(&mut self, path: &str) {
        self.bound(
            &format!("{path}.name"),
            json!({ "minLength": 1, "maxLength": 253 }),
        );
        self.bound(&format!("{path}.namespace"), json!({ "maxLength": 63 }));
        self.rule(
            path,
            "!has(self.kubeConfigSecretRef)",
            "clusterRef.kubeConfigSecretRef is not supported: a GarageCluster is referred to inside one Kubernetes \
             cluster only; for storage elsewhere use a gateway cluster with connectTo.adminApiEndpoint, \
             adminTokenSecretRef, rpcSecretRef and bootstrapPeers",
        );
    }

    /// As [`Rules::cluster_ref`], and the target never changes.
    fn fixed_cluster_ref(&mut self, kind: &str) {
        self.cluster_ref("spec.clusterRef");
        self.rule(
            "spec.clusterRef",
            format!(
                "self.name == oldSelf.name && {}",
                same("__namespace__", None)
            ),
            &format!("clusterRef is immutable: create another {kind} for another cluster"),
        );
    }

    /// `expiration` and `neverExpires` of keys and tokens.
    fn expiry(&mut self) {
        self.bound("spec.expiration", json!({ "maxLength": 40 }));
        self.rule(
            "spec",
            "!(has(self.expiration) && has(self.neverExpires) && self.neverExpires)",
            "expiration and neverExpires are mutually exclusive",
        );
        self.rule(
            "spec.expiration",
            r"self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$')",
            "expiration must be a time as in RFC 3339, for example 2027-01-31T12:00:00Z",
        );
    }

    /// Labels and annotations that users add to what we create: none of ours.
    fn user_labels(&mut self, path: &str, reserved: &[&str]) {
        self.bound(path, json!({ "maxProperties": 64 }));
        let free = reserved
            .iter()
            .map(|prefix| format!("!key.startsWith('{prefix}')"))
            .collect::<Vec<_>>();
        let name = path.strip_prefix("spec.").unwrap_or(path);
        let listed = reserved
            .iter()
            .map(|prefix| format!("{prefix}*"))
            .collect::<Vec<_>>();
        self.rule(
            path,
            format!("self.all(key, {})", free.join(" && ")),
            &format!(
                "{name} may not have keys of the operator: {}",
                listed.join(", ")
            ),
        );
    }

    /// Tags of roles: none of those by which we recognise our own.
    fn tags(&mut self, path: &str) {
        self.bound(path, json!({ "maxItems": 32 }));
        self.bound(
            &format!("{path}[]"),
            json!({ "minLength": 1, "maxLength": 128 }),
        );
        let name = path.strip_prefix("spec.").unwrap_or(path);
        self.rule(
            &format!("{path}[]"),
            "!self.startsWith('cluster:') && !self.startsWith('tier:') && !self.startsWith('cluster-uid:')",
            &format!("{name} may not start with cluster:, tier: or cluster-uid:, by which the operator recognises its own roles"),
        );
    }

    /// Name of a key in a Secret.
    fn secret_key(&mut self, path: &str) {
        self.bound(
            path,
            json!({ "minLength": 1, "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$" }),
        );
    }
}

/// CEL: whether an optional field at `path` (with dots) of `root` is there.
fn present(root: &str, path: &str) -> String {
    let mut so_far = root.to_owned();
    let mut tests = Vec::new();
    for part in path.split('.') {
        so_far = format!("{so_far}.{part}");
        tests.push(format!("has({so_far})"));
    }
    format!("({})", tests.join(" && "))
}

/// CEL: the value of an optional number or boolean, or a default. Not for strings: the apiserver takes the result of
/// a condition for one without bounds, and comparing such strings for too costly.
fn or(root: &str, path: &str, default: &str) -> String {
    format!("({} ? {root}.{path} : {default})", present(root, path))
}

/// CEL: whether a string did not change, where absent means `default` (or nothing but itself). A field that is a
/// keyword of CEL is written `__namespace__`.
fn same(path: &str, default: Option<&str>) -> String {
    let (new, old) = (present("self", path), present("oldSelf", path));
    match default {
        None => format!("{new} == {old} && (!{new} || self.{path} == oldSelf.{path})"),
        Some(default) => format!(
            "({new} ? ({old} ? self.{path} == oldSelf.{path} : self.{path} == {default}) : (!{old} || oldSelf.{path} == {default}))"
        ),
    }
}

/// CEL: whether a quantity is above 0.
fn positive(of: &str) -> String {
    format!("{}.compareTo(quantity('0')) > 0", quantity(of))
}

/// CEL: an int-or-string quantity as a quantity.
fn quantity(of: &str) -> String {
    format!("quantity(string({of}))")
}
