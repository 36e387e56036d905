//! GarageCluster.

use super::Door;

const STORAGE: &str = "{ storage: { data: { size: 100Gi } } }";
const PATHS: &str = "{ storage: { data: { paths: [{ path: /mnt/a, volume: { size: 1Gi } }] } } }";
const GATEWAY: &str = "{ gateway: true, connectTo: { clusterRef: { name: garage-storage } } }";
const EXTERNAL: &str = "{ gateway: true, connectTo: {
    rpcSecretRef: { name: shared, key: rpc-secret }, bootstrapPeers: ['HEX@storage-1.example.com:3901'],
    adminApiEndpoint: 'http://storage-1.example.com:3903', adminTokenSecretRef: { name: admin, key: admin-token } } }";

#[tokio::test]
async fn accepted() {
    let Some(mut door) = Door::new("GarageCluster").await else {
        return;
    };
    door.accepts(
        STORAGE,
        &[
            "{}",
            "{ replicas: 1, replication: { factor: 1 } }",
            "{ replication: { zoneRedundancy: AtLeast(3), consistencyMode: degraded } }",
            "{ layoutPolicy: Manual, storage: null }",
            "{ storage: { data: { size: 1000000000 } } }",
            "{ env: [{ name: RUST_BACKTRACE, value: '1' }, { name: X, valueFrom: { secretKeyRef: { name: s, key: k, optional: true } } }] }",
            "{ podLabels: { team: storage, example.com/team: storage }, podAnnotations: { app.kubernetes.io/x: z } }",
            "{ s3Api: { bindAddress: '[::]:3900' }, admin: { bindAddress: 0.0.0.0 }, webApi: { bindAddress: '::' } }",
            "{ webApi: { bindPort: 3904 } }",
            "{ discovery: { kubernetes: { enabled: false } }, logging: { syslog: false }, remoteClusters: [] }",
            "{ publicEndpoint: { type: LoadBalancer, loadBalancer: { perNode: true } } }",
            "{ publicEndpoint: { type: NodePort, nodePort: { basePort: 30900, externalAddresses: [192.0.2.1] } } }",
            "{ publicEndpoint: { type: ExternalIP, externalIP: { addressTemplate: '{ordinal}.example.com' } } }",
            "{ network: { service: { type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerSourceRanges: [10.0.0.0/8] } } }",
            "{ network: { rpcPublicAddr: '$(POD_NAME).example.com:3901', rpcPublicAddrSubnet: 'fd00::/8' } }",
            "{ storage: { metadata: { size: 1Gi, volumeClaimTemplateSpec: { volumeMode: Filesystem } } } }",
            "{ affinity: { podAntiAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [{ topologyKey: kubernetes.io/hostname }] } } }",
            "{ blocks: { size: 10Mi, compressionLevel: none }, database: { engine: fjall, fjallBlockCacheSize: 128Mi } }",
            "{ securityContext: { runAsUser: 1000 }, containerSecurityContext: { readOnlyRootFilesystem: true } }",
        ],
    )
    .await;
    door.accepts(PATHS, &["{}"]).await;
    door.accepts(
        GATEWAY,
        &[
            "{}",
            "{ replication: { factor: 3 } }",
            "{ zone: dc1, s3Api: { region: eu } }",
        ],
    )
    .await;
    door.accepts(EXTERNAL, &["{}"]).await;
}

#[tokio::test]
async fn refused() {
    let Some(mut door) = Door::new("GarageCluster").await else {
        return;
    };
    modes(&mut door).await;
    connections(&mut door).await;
    volumes(&mut door).await;
    pods(&mut door).await;
    serving(&mut door).await;
    unsupported(&mut door).await;
    changes(&mut door).await;
    door.rejects_names(
        STORAGE,
        &[
            (
                "a2345678901234567890123456789012345678901",
                "metadata.name must be at most 40 characters",
            ),
            ("9lives", "metadata.name must start with a letter"),
            ("with.dot", "metadata.name must start with a letter"),
        ],
    )
    .await;
    door.all_rules_seen();
}

async fn modes(door: &mut Door) {
    door.rejects(
        STORAGE,
        &[
            (
                "{ gateway: true, storage: null }",
                "connectTo is required when gateway is true",
            ),
            (
                "{ connectTo: { clusterRef: { name: s } } }",
                "connectTo can only be specified when gateway is true",
            ),
            (
                "{ storage: null }",
                "storage.data.size or storage.data.paths is required for a storage cluster",
            ),
            (
                "{ storage: { data: { size: null } } }",
                "storage.data.size or storage.data.paths is required for a storage cluster",
            ),
            ("{ replicas: 0 }", "spec.replicas"),
            (
                "{ replicas: 2, layoutManagement: { minNodesHealthy: 3 } }",
                "layoutManagement.minNodesHealthy cannot exceed replicas",
            ),
            ("{ replication: { factor: 8 } }", "spec.replication.factor"),
            (
                "{ replication: { zoneRedundancy: AtLeast(4) } }",
                "replication.zoneRedundancy cannot ask for more zones",
            ),
            (
                "{ replication: { zoneRedundancy: AtLeast(0) } }",
                "spec.replication.zoneRedundancy",
            ),
            (
                "{ defaultNodeTags: ['cluster-uid:x'] }",
                "defaultNodeTags may not start with",
            ),
            ("{ nonsense: 1 }", "nonsense"),
        ],
    )
    .await;
    door.rejects(
        GATEWAY,
        &[
            (
                "{ storage: { data: { size: 1Gi } } }",
                "storage cannot be specified for gateway clusters",
            ),
            (
                "{ storage: { metadata: { size: 1Gi } } }",
                "storage cannot be specified for gateway clusters",
            ),
            (
                "{ capacityReservePercent: 1 }",
                "capacityReservePercent cannot be specified for gateway clusters",
            ),
            (
                "{ layoutPolicy: Manual }",
                "layoutPolicy Manual cannot be specified for gateway clusters",
            ),
            (
                "{ replication: { zoneRedundancy: Maximum } }",
                "replication.zoneRedundancy cannot be specified for gateway clusters",
            ),
            (
                "{ network: { rpcSecretRef: { name: s, key: k } } }",
                "network.rpcSecretRef and network.bootstrapPeers cannot be specified",
            ),
            (
                "{ publicEndpoint: { type: Headless } }",
                "publicEndpoint cannot be specified for gateway clusters",
            ),
        ],
    )
    .await;
}

async fn connections(door: &mut Door) {
    door.rejects(
        GATEWAY,
        &[
            (
                "{ connectTo: { clusterRef: null } }",
                "must specify clusterRef, rpcSecretRef, or bootstrapPeers",
            ),
            (
                "{ connectTo: { adminApiEndpoint: 'http://a:1' } }",
                "connectTo.clusterRef excludes rpcSecretRef",
            ),
            (
                "{ connectTo: { clusterRef: { kubeConfigSecretRef: { name: a, key: b } } } }",
                "clusterRef.kubeConfigSecretRef is not supported",
            ),
            (
                "{ connectTo: { clusterRef: { name: '' } } }",
                "spec.connectTo.clusterRef.name",
            ),
        ],
    )
    .await;
    door.rejects(
        EXTERNAL,
        &[
            (
                "{ connectTo: { rpcSecretRef: null } }",
                "connectTo without clusterRef needs rpcSecretRef, bootstrapPeers, adminApiEndpoint and adminTokenSecretRef; rpcSecretRef is missing",
            ),
            ("{ connectTo: { adminApiEndpoint: null } }", "adminApiEndpoint is missing"),
            (
                "{ connectTo: { rpcSecretRef: null, adminTokenSecretRef: null } }",
                "adminTokenSecretRef is missing",
            ),
            (
                "{ connectTo: { bootstrapPeers: null } }",
                "bootstrapPeers is missing",
            ),
            (
                "{ connectTo: { bootstrapPeers: [] } }",
                "spec.connectTo.bootstrapPeers",
            ),
            (
                "{ connectTo: { bootstrapPeers: ['abc@h:1'] } }",
                "a bootstrap peer must be <node id, 64 hex digits>@<host>:<port>",
            ),
            (
                "{ connectTo: { bootstrapPeers: ['HEX@h'] } }",
                "a bootstrap peer must be",
            ),
            (
                "{ connectTo: { adminApiEndpoint: 'storage-1:3903' } }",
                "connectTo.adminApiEndpoint must be http://host:port",
            ),
            (
                "{ connectTo: { adminApiEndpoint: 'http://h:1/v2' } }",
                "connectTo.adminApiEndpoint must be http://host:port",
            ),
            (
                "{ connectTo: { rpcSecretRef: { name: null } } }",
                "a reference to a Secret needs name and key",
            ),
            (
                "{ connectTo: { rpcSecretRef: { optional: true } } }",
                "optional must be false",
            ),
        ],
    )
    .await;
}

async fn volumes(door: &mut Door) {
    door.rejects(
        STORAGE,
        &[
            (
                "{ storage: { data: { paths: [{ path: /a, capacity: 1Gi }] } } }",
                "storage.data.size and storage.data.paths are mutually exclusive",
            ),
            (
                "{ storage: { data: { size: banana } } }",
                "spec.storage.data.size",
            ),
            (
                "{ storage: { data: { size: 0 } } }",
                "storage.data.size must be more than 0",
            ),
            (
                "{ storage: { metadata: { size: '0' } } }",
                "storage.metadata.size must be more than 0",
            ),
            (
                "{ storage: { metadata: { size: 1Gi, accessModes: [ReadOnlyMany] } } }",
                "spec.storage.metadata.accessModes",
            ),
            (
                "{ storage: { metadataSnapshotsDir: relative } }",
                "spec.storage.metadataSnapshotsDir",
            ),
        ],
    )
    .await;
    door.rejects(
        PATHS,
        &[
            ("{ storage: { data: { storageClassName: fast } } }", "storage.data.storageClassName is for storage.data.size"),
            ("{ storage: { data: { paths: [{ path: mnt, volume: { size: 1Gi } }] } } }", "a data path must be absolute"),
            ("{ storage: { data: { paths: [{ path: /var/lib/garage/meta, volume: { size: 1Gi } }] } } }", "a data path must be absolute"),
            ("{ storage: { data: { paths: [{ path: /a }] } } }", "a data path needs volume or capacity"),
            ("{ storage: { data: { paths: [{ path: /a, volume: { size: 0 } }] } } }", "the size of a data volume must be more than 0"),
            ("{ storage: { data: { paths: [{ path: /a, capacity: 1 }, { path: /a, capacity: 1 }] } } }", "uplicate"),
        ],
    )
    .await;
}

async fn pods(door: &mut Door) {
    for name in gatewright_garage::api::RESERVED_ENV {
        let change = format!("{{ env: [{{ name: {name}, value: x }}] }}");
        door.rejects(STORAGE, &[(&change, &format!("env may not set {name}"))])
            .await;
    }
    // The message that stands in where the expression cannot be evaluated.
    door.seen
        .insert("env may not set a variable of the operator".to_owned());
    door.rejects(
        STORAGE,
        &[
            ("{ env: [{ name: A }, { name: A }] }", "uplicate"),
            ("{ podLabels: { app.kubernetes.io/name: x } }", "podLabels may not have keys of the operator"),
            ("{ podLabels: { garage.rajsingh.info/slot: '1' } }", "podLabels may not have keys of the operator"),
            ("{ podAnnotations: { garage.rajsingh.info/slot: '1' } }", "podAnnotations may not have keys of the operator"),
            ("{ serviceAnnotations: { garage.rajsingh.info/x: '1' } }", "serviceAnnotations may not have keys of the operator"),
            ("{ podDisruptionBudget: { minAvailable: '1', maxUnavailable: '1' } }", "podDisruptionBudget.minAvailable and podDisruptionBudget.maxUnavailable are mutually exclusive"),
            ("{ podDisruptionBudget: { minAvailable: some } }", "spec.podDisruptionBudget.minAvailable"),
            ("{ imagePullPolicy: Sometimes }", "spec.imagePullPolicy"),
        ],
    )
    .await;
}

async fn serving(door: &mut Door) {
    door.rejects(
        STORAGE,
        &[
            ("{ s3Api: { bindPort: 3903 } }", "the ports of RPC, S3, K2V, web and admin"),
            ("{ k2vApi: {}, webApi: { bindPort: 3904 } }", "the ports of RPC, S3, K2V, web and admin"),
            ("{ s3Api: { bindPort: 0 } }", "spec.s3Api.bindPort"),
            ("{ s3Api: { bindAddress: 'unix:/x' } }", "s3Api.bindAddress must be an IP address"),
            ("{ k2vApi: { bindAddress: localhost } }", "k2vApi.bindAddress must be an IP address"),
            ("{ webApi: { bindAddress: /run/x.sock } }", "webApi.bindAddress must be an IP address"),
            ("{ admin: { bindAddress: '' } }", "admin.bindAddress must be an IP address"),
            ("{ network: { rpcPublicAddr: example.com } }", "network.rpcPublicAddr must be host:port"),
            ("{ network: { rpcPublicAddrSubnet: 10.0.0.0 } }", "network.rpcPublicAddrSubnet must be a network"),
            ("{ network: { bootstrapPeers: [x] } }", "a bootstrap peer must be"),
            ("{ network: { service: { annotations: { garage.rajsingh.info/x: '1' } } } }", "network.service.annotations may not have keys of the operator"),
            ("{ network: { service: { externalTrafficPolicy: Local } } }", "network.service.externalTrafficPolicy is for Services of type"),
            ("{ network: { service: { loadBalancerIP: 10.0.0.1 } } }", "network.service.loadBalancerIP and loadBalancerSourceRanges are for"),
            ("{ network: { service: { type: LoadBalancer, loadBalancerSourceRanges: [x] } } }", "network.service.loadBalancerSourceRanges must be networks"),
            ("{ blocks: { size: -1 } }", "blocks.size must be more than 0"),
            ("{ blocks: { ramBufferMax: 0 } }", "blocks.ramBufferMax must be more than 0"),
            ("{ blocks: { compressionLevel: fast } }", "spec.blocks.compressionLevel"),
            ("{ database: { lmdbMapSize: 0 } }", "database.lmdbMapSize must be more than 0"),
            ("{ database: { engine: fjall, fjallBlockCacheSize: 0 } }", "database.fjallBlockCacheSize must be more than 0"),
            ("{ database: { fjallBlockCacheSize: 1Mi } }", "database.lmdbMapSize is for engine lmdb"),
            ("{ workers: { resyncWorkerCount: 9 } }", "workers.resyncWorkerCount cannot exceed 8"),
            ("{ publicEndpoint: { type: LoadBalancer } }", "publicEndpoint.loadBalancer.perNode must be true"),
            ("{ publicEndpoint: { type: LoadBalancer, loadBalancer: { perNode: true, annotations: { garage.rajsingh.info/x: z } } } }", "publicEndpoint.loadBalancer.annotations may not"),
            ("{ publicEndpoint: { type: NodePort } }", "publicEndpoint of type NodePort needs"),
            ("{ publicEndpoint: { type: ExternalIP } }", "publicEndpoint of type ExternalIP needs"),
        ],
    )
    .await;
}

async fn unsupported(door: &mut Door) {
    door.rejects(
        STORAGE,
        &[
            ("{ discovery: { kubernetes: { enabled: true } } }", "discovery is not supported"),
            ("{ discovery: { consul: { enabled: true } } }", "discovery is not supported"),
            ("{ remoteClusters: [{ name: a, zone: b, connection: { adminApiEndpoint: 'http://a:1' } }] }", "remoteClusters is not supported"),
            ("{ security: { tls: { enabled: true } } }", "security.tls is not supported"),
            ("{ logging: { syslog: true } }", "logging.syslog and logging.journald are not supported"),
            ("{ s3Api: { enabled: false } }", "s3Api.enabled cannot be false"),
            ("{ admin: { enabled: false } }", "admin.enabled cannot be false"),
        ],
    )
    .await;
}

async fn changes(door: &mut Door) {
    door.updates(
        STORAGE,
        &[
            (
                "{}",
                "{ gateway: true, storage: null, connectTo: { clusterRef: { name: s } } }",
                "gateway is immutable",
            ),
            (
                "{ replication: { factor: 2 } }",
                "{ replication: { factor: 3 } }",
                "replication.factor is immutable",
            ),
            (
                "{ replication: { factor: 2 } }",
                "{}",
                "replication.factor is immutable",
            ),
            (
                "{}",
                "{ replication: { factor: 2 } }",
                "replication.factor is immutable",
            ),
            ("{}", "{ replication: { factor: 3 } }", ""),
            ("{}", "{ replication: { consistencyMode: degraded } }", ""),
            ("{}", "{ zone: other }", ""),
            (
                "{}",
                "{ database: { engine: sqlite } }",
                "database.engine is immutable",
            ),
            ("{}", "{ database: { engine: lmdb } }", ""),
            (
                "{ layoutPolicy: Manual }",
                "{}",
                "layoutPolicy cannot change from Manual to Auto",
            ),
            ("{}", "{ layoutPolicy: Manual }", ""),
            (
                "{ layoutPolicy: Manual }",
                "{ layoutPolicy: Manual, storage: null }",
                "storage cannot be removed",
            ),
            (
                "{}",
                "{ storage: { data: { size: 99Gi } } }",
                "storage.data.size can only grow",
            ),
            ("{}", "{ storage: { data: { size: 102400Mi } } }", ""),
            ("{}", "{ storage: { data: { size: 200Gi } } }", ""),
            (
                "{}",
                "{ storage: { data: { size: null, paths: [{ path: /a, capacity: 1Gi }] } } }",
                "storage.data cannot change between size and paths",
            ),
            (
                "{}",
                "{ storage: { data: { storageClassName: fast } } }",
                "storage.data.storageClassName is immutable",
            ),
            (
                "{ layoutPolicy: Manual, storage: { metadata: { size: 20Gi } } }",
                "{ layoutPolicy: Manual, storage: { data: null, metadata: { size: 20Gi } } }",
                "storage.data cannot be removed",
            ),
            (
                "{ storage: { metadata: { size: 20Gi } } }",
                "{}",
                "storage.metadata cannot be removed",
            ),
            (
                "{ storage: { metadata: { size: 20Gi } } }",
                "{ storage: { metadata: { size: 10Gi } } }",
                "storage.metadata.size can only grow",
            ),
            (
                "{}",
                "{ storage: { metadata: { size: 5Gi } } }",
                "storage.metadata can be added later",
            ),
            ("{}", "{ storage: { metadata: { size: 20Gi } } }", ""),
            (
                "{}",
                "{ storage: { metadata: { size: 20Gi, storageClassName: fast } } }",
                "storage.metadata can be added later",
            ),
        ],
    )
    .await;
    for (field, value) in [
        ("storageClassName", "fast"),
        ("accessModes", "[ReadWriteMany]"),
        ("selector", "{ matchLabels: { a: b } }"),
        ("volumeClaimTemplateSpec", "{ volumeMode: Block }"),
    ] {
        let change = format!("{{ storage: {{ metadata: {{ size: 1Gi, {field}: {value} }} }} }}");
        let message = format!("storage.metadata.{field} is immutable");
        door.updates(
            STORAGE,
            &[(
                "{ storage: { metadata: { size: 1Gi } } }",
                &change,
                &message,
            )],
        )
        .await;
        let change = format!(
            "{{ storage: {{ data: {{ paths: [{{ path: /mnt/a, volume: {{ size: 1Gi, {field}: {value} }} }}] }} }} }}"
        );
        let message = format!("storage.data.paths[].volume.{field} is immutable");
        door.updates(PATHS, &[("{}", &change, &message)]).await;
    }
    let capacity = "{ storage: { data: { paths: [{ path: /mnt/a, capacity: 2Gi }] } } }";
    door.updates(
        PATHS,
        &[
            ("{}", "{ storage: { data: { paths: [{ path: /mnt/a, volume: { size: 1Mi } }] } } }", "the size of a data volume can only grow"),
            ("{}", "{ storage: { data: { paths: [{ path: /mnt/a, readOnly: true, volume: { size: 2Gi } }] } } }", ""),
            ("{}", "{ storage: { data: { paths: [{ path: /mnt/b, volume: { size: 1Gi } }] } } }", "storage.data.paths cannot be added or removed"),
            ("{}", capacity, "the volume of a data path cannot be added or removed"),
            (capacity, "{ storage: { data: { paths: [{ path: /mnt/a, capacity: 1Gi }] } } }", "the capacity of a data path without volume can only grow"),
        ],
    )
    .await;
    door.updates(
        GATEWAY,
        &[
            (
                "{}",
                "{ connectTo: { clusterRef: { name: other } } }",
                "the target of connectTo is immutable",
            ),
            (
                "{}",
                "{ connectTo: { clusterRef: { namespace: other } } }",
                "the target of connectTo is immutable",
            ),
            (
                "{ replication: { factor: 3 } }",
                "{ replication: { factor: 2 } }",
                "replication.factor is immutable",
            ),
            ("{ replication: { factor: 3 } }", "{}", ""),
            ("{}", "{ replication: { factor: 2 } }", ""),
            (
                "{}",
                "{ replicas: 50, zone: other, database: { engine: sqlite } }",
                "",
            ),
        ],
    )
    .await;
    door.updates(
        EXTERNAL,
        &[(
            "{}",
            "{ connectTo: { adminApiEndpoint: 'https://other' } }",
            "",
        )],
    )
    .await;
    let to_cluster =
        "{ connectTo: { clusterRef: { name: s }, rpcSecretRef: null, bootstrapPeers: null,
        adminApiEndpoint: null, adminTokenSecretRef: null } }";
    door.updates(
        EXTERNAL,
        &[("{}", to_cluster, "the target of connectTo is immutable")],
    )
    .await;
}
