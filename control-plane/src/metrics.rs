//! What Prometheus may ask. Labels are closed sets; what the mesh itself knows is read when it is asked for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use sidegate_codes::Code;

use crate::families::{self, Family, Kind};

/// The counters that parts of the control plane count in.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    policy_load_failures: Series,
    issued: Series,
    refusals_unrecorded: Series,
    new_sources: AtomicU64,
    /// When each foreign bundle was fetched last, in Unix seconds; by trust domain, of which `mesh.yaml` has a few.
    refreshed: Mutex<BTreeMap<String, u64>>,
    refreshes: Series,
    handshake_failures: Series,
    connections_refused: Series,
    updates: Series,
    reports: Series,
}

/// The mesh's own values at the moment of the question.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Readings {
    pub(crate) active: bool,
    pub(crate) policy_stale: bool,
    pub(crate) policy_count: usize,
    pub(crate) proxies_connected: usize,
    pub(crate) ledger_cells: usize,
    pub(crate) ledger_dropped: u64,
    pub(crate) signing_ends: u64,
    pub(crate) rotation_blockers: usize,
    pub(crate) rotation_overdue: u64,
}

impl Metrics {
    /// A file of the policies, or their set, was refused.
    pub(crate) fn policy_load_failed(&self, code: Code) {
        self.policy_load_failures.add(code.id());
    }

    /// An issuance ended: "issued", or the reason of its refusal.
    pub(crate) fn issuance(&self, result: &'static str) {
        self.issued.add(result);
    }

    /// A refusal is not in the registry, by "rate" or because that "failed".
    pub(crate) fn refusal_unrecorded(&self, reason: &'static str) {
        self.refusals_unrecorded.add(reason);
    }

    /// A join token was used from an address that it was not used from before.
    pub(crate) fn new_source(&self) {
        self.new_sources.fetch_add(1, Ordering::Relaxed);
    }

    /// The bundle of this trust domain was fetched.
    pub(crate) fn federation_refreshed(&self, trust_domain: &str, unix_seconds: u64) {
        self.refreshes.add("ok");
        self.refreshed_now().insert(trust_domain.to_owned(), unix_seconds);
    }

    /// No newer bundle came.
    pub(crate) fn federation_failed(&self) {
        self.refreshes.add("failed");
    }

    /// Nobody asks for the bundle of this trust domain any more.
    pub(crate) fn federation_ended(&self, trust_domain: &str) {
        self.refreshed_now().remove(trust_domain);
    }

    fn refreshed_now(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.refreshed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A TLS handshake failed.
    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures.add(reason);
    }

    /// A connection was closed before its handshake.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.add(reason);
    }

    /// An update was "sent", "acked" or "nacked".
    pub(crate) fn update(&self, result: &'static str) {
        self.updates.add(result);
    }

    /// A report was "accepted", "repeated" or "refused".
    pub(crate) fn report(&self, result: &'static str) {
        self.reports.add(result);
    }

    /// The exposition, in `OpenMetrics` text.
    pub(crate) fn write(&self, readings: Readings) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exposition {
            series: [
                (&families::POLICY_LOAD_FAILURES, self.policy_load_failures.now()),
                (&families::ISSUED, self.issued.now()),
                (&families::REFUSALS_UNRECORDED, self.refusals_unrecorded.now()),
                (&families::HANDSHAKE_FAILURES, self.handshake_failures.now()),
                (&families::CONNECTIONS_REFUSED, self.connections_refused.now()),
                (&families::UPDATES, self.updates.now()),
                (&families::REPORTS, self.reports.now()),
                (&families::FEDERATION_REFRESHES, self.refreshes.now()),
            ],
            refreshed: self.refreshed_now().clone(),
            new_sources: self.new_sources.load(Ordering::Relaxed),
            readings,
        }));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a String takes every write");
        text
    }
}

/// The exposition of a control plane that waits for its turn, of which nothing else is known.
pub(crate) fn standby() -> String {
    let mut registry = Registry::default();
    registry.register(families::ACTIVE.name, families::ACTIVE.help, ConstGauge::new(0_u64));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a String takes every write");
    text
}

/// A counter per value of the family's one label. Each value is a constant of this program, so they are few.
#[derive(Debug, Default)]
struct Series(Mutex<Counts>);

type Counts = BTreeMap<&'static str, u64>;

impl Series {
    fn add(&self, value: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(value).or_default() += 1;
    }

    fn now(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Exposition {
    series: [(&'static Family, Counts); 8],
    refreshed: BTreeMap<String, u64>,
    new_sources: u64,
    readings: Readings,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, counts) in &self.series {
            let mut to = describe(&mut encoder, family)?;
            let name = family.label.as_ref().map(|label| label.name);
            for (value, count) in counts {
                let labels: Vec<_> = name.map(|name| (name, *value)).into_iter().collect();
                ConstCounter::new(*count).encode(to.encode_family(&labels)?)?;
            }
        }
        let size = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let readings = &self.readings;
        for (family, value) in [
            (&families::POLICY_STALE, u64::from(readings.policy_stale)),
            (&families::POLICY_COUNT, size(readings.policy_count)),
            (&families::PROXIES_CONNECTED, size(readings.proxies_connected)),
            (&families::LEDGER_CELLS, size(readings.ledger_cells)),
            (&families::LEDGER_DROPPED, readings.ledger_dropped),
            (&families::NEW_SOURCES, self.new_sources),
            (&families::SIGNING_ENDS, readings.signing_ends),
            (&families::ROTATION_BLOCKERS, size(readings.rotation_blockers)),
            (&families::ROTATION_OVERDUE, readings.rotation_overdue),
            (&families::ACTIVE, u64::from(readings.active)),
        ] {
            let to = describe(&mut encoder, family)?;
            match family.kind {
                Kind::Counter => ConstCounter::new(value).encode(to)?,
                Kind::Gauge => ConstGauge::new(value).encode(to)?,
            }
        }
        let mut to = describe(&mut encoder, &families::FEDERATION_REFRESHED)?;
        for (trust_domain, moment) in &self.refreshed {
            ConstGauge::new(*moment).encode(to.encode_family(&[("trust_domain", trust_domain.as_str())])?)?;
        }
        Ok(())
    }
}

/// Announces a family, empty or not. `OpenMetrics` adds `_total` to the samples of a counter, not to its family.
fn describe<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    family: &'static Family,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    let name = family.name.strip_suffix("_total").unwrap_or(family.name);
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    };
    encoder.encode_descriptor(name, family.help, None, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_carries_the_names_that_alerts_rely_on() {
        let metrics = Metrics::default();
        metrics.policy_load_failed(Code::PolicyUnknownField);
        metrics.issuance("issued");
        let text = metrics.write(Readings {
            active: true,
            policy_stale: true,
            policy_count: 3,
            signing_ends: 7,
            rotation_blockers: 2,
            rotation_overdue: 60,
            ..Readings::default()
        });
        for line in [
            "sidegate_policy_load_failures_total{code=\"SG0211\"} 1",
            "sidegate_policy_stale 1",
            "sidegate_policy_count 3",
            "sidegate_proxies_connected 0",
            "sidegate_issued_total{result=\"issued\"} 1",
            "sidegate_ledger_dropped_total 0",
            "sidegate_ca_expiry_timestamp_seconds 7",
            "sidegate_rotation_blockers 2",
            "sidegate_rotation_overdue_seconds 60",
            "sidegate_control_plane_active 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn whoever_stands_by_says_that_alone() {
        let text = standby();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples, ["sidegate_control_plane_active 0"]);
        assert!(
            text.contains(&format!("# HELP {} {}", families::ACTIVE.name, families::ACTIVE.help)),
            "{text}"
        );
    }

    #[test]
    fn the_exposition_announces_exactly_the_declared_families_even_empty() {
        let text = Metrics::default().write(Readings::default());
        let announced: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let declared: Vec<_> = families::ALL
            .iter()
            .map(|family| match family.kind {
                Kind::Counter => format!("{} counter", family.name.strip_suffix("_total").unwrap()),
                Kind::Gauge => format!("{} gauge", family.name),
            })
            .collect();
        assert_eq!(announced, declared);
        for family in families::ALL {
            assert!(text.contains(&format!(" {}\n", family.help)), "{}", family.name);
        }
    }

    #[test]
    fn every_sample_carries_the_label_of_its_family() {
        let metrics = Metrics::default();
        metrics.policy_load_failed(Code::PolicyUnknownField);
        metrics.issuance("issued");
        metrics.refusal_unrecorded("rate");
        metrics.handshake_failed("tls");
        metrics.connection_refused("connections");
        metrics.update("sent");
        metrics.report("accepted");
        metrics.federation_refreshed("partner.test", 7);
        let text = metrics.write(Readings::default());
        for family in families::ALL {
            let sample = match &family.label {
                Some(label) => format!("\n{}{{{}=\"", family.name, label.name),
                None => format!("\n{} ", family.name),
            };
            assert!(text.contains(&sample), "{sample} in\n{text}");
        }
    }
}
