//! Certificates for the tunnel listener. Reads two files; may not make or renew anything.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::Error;
use crate::config::TlsFiles;

/// An acceptor that speaks TLS 1.3 and our ALPN token, and nothing else.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, Error> {
    let unreadable = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| Error::TlsFile {
            path,
            source: Box::new(source),
        }
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable(&files.cert))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable(&files.key))?;
    let mut config =
        rustls::ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(Error::TlsPair)?;
    config.alpn_protocols = vec![gatewright_link::ALPN.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
