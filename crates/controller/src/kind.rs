//! What the kinds have in common whose objects a controller writes. May not name any of them.

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Whether the objects of a kind live in namespaces.
pub trait Reach {
    /// `false`: they belong to the whole cluster.
    const NAMESPACED: bool;
}

impl Reach for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl Reach for ClusterResourceScope {
    const NAMESPACED: bool = false;
}

/// A kind known at compile time, namespaced or not. A shorthand: nobody implements it by hand.
pub trait Kind:
    Resource<DynamicType = (), Scope: Reach>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope: Reach>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Whether the objects of `K` live in namespaces.
pub(crate) fn is_namespaced<K: Kind>() -> bool {
    <K::Scope as Reach>::NAMESPACED
}
