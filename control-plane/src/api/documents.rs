//! The API's documents, each made from the parts that know. Times are RFC 3339 in UTC; what is absent is null.

use std::collections::HashMap;

use serde::Serialize;
use sidegate_policy::{Action, Document, Mode, PolicySet};

use super::Shown;
use crate::{
    clock,
    config::{Config, Enforcement},
    ledger,
    mesh::{DatedProblem, Mesh},
    policies::workload_of,
    proxies,
};

/// `GET /v1/status`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    api_version: &'static str,
    version: &'static str,
    started_at: String,
    trust_domain: String,
    enforcement: Enforcement,
    registry: RegistryState,
    root: Root,
    rotation: Rotation,
    policies: PolicyState,
    mesh: MeshState,
    proxies: ProxyCount,
    ledger: LedgerSize,
}

#[derive(Serialize)]
struct RegistryState {
    place: String,
    /// Whether it is this control plane's now.
    active: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    /// Of the intermediate, if one signs.
    not_before: String,
    not_after: String,
    fingerprint: String,
    offline: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    phase: &'static str,
    since: String,
    urgent: bool,
    /// How many certificates are in the way of the next phase.
    blockers: usize,
    /// How much longer than usual they are; 0: as long as is usual.
    overdue_seconds: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyState {
    count: usize,
    digest: Option<String>,
    loaded_at: Option<String>,
    last_error: Option<Vec<DatedProblem>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MeshState {
    last_error: Option<Vec<DatedProblem>>,
}

#[derive(Serialize)]
struct ProxyCount {
    connected: usize,
    total: usize,
}

#[derive(Serialize)]
struct LedgerSize {
    cells: usize,
    dropped: u64,
}

impl Status {
    pub(super) fn of(shown: &Shown) -> Self {
        let mesh = shown.mesh.borrow().clone();
        let policies = mesh.policies.as_deref();
        let (connected, total) = shown.proxies.count();
        let (cells, dropped) = shown.ledger.size();
        let root = shown.authority.signing();
        let rotation = shown.authority.rotation();
        let blocked = shown.authority.blocked(mesh.config.leaf_life, clock::now_ms());
        Self {
            api_version: API_VERSION,
            version: env!("CARGO_PKG_VERSION"),
            started_at: clock::rfc3339(shown.started_at_ms),
            trust_domain: mesh.config.trust_domain.to_string(),
            enforcement: mesh.config.enforcement,
            registry: RegistryState {
                place: mesh.config.registry.to_string(),
                active: shown.authority.is_active(),
            },
            root: Root {
                not_before: clock::rfc3339_of(root.not_before()),
                offline: root.is_offline(),
                not_after: clock::rfc3339_of(root.not_after()),
                fingerprint: root.fingerprint().to_owned(),
            },
            rotation: Rotation {
                phase: rotation.phase.name(),
                since: clock::rfc3339(rotation.since_ms),
                urgent: rotation.urgent,
                blockers: blocked.count,
                overdue_seconds: blocked.overdue.as_secs(),
            },
            policies: PolicyState {
                count: policies.map_or(0, |policies| policies.set.len()),
                digest: policies.map(|policies| policies.digest.clone()),
                loaded_at: policies.map(|policies| clock::rfc3339(policies.loaded_at_ms)),
                last_error: unless_empty(&mesh.policy_problems),
            },
            mesh: MeshState { last_error: unless_empty(&mesh.config_problems) },
            proxies: ProxyCount { connected, total },
            ledger: LedgerSize { cells, dropped },
        }
    }
}

/// `GET /v1/proxies`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proxies {
    api_version: &'static str,
    proxies: Vec<Proxy>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Proxy {
    instance: String,
    identity: String,
    release: String,
    connected: bool,
    address: String,
    since: String,
    version: u64,
    acked: u64,
    nack: Option<Nack>,
    inbound: Vec<Inbound>,
    services: Vec<String>,
    /// Names among `services` that the mesh does not have: their listeners have nowhere to go.
    unknown_services: Vec<String>,
    certificate: Certificate,
}

#[derive(Serialize)]
struct Nack {
    version: u64,
    path: String,
    code: String,
    message: String,
}

#[derive(Serialize)]
struct Inbound {
    address: String,
    port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    serial: String,
    issued_at: Option<String>,
    not_after: String,
}

impl Proxies {
    pub(super) fn of(shown: &Shown) -> Self {
        let mesh = shown.mesh.borrow().clone();
        let proxies = shown.proxies.list().into_iter().map(|entry| Proxy::of(entry, &mesh)).collect();
        Self { api_version: API_VERSION, proxies }
    }
}

impl Proxy {
    fn of(entry: proxies::Entry, mesh: &Mesh) -> Self {
        let hello = &entry.hello;
        let unknown = hello.services.iter().filter(|name| mesh.config.service(name).is_none());
        let inbound = hello.inbound.iter();
        Self {
            instance: hello.instance.clone(),
            identity: entry.identity.to_string(),
            release: hello.release.clone(),
            connected: entry.is_connected(),
            address: entry.origin.to_string(),
            since: clock::rfc3339(entry.since_ms),
            version: entry.sent,
            acked: entry.acked,
            inbound: inbound.map(|at| Inbound { address: at.address.to_string(), port: at.port }).collect(),
            services: hello.services.iter().map(ToString::to_string).collect(),
            unknown_services: unknown.map(ToString::to_string).collect(),
            certificate: Certificate {
                issued_at: entry.certificate.issued_at_ms.map(clock::rfc3339),
                not_after: clock::rfc3339_of(entry.certificate.not_after),
                serial: entry.certificate.serial,
            },
            nack: entry.nack.map(Nack::of),
        }
    }
}

impl Nack {
    fn of(nack: proxies::Nack) -> Self {
        let proxies::Nack { version, path, code, message } = nack;
        Self { version, path, code, message }
    }
}

/// `GET /v1/policies`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policies {
    api_version: &'static str,
    policies: Vec<Policy>,
}

#[derive(Serialize)]
struct Policy {
    name: String,
    /// Of the kinds that have none: `Egress`, `Plaintext`.
    action: &'static str,
    mode: Mode,
    source: String,
    selects: Vec<String>,
    rules: Vec<String>,
}

impl Policies {
    pub(super) fn of(shown: &Shown) -> Self {
        let mesh = shown.mesh.borrow().clone();
        let set = mesh.policies.as_ref().map(|policies| &policies.set);
        let mut selected = set.map(|set| selected(set, &mesh.config)).unwrap_or_default();
        let policy = |document: &Document| {
            Policy::of(document, selected.remove(&**document.name()).unwrap_or_default())
        };
        let policies = set.into_iter().flat_map(PolicySet::documents).map(policy).collect();
        Self { api_version: API_VERSION, policies }
    }
}

impl Policy {
    fn of(document: &Document, selects: Vec<String>) -> Self {
        let (action, mode, rules) = match document {
            Document::Authorization(sourced) => {
                let spec = &sourced.policy().spec;
                let action = match spec.action {
                    Action::Allow => "Allow",
                    Action::Deny => "Deny",
                    Action::Require => "Require",
                };
                (action, spec.mode, spec.rules.iter().map(|rule| rule.name.to_string()).collect())
            }
            Document::Egress(sourced) => {
                let spec = &sourced.policy().spec;
                ("Egress", spec.mode, spec.rules.iter().map(|rule| rule.name.to_string()).collect())
            }
            Document::Plaintext(sourced) => {
                // A rule by itself, always in force.
                ("Plaintext", Mode::Enforce, vec![sourced.policy().metadata.name.to_string()])
            }
        };
        Self {
            name: document.name().to_string(),
            action,
            mode,
            source: document.source().to_string(),
            selects,
            rules,
        }
    }
}

/// The services whose workloads each policy selects, by the policy's name, as distribution selects them.
fn selected<'a>(set: &'a PolicySet, config: &Config) -> HashMap<&'a str, Vec<String>> {
    let mut selected = HashMap::<_, Vec<_>>::new();
    for service in &config.services {
        for document in set.documents_selecting(&workload_of(config, service)) {
            selected.entry(&**document.name()).or_default().push(service.name.to_string());
        }
    }
    selected
}

/// `GET /v1/edges`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Edges {
    api_version: &'static str,
    edges: Vec<Edge>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Edge {
    direction: &'static str,
    source: Option<String>,
    destination: Option<String>,
    port: u16,
    protocol: Option<&'static str>,
    route: Option<String>,
    tls: &'static str,
    verdict: &'static str,
    code: Option<&'static str>,
    policy: Option<String>,
    rule: Option<String>,
    shadow: Option<&'static str>,
    count: u64,
    errors: u64,
    bytes_received: u64,
    bytes_sent: u64,
    rps: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    first_seen: String,
    last_seen: String,
}

impl Edges {
    pub(super) fn of(shown: &Shown, window_ms: u64, now_ms: u64) -> Self {
        let edges = shown.ledger.edges(window_ms, now_ms);
        Self { api_version: API_VERSION, edges: edges.into_iter().map(Edge::of).collect() }
    }
}

impl Edge {
    fn of(edge: ledger::Edge) -> Self {
        let ledger::Edge { key, counts, rps, p50_ms, p99_ms } = edge;
        let text = |text: String| (!text.is_empty()).then_some(text);
        Self {
            direction: key.direction.as_str(),
            source: key.source.map(|id| id.to_string()),
            destination: key.destination.map(|id| id.to_string()),
            port: key.port,
            protocol: (!key.protocol.is_empty()).then_some(key.protocol),
            route: text(key.route),
            tls: key.tls,
            verdict: key.verdict,
            code: key.code.map(sidegate_codes::Code::id),
            policy: text(key.policy),
            rule: text(key.rule),
            shadow: key.shadow,
            count: counts.count,
            errors: counts.errors,
            bytes_received: counts.bytes_received,
            bytes_sent: counts.bytes_sent,
            rps,
            p50_ms,
            p99_ms,
            first_seen: clock::rfc3339(counts.first_seen_ms),
            last_seen: clock::rfc3339(counts.last_seen_ms),
        }
    }
}

fn unless_empty(problems: &[DatedProblem]) -> Option<Vec<DatedProblem>> {
    (!problems.is_empty()).then(|| problems.to_vec())
}

pub(super) const API_VERSION: &str = "api.sidegate.dev/v1";
