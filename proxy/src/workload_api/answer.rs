//! One answer of the Workload API, as values. Receives the message, hands on the workload's own credentials and one bundle
//! per trust domain, verified as peers will verify them, and refuses the whole message for whatever of it is not in order.

use std::mem;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use sidegate_codes::Code;
use sidegate_identity::{
    BundleError, InvalidSpiffeId, Malformed, SpiffeId, TrustBundle, TrustBundles, TrustDomain,
    certificates_in_sequence,
    tls::{Credentials, CredentialsError, KeyUse},
};
use sidegate_proto::workload::{X509svid, X509svidResponse};
use zeroize::Zeroizing;

/// Which of the SVIDs is this sidecar's.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) identity: SpiffeId,
    /// `None`: the first with the identity.
    pub(super) hint: Option<String>,
    /// What its key is for.
    pub(super) key_use: KeyUse,
}

/// An SVID of the answer, with its key apart: overwritten whichever way this ends.
struct Granted {
    svid: X509svid,
    key: Zeroizing<Vec<u8>>,
}

/// What an answer says, verified.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) credentials: Credentials,
    pub(super) trust: TrustBundles,
}

/// Why nothing of an answer is used. The provider's fault, unless the configuration names another identity.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The standard calls it mandatory (Workload API §4.5).
    #[error("`{0}` is empty")]
    Missing(&'static str),
    /// A complete answer without the configured identity: it was not granted, or was taken back.
    #[error("it has no SVID for {identity}{}; it has {}", hinted(.hint.as_deref()), listed(.granted))]
    NotGranted { identity: SpiffeId, hint: Option<String>, granted: Vec<String> },
    /// Whoever is revoked by them would be let in.
    #[error("it carries certificate revocation lists, which Sidegate does not evaluate")]
    RevocationLists,
    #[error("`{field}` is no sequence of DER certificates: {fault}")]
    Der { field: &'static str, fault: Malformed },
    #[error("`federated_bundles` names {key:?}: {fault}")]
    Domain { key: String, fault: InvalidSpiffeId },
    #[error("`federated_bundles` has a key {0:?}, which is not the SPIFFE ID of a trust domain")]
    NoDomain(String),
    /// One trust domain has one bundle: this would be a second.
    #[error("`federated_bundles` has a bundle for the own trust domain {0}")]
    OwnDomainFederated(TrustDomain),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("the certificate is for {actual}, the answer calls it {named}")]
    OtherIdentity { named: SpiffeId, actual: SpiffeId },
}

impl Answer {
    pub(super) fn read(answer: X509svidResponse, wanted: &Wanted, now: UnixTime) -> Result<Self, Refusal> {
        let X509svidResponse { svids, crl, federated_bundles } = answer;
        let svids: Vec<Granted> = svids.into_iter().map(Granted::from).collect();
        if svids.is_empty() {
            return Err(Refusal::Missing("svids"));
        }
        if !crl.is_empty() {
            return Err(Refusal::RevocationLists);
        }
        let own = wanted.among(svids)?;
        let domain = wanted.domain()?;
        if own.svid.bundle.is_empty() {
            return Err(Refusal::Missing("svids.bundle"));
        }
        let mut bundles = vec![bundle(domain.clone(), "svids.bundle", &own.svid.bundle)?];
        for (key, der) in federated_bundles {
            let foreign = foreign_domain(&key)?;
            if foreign == domain {
                return Err(Refusal::OwnDomainFederated(domain));
            }
            bundles.push(bundle(foreign, "federated_bundles", &der)?);
        }
        let trust: TrustBundles = bundles.into_iter().collect();
        let credentials = credentials(&own, wanted, &trust, now)?;
        Ok(Self { credentials, trust })
    }
}

impl Wanted {
    /// The first that has the identity and, if one is configured, the hint: the standard's rule for hints that are given
    /// twice, too.
    fn among(&self, svids: Vec<Granted>) -> Result<Granted, Refusal> {
        let mut granted = Vec::new();
        for one in svids {
            if one.svid.spiffe_id.is_empty() {
                return Err(Refusal::Missing("svids.spiffe_id"));
            }
            let is_hinted = self.hint.as_ref().is_none_or(|hint| *hint == one.svid.hint);
            if is_hinted && one.svid.spiffe_id == self.identity.as_str() {
                return Ok(one);
            }
            granted.push(one.svid.spiffe_id);
        }
        let (identity, hint) = (self.identity.clone(), self.hint.clone());
        Err(Refusal::NotGranted { identity, hint, granted })
    }

    fn domain(&self) -> Result<TrustDomain, Refusal> {
        let name = self.identity.trust_domain();
        TrustDomain::parse(name).map_err(|fault| Refusal::Domain { key: name.to_owned(), fault })
    }
}

impl From<X509svid> for Granted {
    fn from(mut svid: X509svid) -> Self {
        let key = Zeroizing::new(mem::take(&mut svid.x509_svid_key));
        Self { svid, key }
    }
}

impl Refusal {
    pub(super) fn code(&self) -> Code {
        match self {
            Self::NotGranted { .. } => Code::NoIdentityGranted,
            Self::Missing(_) => Code::WorkloadApiUnavailable,
            Self::Credentials(error) => error.code(),
            Self::RevocationLists
            | Self::Der { .. }
            | Self::Domain { .. }
            | Self::NoDomain(_)
            | Self::OwnDomainFederated(_)
            | Self::Bundle(_)
            | Self::OtherIdentity { .. } => Code::BadCredentials,
        }
    }
}

fn credentials(
    own: &Granted,
    wanted: &Wanted,
    trust: &TrustBundles,
    now: UnixTime,
) -> Result<Credentials, Refusal> {
    if own.svid.x509_svid.is_empty() {
        return Err(Refusal::Missing("svids.x509_svid"));
    }
    if own.key.is_empty() {
        return Err(Refusal::Missing("svids.x509_svid_key"));
    }
    let chain = sequence("svids.x509_svid", &own.svid.x509_svid)?;
    // `Credentials::for_use` overwrites this copy, unless it is handed on.
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.key.to_vec()));
    let credentials = Credentials::for_use(wanted.key_use, chain, key, trust, now)?;
    let actual = credentials.svid().id();
    if *actual != wanted.identity {
        return Err(Refusal::OtherIdentity { named: wanted.identity.clone(), actual: actual.clone() });
    }
    Ok(credentials)
}

/// A foreign domain without authorities has a bundle all the same: one that vouches for nobody.
fn bundle(domain: TrustDomain, field: &'static str, der: &[u8]) -> Result<TrustBundle, Refusal> {
    Ok(TrustBundle::from_der(domain, sequence(field, der)?)?)
}

fn sequence(field: &'static str, der: &[u8]) -> Result<Vec<CertificateDer<'static>>, Refusal> {
    certificates_in_sequence(der).map_err(|fault| Refusal::Der { field, fault })
}

fn foreign_domain(key: &str) -> Result<TrustDomain, Refusal> {
    let name = key.strip_prefix("spiffe://").ok_or_else(|| Refusal::NoDomain(key.to_owned()))?;
    TrustDomain::parse(name).map_err(|fault| Refusal::Domain { key: key.to_owned(), fault })
}

fn hinted(hint: Option<&str>) -> String {
    hint.map_or_else(String::new, |hint| format!(" with the hint {hint:?}"))
}

/// For a log line, so not all of them.
fn listed(granted: &[String]) -> String {
    let some = granted.iter().take(MOST_LISTED).map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", ");
    if granted.len() > MOST_LISTED {
        format!("{some} and {} more", granted.len() - MOST_LISTED)
    } else {
        some
    }
}

const MOST_LISTED: usize = 5;
