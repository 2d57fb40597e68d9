//! Trust bundles: the authorities of each trust domain, kept apart.
//! Receives certificates as DER or PEM, hands on anchors for path validation, and refuses a bundle in which one
//! certificate may not sign for the trust domain. Bundles of two trust domains are never merged.

use std::collections::BTreeMap;

use rustls_pki_types::{
    CertificateDer, TrustAnchor, UnixTime,
    pem::{PemObject, SectionKind},
};
use sidegate_codes::Code;
use thiserror::Error;

use crate::{
    Malformed, Quarantine, TrustDomain,
    authority::{self, AuthorityFault},
    certificate::{Certificate, Validity},
    proven::Proven,
};

/// The most authorities that one bundle may hold. A rotation needs two; every one more is another that a
/// handshake may have to try.
pub const MAX_AUTHORITIES: usize = 32;

/// The authorities of one trust domain.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    /// One for each authority, in the same order.
    anchors: Vec<Anchor>,
    proven: Proven,
}

/// The bundles of every trust domain that is trusted, one for each, less the identities in quarantine. The default
/// trusts nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundles {
    bundles: BTreeMap<TrustDomain, TrustBundle>,
    quarantine: Quarantine,
}

/// Why a trust bundle cannot be used. The fault lies with whoever wrote the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// The text is not PEM.
    #[error("the trust bundle is not valid PEM: {0}")]
    Pem(String),
    /// The PEM text holds something other than certificates, such as a private key that went astray.
    #[error("the trust bundle holds a PEM section that is not a certificate")]
    NotACertificate,
    /// The PEM text holds no certificate at all, as a file that was cut short.
    #[error("the trust bundle holds no certificate")]
    Empty,
    /// More than [`MAX_AUTHORITIES`].
    #[error("the trust bundle holds more than {MAX_AUTHORITIES} certificates")]
    TooMany,
    /// A certificate that may not sign for the trust domain.
    #[error("certificate {position} of the trust bundle cannot be an authority of {trust_domain}: {fault}")]
    Authority {
        /// Which certificate, counted from 1.
        position: usize,
        /// The trust domain it was to sign for.
        trust_domain: TrustDomain,
        /// What it lacks or has too much.
        fault: AuthorityFault,
    },
}

/// An authority as webpki wants it, with the period that webpki does not look at.
#[derive(Clone)]
struct Anchor {
    anchor: TrustAnchor<'static>,
    validity: Validity,
}

impl TrustBundle {
    /// The bundle of `trust_domain`. Every certificate must be a CA that may sign certificates.
    ///
    /// No certificates at all make a bundle that vouches for nobody: the way to revoke a trust domain (SPIFFE
    /// Trust Domain and Bundle §4). Expired authorities are accepted here and left out of each verification.
    pub fn from_der(
        trust_domain: TrustDomain,
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let mut bundle =
            Self { trust_domain, authorities: Vec::new(), anchors: Vec::new(), proven: Proven::default() };
        for (position, certificate) in (1..).zip(certificates) {
            if position > MAX_AUTHORITIES {
                return Err(BundleError::TooMany);
            }
            let anchor = Anchor::of(&certificate, &bundle.trust_domain).map_err(|fault| {
                BundleError::Authority { position, trust_domain: bundle.trust_domain.clone(), fault }
            })?;
            bundle.anchors.push(anchor);
            bundle.authorities.push(certificate);
        }
        Ok(bundle)
    }

    /// The bundle in a PEM text. It must hold at least one certificate, and nothing but certificates.
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let certificates = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
            .map(|section| match section {
                Ok((SectionKind::Certificate, der)) => Ok(CertificateDer::from(der)),
                Ok(_) => Err(BundleError::NotACertificate),
                Err(error) => Err(BundleError::Pem(error.to_string())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if certificates.is_empty() {
            return Err(BundleError::Empty);
        }
        Self::from_der(trust_domain, certificates)
    }

    /// The trust domain that these authorities sign for, and no other.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities' certificates, in the order they were given.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// When the first authority expires; `None` if there is none.
    pub fn earliest_expiry(&self) -> Option<UnixTime> {
        self.expiries().min()
    }

    /// When the last authority expires; `None` if there is none.
    pub fn latest_expiry(&self) -> Option<UnixTime> {
        self.expiries().max()
    }

    /// The anchors that are valid `now`: webpki keeps an anchor's name and key only, and would accept one that
    /// expired yesterday.
    pub(crate) fn anchors_at(&self, now: UnixTime) -> Vec<TrustAnchor<'_>> {
        self.anchors
            .iter()
            .filter(|anchor| anchor.validity.contains(now))
            .map(|anchor| TrustAnchor::clone(&anchor.anchor))
            .collect()
    }

    /// When the first of the anchors that are valid `now` ends.
    pub(crate) fn anchors_end(&self, now: UnixTime) -> Option<UnixTime> {
        let valid = self.anchors.iter().filter(|anchor| anchor.validity.contains(now));
        valid.map(|anchor| anchor.validity.not_after).min()
    }

    /// What was validated to lead here.
    pub(crate) fn proven(&self) -> &Proven {
        &self.proven
    }

    fn expiries(&self) -> impl Iterator<Item = UnixTime> {
        self.anchors.iter().map(|anchor| anchor.validity.not_after)
    }
}

impl TrustBundles {
    /// The bundle of a trust domain; `None` if it is not trusted.
    pub fn get(&self, trust_domain: &str) -> Option<&TrustBundle> {
        self.bundles.get(trust_domain)
    }

    /// Every bundle, in the order of the trust domains' names.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.bundles.values()
    }

    /// Sets the bundle of its trust domain and returns the one it replaces.
    pub fn insert(&mut self, bundle: TrustBundle) -> Option<TrustBundle> {
        self.bundles.insert(bundle.trust_domain.clone(), bundle)
    }

    /// The same bundles, less these identities.
    #[must_use]
    pub fn without(self, quarantine: Quarantine) -> Self {
        Self { quarantine, ..self }
    }

    /// The identities that are refused whoever vouches for them.
    pub fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }
}

impl BundleError {
    /// The code that people see.
    pub fn code(&self) -> Code {
        Code::BadCredentials
    }
}

impl Anchor {
    fn of(der: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<Self, AuthorityFault> {
        let certificate = Certificate::parse(der)?;
        authority::check(&certificate, trust_domain)?;
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|_| Malformed::Der)?.to_owned();
        Ok(Self { anchor, validity: certificate.validity })
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        // The anchors are a function of the authorities.
        self.trust_domain == other.trust_domain && self.authorities == other.authorities
    }
}

impl Eq for TrustBundle {}

impl std::fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain.as_str())
            .field("authorities", &self.authorities.len())
            .finish_non_exhaustive()
    }
}

impl FromIterator<TrustBundle> for TrustBundles {
    /// Of two bundles of one trust domain the later one stands; they are not merged.
    fn from_iter<I: IntoIterator<Item = TrustBundle>>(bundles: I) -> Self {
        let bundles = bundles.into_iter().map(|bundle| (bundle.trust_domain.clone(), bundle)).collect();
        Self { bundles, quarantine: Quarantine::default() }
    }
}
