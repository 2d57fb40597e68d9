//! Every metric family of the control plane, declared once: `/metrics` is written from these, and so is the reference.

/// What a family counts or measures.
#[derive(Debug)]
pub struct Family {
    /// The name that queries use.
    pub name: &'static str,
    /// What it says, as in the exposition's `HELP`.
    pub help: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What it is broken down by, if by anything.
    pub label: Option<Label>,
}

/// How a family moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only up, from 0 at the start of the process.
    Counter,
    /// Up and down.
    Gauge,
}

/// What a family is broken down by.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it can be.
    pub values: &'static str,
}

/// In the order of the exposition.
pub static ALL: &[&Family] = &[
    &POLICY_LOAD_FAILURES,
    &ISSUED,
    &REFUSALS_UNRECORDED,
    &HANDSHAKE_FAILURES,
    &CONNECTIONS_REFUSED,
    &UPDATES,
    &REPORTS,
    &FEDERATION_REFRESHES,
    &POLICY_STALE,
    &POLICY_COUNT,
    &PROXIES_CONNECTED,
    &LEDGER_CELLS,
    &LEDGER_DROPPED,
    &NEW_SOURCES,
    &SIGNING_ENDS,
    &ROTATION_BLOCKERS,
    &ROTATION_OVERDUE,
    &ACTIVE,
    &FEDERATION_REFRESHED,
];

pub(crate) static ACTIVE: Family = Family {
    name: "sidegate_control_plane_active",
    help: "1 while this control plane issues; 0 while it stands by, or does not reach the database that says whose turn it is",
    kind: Kind::Gauge,
    label: None,
};

pub(crate) static FEDERATION_REFRESHES: Family = Family {
    name: "sidegate_federation_refreshes_total",
    help: "Attempts to fetch the trust bundle of another trust domain",
    kind: Kind::Counter,
    label: Some(Label { name: "result", values: "`ok`, `failed`" }),
};

pub(crate) static FEDERATION_REFRESHED: Family = Family {
    name: "sidegate_federation_refreshed_timestamp_seconds",
    help: "When the trust bundle of another trust domain was fetched last",
    kind: Kind::Gauge,
    label: Some(Label { name: "trust_domain", values: "as `federation` in `mesh.yaml` names it" }),
};

pub(crate) static SIGNING_ENDS: Family = Family {
    name: "sidegate_ca_expiry_timestamp_seconds",
    help: "When what signs certificates ends: the root, or the intermediate under an offline root",
    kind: Kind::Gauge,
    label: None,
};

pub(crate) static ROTATION_BLOCKERS: Family = Family {
    name: "sidegate_rotation_blockers",
    help: "Certificates in the way of the next phase of the rotation of the root",
    kind: Kind::Gauge,
    label: None,
};

pub(crate) static ROTATION_OVERDUE: Family = Family {
    name: "sidegate_rotation_overdue_seconds",
    help: "How much longer than usual the rotation of the root waits for them",
    kind: Kind::Gauge,
    label: None,
};

pub(crate) static POLICY_LOAD_FAILURES: Family = Family {
    name: "sidegate_policy_load_failures_total",
    help: "Policies refused",
    kind: Kind::Counter,
    label: Some(Label { name: "code", values: "why, as in `SG0211`" }),
};

pub(crate) static ISSUED: Family = Family {
    name: "sidegate_issued_total",
    help: "Requests for a certificate",
    kind: Kind::Counter,
    label: Some(Label {
        name: "result",
        values: "`issued`; why not: `bad_request`, `rate_limited`, `failed`, or what is wrong with the proof of identity, as in `unknown_token`",
    }),
};

pub(crate) static REFUSALS_UNRECORDED: Family = Family {
    name: "sidegate_refusals_unrecorded_total",
    help: "Refused requests for a certificate that are in the log and not in the registry",
    kind: Kind::Counter,
    label: Some(Label {
        name: "reason",
        values: "`rate`: more than are recorded, `failed`: it could not be written",
    }),
};

pub(crate) static HANDSHAKE_FAILURES: Family = Family {
    name: "sidegate_handshake_failures_total",
    help: "TLS handshakes that failed",
    kind: Kind::Counter,
    label: Some(Label {
        name: "reason",
        values: "`timeout`, `tls`, or what is wrong with the peer's certificate, as in `not_valid_now`; a closed set",
    }),
};

pub(crate) static CONNECTIONS_REFUSED: Family = Family {
    name: "sidegate_connections_refused_total",
    help: "Connections refused by a limit, before their handshake",
    kind: Kind::Counter,
    label: Some(Label { name: "reason", values: "`connections`, `connections_per_source`" }),
};

pub(crate) static UPDATES: Family = Family {
    name: "sidegate_updates_total",
    help: "Updates to sidecars",
    kind: Kind::Counter,
    label: Some(Label {
        name: "result",
        values: "`sent`, `acked`, `nacked`; one that was sent is counted again when it is answered",
    }),
};

pub(crate) static REPORTS: Family = Family {
    name: "sidegate_reports_total",
    help: "Reports to the ledger",
    kind: Kind::Counter,
    label: Some(Label { name: "result", values: "`accepted`, `repeated`, `refused`" }),
};

pub(crate) static POLICY_STALE: Family = Family {
    name: "sidegate_policy_stale",
    help: "1 while the newest policies are not in force",
    kind: Kind::Gauge,
    label: None,
};

pub(crate) static POLICY_COUNT: Family =
    Family { name: "sidegate_policy_count", help: "Policies in force", kind: Kind::Gauge, label: None };

pub(crate) static PROXIES_CONNECTED: Family = Family {
    name: "sidegate_proxies_connected",
    help: "Sidecars subscribed now",
    kind: Kind::Gauge,
    label: None,
};

pub(crate) static LEDGER_CELLS: Family =
    Family { name: "sidegate_ledger_cells", help: "Edges held in memory", kind: Kind::Gauge, label: None };

pub(crate) static LEDGER_DROPPED: Family = Family {
    name: "sidegate_ledger_dropped_total",
    help: "Observations that found no free cell",
    kind: Kind::Counter,
    label: None,
};

pub(crate) static NEW_SOURCES: Family = Family {
    name: "sidegate_join_token_new_sources_total",
    help: "Uses of a join token from an address that it was not used from before",
    kind: Kind::Counter,
    label: None,
};
