//! The certificate authority. It receives an attested identity and a proven key, records the issuance, signs, and
//! hands the certificate out only after the mesh's own verification accepts it. Which root signs and which are trusted is
//! the rotation's to say.

pub(crate) mod csr;
pub mod intermediate;
mod office;
pub(crate) mod root;
mod rotate;
mod trust;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use sidegate_codes::Code;
use sidegate_identity::{SpiffeId, SvidError, SvidLimits, TrustDomain, Usage, serial, verify};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{csr::ProvenKey, office::Office, root::Root};
use crate::{
    clock, hex,
    registry::{Event, Issuance, Place, RecordError, Refused, Registry},
    server::Peer,
    state::{StateError, StateFolder},
};

pub(crate) use rotate::{Seen, StepError};
pub(crate) use trust::{PUBLIC_FILE, Trust};

/// The roots, the registry and the folder that both live in.
pub(crate) struct Authority {
    /// Held for a few instructions, or while a step of a rotation is written.
    office: Mutex<Office>,
    trust: watch::Sender<Arc<Trust>>,
    trust_domain: TrustDomain,
    /// Where a copy of the roots' certificates goes.
    copy: Option<PathBuf>,
    registry: Registry,
    folder: StateFolder,
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
    /// The leaf first, then what leads to the root; the root is not included.
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
    #[error("the root, or the intermediate under it, has expired or is about to")]
    RootExpired,
}

impl IssueError {
    /// The code that explains it.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Record(error) => error.code(),
            _ => Code::StateUnusable,
        }
    }
}

impl Authority {
    /// Loads the roots from the state folder, or makes one if the folder is new. `copy` is where their certificates are
    /// copied to.
    pub(crate) fn open(
        folder: StateFolder,
        trust_domain: &TrustDomain,
        root_life: Duration,
        (place, retention): (Place, Duration),
        copy: Option<PathBuf>,
    ) -> Result<Self, StateError> {
        let mut office = Office::open(&folder, trust_domain, root_life)?;
        let (registry, opened) = Registry::open(&folder, place, retention)?;
        for issuance in &opened.alive {
            office.roll.enroll(issuance);
        }
        let trust = office.trust(trust_domain)?;
        trust.publish(&folder, copy.as_deref())?;
        tracing::info!(
            fingerprint = office.signing.fingerprint(),
            not_after = clock::rfc3339_of(office.signing.not_after()),
            offline = office.signing.is_offline(),
            rotation = office.state.phase.name(),
            records = opened.last,
            "certificate authority ready"
        );
        Ok(Self {
            office: Mutex::new(office),
            trust: watch::Sender::new(Arc::new(trust)),
            trust_domain: trust_domain.clone(),
            copy,
            registry,
            folder,
        })
    }

    /// The roots that are in force, and their changes.
    pub(crate) fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// Cancelled when another control plane has taken the registry over: from then on nothing can be issued.
    pub(crate) fn taken_over(&self) -> CancellationToken {
        self.registry.taken_over()
    }

    /// Whether it is this control plane's turn to issue, as far as can be known without asking.
    pub(crate) fn is_active(&self) -> bool {
        self.registry.is_held()
    }

    /// The root that signs.
    pub(crate) fn signing(&self) -> Arc<Root> {
        self.office().signing.clone()
    }

    /// The fingerprint of the root that issued this certificate, if it is on record and alive.
    pub(crate) fn issuer_of(&self, serial: &str) -> Option<String> {
        self.office().roll.get(serial).map(|standing| standing.issuer.clone())
    }

    /// Whether the certificate of this caller may have a successor: its root is trusted still, and where a root's key may be
    /// known to others, the very key is on record. Whoever holds that root could name any identity and any serial number.
    pub(crate) fn may_renew(&self, peer: &Peer) -> bool {
        let trust = self.trust.borrow().clone();
        if !peer.is_vouched_for(&trust) {
            return false;
        }
        let office = self.office();
        office.state.tainted.is_none() || office.has_on_record(peer)
    }

    /// Records, signs, verifies. Waits for the disk: call it on a blocking thread.
    pub(crate) fn issue(&self, order: &Order) -> Result<Issued, IssueError> {
        let issued_at_ms = clock::now_ms();
        let now = clock::unix_time(issued_at_ms);
        let mut random = [0; 9];
        getrandom::fill(&mut random)?;
        let serial = serial::compose(issued_at_ms, random);
        let (root, validity, issuance) = self.enroll(order, serial, now)?;
        if let Err(error) = self.registry.record(Event::Issued(issuance)) {
            self.office().roll.withdraw(&hex::encode(&serial));
            return Err(error.into());
        }
        let leaf = leaf_params(&order.identity, serial, validity)?
            .signed_by(order.key.public_key(), root.issuer())?;
        let chain = [&[leaf.der().clone()], root.intermediates()].concat();
        let bundles = self.trust.borrow().bundles.clone();
        for usage in [Usage::Client, Usage::Server] {
            verify(&chain, usage, &bundles, &SvidLimits::default(), now)?;
        }
        Ok(Issued { chain, at_ms: issued_at_ms, not_after: validity.not_after })
    }

    /// Chooses the root, and puts the certificate on the roll before it exists: under one lock, so that no step of a
    /// rotation comes between.
    fn enroll(
        &self,
        order: &Order,
        serial: [u8; 16],
        now: UnixTime,
    ) -> Result<(Arc<Root>, Validity, Issuance), IssueError> {
        let mut office = self.office();
        let root = office.signing.clone();
        let validity = Validity::within(&root, now, order.life)?;
        let issuance = record(order, &root, serial, validity);
        office.roll.enroll(&issuance);
        Ok((root, validity, issuance))
    }

    fn office(&self) -> MutexGuard<'_, Office> {
        self.office.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that somebody was refused. Waits for the disk: call it on a blocking thread.
    pub(crate) fn refused(&self, refused: Refused) -> Result<(), RecordError> {
        self.registry.record(Event::Refused(refused))
    }
}

#[derive(Clone, Copy)]
struct Validity {
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Validity {
    /// Backdated against clocks that are behind, and never beyond what signs.
    fn within(root: &Root, now: UnixTime, life: Duration) -> Result<Self, IssueError> {
        let seconds = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let not_before = now.as_secs().saturating_sub(BACKDATE.as_secs()).max(root.not_before().as_secs());
        let not_after = now.as_secs().saturating_add(life.as_secs()).min(root.not_after().as_secs());
        if not_after <= now.as_secs() {
            return Err(IssueError::RootExpired);
        }
        Ok(Self { not_before: seconds(not_before), not_after: seconds(not_after) })
    }
}

fn record(order: &Order, root: &Root, serial: [u8; 16], validity: Validity) -> Issuance {
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
        issuer: root.fingerprint().to_owned(),
    }
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
