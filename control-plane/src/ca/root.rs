//! What signs, in one file, so that a crash leaves all of it or nothing: a key with its self-signed certificate, the root; or
//! the key of an intermediate with its certificate and those that lead to a root whose key is elsewhere. Made, loaded and
//! deleted here; never over another.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use sidegate_identity::{TrustDomain, serial};
use time::OffsetDateTime;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

use crate::{
    clock, hex,
    state::{StateError, StateFolder, unusable},
};

/// The signing key with its root.
pub(crate) struct Root {
    certificate: CertificateDer<'static>,
    /// From the key's own certificate up to the root, without it. Empty: the root's key itself signs.
    intermediates: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    not_before: UnixTime,
    not_after: UnixTime,
    fingerprint: String,
    public_pem: String,
}

/// What becomes of a root that has expired.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// It is refused: it is to sign.
    Refused,
    /// It is loaded: it only has to be known.
    Loaded,
}

impl Root {
    /// Makes a root with a file of its own.
    pub(crate) fn create(
        state: &StateFolder,
        file: &str,
        trust_domain: &TrustDomain,
        life: Duration,
    ) -> Result<Self, StateError> {
        let pem = generate(trust_domain, life).map_err(|reason| unusable(&state.join(file), reason))?;
        state.create_secret(file, &pem)?;
        Self::from_pem(&pem, trust_domain, Expired::Refused)
            .map_err(|reason| unusable(&state.join(file), reason))
    }

    /// Loads a root. `None`: there is no such file.
    pub(crate) fn load(
        state: &StateFolder,
        file: &str,
        trust_domain: &TrustDomain,
        expired: Expired,
    ) -> Result<Option<Self>, StateError> {
        let Some(pem) = state.read_secret(file)? else { return Ok(None) };
        let root = Self::from_pem(&pem, trust_domain, expired);
        root.map(Some).map_err(|reason| unusable(&state.join(file), reason))
    }

    /// Loads what an operator brings: an intermediate.
    pub(crate) fn load_brought(
        state: &StateFolder,
        file: &str,
        trust_domain: &TrustDomain,
    ) -> Result<Self, StateError> {
        let path = state.join(file);
        let root = Self::load(state, file, trust_domain, Expired::Refused)?;
        let root = root.ok_or_else(|| unusable(&path, "is missing"))?;
        if root.is_offline() { Ok(root) } else { Err(unusable(&path, "holds no intermediate")) }
    }

    /// The root's own certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What is sent after a leaf.
    pub(crate) fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// Whether the root's key is elsewhere, and an intermediate's signs.
    pub(crate) fn is_offline(&self) -> bool {
        !self.intermediates.is_empty()
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// When all that leads from a leaf to the root is valid.
    pub(crate) fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// When the first of them ends: no leaf lives longer.
    pub(crate) fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// SHA-256 of the root's certificate, hex.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The root's certificate as PEM.
    pub(crate) fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Of a key and its certificate; of those that lead from there to a root, if that is another.
    pub(crate) fn from_pem(pem: &str, trust_domain: &TrustDomain, expired: Expired) -> Result<Self, String> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| format!("holds no private key: {error}"))?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| format!("holds no P-256 key: {error}"))?;
        let mut chain = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("holds no certificate: {error}"))?;
        let certificate = chain.pop().ok_or("holds no certificate")?;
        let own = chain.first().unwrap_or(&certificate);
        check_key(own, &key)?;
        if chain.is_empty() {
            check_name(&certificate, trust_domain)?;
        }
        let (not_before, not_after) = validity(chain.iter().chain([&certificate]))?;
        let has_expired = not_after.as_secs() <= clock::unix_time(clock::now_ms()).as_secs();
        if has_expired && expired == Expired::Refused {
            return Err(format!("expired at {}", clock::rfc3339_of(not_after)));
        }
        let fingerprint = hex::encode(&Sha256::digest(&certificate));
        let issuer = Issuer::from_ca_cert_der(own, key).map_err(|error| error.to_string())?;
        let public_pem = pem.rfind(CERTIFICATE_MARK).and_then(|start| pem.get(start..)).unwrap_or_default();
        Ok(Self {
            certificate,
            intermediates: chain,
            issuer,
            not_before,
            not_after,
            fingerprint,
            public_pem: public_pem.to_owned(),
        })
    }
}

fn check_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let is_of_key = certificate.public_key().raw == key.subject_public_key_info();
    if is_of_key { Ok(()) } else { Err("holds a certificate of another key".to_owned()) }
}

/// A root that was made here says whose it is.
fn check_name(certificate: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<(), String> {
    let (_, root) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let expected = format!("spiffe://{trust_domain}");
    let names = root.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    if names.flatten().any(|name| *name == GeneralName::URI(&expected)) {
        Ok(())
    } else {
        Err(format!("holds a root of another trust domain than {trust_domain}"))
    }
}

/// When all of them are valid.
fn validity<'a>(
    chain: impl Iterator<Item = &'a CertificateDer<'static>>,
) -> Result<(UnixTime, UnixTime), String> {
    let (mut begins, mut ends) = (0, u64::MAX);
    let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or_default();
    for der in chain {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        begins = begins.max(seconds(certificate.validity().not_before.timestamp()));
        ends = ends.min(seconds(certificate.validity().not_after.timestamp()));
    }
    let moment = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    Ok((moment(begins), moment(ends)))
}

/// A new key and its self-signed certificate, as PEM.
fn generate(trust_domain: &TrustDomain, life: Duration) -> Result<zeroize::Zeroizing<String>, String> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
    let now_ms = clock::now_ms();
    let mut random = [0; 9];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    let serial = serial::compose(now_ms, random);
    let certificate = root_params(trust_domain, clock::unix_time(now_ms), life, &serial)
        .and_then(|params| params.self_signed(&key))
        .map_err(|error| error.to_string())?;
    let secret = zeroize::Zeroizing::new(key.serialize_pem());
    Ok(zeroize::Zeroizing::new(format!("{}{}", *secret, certificate.pem())))
}

fn root_params(
    trust_domain: &TrustDomain,
    now: UnixTime,
    life: Duration,
    serial: &[u8],
) -> Result<CertificateParams, rcgen::Error> {
    let start = now.as_secs().saturating_sub(BACKDATE.as_secs());
    let end = now.as_secs().saturating_add(life.as_secs());
    let mut params = CertificateParams::default();
    params.not_before = offset_date_time(UnixTime::since_unix_epoch(Duration::from_secs(start)));
    params.not_after = offset_date_time(UnixTime::since_unix_epoch(Duration::from_secs(end)));
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    // Two roots live side by side during a rotation; a name of its own keeps each path unambiguous.
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Sidegate root {}", hex::encode(serial)));
    // It signs leaves and nothing else.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// Certificates hold whole seconds of years that the calendar has; what is beyond (no configuration allows it)
/// would be a certificate from 1970, which nobody accepts.
pub(super) fn offset_date_time(moment: UnixTime) -> OffsetDateTime {
    i64::try_from(moment.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A new root is taken for valid by clocks that are far behind: who is told of one must be able to use it at once.
const BACKDATE: Duration = Duration::from_hours(1);
/// The root's certificate is the last section of the secret file.
const CERTIFICATE_MARK: &str = "-----BEGIN CERTIFICATE-----";
