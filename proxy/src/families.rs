//! Every metric family of a sidecar, declared once: `/metrics` is written from these, and so is the reference.

/// What a family counts or measures.
#[derive(Debug)]
pub struct Family {
    /// The name that queries use.
    pub name: &'static str,
    /// What it says, as in the exposition's `HELP`.
    pub help: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What it is broken down by, in the order of the exposition.
    pub labels: &'static [Label],
}

/// How a family moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only up, from 0 at the start of the process.
    Counter,
    /// Up and down.
    Gauge,
    /// Observations in buckets, with their number and sum.
    Histogram,
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
    &REQUESTS,
    &DENIED,
    &SHADOW_DENIED,
    &FAILED,
    &REQUEST_DURATION,
    &METRICS_OVERFLOW,
    &LEDGER_DROPPED,
    &CONNECTIONS,
    &CONNECTIONS_ACTIVE,
    &HANDSHAKE_FAILURES,
    &MIRRORED,
    &FAULTS_INJECTED,
    &CONNECTION_PANICS,
    &ACCEPT_FAILURES,
    &MEMORY,
    &OVERLOADED,
    &ACCESS_LOG_LOST,
    &CERTIFICATE_EXPIRY,
    &RENEWALS,
    &WORKLOAD_API_STREAMS,
    &WORKLOAD_API_REFUSALS,
    &CONFIG_VERSION,
    &CONFIG_STALE,
    &CONTROL_CONNECTED,
    &TOKEN_KEYS_FAILED,
    &EXTERNAL_DECISIONS,
    &POLICY_REFUSED,
    &ENDPOINTS,
    &ENDPOINT_EJECTIONS,
    &EJECTIONS_IGNORED,
    &BREAKER_REFUSALS,
    &RETRIES,
    &RATE_LIMITED,
];

pub(crate) static REQUESTS: Family = Family {
    name: "sidegate_requests_total",
    help: "Requests, and connections on opaque ports",
    kind: Kind::Counter,
    labels: &[DIRECTION, SRC, DST, PROTOCOL, CODE_CLASS, VERDICT],
};

pub(crate) static DENIED: Family = Family {
    name: "sidegate_denied_total",
    help: "Denied by policy, or would be under Enforce",
    kind: Kind::Counter,
    labels: &[SRC, DST, CODE, POLICY, RULE],
};

pub(crate) static SHADOW_DENIED: Family = Family {
    name: "sidegate_shadow_denied_total",
    help: "Admitted, and denied by a policy in mode Shadow",
    kind: Kind::Counter,
    labels: &[SRC, DST, CODE, POLICY, RULE],
};

pub(crate) static FAILED: Family = Family {
    name: "sidegate_failed_total",
    help: "Requests and connections that ended for another reason than policy",
    kind: Kind::Counter,
    labels: &[DIRECTION, CODE],
};

pub(crate) static REQUEST_DURATION: Family = Family {
    name: "sidegate_request_duration_seconds",
    help: "From the head of the request to the end of the answer",
    kind: Kind::Histogram,
    labels: &[DIRECTION],
};

pub(crate) static METRICS_OVERFLOW: Family = Family {
    name: "sidegate_metrics_overflow_total",
    help: "Observations past limits.edgeCells, or in no family because it has 2,000 label sets",
    kind: Kind::Counter,
    labels: &[],
};

pub(crate) static LEDGER_DROPPED: Family = Family {
    name: "sidegate_ledger_dropped_total",
    help: "Observations in reports that the control plane refused",
    kind: Kind::Counter,
    labels: &[],
};

pub(crate) static CONNECTIONS: Family = Family {
    name: "sidegate_connections_total",
    help: "Downstream connections that ended",
    kind: Kind::Counter,
    labels: &[DIRECTION, SRC, DST, TLS, VERDICT],
};

pub(crate) static CONNECTIONS_ACTIVE: Family = Family {
    name: "sidegate_connections_active",
    help: "Open downstream connections",
    kind: Kind::Gauge,
    labels: &[DIRECTION],
};

pub(crate) static HANDSHAKE_FAILURES: Family = Family {
    name: "sidegate_tls_handshake_failures_total",
    help: "TLS handshakes that did not succeed",
    kind: Kind::Counter,
    labels: &[DIRECTION, CODE, HANDSHAKE_REASON],
};

pub(crate) static MIRRORED: Family = Family {
    name: "sidegate_mirrored_total",
    help: "Copies of requests that a route wants of them",
    kind: Kind::Counter,
    labels: &[SERVICE, ROUTE, MIRROR_RESULT],
};

pub(crate) static FAULTS_INJECTED: Family = Family {
    name: "sidegate_faults_injected_total",
    help: "Requests that a route let wait or fail on purpose",
    kind: Kind::Counter,
    labels: &[SERVICE, ROUTE, FAULT],
};

pub(crate) static CONNECTION_PANICS: Family = Family {
    name: "sidegate_connection_panics_total",
    help: "Connections ended by a fault of Sidegate",
    kind: Kind::Counter,
    labels: &[],
};

pub(crate) static TOKEN_KEYS_FAILED: Family = Family {
    name: "sidegate_token_keys_failed_total",
    help: "Times that the keys of an issuer of tokens could not be had; the log says why",
    kind: Kind::Counter,
    labels: &[],
};

pub(crate) static EXTERNAL_DECISIONS: Family = Family {
    name: "sidegate_external_decisions_total",
    help: "Requests and opaque connections that policy permitted, by what whoever decides beside it made of them",
    kind: Kind::Counter,
    labels: &[Label {
        name: "outcome",
        values: "`allowed`, `denied`, `bad_answer`, `bad_question`, `timeout`, `failed`, `breaker_open`",
    }],
};

pub(crate) static ACCEPT_FAILURES: Family = Family {
    name: "sidegate_accept_failures_total",
    help: "Times that the system had no descriptor or memory for a connection",
    kind: Kind::Counter,
    labels: &[],
};

pub(crate) static MEMORY: Family = Family {
    name: "sidegate_memory_bytes",
    help: "Resident memory of the sidecar that is shared with nobody",
    kind: Kind::Gauge,
    labels: &[],
};

pub(crate) static OVERLOADED: Family = Family {
    name: "sidegate_overloaded",
    help: "1 while new requests and connections are refused because of limits.memory",
    kind: Kind::Gauge,
    labels: &[],
};

pub(crate) static ACCESS_LOG_LOST: Family = Family {
    name: "sidegate_access_log_lost_total",
    help: "Access log lines that nobody read in time",
    kind: Kind::Counter,
    labels: &[],
};

pub(crate) static CERTIFICATE_EXPIRY: Family = Family {
    name: "sidegate_identity_certificate_expiry_timestamp_seconds",
    help: "When the own certificate ends, in seconds since the Unix epoch; 0 without one",
    kind: Kind::Gauge,
    labels: &[],
};

pub(crate) static RENEWALS: Family = Family {
    name: "sidegate_identity_renewals_total",
    help: "Certificate renewals",
    kind: Kind::Counter,
    labels: &[RENEWAL_RESULT],
};

pub(crate) static WORKLOAD_API_STREAMS: Family = Family {
    name: "sidegate_workload_api_streams",
    help: "Open streams on the socket that serves the Workload API",
    kind: Kind::Gauge,
    labels: &[],
};

pub(crate) static WORKLOAD_API_REFUSALS: Family = Family {
    name: "sidegate_workload_api_refusals_total",
    help: "Callers that the Workload API refused",
    kind: Kind::Counter,
    labels: &[WORKLOAD_API_REASON],
};

const WORKLOAD_API_REASON: Label = Label {
    name: "reason",
    values: "`user`: a process of a user who is not in `workloadApi.users`; `connections`, `streams`: too many are open; `header`: without `workload.spiffe.io: true`; `identity`: there is none to give",
};

pub(crate) static CONFIG_VERSION: Family =
    Family { name: "sidegate_config_version", help: "The snapshot in force", kind: Kind::Gauge, labels: &[] };

pub(crate) static CONFIG_STALE: Family = Family {
    name: "sidegate_config_stale",
    help: "1 while the newest configuration or policy set was refused and the last good one is in force",
    kind: Kind::Gauge,
    labels: &[],
};

pub(crate) static CONTROL_CONNECTED: Family = Family {
    name: "sidegate_control_connected",
    help: "1 while the control plane is connected",
    kind: Kind::Gauge,
    labels: &[],
};

pub(crate) static POLICY_REFUSED: Family = Family {
    name: "sidegate_policy_refused_total",
    help: "Policy sets or snapshots refused",
    kind: Kind::Counter,
    labels: &[CODE],
};

pub(crate) static ENDPOINTS: Family = Family {
    name: "sidegate_endpoints",
    help: "Workers that see an endpoint of a service they have called in this state",
    kind: Kind::Gauge,
    labels: &[SERVICE, ENDPOINT, STATE],
};

pub(crate) static ENDPOINT_EJECTIONS: Family = Family {
    name: "sidegate_endpoint_ejections_total",
    help: "Endpoints that got no calls for a while, per worker",
    kind: Kind::Counter,
    labels: &[SERVICE, ENDPOINT, EJECTION_REASON],
};

pub(crate) static EJECTIONS_IGNORED: Family = Family {
    name: "sidegate_ejections_ignored_total",
    help: "Calls for which ejections were ignored, since more endpoints were ejected than may be",
    kind: Kind::Counter,
    labels: &[SERVICE],
};

pub(crate) static BREAKER_REFUSALS: Family = Family {
    name: "sidegate_breaker_refusals_total",
    help: "Calls refused by a breaker of their service",
    kind: Kind::Counter,
    labels: &[SERVICE, LIMIT],
};

pub(crate) static RETRIES: Family = Family {
    name: "sidegate_retries_total",
    help: "Further tries of requests, made or not made",
    kind: Kind::Counter,
    labels: &[RETRIED, RETRY_REASON, RETRY_OUTCOME],
};

pub(crate) static RATE_LIMITED: Family = Family {
    name: "sidegate_rate_limited_total",
    help: "Requests answered 429 because of a rate limit",
    kind: Kind::Counter,
    labels: &[DIRECTION, RATE_LIMIT, RATE_CALLER, RATE_REASON],
};

const RATE_LIMIT: Label = Label {
    name: "limit",
    values: "inbound, the application's port and the limit's name, `8080/charges`; outbound, the service and the rule, `shop/payments/charges`",
};
const RATE_CALLER: Label = Label {
    name: "src",
    values: "the caller, `namespace/account` as its certificate proves it; `none`: outbound, the local application",
};
const RATE_REASON: Label = Label {
    name: "reason",
    values: "`rate`: so many requests have come; `callers`: `limits.rateCallers` callers are told apart already",
};
const SERVICE: Label = Label { name: "service", values: "the called service, `namespace/name`" };
const ENDPOINT: Label = Label { name: "endpoint", values: "its address and port" };
const STATE: Label = Label {
    name: "state",
    values: "`in`: it gets calls; `ejected`: it gets none for a while; `probing`: one call finds out whether it is back",
};
const EJECTION_REASON: Label = Label {
    name: "reason",
    values: "`consecutive`: so many failures in a row; `failure_percent`: so many of a hundred; `probe`: it failed again when it was tried",
};
const LIMIT: Label = Label {
    name: "limit",
    values: "the field of `breakers`: `requests`, `pending`, `connections`, `endpointRequests`, `endpointConnections`",
};
const RETRIED: Label = Label {
    name: "service",
    values: "the called service, `namespace/name`; inbound the local application, as `forward` says",
};
const RETRY_REASON: Label = Label {
    name: "reason",
    values: "why it was to be tried again: `unreachable`; `full`: a breaker of the endpoint; `refused_stream`; `reset`: of a connection used again; `timeout`: of a try; `status`",
};
const RETRY_OUTCOME: Label = Label {
    name: "outcome",
    values: "`answered`; `failed`; not made: `no_budget`, or `no_time` before the deadline",
};
const DIRECTION: Label =
    Label { name: "direction", values: "`inbound`: to the local application; `outbound`: from it" };
const SRC: Label = Label {
    name: "src",
    values: "the caller, `namespace/account` as its certificate proves it; `unknown`: it proved none",
};
const DST: Label = Label {
    name: "dst",
    values: "the called, `namespace/account` as its certificate proves it; `unknown`: it proved none",
};
const PROTOCOL: Label =
    Label { name: "protocol", values: "`http1`, `http2`, `tcp`; `unknown`: it ended before that was known" };
const CODE_CLASS: Label = Label {
    name: "code_class",
    values: "of the answer's status, `1xx` to `5xx`; `none`: there was no answer",
};
const VERDICT: Label = Label {
    name: "verdict",
    values: "`allowed`; `denied`: by policy; `would_deny`: admitted under `enforcement: Observe`; `failed`: for another reason than policy",
};
const TLS: Label = Label {
    name: "tls",
    values: "`mutual`; `plaintext`: let in by a PlaintextException, out of the mesh by an EgressPolicy, or refused as such; `failed`: no link came about",
};
const CODE: Label = Label { name: "code", values: "why not, as in `SG0202`; `none`: it was admitted" };
const POLICY: Label =
    Label { name: "policy", values: "`namespace/name` of the policy that decided; `none`: no rule matched" };
const RULE: Label = Label { name: "rule", values: "the rule that decided; `none`: no rule matched" };
const ROUTE: Label = Label { name: "route", values: "the rule's name, as it is configured" };
const MIRROR_RESULT: Label = Label {
    name: "result",
    values: "`sent`: answered; `failed`; `busy`: too many were under way, so it was not made; `body`: the request has a body or asks for a tunnel, so it was not made",
};
const FAULT: Label = Label { name: "kind", values: "`delay`, `abort`" };
const HANDSHAKE_REASON: Label = Label {
    name: "reason",
    values: "what is wrong with the peer's certificate, as in `not_valid_now`, or with the handshake, as in `peer_alert`; a closed set",
};
const RENEWAL_RESULT: Label = Label { name: "result", values: "`ok`, `failed`" };
