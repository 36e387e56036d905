//! What was seen of a key: facts, not opinions. May not decide.

use crate::admin::BucketPermissions;
use crate::cluster::ClusterKey;
use crate::tenant::Home;
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// All facts about one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The time.
    pub now: Timestamp,
    /// Our finalizer is on the object.
    pub finalizer: bool,
    /// The object's namespace is being deleted.
    pub namespace_ends: bool,
    /// The cluster.
    pub home: Home,
    /// The highest number of an access key of ours that the status or the Secret names.
    pub last: Option<u32>,
    /// The id that is to be imported, or why it cannot be read.
    pub given: Option<Result<String, String>>,
    /// Why the id that is to be imported cannot be ours.
    pub taken: Option<Taken>,
    /// The Secret.
    pub secret: SecretSeen,
    /// Secrets of ours under other names.
    pub stale_secrets: Vec<String>,
    /// The access keys of ours that Garage has, oldest first.
    pub live: Vec<Live>,
    /// All keys of Garage were looked through for ours.
    pub listed: bool,
    /// The buckets that are asked for, in the order of the object.
    pub targets: Vec<Target>,
    /// Buckets whose rights a GarageBucket sets, and which.
    pub managed: BTreeMap<String, ClusterKey>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            now: Timestamp::UNIX_EPOCH,
            finalizer: false,
            namespace_ends: false,
            home: Home::default(),
            last: None,
            given: None,
            taken: None,
            secret: SecretSeen::Missing,
            stale_secrets: Vec::new(),
            live: Vec::new(),
            listed: false,
            targets: Vec::new(),
            managed: BTreeMap::new(),
        }
    }
}

/// Why an id cannot be ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Another GarageKey has it.
    By(ClusterKey),
    /// Garage has it with another secret.
    OtherSecret,
}

/// The Secret under the name that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSeen {
    /// There is none.
    Missing,
    /// It is not ours.
    Foreign,
    /// It is ours.
    Ours {
        /// The access key id in it.
        id: Option<String>,
        /// Since when that is in it.
        since: Option<Timestamp>,
        /// It has the type that is asked for, which cannot be changed.
        type_matches: bool,
    },
}

/// One access key of ours in Garage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Access key id.
    pub id: String,
    /// Its number; `None` for an imported one.
    pub number: Option<u32>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Its name.
    pub name: String,
    /// When it ends.
    pub expiration: Option<Timestamp>,
    /// It has ended.
    pub expired: bool,
    /// It may create buckets.
    pub create_bucket: bool,
    /// Its buckets by id.
    pub buckets: BTreeMap<String, Access>,
}

/// What an access key has of a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Rights.
    pub rights: BucketPermissions,
    /// Names for all keys.
    pub aliases: Vec<String>,
    /// Names for this key.
    pub local_aliases: Vec<String>,
}

/// A bucket that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// It is there.
    Bucket {
        /// Its id.
        id: String,
        /// Its name for all keys.
        alias: Option<String>,
    },
    /// There is no such bucket or GarageBucket.
    Missing,
    /// The GarageBucket has no bucket yet.
    NotYet,
    /// It is the bucket of a GarageBucket in another namespace, which does not grant its use.
    NotGranted(ClusterKey),
    /// It is in another cluster.
    Elsewhere,
}

/// The id of the access key with this number of the GarageKey with this UID. An id can never be used
/// again, so each replacement has the next number; that it can be told beforehand is why no key is ever
/// lost, whatever a process dies after.
#[must_use]
pub fn access_key_id(uid: &str, number: u32) -> String {
    let hash = Sha256::digest(format!("gatewright GarageKey {uid} {number}"));
    let digits: String = hash
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("GK{digits}")
}

/// The number of an access key, if it is one of the first `below` of this GarageKey.
#[must_use]
pub fn number_of(uid: &str, id: &str, below: u32) -> Option<u32> {
    // Most ids that are asked about are not ours; ours have a fixed shape.
    if id.len() != 26 || !id.starts_with("GK") {
        return None;
    }
    (0..below).find(|number| access_key_id(uid, *number) == id)
}
