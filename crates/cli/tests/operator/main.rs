//! `gatewright operator --namespace` as a process with the rights that are published for it, between a real
//! apiserver that enforces them and a real Garage. It may not reach into the operator.

mod rig;

use gatewright_testkit::garage::Credentials;
use gatewright_testkit::{Cluster, Garage, await_condition};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use rig::{
    ACCOUNT, CLUSTER_WIDE, NAMESPACE, NAMESPACED, Operator, PATIENCE, apply, condition, crds,
    document, documents, garage, object, refusals,
};
use serde_json::{Value, json};

/// A namespace of somebody else.
const OTHER: &str = "team-b";

async fn namespace(client: &Client, name: &str) {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    let api = Api::all(client.clone());
    let created = api.create(&PostParams::default(), &namespace).await;
    created.expect("a namespace");
}

/// Secrets, a gateway cluster of the real Garage, a bucket and a key for it.
fn wishes(namespace: &str, storage: &Garage) -> Vec<Value> {
    let secret = |name: &str, data: Value| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "stringData": data,
            "metadata": { "name": name, "namespace": namespace },
        })
    };
    let connect = json!({
        "adminApiEndpoint": storage.node(0).admin_url(),
        "adminTokenSecretRef": { "name": "admin", "key": "token" },
        "rpcSecretRef": { "name": "rpc", "key": "secret" },
        "bootstrapPeers": storage.peers(),
    });
    let gateways = json!({ "gateway": true, "replicas": 2, "connectTo": connect });
    let here = json!({ "name": "s3" });
    let rights = json!([{ "bucketRef": "photos", "read": true, "write": true }]);
    vec![
        secret("admin", json!({ "token": storage.admin_token() })),
        secret("rpc", json!({ "secret": storage.rpc_secret() })),
        object(namespace, "GarageCluster", "s3", gateways),
        object(
            namespace,
            "GarageBucket",
            "photos",
            json!({ "clusterRef": here }),
        ),
        object(
            namespace,
            "GarageKey",
            "app",
            json!({ "clusterRef": here, "bucketPermissions": rights }),
        ),
    ]
}

const KINDS: [(&str, &str); 3] = [
    ("GarageKey", "app"),
    ("GarageBucket", "photos"),
    ("GarageCluster", "s3"),
];

async fn is_ready(client: &Client, kind: &str, name: &str) -> bool {
    let object = garage(client, NAMESPACE, kind).get(name).await;
    let object = object.expect("it is there");
    condition(&object, "Ready").is_some_and(|(status, _)| status == "True")
}

/// The roles of gateways in Garage's layout.
async fn gateway_roles(storage: &Garage) -> usize {
    let layout = storage.node(0).admin().get("GetClusterLayout").await;
    let roles = layout["roles"].as_array().expect("roles");
    let gateways = roles.iter().filter(|role| role["capacity"].is_null());
    gateways.count()
}

/// What whoever uses `client` may do.
async fn may(client: &Client, verb: &str, resource: (&str, &str), namespace: Option<&str>) -> bool {
    let (group, resource) = resource;
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        verb: Some(verb.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api = Api::<SelfSubjectAccessReview>::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await;
    answer.expect("a review").status.expect("a status").allowed
}

fn is_forbidden<T: std::fmt::Debug>(answer: kube::Result<T>) -> bool {
    match answer {
        Err(kube::Error::Api(status)) => status.is_forbidden(),
        other => panic!("expected a refusal: {other:?}"),
    }
}

#[test]
fn the_role_for_a_namespace_is_what_the_whole_cluster_gets_and_the_lease() {
    let rules = |text: &str, kind: &str, name: &str| {
        let rules = document(text, kind, name)["rules"].clone();
        rules.as_array().cloned().expect("rules")
    };
    let mut wanted = rules(CLUSTER_WIDE, "ClusterRole", "gatewright-operator-garage");
    let shared = rules(CLUSTER_WIDE, "Role", ACCOUNT);
    let is_lease = |rule: &Value| rule["resources"] == json!(["leases"]);
    wanted.extend(shared.into_iter().filter(is_lease));
    assert_eq!(rules(NAMESPACED, "Role", ACCOUNT), wanted);
    for document in documents(NAMESPACED) {
        assert_eq!(document["metadata"]["namespace"], NAMESPACE, "{document}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_one_namespace_needs_no_right_outside_of_it() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let Some(storage) = Garage::start(1).await else {
        return;
    };
    let client = cluster.client();
    for name in [NAMESPACE, OTHER] {
        namespace(&client, name).await;
    }
    apply(&client, documents(&crds())).await;
    apply(&client, documents(NAMESPACED)).await;
    let refused = refusals(&client).await;
    let mut operator = Operator::start(cluster, |_| {}).await;
    await_condition("it is ready and acts", PATIENCE, || async {
        let metrics = operator.probe("/metrics").await;
        let leads = metrics.is_some_and(|page| page.text().contains("gatewright_leader 1"));
        leads && operator.is_ready().await
    })
    .await;

    // The same elsewhere first: whoever looks there has seen it by the time that it looks here.
    apply(&client, wishes(OTHER, &storage)).await;
    apply(&client, wishes(NAMESPACE, &storage)).await;
    await_condition("bucket and key are ready", PATIENCE, || async {
        is_ready(&client, "GarageBucket", "photos").await
            && is_ready(&client, "GarageKey", "app").await
    })
    .await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let secret = secrets.get("app").await.expect("the Secret of the key");
    let entry = |name: &str| {
        let bytes = &secret.data.as_ref().expect("entries")[name].0;
        String::from_utf8(bytes.clone()).expect("text")
    };
    let key = Credentials {
        id: entry("access-key-id"),
        secret: entry("secret-access-key"),
    };
    for (method, wanted) in [("PUT", 200), ("GET", 200), ("DELETE", 204)] {
        let answer = storage.node(0).s3(&key, method, "/photos/a", b"x").await;
        assert_eq!(answer.expect("an answer").status(), wanted, "{method}");
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    await_condition("gateways have roles and a Deployment", PATIENCE, || async {
        let deployment = deployments.get_opt("s3").await.expect("an answer");
        let spec = deployment.and_then(|deployment| deployment.spec);
        spec.is_some_and(|spec| spec.replicas == Some(2)) && gateway_roles(&storage).await == 2
    })
    .await;

    // A reference to where the operator does not look is told, not tried.
    let elsewhere = json!({ "name": "s3", "namespace": OTHER });
    let connect = json!({ "clusterRef": elsewhere });
    let astray = [
        ("GarageBucket", "astray", json!({ "clusterRef": elsewhere })),
        (
            "GarageCluster",
            "astray",
            json!({ "gateway": true, "replicas": 1, "connectTo": connect }),
        ),
    ];
    for (kind, name, spec) in astray.clone() {
        apply(&client, vec![object(NAMESPACE, kind, name, spec)]).await;
    }
    for (kind, name, _) in &astray {
        await_condition(&format!("{kind} {name} says why"), PATIENCE, || async {
            let object = garage(&client, NAMESPACE, kind).get(name).await;
            let ready = condition(&object.expect("it is there"), "Ready");
            ready.is_some_and(|(_, reason)| reason == "NamespaceNotWatched")
        })
        .await;
    }

    let ending = astray.iter().map(|(kind, name, _)| (*kind, *name));
    for (kind, name) in ending.chain(KINDS) {
        let api = garage(&client, NAMESPACE, kind);
        let deleted = api.delete(name, &DeleteParams::default()).await;
        deleted.expect("it is there");
        await_condition(&format!("{kind} {name} is gone"), PATIENCE, || async {
            api.get_opt(name).await.expect("an answer").is_none()
        })
        .await;
    }
    assert_eq!(gateway_roles(&storage).await, 0);
    for call in ["ListKeys", "ListBuckets"] {
        assert_eq!(storage.node(0).admin().get(call).await, json!([]), "{call}");
    }

    assert_untouched(&client).await;
    operator.terminate();
    await_condition("it ends when told", PATIENCE, || {
        let ended = operator.exited();
        async move { ended == Some(0) }
    })
    .await;
    let log = operator.log();
    assert!(log.contains("the controllers run"), "{log}");
    for sign in ["forbid", "Forbidden", "403"] {
        let said: Vec<&str> = log.lines().filter(|line| names(line, sign)).collect();
        assert_eq!(said, Vec::<&str>::new(), "{sign}");
    }
    assert_eq!(refusals(&client).await, refused, "nothing was refused");
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    leases.get(ACCOUNT).await.expect("the Lease is here");

    rights(cluster).await;
}

/// Whether a line of the log has this word; digits of a time or a hash are no word.
fn names(line: &str, sign: &str) -> bool {
    line.match_indices(sign).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + sign.len()..].chars().next();
        let digits = sign.starts_with(|c: char| c.is_ascii_digit());
        let apart = |c: Option<char>| !c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.');
        !digits || apart(before) && apart(after)
    })
}

/// Objects of the other namespace are as their user made them.
async fn assert_untouched(client: &Client) {
    for (kind, name) in KINDS {
        let object = garage(client, OTHER, kind).get(name).await;
        let object = object.expect("it is there");
        assert_eq!(object.finalizers(), Vec::<String>::new(), "{kind}");
        assert_eq!(object.data.get("status"), None, "{kind}");
        let managers = object.managed_fields().iter();
        let managers: Vec<_> = managers.filter_map(|one| one.manager.as_deref()).collect();
        assert_eq!(managers, ["kubectl"], "{kind}");
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), OTHER);
    let secrets = secrets.list(&ListParams::default()).await.expect("Secrets");
    let secrets: Vec<String> = secrets.iter().map(|secret| secret.name_any()).collect();
    assert_eq!(secrets, ["admin", "rpc"]);
}

/// What the account of the published manifest may and may not do.
async fn rights(cluster: &Cluster) {
    let account = cluster.service_account_client(NAMESPACE, ACCOUNT).await;
    let secrets = ("", "secrets");
    for verb in ["get", "list", "watch", "create", "patch", "delete"] {
        assert!(
            may(&account, verb, secrets, Some(NAMESPACE)).await,
            "{verb}"
        );
        for namespace in [Some(OTHER), Some("default"), Some("kube-system"), None] {
            assert!(
                !may(&account, verb, secrets, namespace).await,
                "{verb} {namespace:?}"
            );
        }
    }
    for (group, resource) in [
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        (
            "admissionregistration.k8s.io",
            "validatingwebhookconfigurations",
        ),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("garage.rajsingh.info", "garageclusters"),
        ("gateway.networking.k8s.io", "referencegrants"),
        ("coordination.k8s.io", "leases"),
        ("", "namespaces"),
        ("", "nodes"),
        ("", "pods"),
    ] {
        for verb in ["get", "list", "create", "patch"] {
            let allowed = may(&account, verb, (group, resource), None).await;
            assert!(!allowed, "{verb} {resource}");
        }
    }
    // Not only on paper.
    let there: Api<Secret> = Api::namespaced(account.clone(), OTHER);
    let everywhere: Api<Secret> = Api::all(account);
    assert!(is_forbidden(there.get("admin").await));
    assert!(is_forbidden(there.list(&ListParams::default()).await));
    assert!(is_forbidden(everywhere.list(&ListParams::default()).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_right_on_the_cluster_is_left_out_and_said_once() {
    // One of its own: here the CRDs are not there from the beginning, and requests are refused.
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let client = cluster.client();
    namespace(&client, NAMESPACE).await;
    apply(&client, documents(NAMESPACED)).await;
    let webhook = gatewright_testkit::ports::free_port();
    let operator = Operator::start(&cluster, |arguments| {
        arguments.retain(|one| one != "--skip-crds");
        arguments.push(format!("--listen-webhook=127.0.0.1:{webhook}"));
        arguments.push("--webhook-host=127.0.0.1".to_owned());
        arguments.push(format!("--namespace={OTHER}"));
    })
    .await;
    await_condition("it says which CRDs are missing", PATIENCE, || async {
        let answer = operator.probe("/readyz").await;
        answer.is_some_and(|answer| {
            let text = answer.text();
            answer.status() == 503 && text.contains("garagebuckets.garage.rajsingh.info")
        })
    })
    .await;
    apply(&client, documents(&crds())).await;
    await_condition("it is ready", PATIENCE, || operator.is_ready()).await;

    let alone = json!({ "clusterRef": { "name": "none" } });
    apply(
        &client,
        vec![object(NAMESPACE, "GarageBucket", "photos", alone)],
    )
    .await;
    // In the other namespace it has no rights, and that holds up nothing here.
    await_condition("a bucket is looked at", PATIENCE, || async {
        let object = garage(&client, NAMESPACE, "GarageBucket")
            .get("photos")
            .await;
        let ready = condition(&object.expect("it is there"), "Ready");
        ready.is_some_and(|(_, reason)| reason == "ClusterMissing")
    })
    .await;
    await_condition("it says that the webhook is off", PATIENCE, || async {
        operator
            .log()
            .contains("cannot write a webhook's configuration")
    })
    .await;
    let log = operator.log();
    let unread = format!("in the namespace \\\"{OTHER}\\\"");
    assert!(log.contains(&unread), "it says what it may not read: {log}");
    for said in [
        "leaving the CRDs to an administrator",
        "waiting for CRDs",
        "cannot write a webhook's configuration",
    ] {
        assert_eq!(log.matches(said).count(), 1, "{said}");
    }
    let refused = log
        .lines()
        .filter(|line| line.contains("the apiserver forbids"));
    assert_eq!(
        refused.count(),
        2,
        "the CRDs and the webhook's configuration"
    );
}
