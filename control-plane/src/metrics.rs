//! What Prometheus may ask. Labels are closed sets; gauges are set from the mesh's own state when they are asked for.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use sidegate_codes::Code;

/// The counters that parts of the control plane count in, and the registry that writes them out.
pub(crate) struct Metrics {
    registry: Registry,
    policy_load_failures: Family<CodeLabel, Counter>,
    policy_stale: Gauge,
    policy_count: Gauge,
    proxies_connected: Gauge,
    issued: Family<ResultLabel, Counter>,
    handshake_failures: Family<ReasonLabel, Counter>,
    connections_refused: Family<ReasonLabel, Counter>,
    updates: Family<ResultLabel, Counter>,
    reports: Family<ResultLabel, Counter>,
    ledger_cells: Gauge,
    ledger_dropped: Gauge,
}

/// The gauges' values at the moment of the question.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) policy_stale: bool,
    pub(crate) policy_count: usize,
    pub(crate) proxies_connected: usize,
    pub(crate) ledger_cells: usize,
    pub(crate) ledger_dropped: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    /// A file of the policies, or their set, was refused.
    pub(crate) fn policy_load_failed(&self, code: Code) {
        self.policy_load_failures
            .get_or_create(&CodeLabel { code: code.id() })
            .inc();
    }

    /// An issuance ended: "issued", or the reason of its refusal.
    pub(crate) fn issuance(&self, result: &'static str) {
        self.issued.get_or_create(&ResultLabel { result }).inc();
    }

    /// A TLS handshake failed.
    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// A connection was closed before its handshake.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.connections_refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// An update was "sent", "acked" or "nacked".
    pub(crate) fn update(&self, result: &'static str) {
        self.updates.get_or_create(&ResultLabel { result }).inc();
    }

    /// A report was "accepted", "repeated" or "refused".
    pub(crate) fn report(&self, result: &'static str) {
        self.reports.get_or_create(&ResultLabel { result }).inc();
    }

    /// The exposition, in `OpenMetrics` text.
    pub(crate) fn write(&self, gauges: Gauges) -> String {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.policy_stale.set(i64::from(gauges.policy_stale));
        self.policy_count.set(gauge(gauges.policy_count));
        self.proxies_connected.set(gauge(gauges.proxies_connected));
        self.ledger_cells.set(gauge(gauges.ledger_cells));
        self.ledger_dropped
            .set(i64::try_from(gauges.ledger_dropped).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes every write");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("sidegate"),
            policy_load_failures: Family::default(),
            policy_stale: Gauge::default(),
            policy_count: Gauge::default(),
            proxies_connected: Gauge::default(),
            issued: Family::default(),
            handshake_failures: Family::default(),
            connections_refused: Family::default(),
            updates: Family::default(),
            reports: Family::default(),
            ledger_cells: Gauge::default(),
            ledger_dropped: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        let failures = self.policy_load_failures.clone();
        registry.register("policy_load_failures", "Policies refused, by code", failures);
        let stale = self.policy_stale.clone();
        registry.register(
            "policy_stale",
            "1 while the newest policies are not in force",
            stale,
        );
        registry.register("policy_count", "Policies in force", self.policy_count.clone());
        let connected = self.proxies_connected.clone();
        registry.register("proxies_connected", "Sidecars subscribed now", connected);
        registry.register("issued", "Certificate requests, by result", self.issued.clone());
        let handshakes = self.handshake_failures.clone();
        registry.register(
            "handshake_failures",
            "TLS handshakes that failed, by reason",
            handshakes,
        );
        let refused = self.connections_refused.clone();
        registry.register("connections_refused", "Connections refused by a limit", refused);
        registry.register("updates", "Updates to sidecars, by result", self.updates.clone());
        registry.register("reports", "Ledger reports, by result", self.reports.clone());
        registry.register("ledger_cells", "Edges held in memory", self.ledger_cells.clone());
        let dropped = self.ledger_dropped.clone();
        registry.register("ledger_dropped", "Observations that found no free cell", dropped);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_carries_the_names_that_alerts_rely_on() {
        let metrics = Metrics::default();
        metrics.policy_load_failed(Code::PolicyUnknownField);
        metrics.issuance("issued");
        let text = metrics.write(Gauges {
            policy_stale: true,
            policy_count: 3,
            ..Gauges::default()
        });
        for line in [
            "sidegate_policy_load_failures_total{code=\"SG0211\"} 1",
            "sidegate_policy_stale 1",
            "sidegate_policy_count 3",
            "sidegate_proxies_connected 0",
            "sidegate_issued_total{result=\"issued\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
