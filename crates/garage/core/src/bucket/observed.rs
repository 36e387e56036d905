//! What was seen of a bucket: facts, not opinions. May not decide.

use crate::admin::{BucketInfo, BucketPermissions, GarageVersion};
use crate::cluster::ClusterKey;
use crate::tenant::Home;
use std::collections::BTreeSet;

/// All facts about one bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Our finalizer is on the object.
    pub finalizer: bool,
    /// The object's namespace is being deleted.
    pub namespace_ends: bool,
    /// The cluster.
    pub home: Home,
    /// The bucket that the object's status names.
    pub recorded: Option<String>,
    /// That bucket was there before the object, by its status.
    pub adopted: bool,
    /// The global alias that the status names.
    pub former_alias: Option<String>,
    /// The local aliases that the status names: access key id and name.
    pub former_locals: BTreeSet<(String, String)>,
    /// The bucket: the recorded one, else the reserved one, else the one with a name that is asked for.
    pub bucket: Option<BucketInfo>,
    /// The bucket that has the global alias that is asked for.
    pub alias_holder: Option<String>,
    /// Other objects for this bucket.
    pub rivals: Vec<Rival>,
    /// The GarageKeys that are named, and those whose keys have or ask for rights.
    pub keys: Vec<Key>,
    /// The version of Garage that answers.
    pub version: Option<GarageVersion>,
    /// Garage would not delete the bucket because it is not empty, whatever its counters say.
    pub not_empty: bool,
}

/// Another GarageBucket with the same bucket or global alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// Which.
    pub key: ClusterKey,
    /// Its status names the bucket.
    pub manages: bool,
    /// It was created before ours.
    pub older: bool,
}

/// A GarageKey as its buckets see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Which.
    pub key: ClusterKey,
    /// Its access keys in Garage: during a rotation more than one.
    pub ids: BTreeSet<String>,
    /// It is a key of the same cluster.
    pub here: bool,
    /// What it asks for itself of this bucket, as far as it may.
    pub wants: BucketPermissions,
}
