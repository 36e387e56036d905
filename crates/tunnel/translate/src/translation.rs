//! Puts the Ingresses together: who is taken, who wins a path, which route leads where. May not change an object.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use gatewright_names::HostPattern;
use gatewright_routes::{PathType, Route, RouteId};
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};
use serde::Serialize;

use crate::backend::{Backend, Services};
use crate::class::{Classes, Owner};
use crate::objects::{Key, Objects};
use crate::refusal::{Fault, Refusal, RefusalReason};
use crate::rules::{Wish, annotations};

/// What may differ between agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Classes whose Ingresses are taken; `None`: every Ingress, whatever its class. `""` in the list stands for
    /// Ingresses without a class. Ingresses of a class whose controller is [`crate::CONTROLLER_NAME`] are always taken.
    pub classes: Option<Vec<String>>,
}

/// The outcome for all objects at once. Each route has a backend under the same id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translation {
    /// What is offered to the edge.
    pub routes: BTreeMap<RouteId, Route>,
    /// Where each route leads. The agent sends requests nowhere else.
    pub backends: BTreeMap<RouteId, Backend>,
    /// One verdict per Ingress.
    pub ingresses: BTreeMap<Key, IngressVerdict>,
    /// Rules that are not served, by Ingress.
    pub refusals: Vec<Refusal>,
}

/// What became of one Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IngressVerdict {
    /// The class in force, if any.
    pub class: Option<String>,
    /// Its class lets it in.
    pub taken: bool,
    /// Its class belongs to another controller, which also writes its status: do not write there.
    pub owned_elsewhere: bool,
    /// Its routes, in the order of its rules, then those of the default backend.
    pub routes: Vec<RouteId>,
}

/// Translates everything the agent watches. The same objects give the same translation, whatever order they came in.
///
/// One path of a host belongs to one Ingress: the oldest by creation time, then by `namespace/name`. Objects without a
/// creation time (manifests) count as youngest. The owner keeps the path while its Service is missing, so that traffic
/// does not change hands because a Service comes late. A default backend yields to any rule for the same host.
pub fn translate(objects: &Objects, options: &Options) -> Translation {
    let classes = Classes::new(&objects.classes);
    let mut work = Work {
        services: Services::new(objects),
        claims: BTreeMap::new(),
        out: Translation::default(),
    };
    let mut taken = Vec::new();
    for (key, ingress) in &objects.ingresses {
        let verdict = IngressVerdict {
            class: classes.effective(ingress).map(str::to_owned),
            taken: classes.takes(ingress, options.classes.as_deref()),
            owned_elsewhere: classes.owner(ingress) == Owner::Elsewhere,
            routes: Vec::new(),
        };
        if verdict.taken {
            taken.push(Taken::new(key, ingress));
        }
        work.out.ingresses.insert(key.clone(), verdict);
    }
    taken.sort_by_key(|one| (one.created, one.key));
    for one in &mut taken {
        for fault in std::mem::take(&mut one.faults) {
            work.refuse(one, fault);
        }
    }
    for one in &taken {
        for rule in &one.wish.rules {
            let path = Path {
                host: &rule.host,
                text: &rule.path,
                path_type: rule.path_type,
            };
            work.offer(one, &rule.at, path, rule.backend, Standing::Rule);
        }
    }
    for one in &taken {
        let Some(backend) = one.wish.default else {
            continue;
        };
        for host in &one.wish.default_hosts {
            let path = Path {
                host,
                text: "/",
                path_type: PathType::ImplementationSpecific,
            };
            work.offer(one, "spec.defaultBackend", path, backend, Standing::Default);
        }
    }
    // Stable: the faults of one Ingress keep the order in which they were met.
    work.out.refusals.sort_by(|a, b| a.object.cmp(&b.object));
    work.out
}

/// An Ingress whose class lets it in, read.
struct Taken<'a> {
    key: &'a Key,
    ingress: &'a Ingress,
    /// Unix seconds; `i64::MAX` where there is none (manifests).
    created: i64,
    source: String,
    annotations: BTreeMap<String, String>,
    wish: Wish<'a>,
    faults: Vec<Fault>,
}

impl<'a> Taken<'a> {
    fn new(key: &'a Key, ingress: &'a Ingress) -> Self {
        let mut faults = Vec::new();
        let wish = Wish::read(ingress.spec.as_ref(), &mut faults);
        Self {
            key,
            ingress,
            created: ingress
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(i64::MAX, |time| time.0.as_second()),
            source: format!("Ingress/{key}"),
            annotations: annotations(ingress),
            wish,
            faults,
        }
    }
}

#[derive(Clone, Copy)]
struct Path<'a> {
    host: &'a Option<HostPattern>,
    text: &'a str,
    path_type: PathType,
}

impl Path<'_> {
    /// For messages; the cluster's own name is not known here.
    fn describe(&self) -> String {
        match self.host {
            Some(host) => format!("{host}{}", self.text),
            None => format!("{} under the cluster's own name", self.text),
        }
    }

    /// What no two routes may share. Prefix and ImplementationSpecific match alike, with or without a final slash.
    fn ground(&self) -> Ground {
        let (exact, text) = match self.path_type {
            PathType::Exact => (true, self.text),
            PathType::Prefix | PathType::ImplementationSpecific => {
                (false, self.text.trim_end_matches('/'))
            }
        };
        Ground {
            host: self.host.clone(),
            exact,
            path: text.to_owned(),
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Ground {
    host: Option<HostPattern>,
    exact: bool,
    path: String,
}

struct Claim<'a> {
    key: &'a Key,
    at: String,
    backend: &'a IngressBackend,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Rule,
    Default,
}

struct Work<'a> {
    services: Services<'a>,
    claims: BTreeMap<Ground, Claim<'a>>,
    out: Translation,
}

impl<'a> Work<'a> {
    /// Makes a route of one path, or says why not.
    fn offer(
        &mut self,
        one: &Taken<'a>,
        at: &str,
        path: Path<'_>,
        backend: &'a IngressBackend,
        standing: Standing,
    ) {
        let taken_by = match self.claims.entry(path.ground()) {
            Entry::Vacant(free) => {
                free.insert(Claim {
                    key: one.key,
                    at: at.to_owned(),
                    backend,
                });
                None
            }
            Entry::Occupied(claim) => Some(claim.into_mut()),
        };
        if let Some(winner) = taken_by {
            // The same Ingress saying the same twice, or its rule for "/" before its default backend, harms nobody.
            let same_ingress = winner.key == one.key;
            if same_ingress && (standing == Standing::Default || winner.backend == backend) {
                return;
            }
            let message = if same_ingress {
                format!(
                    "{} is already given to {} of this Ingress; remove one of the two",
                    path.describe(),
                    winner.at
                )
            } else {
                format!(
                    "{} is already given to Ingress {} ({}), which comes first; remove it from one of the two",
                    path.describe(),
                    winner.key,
                    winner.at
                )
            };
            return self.refuse(one, Fault::new(at, RefusalReason::PathConflict, message));
        }
        let backend = match self.services.resolve(&one.key.namespace, backend) {
            Ok(backend) => backend,
            Err((reason, message)) => return self.refuse(one, Fault::new(at, reason, message)),
        };
        let host = path
            .host
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let id = RouteId::of(&one.source, &host, path.text, path.path_type);
        let route = Route {
            id,
            host: path.host.clone(),
            path: path.text.to_owned(),
            path_type: path.path_type,
            service: backend.service.name.clone(),
            namespace: backend.service.namespace.clone(),
            port: backend.port,
            tls: one.wish.is_tls(path.host.as_ref()),
            annotations: one.annotations.clone(),
            protocol: backend.protocol,
            created: one.created,
            source: one.source.clone(),
        };
        self.out.routes.insert(id, route);
        self.out.backends.insert(id, backend);
        if let Some(verdict) = self.out.ingresses.get_mut(one.key) {
            verdict.routes.push(id);
        }
    }

    fn refuse(&mut self, one: &Taken<'a>, fault: Fault) {
        self.out
            .refusals
            .push(fault.of(one.key, one.ingress.metadata.uid.as_deref()));
    }
}
