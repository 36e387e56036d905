//! GarageBucket.

use super::Door;

const BUCKET: &str = "{ clusterRef: { name: c } }";

#[tokio::test]
async fn accepted() {
    let Some(mut door) = Door::new("GarageBucket").await else {
        return;
    };
    door.accepts(
        BUCKET,
        &[
            "{}",
            "{ globalAlias: my.bucket-1 }",
            "{ globalAlias: xn--bcher-kva }",
            "{ quotas: { maxSize: 10Gi, maxObjects: 1000 } }",
            "{ quotas: { maxSize: 0, maxObjects: 0 } }",
            "{ website: { enabled: true, errorDocument: 404.html } }",
            "{ keyPermissions: [{ keyRef: a, read: true }, { keyRef: b, owner: true }] }",
            "{ localAliases: [{ keyRef: a, alias: one }, { keyRef: b, alias: one }, { keyRef: a, alias: two }] }",
            "{ lifecycle: { rules: [{ id: a, expiration: { days: 1 } }, { id: b, filter: { prefix: tmp/, objectSizeLessThan: 10 }, abortIncompleteMultipartUpload: { daysAfterInitiation: 3 } }] } }",
            "{ lifecycle: { rules: [{ id: a, status: Disabled, expiration: { date: '2027-01-31' } }, { id: b, expiration: { date: '2027-01-31T00:00:00Z' } }] } }",
            "{ cors: [{ allowedOrigins: ['*'], allowedMethods: [GET, HEAD], maxAgeSeconds: 60 }] }",
            "{ deletionPolicy: Retain }",
        ],
    )
    .await;
}

#[tokio::test]
async fn refused() {
    let Some(mut door) = Door::new("GarageBucket").await else {
        return;
    };
    let shape = "globalAlias must have 3 to 63 characters";
    door.rejects(
        BUCKET,
        &[
            ("{ clusterRef: null }", "spec.clusterRef"),
            ("{ clusterRef: { kubeConfigSecretRef: { name: a, key: b } } }", "clusterRef.kubeConfigSecretRef is not supported"),
            ("{ clusterRef: { kubeConfigSecretRef: { key: b } } }", "a reference to a Secret needs name and key"),
            ("{ clusterRef: { kubeConfigSecretRef: { name: a, key: b, optional: true } } }", "optional must be false"),
            ("{ globalAlias: ab }", shape),
            ("{ globalAlias: Abc }", shape),
            ("{ globalAlias: a_c }", shape),
            ("{ globalAlias: -abc }", shape),
            ("{ globalAlias: abc. }", shape),
            ("{ globalAlias: 192.168.1.1 }", "globalAlias cannot be an IP address"),
            ("{ globalAlias: my-s3alias }", "globalAlias cannot end with -s3alias"),
            ("{ localAliases: [{ keyRef: k, alias: ab }] }", "a local alias must have 3 to 63 characters"),
            ("{ localAliases: [{ keyRef: k, alias: 10.0.0.1 }] }", "a local alias cannot be an IP address"),
            ("{ localAliases: [{ keyRef: k, alias: x-s3alias }] }", "a local alias cannot end with -s3alias"),
            ("{ localAliases: [{ keyRef: k, alias: abc }, { keyRef: k, alias: abc }] }", "localAliases names the same alias of the same key twice"),
            ("{ quotas: { maxSize: -1 } }", "quotas.maxSize cannot be negative"),
            ("{ quotas: { maxSize: -1Gi } }", "quotas.maxSize cannot be negative"),
            ("{ quotas: { maxObjects: -1 } }", "quotas.maxObjects cannot be negative"),
            ("{ keyPermissions: [{ keyRef: k }] }", "a key permission needs at least one of read, write and owner"),
            ("{ keyPermissions: [{ keyRef: k, read: false }] }", "a key permission needs at least one of read, write and owner"),
            ("{ keyPermissions: [{ keyRef: k, read: true }, { keyRef: k, write: true }] }", "keyPermissions names the same key twice"),
            ("{ lifecycle: { rules: [{ id: a }] } }", "a lifecycle rule needs an action"),
            ("{ lifecycle: { rules: [{ id: a, expiration: { days: 1 } }, { id: a, expiration: { days: 2 } }] } }", "lifecycle.rules has two rules with the same id"),
            ("{ lifecycle: { rules: [{ id: a, expiration: {} }] } }", "the expiration of a lifecycle rule needs either days or date"),
            ("{ lifecycle: { rules: [{ id: a, expiration: { days: 1, date: '2027-01-31' } }] } }", "the expiration of a lifecycle rule needs either days or date"),
            ("{ lifecycle: { rules: [{ id: a, expiration: { date: '2027-01-31T12:00:00Z' } }] } }", "the date of a lifecycle rule must be a day"),
            ("{ lifecycle: { rules: [{ id: a, filter: { objectSizeGreaterThan: 2, objectSizeLessThan: 2 }, expiration: { days: 1 } }] } }", "objectSizeGreaterThan must be below objectSizeLessThan"),
            ("{ cors: [{ allowedOrigins: [], allowedMethods: [GET] }] }", "spec.cors[0].allowedOrigins"),
            ("{ cors: [{ allowedOrigins: ['*'], allowedMethods: [BREW] }] }", "spec.cors[0].allowedMethods"),
            ("{ deletionPolicy: Orphan }", "spec.deletionPolicy"),
        ],
    )
    .await;
    door.rejects_names(
        BUCKET,
        &[
            (
                "ab",
                "globalAlias is absent, and must have 3 to 63 characters",
            ),
            (
                "192.168.1.1",
                "globalAlias is absent, and cannot be an IP address",
            ),
            (
                "my-s3alias",
                "globalAlias is absent, and cannot end with -s3alias",
            ),
        ],
    )
    .await;
    door.updates(
        BUCKET,
        &[
            (
                "{}",
                "{ clusterRef: { name: d } }",
                "clusterRef is immutable: create another GarageBucket",
            ),
            (
                "{}",
                "{ clusterRef: { namespace: d } }",
                "clusterRef is immutable: create another GarageBucket",
            ),
            (
                "{ globalAlias: one }",
                "{ globalAlias: two, quotas: { maxSize: 1 } }",
                "",
            ),
        ],
    )
    .await;
    door.all_rules_seen();
}
