//! The command line of each process of the cluster, and starting and watching them. It may not choose an order.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};

use super::Node;
use super::holder::Holder;
use crate::{tools, workspace};

pub(super) const CONTAINERD: &str = "containerd";
pub(super) const ETCD: &str = "etcd";
pub(super) const APISERVER: &str = "kube-apiserver";
pub(super) const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub(super) const SCHEDULER: &str = "kube-scheduler";
pub(super) const KUBELET: &str = "kubelet";
pub(super) const PROXY: &str = "kube-proxy";

/// All of them.
pub(super) const ALL: [&str; 7] = [
    CONTAINERD,
    ETCD,
    APISERVER,
    CONTROLLER_MANAGER,
    SCHEDULER,
    KUBELET,
    PROXY,
];

/// Programs that have to be on this machine besides the components themselves.
const HELPERS: [&str; 9] = [
    "ctr",
    "runc",
    "conntrack",
    "iptables",
    "nft",
    "ip",
    "nsenter",
    "unshare",
    "busybox",
];

/// Writes its own pid (as seen inside), then becomes the component.
const START: &str = r#"echo "$$" > "$0"; exec "$@" < /dev/null"#;

/// Fails with the first program that is missing and how to get it.
pub(super) fn check() -> Result<()> {
    for component in ALL {
        program(component)?;
    }
    for helper in HELPERS {
        workspace::program(helper)
            .with_context(|| format!("there is no {helper}: run `cargo xtask tools node`"))?;
    }
    Ok(())
}

fn program(component: &str) -> Result<PathBuf> {
    if component.starts_with("kube") {
        return tools::binary("kubernetes", component);
    }
    workspace::program(component)
        .with_context(|| format!("there is no {component}: run `cargo xtask tools node`"))
}

/// Starts a component inside. It goes on when we end.
pub(super) fn start(node: &Node, holder: &Holder, component: &str) -> Result<()> {
    let path = node.log(component);
    let log = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let errors = log.try_clone().context("cannot share the log")?;
    let status = holder
        .command("setsid")
        .args(["--fork", "sh", "-c", START])
        .arg(pid_file(node, component))
        .arg(program(component)?)
        .args(arguments(component, &node.state()))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .status();
    let status = status.with_context(|| format!("cannot start {component}"))?;
    anyhow::ensure!(status.success(), "cannot start {component} ({status})");
    Ok(())
}

/// The folder in /proc of a component that runs.
pub(super) fn process(node: &Node, holder: &Holder, component: &str) -> Option<PathBuf> {
    let pid = std::fs::read_to_string(pid_file(node, component)).ok()?;
    let process = holder.process(pid.trim().parse().ok()?);
    let program = std::fs::read_link(process.join("exe")).ok()?;
    // Between the pid file and `exec` it is still the shell.
    program.ends_with(component).then_some(process)
}

/// The end of a component's log, to say why it is not there.
pub(super) fn last_words(node: &Node, component: &str) -> String {
    let text = std::fs::read_to_string(node.log(component)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n  ")
}

fn pid_file(node: &Node, component: &str) -> PathBuf {
    node.state().join("pids").join(component)
}

fn arguments(component: &str, state: &Path) -> Vec<String> {
    let state = state.display();
    let kubeconfig = format!("{state}/conf/{component}.kubeconfig");
    match component {
        CONTAINERD => vec![format!("--config={state}/conf/containerd.toml")],
        ETCD => vec![
            format!("--data-dir={state}/etcd"),
            "--unsafe-no-fsync".into(),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-cluster=default=http://127.0.0.1:2380".into(),
            // One member elects itself; the default second of patience only delays the start.
            "--heartbeat-interval=50".into(),
            "--election-timeout=500".into(),
        ],
        APISERVER => apiserver(&format!("{state}/pki")),
        CONTROLLER_MANAGER => vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
            "--use-service-account-credentials=true".into(),
            format!("--service-account-private-key-file={state}/pki/accounts.key"),
            format!("--root-ca-file={state}/pki/ca.crt"),
            format!("--cluster-signing-cert-file={state}/pki/ca.crt"),
            format!("--cluster-signing-key-file={state}/pki/ca.key"),
            "--allocate-node-cidrs=true".into(),
            "--node-cidr-mask-size=24".into(),
            format!("--cluster-cidr={}", Node::PODS),
            format!("--service-cluster-ip-range={}", Node::SERVICES),
            "--enable-hostpath-provisioner=true".into(),
            // The default of 20 requests a second makes the first seconds long ones.
            "--kube-api-qps=500".into(),
            "--kube-api-burst=1000".into(),
            "--profiling=false".into(),
        ],
        SCHEDULER => vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
            "--kube-api-qps=500".into(),
            "--kube-api-burst=1000".into(),
            "--profiling=false".into(),
        ],
        KUBELET => vec![
            format!("--config={state}/conf/kubelet.yaml"),
            format!("--kubeconfig={kubeconfig}"),
            format!("--node-ip={}", Node::NODE_IP),
            format!("--hostname-override={}", Node::NAME),
        ],
        PROXY => vec![format!("--config={state}/conf/kube-proxy.yaml")],
        other => unreachable!("{other} is no component"),
    }
}

fn apiserver(pki: &str) -> Vec<String> {
    vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        "--bind-address=0.0.0.0".into(),
        "--secure-port=6443".into(),
        format!("--advertise-address={}", Node::NODE_IP),
        format!("--service-cluster-ip-range={}", Node::SERVICES),
        format!("--tls-cert-file={pki}/apiserver.crt"),
        format!("--tls-private-key-file={pki}/apiserver.key"),
        format!("--client-ca-file={pki}/ca.crt"),
        format!("--token-auth-file={pki}/tokens.csv"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={pki}/accounts.pub"),
        format!("--service-account-signing-key-file={pki}/accounts.key"),
        format!("--kubelet-client-certificate={pki}/kubelet-client.crt"),
        format!("--kubelet-client-key={pki}/kubelet-client.key"),
        format!("--kubelet-certificate-authority={pki}/ca.crt"),
        "--kubelet-preferred-address-types=InternalIP".into(),
        // For aggregated API servers.
        format!("--requestheader-client-ca-file={pki}/ca.crt"),
        "--requestheader-allowed-names=front-proxy".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--proxy-client-cert-file={pki}/front-proxy.crt"),
        format!("--proxy-client-key-file={pki}/front-proxy.key"),
        "--enable-aggregator-routing=true".into(),
        "--shutdown-delay-duration=0s".into(),
        "--profiling=false".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_has_a_command_line() {
        for component in ALL {
            let arguments = arguments(component, Path::new("/s"));
            assert!(!arguments.is_empty(), "{component}");
            assert!(arguments.iter().all(|argument| argument.starts_with("--")));
        }
    }
}
