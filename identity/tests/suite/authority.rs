//! A certificate authority that can be asked to break any rule.

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use sidegate_identity::{SpiffeId, TrustBundle, TrustBundles, TrustDomain, serial};
use time::OffsetDateTime;

pub(crate) const URI: u8 = 0x86;
pub(crate) const DNS: u8 = 0x82;
pub(crate) const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
pub(crate) const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
pub(crate) const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];

/// A signing certificate and its key.
pub(crate) struct Authority {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) certificate: CertificateDer<'static>,
    /// What the authority's leaves carry after themselves: itself and its parents, without the root.
    intermediates: Vec<CertificateDer<'static>>,
    params: CertificateParams,
    key: KeyPair,
}

/// A leaf with its intermediates, and its key.
pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Authority {
    /// A root in good order.
    pub(crate) fn root(trust_domain: &str) -> Self {
        Self::root_with(trust_domain, |_| {})
    }

    /// A root whose certificate `change` has its way with.
    pub(crate) fn root_with(trust_domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = authority_params("root", change);
        let certificate = params.self_signed(&key).expect("rcgen signs");
        Self::new(trust_domain, params, key, &certificate, Vec::new())
    }

    /// An intermediate under this authority.
    pub(crate) fn intermediate_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = authority_params("intermediate", change);
        let certificate = params.signed_by(&key, &self.issuer()).expect("rcgen signs");
        let mut intermediates = vec![certificate.der().clone()];
        intermediates.extend(self.intermediates.iter().cloned());
        Self::new(self.trust_domain.as_str(), params, key, &certificate, intermediates)
    }

    fn new(
        trust_domain: &str,
        params: CertificateParams,
        key: KeyPair,
        certificate: &Certificate,
        intermediates: Vec<CertificateDer<'static>>,
    ) -> Self {
        let trust_domain = TrustDomain::parse(trust_domain).expect("a trust domain");
        Self { trust_domain, certificate: certificate.der().clone(), intermediates, params, key }
    }

    /// An SVID in good order: valid from a minute ago, for six hours.
    pub(crate) fn issue(&self, id: &str) -> Issued {
        self.issue_with(id, |_| {})
    }

    /// An SVID that `change` has its way with. Its alternative names are the first custom extension.
    pub(crate) fn issue_with(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = dated("workload", -60, 6 * 3600);
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(serial::compose(now().as_secs() * 1000, [7; 9]).to_vec().into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.custom_extensions = vec![names(&[(URI, id.as_bytes())])];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer()).expect("rcgen signs");
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Issued { chain, key }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der(self.trust_domain.clone(), [self.certificate.clone()]).expect("a bundle")
    }

    /// Bundles that trust this authority alone.
    pub(crate) fn bundles(&self) -> TrustBundles {
        [self.bundle()].into_iter().collect()
    }

    pub(crate) fn own_key(&self) -> PrivateKeyDer<'static> {
        private(&self.key)
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

impl Issued {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        private(&self.key)
    }

    /// The leaf's DER with `change` applied to it.
    pub(crate) fn bent(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut der = self.chain[0].to_vec();
        change(&mut der);
        self.chain[0] = der.into();
        self
    }
}

pub(crate) fn now() -> UnixTime {
    UnixTime::now()
}

pub(crate) fn later(time: UnixTime, seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs() + seconds))
}

pub(crate) fn earlier(time: UnixTime, seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs() - seconds))
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a SPIFFE ID")
}

/// The moment `seconds` from now, in whole seconds as certificates have it.
pub(crate) fn moment(seconds: i64) -> OffsetDateTime {
    let now = i64::try_from(now().as_secs()).expect("not that late");
    OffsetDateTime::from_unix_timestamp(now + seconds).expect("a moment")
}

/// Subject alternative names from raw tags and bytes, which rcgen would not write.
pub(crate) fn names(names: &[(u8, &[u8])]) -> CustomExtension {
    let content: Vec<u8> = names.iter().flat_map(|(tag, bytes)| tlv(*tag, bytes)).collect();
    extension(SUBJECT_ALT_NAME, false, tlv(0x30, &content))
}

pub(crate) fn extension(oid: &[u64], critical: bool, content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(critical);
    extension
}

/// One DER element.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short content").to_be_bytes();
    let mut der = vec![tag];
    match (length[0], length[1]) {
        (0, short @ 0..=0x7f) => der.push(short),
        (0, long) => der.extend([0x81, long]),
        (high, low) => der.extend([0x82, high, low]),
    }
    der.extend(content);
    der
}

fn authority_params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> (CertificateParams, KeyPair) {
    let mut params = dated(name, -3600, 365 * 24 * 3600);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    (params, KeyPair::generate().expect("a key"))
}

fn dated(name: &str, from: i64, to: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = moment(from);
    params.not_after = moment(to);
    params.use_authority_key_identifier_extension = true;
    params
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}
