//! The file's own shape, and the step from it to typed values. Collects every fault before it gives up.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use schemars::JsonSchema;
use serde::Deserialize;
use sidegate_identity::{SpiffeId, TrustDomain, tls::KeyExchange};

use super::{
    AccessLog, Config, ConfigError, EgressDefault, Fault, Files, Identity, IdentityFiles, Limits, Source,
    Workload, WorkloadApi,
    capture::CaptureFile,
    captured,
    control_plane::ControlPlaneFile,
    external::ExternalAuthorizationFile,
    inbound::{self, InboundFile},
    jwt::JwtFile,
    limits::LimitsFile,
    outbound::{self, Known, OutboundFile},
    resilience, schema,
    services::{self, ServiceFile},
    workload_endpoint::WorkloadEndpointFile,
    yaml,
};

/// Checks the text of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let file: ConfigFile = yaml::from_str(text).map_err(|error| syntax(path, &error))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut faults = Faults { folder, list: Vec::new() };
    match (file.resolve(&mut faults), faults.list) {
        (Some(config), faults) if faults.is_empty() => Ok(config),
        (_, faults) => Err(ConfigError::Values { path: path.to_owned(), faults }),
    }
}

/// What a sidecar is told by its file, YAML. It takes identity, policies and services either from a control plane
/// (`controlPlane`) or from files alone (`identity` and `policies`), and has at least one port in `inbound` or
/// `outbound`. A field that is not listed here is an error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "The file of a Sidegate sidecar")]
pub(super) struct ConfigFile {
    /// The trust domain of this workload.
    #[schemars(with = "schema::Domain")]
    trust_domain: String,
    /// Whom this sidecar stands beside.
    workload: WorkloadFile,
    /// Where identity, policies, services and bundles come from; excludes `identity` and `policies`.
    control_plane: Option<ControlPlaneFile>,
    /// The workload's identity, without a control plane.
    identity: Option<IdentityFile>,
    /// Without a control plane: a policy file or a folder of them.
    #[schemars(with = "Option<schema::File>")]
    policies: Option<PathBuf>,
    /// Without a control plane: what becomes of what wants to leave the mesh and is named by no rule of an `EgressPolicy`.
    /// Absent: `Deny`.
    egress: Option<EgressDefault>,
    /// The folder, mode 0700, that keeps the last good state and the own certificate with its key, so that a restart
    /// works without the control plane. Absent: nothing is kept.
    #[schemars(with = "Option<schema::File>")]
    cache: Option<PathBuf>,
    /// Whose tokens are taken, for the `jwt` of policies. Absent: tokens are not looked at.
    jwt: Option<JwtFile>,
    /// Who decides beside policy, about what it permits. Absent: nobody.
    external_authorization: Option<ExternalAuthorizationFile>,
    /// Ports on which peers reach the application, with mutual TLS.
    #[serde(default)]
    inbound: Vec<InboundFile>,
    /// Ports on which the application reaches its upstreams.
    #[serde(default)]
    outbound: Vec<OutboundFile>,
    /// The services that outbound ports lead to. A port that names its endpoints itself needs no entry here.
    #[serde(default)]
    services: Vec<ServiceFile>,
    /// What the kernel leads through this sidecar. Absent: `sidegate-proxy capture` has nothing to do.
    capture: Option<CaptureFile>,
    /// The endpoint for operators and probes. Absent: there is none.
    admin: Option<AdminFile>,
    /// Whether a handshake without the post-quantum key exchange X25519MLKEM768 is refused, in both directions and with the
    /// control plane. Sidecars offer it first in any case.
    #[serde(default)]
    require_post_quantum: bool,
    /// The SPIFFE Workload API, served to the application itself. Absent: it is not, and the private key never leaves
    /// the sidecar.
    workload_api: Option<WorkloadEndpointFile>,
    /// Where access log lines go.
    #[serde(default)]
    access_log: AccessLog,
    /// Every bound of the data path. What is over one is refused and counted.
    #[serde(default)]
    #[schemars(with = "Limits")]
    limits: LimitsFile,
    /// How many single-threaded workers serve connections. Absent: one per core.
    #[schemars(range(min = 1, max = MOST_WORKERS))]
    workers: Option<usize>,
}

/// Whom this sidecar stands beside: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WorkloadFile {
    /// Its namespace. Without a control plane, policies that name none belong to it too.
    namespace: String,
    /// The account it runs under.
    service_account: String,
    /// What selectors of policies select by. Only without a control plane, which otherwise knows them.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The workload's identity, without a control plane: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IdentityFile {
    /// Where the certificate and what belongs to it are kept.
    files: Option<CertificateFiles>,
    /// The provider that gives certificate, key and bundles, such as an agent of SPIRE.
    workload_api: Option<WorkloadApiFile>,
}

/// A provider of the SPIFFE Workload API (X.509-SVID profile). What it sends is verified whole before any of it is in
/// force; what it takes back is out of force at once.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WorkloadApiFile {
    /// Its unix socket. Whoever can put another in its place is whom this sidecar trusts: its folder should be writable
    /// for the provider alone.
    #[schemars(with = "schema::File")]
    socket: PathBuf,
    /// Which of several SVIDs with the workload's identity, by the hint that the provider gives it. Absent: the first.
    hint: Option<String>,
}

/// Where the certificate and what belongs to it are kept. All three are read again when they change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CertificateFiles {
    /// PEM: the X.509-SVID, leaf first.
    #[schemars(with = "schema::File")]
    certificate: PathBuf,
    /// PEM: its private key; mode 0600 or stricter.
    #[schemars(with = "schema::File")]
    private_key: PathBuf,
    /// PEM: the authorities of the own trust domain.
    #[schemars(with = "schema::File")]
    trust_bundle: PathBuf,
}

/// The endpoint for operators and probes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AdminFile {
    /// Where `/livez`, `/readyz` and `/metrics` are served, in plaintext and to whoever asks.
    #[schemars(with = "schema::Address")]
    listen: String,
}

impl ConfigFile {
    /// The typed configuration, or `None` with at least one fault.
    fn resolve(self, faults: &mut Faults<'_>) -> Option<Config> {
        let trust_domain = faults.take("trustDomain", TrustDomain::parse(&self.trust_domain));
        let workload = trust_domain.as_ref().and_then(|domain| self.workload.resolve(domain, faults));
        let in_files = self.control_plane.is_none();
        let source = resolve_source(self.control_plane, self.identity, self.policies, faults);
        let namespace = workload.as_ref().map_or("", |workload| &workload.namespace).to_owned();
        let inbound = faults.each("inbound", self.inbound, InboundFile::resolve);
        let mut services = services::resolve(self.services, &namespace, in_files, faults);
        let mut known = Known { namespace: &namespace, in_files, services: &mut services };
        let outbound = outbound::resolve(self.outbound, &mut known, faults);
        captured::check(&outbound, faults);
        inbound::refuse_loops(&inbound, &outbound, faults);
        let inbound = inbound.concat();
        inbound::check_captured(&inbound, faults);
        if inbound.is_empty() && outbound.is_empty() && faults.list.is_empty() {
            faults.push("inbound", "neither inbound nor outbound ports: nothing to do");
        }
        if !in_files && workload.as_ref().is_some_and(|workload| !workload.labels.is_empty()) {
            faults.push("workload.labels", "labels come from the control plane; remove them here");
        }
        if !in_files && self.egress.is_some() {
            faults.push("egress", "is for the control plane to say, in `mesh.yaml`; remove it here");
        }
        let jwt = self.jwt.map(|jwt| jwt.resolve(faults));
        let external = self.external_authorization.map(|external| external.resolve(&inbound, faults));
        let admin = self.admin.and_then(|admin| faults.parse::<SocketAddr>("admin.listen", &admin.listen));
        let workload_endpoint =
            self.workload_api.and_then(|endpoint| endpoint.resolve(source.as_ref(), faults));
        let capture = self.capture.map(|capture| capture.resolve(&mut faults.list));
        let limits = self.limits.resolve(&mut faults.list);
        if limits.idle_timeout >= limits.keep_alive_timeout {
            faults.push(
                "limits.idleTimeout",
                "must be below limits.keepAliveTimeout, so that the client side closes first",
            );
        }
        resilience::stay_within(&services, &limits, faults);
        let workers = match self.workers {
            None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            Some(count) => {
                NonZeroUsize::new(count).filter(|count| count.get() <= MOST_WORKERS).or_else(|| {
                    faults.push("workers", format!("{count} is not between 1 and {MOST_WORKERS}"));
                    None
                })?
            }
        };
        Some(Config {
            trust_domain: trust_domain?,
            workload: workload?,
            source: source?,
            egress: self.egress.unwrap_or_default(),
            cache: self.cache.map(|path| faults.folder.join(path)),
            jwt: match jwt {
                None => None,
                Some(jwt) => Some(jwt?),
            },
            external: match external {
                None => None,
                Some(external) => Some(Arc::new(external?)),
            },
            inbound,
            outbound,
            services,
            capture,
            admin,
            workload_endpoint,
            key_exchange: if self.require_post_quantum {
                KeyExchange::PostQuantumOnly
            } else {
                KeyExchange::PostQuantumFirst
            },
            access_log: self.access_log,
            limits,
            workers,
        })
    }
}

impl WorkloadFile {
    fn resolve(self, domain: &TrustDomain, faults: &mut Faults<'_>) -> Option<Workload> {
        let identity = SpiffeId::for_workload(domain, &self.namespace, &self.service_account);
        Some(Workload {
            identity: faults.take("workload", identity)?,
            namespace: self.namespace,
            labels: self.labels,
        })
    }
}

fn resolve_source(
    control_plane: Option<ControlPlaneFile>,
    identity: Option<IdentityFile>,
    policies: Option<PathBuf>,
    faults: &mut Faults<'_>,
) -> Option<Source> {
    match (control_plane, identity, policies) {
        (Some(control_plane), None, None) => Some(Source::ControlPlane(control_plane.resolve(faults)?)),
        (None, Some(identity), Some(policies)) => {
            let policies = faults.folder.join(policies);
            Some(Source::Files(Files { identity: identity.resolve(faults)?, policies }))
        }
        _ => {
            faults.push(
                "controlPlane",
                "either `controlPlane`, or both `identity` and `policies`, and not both ways",
            );
            None
        }
    }
}

impl IdentityFile {
    fn resolve(self, faults: &mut Faults<'_>) -> Option<Identity> {
        match (self.files, self.workload_api) {
            (Some(files), None) => Some(Identity::Files(IdentityFiles {
                certificate: faults.folder.join(files.certificate),
                private_key: faults.folder.join(files.private_key),
                trust_bundle: faults.folder.join(files.trust_bundle),
            })),
            (None, Some(WorkloadApiFile { socket, hint })) => {
                if hint.as_ref().is_some_and(String::is_empty) {
                    faults.push("identity.workloadApi.hint", "is empty; leave it out for the first SVID");
                }
                Some(Identity::WorkloadApi(WorkloadApi { socket: faults.folder.join(socket), hint }))
            }
            _ => {
                faults.push("identity", "either `files` or `workloadApi`, and not both");
                None
            }
        }
    }
}

/// Every fault so far, and the folder that relative paths start from.
pub(super) struct Faults<'a> {
    folder: &'a Path,
    list: Vec<Fault>,
}

impl Faults<'_> {
    /// The file at `path`, which is relative to the folder of the configuration.
    pub(super) fn file(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder
    }

    pub(super) fn push(&mut self, field: &str, message: impl Into<String>) {
        self.list.push(Fault { field: field.to_owned(), message: message.into() });
    }

    pub(super) fn take<T, E: std::fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.push(field, error.to_string())).ok()
    }

    pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        let result = text.parse().map_err(|error| format!("{text:?}: {error}"));
        self.take(field, result)
    }

    /// Resolves every element, so that all faults are seen.
    pub(super) fn each<T, R>(
        &mut self,
        field: &str,
        elements: Vec<T>,
        mut resolve: impl FnMut(T, &str, &mut Self) -> Option<R>,
    ) -> Vec<R> {
        elements
            .into_iter()
            .enumerate()
            .filter_map(|(index, element)| resolve(element, &format!("{field}[{index}]"), self))
            .collect()
    }
}

fn syntax(path: &Path, error: &serde_saphyr::Error) -> ConfigError {
    let (line, column) = error.location().map_or((1, 1), |location| (location.line(), location.column()));
    ConfigError::Syntax { path: path.to_owned(), line, column, message: error.to_string() }
}

/// More threads than any machine of today has cores.
const MOST_WORKERS: usize = 1_024;
