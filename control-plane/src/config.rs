//! The mesh as its `mesh.yaml` says it: read here and nowhere else, into values that need no second check.
//! Everything wrong is reported together, each with file, line and field.

mod bounds;
mod document;
pub(crate) mod folder;
mod local_user;
mod registry;
mod schema;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    io::Read,
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::Uri;
use ipnet::IpNet;
use sidegate_codes::Code;
use sidegate_identity::{SpiffeId, TrustDomain};

use crate::problem::Problem;

pub use local_user::LocalUser;
pub use registry::{DatabaseServer, Postgresql, RegistryPlace};
pub use schema::schema;

pub(crate) use document::from_yaml;

/// A whole `mesh.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The trust domain that this control plane issues for.
    pub trust_domain: TrustDomain,
    /// Policies in this namespace hold for the whole mesh.
    pub root_namespace: Option<String>,
    /// Whether sidecars apply verdicts or only record them.
    pub enforcement: Enforcement,
    /// What becomes of what no rule lets out of the mesh.
    pub egress: EgressDefault,
    /// The folder of the policies, absolute or relative to the working directory.
    pub policies: PathBuf,
    /// The file of the identities in quarantine; it need not exist.
    pub quarantine: PathBuf,
    /// The folder of root key, registry and lock.
    pub state: PathBuf,
    /// Where certificates are put on record.
    pub registry: RegistryPlace,
    /// Where a copy of the roots' certificates is put for sidecars to read; its folder holds nothing secret.
    pub trust_bundle: Option<PathBuf>,
    /// Where sidecars connect (gRPC over TLS).
    pub grpc: SocketAddr,
    /// The unix socket for sidecars of this host. `None`: there is none.
    pub socket: Option<PathBuf>,
    /// Where the operator's API listens; always a loopback address.
    pub api: SocketAddr,
    /// Where the own bundle is served to partners. `None`: nowhere.
    pub bundle: Option<SocketAddr>,
    /// How long a workload's certificate lives.
    pub leaf_life: Duration,
    /// How long a root lives that is made from now on.
    pub root_life: Duration,
    /// How long the registry keeps a record after its certificate has ended.
    pub retention: Duration,
    /// How often sidecars report their edges.
    pub report_interval: Duration,
    /// Other trust domains that sidecars verify peers of, in the order of the file.
    pub federation: Vec<Federated>,
    /// In the order of the file.
    pub services: Vec<Service>,
    places: Places,
}

/// Where a service stands among the services: hundreds of sidecars ask at each change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Places {
    by_name: HashMap<ServiceName, usize>,
    /// Of several services that run under one identity, the first.
    by_identity: HashMap<SpiffeId, usize>,
}

/// A trust domain besides the own one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federated {
    /// Whose authorities the bundle holds.
    pub trust_domain: TrustDomain,
    /// Where its bundle comes from.
    pub source: BundleSource,
}

/// Where a foreign bundle comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// A file: PEM or SPIFFE's JSON.
    File(PathBuf),
    /// The partner's bundle endpoint.
    Endpoint(Endpoint),
}

/// A bundle endpoint (SPIFFE Federation §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https`.
    pub url: Uri,
    /// How its server proves itself.
    pub profile: Profile,
    /// It is asked this often at least.
    pub refresh: Duration,
    /// Addresses that it may have although they are of the own host or link.
    pub allow_addresses: Vec<IpNet>,
    /// The file in the state folder of what was fetched last.
    pub kept: PathBuf,
}

/// How the server of a bundle endpoint proves itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `https_spiffe`.
    Spiffe {
        /// What it must prove to be.
        id: SpiffeId,
        /// The bundle that it is verified by the first time.
        first: PathBuf,
    },
    /// `https_web`.
    Web {
        /// PEM: the authorities that vouch for its host name.
        roots: PathBuf,
    },
}

impl BundleSource {
    /// The file that the bundle is read from.
    pub(crate) fn file(&self) -> &Path {
        match self {
            Self::File(file) => file,
            Self::Endpoint(endpoint) => &endpoint.kept,
        }
    }
}

/// What sidecars do with a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[schemars(rename = "enforcement")]
pub enum Enforcement {
    /// Deny.
    Enforce,
    /// Admit, and record what would have been denied.
    Observe,
}

/// What becomes of what wants to leave the mesh and is named by no rule of an `EgressPolicy`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[schemars(rename = "egress-default")]
pub enum EgressDefault {
    /// It is refused.
    #[default]
    Deny,
    /// It leaves, if it goes to the public Internet, and is recorded as what `Deny` would have refused.
    Allow,
}

/// A service of the mesh and the workload behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name in the mesh.
    pub name: ServiceName,
    /// The identity that its workloads run under.
    pub identity: SpiffeId,
    /// What policies select it by.
    pub labels: BTreeMap<String, String>,
    /// Who presents one of these tokens is a workload of this service.
    pub join_tokens: Vec<TokenDigest>,
    /// Whose processes on this host are workloads of this service, at `Config::socket`.
    pub local_users: Vec<LocalUser>,
    /// The application's port that the service is reached on. `None`: the first that a sidecar has.
    pub port: Option<NonZeroU16>,
    /// Endpoints besides those that sidecars register.
    pub endpoints: Vec<SocketAddr>,
}

/// `namespace/name`, both DNS labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

/// SHA-256 of a join token. The token itself is never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenDigest(pub(crate) [u8; 32]);

impl Config {
    /// Reads and checks the file. Relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        Self::read(path).and_then(|text| Self::parse(path, &text))
    }

    /// The text of the file.
    pub(crate) fn read(path: &Path) -> Result<String, Vec<Problem>> {
        read_bounded(path, MAX_CONFIG_BYTES).map_err(|error| {
            vec![Problem::of_file(Code::ConfigUnreadable, path.display().to_string(), error.to_string())]
        })
    }

    /// Checks the text of a file at `path`.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        document::parse(path, text)
    }

    /// The identity that the control plane itself serves under.
    pub fn control_plane_identity(&self) -> SpiffeId {
        control_plane_identity(&self.trust_domain)
    }

    /// The first service of the file that runs under this identity: its labels are the workload's.
    pub(crate) fn workload(&self, identity: &SpiffeId) -> Option<&Service> {
        self.places.by_identity.get(identity).and_then(|place| self.services.get(*place))
    }

    /// The service of this name.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.places.by_name.get(name).and_then(|place| self.services.get(*place))
    }
}

impl Places {
    fn of(services: &[Service]) -> Self {
        let mut places = Self::default();
        for (place, service) in services.iter().enumerate() {
            places.by_name.entry(service.name.clone()).or_insert(place);
            places.by_identity.entry(service.identity.clone()).or_insert(place);
        }
        places
    }
}

impl ServiceName {
    /// Reads `namespace/name`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        (is_label(namespace) && is_label(name))
            .then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for TokenDigest {
    /// Redacted: the digest of a weak token would give it away to a dictionary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(…)")
    }
}

/// Reads a UTF-8 file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(std::io::Error::other(format!("is larger than {limit} bytes")));
    }
    Ok(text)
}

fn control_plane_identity(trust_domain: &TrustDomain) -> SpiffeId {
    SpiffeId::for_workload(trust_domain, CONTROL_PLANE_NAMESPACE, CONTROL_PLANE_ACCOUNT)
        .expect("a trust domain that parsed and two constant segments make an ID")
}

/// Whether this is a DNS label as Kubernetes names namespaces and services by (RFC 1123): it fits every place that
/// joins names with `/`.
fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().last().is_some_and(plain)
}

const CONTROL_PLANE_NAMESPACE: &str = "sidegate";
const CONTROL_PLANE_ACCOUNT: &str = "control-plane";
/// A mesh of a thousand services is some 200 KiB.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests;
