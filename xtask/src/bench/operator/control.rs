//! A real etcd and kube-apiserver of the measurement's own, and `kubectl proxy` before them, so that the
//! measurement needs no TLS. It may not know what is measured.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::super::process::Group;
use super::client::Client;
use crate::{stopwatch, tools, workspace};

/// etcd wants `host:port`; the whole of it is the file name of a socket in its folder.
const ETCD: &str = "unix://localhost:1";
const ETCD_PEERS: &str = "unix://localhost:2";

/// How long all of it may take to start.
const START: Duration = Duration::from_secs(60);

/// The running processes.
pub(super) struct Control {
    pub(super) group: Group,
    /// Of the proxy, which makes whoever asks an administrator.
    pub(super) port: u16,
    /// The administrator's.
    pub(super) kubeconfig: PathBuf,
}

impl Control {
    /// Starts everything in `dir`, which has to be empty; the apiserver on `first_port`, the proxy above.
    pub(super) fn start(dir: &Path, first_port: u16) -> Result<Self> {
        let etcd =
            workspace::program("etcd").context("there is no etcd: run `cargo xtask tools`")?;
        let token = random_token()?;
        pki(dir)?;
        secret(
            &dir.join("tokens.csv"),
            &format!("{token},admin,admin,system:masters\n"),
        )?;
        let kubeconfig = dir.join("kubeconfig");
        secret(&kubeconfig, &kubeconfig_of(dir, first_port, &token))?;

        let mut group = Group::default();
        let mut start = |name: &str, program: &Path, arguments: &[String]| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(dir);
            group.spawn(name, &command, &dir.join(format!("{name}.log")))
        };
        start("etcd", &etcd, &etcd_arguments())?;
        let apiserver = tools::binary("kubernetes", "kube-apiserver")?;
        start(
            "kube-apiserver",
            &apiserver,
            &apiserver_arguments(first_port),
        )?;
        let port = first_port + 1;
        let proxy = [
            "proxy".to_owned(),
            format!("--port={port}"),
            format!("--kubeconfig={}", kubeconfig.display()),
        ];
        start("kubectl", &tools::binary("kubernetes", "kubectl")?, &proxy)?;

        let mut control = Self {
            group,
            port,
            kubeconfig,
        };
        control.wait_until_ready()?;
        Ok(control)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let mut ended = Ok(());
        let ready = stopwatch::poll(START, Duration::from_millis(50), || {
            ended = self.group.check();
            let mut client = Client::new(self.port);
            let ready = client.text("/readyz").is_ok_and(|text| text == "ok");
            ended.is_err() || ready && client.get("/api/v1/namespaces/default").is_ok()
        });
        ended?;
        anyhow::ensure!(ready, "the apiserver is not ready after {START:?}");
        Ok(())
    }
}

fn etcd_arguments() -> Vec<String> {
    vec![
        "--data-dir=data".to_owned(),
        "--unsafe-no-fsync".to_owned(),
        "--heartbeat-interval=20".to_owned(),
        "--election-timeout=200".to_owned(),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        format!("--listen-peer-urls={ETCD_PEERS}"),
        format!("--initial-advertise-peer-urls={ETCD_PEERS}"),
        format!("--initial-cluster=default={ETCD_PEERS}"),
    ]
}

fn apiserver_arguments(port: u16) -> Vec<String> {
    vec![
        format!("--etcd-servers={ETCD}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        "--advertise-address=127.0.0.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--tls-cert-file=apiserver.crt".to_owned(),
        "--tls-private-key-file=apiserver.key".to_owned(),
        "--client-ca-file=ca.crt".to_owned(),
        "--token-auth-file=tokens.csv".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-account-key-file=accounts.pub".to_owned(),
        "--service-account-signing-key-file=accounts.key".to_owned(),
        // Without a controller-manager no namespace gets a default account, and pods would be refused.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        // It would write configuration of its own.
        "--enable-priority-and-fairness=false".to_owned(),
        "--shutdown-delay-duration=0s".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

/// JSON is YAML, so this is a kubeconfig.
fn kubeconfig_of(dir: &Path, port: u16, token: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{ "name": "bench", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": dir.join("ca.crt"),
        } }],
        "users": [{ "name": "admin", "user": { "token": token } }],
        "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "admin" } }],
    })
    .to_string()
}

fn pki(dir: &Path) -> Result<()> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "bench CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    secret(&dir.join("ca.crt"), &ca.pem())?;

    let names = ["localhost", "127.0.0.1", "kubernetes.default.svc"];
    let mut leaf = CertificateParams::new(names.map(String::from))?;
    leaf.distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    secret(
        &dir.join("apiserver.crt"),
        &leaf.signed_by(&key, &ca)?.pem(),
    )?;
    secret(&dir.join("apiserver.key"), &key.serialize_pem())?;

    let accounts = KeyPair::generate()?;
    secret(&dir.join("accounts.key"), &accounts.serialize_pem())?;
    secret(&dir.join("accounts.pub"), &accounts.public_key_pem())
}

fn random_token() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A file that only we can read.
fn secret(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
