//! What tests of the Admin API share: clients of real nodes. It may not assert anything.

use gatewright_garage::admin::{BucketPermissions, CreateBucket, KeyChange};
use gatewright_garage::identity::NodeId;
use gatewright_garage::secret::Redacted;
use gatewright_garage_operator::admin::{Client, Settings};
use gatewright_testkit::Garage;
use gatewright_testkit::garage::{Credentials, Node};
use tokio::sync::OnceCell;

/// A client of that node's Admin API, with the static token.
pub(crate) fn client(garage: &Garage, index: usize) -> Client {
    client_with(&garage.node(index).admin_url(), garage.admin_token())
}

pub(crate) fn client_with(url: &str, token: &str) -> Client {
    let token = Redacted::new(token.to_owned());
    Client::new(url, token, Settings::default()).expect("a client")
}

pub(crate) fn id_of(node: &Node) -> NodeId {
    node.id().parse().expect("a node id")
}

/// One node that all tests of this binary share. They keep to buckets and keys of their own and leave the
/// layout alone.
pub(crate) async fn shared() -> Option<&'static Garage> {
    static SHARED: OnceCell<Option<Garage>> = OnceCell::const_new();
    // Asked before the cell, so that each test that skips is named.
    gatewright_testkit::part("garage")?;
    SHARED.get_or_init(|| Garage::start(1)).await.as_ref()
}

/// A bucket called `name` and a key that may read and write it.
pub(crate) async fn bucket_and_key(client: &Client, name: &str) -> (String, Credentials) {
    let bucket = CreateBucket {
        global_alias: Some(name.to_owned()),
        local_alias: None,
    };
    let bucket = client.create_bucket(&bucket).await.expect("a bucket");
    let key = client
        .create_key(&KeyChange::default())
        .await
        .expect("a key");
    let rights = BucketPermissions {
        read: true,
        write: true,
        owner: false,
    };
    client
        .allow_bucket_key(&bucket.id, &key.access_key_id, rights)
        .await
        .expect("a grant");
    let secret = key.secret_access_key.expect("a new key's secret");
    let credentials = Credentials {
        id: key.access_key_id,
        secret: secret.into_inner(),
    };
    (bucket.id, credentials)
}
