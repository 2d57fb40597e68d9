//! Mutual TLS 1.3 as the floor speaks it: both ends show a certificate of one CA, nothing is resumed. Whose certificate it
//! is goes unread, which is why this is a floor and not a proxy.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, client::Resumption, server::WebPkiClientVerifier,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// What both ends need.
#[derive(Debug)]
pub(crate) struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl Material {
    /// Of PEM files.
    pub(crate) fn read(certificate: &Path, key: &Path, roots: &Path) -> Result<Self> {
        let mut trusted = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(roots).with_context(|| roots.display().to_string())? {
            trusted.add(root?)?;
        }
        Ok(Self {
            chain: CertificateDer::pem_file_iter(certificate)
                .with_context(|| certificate.display().to_string())?
                .collect::<Result<_, _>>()?,
            key: PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?,
            roots: Arc::new(trusted),
        })
    }

    /// Requires a certificate and gives out no tickets.
    pub(crate) fn server(self, protocol: Option<&[u8]>) -> Result<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder(self.roots).build()?;
        let mut config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain, self.key)?;
        config.send_tls13_tickets = 0;
        config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
        Ok(config)
    }

    /// Shows its certificate and resumes nothing.
    pub(crate) fn client(self, protocol: Option<&[u8]>) -> Result<ClientConfig> {
        let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
            .with_root_certificates(self.roots)
            .with_client_auth_cert(self.chain, self.key)?;
        config.resumption = Resumption::disabled();
        config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
        Ok(config)
    }
}
