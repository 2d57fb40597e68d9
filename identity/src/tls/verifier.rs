//! What rustls asks during a handshake, answered by [`crate::verify`].
//! Receives the peer's certificates and signatures, hands on rustls' proofs that they were checked, and refuses
//! with the `SvidError` inside the rustls error.

use std::{iter, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{ClientAuth, Expected};
use crate::{SpiffeId, SvidError, SvidLimits, TrustBundles, Usage, VerifiedSvid, verify};

/// Judges the clients of a server.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    trust: Trust,
    clients: ClientAuth,
}

/// Judges the server that a client called.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    trust: Trust,
    expected: Expected,
}

/// What both verifiers have in common: whom we trust, and how signatures are checked.
#[derive(Debug)]
struct Trust {
    bundles: Arc<TrustBundles>,
    limits: SvidLimits,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub(super) fn new(bundles: Arc<TrustBundles>, clients: ClientAuth) -> Self {
        Self { trust: Trust::new(bundles), clients }
    }
}

impl ServerVerifier {
    pub(super) fn new(bundles: Arc<TrustBundles>, expected: Expected) -> Self {
        Self { trust: Trust::new(bundles), expected }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.clients == ClientAuth::Required
    }

    /// No hints: a workload has one SVID, and strangers need not learn whom we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.verify(end_entity, intermediates, Usage::Client, now).map_err(refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let svid = self.trust.verify(end_entity, intermediates, Usage::Server, now).map_err(refusal)?;
        if !self.expected.admits(svid.id()) {
            return Err(refusal(SvidError::UnexpectedServerIdentity(svid.id().clone())));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

impl Trust {
    fn new(bundles: Arc<TrustBundles>) -> Self {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self { bundles, limits: SvidLimits::default(), algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<VerifiedSvid, SvidError> {
        let chain: Vec<_> = iter::once(leaf).chain(intermediates).map(borrowed).collect();
        verify(&chain, usage, &self.bundles, &self.limits, now)
    }

    fn verify_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }
}

impl Expected {
    fn admits(&self, id: &SpiffeId) -> bool {
        match self {
            Self::OneOf(ids) => ids.contains(id),
        }
    }
}

fn borrowed<'c>(certificate: &'c CertificateDer<'_>) -> CertificateDer<'c> {
    CertificateDer::from(certificate.as_ref())
}

/// The form in which [`super::peer_error`] finds the cause again.
fn refusal(error: SvidError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// TLS 1.2 is not configured; should it ever be, its signatures still count for nothing.
fn tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}
