//! Keys, certificates, tokens and kubeconfigs of one cluster, made anew at each `up`. It may not talk to anybody.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::Node;

/// Who holds a token: file name, user, groups.
const USERS: [(&str, &str, &str); 5] = [
    ("admin", "admin", "system:masters"),
    (
        "kube-controller-manager",
        "system:kube-controller-manager",
        "",
    ),
    ("kube-scheduler", "system:kube-scheduler", ""),
    ("kube-proxy", "system:kube-proxy", ""),
    ("kubelet", "system:node:gatewright", "system:nodes"),
];

/// Writes `pki/` and the kubeconfigs below `conf/` of the state folder, and the administrator's kubeconfig.
pub(super) fn write(node: &Node) -> Result<()> {
    let state = node.state();
    certificates(&state.join("pki")).context("cannot make the certificates")?;
    let authority = state.join("pki/ca.crt");
    let mut table = String::new();
    for (name, user, groups) in USERS {
        let token = random_token()?;
        table.push_str(&format!("{token},{user},{user},\"{groups}\"\n"));
        let text = kubeconfig(&authority, user, &token);
        secret(&state.join(format!("conf/{name}.kubeconfig")), &text)?;
        if name == "admin" {
            secret(&node.kubeconfig(), &text)?;
        }
    }
    secret(&state.join("pki/tokens.csv"), &table)
}

fn certificates(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("gatewright cluster CA", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    secret(&folder.join("ca.crt"), &authority.pem())?;
    secret(&folder.join("ca.key"), &authority.key().serialize_pem())?;

    let api_names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        Node::NODE_IP,
        Node::API_SERVICE_IP,
    ];
    let kubelet_names = [Node::NAME, Node::NODE_IP, "127.0.0.1"];
    for (file, subject, names) in [
        ("apiserver", subject("kube-apiserver", None), &api_names[..]),
        ("kubelet", subject(Node::NAME, None), &kubelet_names),
        (
            "kubelet-client",
            subject("kube-apiserver", Some("system:masters")),
            &[],
        ),
        ("front-proxy", subject("front-proxy", None), &[]),
    ] {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name = subject;
        leaf.use_authority_key_identifier_extension = true;
        leaf.extended_key_usages = vec![if leaf.subject_alt_names.is_empty() {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        }];
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &authority)?;
        secret(&folder.join(format!("{file}.crt")), &certificate.pem())?;
        secret(&folder.join(format!("{file}.key")), &key.serialize_pem())?;
    }

    // Signs the service accounts' tokens.
    let accounts = KeyPair::generate()?;
    secret(&folder.join("accounts.key"), &accounts.serialize_pem())?;
    secret(&folder.join("accounts.pub"), &accounts.public_key_pem())
}

fn subject(common_name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        subject.push(DnType::OrganizationName, organisation);
    }
    subject
}

/// JSON is YAML, so this is a kubeconfig.
fn kubeconfig(authority: &Path, user: &str, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "gatewright",
            "cluster": {
                "server": Node::API_URL,
                "certificate-authority": authority,
            },
        }],
        "users": [{ "name": user, "user": { "token": token } }],
        "contexts": [{ "name": "gatewright", "context": { "cluster": "gatewright", "user": user } }],
        "current-context": "gatewright",
    })
    .to_string()
}

fn random_token() -> Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that only root can read.
fn secret(path: &Path, text: &str) -> Result<()> {
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ() {
        let (one, two) = (random_token().expect("one"), random_token().expect("two"));
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
