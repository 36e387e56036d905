//! The pod of a Garage node: one container without privileges, its identity as one mounted file.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
    EnvVar, EnvVarSource, Lifecycle, LifecycleHandler, ObjectFieldSelector,
    PersistentVolumeClaimVolumeSource, PodAffinityTerm, PodAntiAffinity, PodReadinessGate,
    PodSchedulingGate, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile,
    SecretVolumeSource, SecurityContext, SleepAction, TCPSocketAction, TopologySpreadConstraint,
    Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::secrets::SecretKeyRef;
use super::services::{per_pod_config, ports};
use super::workload::{Owner, Tier, Workload};
use super::{filled, names};
use crate::api::{ANNOTATION_CONFIG_HASH, ANNOTATION_SLOT, ENV_SLOT, GATE_SLOT, GATE_SYNCED};
use crate::config::{DATA_DIR, METADATA_DIR, config_hash};

/// User and group of the process, and group of its volumes: nobody that a node knows.
const USER: i64 = 65_532;
/// Load balancers and kube-proxy hear of a leaving pod within this time; it still answers meanwhile.
const PRE_STOP_SECONDS: i64 = 3;
/// A gateway's longest goodbye.
const GATEWAY_GRACE_SECONDS: i64 = 30;
/// A storage node finishes writes and closes its database.
const STORAGE_GRACE_SECONDS: i64 = 60;
/// Copies of the key, bucket and alias tables; a million keys fit many times.
const GATEWAY_METADATA_LIMIT: &str = "2Gi";
/// A gateway stores no data; Garage wants the folder all the same.
const GATEWAY_DATA_LIMIT: &str = "1Gi";

pub(super) fn template(workload: &Workload) -> PodTemplateSpec {
    let mut labels = workload.pod.labels.clone();
    labels.extend(workload.owner.labels());
    let mut annotations = workload.pod.annotations.clone();
    annotations.insert(
        ANNOTATION_CONFIG_HASH.to_owned(),
        config_hash(&workload.resolved.settings),
    );
    annotations.insert(
        names::ANNOTATION_SECRETS_HASH.to_owned(),
        workload.resolved.secrets_hash.clone(),
    );
    annotations.insert(
        names::ANNOTATION_RPC_SECRET_HASH.to_owned(),
        workload.resolved.rpc_secret_hash.clone(),
    );
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(pod(workload)),
    }
}

fn pod(workload: &Workload) -> PodSpec {
    let options = &workload.pod;
    let (gates, readiness, grace) = match workload.owner.tier {
        Tier::Gateway if workload.owner.node.is_none() => (
            Some(vec![PodSchedulingGate {
                name: GATE_SLOT.to_owned(),
            }]),
            Some(vec![PodReadinessGate {
                condition_type: GATE_SYNCED.to_owned(),
            }]),
            GATEWAY_GRACE_SECONDS,
        ),
        Tier::Gateway => (None, None, GATEWAY_GRACE_SECONDS),
        Tier::Storage => (None, None, STORAGE_GRACE_SECONDS),
    };
    PodSpec {
        affinity: affinity(workload),
        automount_service_account_token: Some(false),
        containers: vec![container(workload)],
        // Variables such as GARAGE_PORT, which a Service called garage would bring along, are not meant for Garage.
        enable_service_links: Some(false),
        image_pull_secrets: filled(options.pull_secrets.clone()),
        node_selector: filled(options.node_selector.clone()),
        priority_class_name: options.priority_class.clone(),
        readiness_gates: readiness,
        scheduling_gates: gates,
        security_context: pod_security(options.security.as_ref()),
        service_account_name: options.service_account.clone(),
        termination_grace_period_seconds: Some(grace),
        tolerations: filled(options.tolerations.clone()),
        topology_spread_constraints: filled(spread(workload)),
        volumes: Some(volumes(workload)),
        ..PodSpec::default()
    }
}

/// Two nodes on one machine are two copies lost with it; where nothing else is said, pods keep apart if they can.
fn affinity(workload: &Workload) -> Option<Affinity> {
    let options = &workload.pod;
    if let Some(affinity) = &options.affinity {
        return (*affinity != Affinity::default()).then(|| affinity.clone());
    }
    if !options.spread.is_empty() {
        return None;
    }
    let apart = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(Owner::label_selector(workload.owner.tier_selector())),
            topology_key: "kubernetes.io/hostname".to_owned(),
            ..PodAffinityTerm::default()
        },
    };
    Some(Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![apart]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    })
}

fn spread(workload: &Workload) -> Vec<TopologySpreadConstraint> {
    let mut constraints = workload.pod.spread.clone();
    for constraint in &mut constraints {
        // Without a selector a constraint counts no pods at all.
        constraint
            .label_selector
            .get_or_insert_with(|| Owner::label_selector(workload.owner.tier_selector()));
    }
    constraints
}

/// `{}` of a user means: nothing of ours.
fn pod_security(given: Option<&PodSecurityContext>) -> Option<PodSecurityContext> {
    if let Some(given) = given {
        return (*given != PodSecurityContext::default()).then(|| given.clone());
    }
    Some(PodSecurityContext {
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        run_as_group: Some(USER),
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    })
}

fn container_security(given: Option<&SecurityContext>) -> Option<SecurityContext> {
    if let Some(given) = given {
        return (*given != SecurityContext::default()).then(|| given.clone());
    }
    Some(SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            add: None,
            drop: Some(vec!["ALL".to_owned()]),
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    })
}

fn container(workload: &Workload) -> Container {
    let options = &workload.pod;
    let port = |(name, number): (&str, u16)| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let resources = options
        .resources
        .clone()
        .filter(|resources| *resources != Default::default());
    Container {
        name: "garage".to_owned(),
        image: Some(workload.image.clone()),
        image_pull_policy: (!options.pull_policy.is_empty()).then(|| options.pull_policy.clone()),
        // The image has no shell; this is all that it can run.
        command: Some(vec!["/garage".to_owned(), "server".to_owned()]),
        env: Some(environment(workload)),
        ports: Some(
            ports(&workload.resolved.settings)
                .into_iter()
                .map(port)
                .collect(),
        ),
        resources,
        security_context: container_security(options.container_security.as_ref()),
        volume_mounts: Some(mounts(workload)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: PRE_STOP_SECONDS,
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        // Listening is all that probes ask for. Garage's `/health` speaks about the whole cluster: a lost quorum
        // would restart every pod and withdraw every endpoint.
        startup_probe: Some(probe("admin", 1, 300)),
        liveness_probe: Some(probe("admin", 10, 6)),
        readiness_probe: Some(probe("s3", 2, 3)),
        ..Container::default()
    }
}

fn probe(port: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::String(port.to_owned()),
            host: None,
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

fn environment(workload: &Workload) -> Vec<EnvVar> {
    // Nobody but a StatefulSet numbers its pods; to a gateway pod the operator gives its number before it starts.
    let slot = match (workload.owner.tier, &workload.owner.node) {
        (Tier::Storage, _) | (Tier::Gateway, Some(_)) => {
            format!("metadata.labels['{}']", names::LABEL_POD_INDEX)
        }
        (Tier::Gateway, None) => format!("metadata.annotations['{ANNOTATION_SLOT}']"),
    };
    let file = if per_pod_config(&workload.resolved.settings) && workload.owner.node.is_none() {
        format!("slot-$({ENV_SLOT}).toml")
    } else {
        names::CONFIG_KEY.to_owned()
    };
    let mut variables = vec![
        EnvVar {
            name: ENV_SLOT.to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: slot,
                    api_version: None,
                }),
                ..EnvVarSource::default()
            }),
            value: None,
        },
        plain(
            "GARAGE_CONFIG_FILE",
            format!("{}/{file}", names::CONFIG_DIR),
        ),
        secret("GARAGE_RPC_SECRET", &workload.resolved.rpc_secret),
        secret("GARAGE_ADMIN_TOKEN", &workload.resolved.admin_secret),
    ];
    variables.extend(
        workload
            .metrics_secret
            .as_ref()
            .map(|reference| secret("GARAGE_METRICS_TOKEN", reference)),
    );
    let options = &workload.pod;
    let log = options.log.iter().filter(|_| {
        options
            .env
            .iter()
            .all(|variable| variable.name != "RUST_LOG")
    });
    variables.extend(log.map(|filter| plain("RUST_LOG", filter.clone())));
    variables.extend(options.env.iter().cloned());
    variables
}

fn plain(name: &str, value: String) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    }
}

fn secret(name: &str, reference: &SecretKeyRef) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(reference.selector()),
            ..EnvVarSource::default()
        }),
        value: None,
    }
}

fn volumes(workload: &Workload) -> Vec<Volume> {
    let mut volumes = vec![
        Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: workload.config_map.clone(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "node-keys".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(workload.resolved.node_keys_secret.clone()),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    let existing = |(name, claim): (&String, &String)| Volume {
        name: name.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.clone(),
            read_only: None,
        }),
        ..Volume::default()
    };
    volumes.extend(workload.existing_claims.iter().map(existing));
    let scratch = |(name, limit): (&str, &str)| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(limit.to_owned())),
            medium: None,
        }),
        ..Volume::default()
    };
    match workload.owner.tier {
        Tier::Storage => {}
        Tier::Gateway => {
            let limits = [
                ("metadata", GATEWAY_METADATA_LIMIT),
                ("data", GATEWAY_DATA_LIMIT),
            ];
            volumes.extend(limits.map(scratch));
        }
    }
    volumes
}

fn mounts(workload: &Workload) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    let mut folders: BTreeMap<&str, &str> = match workload.owner.tier {
        Tier::Gateway => [("metadata", METADATA_DIR), ("data", DATA_DIR)].into(),
        Tier::Storage => workload
            .claims
            .iter()
            .map(|claim| (claim.name.as_str(), claim.path.as_str()))
            .collect(),
    };
    for name in workload.existing_claims.keys() {
        folders.insert(
            name,
            if name == "metadata" {
                METADATA_DIR
            } else {
                DATA_DIR
            },
        );
    }
    let mut mounts = vec![VolumeMount {
        read_only: Some(true),
        ..mount("config", names::CONFIG_DIR)
    }];
    mounts.extend(folders.into_iter().map(|(name, path)| mount(name, path)));
    // After the metadata volume, inside which they lie.
    for (file, entry) in [("node_key", ""), ("node_key.pub", ".pub")] {
        mounts.push(VolumeMount {
            read_only: Some(true),
            sub_path_expr: Some(format!("slot-$({ENV_SLOT}){entry}")),
            ..mount("node-keys", &format!("{METADATA_DIR}/{file}"))
        });
    }
    mounts
}
