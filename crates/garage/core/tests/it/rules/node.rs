//! GarageNode.

use super::Door;

const OWN: &str =
    "{ clusterRef: { name: c }, zone: z, capacity: 1Gi, storage: { data: { size: 1Gi } } }";
const POD: &str = "{ clusterRef: { name: c }, zone: z, gateway: true, podSelector: { name: p } }";
const EXTERNAL: &str = "{ clusterRef: { name: c }, zone: z, capacity: 1Gi, nodeId: HEX, external: { address: n.example.com } }";

#[tokio::test]
async fn accepted() {
    let Some(mut door) = Door::new("GarageNode").await else {
        return;
    };
    door.accepts(
        OWN,
        &[
            "{}",
            "{ capacity: null }",
            "{ storage: null }",
            "{ storage: { metadata: { existingClaim: old } } }",
            "{ tags: [rack-1], podLabels: { a: b } }",
            "{ capacity: 1024 }",
        ],
    )
    .await;
    door.accepts(
        POD,
        &["{}", "{ nodeId: HEX }", "{ gateway: false, capacity: 1Gi }"],
    )
    .await;
    door.accepts(
        EXTERNAL,
        &[
            "{}",
            "{ capacity: null, gateway: true }",
            "{ external: { port: 4000 } }",
        ],
    )
    .await;
}

#[tokio::test]
async fn refused() {
    let Some(mut door) = Door::new("GarageNode").await else {
        return;
    };
    door.rejects(
        OWN,
        &[
            (
                "{ gateway: true, storage: null }",
                "capacity cannot be specified when gateway is true",
            ),
            (
                "{ gateway: true, capacity: null }",
                "storage cannot be specified when gateway is true",
            ),
            ("{ capacity: 1 }", "capacity must be at least 1Ki"),
            ("{ nodeId: abc }", "spec.nodeId"),
            ("{ zone: '' }", "spec.zone"),
            ("{ tags: ['tier:storage'] }", "tags may not start with"),
            (
                "{ podLabels: { app.kubernetes.io/name: x } }",
                "podLabels may not have keys of the operator",
            ),
            (
                "{ podAnnotations: { garage.rajsingh.info/x: z } }",
                "podAnnotations may not have keys of the operator",
            ),
            (
                "{ clusterRef: { kubeConfigSecretRef: { name: a, key: b } } }",
                "clusterRef.kubeConfigSecretRef is not supported",
            ),
            (
                "{ clusterRef: { kubeConfigSecretRef: { key: b } } }",
                "a reference to a Secret needs name and key",
            ),
            (
                "{ clusterRef: { kubeConfigSecretRef: { name: a, key: b, optional: true } } }",
                "optional must be false",
            ),
            (
                "{ storage: { data: { existingClaim: c } } }",
                "storage.data.existingClaim and storage.data.size are mutually exclusive",
            ),
            (
                "{ storage: { metadata: { existingClaim: c, size: 1Gi } } }",
                "storage.metadata.existingClaim and storage.metadata.size are mutually exclusive",
            ),
            (
                "{ storage: { data: { size: null, existingClaim: c, storageClassName: f } } }",
                "storage.data.storageClassName is for new claims",
            ),
            (
                "{ storage: { metadata: { existingClaim: c, storageClassName: f } } }",
                "storage.metadata.storageClassName is for new claims",
            ),
        ],
    )
    .await;
    door.rejects(
        POD,
        &[
            ("{ gateway: false }", "capacity is required for a node with external or podSelector unless gateway is true"),
            ("{ nodeId: HEX, external: { address: a } }", "external and podSelector are mutually exclusive"),
            ("{ image: x }", "are for pods that the operator creates"),
            ("{ podSelector: { name: '' } }", "spec.podSelector.name"),
        ],
    )
    .await;
    door.rejects(
        EXTERNAL,
        &[
            (
                "{ nodeId: null }",
                "nodeId is required when external is specified",
            ),
            (
                "{ external: { remoteClusterRef: { name: x } } }",
                "external.remoteClusterRef is not supported",
            ),
            ("{ external: { port: 0 } }", "spec.external.port"),
        ],
    )
    .await;
    door.updates(
        OWN,
        &[
            (
                "{}",
                "{ clusterRef: { name: d } }",
                "clusterRef is immutable: create another GarageNode",
            ),
            (
                "{}",
                "{ podSelector: { name: p }, storage: null }",
                "external and podSelector cannot be added or removed",
            ),
            (
                "{}",
                "{ storage: { data: { size: 1Mi } } }",
                "storage.data.size can only grow",
            ),
            (
                "{ storage: { metadata: { size: 1Gi } } }",
                "{ storage: { metadata: { size: 1Mi } } }",
                "storage.metadata.size can only grow",
            ),
            (
                "{}",
                "{ storage: { data: { storageClassName: f } } }",
                "storage.data.storageClassName is immutable",
            ),
            (
                "{}",
                "{ storage: { data: { size: null, existingClaim: f } } }",
                "storage.data.existingClaim is immutable",
            ),
            (
                "{ storage: { metadata: { size: 1Gi } } }",
                "{ storage: { metadata: { size: 1Gi, storageClassName: f } } }",
                "storage.metadata.storageClassName is immutable",
            ),
            (
                "{ storage: { metadata: { size: 1Gi } } }",
                "{ storage: { metadata: { existingClaim: f } } }",
                "storage.metadata.existingClaim is immutable",
            ),
            ("{}", "{ zone: other, capacity: 2Gi, tags: [t] }", ""),
        ],
    )
    .await;
    let other = "cd".repeat(32);
    door.updates(
        EXTERNAL,
        &[(
            "{}",
            &format!("{{ nodeId: {other} }}"),
            "nodeId is immutable",
        )],
    )
    .await;
    door.rejects_names(
        POD,
        &[(
            "a2345678901234567890123456789012345678901234567x",
            "metadata.name must be at most 47 characters",
        )],
    )
    .await;
    door.all_rules_seen();
}
