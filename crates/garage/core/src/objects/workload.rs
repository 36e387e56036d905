//! One workload as a value: everything that its objects say, taken from a GarageCluster or a GarageNode. Refuses
//! what Kubernetes would refuse.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, PodSecurityContext, ResourceRequirements,
    SecurityContext, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::names;
use super::secrets::SecretKeyRef;
use super::volumes::{self, Claim};
use crate::api::{
    API_VERSION, APP, COMPONENT_GATEWAY, COMPONENT_STORAGE, GarageCluster, GarageNode,
    LABEL_COMPONENT, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME, LayoutPolicy, MANAGER,
    NodeVolume, PREFIX, PublicEndpoint, PvcRetentionPolicy, RESERVED_ENV, RESERVED_LABEL_PREFIXES,
    ServiceSpec, ServiceType, StringMap,
};
use crate::cluster::Problem;
use crate::config::{DATA_DIR, METADATA_DIR, Settings};

/// What the pods of a workload do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// They store.
    Storage,
    /// They give access.
    Gateway,
}

impl Tier {
    /// The value of the component label and of the `tier:` tag.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Storage => COMPONENT_STORAGE,
            Tier::Gateway => COMPONENT_GATEWAY,
        }
    }
}

/// Whose objects they are: what all of them have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Owner {
    /// Name of the GarageCluster, which is the instance label, for GarageNodes too.
    pub cluster: String,
    /// Namespace of the objects.
    pub namespace: String,
    /// Storage or gateway.
    pub tier: Tier,
    /// The object that owns them.
    pub reference: OwnerReference,
    /// Set for GarageNodes: the node's name.
    pub node: Option<String>,
}

impl Owner {
    /// A GarageCluster as owner.
    pub fn of(cluster: &GarageCluster) -> Owner {
        let name = cluster.metadata.name.clone().unwrap_or_default();
        Owner {
            namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
            tier: if cluster.spec.gateway {
                Tier::Gateway
            } else {
                Tier::Storage
            },
            reference: reference("GarageCluster", &cluster.metadata),
            cluster: name,
            node: None,
        }
    }

    /// A GarageNode as owner.
    pub fn of_node(node: &GarageNode) -> Owner {
        Owner {
            cluster: node.spec.cluster_ref.name.clone(),
            namespace: node.metadata.namespace.clone().unwrap_or_default(),
            tier: if node.spec.gateway {
                Tier::Gateway
            } else {
                Tier::Storage
            },
            reference: reference("GarageNode", &node.metadata),
            node: node.metadata.name.clone(),
        }
    }

    /// The fixed labels that select the pods. User labels never are among them.
    pub fn selector(&self) -> BTreeMap<String, String> {
        let mut labels = self.tier_selector();
        labels.extend(
            self.node
                .iter()
                .map(|node| (names::LABEL_NODE.to_owned(), node.clone())),
        );
        labels
    }

    /// The labels of all pods of the tier, those of GarageNodes included.
    pub fn tier_selector(&self) -> BTreeMap<String, String> {
        [
            (LABEL_NAME, APP),
            (LABEL_INSTANCE, &self.cluster),
            (LABEL_COMPONENT, self.tier.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// The labels of all objects.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned());
        labels
    }

    pub(super) fn meta(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels()),
            owner_references: Some(vec![self.reference.clone()]),
            ..ObjectMeta::default()
        }
    }

    pub(super) fn label_selector(labels: BTreeMap<String, String>) -> LabelSelector {
        LabelSelector {
            match_labels: Some(labels),
            match_expressions: None,
        }
    }
}

fn reference(kind: &str, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: kind.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What the spec does not say: found, generated or decided elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The cluster's configuration.
    pub settings: Settings,
    /// Image of a cluster that names none.
    pub image: String,
    /// The RPC secret, in the workload's namespace.
    pub rpc_secret: SecretKeyRef,
    /// The admin token of the workload's own nodes.
    pub admin_secret: SecretKeyRef,
    /// Secret with one key per slot.
    pub node_keys_secret: String,
    /// Changes with the contents of the Secrets; see [`super::secrets::hash`].
    pub secrets_hash: String,
    /// Changes with the RPC secret alone.
    pub rpc_secret_hash: String,
    /// Pods that there are to be now.
    pub replicas: u32,
}

/// Pod-level wishes of a user.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodOptions {
    /// Labels of the template, none of them reserved.
    pub labels: StringMap,
    /// Annotations of the template, none of them reserved.
    pub annotations: StringMap,
    /// Node labels.
    pub node_selector: StringMap,
    /// Affinity; absent: apart from each other where possible.
    pub affinity: Option<Affinity>,
    /// Tolerated taints.
    pub tolerations: Vec<Toleration>,
    /// Spread; a constraint without a selector is about these pods.
    pub spread: Vec<TopologySpreadConstraint>,
    /// Priority class.
    pub priority_class: Option<String>,
    /// Service account, whose token is not mounted.
    pub service_account: Option<String>,
    /// Pull policy.
    pub pull_policy: String,
    /// Pull secrets.
    pub pull_secrets: Vec<LocalObjectReference>,
    /// Replaces our pod security context.
    pub security: Option<PodSecurityContext>,
    /// Replaces our container security context.
    pub container_security: Option<SecurityContext>,
    /// Resources of the container.
    pub resources: Option<ResourceRequirements>,
    /// `RUST_LOG`.
    pub log: Option<String>,
    /// Further environment, nothing reserved.
    pub env: Vec<EnvVar>,
}

/// How many pods may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Budget {
    /// At most so many are away.
    MaxUnavailable(IntOrString),
    /// At least so many stay.
    MinAvailable(IntOrString),
}

/// One workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Whose it is.
    pub owner: Owner,
    /// Name of the StatefulSet or Deployment.
    pub name: String,
    /// What the spec does not say.
    pub resolved: Resolved,
    /// Image of the container.
    pub image: String,
    /// ConfigMap with the configuration.
    pub config_map: String,
    /// Pods are GarageNodes'.
    pub manual_layout: bool,
    /// Volumes of each storage pod.
    pub claims: Vec<Claim>,
    /// Volumes that exist already, by the name of the volume.
    pub existing_claims: BTreeMap<String, String>,
    /// What becomes of claims.
    pub retention: PvcRetentionPolicy,
    /// The pods.
    pub pod: PodOptions,
    /// The Service for users.
    pub service: ServiceSpec,
    /// Token of `/metrics`.
    pub metrics_secret: Option<SecretKeyRef>,
    /// Disruption budget.
    pub budget: Option<Budget>,
    /// How other clusters reach the nodes.
    pub public_endpoint: Option<PublicEndpoint>,
}

impl Workload {
    /// The workload of a GarageCluster, or everything that is wrong with its fields.
    pub fn from_cluster(
        cluster: &GarageCluster,
        resolved: &Resolved,
    ) -> Result<Workload, Vec<Problem>> {
        let spec = &cluster.spec;
        let owner = Owner::of(cluster);
        let mut problems = Vec::new();
        reserved(&mut problems, &spec.pod_labels, &spec.pod_annotations);
        for env in spec
            .env
            .iter()
            .filter(|env| RESERVED_ENV.contains(&env.name.as_str()))
        {
            problems.push(problem(
                "spec.env",
                format!("{} is set by the operator; leave it out", env.name),
            ));
        }
        let claims = match owner.tier {
            Tier::Gateway => Vec::new(),
            Tier::Storage => volumes::claims(spec).unwrap_or_else(|found| {
                problems.extend(found);
                Vec::new()
            }),
        };
        let service = service(cluster, &mut problems);
        let budget = budget(cluster, &mut problems);
        let public_endpoint = public_endpoint(cluster, &mut problems);
        if spec.workers.is_some() {
            let message =
                "is not set by the operator yet; leave it out and use `garage worker set`";
            problems.push(problem("spec.workers", message));
        }
        for (on, field) in [
            (
                spec.logging.as_ref().is_some_and(|log| log.syslog),
                "spec.logging.syslog",
            ),
            (
                spec.logging.as_ref().is_some_and(|log| log.journald),
                "spec.logging.journald",
            ),
        ] {
            if on {
                problems.push(problem(
                    field,
                    "the container has no such daemon; Kubernetes collects what Garage prints",
                ));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Workload {
            name: owner.cluster.clone(),
            config_map: names::config(&owner.cluster),
            image: spec.image.clone().unwrap_or_else(|| resolved.image.clone()),
            resolved: resolved.clone(),
            manual_layout: spec.layout_policy == LayoutPolicy::Manual,
            claims,
            existing_claims: BTreeMap::new(),
            retention: spec
                .storage
                .as_ref()
                .and_then(|s| s.pvc_retention_policy)
                .unwrap_or_default(),
            pod: pod_options(cluster),
            service,
            metrics_secret: SecretKeyRef::given(
                spec.admin
                    .as_ref()
                    .and_then(|a| a.metrics_token_secret_ref.as_ref()),
            ),
            budget,
            public_endpoint,
            owner,
        })
    }

    /// The workload of a GarageNode in the layout of `cluster`; what the node does not say is the cluster's.
    ///
    /// The node reads the cluster's ConfigMap and the Secrets of `resolved`, so it has to be in the cluster's
    /// namespace; its one key is slot 0 of `resolved.node_keys_secret`.
    pub fn from_node(
        node: &GarageNode,
        cluster: &GarageCluster,
        resolved: &Resolved,
    ) -> Result<Workload, Vec<Problem>> {
        let spec = &node.spec;
        let owner = Owner::of_node(node);
        let mut problems = Vec::new();
        reserved(&mut problems, &spec.pod_labels, &spec.pod_annotations);
        if cluster.metadata.namespace.as_ref() != Some(&owner.namespace) {
            let message =
                "a node with a pod must be in the namespace of its cluster, whose Secrets it reads";
            problems.push(problem("spec.clusterRef.namespace", message));
        }
        if spec.external.is_some() || spec.pod_selector.is_some() {
            problems.push(problem(
                "spec",
                "a node that exists already gets no pod from the operator",
            ));
        }
        let base = Workload::from_cluster(cluster, resolved);
        let (claims, existing_claims) = match owner.tier {
            Tier::Gateway => (Vec::new(), BTreeMap::new()),
            Tier::Storage => node_volumes(node, cluster, &mut problems),
        };
        let mut workload = match base {
            Ok(workload) if problems.is_empty() => workload,
            Ok(_) => return Err(problems),
            Err(found) => {
                problems.extend(found);
                return Err(problems);
            }
        };
        let pod = &mut workload.pod;
        pod.labels.extend(spec.pod_labels.clone());
        pod.annotations.extend(spec.pod_annotations.clone());
        if !spec.node_selector.is_empty() {
            pod.node_selector.clone_from(&spec.node_selector);
        }
        if spec.affinity.is_some() {
            pod.affinity.clone_from(&spec.affinity);
        }
        if !spec.tolerations.is_empty() {
            pod.tolerations.clone_from(&spec.tolerations);
        }
        if spec.priority_class_name.is_some() {
            pod.priority_class.clone_from(&spec.priority_class_name);
        }
        if spec.resources.is_some() {
            pod.resources.clone_from(&spec.resources);
        }
        if let Some(image) = &spec.image {
            workload.image.clone_from(image);
        }
        workload.name = names::node_workload(owner.node.as_deref().unwrap_or_default());
        workload.resolved.replicas = resolved.replicas.min(1);
        workload.claims = claims;
        workload.existing_claims = existing_claims;
        workload.owner = owner;
        Ok(workload)
    }
}

fn problem(field: &str, message: impl Into<String>) -> Problem {
    Problem {
        field: field.to_owned(),
        message: message.into(),
    }
}

fn reserved(problems: &mut Vec<Problem>, labels: &StringMap, annotations: &StringMap) {
    // Labels that controllers of Kubernetes itself set on pods of a set.
    const OF_SETS: [&str; 5] = [
        names::LABEL_POD_INDEX,
        "statefulset.kubernetes.io/pod-name",
        "controller-revision-hash",
        "pod-template-hash",
        "app.kubernetes.io/name",
    ];
    for key in labels.keys() {
        let prefix = RESERVED_LABEL_PREFIXES
            .iter()
            .any(|prefix| key.starts_with(prefix));
        if prefix || OF_SETS.contains(&key.as_str()) {
            problems.push(problem(
                "spec.podLabels",
                format!("the label {key} is reserved; choose another key"),
            ));
        }
    }
    for key in annotations.keys().filter(|key| key.starts_with(PREFIX)) {
        problems.push(problem(
            "spec.podAnnotations",
            format!("the annotation {key} is reserved; choose another key"),
        ));
    }
}

fn pod_options(cluster: &GarageCluster) -> PodOptions {
    let spec = &cluster.spec;
    PodOptions {
        labels: spec.pod_labels.clone(),
        annotations: spec.pod_annotations.clone(),
        node_selector: spec.node_selector.clone(),
        affinity: spec.affinity.clone(),
        tolerations: spec.tolerations.clone(),
        spread: spec.topology_spread_constraints.clone(),
        priority_class: spec.priority_class_name.clone(),
        service_account: spec.service_account_name.clone(),
        pull_policy: spec.image_pull_policy.clone(),
        pull_secrets: spec.image_pull_secrets.clone(),
        security: spec.security_context.clone(),
        container_security: spec.container_security_context.clone(),
        resources: spec.resources.clone(),
        log: spec
            .logging
            .as_ref()
            .and_then(|logging| logging.level.as_deref())
            .and_then(log_filter),
        env: spec.env.clone(),
    }
}

/// A bare level is about Garage and its network layer, as Garage's own default is; anything else is a filter.
fn log_filter(level: &str) -> Option<String> {
    match level.trim() {
        "" => None,
        bare @ ("error" | "warn" | "info" | "debug" | "trace" | "off") => {
            Some(format!("netapp={bare},garage={bare}"))
        }
        filter => Some(filter.to_owned()),
    }
}

fn service(cluster: &GarageCluster, problems: &mut Vec<Problem>) -> ServiceSpec {
    let spec = &cluster.spec;
    let mut service = spec
        .network
        .as_ref()
        .and_then(|network| network.service.clone())
        .unwrap_or_default();
    let field = |name: &str| format!("spec.network.service.{name}");
    match service.external_traffic_policy.as_deref() {
        None => {}
        Some("Cluster" | "Local") if service.type_ != ServiceType::ClusterIp => {}
        Some("Cluster" | "Local") => {
            problems.push(problem(
                &field("externalTrafficPolicy"),
                "needs the type NodePort or LoadBalancer",
            ));
        }
        Some(other) => {
            let message = format!("\"{other}\" is neither Cluster nor Local");
            problems.push(problem(&field("externalTrafficPolicy"), message));
        }
    }
    if service.type_ != ServiceType::LoadBalancer {
        if service.load_balancer_ip.is_some() {
            problems.push(problem(
                &field("loadBalancerIP"),
                "needs the type LoadBalancer",
            ));
        }
        if !service.load_balancer_source_ranges.is_empty() {
            problems.push(problem(
                &field("loadBalancerSourceRanges"),
                "needs the type LoadBalancer",
            ));
        }
    }
    for (key, value) in &spec.service_annotations {
        service
            .annotations
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    service
}

fn budget(cluster: &GarageCluster, problems: &mut Vec<Problem>) -> Option<Budget> {
    let spec = cluster
        .spec
        .pod_disruption_budget
        .clone()
        .unwrap_or_default();
    if !spec.enabled {
        return None;
    }
    let mut read = |name: &str, text: &str| {
        let number = text
            .parse::<i32>()
            .ok()
            .filter(|number| *number >= 0)
            .map(IntOrString::Int);
        let percent = text
            .strip_suffix('%')
            .and_then(|n| n.parse::<u8>().ok())
            .filter(|n| *n <= 100);
        let value = number.or_else(|| percent.map(|_| IntOrString::String(text.to_owned())));
        if value.is_none() {
            let message = format!("\"{text}\" is neither a number nor a percentage such as 25%");
            problems.push(problem(
                &format!("spec.podDisruptionBudget.{name}"),
                message,
            ));
        }
        value
    };
    match (
        spec.min_available.as_deref(),
        spec.max_unavailable.as_deref(),
    ) {
        (None, None) => Some(Budget::MaxUnavailable(IntOrString::Int(1))),
        (None, Some(text)) => read("maxUnavailable", text).map(Budget::MaxUnavailable),
        (Some(text), None) => read("minAvailable", text).map(Budget::MinAvailable),
        (Some(_), Some(_)) => {
            let message = "give either minAvailable or maxUnavailable; Kubernetes refuses both";
            problems.push(problem("spec.podDisruptionBudget", message));
            None
        }
    }
}

fn public_endpoint(cluster: &GarageCluster, problems: &mut Vec<Problem>) -> Option<PublicEndpoint> {
    let endpoint = cluster.spec.public_endpoint.clone()?;
    let per_node = endpoint
        .load_balancer
        .as_ref()
        .is_some_and(|balancer| balancer.per_node);
    let balanced = endpoint.type_ == crate::api::PublicEndpointType::LoadBalancer;
    if balanced && !per_node && cluster.spec.replicas > 1 {
        // A peer is dialled by its node id; behind a shared address most attempts would meet another node.
        let message = "must be true with more than one replica: each node has an identity, so each needs an address";
        problems.push(problem("spec.publicEndpoint.loadBalancer.perNode", message));
    }
    Some(endpoint)
}

fn node_volumes(
    node: &GarageNode,
    cluster: &GarageCluster,
    problems: &mut Vec<Problem>,
) -> (Vec<Claim>, BTreeMap<String, String>) {
    let storage = node.spec.storage.clone().unwrap_or_default();
    let mut claims = Vec::new();
    let mut existing = BTreeMap::new();
    let inherited = volumes::claims(&cluster.spec).unwrap_or_default();
    let several = inherited
        .iter()
        .filter(|claim| claim.capacity.is_some())
        .count()
        > 1;
    let empty = NodeVolume::default();
    for (name, path, volume) in [
        ("metadata", METADATA_DIR, storage.metadata.as_ref()),
        ("data", DATA_DIR, storage.data.as_ref()),
    ] {
        let field = format!("spec.storage.{name}");
        if several && name == "data" {
            if volume.is_some() {
                problems.push(problem(&field, "the cluster has several data folders, and so have its nodes; leave the field out"));
            }
            claims.extend(
                inherited
                    .iter()
                    .filter(|claim| claim.name != "metadata")
                    .cloned(),
            );
            continue;
        }
        let volume = volume.unwrap_or(&empty);
        if let Some(claim) = volume
            .existing_claim
            .as_ref()
            .filter(|claim| !claim.is_empty())
        {
            existing.insert(name.to_owned(), claim.clone());
            continue;
        }
        let of_cluster = inherited.iter().find(|claim| claim.name == name);
        let capacity = node.spec.capacity.as_ref().filter(|_| name == "data");
        match volumes::node_claim(&field, name, path, volume, of_cluster, capacity) {
            Ok(claim) => claims.push(claim),
            Err(found) => problems.push(found),
        }
    }
    (claims, existing)
}
