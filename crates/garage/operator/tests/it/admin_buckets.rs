//! Every call about buckets, keys and admin tokens, against a real Garage.

use gatewright_garage::admin::{
    AdminTokenChange, BucketAlias, BucketPermissions, BucketQuotas, BucketUpdate, CorsRule,
    CreateBucket, CreateLocalAlias, Expiration, ImportKey, KeyChange, KeyPermissions,
    LifecycleFilter, LifecycleRule, RoutingCondition, RoutingRedirect, RoutingRule, WebsiteAccess,
};
use gatewright_garage::secret::Redacted;
use gatewright_garage_operator::admin::BucketSelector;
use gatewright_testkit::await_condition;
use gatewright_testkit::garage::PATIENCE;

use crate::admin::{bucket_and_key, client, client_with, shared};

fn alias(name: &str) -> BucketAlias {
    BucketAlias::Global {
        global_alias: name.to_owned(),
    }
}

fn named(name: &str) -> CreateBucket {
    CreateBucket {
        global_alias: Some(name.to_owned()),
        local_alias: None,
    }
}

#[tokio::test]
async fn a_bucket_lives_from_its_creation_to_its_end() {
    let Some(garage) = shared().await else { return };
    let client = client(garage, 0);
    let made = client
        .create_bucket(&named("life"))
        .await
        .expect("a bucket");
    assert_eq!(made.global_aliases, ["life"]);
    for selector in [
        BucketSelector::Id(&made.id),
        BucketSelector::GlobalAlias("life"),
        BucketSelector::Search(&made.id[..20]),
    ] {
        let found = client.get_bucket_info(selector).await.expect("the bucket");
        assert_eq!(found.id, made.id, "{selector:?}");
    }
    let listed = client.list_buckets().await.expect("buckets");
    assert!(listed.iter().any(|bucket| bucket.id == made.id));

    let taken = client.create_bucket(&named("life")).await;
    let taken = taken.expect_err("the name is taken");
    assert!(taken.is_conflict() && !taken.is_transient(), "{taken}");
    assert_eq!(taken.code(), Some("BucketAlreadyExists"));

    client.delete_bucket(&made.id).await.expect("gone");
    let gone = client.get_bucket_info(BucketSelector::Id(&made.id)).await;
    let gone = gone.expect_err("it is gone");
    assert!(gone.is_not_found(), "{gone}");
    assert_eq!(gone.code(), Some("NoSuchBucket"));
    let again = client.delete_bucket(&made.id).await;
    assert!(again.expect_err("it is gone").is_not_found());
}

#[tokio::test]
async fn a_bucket_that_is_not_empty_stays() {
    let Some(garage) = shared().await else { return };
    let client = client(garage, 0);
    let (bucket, key) = bucket_and_key(&client, "full").await;
    let put = garage.node(0).s3(&key, "PUT", "/full/object", b"x").await;
    assert_eq!(put.expect("an answer").status(), 200);
    let error = client.delete_bucket(&bucket).await.expect_err("not empty");
    assert!(error.is_conflict(), "{error}");
    assert_eq!(error.code(), Some("BucketNotEmpty"));
    // Garage counts behind its writes.
    await_condition("the object is counted", PATIENCE, || async {
        let info = client.get_bucket_info(BucketSelector::Id(&bucket)).await;
        let info = info.expect("the bucket");
        (info.objects, info.bytes) == (1, 1)
    })
    .await;
    let cleaned = client.cleanup_incomplete_uploads(&bucket, 0).await;
    assert_eq!(cleaned.expect("an answer").uploads_deleted, 0);
}

#[tokio::test]
async fn settings_of_a_bucket_are_kept_and_cleared() {
    let Some(garage) = shared().await else { return };
    let client = client(garage, 0);
    let made = client.create_bucket(&named("settings")).await;
    let id = made.expect("a bucket").id;
    let routing = RoutingRule {
        condition: Some(RoutingCondition {
            http_error_code: Some(404),
            key_prefix: Some("old/".into()),
        }),
        redirect: RoutingRedirect {
            replace_prefix: Some("new/".into()),
            http_redirect_code: Some(301),
            ..Default::default()
        },
    };
    let cors = CorsRule {
        id: Some("c".into()),
        max_age_seconds: Some(60),
        allowed_origins: vec!["*".into()],
        allowed_methods: vec!["GET".into()],
        allowed_headers: vec!["x-a".into()],
        expose_headers: Vec::new(),
    };
    let lifecycle = LifecycleRule {
        id: Some("l".into()),
        status: "Enabled".into(),
        filter: Some(LifecycleFilter {
            and: Some(Box::new(LifecycleFilter {
                prefix: Some("logs/".into()),
                size_greater_than: Some(10),
                ..Default::default()
            })),
            ..Default::default()
        }),
        expiration: Some(Expiration {
            days: Some(3),
            date: None,
        }),
        abort_incomplete_upload: Some(gatewright_garage::admin::AbortIncompleteUpload { days: 1 }),
    };
    let update = BucketUpdate {
        website_access: Some(WebsiteAccess {
            enabled: true,
            index_document: Some("index.html".into()),
            error_document: Some("404.html".into()),
            routing_rules: Some(vec![routing.clone()]),
        }),
        quotas: Some(BucketQuotas {
            max_size: Some(1 << 20),
            max_objects: None,
        }),
        cors_rules: Some(vec![cors.clone()]),
        lifecycle_rules: Some(vec![lifecycle.clone()]),
    };
    client.update_bucket(&id, &update).await.expect("an update");
    let read = client.get_bucket_info(BucketSelector::Id(&id)).await;
    let read = read.expect("the bucket");
    let website = read.website_config.expect("a website");
    assert_eq!(website.routing_rules, Some(vec![routing]));
    assert_eq!(read.cors_rules, Some(vec![cors]));
    assert_eq!(read.lifecycle_rules, Some(vec![lifecycle]));
    assert_eq!(read.quotas.max_size, Some(1 << 20));

    // What is not named is kept.
    let nothing = client.update_bucket(&id, &BucketUpdate::default()).await;
    assert!(nothing.expect("an answer").cors_rules.is_some());
    let clear = BucketUpdate {
        website_access: Some(WebsiteAccess::default()),
        quotas: Some(BucketQuotas::default()),
        cors_rules: Some(Vec::new()),
        lifecycle_rules: Some(Vec::new()),
    };
    let clear = client.update_bucket(&id, &clear).await.expect("an update");
    assert!(!clear.website_access && clear.quotas.max_size.is_none());
    assert!(clear.cors_rules.unwrap_or_default().is_empty());
    assert!(clear.lifecycle_rules.unwrap_or_default().is_empty());

    let wrong = BucketUpdate {
        website_access: Some(WebsiteAccess {
            enabled: false,
            index_document: Some("index.html".into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let error = client.update_bucket(&id, &wrong).await;
    let error = error.expect_err("documents without a website");
    assert_eq!(
        (error.status(), error.code()),
        (Some(400), Some("InvalidRequest"))
    );
}

#[tokio::test]
async fn aliases_and_rights_come_and_go() {
    let Some(garage) = shared().await else { return };
    let client = client(garage, 0);
    let key = client
        .create_key(&KeyChange::default())
        .await
        .expect("a key");
    let key = key.access_key_id;
    let create = CreateBucket {
        global_alias: None,
        local_alias: Some(CreateLocalAlias {
            access_key_id: key.clone(),
            alias: "mine".into(),
            allow: BucketPermissions {
                owner: true,
                ..Default::default()
            },
        }),
    };
    let id = client.create_bucket(&create).await.expect("a bucket").id;
    let local = BucketAlias::Local {
        local_alias: "also-mine".into(),
        access_key_id: key.clone(),
    };
    client
        .add_bucket_alias(&id, alias("ours"))
        .await
        .expect("it");
    client
        .add_bucket_alias(&id, local.clone())
        .await
        .expect("it");
    let other = client
        .create_bucket(&named("other"))
        .await
        .expect("a bucket");
    let taken = client.add_bucket_alias(&other.id, alias("ours")).await;
    assert_eq!(taken.expect_err("taken").status(), Some(400));
    let last = client.remove_bucket_alias(&other.id, alias("other")).await;
    assert_eq!(last.expect_err("the last one").status(), Some(400));

    let read = BucketPermissions {
        read: true,
        ..Default::default()
    };
    let allowed = client.allow_bucket_key(&id, &key, read).await.expect("it");
    assert_eq!(allowed.global_aliases, ["ours"]);
    let [grant] = &allowed.keys[..] else {
        panic!("one key: {allowed:?}");
    };
    assert!(grant.permissions.read && grant.permissions.owner && !grant.permissions.write);
    assert_eq!(grant.bucket_local_aliases.len(), 2);
    let seen = client.get_key_info(&key).await.expect("the key");
    assert_eq!(seen.buckets[0].permissions, grant.permissions);

    let denied = client.deny_bucket_key(&id, &key, read).await.expect("it");
    assert!(!denied.keys[0].permissions.read && denied.keys[0].permissions.owner);
    let removed = client.remove_bucket_alias(&id, local).await.expect("it");
    assert_eq!(removed.keys[0].bucket_local_aliases, ["mine"]);
    let unknown = client.allow_bucket_key(&id, "GK00", read).await;
    let unknown = unknown.expect_err("no such key");
    assert_eq!(unknown.code(), Some("NoSuchAccessKey"));
}

#[tokio::test]
async fn a_key_is_made_imported_changed_and_never_reborn() {
    let Some(garage) = shared().await else { return };
    let client = client(garage, 0);
    let change = KeyChange {
        name: Some("born".into()),
        allow: Some(KeyPermissions {
            create_bucket: true,
        }),
        ..Default::default()
    };
    let made = client.create_key(&change).await.expect("a key");
    assert!(made.permissions.create_bucket && made.secret_access_key.is_some());
    let id = made.access_key_id;
    let plain = client.get_key_info(&id).await.expect("the key");
    assert_eq!(plain.secret_access_key, None);
    let shown = client.get_key_info_with_secret(&id).await.expect("it");
    assert_eq!(shown.secret_access_key, made.secret_access_key);

    let change = KeyChange {
        name: Some("renamed".into()),
        expiration: Some("2100-01-01T00:00:00Z".into()),
        deny: Some(KeyPermissions {
            create_bucket: true,
        }),
        ..Default::default()
    };
    let changed = client.update_key(&id, &change).await.expect("it");
    assert!(!changed.permissions.create_bucket && !changed.expired);
    assert!(
        changed
            .expiration
            .is_some_and(|time| time.starts_with("2100-01-01T00:00:00"))
    );
    let forever = KeyChange {
        never_expires: true,
        ..Default::default()
    };
    let forever = client.update_key(&id, &forever).await.expect("it");
    assert_eq!((forever.expiration, &*forever.name), (None, "renamed"));
    let listed = client.list_keys().await.expect("keys");
    assert!(
        listed
            .iter()
            .any(|key| key.id == id && key.name == "renamed")
    );

    client.delete_key(&id).await.expect("gone");
    let gone = client.get_key_info(&id).await.expect_err("it is gone");
    assert!(gone.is_not_found(), "{gone}");
    let import = ImportKey {
        access_key_id: id,
        secret_access_key: Redacted::new("0123456789abcdef".to_owned()),
        name: None,
    };
    let reborn = client.import_key(&import).await.expect_err("never again");
    assert_eq!(
        (reborn.is_conflict(), reborn.code()),
        (true, Some("KeyAlreadyExists"))
    );
    assert!(!format!("{reborn} {reborn:?}").contains("0123456789abcdef"));

    let fresh = ImportKey {
        access_key_id: "imported.key-1".into(),
        name: Some("imported".into()),
        ..import
    };
    let fresh = client.import_key(&fresh).await.expect("a fresh id");
    assert_eq!(fresh.name, "imported");
}

#[tokio::test]
async fn an_admin_token_does_what_its_scope_says_until_it_is_deleted() {
    let Some(garage) = shared().await else { return };
    let root = client(garage, 0);
    let change = AdminTokenChange {
        name: Some("scoped".into()),
        scope: Some(vec!["GetClusterHealth".into()]),
        ..Default::default()
    };
    let made = root.create_admin_token(&change).await.expect("a token");
    let id = made.info.id.expect("its id");
    let scoped = client_with(&garage.node(0).admin_url(), made.secret_token.expose());
    scoped.get_cluster_health().await.expect("in scope");
    let error = scoped.list_keys().await.expect_err("out of scope");
    assert!(error.is_unauthorized(), "{error}");
    assert_eq!(error.code(), Some("AccessDenied"));

    let wider = AdminTokenChange {
        scope: Some(vec!["ListKeys".into(), "GetCurrentAdminTokenInfo".into()]),
        ..Default::default()
    };
    let wider = root.update_admin_token(&id, &wider).await.expect("it");
    assert_eq!(wider.name, "scoped");
    scoped.list_keys().await.expect("in scope now");
    let current = scoped.get_current_admin_token_info().await.expect("it");
    assert_eq!(current.id.as_deref(), Some(&*id));
    let read = root.get_admin_token_info(&id).await.expect("it");
    assert_eq!(read.scope, wider.scope);
    let listed = root.list_admin_tokens().await.expect("tokens");
    assert!(listed.iter().any(|token| token.id.as_deref() == Some(&*id)));

    root.delete_admin_token(&id).await.expect("gone");
    let gone = root.get_admin_token_info(&id).await.expect_err("gone");
    assert_eq!(
        (gone.is_not_found(), gone.code()),
        (true, Some("NoSuchAdminToken"))
    );
    assert!(
        scoped
            .list_keys()
            .await
            .expect_err("gone")
            .is_unauthorized()
    );
}
