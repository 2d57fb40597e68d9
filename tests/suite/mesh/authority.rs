//! A CA of the test's own: issues SVIDs with the life that a test needs.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

/// A root that vouches for whomever a test likes.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate chain and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Svid {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_mins(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::from_hours(1);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// The trust bundle with this root alone.
    pub(crate) fn bundle(&self) -> String {
        self.0.pem()
    }

    /// An SVID for an hour.
    pub(crate) fn svid(&self, id: &str) -> Svid {
        self.svid_for(id, Duration::from_hours(1))
    }

    /// An SVID that ends after `life`.
    pub(crate) fn svid_for(&self, id: &str, life: Duration) -> Svid {
        Svid::signed_by(&self.0, id, life)
    }
}

impl Svid {
    /// One that ends after `life`.
    pub(crate) fn signed_by(issuer: &Issuer<'_, KeyPair>, id: &str, life: Duration) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = OffsetDateTime::now_utc() - Duration::from_mins(1);
        params.not_after = OffsetDateTime::now_utc() + life;
        let certificate = params.signed_by(&key, issuer).unwrap();
        Self { chain: certificate.pem(), key: key.serialize_pem() }
    }
}
