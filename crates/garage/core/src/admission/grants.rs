//! Gateway API ReferenceGrants: whether a namespace lets objects of another refer to its clusters. May not read them.

use crate::api::GROUP;
use crate::cluster::ClusterKey;

/// What one ReferenceGrant says (`gateway.networking.k8s.io`, any version).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Its namespace: that of the clusters that may be referred to.
    pub namespace: String,
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// Who may refer: all objects of a kind in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantFrom {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
}

/// To what: all objects of a kind, or one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantTo {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name; all when absent.
    pub name: Option<String>,
}

impl Grant {
    /// Whether objects of `kind` (of our group) in `namespace` may refer to the GarageCluster `to`.
    pub fn allows(&self, kind: &str, namespace: &str, to: &ClusterKey) -> bool {
        self.allows_use(kind, namespace, "GarageCluster", to)
    }

    /// The same, for an object of the kind `target`.
    pub fn allows_use(&self, kind: &str, namespace: &str, target: &str, to: &ClusterKey) -> bool {
        let from = |from: &GrantFrom| {
            from.group == GROUP && from.kind == kind && from.namespace == namespace
        };
        let target = |one: &GrantTo| {
            one.group == GROUP
                && one.kind == target
                && one
                    .name
                    .as_ref()
                    .is_none_or(|name| name.is_empty() || *name == to.name)
        };
        self.namespace == to.namespace && self.from.iter().any(from) && self.to.iter().any(target)
    }
}

/// The end of a sentence: which grant is missing, and exactly what it has to say.
pub(super) fn missing(kind: &str, namespace: &str, to: &ClusterKey) -> String {
    format!(
        "which has not granted it: create a ReferenceGrant (gateway.networking.k8s.io) in namespace {:?} with from \
         [{{group: {GROUP}, kind: {kind}, namespace: {namespace}}}] and to [{{group: {GROUP}, kind: GarageCluster, name: {}}}]",
        to.namespace, to.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants() {
        let to = ClusterKey {
            namespace: "storage".into(),
            name: "main".into(),
        };
        let grant = |namespace: &str, from: [&str; 3], target: (&str, &str, Option<&str>)| Grant {
            namespace: namespace.into(),
            from: vec![GrantFrom {
                group: from[0].into(),
                kind: from[1].into(),
                namespace: from[2].into(),
            }],
            to: vec![GrantTo {
                group: target.0.into(),
                kind: target.1.into(),
                name: target.2.map(Into::into),
            }],
        };
        let from = [GROUP, "GarageBucket", "apps"];
        let all = (GROUP, "GarageCluster", None);
        for (allowed, grant) in [
            (true, grant("storage", from, all)),
            (
                true,
                grant("storage", from, (GROUP, "GarageCluster", Some("main"))),
            ),
            (
                false,
                grant("storage", from, (GROUP, "GarageCluster", Some("other"))),
            ),
            (false, grant("storage", from, (GROUP, "GarageBucket", None))),
            (false, grant("storage", from, ("", "GarageCluster", None))),
            (false, grant("apps", from, all)),
            (false, grant("storage", [GROUP, "GarageKey", "apps"], all)),
            (
                false,
                grant("storage", [GROUP, "GarageBucket", "other"], all),
            ),
            (false, grant("storage", ["", "GarageBucket", "apps"], all)),
        ] {
            assert_eq!(
                grant.allows("GarageBucket", "apps", &to),
                allowed,
                "{grant:?}"
            );
        }
    }
}
