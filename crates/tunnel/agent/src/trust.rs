//! Whom the agent trusts to be an edge: the system's certificates and those of `ca_file`. It may
//! not weaken the check.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::Error;

/// TLS 1.3 with the system's and the configured roots.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, Error> {
    let mut roots = RootCertStore::empty();
    // A machine without certificates can still use ca_file, or ws:// on loopback.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let bad = |source: Box<dyn std::error::Error + Send + Sync>| Error::CaFile {
            path: path.to_owned(),
            source,
        };
        let mut any = false;
        for certificate in
            CertificateDer::pem_file_iter(path).map_err(|error| bad(Box::new(error)))?
        {
            let certificate = certificate.map_err(|error| bad(Box::new(error)))?;
            roots
                .add(certificate)
                .map_err(|error| bad(Box::new(error)))?;
            any = true;
        }
        if !any {
            return Err(bad("it holds no certificate".into()));
        }
    }
    let config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
