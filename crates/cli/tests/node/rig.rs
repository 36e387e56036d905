//! What the node test drives: a real cluster, an edge outside it, kubectl. It may not assert anything about either.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use gatewright_testkit::await_condition;
use gatewright_testkit::keeper::Keeper;
use gatewright_testkit::parts;
use gatewright_testkit::ports::free_port;
use gatewright_testkit::scratch::Scratch;

pub(crate) const GATEWRIGHT: &str = env!("CARGO_BIN_EXE_gatewright");

/// The address of this machine on the link to the node that `cargo xtask cluster` makes.
const LINK: &str = "10.250.0.1";

/// A cluster with a node. One that this test brought up ends with it; one that was there stays.
pub(crate) struct Node {
    pub(crate) kubeconfig: PathBuf,
    kubectl: PathBuf,
    /// This machine's address as pods see it.
    pub(crate) host: String,
    ours: bool,
}

impl Node {
    /// `GATEWRIGHT_NODE_KUBECONFIG` names a cluster to use instead; it needs the images `gatewright:dev` and
    /// `gatewright.local/busybox:1`, and `GATEWRIGHT_NODE_HOST` says how its pods reach this machine.
    pub(crate) fn up() -> Option<Self> {
        let kubectl = gatewright_testkit::part("kubectl")?;
        if let Some(kubeconfig) = std::env::var_os("GATEWRIGHT_NODE_KUBECONFIG") {
            let host = std::env::var("GATEWRIGHT_NODE_HOST");
            return Some(Self {
                kubeconfig: kubeconfig.into(),
                kubectl,
                host: host.expect("GATEWRIGHT_NODE_HOST: this machine's address as pods see it"),
                ours: false,
            });
        }
        for part in [
            "etcd",
            "kube-apiserver",
            "kubelet",
            "containerd",
            "runc",
            "nft",
        ] {
            gatewright_testkit::part(part)?;
        }
        if !is_root() {
            parts::skip("a node needs namespaces, mounts and network links, and those need root");
            return None;
        }
        let ours = !xtask(&["cluster", "status"]).status.success();
        let up = text(&expect(xtask(&["cluster", "up"]), "cargo xtask cluster up"));
        let node = Self {
            kubeconfig: up
                .trim()
                .strip_prefix("KUBECONFIG=")
                .unwrap_or_else(|| panic!("`cargo xtask cluster up` names no kubeconfig: {up}"))
                .into(),
            kubectl,
            host: LINK.to_owned(),
            ours,
        };
        let image = xtask(&["cluster", "image", "gatewright:dev", GATEWRIGHT]);
        expect(image, "cargo xtask cluster image");
        Some(node)
    }

    /// What kubectl answers; its exit status is the caller's to judge.
    pub(crate) fn ask(&self, arguments: &str) -> Output {
        Command::new(&self.kubectl)
            .args(["--kubeconfig".as_ref(), self.kubeconfig.as_os_str()])
            .args(arguments.split(' '))
            .output()
            .unwrap_or_else(|e| panic!("cannot start kubectl: {e}"))
    }

    /// What kubectl prints; panics unless it succeeds.
    pub(crate) fn kubectl(&self, arguments: &str) -> String {
        text(&expect(
            self.ask(arguments),
            &format!("kubectl {arguments}"),
        ))
    }

    /// Applies a manifest file.
    pub(crate) fn apply(&self, manifest: &Path) {
        self.kubectl(&format!("apply -f {}", manifest.display()));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in [
                "get pods -A -o wide",
                "get events -A --sort-by=.lastTimestamp",
                "-n gatewright logs deployment/gatewright-agent --tail=50",
            ] {
                let output = self.ask(what);
                eprintln!("--- kubectl {what}\n{}{}", text(&output), errors(&output));
            }
        }
        if self.ours {
            let down = xtask(&["cluster", "down"]);
            if !down.status.success() {
                eprintln!("cargo xtask cluster down: {}", errors(&down));
            }
        }
    }
}

/// An edge on this machine, outside the cluster.
pub(crate) struct Edge {
    process: Keeper,
    admin: String,
    pub(crate) address: SocketAddr,
    pub(crate) dir: Scratch,
}

impl Edge {
    /// Listens on `host` for users and agents, on loopback for administrators.
    pub(crate) async fn start(host: &str) -> Self {
        let dir = Scratch::new("edge");
        let (http, admin) = (format!("{host}:{}", free_port()), free_port());
        let config = format!(
            "listen: {{ http: \"{http}\", admin: \"127.0.0.1:{admin}\" }}\n\
             domain: gateway.localhost\n\
             store: {{ path: {} }}\n",
            dir.path().join("store").display()
        );
        let file = dir.path().join("edge.yaml");
        std::fs::write(&file, config).expect("write edge.yaml");
        let arguments = ["edge", "--config", file.to_str().expect("a path in UTF-8")];
        let mut edge = Self {
            process: Keeper::spawn(
                Path::new(GATEWRIGHT),
                &arguments.map(String::from),
                dir.path(),
                &dir.path().join("edge.log"),
            ),
            admin: format!("http://127.0.0.1:{admin}"),
            address: http.parse().expect("an address"),
            dir,
        };
        let (address, dir) = (edge.address, edge.dir.path().to_owned());
        let process = &mut edge.process;
        await_condition("the edge listens", Duration::from_secs(20), || {
            if let Some(status) = process.exited() {
                let log = std::fs::read_to_string(dir.join("edge.log")).unwrap_or_default();
                panic!("the edge ended ({status}): {log}");
            }
            async move { tokio::net::TcpStream::connect(address).await.is_ok() }
        })
        .await;
        edge
    }

    /// Registers a cluster; the file with its token.
    pub(crate) fn create_cluster(&self, name: &str, hosts: &str) -> PathBuf {
        let created = Command::new(GATEWRIGHT)
            .args(["clusters", "create", name, "--hosts", hosts])
            .args(["--admin", &self.admin])
            .output()
            .unwrap_or_else(|e| panic!("cannot start gatewright: {e}"));
        let token = expect(created, "gatewright clusters create").stdout;
        let file = self.dir.path().join("token");
        std::fs::write(&file, token).expect("write the token");
        file
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("edge.log"));
            eprintln!("--- edge\n{}", log.unwrap_or_default());
        }
    }
}

pub(crate) fn xtask(arguments: &[&str]) -> Output {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Command::new(cargo)
        .args(["run", "--quiet", "--package", "xtask", "--"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("cannot start cargo: {e}"))
}

pub(crate) fn expect(output: Output, what: &str) -> Output {
    assert!(
        output.status.success(),
        "{what} failed ({}): {}",
        output.status,
        errors(&output)
    );
    output
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
