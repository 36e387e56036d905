//! Buckets, keys and tokens.

use super::*;

#[test]
fn buckets() {
    let key = "GarageKey s/k { clusterRef: { name: gw } }";
    let gateway = "GarageCluster s/gw { gateway: true, connectTo: { clusterRef: { name: main } } }";
    let uses = "{ clusterRef: { name: main }, keyPermissions: [{ keyRef: k, read: true }] }";
    for (others, spec, expected) in [
        (&[STORAGE][..], "{ clusterRef: { name: main } }", ""),
        (
            &[],
            "{ clusterRef: { name: main } }",
            "GarageCluster s/main does not exist (yet)",
        ),
        (
            &["GarageCluster t/main {}"],
            "{ clusterRef: { name: main, namespace: t } }",
            "!kind: GarageBucket, namespace: s",
        ),
        (
            &["GarageCluster t/main {}", "grant t GarageBucket s"],
            "{ clusterRef: { name: main, namespace: t } }",
            "",
        ),
        // A key of the gateway cluster is a key of its storage.
        (&[STORAGE, gateway, key], uses, ""),
        (
            &[STORAGE, key],
            uses,
            "!GarageKey k is a key of GarageCluster s/gw, and this bucket is in s/main",
        ),
        (
            &[STORAGE],
            uses,
            "keyPermissions: GarageKey k does not exist (yet)",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, localAliases: [{ keyRef: k, alias: abc }] }",
            "localAliases: GarageKey k does not exist (yet)",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, globalAlias: xn--a }",
            "!xn--a starts with xn--",
        ),
        (
            &["GarageCluster s/main { security: { allowPunycode: true } }"],
            "{ clusterRef: { name: main }, globalAlias: xn--a }",
            "",
        ),
        (
            &[],
            "{ clusterRef: { name: main }, globalAlias: xn--a }",
            "xn--a starts with xn--",
        ),
        (
            &[
                STORAGE,
                gateway,
                "GarageBucket t/o { clusterRef: { name: main, namespace: s }, globalAlias: b }",
            ],
            "{ clusterRef: { name: gw } }",
            "GarageBucket t/o has the name b",
        ),
        (
            &[
                STORAGE,
                "GarageBucket t/o { clusterRef: { name: main }, globalAlias: b }",
            ],
            "{ clusterRef: { name: main } }",
            "",
        ),
    ] {
        let verdict = bucket(&object("GarageBucket", "s/b", spec), None, &world(others));
        check(&format!("{spec} beside {others:?}"), &verdict, expected);
    }
}

#[test]
fn keys() {
    let bucket_there = "GarageBucket s/b { clusterRef: { name: main } }";
    let uses = "{ clusterRef: { name: main }, bucketPermissions: [{ bucketRef: b, read: true }] }";
    for (others, spec, expected) in [
        (&[STORAGE, bucket_there][..], uses, ""),
        (&[STORAGE], uses, "GarageBucket b does not exist (yet)"),
        (
            &[STORAGE, "GarageBucket s/b { clusterRef: { name: other } }"],
            uses,
            "!GarageBucket b is in GarageCluster s/other",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main } }",
            "the key may do nothing",
        ),
        (
            &[
                STORAGE,
                "GarageBucket s/b { clusterRef: { name: main }, keyPermissions: [{ keyRef: k, read: true }] }",
            ],
            "{ clusterRef: { name: main } }",
            "",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, permissions: { createBucket: true } }",
            "",
        ),
        (
            &["GarageCluster t/main {}"],
            "{ clusterRef: { name: main, namespace: t } }",
            "!kind: GarageKey, namespace: s",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, secretTemplate: { namespace: t } }",
            "!secretTemplate.namespace must be \"s\" or absent",
        ),
        (
            &[STORAGE, bucket_there],
            "{ clusterRef: { name: main }, secretTemplate: { namespace: s }, bucketPermissions: [{ bucketRef: b, read: true }] }",
            "",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, importKey: { secretRef: { name: x, namespace: t } } }",
            "!importKey.secretRef.namespace must be \"s\" or absent",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, importKey: { accessKeyId: a, secretAccessKey: b } }",
            "can be read by everyone",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, secretTemplate: { name: main-node-keys } }",
            "!Secret main-node-keys belongs to GarageCluster main",
        ),
        (
            &[
                STORAGE,
                "GarageKey s/o { clusterRef: { name: main }, secretTemplate: { name: k } }",
            ],
            "{ clusterRef: { name: main } }",
            "!Secret k is written by GarageKey o already",
        ),
        (
            &[
                STORAGE,
                "GarageAdminToken s/k { clusterRef: { name: main } }",
            ],
            "{ clusterRef: { name: main } }",
            "!Secret k is written by GarageAdminToken k already",
        ),
        (
            &[
                STORAGE,
                bucket_there,
                "GarageKey t/o { clusterRef: { name: main }, secretTemplate: { name: k } }",
            ],
            uses,
            "",
        ),
        (
            &[
                STORAGE,
                bucket_there,
                "GarageKey s/k { clusterRef: { name: main } }",
            ],
            uses,
            "",
        ),
    ] {
        let verdict = key(&object("GarageKey", "s/k", spec), None, &world(others));
        check(&format!("{spec} beside {others:?}"), &verdict, expected);
    }
}

#[test]
fn admin_tokens() {
    for (others, spec, expected) in [
        (
            &[STORAGE][..],
            "{ clusterRef: { name: main }, scope: [GetClusterStatus] }",
            "",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main } }",
            "the token may do everything and never ends",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, neverExpires: true }",
            "",
        ),
        (
            &["GarageCluster t/main {}"],
            "{ clusterRef: { name: main, namespace: t } }",
            "!kind: GarageAdminToken, namespace: s",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, secretTemplate: { namespace: t } }",
            "!secretTemplate.namespace must be",
        ),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, secretTemplate: { name: main-admin-token } }",
            "!belongs to GarageCluster main",
        ),
        (
            &[STORAGE, "GarageKey s/t { clusterRef: { name: main } }"],
            "{ clusterRef: { name: main } }",
            "!Secret t is written by GarageKey t already",
        ),
    ] {
        let verdict = admin_token(
            &object("GarageAdminToken", "s/t", spec),
            None,
            &world(others),
        );
        check(&format!("{spec} beside {others:?}"), &verdict, expected);
    }
}
