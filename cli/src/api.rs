//! The control plane's HTTP API as this program reads it: one struct per document, times parsed.
//! New fields of a newer control plane are ignored; a missing field is an error of the document.

pub(crate) mod client;

use std::{collections::BTreeMap, fmt::Write, num::NonZeroU16};

use serde::{Deserialize, Serialize};
use sidegate_control_plane::config::EgressDefault;
use time::{OffsetDateTime, serde::rfc3339};

/// `GET /v1/status`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) version: String,
    #[serde(with = "rfc3339")]
    pub(crate) started_at: OffsetDateTime,
    pub(crate) trust_domain: String,
    /// `Enforce` or `Observe`.
    pub(crate) enforcement: String,
    /// `None`: an older release.
    #[serde(default)]
    pub(crate) registry: Option<Registry>,
    pub(crate) root: Root,
    /// `None`: an older release.
    #[serde(default)]
    pub(crate) rotation: Option<Rotation>,
    pub(crate) policies: PolicySet,
    pub(crate) mesh: MeshFile,
    pub(crate) proxies: Connected,
    pub(crate) ledger: Ledger,
}

/// Where certificates are put on record.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Registry {
    pub(crate) place: String,
    /// Whether it is this control plane's now.
    pub(crate) active: bool,
}

/// The root that signs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Root {
    /// Of the intermediate, if one signs. `None`: an older release, which has none.
    #[serde(default, with = "rfc3339::option")]
    pub(crate) not_before: Option<OffsetDateTime>,
    #[serde(with = "rfc3339")]
    pub(crate) not_after: OffsetDateTime,
    /// Whether the root's key is elsewhere, and an intermediate's signs.
    #[serde(default)]
    pub(crate) offline: bool,
    pub(crate) fingerprint: String,
}

/// How far the rotation of the root is.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rotation {
    pub(crate) phase: String,
    #[serde(with = "rfc3339")]
    pub(crate) since: OffsetDateTime,
    /// How many certificates are in the way of the next phase.
    #[serde(default)]
    pub(crate) blockers: u64,
    /// How much longer than usual.
    #[serde(default)]
    pub(crate) overdue_seconds: u64,
}

/// The policy set in force, and why it is not the newest one, if so.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicySet {
    pub(crate) count: u64,
    /// `None` until a set has been loaded: nothing is allowed.
    #[serde(default)]
    pub(crate) digest: Option<String>,
    #[serde(default, with = "rfc3339::option")]
    pub(crate) loaded_at: Option<OffsetDateTime>,
    #[serde(default)]
    pub(crate) last_error: Option<Vec<FileError>>,
}

/// The mesh's configuration file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshFile {
    #[serde(default)]
    pub(crate) last_error: Option<Vec<FileError>>,
}

/// One place in a file that could not be taken over.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileError {
    pub(crate) code: String,
    pub(crate) file: String,
    #[serde(default)]
    pub(crate) line: Option<u32>,
    #[serde(default)]
    pub(crate) column: Option<u32>,
    #[serde(default)]
    pub(crate) field: Option<String>,
    pub(crate) message: String,
    #[serde(default, with = "rfc3339::option")]
    pub(crate) at: Option<OffsetDateTime>,
}

/// How many sidecars are there.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Connected {
    pub(crate) connected: u64,
    pub(crate) total: u64,
}

/// How full the ledger is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ledger {
    pub(crate) cells: u64,
    pub(crate) dropped: u64,
}

/// `GET /v1/proxies`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proxies {
    pub(crate) proxies: Vec<Proxy>,
}

/// One sidecar.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proxy {
    pub(crate) instance: String,
    pub(crate) identity: String,
    pub(crate) release: String,
    pub(crate) connected: bool,
    #[serde(default)]
    pub(crate) address: Option<String>,
    #[serde(with = "rfc3339")]
    pub(crate) since: OffsetDateTime,
    /// The version last sent to it.
    pub(crate) version: u64,
    /// The version it has in force.
    pub(crate) acked: u64,
    #[serde(default)]
    pub(crate) nack: Option<Nack>,
    #[serde(default)]
    pub(crate) inbound: Vec<Inbound>,
    /// The services it calls, as `namespace/name`.
    #[serde(default)]
    pub(crate) services: Vec<String>,
    /// Those of them that the mesh does not have.
    #[serde(default)]
    pub(crate) unknown_services: Vec<String>,
    #[serde(default)]
    pub(crate) certificate: Option<Certificate>,
}

/// Why a sidecar refused an update.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Nack {
    pub(crate) version: u64,
    pub(crate) path: String,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// Where a sidecar accepts connections, and the application's port behind it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inbound {
    pub(crate) address: String,
    pub(crate) port: u16,
}

/// The newest certificate issued to a sidecar.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Certificate {
    pub(crate) serial: String,
    #[serde(default, with = "rfc3339::option")]
    pub(crate) issued_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339")]
    pub(crate) not_after: OffsetDateTime,
}

/// `GET /v1/policies`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policies {
    pub(crate) policies: Vec<Policy>,
}

/// One policy in force.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) action: String,
    pub(crate) mode: String,
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) selects: Vec<String>,
    #[serde(default)]
    pub(crate) rules: Vec<String>,
}

/// `GET /v1/mesh`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mesh {
    pub(crate) trust_domain: String,
    pub(crate) root_namespace: Option<String>,
    /// `Enforce` or `Observe`.
    pub(crate) enforcement: String,
    pub(crate) egress: EgressDefault,
    pub(crate) services: Vec<Service>,
    /// Those of whom everything is refused.
    pub(crate) quarantined: Vec<String>,
    /// `None` until a set has been loaded.
    pub(crate) policies: Option<PolicyFiles>,
}

/// A service as selectors see it.
#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) identity: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) port: Option<NonZeroU16>,
}

/// The policy set in force, as it was read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyFiles {
    pub(crate) digest: String,
    #[serde(with = "rfc3339")]
    pub(crate) loaded_at: OffsetDateTime,
    /// Whether newer files were refused.
    pub(crate) stale: bool,
    pub(crate) files: Vec<PolicyFile>,
}

/// One of its files.
#[derive(Debug, Deserialize)]
pub(crate) struct PolicyFile {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// `GET /v1/edges`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Edges {
    pub(crate) edges: Vec<Edge>,
}

/// What was seen between one source and one destination, under one verdict.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Edge {
    /// `inbound`: reported by the destination's sidecar; `outbound`: by the source's.
    pub(crate) direction: String,
    #[serde(default)]
    pub(crate) source: Option<String>,
    #[serde(default)]
    pub(crate) destination: Option<String>,
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) protocol: Option<String>,
    #[serde(default)]
    pub(crate) route: Option<String>,
    /// `mutual`, `plaintext` or `failed`.
    pub(crate) tls: String,
    /// `allowed`, `denied`, `would_deny` or `failed`.
    pub(crate) verdict: String,
    #[serde(default)]
    pub(crate) code: Option<String>,
    #[serde(default)]
    pub(crate) policy: Option<String>,
    #[serde(default)]
    pub(crate) rule: Option<String>,
    #[serde(default)]
    pub(crate) shadow: Option<String>,
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    #[serde(default)]
    pub(crate) rps: f64,
    #[serde(default)]
    pub(crate) p50_ms: Option<f64>,
    #[serde(default)]
    pub(crate) p99_ms: Option<f64>,
    #[serde(with = "rfc3339")]
    pub(crate) first_seen: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub(crate) last_seen: OffsetDateTime,
}

impl FileError {
    /// `policies/a.yaml:7:13: spec.rules[0]`, as far as it is known.
    pub(crate) fn place(&self) -> String {
        let mut place = self.file.clone();
        for number in [self.line, self.line.and(self.column)].into_iter().flatten() {
            let _ = write!(place, ":{number}");
        }
        if let Some(field) = &self.field {
            let _ = write!(place, ": {field}");
        }
        place
    }
}
