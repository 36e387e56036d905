//! GarageAdminToken.

use super::Door;

const TOKEN: &str = "{ clusterRef: { name: c } }";

#[tokio::test]
async fn accepted() {
    let Some(mut door) = Door::new("GarageAdminToken").await else {
        return;
    };
    door.accepts(
        TOKEN,
        &[
            "{}",
            "{ scope: ['*'] }",
            "{ scope: [GetClusterStatus, GetClusterHealth] }",
            "{ expiration: '2027-01-31T12:00:00Z', name: ci }",
            "{ secretTemplate: { name: s, tokenKey: token, includeEndpoint: false } }",
        ],
    )
    .await;
}

#[tokio::test]
async fn refused() {
    let Some(mut door) = Door::new("GarageAdminToken").await else {
        return;
    };
    door.rejects(
        TOKEN,
        &[
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
                "{ expiration: '2027-01-31T12:00:00Z', neverExpires: true }",
                "expiration and neverExpires are mutually exclusive",
            ),
            (
                "{ expiration: never }",
                "expiration must be a time as in RFC 3339",
            ),
            ("{ scope: [] }", "spec.scope"),
            (
                "{ scope: [getClusterStatus] }",
                "scope must be names of calls of the Admin API",
            ),
            (
                "{ scope: ['*', GetClusterStatus] }",
                "scope names * and single calls",
            ),
            (
                "{ scope: [GetClusterStatus, GetClusterStatus] }",
                "uplicate",
            ),
            (
                "{ secretTemplate: { tokenKey: admin-endpoint } }",
                "tokenKey and endpointKey of secretTemplate must differ",
            ),
            (
                "{ secretTemplate: { labels: { app.kubernetes.io/name: x } } }",
                "secretTemplate.labels may not have keys of the operator",
            ),
            (
                "{ secretTemplate: { annotations: { garage.rajsingh.info/x: z } } }",
                "secretTemplate.annotations may not have keys of the operator",
            ),
        ],
    )
    .await;
    door.updates(
        TOKEN,
        &[(
            "{}",
            "{ clusterRef: { name: d } }",
            "clusterRef is immutable: create another GarageAdminToken",
        )],
    )
    .await;
    door.all_rules_seen();
}
