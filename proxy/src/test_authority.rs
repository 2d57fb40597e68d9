//! A certificate authority for the tests of this crate: SVIDs in good order, of an hour unless a test says otherwise.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// A root of any trust domain.
pub(crate) struct Root(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Svid {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Root {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::DAY, now + Duration::DAY);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Valid from a minute ago for an hour.
    pub(crate) fn svid(&self, id: &str) -> Svid {
        self.svid_from(id, OffsetDateTime::now_utc() - Duration::MINUTE)
    }

    /// Valid from then on for an hour.
    pub(crate) fn svid_from(&self, id: &str, not_before: OffsetDateTime) -> Svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (not_before, not_before + Duration::HOUR);
        Svid { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }
}

impl Svid {
    /// Chain and key.
    pub(crate) fn pem(&self) -> (String, String) {
        (self.certificate.pem(), self.key.serialize_pem())
    }

    /// Chain and key, as credentials are made of them.
    pub(crate) fn pkcs8(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        (vec![self.certificate.der().clone()], key.into())
    }

    /// Chain and key, the key as PKCS#8.
    pub(crate) fn der(&self) -> (Vec<u8>, Vec<u8>) {
        (self.certificate.der().to_vec(), self.key.serialize_der())
    }
}
