//! The sidecar's configuration: a YAML file in, typed values out. The only reader of the configuration file and of
//! the environment. Refuses unknown fields and reports all bad values together, each with its field.

mod capture;
mod captured;
mod control_plane;
mod error;
mod external;
mod file;
mod forward;
mod hosts;
mod inbound;
mod jwt;
mod limits;
mod outbound;
mod rates;
mod resilience;
mod restart;
mod routes;
mod schema;
mod section;
mod service_name;
mod services;
mod upgrades;
mod workload_endpoint;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_identity::{
    SpiffeId, TrustDomain,
    tls::{KeyExchange, KeyUse},
};

pub use capture::{Capture, IpProtocol, ResolversUnknown, Selection, Traffic};
pub use control_plane::{ControlPlane, ControlPlaneAddress};
pub use error::{ConfigError, Fault};
pub use external::{DecisionBreaker, DecisionServer, ExternalAuthorization};
pub use forward::Forward;
pub(crate) use forward::ForwardTo;
pub use hosts::{ByHost, Host};
pub use jwt::{Issuer, Jwt, KeysFrom, KeysUrl, Origin};
pub use limits::Limits;
pub use rates::{Per, Rate, RateLimit};
pub use resilience::{Balance, Breakers, Failures, HashKey, Outliers, Resilience, Retries, Timeouts};
pub use routes::{
    Backend, Faults, HeaderChanges, Mirror, PathChange, PathMatch, Redirect, Rewrite, RouteAction,
    RouteMatch, RouteRetries, RouteRule, RouteTimeouts, Share, Statuses,
};
pub use schema::schema;
pub use service_name::ServiceName;
pub use upgrades::Upgrades;
pub use workload_endpoint::{Users, WorkloadEndpoint};

/// Everything a sidecar is told by its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The trust domain of this workload.
    pub trust_domain: TrustDomain,
    /// Whom this sidecar stands beside.
    pub workload: Workload,
    /// Where identity, policies, services and bundles come from.
    pub source: Source,
    /// What becomes of what no rule lets out of the mesh, as long as no control plane says.
    pub egress: EgressDefault,
    /// Where the last good state is kept across restarts. `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// Whose tokens are taken. `None`: none is looked at.
    pub jwt: Option<Jwt>,
    /// Who decides beside policy. `None`: nobody.
    pub external: Option<Arc<ExternalAuthorization>>,
    /// Ports on which peers reach the application.
    pub inbound: Vec<Inbound>,
    /// Ports on which the application reaches its upstreams.
    pub outbound: Vec<Outbound>,
    /// Every service that those ports lead to, and what is said here of each.
    pub services: BTreeMap<ServiceName, Service>,
    /// What the kernel leads through this sidecar. `None`: nothing.
    pub capture: Option<Capture>,
    /// Where `/livez`, `/readyz` and `/metrics` are served. `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// Where the application is given its own SVID. `None`: nowhere, and the key never leaves the process.
    pub workload_endpoint: Option<WorkloadEndpoint>,
    /// What handshakes with peers and with the control plane rest on.
    pub key_exchange: KeyExchange,
    /// Where access log lines go.
    pub access_log: AccessLog,
    /// Every bound of the data path.
    pub limits: Limits,
    /// How many single-threaded workers serve connections.
    pub workers: NonZeroUsize,
}

/// Whom this sidecar stands beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub identity: SpiffeId,
    /// The namespace: policies without one of their own, in file mode, belong to it.
    pub namespace: String,
    /// Labels that selectors select by. With a control plane its word counts and these are empty.
    pub labels: BTreeMap<String, String>,
}

/// Where identity, policies, services and bundles come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From a control plane.
    ControlPlane(ControlPlane),
    /// From files alone, read again when they change.
    Files(Files),
}

/// A mesh without a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Where the certificate and the bundles come from.
    pub identity: Identity,
    /// A policy file or a folder of them.
    pub policies: PathBuf,
}

/// What becomes of what wants to leave the mesh and is named by no rule of an `EgressPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "egress-default")]
pub enum EgressDefault {
    /// It is refused.
    #[default]
    Deny,
    /// It leaves, if it goes to the public Internet, and is recorded as what `Deny` would have refused.
    Allow,
}

/// Where certificate and bundles come from without a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// From files, read again when they change.
    Files(IdentityFiles),
    /// From a provider of the SPIFFE Workload API, as it streams them.
    WorkloadApi(WorkloadApi),
}

/// The own certificate and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// PEM: the SVID, leaf first.
    pub certificate: PathBuf,
    /// PEM: its private key; 0600.
    pub private_key: PathBuf,
    /// PEM: the authorities of the own trust domain.
    pub trust_bundle: PathBuf,
}

/// A provider of the SPIFFE Workload API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApi {
    /// Its unix socket.
    pub socket: PathBuf,
    /// Which SVID of several with the workload's identity. `None`: the first.
    pub hint: Option<String>,
}

/// A port on which peers reach the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Where peers connect, with mutual TLS.
    pub listen: SocketAddr,
    /// Whether connections arrive there that were sent to the application's own port. Such a listener has one
    /// `Inbound` for each of these ports.
    pub is_captured: bool,
    /// The application.
    pub forward: Forward,
    /// What the application speaks.
    pub protocol: Protocol,
    /// How strictly request paths are read.
    pub paths: PathMode,
    /// What requests may become.
    pub upgrades: Upgrades,
    /// How many requests it takes.
    pub rate_limits: Vec<RateLimit>,
    /// The address that other sidecars are told to connect to. `None`: the listening one, if captured with the
    /// application's port.
    pub advertise: Option<SocketAddr>,
}

/// A port on which the application reaches its upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Where the application connects, in plaintext.
    pub listen: SocketAddr,
    /// What is behind it.
    pub leads_to: LeadsTo,
    /// What the application speaks.
    pub protocol: Protocol,
    /// How strictly request paths are read.
    pub paths: PathMode,
    /// What requests may become.
    pub upgrades: Upgrades,
}

/// What is behind an outbound port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadsTo {
    /// One service, whatever host the application names.
    One(ServiceName),
    /// The service that the application names by its host, request by request.
    ByHost(ByHost),
    /// The same for clients that know that this is a proxy and may ask it for tunnels.
    Proxy(ByHost),
    /// Whatever the application wanted to connect to before the kernel led it here.
    Captured,
}

/// A service that outbound ports lead to, as far as the file speaks of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// In file mode: whom the endpoints must prove to be, and where they are.
    pub target: Option<Target>,
    /// What the application calls it where a port leads to several services.
    pub hosts: Vec<Host>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What becomes of its requests. Empty: they are sent to it as they are.
    pub routes: Vec<Arc<RouteRule>>,
    /// How calls to it are spread, bounded and repeated.
    pub resilience: Resilience,
    /// Where the application calls it, if not at an endpoint: captured connections to these lead to the service.
    pub addresses: Vec<SocketAddr>,
}

/// A service's identities and endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// An endpoint that proves none of these is refused. Empty: every endpoint is refused.
    pub identities: Vec<SpiffeId>,
    /// Inbound ports of the service's sidecars.
    pub endpoints: Vec<SocketAddr>,
}

/// What a port carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "protocol")]
pub enum Protocol {
    /// Found out from the first bytes.
    #[default]
    Auto,
    /// HTTP, spoken to the application as HTTP/1.1.
    Http,
    /// HTTP, spoken to the application as HTTP/2 with prior knowledge.
    Http2,
    /// Bytes that are not looked into.
    Tcp,
}

/// How strictly request paths are read.
// `crate::http::path` has the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "path-mode")]
pub enum PathMode {
    /// Whatever two programs could read in two ways is refused.
    #[default]
    Strict,
    /// Dot segments and doubled slashes are resolved; path parameters stay.
    Compatible,
}

/// Where access log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "access-log")]
pub enum AccessLog {
    /// JSON lines on standard output.
    #[default]
    Stdout,
    /// Nowhere; denials are still counted and reported.
    Off,
}

impl Config {
    /// Reads and checks `path`; relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Unreadable { path: path.to_owned(), cause })?;
        Self::parse(path, &text)
    }

    /// Checks the text of the file at `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        file::parse(path, text)
    }

    /// The port that takes what the application sends to others, where there is one.
    pub fn captured_outbound(&self) -> Option<u16> {
        self.outbound.iter().find(|port| port.is_captured()).map(|port| port.listen.port())
    }

    /// Whether the own private key may leave the process.
    pub(crate) fn key_use(&self) -> KeyUse {
        if self.workload_endpoint.is_some() { KeyUse::HandedOn } else { KeyUse::Sealed }
    }

    /// Every service that the application can reach by an outbound port, directly or by a route.
    pub fn called(&self) -> BTreeSet<&ServiceName> {
        let named = self.outbound.iter().flat_map(|port| port.leads_to.services());
        let rules = self.services.values().flat_map(|service| &service.routes);
        named.chain(self.services.keys()).chain(rules.flat_map(|rule| rule.backends())).collect()
    }
}

impl Outbound {
    /// Whether connections arrive there that were sent elsewhere.
    pub(crate) fn is_captured(&self) -> bool {
        matches!(self.leads_to, LeadsTo::Captured)
    }

    /// Whether what is no service's may be somebody's outside of the mesh.
    pub(crate) fn may_lead_outside(&self) -> bool {
        matches!(self.leads_to, LeadsTo::Captured | LeadsTo::Proxy(_))
    }
}

impl LeadsTo {
    /// Every service that is named, each once; what is captured names none beforehand.
    pub fn services(&self) -> &[ServiceName] {
        match self {
            Self::One(service) => std::slice::from_ref(service),
            Self::ByHost(table) | Self::Proxy(table) => table.services(),
            Self::Captured => &[],
        }
    }

    /// The services of which a host chooses. `None`: there is nothing to choose.
    pub(crate) fn by_host(&self) -> Option<&ByHost> {
        match self {
            Self::One(_) | Self::Captured => None,
            Self::ByHost(table) | Self::Proxy(table) => Some(table),
        }
    }
}

/// Reads a duration such as `1500ms` or `6h`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a duration such as 500ms, 30s or 6h"))
}

#[cfg(test)]
mod tests;
