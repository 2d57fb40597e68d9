//! Prometheus metrics: what is counted outside the edge cells, and in [`exposition`] how both are shown. Every label is a
//! closed set or a verified identity, and every family stops growing at [`MOST_SERIES`].

mod exposition;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;

pub(crate) use self::exposition::render;
use super::{Direction, TlsState, Verdict, endpoints::Endpoints};
use crate::{
    config::ServiceName,
    error::Breaker,
    rate::Place,
    resilience::{End, Reason},
};

/// Counters and gauges of the process that are not edges.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Connections that ended or were refused.
    pub(crate) connections: Series<ConnectionLabels>,
    /// Handshakes that did not succeed.
    pub(crate) handshake_failures: Series<HandshakeLabels>,
    /// Certificate renewals by result.
    pub(crate) renewals: Series<&'static str>,
    /// Callers of the Workload API that were refused.
    pub(crate) workload_refusals: Series<&'static str>,
    /// Its open streams.
    pub(crate) workload_streams: AtomicI64,
    /// Policy sets refused, by the code of the first error.
    pub(crate) policies_refused: Series<Code>,
    /// Copies of requests, sent or not.
    pub(crate) copies: Series<CopyLabels>,
    /// Requests that waited or failed on purpose.
    pub(crate) faults: Series<FaultLabels>,
    /// Faults of this program that ended a connection.
    pub(crate) panics: AtomicU64,
    /// Times that accept(2) failed for want of something.
    pub(crate) accept_failures: AtomicU64,
    /// Memory of this process that nobody else uses.
    pub(crate) memory: AtomicU64,
    /// While that is more than it may be.
    pub(crate) overloaded: AtomicBool,
    /// Open downstream connections.
    pub(crate) inbound_active: AtomicI64,
    /// Open downstream connections.
    pub(crate) outbound_active: AtomicI64,
    /// When the own certificate ends; seconds since the Unix epoch, 0 without one.
    pub(crate) certificate_expiry: AtomicU64,
    /// Of the snapshot in force.
    pub(crate) snapshot_version: AtomicU64,
    /// While the newest configuration file, or what a sidecar of files reads beside it, is refused.
    pub(crate) files_refused: AtomicBool,
    /// While the newest update of the control plane is refused.
    pub(crate) update_refused: AtomicBool,
    /// Observations in reports that the control plane refused.
    pub(crate) ledger_dropped: AtomicU64,
    /// 1 while the discovery stream is open.
    pub(crate) control_connected: AtomicU64,
    /// How the workers see the endpoints of services.
    pub(crate) endpoints: Endpoints,
    /// Endpoints that get no calls for a while.
    pub(crate) ejections: Series<EjectionLabels>,
    /// Calls to ejected endpoints, since too many were ejected.
    pub(crate) ejections_ignored: Series<Arc<str>>,
    /// Calls that a breaker refused.
    pub(crate) breakers: Series<BreakerLabels>,
    /// Further tries of requests.
    pub(crate) retries: Series<RetryLabels>,
    /// Requests over a rate limit.
    pub(crate) rate_limited: Series<RateLabels>,
    /// Looks at the keys of issuers of tokens that found none.
    pub(crate) token_keys_failed: AtomicU64,
    /// What became of questions to whoever decides beside policy.
    pub(crate) external_decisions: Series<&'static str>,
}

/// A counter per label set. Few and small: connections are not requests.
#[derive(Debug)]
pub(crate) struct Series<L> {
    counts: Mutex<BTreeMap<L, u64>>,
    /// Observations that found no place for their labels.
    left_out: AtomicU64,
}

/// Labels of `sidegate_connections_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionLabels {
    pub(crate) direction: Direction,
    pub(crate) source: Option<SpiffeId>,
    pub(crate) destination: Option<SpiffeId>,
    pub(crate) tls: TlsState,
    pub(crate) verdict: Verdict,
}

/// Labels of `sidegate_tls_handshake_failures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HandshakeLabels {
    pub(crate) direction: Direction,
    pub(crate) code: Code,
    pub(crate) reason: &'static str,
}

/// Labels of `sidegate_endpoint_ejections_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EjectionLabels {
    pub(crate) service: Arc<str>,
    pub(crate) endpoint: SocketAddr,
    pub(crate) reason: &'static str,
}

/// Labels of `sidegate_breaker_refusals_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BreakerLabels {
    pub(crate) service: Arc<str>,
    pub(crate) breaker: Breaker,
}

/// Labels of `sidegate_retries_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RetryLabels {
    pub(crate) service: Arc<str>,
    pub(crate) reason: Reason,
    pub(crate) end: End,
}

/// Labels of `sidegate_mirrored_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CopyLabels {
    pub(crate) service: ServiceName,
    pub(crate) rule: Arc<str>,
    pub(crate) result: &'static str,
}

/// Labels of `sidegate_faults_injected_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FaultLabels {
    pub(crate) service: ServiceName,
    pub(crate) rule: Arc<str>,
    pub(crate) kind: &'static str,
}

/// Labels of `sidegate_rate_limited_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RateLabels {
    pub(crate) of: Place,
    pub(crate) caller: Option<SpiffeId>,
    pub(crate) reason: RateReason,
}

/// What a request over a rate limit lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RateReason {
    Rate,
    Callers,
}

impl RateReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Callers => "callers",
        }
    }
}

impl Metrics {
    /// Whether nothing new is taken on for want of memory.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// The gauge of open downstream connections in `direction`.
    pub(crate) fn active(&self, direction: Direction) -> &AtomicI64 {
        match direction {
            Direction::Inbound => &self.inbound_active,
            Direction::Outbound => &self.outbound_active,
        }
    }

    /// Observations that are in no family, since it is full.
    pub(crate) fn left_out(&self) -> u64 {
        let services = self.ejections.left_out() + self.ejections_ignored.left_out();
        let calls = self.breakers.left_out() + self.retries.left_out() + self.rate_limited.left_out();
        let routes = self.copies.left_out() + self.faults.left_out();
        let identity = self.renewals.left_out() + self.workload_refusals.left_out();
        let connections = self.connections.left_out() + self.handshake_failures.left_out();
        services + calls + routes + identity + connections + self.policies_refused.left_out()
    }
}

impl<L: Ord> Series<L> {
    /// Adds one; where the family is full, to what it leaves out.
    pub(crate) fn add(&self, labels: L) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&labels) {
            *count += 1;
        } else if counts.len() < MOST_SERIES {
            counts.insert(labels, 1);
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every label with its count.
    pub(crate) fn each(&self, mut show: impl FnMut(&L, u64) -> fmt::Result) -> fmt::Result {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().try_for_each(|(labels, count)| show(labels, *count))
    }

    /// Observations that are in no count, since the family is full.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

impl<L> Default for Series<L> {
    fn default() -> Self {
        Self { counts: Mutex::default(), left_out: AtomicU64::new(0) }
    }
}

/// Label sets of one family at most.
const MOST_SERIES: usize = 2_000;
