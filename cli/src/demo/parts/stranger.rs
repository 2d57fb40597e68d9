//! Clients that are not of the mesh, straight at a sidecar's inbound port: one with a certificate that names the
//! identity of `orders` but comes from another CA, one with none. Refused means: not one byte of an answer.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};
use tokio_rustls::TlsConnector;

use super::{lines, service::CALLER};
use crate::demo::cast::{ORDERS, identity};

/// Arguments of a stranger.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The inbound port of a sidecar.
    #[arg(long)]
    target: SocketAddr,
}

/// What the stranger presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ForeignAuthority,
    NoCertificate,
}

/// How the attempts ended, whole on each line.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::demo) struct StrangerReport {
    pub(in crate::demo) attempts: u64,
    /// Attempts that ended without a byte of an answer.
    pub(in crate::demo) refused: u64,
    /// How the latest attempt ended.
    pub(in crate::demo) latest: String,
}

/// The mark in the requests of strangers, if one ever got through.
pub(in crate::demo) const STRANGER: &str = "stranger";

/// Tries until the process is ended.
pub(super) async fn run(args: Args, kind: Kind) -> io::Result<()> {
    let config = Arc::new(client_config(kind).map_err(io::Error::other)?);
    let mut report = StrangerReport::default();
    let mut ticks = interval(EVERY);
    loop {
        ticks.tick().await;
        let outcome = timeout(ANSWER_TIMEOUT, attempt(args.target, Arc::clone(&config))).await;
        report.attempts += 1;
        report.refused += u64::from(matches!(outcome, Ok(Err(_))));
        report.latest = match outcome {
            Ok(Err(refusal)) => refusal.to_string(),
            Ok(Ok(())) => "ANSWERED".to_owned(),
            Err(_) => "neither answered nor refused".to_owned(),
        };
        lines::print(&report)?;
    }
}

/// `Ok` when a byte came back. With TLS 1.3 the client's handshake ends before the server has judged its
/// certificate, so only the first read tells.
async fn attempt(target: SocketAddr, config: Arc<ClientConfig>) -> io::Result<()> {
    let stream = TcpStream::connect(target).await?;
    let mut tls =
        TlsConnector::from(config).connect(ServerName::IpAddress(target.ip().into()), stream).await?;
    let request = format!(
        "POST /charge HTTP/1.1\r\nhost: payments\r\n{CALLER}: {STRANGER}\r\ncontent-length: 0\r\n\r\n"
    );
    tls.write_all(request.as_bytes()).await?;
    let mut byte = [0_u8; 1];
    match tls.read(&mut byte).await? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        _ => Ok(()),
    }
}

fn client_config(kind: Kind) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnybody(provider)));
    Ok(match kind {
        Kind::NoCertificate => builder.with_no_client_auth(),
        Kind::ForeignAuthority => {
            let (chain, key) = forged_svid()?;
            builder.with_client_auth_cert(chain, key)?
        }
    })
}

/// A well-formed X.509-SVID of `orders`, signed by a CA that nobody here trusts.
fn forged_svid() -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = Issuer::new(authority, authority_key);

    let key = KeyPair::generate()?;
    let now = time::OffsetDateTime::now_utc();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(identity(ORDERS).try_into()?)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    leaf.is_ca = rcgen::IsCa::ExplicitNoCa;
    leaf.not_before = now - time::Duration::minutes(1);
    leaf.not_after = now + time::Duration::hours(12);
    let certificate = leaf.signed_by(&key, &issuer)?;
    Ok((vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into())))
}

/// A stranger does not care whom it talks to. Never used by anything of the mesh.
#[derive(Debug)]
struct TrustsAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const EVERY: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_strangers_can_be_made() {
        client_config(Kind::NoCertificate).expect("a client without a certificate");
        client_config(Kind::ForeignAuthority).expect("a client with a forged certificate");
    }
}
