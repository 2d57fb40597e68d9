//! The file's own shape, and the step from it to typed values. Collects every fault before it gives up.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;
use sidegate_identity::{SpiffeId, TrustDomain};

use super::{
    AccessLog, Config, ConfigError, ControlPlane, Fault, Files, Inbound, Outbound, PathMode, Protocol,
    Source, Target, Workload, limits::LimitsFile,
};

/// Checks the text of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let file: ConfigFile =
        serde_saphyr::from_str_with_options(text, yaml_options()).map_err(|error| syntax(path, &error))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut faults = Faults {
        folder,
        list: Vec::new(),
    };
    match (file.resolve(&mut faults), faults.list) {
        (Some(config), faults) if faults.is_empty() => Ok(config),
        (_, faults) => Err(ConfigError::Values {
            path: path.to_owned(),
            faults,
        }),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ConfigFile {
    trust_domain: String,
    workload: WorkloadFile,
    control_plane: Option<ControlPlaneFile>,
    identity: Option<IdentityFile>,
    policies: Option<PathBuf>,
    cache: Option<PathBuf>,
    #[serde(default)]
    inbound: Vec<InboundFile>,
    #[serde(default)]
    outbound: Vec<OutboundFile>,
    admin: Option<AdminFile>,
    #[serde(default)]
    access_log: AccessLog,
    #[serde(default)]
    limits: LimitsFile,
    workers: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WorkloadFile {
    namespace: String,
    service_account: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ControlPlaneFile {
    address: String,
    trust_bundle: PathBuf,
    join_token: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IdentityFile {
    files: IdentityFiles,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IdentityFiles {
    certificate: PathBuf,
    private_key: PathBuf,
    trust_bundle: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct InboundFile {
    listen: String,
    forward: String,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    paths: PathMode,
    advertise: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OutboundFile {
    listen: String,
    service: String,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    paths: PathMode,
    identities: Option<Vec<String>>,
    endpoints: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminFile {
    listen: String,
}

impl ConfigFile {
    /// The typed configuration, or `None` with at least one fault.
    fn resolve(self, faults: &mut Faults<'_>) -> Option<Config> {
        let trust_domain = faults.take("trustDomain", TrustDomain::parse(&self.trust_domain));
        let workload = trust_domain
            .as_ref()
            .and_then(|domain| self.workload.resolve(domain, faults));
        let in_files = self.control_plane.is_none();
        let source = resolve_source(self.control_plane, self.identity, self.policies, faults);
        let namespace = workload
            .as_ref()
            .map_or("", |workload| &workload.namespace)
            .to_owned();
        let inbound = faults.each("inbound", self.inbound, InboundFile::resolve);
        let outbound = faults.each("outbound", self.outbound, |port, field, faults| {
            port.resolve(field, &namespace, in_files, faults)
        });
        if inbound.is_empty() && outbound.is_empty() && faults.list.is_empty() {
            faults.push("inbound", "neither inbound nor outbound ports: nothing to do");
        }
        if !in_files
            && workload
                .as_ref()
                .is_some_and(|workload| !workload.labels.is_empty())
        {
            faults.push(
                "workload.labels",
                "labels come from the control plane; remove them here",
            );
        }
        let admin = self
            .admin
            .and_then(|admin| faults.parse::<SocketAddr>("admin.listen", &admin.listen));
        let limits = self.limits.resolve(&mut faults.list);
        if limits.idle_timeout >= limits.head_timeout {
            faults.push(
                "limits.idleTimeout",
                "must be below limits.headTimeout, so that the client side closes first",
            );
        }
        let workers = match self.workers {
            None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            Some(count) => NonZeroUsize::new(count)
                .filter(|count| count.get() <= MOST_WORKERS)
                .or_else(|| {
                    faults.push("workers", format!("{count} is not between 1 and {MOST_WORKERS}"));
                    None
                })?,
        };
        Some(Config {
            trust_domain: trust_domain?,
            workload: workload?,
            source: source?,
            cache: self.cache.map(|path| faults.folder.join(path)),
            inbound,
            outbound,
            admin,
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

impl InboundFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Inbound> {
        let listen = faults.parse(&format!("{field}.listen"), &self.listen);
        let forward = faults.parse(&format!("{field}.forward"), &self.forward);
        let advertise = match self.advertise {
            Some(text) => Some(faults.parse(&format!("{field}.advertise"), &text)?),
            None => None,
        };
        Some(Inbound {
            listen: listen?,
            forward: forward?,
            protocol: self.protocol,
            paths: self.paths,
            advertise,
        })
    }
}

impl OutboundFile {
    /// A service without a namespace is one of the workload's own.
    fn resolve(
        self,
        field: &str,
        namespace: &str,
        in_files: bool,
        faults: &mut Faults<'_>,
    ) -> Option<Outbound> {
        let listen = faults.parse(&format!("{field}.listen"), &self.listen);
        let service = if self.service.contains('/') {
            self.service
        } else {
            format!("{namespace}/{}", self.service)
        };
        let service = faults.parse(&format!("{field}.service"), &service);
        let target = match (in_files, self.identities, self.endpoints) {
            (true, Some(identities), Some(endpoints)) => Some(Target {
                identities: faults.each(
                    &format!("{field}.identities"),
                    identities,
                    |text, field, faults| faults.take(field, SpiffeId::parse(&text)),
                ),
                endpoints: faults.each(&format!("{field}.endpoints"), endpoints, |text, field, faults| {
                    faults.parse(field, &text)
                }),
            }),
            (true, ..) => {
                faults.push(
                    field,
                    "without a control plane `identities` and `endpoints` are needed",
                );
                None
            }
            (false, None, None) => None,
            (false, ..) => {
                faults.push(
                    field,
                    "`identities` and `endpoints` come from the control plane; remove them here",
                );
                None
            }
        };
        Some(Outbound {
            listen: listen?,
            service: service?,
            protocol: self.protocol,
            paths: self.paths,
            target,
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
        (Some(control_plane), None, None) => {
            let has_port = control_plane
                .address
                .rsplit_once(':')
                .is_some_and(|(host, port)| {
                    !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
                });
            if !has_port {
                faults.push(
                    "controlPlane.address",
                    format!("{:?} is not host:port", control_plane.address),
                );
            }
            Some(Source::ControlPlane(ControlPlane {
                address: control_plane.address,
                trust_bundle: faults.folder.join(control_plane.trust_bundle),
                join_token: control_plane.join_token.map(|path| faults.folder.join(path)),
            }))
        }
        (None, Some(IdentityFile { files }), Some(policies)) => Some(Source::Files(Files {
            certificate: faults.folder.join(files.certificate),
            private_key: faults.folder.join(files.private_key),
            trust_bundle: faults.folder.join(files.trust_bundle),
            policies: faults.folder.join(policies),
        })),
        _ => {
            faults.push(
                "controlPlane",
                "either `controlPlane`, or both `identity` and `policies`, and not both ways",
            );
            None
        }
    }
}

/// Every fault so far, and the folder that relative paths start from.
struct Faults<'a> {
    folder: &'a Path,
    list: Vec<Fault>,
}

impl Faults<'_> {
    fn push(&mut self, field: &str, message: impl Into<String>) {
        self.list.push(Fault {
            field: field.to_owned(),
            message: message.into(),
        });
    }

    fn take<T, E: std::fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.push(field, error.to_string())).ok()
    }

    fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        let result = text.parse().map_err(|error| format!("{text:?}: {error}"));
        self.take(field, result)
    }

    /// Resolves every element, so that all faults are seen.
    fn each<T, R>(
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

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true, with_snippet: false }
}

fn syntax(path: &Path, error: &serde_saphyr::Error) -> ConfigError {
    let (line, column) = error
        .location()
        .map_or((1, 1), |location| (location.line(), location.column()));
    ConfigError::Syntax {
        path: path.to_owned(),
        line,
        column,
        message: error.to_string(),
    }
}

/// More threads than any machine of today has cores.
const MOST_WORKERS: usize = 1_024;
