//! The control plane's own certificate: issued by its own CA, renewed at half of its life, in use for every handshake
//! that begins after. A renewal that fails keeps the one at hand and is tried again.

use std::{sync::Arc, time::Duration};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sidegate_codes::Code;
use sidegate_identity::{
    renewal,
    tls::{self, ClientAuth, Credentials, CredentialsError},
};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    ca::{Authority, IssueError, Order, Trust, csr::ProvenKey},
    clock,
    mesh::Mesh,
};

/// Holds the credentials and renews them: the only writer.
pub(crate) struct OwnCredentials {
    authority: Arc<Authority>,
    mesh: watch::Receiver<Arc<Mesh>>,
    trust: watch::Receiver<Arc<Trust>>,
    tls: watch::Sender<Arc<rustls::ServerConfig>>,
    /// When the certificate in use was issued and when it ends.
    term: Term,
}

/// The control plane cannot certify itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnCredentialsError {
    #[error("no key can be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the new key is not accepted: {0}")]
    Csr(#[from] crate::ca::csr::CsrError),
    #[error("{0}")]
    Issue(#[from] IssueError),
    #[error("{0}")]
    Credentials(#[from] CredentialsError),
}

#[derive(Clone, Copy)]
struct Term {
    issued_at_ms: u64,
    ends_at_ms: u64,
}

impl OwnCredentials {
    /// The first certificate.
    pub(crate) fn start(
        authority: Arc<Authority>,
        mesh: watch::Receiver<Arc<Mesh>>,
    ) -> Result<(Self, watch::Receiver<Arc<rustls::ServerConfig>>), OwnCredentialsError> {
        let mut trust = authority.trust();
        trust.mark_unchanged();
        let (config, term) = issue(&authority, &mesh.borrow().clone())?;
        let (sender, receiver) = watch::channel(config);
        Ok((Self { authority, mesh, trust, tls: sender, term }, receiver))
    }

    /// Renews until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let wait = match failures {
                0 => self.until_renewal(),
                failures => renewal::retry_after(failures, jitter()),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Another root signs or is trusted: both are a part of what is served.
                Ok(()) = self.trust.changed() => {}
                () = sleep(wait) => {}
            }
            failures = match self.renew().await {
                Ok(()) => 0,
                Err(reason) => {
                    tracing::error!(code = %Code::RenewalFailed, reason, "own certificate not renewed");
                    failures.saturating_add(1)
                }
            };
        }
    }

    async fn renew(&mut self) -> Result<(), String> {
        let (authority, mesh) = (self.authority.clone(), self.mesh.borrow().clone());
        let (config, term) = tokio::task::spawn_blocking(move || issue(&authority, &mesh))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        self.term = term;
        self.tls.send_replace(config);
        tracing::debug!("own certificate renewed");
        Ok(())
    }

    fn until_renewal(&self) -> Duration {
        let life = Duration::from_millis(self.term.ends_at_ms.saturating_sub(self.term.issued_at_ms));
        let age = Duration::from_millis(clock::now_ms().saturating_sub(self.term.issued_at_ms));
        renewal::renew_after(life, jitter()).saturating_sub(age)
    }
}

/// A new key each time; it never leaves the process.
fn issue(
    authority: &Authority,
    mesh: &Mesh,
) -> Result<(Arc<rustls::ServerConfig>, Term), OwnCredentialsError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let order = Order {
        identity: mesh.config.control_plane_identity(),
        key: ProvenKey::of_own_pair(&key)?,
        life: mesh.config.leaf_life,
        attestor: "self",
        evidence: String::new(),
        caller: String::new(),
        new_source: false,
    };
    let issued = authority.issue(&order)?;
    let term =
        Term { issued_at_ms: issued.at_ms, ends_at_ms: issued.not_after.as_secs().saturating_mul(1000) };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let bundles = authority.trust().borrow().bundles.clone();
    let now = clock::unix_time(clock::now_ms());
    let credentials = Credentials::new(issued.chain, key, &bundles, now)?;
    let config = tls::server_config(&credentials, bundles, ClientAuth::Optional, &[b"h2"]);
    Ok((config, term))
}

/// From -1 to 1; 0 if there is no randomness, which only makes renewals punctual.
fn jitter() -> f64 {
    let mut byte = [0];
    getrandom::fill(&mut byte).map_or(0.0, |()| f64::from(byte[0]) / 127.5 - 1.0)
}
