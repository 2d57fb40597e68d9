//! What was seen, told three ways: edge cells (the ledger and, summed, Prometheus), access log lines, and the process's
//! own log. Each connection or request is recorded once, when it ends, however it ends.

pub(crate) mod access_log;
pub(crate) mod edges;
pub(crate) mod endpoints;
pub(crate) mod log;
pub(crate) mod metrics;
mod record;

use std::sync::Arc;

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;

pub(crate) use access_log::AccessLog;
pub(crate) use edges::{EdgeShard, Edges};
pub(crate) use metrics::Metrics;
pub(crate) use record::{Exchange, Record};

/// Which side of the application the traffic is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// To the local workload.
    Inbound,
    /// From the local workload.
    Outbound,
}

/// What the connection between the sidecars was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum TlsState {
    /// Both sides proved an identity.
    Mutual,
    /// No TLS at all.
    Plaintext,
    /// A handshake that did not succeed, or never began.
    Failed,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// A policy admitted it.
    Allowed,
    /// A policy refused it.
    Denied,
    /// Admitted under enforcement `Observe`; `Enforce` would have refused it.
    WouldDeny,
    /// Refused or failed for a reason other than policy.
    Failed,
}

/// What the link carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Carried {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Tcp,
    /// The connection ended before this was known.
    Unknown,
}

/// Who decided what: the part of a record that policy fills in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Judgement {
    /// How it ended.
    pub(crate) verdict: Verdict,
    /// Absent when allowed.
    pub(crate) code: Option<Code>,
    /// `namespace/name` of the deciding policy.
    pub(crate) policy: Option<Arc<str>>,
    /// Its rule.
    pub(crate) rule: Option<Arc<str>>,
    /// The path pattern that matched.
    pub(crate) route: Option<Arc<str>>,
    /// What the shadow policies would have decided.
    pub(crate) shadow: Option<Verdict>,
}

/// Both ends of an edge, as far as they were proven.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    /// The caller.
    pub(crate) source: Option<SpiffeId>,
    /// The called.
    pub(crate) destination: Option<SpiffeId>,
}

impl Direction {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl TlsState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Mutual => "mutual",
            Self::Plaintext => "plaintext",
            Self::Failed => "failed",
        }
    }
}

impl Verdict {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::WouldDeny => "would_deny",
            Self::Failed => "failed",
        }
    }
}

impl Carried {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
            Self::Unknown => "unknown",
        }
    }
}

impl Judgement {
    /// Nothing was to be decided here, and nothing failed.
    pub(crate) const ADMITTED: Self =
        Self { verdict: Verdict::Allowed, code: None, policy: None, rule: None, route: None, shadow: None };
}
