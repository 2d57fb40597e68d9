//! The certificate authority. It receives an attested identity and a proven key, records the issuance, signs, and
//! hands the certificate out only after the mesh's own verification accepts it.

pub(crate) mod csr;
mod root;

use std::{sync::Arc, time::Duration};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use sidegate_codes::Code;
use sidegate_identity::{
    SpiffeId, SvidError, SvidLimits, TrustBundle, TrustBundles, TrustDomain, Usage, serial, verify,
};

use self::{csr::ProvenKey, root::Root};
use crate::{
    clock, hex,
    registry::{Event, Issuance, RecordError, Refused, Registry},
    state::{StateError, StateFolder},
};

/// The root, its registry and the folder that both live in.
pub(crate) struct Authority {
    root: Root,
    bundles: Arc<TrustBundles>,
    registry: Registry,
    _state: StateFolder,
}

/// What is to be issued, for whom and on what evidence.
pub(crate) struct Order {
    pub(crate) identity: SpiffeId,
    pub(crate) key: ProvenKey,
    pub(crate) life: Duration,
    /// How the caller was attested; for the registry.
    pub(crate) attestor: &'static str,
    /// What shows it; never a secret.
    pub(crate) evidence: String,
    /// The caller's address.
    pub(crate) caller: String,
    /// Whether the proof was never used from there before, though from elsewhere.
    pub(crate) new_source: bool,
}

/// A certificate that passed the mesh's own verification.
#[derive(Debug)]
pub(crate) struct Issued {
    /// The leaf first; the root is not included.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    pub(crate) not_after: UnixTime,
}

/// No certificate was handed out. The control plane's own fault, never the caller's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    #[error("the operating system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    #[error("the issuance cannot be recorded: {0}")]
    Record(#[from] RecordError),
    #[error("the certificate cannot be built: {0}")]
    Build(#[from] rcgen::Error),
    #[error("the certificate does not pass the mesh's own verification: {0}")]
    SelfCheck(#[from] SvidError),
    #[error("the root has expired or is about to")]
    RootExpired,
}

impl IssueError {
    /// The code that explains it.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Record(_) => RecordError::CODE,
            _ => Code::StateUnusable,
        }
    }
}

impl Authority {
    /// Loads the root from the state folder, or makes one if the folder is new.
    pub(crate) fn open(
        state: StateFolder,
        trust_domain: &TrustDomain,
        root_life: Duration,
        retention: Duration,
    ) -> Result<Self, StateError> {
        let has_issued = Registry::exists(&state);
        let root = Root::open(&state, trust_domain, root_life, has_issued)?;
        let (registry, opened) = Registry::open(&state, retention)?;
        tracing::info!(
            fingerprint = root.fingerprint(),
            not_after = clock::rfc3339_of(root.not_after()),
            records = opened.last,
            "certificate authority ready"
        );
        let bundle = TrustBundle::from_der(trust_domain.clone(), [root.certificate().clone()])
            .map_err(|error| crate::state::unusable(&state.join(root::PUBLIC_FILE), error.to_string()))?;
        let bundles = Arc::new(TrustBundles::from_iter([bundle]));
        Ok(Self { root, bundles, registry, _state: state })
    }

    /// The bundles that sidecars verify their peers with.
    pub(crate) fn bundles(&self) -> &Arc<TrustBundles> {
        &self.bundles
    }

    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// Records, signs, verifies. Waits for the disk: call it on a blocking thread.
    pub(crate) fn issue(&self, order: &Order) -> Result<Issued, IssueError> {
        let issued_at_ms = clock::now_ms();
        let now = clock::unix_time(issued_at_ms);
        let validity = self.validity(now, order.life)?;
        let mut random = [0; 9];
        getrandom::fill(&mut random)?;
        let serial = serial::compose(issued_at_ms, random);
        self.registry.record(Event::Issued(self.record(order, serial, validity)))?;
        let leaf = leaf_params(&order.identity, serial, validity)?
            .signed_by(order.key.public_key(), self.root.issuer())?;
        let chain = vec![leaf.der().clone()];
        for usage in [Usage::Client, Usage::Server] {
            verify(&chain, usage, &self.bundles, &SvidLimits::default(), now)?;
        }
        Ok(Issued { chain, at_ms: issued_at_ms, not_after: validity.not_after })
    }

    /// Records that somebody was refused. Waits for the disk: call it on a blocking thread.
    pub(crate) fn refused(&self, refused: Refused) -> Result<(), RecordError> {
        self.registry.record(Event::Refused(refused))
    }

    /// Backdated against clocks that are behind, and never beyond the root.
    fn validity(&self, now: UnixTime, life: Duration) -> Result<Validity, IssueError> {
        let seconds = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let not_before =
            now.as_secs().saturating_sub(BACKDATE.as_secs()).max(self.root.not_before().as_secs());
        let not_after = now.as_secs().saturating_add(life.as_secs()).min(self.root.not_after().as_secs());
        if not_after <= now.as_secs() {
            return Err(IssueError::RootExpired);
        }
        Ok(Validity { not_before: seconds(not_before), not_after: seconds(not_after) })
    }

    fn record(&self, order: &Order, serial: [u8; 16], validity: Validity) -> Issuance {
        Issuance {
            serial: hex::encode(&serial),
            identity: order.identity.to_string(),
            key: hex::encode(&Sha256::digest(order.key.public_key().subject_public_key_info())),
            attestor: order.attestor.to_owned(),
            evidence: order.evidence.clone(),
            caller: order.caller.clone(),
            new_source: order.new_source,
            not_before: validity.not_before.as_secs(),
            not_after: validity.not_after.as_secs(),
            issuer: self.root.fingerprint().to_owned(),
        }
    }
}

#[derive(Clone, Copy)]
struct Validity {
    not_before: UnixTime,
    not_after: UnixTime,
}

/// Sets every field whose default in rcgen would make something else than an X.509-SVID: the validity (1975 to 4096),
/// the subject ("rcgen self signed cert"), the serial (a hash of the key), the missing basic constraints and the
/// missing authority key identifier. The subject is empty, so rcgen marks the SAN critical (RFC 5280 §4.2.1.6).
fn leaf_params(
    identity: &SpiffeId,
    serial: [u8; 16],
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = root::offset_date_time(validity.not_before);
    params.not_after = root::offset_date_time(validity.not_after);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Clocks that are up to this far behind still accept a new certificate.
const BACKDATE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
