//! Verification of a peer's certificate chain by the X.509-SVID rules, in one function.
//! Receives the chain as it came, hands on a [`VerifiedSvid`] that nothing else can make, and refuses at the
//! first rule that is broken. Nobody reads the identity out of a certificate again after this.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use sidegate_codes::Code;
use thiserror::Error;

use crate::{
    AuthorityFault, InvalidSpiffeId, Malformed, SpiffeId, TrustBundle, TrustBundles, authority,
    certificate::{Certificate, Validity},
    proven::Path,
    serial,
};

/// What the peer is in this connection: the extended key usage that path validation asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// The peer connected to us.
    Client,
    /// We connected to the peer.
    Server,
}

/// The bounds on what a peer may present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvidLimits {
    /// The longest life of a leaf, from notBefore to notAfter. 25 hours by default: a day, and room for the
    /// backdating that issuers do against skewed clocks.
    pub max_leaf_life: Duration,
    /// The most certificates in a chain, the leaf included. 3 by default: leaf and two intermediates.
    pub max_chain: usize,
    /// The most bytes in a chain. 16 KiB by default; rustls alone would take 64 KiB from a stranger.
    pub max_chain_bytes: usize,
}

/// A peer's identity and the terms of the certificate that proved it. Only [`verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSvid {
    id: SpiffeId,
    validity: Validity,
    serial: Box<[u8]>,
}

/// Why a certificate chain was refused. The fault lies with the peer or its issuer, unless clocks disagree.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SvidError {
    /// The peer presented no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// More certificates than [`SvidLimits::max_chain`].
    #[error("the chain has {0} certificates, which is too many")]
    ChainTooLong(usize),
    /// More bytes than [`SvidLimits::max_chain_bytes`].
    #[error("the chain has {0} bytes, which is too many")]
    ChainTooLarge(usize),
    /// The leaf cannot be read with certainty.
    #[error("the certificate is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// No URI name, or more than one (X509-SVID §2, §5.2).
    #[error("the certificate has {0} URI names; an SVID has exactly one")]
    UriNames(usize),
    /// The URI name is not a SPIFFE ID.
    #[error("the certificate's URI name is not a SPIFFE ID: {0}")]
    Id(#[from] InvalidSpiffeId),
    /// The SPIFFE ID has no path: it names a trust domain, not a workload (X509-SVID §5.2).
    #[error("the SPIFFE ID {0} has no path, so it is no workload's")]
    NoPath(SpiffeId),
    /// The leaf is a CA: a signing certificate is never a credential (X509-SVID §4.1).
    #[error("the certificate is a CA's, which is never a credential")]
    LeafIsCa,
    /// The leaf may sign certificates or revocation lists (X509-SVID §4.3).
    #[error("the certificate's key usage allows signing of certificates or CRLs")]
    LeafMaySign,
    /// Key usage absent, not critical, or without `digitalSignature` (X509-SVID §4.3).
    #[error("the certificate needs a critical key usage with digitalSignature")]
    KeyUsage,
    /// Extended key usage present but without both `serverAuth` and `clientAuth` (X509-SVID §4.4).
    #[error("the certificate's extended key usage needs both serverAuth and clientAuth")]
    ExtendedKeyUsage,
    /// The subject is empty, so the alternative names must be critical (RFC 5280 §4.2.1.6).
    #[error("the certificate has an empty subject, and alternative names that are not critical")]
    NamesNotCritical,
    /// Longer than [`SvidLimits::max_leaf_life`].
    #[error("the certificate is valid for {} s, which is too long", .0.as_secs())]
    LifeTooLong(Duration),
    /// A certificate of the chain has expired or is not valid yet. There is no tolerance: issuers backdate.
    #[error("the certificate has expired or is not valid yet")]
    NotValidNow,
    /// There is no bundle for the ID's trust domain.
    #[error("the trust domain of {0} is not trusted")]
    UnknownTrustDomain(SpiffeId),
    /// The chain does not lead to a valid authority of the ID's own trust domain (X509-SVID §5.1).
    #[error("the chain of {id} does not lead to an authority of its trust domain: {cause}")]
    Untrusted {
        /// The identity that was claimed and not proved.
        id: SpiffeId,
        /// What path validation found.
        cause: webpki::Error,
    },
    /// A certificate in between may not sign for the trust domain (X509-SVID §3.2, §4.1, §4.3).
    #[error("an intermediate certificate may not sign: {0}")]
    Intermediate(AuthorityFault),
    /// The certificate is in order, and its identity is in quarantine or has begun a new epoch since.
    #[error("{0} is in quarantine, or its certificate is of before the end of one")]
    Quarantined(SpiffeId),
    /// The server proved an identity, but not one that the called service runs under.
    #[error("the server is {0}, which is not the service that was called")]
    UnexpectedServerIdentity(SpiffeId),
}

/// Verifies `chain` (leaf first) as an X.509-SVID and returns whose it is.
///
/// `usage` is what the peer is. The chain is validated against the bundle of the SVID's own trust domain alone:
/// an authority of one trust domain never vouches for another. `now` is compared without tolerance.
pub fn verify(
    chain: &[CertificateDer<'_>],
    usage: Usage,
    bundles: &TrustBundles,
    limits: &SvidLimits,
    now: UnixTime,
) -> Result<VerifiedSvid, SvidError> {
    let (der, intermediates) = within_limits(chain, limits)?;
    let leaf = Certificate::parse(der)?;
    let id = workload_id(&leaf)?;
    check_leaf(&leaf, limits, now)?;
    let bundle = bundles.get(id.trust_domain()).ok_or_else(|| SvidError::UnknownTrustDomain(id.clone()))?;
    let path = Path::of(chain, usage);
    if !path.is_some_and(|path| bundle.proven().holds(&path, now)) {
        let until = check_path(der, &leaf, &id, intermediates, usage, bundle, now)?;
        if let Some((path, until)) = path.zip(until) {
            bundle.proven().remember(path, now, until);
        }
    }
    let svid = VerifiedSvid { id, validity: leaf.validity, serial: leaf.serial.into() };
    if bundles.quarantine().refuses(&svid) {
        return Err(SvidError::Quarantined(svid.id));
    }
    Ok(svid)
}

impl VerifiedSvid {
    /// Whose certificate it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The first second in which the certificate is valid.
    pub fn not_before(&self) -> UnixTime {
        self.validity.not_before
    }

    /// The last second in which the certificate is valid. No connection should outlive it.
    pub fn not_after(&self) -> UnixTime {
        self.validity.not_after
    }

    /// The serial number, as the content bytes of its DER INTEGER.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// When the certificate was issued, if its serial number is in this mesh's format (see [`serial`]).
    ///
    /// A serial number of another issuer that happens to look like it says a moment outside of the certificate's
    /// validity, and is then not believed.
    pub fn issued_at(&self) -> Option<UnixTime> {
        let issued = Duration::from_millis(serial::issued_at_ms(&self.serial)?);
        Some(UnixTime::since_unix_epoch(issued)).filter(|issued| self.validity.contains(*issued))
    }
}

impl SvidError {
    /// The code that people see.
    pub fn code(&self) -> Code {
        match self {
            Self::NoCertificate => Code::NoClientCertificate,
            Self::UnknownTrustDomain(_) | Self::Untrusted { .. } | Self::Intermediate(_) => {
                Code::UntrustedCertificate
            }
            Self::NotValidNow => Code::CertificateNotValidNow,
            Self::Quarantined(_) => Code::IdentityQuarantined,
            Self::UnexpectedServerIdentity(_) => Code::UnexpectedServerIdentity,
            Self::ChainTooLong(_)
            | Self::ChainTooLarge(_)
            | Self::Malformed(_)
            | Self::UriNames(_)
            | Self::Id(_)
            | Self::NoPath(_)
            | Self::LeafIsCa
            | Self::LeafMaySign
            | Self::KeyUsage
            | Self::ExtendedKeyUsage
            | Self::NamesNotCritical
            | Self::LifeTooLong(_) => Code::NotAnSvid,
        }
    }

    /// The rule that was broken, as a metric label: one of a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong(_) => "chain_too_long",
            Self::ChainTooLarge(_) => "chain_too_large",
            Self::Malformed(_) => "malformed",
            Self::UriNames(_) => "uri_names",
            Self::Id(_) => "invalid_spiffe_id",
            Self::NoPath(_) => "no_path",
            Self::LeafIsCa => "leaf_is_ca",
            Self::LeafMaySign => "leaf_may_sign",
            Self::KeyUsage => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::NamesNotCritical => "names_not_critical",
            Self::LifeTooLong(_) => "life_too_long",
            Self::NotValidNow => "not_valid_now",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::Untrusted { .. } => "untrusted",
            Self::Intermediate(_) => "intermediate",
            Self::Quarantined(_) => "quarantined",
            Self::UnexpectedServerIdentity(_) => "unexpected_server_identity",
        }
    }
}

impl Default for SvidLimits {
    fn default() -> Self {
        Self { max_leaf_life: Duration::from_hours(25), max_chain: 3, max_chain_bytes: 16 * 1024 }
    }
}

/// Splits the chain into leaf and intermediates, before any of it is parsed.
fn within_limits<'c, 'd>(
    chain: &'c [CertificateDer<'d>],
    limits: &SvidLimits,
) -> Result<(&'c CertificateDer<'d>, &'c [CertificateDer<'d>]), SvidError> {
    if chain.len() > limits.max_chain {
        return Err(SvidError::ChainTooLong(chain.len()));
    }
    let bytes = chain.iter().fold(0_usize, |sum, certificate| sum.saturating_add(certificate.len()));
    if bytes > limits.max_chain_bytes {
        return Err(SvidError::ChainTooLarge(bytes));
    }
    chain.split_first().ok_or(SvidError::NoCertificate)
}

/// Exactly one URI name, a SPIFFE ID, with a path.
fn workload_id(leaf: &Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let [uri] = leaf.uris.as_slice() else {
        return Err(SvidError::UriNames(leaf.uris.len()));
    };
    let id = SpiffeId::parse(uri)?;
    if id.path().is_empty() { Err(SvidError::NoPath(id)) } else { Ok(id) }
}

/// The rules for the leaf that need no other certificate.
fn check_leaf(leaf: &Certificate<'_>, limits: &SvidLimits, now: UnixTime) -> Result<(), SvidError> {
    if leaf.is_ca {
        return Err(SvidError::LeafIsCa);
    }
    let usage = leaf.key_usage.as_ref().ok_or(SvidError::KeyUsage)?;
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(SvidError::LeafMaySign);
    }
    if !usage.critical || !usage.value.digital_signature() {
        return Err(SvidError::KeyUsage);
    }
    if leaf.purposes.as_ref().is_some_and(|purposes| !(purposes.server_auth && purposes.client_auth)) {
        return Err(SvidError::ExtendedKeyUsage);
    }
    if leaf.subject_is_empty && !leaf.alternative_names_critical {
        return Err(SvidError::NamesNotCritical);
    }
    if leaf.validity.length() > limits.max_leaf_life {
        return Err(SvidError::LifeTooLong(leaf.validity.length()));
    }
    if leaf.validity.contains(now) { Ok(()) } else { Err(SvidError::NotValidNow) }
}

/// RFC 5280 path validation to a valid authority of `bundle`, every signer of the path being allowed to sign. Gives until
/// when every signer that could have been part of it is valid.
fn check_path(
    der: &CertificateDer<'_>,
    leaf: &Certificate<'_>,
    id: &SpiffeId,
    intermediates: &[CertificateDer<'_>],
    usage: Usage,
    bundle: &TrustBundle,
    now: UnixTime,
) -> Result<Option<UnixTime>, SvidError> {
    let refuse = |cause| path_error(id, cause);
    let end_entity = webpki::EndEntityCert::try_from(der).map_err(refuse)?;
    agree(&end_entity, leaf)?;
    let anchors = bundle.anchors_at(now);
    let path = end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            now,
            purpose(usage),
            None,
            None,
        )
        .map_err(refuse)?;
    let mut until = bundle.anchors_end(now);
    // webpki reads no key usage: without this, any leaf with `cA=true` by mistake could sign.
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let signer = Certificate::parse(&der)
            .map_err(|fault| SvidError::Intermediate(AuthorityFault::Malformed(fault)))?;
        authority::check(&signer, bundle.trust_domain()).map_err(SvidError::Intermediate)?;
        until = until.min(Some(signer.validity.not_after));
    }
    Ok(until)
}

/// webpki validates the path, x509-parser reads the names: both must have seen the same certificate.
fn agree(webpki: &webpki::EndEntityCert<'_>, leaf: &Certificate<'_>) -> Result<(), SvidError> {
    let same = webpki.serial() == leaf.serial
        && webpki.subject_public_key_info().as_ref() == leaf.public_key
        && webpki.valid_uri_names().eq(leaf.uris.iter().copied());
    if same { Ok(()) } else { Err(Malformed::Ambiguous.into()) }
}

fn purpose(usage: Usage) -> webpki::KeyUsage {
    match usage {
        Usage::Client => webpki::KeyUsage::client_auth(),
        Usage::Server => webpki::KeyUsage::server_auth(),
    }
}

fn path_error(id: &SpiffeId, cause: webpki::Error) -> SvidError {
    match cause {
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => SvidError::NotValidNow,
        webpki::Error::CaUsedAsEndEntity => SvidError::LeafIsCa,
        cause => SvidError::Untrusted { id: id.clone(), cause },
    }
}
