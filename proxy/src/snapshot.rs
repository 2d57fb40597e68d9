//! What is in force: one immutable [`Snapshot`], swapped whole. A [`Publisher`] is the only writer and hands out
//! [`Reader`]s; the path loads a snapshot once per connection or request and passes it down. `watch` only wakes.

mod called_at;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use rustls::{ClientConfig, ServerConfig};
use sidegate_identity::{
    SpiffeId, TrustBundles,
    tls::{ClientAuth, Credentials, Expected, client_config_by, server_config_by},
};
use sidegate_policy::{Egress, Policies, PolicySet, Workload};
use tokio::sync::watch;

pub(crate) use crate::config::EgressDefault;
pub(crate) use called_at::CalledAt;

use crate::{
    config::{Config, DecisionServer, Inbound, Outbound, Resilience, ServiceName, Target},
    external::External,
    identity::vouches_for,
    jwt::Issuers,
    rate::{Kept, PortRates, Renewal},
    route::RouteTable,
    telemetry::Metrics,
};

/// Everything that a connection or request is judged and forwarded by.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The own certificate and what is built on it. `None` until the first one is issued.
    pub(crate) secured: Option<Secured>,
    /// Whom this sidecar trusts.
    pub(crate) trust: Arc<TrustBundles>,
    /// The policies that select this workload.
    pub(crate) policies: Arc<Policies>,
    /// Where this workload may go outside of the mesh.
    pub(crate) egress: Arc<Egress>,
    /// What becomes of what those policies do not name.
    pub(crate) egress_default: EgressDefault,
    /// Whether denials are applied.
    pub(crate) enforcement: Enforcement,
    /// Whose tokens are taken.
    pub(crate) issuers: Arc<Issuers>,
    /// Who decides beside policy.
    pub(crate) external: Option<Arc<External>>,
    /// Ports by listener.
    pub(crate) inbound: Arc<[Inbound]>,
    /// How many requests those take, in the same order.
    pub(crate) rates: Arc<[PortRates]>,
    /// Routes by listener.
    pub(crate) outbound: Arc<[Route]>,
    /// Every service that is known, whichever port leads to it.
    pub(crate) services: Services,
    /// The same by the addresses at which the application calls them; empty unless a port
    /// takes captured connections or is a proxy.
    pub(crate) called_at: CalledAt,
    /// Whether policies and services have been told at all; before that nothing is ready.
    pub(crate) is_complete: bool,
    /// How often edges are reported.
    pub(crate) report_interval: Duration,
}

/// The own certificate, and the TLS server that presents it.
#[derive(Clone, Debug)]
pub(crate) struct Secured {
    /// The own key and chain.
    pub(crate) credentials: Credentials,
    /// Terminates mutual TLS.
    pub(crate) server: Arc<ServerConfig>,
}

/// What an outbound listener leads to.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The listener's configuration.
    pub(crate) port: Outbound,
    /// Those of `port.leads_to`, in its order. `None`: the service is not known.
    pub(crate) services: Vec<Option<Arc<Service>>>,
}

/// Services by name.
pub(crate) type Services = Arc<BTreeMap<ServiceName, Arc<Service>>>;

/// A service as its callers need it.
#[derive(Debug)]
pub(crate) struct Service {
    /// Where its sidecars listen.
    pub(crate) endpoints: Arc<[SocketAddr]>,
    /// Whom they must prove to be.
    pub(crate) identities: Arc<[SpiffeId]>,
    /// How to reach them. `None` while this sidecar has no certificate.
    pub(crate) tls: Option<PeerTls>,
    /// How calls to it are spread, bounded and repeated.
    pub(crate) resilience: Arc<Resilience>,
    /// What becomes of its requests. `None`: they are sent to it as they are.
    pub(crate) routes: Option<RouteTable>,
}

/// TLS towards one service. Two are equal only if a connection of one may serve the other.
#[derive(Clone, Debug)]
pub(crate) struct PeerTls {
    /// Changes with the own certificate and with the trust bundles.
    pub(crate) generation: u64,
    /// Whom an endpoint must prove to be.
    pub(crate) identities: Arc<[SpiffeId]>,
    /// Offers HTTP/1.1.
    pub(crate) http1: Arc<ClientConfig>,
    /// Offers HTTP/2.
    pub(crate) http2: Arc<ClientConfig>,
    /// Offers opaque bytes.
    pub(crate) tcp: Arc<ClientConfig>,
    /// Offers many streams of HTTP/1.1, or else one.
    pub(crate) many_http1: Arc<ClientConfig>,
    /// Offers many streams of opaque bytes, or else one.
    pub(crate) many_tcp: Arc<ClientConfig>,
    /// Offers nothing: the other side finds out what comes.
    pub(crate) any: Arc<ClientConfig>,
}

/// Whether denials are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enforcement {
    /// A denial refuses.
    Enforce,
    /// A denial is recorded as what `Enforce` would have done. A verified peer is required all the same.
    Observe,
}

/// What the mesh tells this sidecar, from files or from a control plane. Validated as a whole.
#[derive(Debug)]
pub(crate) struct MeshState {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) root_namespace: Option<String>,
    pub(crate) enforcement: Enforcement,
    /// `None`: as the sidecar's own file says.
    pub(crate) egress: Option<EgressDefault>,
    pub(crate) trust: Arc<TrustBundles>,
    pub(crate) policies: PolicySet,
    pub(crate) services: BTreeMap<ServiceName, Target>,
    pub(crate) report_interval: Duration,
}

/// What becomes of the own certificate.
#[derive(Debug)]
pub(crate) enum Own {
    /// The one in force stays.
    Kept,
    /// This one takes its place.
    New(Credentials),
    /// Nobody who trusts the new bundles would accept it: none is in force.
    Withdrawn,
}

/// The writing half. Each call builds a complete new snapshot from its parts and swaps it in.
#[derive(Debug)]
pub(crate) struct Publisher {
    parts: Mutex<Parts>,
    current: Arc<ArcSwap<Snapshot>>,
    wake: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

/// The reading half.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    current: Arc<ArcSwap<Snapshot>>,
    wake: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Parts {
    config: Config,
    mesh: Option<MeshState>,
    credentials: Option<Credentials>,
    trust: Arc<TrustBundles>,
    policies: Arc<Policies>,
    egress: Arc<Egress>,
    /// Of the snapshot before, with the keys that are known.
    issuers: Arc<Issuers>,
    /// The rate limits of the snapshot before.
    rates: Kept,
    generation: u64,
    version: u64,
}

impl Snapshot {
    /// The own identity, as far as it has been proven.
    pub(crate) fn own_id(&self) -> Option<SpiffeId> {
        self.secured.as_ref().map(|secured| secured.credentials.svid().id().clone())
    }

    /// Who decides beside policy about the application's `port`.
    pub(crate) fn external_of(&self, port: u16) -> Option<&Arc<External>> {
        self.external.as_ref().filter(|external| external.config.decides_about(port))
    }
}

impl Publisher {
    /// Starts with a snapshot that admits nobody and reaches nothing.
    pub(crate) fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        let mut parts = Parts {
            config,
            mesh: None,
            credentials: None,
            trust: Arc::default(),
            policies: Arc::default(),
            egress: Arc::default(),
            issuers: Arc::default(),
            rates: Kept::default(),
            generation: 0,
            version: 0,
        };
        let current = Arc::new(ArcSwap::from_pointee(parts.snapshot()));
        Self { parts: Mutex::new(parts), current, wake: watch::Sender::new(0), metrics }
    }

    /// A reader of what is in force.
    pub(crate) fn reader(&self) -> Reader {
        Reader { current: Arc::clone(&self.current), wake: self.wake.subscribe() }
    }

    /// Puts what the mesh tells in force.
    pub(crate) fn mesh(&self, mesh: MeshState) {
        self.publish(|parts| {
            parts.trust_in(Arc::clone(&mesh.trust));
            parts.mesh = Some(mesh);
            parts.compile();
        });
    }

    /// Puts a new certificate in force. `trust` came with it: it counts until the mesh has told its own bundles, where
    /// those are so old that they do not know the certificate's authority yet, and where the certificate is `a_beginning`: without
    /// one before it nothing was told for a while. Who is in quarantine stays there.
    pub(crate) fn credentials(&self, credentials: Credentials, trust: &TrustBundles, a_beginning: bool) {
        self.publish(|parts| {
            self.ends_at(Some(&credentials));
            parts.generation += 1;
            if a_beginning || parts.mesh.is_none() || !vouches_for(&parts.trust, &credentials) {
                let quarantine = parts.trust.quarantine().clone();
                parts.trust_in(Arc::new(trust.clone().without(quarantine)));
            }
            parts.credentials = Some(credentials);
        });
    }

    /// Puts policies in force and leaves the identity, which has another source, as it is.
    pub(crate) fn policies(&self, mesh: MeshState) {
        self.publish(|parts| {
            parts.mesh = Some(mesh);
            parts.compile();
        });
    }

    /// Puts what files or a local provider say in force in one step. Without `mesh` the policies stay as they are.
    pub(crate) fn local(&self, trust: Arc<TrustBundles>, own: Own, mesh: Option<MeshState>) {
        self.publish(|parts| {
            parts.trust_in(trust);
            match own {
                Own::Kept => {}
                Own::New(credentials) => {
                    self.ends_at(Some(&credentials));
                    parts.credentials = Some(credentials);
                    parts.generation += 1;
                }
                Own::Withdrawn => {
                    self.ends_at(None);
                    parts.credentials = None;
                    parts.generation += 1;
                }
            }
            if let Some(mesh) = mesh {
                parts.mesh = Some(mesh);
                parts.compile();
            }
        });
    }

    /// Puts a changed configuration in force. Its listeners must be the ones that are open.
    pub(crate) fn config(&self, config: Config) {
        self.publish(|parts| {
            parts.config = config;
            parts.compile();
        });
    }

    fn ends_at(&self, own: Option<&Credentials>) {
        let not_after = own.map_or(0, |own| own.svid().not_after().as_secs());
        self.metrics.certificate_expiry.store(not_after, Ordering::Relaxed);
    }

    /// Holds the lock while it builds: writers are rare and off the data path, and no snapshot is lost.
    fn publish(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        parts.version += 1;
        self.current.store(Arc::new(parts.snapshot()));
        self.metrics.snapshot_version.store(parts.version, Ordering::Relaxed);
        self.wake.send_replace(parts.version);
    }
}

impl Reader {
    /// What is in force now; cheap, and held only briefly.
    pub(crate) fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// What is in force now, to keep.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Waits for a snapshot newer than the last one this reader has waited for. Never ends once the publisher is
    /// gone: nothing changes any more.
    pub(crate) async fn changed(&mut self) {
        if self.wake.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Parts {
    fn trust_in(&mut self, trust: Arc<TrustBundles>) {
        if *self.trust != *trust {
            self.trust = trust;
            self.generation += 1;
        }
    }

    fn compile(&mut self) {
        let Some(mesh) = &self.mesh else { return };
        let workload = Workload {
            namespace: &self.config.workload.namespace,
            labels: &mesh.labels,
            trust_domain: self.config.trust_domain.as_str(),
            root_namespace: mesh.root_namespace.as_deref(),
        };
        self.policies = Arc::new(mesh.policies.compile(&workload));
        self.egress = Arc::new(mesh.policies.compile_egress(&workload));
    }

    fn snapshot(&mut self) -> Snapshot {
        self.issuers = Arc::new(Issuers::new(self.config.jwt.as_ref(), &self.issuers));
        let mut rates = self.rates.renew();
        let secured = self.credentials.as_ref().map(|credentials| Secured {
            credentials: credentials.clone(),
            server: server_config_by(
                self.config.key_exchange,
                credentials,
                Arc::clone(&self.trust),
                ClientAuth::Required,
                &SERVER_ALPN,
            ),
        });
        let services: Services = Arc::new(self.services(&mut rates));
        let callers = self.config.limits.rate_callers;
        let port_rates = self.config.inbound.iter().map(|port| rates.port(port, callers)).collect();
        self.rates = rates.end();
        let route = |port: &Outbound| Route {
            port: port.clone(),
            services: port.leads_to.services().iter().map(|name| services.get(name).cloned()).collect(),
        };
        let called_at = if self.config.outbound.iter().any(Outbound::may_lead_outside) {
            CalledAt::new(&services, &self.config.services)
        } else {
            CalledAt::default()
        };
        Snapshot {
            secured,
            trust: Arc::clone(&self.trust),
            policies: Arc::clone(&self.policies),
            egress: Arc::clone(&self.egress),
            egress_default: self
                .mesh
                .as_ref()
                .map_or(EgressDefault::Deny, |mesh| mesh.egress.unwrap_or(self.config.egress)),
            enforcement: self.mesh.as_ref().map_or(Enforcement::Enforce, |mesh| mesh.enforcement),
            issuers: Arc::clone(&self.issuers),
            external: self.external(),
            inbound: self.config.inbound.clone().into(),
            rates: port_rates,
            outbound: self.config.outbound.iter().map(route).collect(),
            services,
            called_at,
            is_complete: self.mesh.is_some(),
            report_interval: self.mesh.as_ref().map_or(DEFAULT_REPORT_INTERVAL, |mesh| mesh.report_interval),
        }
    }

    fn external(&self) -> Option<Arc<External>> {
        let config = Arc::clone(self.config.external.as_ref()?);
        let tls = match &config.server {
            DecisionServer::Mesh { identities, .. } => self.peer_tls(&identities.clone().into()),
            DecisionServer::Loopback(_) | DecisionServer::Unix(_) | DecisionServer::Tls { .. } => None,
        };
        Some(Arc::new(External { config, tls }))
    }

    /// A target comes from the file or from the control plane; the file accepts none where there is one.
    fn services(&self, rates: &mut Renewal) -> BTreeMap<ServiceName, Arc<Service>> {
        let told = self.mesh.iter().flat_map(|mesh| &mesh.services);
        let said = self.config.services.iter();
        let said = said.filter_map(|(name, service)| Some((name, service.target.as_ref()?)));
        told.chain(said)
            .map(|(name, target)| (name.clone(), Arc::new(self.service(name, target, rates))))
            .collect()
    }

    /// Where it is may come from the control plane; how it is called is said by the file alone.
    fn service(&self, name: &ServiceName, target: &Target, rates: &mut Renewal) -> Service {
        let identities: Arc<[SpiffeId]> = target.identities.clone().into();
        let said = self.config.services.get(name);
        let routes = said.map_or(&[][..], |said| &said.routes);
        Service {
            endpoints: target.endpoints.clone().into(),
            tls: self.peer_tls(&identities),
            identities,
            resilience: Arc::new(said.map_or_else(Resilience::default, |said| said.resilience.clone())),
            routes: RouteTable::compile(routes, |rule| rates.route(name, rule)),
        }
    }

    fn peer_tls(&self, identities: &Arc<[SpiffeId]>) -> Option<PeerTls> {
        let credentials = self.credentials.as_ref()?;
        let offering = |alpn: &[&[u8]]| {
            let expected = Expected::OneOf(Arc::clone(identities));
            client_config_by(
                self.config.key_exchange,
                Some(credentials),
                Arc::clone(&self.trust),
                expected,
                alpn,
            )
        };
        Some(PeerTls {
            generation: self.generation,
            identities: Arc::clone(identities),
            http1: offering(&[ALPN_HTTP1]),
            http2: offering(&[ALPN_HTTP2]),
            tcp: offering(&[ALPN_TCP]),
            many_http1: offering(&[ALPN_MANY_HTTP1, ALPN_HTTP1]),
            many_tcp: offering(&[ALPN_MANY_TCP, ALPN_TCP]),
            any: offering(&[]),
        })
    }
}

impl PartialEq for PeerTls {
    fn eq(&self, other: &Self) -> bool {
        self.generation == other.generation && self.identities == other.identities
    }
}

impl Eq for PeerTls {}

/// The link carries HTTP/2.
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
/// The link carries HTTP/1.1.
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";
/// The link carries one opaque connection. ALPN picks the parser and never an identity.
pub(crate) const ALPN_TCP: &[u8] = b"sidegate-tcp/1";
/// The link carries many streams of HTTP/1.1 ([`crate::mux`]).
pub(crate) const ALPN_MANY_HTTP1: &[u8] = b"sidegate-yamux-http/1";
/// The link carries many streams of opaque bytes.
pub(crate) const ALPN_MANY_TCP: &[u8] = b"sidegate-yamux-tcp/1";

/// What is preferred first.
const SERVER_ALPN: [&[u8]; 5] = [ALPN_MANY_HTTP1, ALPN_MANY_TCP, ALPN_HTTP2, ALPN_HTTP1, ALPN_TCP];
const DEFAULT_REPORT_INTERVAL: Duration = Duration::from_secs(5);
