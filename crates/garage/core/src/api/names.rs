//! Every name the garage wing writes where a user can read it: labels, annotations, finalizers, condition types.
//! Constants only.

/// API group of all five kinds.
pub const GROUP: &str = "garage.rajsingh.info";
/// The one served version.
pub const VERSION: &str = "v1alpha1";
/// `GROUP/VERSION`, as in `apiVersion`.
pub const API_VERSION: &str = "garage.rajsingh.info/v1alpha1";
/// Prefix of our labels and annotations; users may not set keys with it on pods.
pub const PREFIX: &str = "garage.rajsingh.info/";
/// Suffix of the field manager: `gatewright/garage`.
pub const FIELD_MANAGER: &str = "garage";

/// Label: always [`APP`].
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// Label: name of the GarageCluster.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// Label: [`COMPONENT_STORAGE`] or [`COMPONENT_GATEWAY`].
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Label: always [`MANAGER`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_NAME`].
pub const APP: &str = "garage";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGER: &str = "garage-operator";
/// Value of [`LABEL_COMPONENT`] on everything of a storage cluster.
pub const COMPONENT_STORAGE: &str = "storage";
/// Value of [`LABEL_COMPONENT`] on everything of a gateway cluster.
pub const COMPONENT_GATEWAY: &str = "gateway";
/// Keys with these prefixes are ours on pods; users may not set them.
pub const RESERVED_LABEL_PREFIXES: [&str; 2] = ["app.kubernetes.io/", PREFIX];

/// Annotation of a pod template: hash of what the process reads once at its start.
pub const ANNOTATION_CONFIG_HASH: &str = "garage.rajsingh.info/config-hash";
/// Annotation of a GarageBucket: `"true"` lets it take over a bucket that exists already.
pub const ANNOTATION_ADOPT: &str = "garage.rajsingh.info/adopt";
/// Annotation of a gateway pod: the slot (decimal) whose node key it holds.
pub const ANNOTATION_SLOT: &str = "garage.rajsingh.info/slot";
/// Scheduling gate of a gateway pod: removed together with the setting of [`ANNOTATION_SLOT`].
pub const GATE_SLOT: &str = "garage.rajsingh.info/slot";
/// Readiness gate (pod condition type) of a gateway pod: its tables are as full as storage's.
pub const GATE_SYNCED: &str = "garage.rajsingh.info/synced";
/// Environment variable of the pod: the slot, which selects the node key.
pub const ENV_SLOT: &str = "GARAGE_SLOT";
/// Environment variables that the operator sets or that would contradict it; `spec.env` may not.
pub const RESERVED_ENV: [&str; 8] = [
    "GARAGE_CONFIG_FILE",
    "GARAGE_RPC_SECRET",
    "GARAGE_RPC_SECRET_FILE",
    "GARAGE_ADMIN_TOKEN",
    "GARAGE_ADMIN_TOKEN_FILE",
    "GARAGE_METRICS_TOKEN",
    "GARAGE_METRICS_TOKEN_FILE",
    ENV_SLOT,
];

/// Finalizer of a GarageCluster.
pub const FINALIZER_CLUSTER: &str = "garagecluster.garage.rajsingh.info/finalizer";
/// Finalizer of a GarageNode.
pub const FINALIZER_NODE: &str = "garagenode.garage.rajsingh.info/finalizer";
/// Finalizer of a GarageBucket.
pub const FINALIZER_BUCKET: &str = "garagebucket.garage.rajsingh.info/finalizer";
/// Finalizer of a GarageKey.
pub const FINALIZER_KEY: &str = "garagekey.garage.rajsingh.info/finalizer";
/// Finalizer of a GarageAdminToken.
pub const FINALIZER_ADMIN_TOKEN: &str = "garageadmintoken.garage.rajsingh.info/finalizer";

/// Condition types. `True` is good for all but those that name a trouble (Degraded, LayoutBlocked, QuorumAtRisk,
/// ForeignStagedChanges, DeletionBlocked).
pub mod condition {
    /// The object does all it was asked to do.
    pub const READY: &str = "Ready";
    /// It works, but less than it should.
    pub const DEGRADED: &str = "Degraded";
    /// Gateway: the Admin API of the storage cluster answers.
    pub const STORAGE_CONNECTED: &str = "StorageConnected";
    /// All nodes have their role in the current layout version.
    pub const LAYOUT_JOINED: &str = "LayoutJoined";
    /// Garage refuses the layout that is wanted; the message is Garage's own sentence.
    pub const LAYOUT_BLOCKED: &str = "LayoutBlocked";
    /// One more lost node makes admin writes or data unavailable.
    pub const QUORUM_AT_RISK: &str = "QuorumAtRisk";
    /// Somebody else staged layout changes; they are never applied by the operator.
    pub const FOREIGN_STAGED_CHANGES: &str = "ForeignStagedChanges";
    /// Storage: gateway clusters refer to this cluster.
    pub const GATEWAYS_ATTACHED: &str = "GatewaysAttached";
    /// A reference to another namespace has its ReferenceGrant.
    pub const REFERENCE_GRANTED: &str = "ReferenceGranted";
    /// Deletion waits; the message says for what.
    pub const DELETION_BLOCKED: &str = "DeletionBlocked";
}
