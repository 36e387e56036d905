//! GarageKey.

use super::Door;

const KEY: &str = "{ clusterRef: { name: c } }";

#[tokio::test]
async fn accepted() {
    let Some(mut door) = Door::new("GarageKey").await else {
        return;
    };
    door.accepts(
        KEY,
        &[
            "{}",
            "{ bucketPermissions: [{ bucketRef: a, read: true }, { bucketId: HEX, write: true }, { globalAlias: abc, owner: true }] }",
            "{ permissions: { createBucket: true }, neverExpires: true }",
            "{ expiration: '2027-01-31T12:00:00.5+01:00', neverExpires: false }",
            "{ importKey: { secretRef: { name: s } } }",
            "{ importKey: { accessKeyId: GK12345678, secretAccessKey: '0123456789abcdef' } }",
            "{ rotation: { interval: 720h, overlap: 1h30m } }",
            "{ secretTemplate: { name: s, accessKeyIdKey: AWS_ACCESS_KEY_ID, additionalData: { AWS_REGION: x }, labels: { a: b } } }",
        ],
    )
    .await;
}

#[tokio::test]
async fn refused() {
    let Some(mut door) = Door::new("GarageKey").await else {
        return;
    };
    let one_of = "a bucket permission needs exactly one of bucketRef, bucketId and globalAlias";
    door.rejects(
        KEY,
        &[
            ("{ clusterRef: { kubeConfigSecretRef: { name: a, key: b } } }", "clusterRef.kubeConfigSecretRef is not supported"),
            ("{ clusterRef: { kubeConfigSecretRef: { key: b } } }", "a reference to a Secret needs name and key"),
            ("{ clusterRef: { kubeConfigSecretRef: { name: a, key: b, optional: true } } }", "optional must be false"),
            ("{ expiration: '2027-01-31T12:00:00Z', neverExpires: true }", "expiration and neverExpires are mutually exclusive"),
            ("{ expiration: tomorrow }", "expiration must be a time as in RFC 3339"),
            ("{ expiration: '2027-01-31' }", "expiration must be a time as in RFC 3339"),
            ("{ bucketPermissions: [{ read: true }] }", one_of),
            ("{ bucketPermissions: [{ bucketRef: a, globalAlias: abc, read: true }] }", one_of),
            ("{ bucketPermissions: [{ bucketRef: a }] }", "a bucket permission needs at least one of read, write and owner"),
            ("{ bucketPermissions: [{ bucketRef: a, read: true }, { bucketRef: a, write: true }] }", "bucketPermissions names the same bucketRef twice"),
            ("{ bucketPermissions: [{ bucketId: HEX, read: true }, { bucketId: HEX, write: true }] }", "bucketPermissions names the same bucketId twice"),
            ("{ bucketPermissions: [{ globalAlias: abc, read: true }, { globalAlias: abc, write: true }] }", "bucketPermissions names the same globalAlias twice"),
            ("{ bucketPermissions: [{ bucketId: abc, read: true }] }", "spec.bucketPermissions[0].bucketId"),
            ("{ importKey: {} }", "importKey needs either secretRef, or accessKeyId and secretAccessKey"),
            ("{ importKey: { accessKeyId: GK12345678 } }", "importKey needs either secretRef, or accessKeyId and secretAccessKey"),
            ("{ importKey: { secretRef: { name: s }, accessKeyId: GK12345678 } }", "importKey needs either secretRef, or accessKeyId and secretAccessKey"),
            ("{ importKey: { secretRef: {} } }", "importKey.secretRef needs the name of a Secret"),
            ("{ importKey: { accessKeyId: short, secretAccessKey: '0123456789abcdef' } }", "importKey.accessKeyId must have at least 8"),
            ("{ importKey: { accessKeyId: GK12345678, secretAccessKey: short } }", "importKey.secretAccessKey must have at least 16"),
            ("{ importKey: { secretRef: { name: s } }, rotation: { interval: 1h } }", "rotation and importKey are mutually exclusive"),
            ("{ rotation: { interval: 1d } }", "rotation.interval must be a duration"),
            ("{ rotation: { interval: '' } }", "rotation.interval must be a duration"),
            ("{ rotation: { interval: 59s } }", "rotation.interval must be at least 1m"),
            ("{ rotation: { interval: 1h, overlap: soon } }", "rotation.overlap must be a duration"),
            ("{ rotation: { interval: 1h, overlap: 60m } }", "rotation.overlap must be shorter than rotation.interval"),
            ("{ secretTemplate: { endpointKey: region } }", "regionKey and bucketKey of secretTemplate must all differ"),
            ("{ secretTemplate: { additionalData: { bucket: x } } }", "secretTemplate.additionalData may not have the keys that the operator writes"),
            ("{ secretTemplate: { additionalData: { 'a b': x } } }", "secretTemplate.additionalData must have keys of letters"),
            ("{ secretTemplate: { endpointKey: 'a b' } }", "spec.secretTemplate.endpointKey"),
            ("{ secretTemplate: { labels: { app.kubernetes.io/name: x } } }", "secretTemplate.labels may not have keys of the operator"),
            ("{ secretTemplate: { annotations: { garage.rajsingh.info/x: z } } }", "secretTemplate.annotations may not have keys of the operator"),
        ],
    )
    .await;
    door.updates(
        KEY,
        &[
            (
                "{}",
                "{ clusterRef: { name: d } }",
                "clusterRef is immutable: create another GarageKey",
            ),
            (
                "{}",
                "{ importKey: { secretRef: { name: s } } }",
                "importKey is immutable",
            ),
            (
                "{ importKey: { secretRef: { name: s } } }",
                "{ importKey: { secretRef: { name: t } } }",
                "importKey is immutable",
            ),
            (
                "{ expiration: '2027-01-31T12:00:00Z' }",
                "{ neverExpires: true, name: other }",
                "",
            ),
        ],
    )
    .await;
    door.all_rules_seen();
}
