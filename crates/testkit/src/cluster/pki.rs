//! The keys and certificates of one test cluster. It may not touch a disk.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// All in PEM, except `ca_der`.
pub(super) struct Pki {
    pub(super) ca_der: Vec<u8>,
    pub(super) ca_cert: String,
    pub(super) server_cert: String,
    pub(super) server_key: String,
    /// ECDSA P-256; the apiserver signs service accounts' tokens with it (ES256).
    pub(super) account_key: String,
    pub(super) account_public_key: String,
}

impl Pki {
    pub(super) fn new() -> Self {
        Self::generate().unwrap_or_else(|e| panic!("cannot make the cluster's certificates: {e}"))
    }

    fn generate() -> Result<Self, rcgen::Error> {
        let mut ca = CertificateParams::default();
        ca.distinguished_name
            .push(DnType::CommonName, "testkit cluster CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

        let names = ["localhost", "127.0.0.1", "kubernetes.default.svc"];
        let mut server = CertificateParams::new(names.map(String::from))?;
        server
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let server_key = KeyPair::generate()?;
        let server_cert = server.signed_by(&server_key, &ca)?;

        let account_key = KeyPair::generate()?;

        Ok(Self {
            ca_der: ca.der().to_vec(),
            ca_cert: ca.pem(),
            server_cert: server_cert.pem(),
            server_key: server_key.serialize_pem(),
            account_key: account_key.serialize_pem(),
            account_public_key: account_key.public_key_pem(),
        })
    }
}
