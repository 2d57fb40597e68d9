//! The sidecar's configuration: a YAML file in, typed values out. The only reader of the configuration file and of
//! the environment. Refuses unknown fields and reports all bad values together, each with its field.

mod capture;
mod captured;
mod file;
mod hosts;
mod inbound;
mod jwt;
mod limits;
mod outbound;
mod rates;
mod resilience;
mod routes;
mod schema;
mod services;
mod upgrades;
mod workload_endpoint;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_codes::Code;
use sidegate_identity::{
    SpiffeId, TrustDomain,
    tls::{KeyExchange, KeyUse},
};

pub use capture::{Capture, IpProtocol, ResolversUnknown, Selection, Traffic};
pub use captured::{CapturedOutbound, Passthrough};
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
    /// Where the last good state is kept across restarts. `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// Whose tokens are taken. `None`: none is looked at.
    pub jwt: Option<Jwt>,
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

/// How to reach the control plane and to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// `host:port` of its gRPC listener.
    pub address: String,
    /// PEM file with the roots that vouch for the control plane at the first contact.
    pub trust_bundle: PathBuf,
    /// File with the join token. `None`: only a cached identity can be renewed.
    pub join_token: Option<PathBuf>,
}

/// A mesh without a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Where the certificate and the bundles come from.
    pub identity: Identity,
    /// A policy file or a folder of them.
    pub policies: PathBuf,
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
    Captured(CapturedOutbound),
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

/// The application's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    host: ForwardTo,
    port: u16,
}

/// The host part of the application's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ForwardTo {
    /// An IP or a name, which is looked up again and again.
    Named(String),
    /// This host, over whichever family the application listens on.
    Loopback,
}

/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

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

/// The configuration cannot be used. The fault is the file's.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {cause} ({})", Code::ConfigUnreadable)]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Not YAML, or an unknown or missing field.
    #[error("{path}:{line}:{column}: {message} ({})", Code::ConfigSyntax)]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
        /// What the parser met and what it expected.
        message: String,
    },
    /// Values that cannot be used, all of them.
    #[error("{path}: {} ({})", join(.faults), Code::ConfigBadValue)]
    Values {
        /// The file.
        path: PathBuf,
        /// Each with its field.
        faults: Vec<Fault>,
    },
}

/// One value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// As in `inbound[0].listen`.
    pub field: String,
    /// What is wrong with it and which value was seen.
    pub message: String,
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

    /// The first field that differs from `next` and is in force only after a restart, if any.
    pub fn needs_restart(&self, next: &Self) -> Option<&'static str> {
        let inbound = |config: &Self| config.inbound.iter().map(|port| port.listen).collect::<Vec<_>>();
        // A connection knows its port by its place.
        let captured = |config: &Self| {
            let ports = config.inbound.iter();
            ports.map(|port| port.is_captured.then(|| port.forward.port())).collect::<Vec<_>>()
        };
        let outbound = |config: &Self| config.outbound.iter().map(|port| port.listen).collect::<Vec<_>>();
        // What a control plane has been told of this sidecar: its Hello is of the start.
        let is_told = matches!(self.source, Source::ControlPlane(_));
        let advertised = |config: &Self| {
            let ports = config.inbound.iter();
            ports.map(|port| (port.advertise, port.forward.port())).collect::<Vec<_>>()
        };
        let kept = [
            ("trustDomain", self.trust_domain == next.trust_domain),
            ("workload", self.workload.identity == next.workload.identity),
            ("controlPlane or identity", self.source == next.source),
            ("cache", self.cache == next.cache),
            ("inbound[].listen", inbound(self) == inbound(next)),
            ("inbound[].ports", captured(self) == captured(next)),
            ("outbound[].listen", outbound(self) == outbound(next)),
            (
                "inbound[].advertise or the port of inbound[].forward",
                !is_told || advertised(self) == advertised(next),
            ),
            ("the services called", !is_told || self.called() == next.called()),
            ("admin", self.admin == next.admin),
            ("requirePostQuantum", self.key_exchange == next.key_exchange),
            ("workloadApi", self.workload_endpoint == next.workload_endpoint),
            ("accessLog", self.access_log == next.access_log),
            ("limits", self.limits == next.limits),
            ("workers", self.workers == next.workers),
        ];
        kept.iter().find(|(_, same)| !same).map(|(field, _)| *field)
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
        matches!(self.leads_to, LeadsTo::Captured(_))
    }
}

impl ConfigError {
    /// The code that a person looks up.
    pub fn code(&self) -> Code {
        match self {
            Self::Unreadable { .. } => Code::ConfigUnreadable,
            Self::Syntax { .. } => Code::ConfigSyntax,
            Self::Values { .. } => Code::ConfigBadValue,
        }
    }
}

impl Forward {
    /// The port that policies mean by a port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the application is.
    pub(crate) fn host(&self) -> &ForwardTo {
        &self.host
    }

    /// The application's own port, on loopback.
    pub(crate) fn loopback(port: u16) -> Self {
        Self { host: ForwardTo::Loopback, port }
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(format!("{text:?} has port 0"))
            } else {
                Ok(Self { host: ForwardTo::Named(address.ip().to_string()), port: address.port() })
            };
        }
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not an address:port or name:port"))?;
        let is_name = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        match port.parse() {
            Ok(port) if is_name && port != 0 => Ok(Self { host: ForwardTo::Named(host.to_owned()), port }),
            _ => Err(format!("{text:?} is not an address:port or name:port")),
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ForwardTo::Named(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            ForwardTo::Named(host) => write!(f, "{host}:{}", self.port),
            ForwardTo::Loopback => write!(f, "loopback:{}", self.port),
        }
    }
}

impl LeadsTo {
    /// Every service that is named, each once; what is captured names none beforehand.
    pub fn services(&self) -> &[ServiceName] {
        match self {
            Self::One(service) => std::slice::from_ref(service),
            Self::ByHost(table) | Self::Proxy(table) => table.services(),
            Self::Captured(_) => &[],
        }
    }

    /// The services of which a host chooses. `None`: there is nothing to choose.
    pub(crate) fn by_host(&self) -> Option<&ByHost> {
        match self {
            Self::One(_) | Self::Captured(_) => None,
            Self::ByHost(table) | Self::Proxy(table) => Some(table),
        }
    }
}

impl ServiceName {
    /// As in `shop/payments`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace and the name in it.
    fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or(("", &self.0))
    }
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_label = |part: &str| {
            !part.is_empty()
                && part.len() <= 253
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_label(name) => Ok(Self(text.to_owned())),
            _ => Err(format!("{text:?} is not namespace/name")),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

fn join(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
}

/// Reads a duration such as `1500ms` or `6h`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a duration such as 500ms, 30s or 6h"))
}

#[cfg(test)]
mod tests;
