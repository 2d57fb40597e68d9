//! What the application is given: receives a snapshot, hands on the message that says what is in force of it, and refuses
//! to give an identity that peers would not accept.

use std::sync::Arc;

use futures_util::{Stream, stream};
use rustls::pki_types::{CertificateDer, UnixTime};
use sidegate_identity::{SvidError, SvidLimits, TrustBundle, TrustBundles, Usage, tls::Credentials, verify};
use sidegate_proto::workload::{X509BundlesResponse, X509svid, X509svidResponse};
use tonic::Status;

use super::Place;
use crate::snapshot::{Reader, Snapshot};

/// One of the two answers. Two are equal if their messages are.
pub(super) trait Grant: PartialEq + Sized + Send + 'static {
    type Message: Send + 'static;

    fn of(snapshot: &Snapshot) -> Result<Self, Ungranted>;

    fn message(&self) -> Self::Message;
}

/// The workload's SVID with its key, and the bundles.
pub(super) struct Svid {
    credentials: Credentials,
    trust: Arc<TrustBundles>,
}

/// The bundles alone.
pub(super) struct Bundles(Arc<TrustBundles>);

/// Why nothing is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ungranted {
    /// There is no certificate and no bundle.
    Absent,
    /// There is one, and it has expired or is not valid yet.
    NotValidNow,
    /// There is one that peers refuse: its identity is in quarantine, or its authority is trusted no longer.
    Refused,
}

impl Ungranted {
    /// For a caller who was given nothing so far. What will come by itself is asked for again; a refusal is one.
    pub(super) fn at_first(self) -> Status {
        match self {
            Self::Absent => Status::unavailable("this workload has no certificate yet"),
            Self::NotValidNow => Status::unavailable("this workload's certificate is not valid now"),
            Self::Refused => Status::permission_denied("this workload's identity is refused by its peers"),
        }
    }

    /// For a caller who was given something before. The standard's word for an identity that is taken back is
    /// `PermissionDenied` (Workload API §5.2.1), and the client uses it no longer.
    fn later(self) -> Status {
        match self {
            Self::Absent => Status::permission_denied("this workload's identity was taken back"),
            Self::NotValidNow | Self::Refused => self.at_first(),
        }
    }
}

/// `first`, and then whatever takes its place, until that is nothing. Holds `place` for as long.
///
/// A slow reader finds what is in force when it comes to read, and misses what was in between: each message is the
/// whole truth.
pub(super) fn follow<G: Grant>(
    mesh: Reader,
    first: G,
    place: Place,
) -> impl Stream<Item = Result<G::Message, Status>> + Send {
    let message = first.message();
    let changes = stream::unfold(Some((mesh, first, place)), async |following| {
        let (mut mesh, given, place) = following?;
        loop {
            mesh.changed().await;
            let next = G::of(&mesh.load());
            match next {
                Ok(next) if next == given => {}
                Ok(next) => return Some((Ok(next.message()), Some((mesh, next, place)))),
                Err(ungranted) => return Some((Err(ungranted.later()), None)),
            }
        }
    });
    stream::StreamExt::chain(stream::iter([Ok(message)]), changes)
}

impl Grant for Svid {
    type Message = X509svidResponse;

    fn of(snapshot: &Snapshot) -> Result<Self, Ungranted> {
        let credentials = &snapshot.secured.as_ref().ok_or(Ungranted::Absent)?.credentials;
        let trust = &snapshot.trust;
        let limits = SvidLimits::default();
        match verify(credentials.chain(), Usage::Client, trust, &limits, UnixTime::now()) {
            Ok(_) => Ok(Self { credentials: credentials.clone(), trust: Arc::clone(trust) }),
            Err(SvidError::NotValidNow) => Err(Ungranted::NotValidNow),
            Err(_) => Err(Ungranted::Refused),
        }
    }

    fn message(&self) -> X509svidResponse {
        let id = self.credentials.svid().id();
        let foreign = self.trust.iter().filter(|bundle| bundle.trust_domain().as_str() != id.trust_domain());
        let svid = X509svid {
            spiffe_id: id.to_string(),
            x509_svid: concatenated(self.credentials.chain()),
            x509_svid_key: self.credentials.pkcs8().unwrap_or_default().to_vec(),
            bundle: self.trust.get(id.trust_domain()).map(der).unwrap_or_default(),
            hint: String::new(),
        };
        X509svidResponse {
            svids: vec![svid],
            crl: Vec::new(),
            federated_bundles: by_domain(foreign).collect(),
        }
    }
}

impl PartialEq for Svid {
    fn eq(&self, other: &Self) -> bool {
        self.credentials.chain() == other.credentials.chain() && self.trust.iter().eq(other.trust.iter())
    }
}

impl Grant for Bundles {
    type Message = X509BundlesResponse;

    fn of(snapshot: &Snapshot) -> Result<Self, Ungranted> {
        if snapshot.trust.iter().all(|bundle| bundle.authorities().is_empty()) {
            return Err(Ungranted::Absent);
        }
        Ok(Self(Arc::clone(&snapshot.trust)))
    }

    fn message(&self) -> X509BundlesResponse {
        X509BundlesResponse { crl: Vec::new(), bundles: by_domain(self.0.iter()).collect() }
    }
}

impl PartialEq for Bundles {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().eq(other.0.iter())
    }
}

/// A bundle without authorities is left out: to a client that is the same, and some refuse an empty one.
fn by_domain<'a>(bundles: impl Iterator<Item = &'a TrustBundle>) -> impl Iterator<Item = (String, Vec<u8>)> {
    bundles
        .filter(|bundle| !bundle.authorities().is_empty())
        .map(|bundle| (format!("spiffe://{}", bundle.trust_domain()), der(bundle)))
}

fn der(bundle: &TrustBundle) -> Vec<u8> {
    concatenated(bundle.authorities())
}

fn concatenated(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(AsRef::as_ref).copied().collect()
}
