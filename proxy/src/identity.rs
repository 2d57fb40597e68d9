//! The peer of a connection: takes the certificates of a finished handshake, hands on a [`Peer`], and tells when the
//! peer stops being one. Nobody looks at the certificates again after this stage.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use sidegate_identity::{SpiffeId, SvidLimits, TrustBundles, Usage, VerifiedSvid, verify};

use crate::{error::Error, snapshot::Reader};

/// Who is at the other end, proven.
#[derive(Debug)]
pub(crate) struct Peer {
    svid: VerifiedSvid,
    /// Kept to verify again when the trust bundles change.
    chain: Vec<CertificateDer<'static>>,
    usage: Usage,
}

impl Peer {
    /// The peer that the handshake verified: the same function as the handshake's verifier, run on the same bytes.
    pub(crate) fn of(
        certificates: Option<&[CertificateDer<'static>]>,
        usage: Usage,
        trust: &TrustBundles,
    ) -> Result<Self, Error> {
        let chain = certificates.unwrap_or_default().to_vec();
        let svid =
            verify(&chain, usage, trust, &SvidLimits::default(), UnixTime::now()).map_err(|error| {
                Error::Handshake {
                    code: error.code(),
                    reason: error.reason(),
                    detail: error.to_string(),
                }
            })?;
        Ok(Self { svid, chain, usage })
    }

    /// The peer's SPIFFE ID.
    pub(crate) fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    /// How long new requests may still begin on this connection: a little less than the certificate lives, so that
    /// what has begun can end in order.
    pub(crate) fn time_to_begin(&self) -> Duration {
        let (begin, end) = (self.svid.not_before().as_secs(), self.svid.not_after().as_secs());
        // Issuers backdate, so a life of seconds is mostly in the past: the rest of it counts too.
        let left = self.time_left();
        let margin = Duration::from_secs(end.saturating_sub(begin) / 10)
            .min(MOST_MARGIN)
            .min(left / 5);
        left.saturating_sub(margin)
    }

    /// Until the certificate ends.
    fn time_left(&self) -> Duration {
        Duration::from_secs(self.svid.not_after().as_secs())
            .saturating_sub(Duration::from_secs(UnixTime::now().as_secs()))
    }

    /// Ends when the peer is one no longer: its certificate ended, or its authority left the bundles.
    pub(crate) async fn until_untrusted(&self, mut changes: Reader) -> Error {
        loop {
            let left = self.time_left();
            if left.is_zero() {
                return Error::PeerEnded(format!("the certificate of {} has ended", self.id()));
            }
            tokio::select! {
                () = changes.changed() => {
                    if let Err(error) = self.verify_again(&changes) {
                        return error;
                    }
                }
                // The wall clock may jump while a timer sleeps, so it is looked at now and then.
                () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    fn verify_again(&self, changes: &Reader) -> Result<(), Error> {
        let snapshot = changes.load();
        verify(
            &self.chain,
            self.usage,
            &snapshot.trust,
            &SvidLimits::default(),
            UnixTime::now(),
        )
        .map(|_| ())
        .map_err(|error| Error::PeerEnded(format!("{} is trusted no longer: {error}", self.id())))
    }
}

const MOST_MARGIN: Duration = Duration::from_secs(5);
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
