//! The peer of a connection: takes the certificates of a finished handshake, hands on a [`Peer`], and tells when the
//! peer stops being one. Nobody looks at the certificates again after this stage. What comes without TLS is a [`Client`] without
//! an identity where a policy makes an exception for it, and refused where none does.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, UnixTime};
use sidegate_identity::{SpiffeId, SvidLimits, TrustBundles, Usage, VerifiedSvid, tls::Credentials, verify};

use crate::{
    authorize,
    error::Error,
    snapshot::{Reader, Snapshot},
};

/// Who is at the other end, proven.
#[derive(Debug)]
pub(crate) struct Peer {
    svid: VerifiedSvid,
    /// Kept to verify again when the trust bundles change.
    chain: Vec<CertificateDer<'static>>,
    usage: Usage,
    /// What it was verified against.
    trust: Arc<TrustBundles>,
}

/// Who speaks on an inbound connection.
#[derive(Debug)]
pub(crate) enum Client {
    /// Whom its certificate proves it to be.
    Proven(Peer),
    /// Nobody knows who: it came without TLS, and an exception may be for it.
    Unproven,
}

impl Client {
    /// What has begun with `first`, which begins no TLS, on a connection to the application's `port`. Whether an exception is
    /// for what it turns out to ask is for `authorize` to say.
    pub(crate) fn without_tls(
        first: u8,
        downstream: SocketAddr,
        port: u16,
        snapshot: &Snapshot,
    ) -> Result<Self, Error> {
        if snapshot.policies.takes_plaintext(port, downstream.ip(), authorize::now()) {
            Ok(Self::Unproven)
        } else {
            Err(Error::Plaintext { first })
        }
    }

    /// Its SPIFFE ID, if it has proven one.
    pub(crate) fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Proven(peer) => Some(peer.id()),
            Self::Unproven => None,
        }
    }

    /// How long a server may take new requests of it.
    pub(crate) fn time_to_begin(&self) -> Duration {
        match self {
            Self::Proven(peer) => peer.time_to_begin(),
            Self::Unproven => Duration::MAX,
        }
    }

    /// Ends when it is no longer whom it has proven to be. Of who has proven nothing, each judgement says whether it may go on.
    pub(crate) async fn until_untrusted(&self, changes: Reader) -> Error {
        match self {
            Self::Proven(peer) => peer.until_untrusted(changes, |_| true).await,
            Self::Unproven => std::future::pending().await,
        }
    }
}

impl Peer {
    /// The peer that the handshake verified: the same function as the handshake's verifier, run on the same bytes.
    pub(crate) fn of(
        certificates: Option<&[CertificateDer<'static>]>,
        usage: Usage,
        trust: &Arc<TrustBundles>,
    ) -> Result<Self, Error> {
        let chain = certificates.unwrap_or_default().to_vec();
        let svid =
            verify(&chain, usage, trust, &SvidLimits::default(), UnixTime::now()).map_err(|error| {
                Error::Handshake { code: error.code(), reason: error.reason(), detail: error.to_string() }
            })?;
        Ok(Self { svid, chain, usage, trust: Arc::clone(trust) })
    }

    /// The peer's SPIFFE ID.
    pub(crate) fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    /// How long a server may take new requests of this peer.
    pub(crate) fn time_to_begin(&self) -> Duration {
        time_to_begin(&self.svid, SERVER_SHARE)
    }

    /// Ends when the peer is one no longer: its certificate ended, its authority left the bundles, or `is_expected`
    /// says of a newer snapshot that nobody wants to speak with it.
    pub(crate) async fn until_untrusted(
        &self,
        mut changes: Reader,
        is_expected: impl Fn(&Snapshot) -> bool,
    ) -> Error {
        let mut verified = Arc::clone(&self.trust);
        loop {
            let left = time_left(&self.svid);
            if left.is_zero() {
                return Error::PeerEnded(format!("the certificate of {} has ended", self.id()));
            }
            tokio::select! {
                () = changes.changed() => {
                    let snapshot = changes.snapshot();
                    // Path validation costs a hundred microseconds, and most changes are of something else.
                    if !Arc::ptr_eq(&snapshot.trust, &verified) {
                        if let Err(error) = self.verify_again(&snapshot.trust) {
                            return error;
                        }
                        verified = Arc::clone(&snapshot.trust);
                    }
                    if !is_expected(&snapshot) {
                        return Error::PeerEnded(format!("{} is not the service any longer", self.id()));
                    }
                }
                // The wall clock may jump while a timer sleeps, so it is looked at now and then.
                () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    fn verify_again(&self, trust: &TrustBundles) -> Result<(), Error> {
        verify(&self.chain, self.usage, trust, &SvidLimits::default(), UnixTime::now())
            .map(|_| ())
            .map_err(|error| Error::PeerEnded(format!("{} is trusted no longer: {error}", self.id())))
    }
}

/// Whether peers that trust `trust` accept these credentials now.
pub(crate) fn vouches_for(trust: &TrustBundles, own: &Credentials) -> bool {
    verify(own.chain(), Usage::Client, trust, &SvidLimits::default(), UnixTime::now()).is_ok()
}

/// How long a client may begin requests on a connection made with `own` to `peer`. It stops before the server does,
/// so that no request meets a connection that is just being closed.
pub(crate) fn client_time_to_begin(own: &VerifiedSvid, peer: &Peer) -> Duration {
    time_to_begin(own, CLIENT_SHARE).min(time_to_begin(&peer.svid, CLIENT_SHARE))
}

/// The certificate's remaining life, without the share that is kept for what has begun to end in order.
fn time_to_begin(svid: &VerifiedSvid, share: u32) -> Duration {
    let left = time_left(svid);
    left.saturating_sub((left / share).min(MOST_MARGIN * SERVER_SHARE / share))
}

fn time_left(svid: &VerifiedSvid) -> Duration {
    Duration::from_secs(svid.not_after().as_secs())
        .saturating_sub(Duration::from_secs(UnixTime::now().as_secs()))
}

/// A sixth of what is left, and a third on the client's side: twice the server's margin, also at its bound.
const SERVER_SHARE: u32 = 6;
const CLIENT_SHARE: u32 = 3;
const MOST_MARGIN: Duration = Duration::from_secs(5);
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
