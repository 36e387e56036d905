//! Which Ingresses are taken, and which belong to another controller too. May not change a class.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

/// `spec.controller` of an IngressClass that is ours.
pub const CONTROLLER_NAME: &str = "gatewright.dev/ingress";

/// The class name that is ours even where no IngressClass object of that name exists.
pub const CLASS_NAME: &str = "gatewright";

const LEGACY_CLASS: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Whose class an Ingress carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Ours,
    Elsewhere,
    /// No class at all, or one that no IngressClass describes.
    Nobody,
}

/// The IngressClasses, with the default one found once.
pub(crate) struct Classes<'a> {
    by_name: &'a BTreeMap<String, Arc<IngressClass>>,
    default: Option<&'a str>,
}

impl<'a> Classes<'a> {
    pub(crate) fn new(by_name: &'a BTreeMap<String, Arc<IngressClass>>) -> Self {
        // Of several defaults the apiserver's admission takes the newest, then the first by name.
        let default = by_name
            .iter()
            .filter(|(_, class)| is_default(class))
            .max_by(|(a_name, a), (b_name, b)| {
                let age = a
                    .metadata
                    .creation_timestamp
                    .cmp(&b.metadata.creation_timestamp);
                age.then_with(|| b_name.cmp(a_name))
            })
            .map(|(name, _)| name.as_str());
        Self { by_name, default }
    }

    /// The class in force: the legacy annotation (Kubernetes gives it precedence), else `spec.ingressClassName`, else
    /// the default class.
    pub(crate) fn effective(&self, ingress: &'a Ingress) -> Option<&'a str> {
        legacy(ingress).or_else(|| named(ingress)).or(self.default)
    }

    pub(crate) fn owner(&self, ingress: &'a Ingress) -> Owner {
        let Some(name) = self.effective(ingress) else {
            return Owner::Nobody;
        };
        match self.by_name.get(name) {
            Some(class) if controller(class) == Some(CONTROLLER_NAME) => Owner::Ours,
            Some(_) => Owner::Elsewhere,
            None if name == CLASS_NAME => Owner::Ours,
            // The annotation predates IngressClass objects: whoever listens to it needs none.
            None if legacy(ingress).is_some() => Owner::Elsewhere,
            None => Owner::Nobody,
        }
    }

    /// With no list every Ingress is taken; a list takes those it names (`""`: those without a class) and our own.
    pub(crate) fn takes(&self, ingress: &'a Ingress, listed: Option<&[String]>) -> bool {
        let Some(listed) = listed else { return true };
        let class = self.effective(ingress).unwrap_or_default();
        listed.iter().any(|name| name == class) || self.owner(ingress) == Owner::Ours
    }
}

fn legacy(ingress: &Ingress) -> Option<&str> {
    let class = ingress.metadata.annotations.as_ref()?.get(LEGACY_CLASS)?;
    Some(class.as_str()).filter(|class| !class.is_empty())
}

fn named(ingress: &Ingress) -> Option<&str> {
    let class = ingress.spec.as_ref()?.ingress_class_name.as_deref()?;
    Some(class).filter(|class| !class.is_empty())
}

fn controller(class: &IngressClass) -> Option<&str> {
    class.spec.as_ref()?.controller.as_deref()
}

fn is_default(class: &IngressClass) -> bool {
    class
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(DEFAULT_CLASS))
        .is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn classes() -> BTreeMap<String, Arc<IngressClass>> {
        [
            ("gatewright", CONTROLLER_NAME, "2026-01-01T00:00:00Z", false),
            ("tunnel", CONTROLLER_NAME, "2026-01-01T00:00:00Z", false),
            (
                "nginx",
                "k8s.io/ingress-nginx",
                "2026-01-01T00:00:00Z",
                true,
            ),
        ]
        .map(|(name, controller, created, default)| {
            (name.to_owned(), class(name, controller, created, default))
        })
        .into()
    }

    fn class(name: &str, controller: &str, created: &str, default: bool) -> Arc<IngressClass> {
        let annotations = json!({ DEFAULT_CLASS: default.to_string() });
        let metadata =
            json!({ "name": name, "creationTimestamp": created, "annotations": annotations });
        let class = json!({ "metadata": metadata, "spec": { "controller": controller },
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass" });
        Arc::new(serde_json::from_value(class).unwrap())
    }

    fn ingress(spec: Option<&str>, legacy: Option<&str>) -> Ingress {
        let annotations = legacy.map_or(Value::Null, |class| json!({ LEGACY_CLASS: class }));
        let spec = json!({ "ingressClassName": spec });
        let metadata = json!({ "name": "app", "annotations": annotations });
        let value = json!({ "metadata": metadata, "spec": spec, "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress" });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_class_in_force_and_its_owner() {
        let with_default = classes();
        let mut without_default = classes();
        without_default.remove("nginx");
        //   classes            spec               annotation          in force             owner
        for (classes, spec, legacy, class, owner) in [
            (
                &with_default,
                Some("gatewright"),
                None,
                Some("gatewright"),
                Owner::Ours,
            ),
            (
                &with_default,
                Some("tunnel"),
                None,
                Some("tunnel"),
                Owner::Ours,
            ),
            (
                &with_default,
                Some("nginx"),
                None,
                Some("nginx"),
                Owner::Elsewhere,
            ),
            (
                &with_default,
                Some("traefik"),
                None,
                Some("traefik"),
                Owner::Nobody,
            ),
            (&with_default, None, None, Some("nginx"), Owner::Elsewhere),
            (
                &with_default,
                Some(""),
                Some(""),
                Some("nginx"),
                Owner::Elsewhere,
            ),
            (
                &with_default,
                None,
                Some("gatewright"),
                Some("gatewright"),
                Owner::Ours,
            ),
            (
                &with_default,
                None,
                Some("traefik"),
                Some("traefik"),
                Owner::Elsewhere,
            ),
            (
                &with_default,
                Some("gatewright"),
                Some("traefik"),
                Some("traefik"),
                Owner::Elsewhere,
            ),
            (
                &with_default,
                Some("nginx"),
                Some("gatewright"),
                Some("gatewright"),
                Owner::Ours,
            ),
            (&without_default, None, None, None, Owner::Nobody),
            (
                &without_default,
                Some("nginx"),
                None,
                Some("nginx"),
                Owner::Nobody,
            ),
            (
                &BTreeMap::new(),
                Some("gatewright"),
                None,
                Some("gatewright"),
                Owner::Ours,
            ),
        ] {
            let (classes, ingress) = (Classes::new(classes), ingress(spec, legacy));
            let given = format!("given spec {spec:?}, annotation {legacy:?}");
            assert_eq!(classes.effective(&ingress), class, "{given}");
            assert_eq!(classes.owner(&ingress), owner, "{given}");
        }
    }

    #[test]
    fn every_ingress_is_taken_and_a_list_narrows() {
        let mut all = classes();
        all.remove("nginx");
        let classes = Classes::new(&all);
        let list = |names: &[&str]| {
            Some(
                names
                    .iter()
                    .map(|&name| name.to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        //   list               class                taken
        for (listed, class, taken) in [
            (None, Some("nginx"), true),
            (None, None, true),
            (list(&[]), Some("nginx"), false),
            (list(&[]), None, false),
            (list(&[]), Some("gatewright"), true),
            (list(&["nginx"]), Some("nginx"), true),
            (list(&["nginx"]), Some("tunnel"), true),
            (list(&["nginx"]), Some("traefik"), false),
            (list(&["nginx"]), None, false),
            (list(&["nginx", ""]), None, true),
        ] {
            let given = format!("given list {listed:?}, class {class:?}");
            assert_eq!(
                classes.takes(&ingress(class, None), listed.as_deref()),
                taken,
                "{given}"
            );
        }
    }

    #[test]
    fn of_two_default_classes_the_newest_counts_then_the_first_name() {
        let (old, new) = ("2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
        for (a, b, default) in [(old, new, "b"), (new, old, "a"), (new, new, "a")] {
            let both = [("a", a), ("b", b)]
                .map(|(name, at)| (name.to_owned(), class(name, "x", at, true)));
            assert_eq!(
                Classes::new(&both.into()).default,
                Some(default),
                "given a at {a}, b at {b}"
            );
        }
    }
}
