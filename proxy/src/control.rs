//! The client of the control plane: gets this workload's certificate, subscribes to what it needs, reports edges.
//! Applies an update whole or refuses it whole with the path of the bad element. Whatever fails here, traffic flows on
//! under the last good snapshot.

mod cache;
mod channel;
mod issue;
mod report;
mod resources;
mod subscribe;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustls::pki_types::UnixTime;
use sidegate_codes::Code;
use sidegate_identity::{InvalidSpiffeId, SpiffeId, tls::Credentials};
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

use crate::{
    config::{Config, ControlPlane},
    drain::DrainWatch,
    snapshot::Publisher,
    telemetry::{Edges, Metrics},
};

use cache::Cache;
use channel::{ConnectError, Connector};

/// What the client works with.
#[derive(Debug)]
pub(crate) struct Client {
    config: Config,
    connector: Connector,
    join_token: Option<PathBuf>,
    /// Where the inbound listeners are, by their place in the configuration.
    inbound: Vec<SocketAddr>,
    instance: String,
    cache: Option<Cache>,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    edges: Edges,
    drain: DrainWatch,
    traffic_ended: DrainWatch,
    /// The certificate is of a root that the control plane has no longer.
    reissue: Notify,
    /// The certificate that the control plane wants to be renewed early.
    renew: watch::Sender<Option<Renewal>>,
}

/// What the client is given to work with.
#[derive(Debug)]
pub(crate) struct Means {
    /// Where the inbound listeners are: the configuration may have left the port to the system.
    pub(crate) inbound: Vec<SocketAddr>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) edges: Edges,
    pub(crate) drain: DrainWatch,
    /// Begins when draining is over: what is counted by then is all there will be.
    pub(crate) traffic_ended: DrainWatch,
}

/// A certificate that is to be renewed before half of its life has passed, within a time that each sidecar draws from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Renewal {
    /// Hex.
    serial: String,
    within: Duration,
}

/// Why the client cannot begin. The configuration's fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The bootstrap bundle cannot be used.
    #[error("{path}: {reason} ({})", Code::BadCredentials)]
    TrustBundle { path: PathBuf, reason: String },
    /// The trust domain cannot name a control plane.
    #[error(transparent)]
    Identity(#[from] InvalidSpiffeId),
    /// No randomness.
    #[error("no randomness: {0}")]
    Random(#[from] getrandom::Error),
}

impl Client {
    /// Reads the bootstrap bundle, which must be usable at the start.
    pub(crate) fn new(
        config: &Config,
        control_plane: &ControlPlane,
        means: Means,
    ) -> Result<Self, StartError> {
        let expected = SpiffeId::for_workload(&config.trust_domain, NAMESPACE, SERVICE_ACCOUNT)?;
        let connector = Connector::new(config, control_plane, expected, means.publisher.reader())
            .map_err(|reason| StartError::TrustBundle { path: control_plane.trust_bundle.clone(), reason })?;
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let Means { inbound, publisher, metrics, edges, drain, traffic_ended } = means;
        Ok(Self {
            connector,
            join_token: control_plane.join_token.clone(),
            instance: format!("{:032x}", u128::from_be_bytes(random)),
            cache: config
                .cache
                .clone()
                .map(|folder| Cache::new(folder, config.workload.identity.clone(), config.key_use())),
            config: config.clone(),
            inbound,
            publisher,
            metrics,
            edges,
            drain,
            traffic_ended,
            reissue: Notify::new(),
            renew: watch::Sender::new(None),
        })
    }

    /// Works until draining has begun, the control plane has been told, traffic has ended and the last of it has been
    /// reported. How long the last two take is bounded by whoever drops this.
    pub(crate) async fn run(self) {
        let resumed = self.resume();
        self.renew.send_replace(resumed.resources.renewal());
        let (renewed, credentials) = watch::channel(resumed.credentials);
        let until_told = async {
            tokio::join!(
                subscribe::run(&self, credentials.clone(), resumed.resources),
                report::run(&self, credentials.clone()),
            )
        };
        tokio::select! {
            never = issue::run(&self, renewed) => match never {},
            ((), ()) = until_told => {}
        }
    }

    /// A connection as this workload.
    async fn connect(&self, own: &Credentials) -> Result<Channel, ConnectError> {
        let connected = self.connector.connect(Some(own)).await;
        if matches!(connected, Err(ConnectError::OtherRoot { .. })) {
            self.reissue.notify_waiters();
        }
        connected
    }

    /// Puts what the cache holds in force, so that a restart needs no control plane.
    fn resume(&self) -> cache::Resumed {
        let Some(cache) = &self.cache else {
            return cache::Resumed::default();
        };
        let resumed = cache.load().unwrap_or_else(|error| {
            tracing::warn!(code = %Code::CacheUnusable, %error, "starting without the cache");
            cache::Resumed::default()
        });
        if let (Some(credentials), Ok(mesh)) = (&resumed.credentials, resumed.resources.mesh_state()) {
            tracing::info!(
                identity = %credentials.svid().id(),
                resources = resumed.resources.len(),
                "resumed from the cache"
            );
            let trust = Arc::clone(&mesh.trust);
            self.publisher.mesh(mesh);
            self.publisher.credentials(credentials.clone(), &trust, false);
        }
        resumed
    }

    fn connected(&self, is_connected: bool) {
        self.metrics.control_connected.store(u64::from(is_connected), Ordering::Relaxed);
    }
}

/// Waits until there are credentials that have not expired.
async fn usable(credentials: &mut watch::Receiver<Option<Credentials>>) -> Option<Credentials> {
    let found = credentials.wait_for(|credentials| credentials.as_ref().is_some_and(is_alive)).await.ok()?;
    found.clone()
}

/// Whether they have not expired.
fn is_alive(credentials: &Credentials) -> bool {
    credentials.svid().not_after() > UnixTime::now()
}

/// In [-1, 1]; the middle when the system has no randomness, which only costs spread.
pub(crate) fn jitter() -> f64 {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    f64::from(random) / f64::from(u32::MAX) * 2.0 - 1.0
}

/// The control plane's own identity is `ns/sidegate/sa/control-plane` of the mesh's trust domain.
const NAMESPACE: &str = "sidegate";
const SERVICE_ACCOUNT: &str = "control-plane";
