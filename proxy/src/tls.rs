//! Ends TLS towards downstream and starts it towards upstream. Takes a connection and a configuration, hands on an
//! encrypted stream within the time limit, and refuses with the code of whichever rule was broken.

mod stream;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    AlertDescription, ClientConfig, PeerIncompatible, RootCertStore, ServerConfig,
    client::UnbufferedClientConnection,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    server::UnbufferedServerConnection,
};
use sidegate_codes::Code;
use sidegate_identity::tls::peer_error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client};

pub(crate) use stream::{Session, TlsStream};

use crate::error::Error;

/// A downstream peer's connection. On the heap: it is more than a kilobyte, and each step of the path would hold another.
pub(crate) type Terminated = Box<TlsStream<UnbufferedServerConnection>>;

/// An upstream peer's.
pub(crate) type Originated = Box<TlsStream<UnbufferedClientConnection>>;

/// Ends TLS with a downstream peer, which must present a certificate.
pub(crate) async fn terminate(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    limit: Duration,
) -> Result<Terminated, Error> {
    let session =
        UnbufferedServerConnection::new(config).map_err(|error| failure(&io::Error::other(error)))?;
    match timeout(limit, TlsStream::establish(tcp, session)).await {
        Err(_) => Err(Error::HandshakeTimeout),
        Ok(stream) => stream.map_err(|error| failure(&error)),
    }
}

/// Starts TLS with an upstream peer, which must prove one of the identities that `config` expects.
pub(crate) async fn originate(tcp: TcpStream, config: Arc<ClientConfig>) -> Result<Originated, Error> {
    let session = UnbufferedClientConnection::new(config, unused_name());
    let session = session.map_err(|error| failure(&io::Error::other(error)))?;
    TlsStream::establish(tcp, session).await.map_err(|error| failure(&error))
}

/// The same over any stream, for what is called beside the data path.
pub(crate) async fn originate_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ClientConfig>,
) -> Result<client::TlsStream<S>, Error> {
    TlsConnector::from(config).connect(unused_name(), stream).await.map_err(|error| failure(&error))
}

/// Neither sent nor compared: the expected identities are the check.
fn unused_name() -> ServerName<'static> {
    ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED))
}

/// TLS 1.3 towards servers outside of the mesh, for which the authorities in a PEM file vouch. The error is for the log.
pub(crate) async fn trusting_file(trust_bundle: &Path, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("{}: {error}", trust_bundle.display());
    let pem = tokio::fs::read(trust_bundle).await.map_err(|error| unusable(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        // A root of a kind that rustls does not take vouches for nobody.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(unusable(&"no authority in it"));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Why a handshake failed, with a reason of a closed set.
fn failure(error: &io::Error) -> Error {
    let detail = error.to_string();
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Error::Handshake { code: Code::HandshakeFailed, reason: "closed", detail };
    };
    if let Some(refused) = peer_error(tls) {
        return Error::Handshake {
            code: refused.code(),
            reason: refused.reason(),
            detail: refused.to_string(),
        };
    }
    let (code, reason) = match tls {
        rustls::Error::NoCertificatesPresented => (Code::NoClientCertificate, "no_certificate"),
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            (Code::HandshakeFailed, "we_expired")
        }
        rustls::Error::AlertReceived(_) => (Code::HandshakeFailed, "peer_alert"),
        rustls::Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => {
            (Code::HandshakeFailed, "key_exchange")
        }
        rustls::Error::PeerIncompatible(_) => (Code::HandshakeFailed, "incompatible"),
        rustls::Error::NoApplicationProtocol => (Code::HandshakeFailed, "no_protocol"),
        _ => (Code::HandshakeFailed, "protocol"),
    };
    Error::Handshake { code, reason, detail }
}
