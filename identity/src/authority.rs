//! What makes a certificate a signing certificate of a trust domain (X509-SVID §3.2, §4.1, §4.3).
//! The same check for the authorities of a bundle and for the intermediates that a peer sends.

use thiserror::Error;

use crate::{InvalidSpiffeId, Malformed, SpiffeId, TrustDomain, certificate::Certificate};

/// Why a certificate may not sign for a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthorityFault {
    /// It cannot be read with certainty.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// Basic constraints are absent or say `cA=false` (X509-SVID §4.1).
    #[error("it is not a CA")]
    NotCa,
    /// Its key usage is absent or lacks `keyCertSign` (X509-SVID §4.3).
    #[error("its key usage does not include keyCertSign")]
    NoCertSign,
    /// Its URI name is no SPIFFE ID.
    #[error("its URI name is not a SPIFFE ID: {0}")]
    Id(InvalidSpiffeId),
    /// Its SPIFFE ID has a path, as only a workload's has (X509-SVID §3.2).
    #[error("its SPIFFE ID has a path")]
    IdWithPath,
    /// Its SPIFFE ID is of another trust domain (X509-SVID §3.2).
    #[error("its SPIFFE ID is of another trust domain")]
    OtherTrustDomain,
    /// It has more than one URI name (X509-SVID §2).
    #[error("it has more than one URI name")]
    SeveralIds,
}

/// Passes if `certificate` may sign for `trust_domain`. Its validity period is the caller's concern.
pub(crate) fn check(certificate: &Certificate<'_>, trust_domain: &TrustDomain) -> Result<(), AuthorityFault> {
    if !certificate.is_ca {
        return Err(AuthorityFault::NotCa);
    }
    if !certificate.key_usage.as_ref().is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(AuthorityFault::NoCertSign);
    }
    match certificate.uris.as_slice() {
        [] => Ok(()),
        [uri] => check_id(&SpiffeId::parse(uri).map_err(AuthorityFault::Id)?, trust_domain),
        _ => Err(AuthorityFault::SeveralIds),
    }
}

fn check_id(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), AuthorityFault> {
    if id.trust_domain() != trust_domain.as_str() {
        return Err(AuthorityFault::OtherTrustDomain);
    }
    if id.path().is_empty() { Ok(()) } else { Err(AuthorityFault::IdWithPath) }
}
