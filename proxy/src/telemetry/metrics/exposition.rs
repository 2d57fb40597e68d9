//! The exposition: edge cells, summed over workers and over what a family leaves out, and everything else that is counted,
//! in the text format of `OpenMetrics`.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use sidegate_codes::Code;
use sidegate_identity::SpiffeId;

use super::{MOST_SERIES, Metrics};
use crate::{
    families::{self, Family, Kind},
    telemetry::{
        AccessLog, Edges, Ends, Verdict,
        edges::{Cell, Key, LATENCY_BOUNDS},
    },
};

/// All metrics in the text format of `OpenMetrics`.
pub(crate) fn render(
    metrics: &Arc<Metrics>,
    edges: &Edges,
    access_log: &AccessLog,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition {
        metrics: Arc::clone(metrics),
        edges: edges.clone(),
        lost_lines: access_log.lost(),
    }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Exposition {
    metrics: Arc<Metrics>,
    edges: Edges,
    lost_lines: u64,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_edges(&mut encoder)?;
        self.encode_connections(&mut encoder)?;
        self.encode_identity(&mut encoder)?;
        self.encode_configuration(&mut encoder)?;
        self.encode_services(&mut encoder)
    }
}

/// The label sets of the edge families, summed over workers and over what the family leaves out.
#[derive(Default)]
struct Sums<'a> {
    requests: BTreeMap<[String; 6], u64>,
    denied: BTreeMap<[String; 5], u64>,
    shadow_denied: BTreeMap<[String; 5], u64>,
    failed: BTreeMap<[String; 2], u64>,
    durations: BTreeMap<&'a str, (u64, f64, [u64; LATENCY_BOUNDS.len() + 1])>,
}

impl Sums<'_> {
    fn add(&mut self, key: &Key, cell: &Cell) {
        let (source, destination) = names(&key.ends);
        let judgement = &key.judgement;
        for (class, count) in cell.classes.iter().enumerate().filter(|(_, count)| **count > 0) {
            let class = if class == 0 { "none".to_owned() } else { format!("{class}xx") };
            let labels = [
                key.direction.as_str().to_owned(),
                source.clone(),
                destination.clone(),
                key.carried.as_str().to_owned(),
                class,
                judgement.verdict.as_str().to_owned(),
            ];
            bump(&mut self.requests, labels, *count);
        }
        let decided = || {
            let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or("none").to_owned();
            let code = judgement.code.map_or("none", Code::id).to_owned();
            [source.clone(), destination.clone(), code, text(&judgement.policy), text(&judgement.rule)]
        };
        if matches!(judgement.verdict, Verdict::Denied | Verdict::WouldDeny) {
            bump(&mut self.denied, decided(), cell.count);
        }
        if judgement.shadow == Some(Verdict::Denied) {
            bump(&mut self.shadow_denied, decided(), cell.count);
        }
        if judgement.verdict == Verdict::Failed {
            let code = judgement.code.map_or("none", Code::id).to_owned();
            bump(&mut self.failed, [key.direction.as_str().to_owned(), code], cell.count);
        }
        let (count, sum, buckets) = self.durations.entry(key.direction.as_str()).or_default();
        *count += cell.count;
        #[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
        {
            *sum += cell.latency_sum as f64 / 1e6;
        }
        for (total, more) in buckets.iter_mut().zip(cell.latency) {
            *total += more;
        }
    }
}

fn bump<K: Ord>(sums: &mut BTreeMap<K, u64>, labels: K, count: u64) {
    *sums.entry(labels).or_default() += count;
}

/// Observations of the label sets that are not shown. Edge cells never go and the sets have an order, so this only grows.
fn left_out<K>(sums: &BTreeMap<K, u64>) -> u64 {
    sums.values().skip(MOST_SERIES).sum()
}

impl Exposition {
    fn encode_edges(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums = Sums::default();
        self.edges.each(|key, cell| sums.add(key, cell));
        counters(encoder, &families::REQUESTS, &sums.requests)?;
        counters(encoder, &families::DENIED, &sums.denied)?;
        counters(encoder, &families::SHADOW_DENIED, &sums.shadow_denied)?;
        counters(encoder, &families::FAILED, &sums.failed)?;
        samples(encoder, &families::REQUEST_DURATION, |mut to| {
            sums.durations.iter().try_for_each(|(direction, (count, sum, buckets))| {
                let bounds = LATENCY_BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(buckets.iter().copied()).collect();
                to.histogram(direction, *sum, *count, &buckets)
            })
        })?;
        let of_edges = left_out(&sums.requests) + left_out(&sums.denied);
        let of_edges = of_edges + left_out(&sums.shadow_denied) + left_out(&sums.failed);
        let overflow = self.edges.overflow() + of_edges + self.metrics.left_out();
        single(encoder, &families::METRICS_OVERFLOW, overflow)?;
        let dropped = self.metrics.ledger_dropped.load(Ordering::Relaxed);
        single(encoder, &families::LEDGER_DROPPED, dropped)
    }

    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        samples(encoder, &families::CONNECTIONS, |mut to| {
            metrics.connections.each(|labels, count| {
                let (source, destination) =
                    names(&Ends { source: labels.source.clone(), destination: labels.destination.clone() });
                let values = [
                    labels.direction.as_str(),
                    &source,
                    &destination,
                    labels.tls.as_str(),
                    labels.verdict.as_str(),
                ];
                to.counter(values, count)
            })
        })?;
        samples(encoder, &families::CONNECTIONS_ACTIVE, |mut to| {
            to.gauge(["inbound"], metrics.inbound_active.load(Ordering::Relaxed))?;
            to.gauge(["outbound"], metrics.outbound_active.load(Ordering::Relaxed))
        })?;
        samples(encoder, &families::HANDSHAKE_FAILURES, |mut to| {
            metrics.handshake_failures.each(|labels, count| {
                to.counter([labels.direction.as_str(), labels.code.id(), labels.reason], count)
            })
        })?;
        samples(encoder, &families::MIRRORED, |mut to| {
            metrics.copies.each(|labels, count| {
                to.counter([labels.service.as_str(), &labels.rule, labels.result], count)
            })
        })?;
        samples(encoder, &families::FAULTS_INJECTED, |mut to| {
            metrics
                .faults
                .each(|labels, count| to.counter([labels.service.as_str(), &labels.rule, labels.kind], count))
        })?;
        let panics = metrics.panics.load(Ordering::Relaxed);
        single(encoder, &families::CONNECTION_PANICS, panics)?;
        single(encoder, &families::ACCEPT_FAILURES, metrics.accept_failures.load(Ordering::Relaxed))?;
        single(encoder, &families::MEMORY, metrics.memory.load(Ordering::Relaxed))?;
        single(encoder, &families::OVERLOADED, u64::from(metrics.is_overloaded()))?;
        single(encoder, &families::ACCESS_LOG_LOST, self.lost_lines)
    }

    fn encode_identity(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        let expiry = metrics.certificate_expiry.load(Ordering::Relaxed);
        single(encoder, &families::CERTIFICATE_EXPIRY, expiry)?;
        samples(encoder, &families::RENEWALS, |mut to| {
            metrics.renewals.each(|result, count| to.counter([*result], count))
        })?;
        samples(encoder, &families::WORKLOAD_API_STREAMS, |mut to| {
            to.gauge([""; 0], metrics.workload_streams.load(Ordering::Relaxed))
        })?;
        samples(encoder, &families::WORKLOAD_API_REFUSALS, |mut to| {
            metrics.workload_refusals.each(|reason, count| to.counter([*reason], count))
        })
    }

    fn encode_configuration(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        let version = metrics.snapshot_version.load(Ordering::Relaxed);
        single(encoder, &families::CONFIG_VERSION, version)?;
        let refused = [&metrics.files_refused, &metrics.update_refused];
        let is_stale = refused.iter().any(|flag| flag.load(Ordering::Relaxed));
        single(encoder, &families::CONFIG_STALE, u64::from(is_stale))?;
        let connected = metrics.control_connected.load(Ordering::Relaxed);
        single(encoder, &families::CONTROL_CONNECTED, connected)?;
        let keys_failed = metrics.token_keys_failed.load(Ordering::Relaxed);
        single(encoder, &families::TOKEN_KEYS_FAILED, keys_failed)?;
        samples(encoder, &families::EXTERNAL_DECISIONS, |mut to| {
            metrics.external_decisions.each(|outcome, count| to.counter([*outcome], count))
        })?;
        samples(encoder, &families::POLICY_REFUSED, |mut to| {
            metrics.policies_refused.each(|code, count| to.counter([code.id()], count))
        })
    }

    fn encode_services(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        samples(encoder, &families::ENDPOINTS, |mut to| {
            metrics.endpoints.each(|service, endpoint, standing, workers| {
                to.gauge([service, &endpoint.to_string(), standing], workers)
            })
        })?;
        samples(encoder, &families::ENDPOINT_EJECTIONS, |mut to| {
            metrics.ejections.each(|labels, count| {
                to.counter([&*labels.service, &labels.endpoint.to_string(), labels.reason], count)
            })
        })?;
        samples(encoder, &families::EJECTIONS_IGNORED, |mut to| {
            metrics.ejections_ignored.each(|service, count| to.counter([&**service], count))
        })?;
        samples(encoder, &families::BREAKER_REFUSALS, |mut to| {
            metrics
                .breakers
                .each(|labels, count| to.counter([&*labels.service, labels.breaker.as_str()], count))
        })?;
        samples(encoder, &families::RETRIES, |mut to| {
            metrics.retries.each(|labels, count| {
                to.counter([&*labels.service, labels.reason.as_str(), labels.end.as_str()], count)
            })
        })?;
        samples(encoder, &families::RATE_LIMITED, |mut to| {
            metrics.rate_limited.each(|labels, count| {
                let (caller, _) = names(&Ends { source: labels.caller.clone(), destination: None });
                let caller = if labels.caller.is_some() { caller.as_str() } else { "none" };
                let (direction, limit) = (labels.of.direction(), labels.of.to_string());
                to.counter([direction.as_str(), &limit, caller, labels.reason.as_str()], count)
            })
        })
    }
}

/// A family being written, label set by label set. Its labels are named by the family alone; values come in its order.
struct Samples<'a> {
    family: &'static Family,
    to: MetricEncoder<'a>,
}

impl Samples<'_> {
    fn counter<const N: usize>(&mut self, values: [&str; N], count: u64) -> fmt::Result {
        let labels = self.labels(values);
        ConstCounter::new(count).encode(self.to.encode_family(&labels)?)
    }

    fn gauge<const N: usize>(&mut self, values: [&str; N], value: i64) -> fmt::Result {
        let labels = self.labels(values);
        ConstGauge::new(value).encode(self.to.encode_family(&labels)?)
    }

    fn histogram(&mut self, value: &str, sum: f64, count: u64, buckets: &[(f64, u64)]) -> fmt::Result {
        let labels = self.labels([value]);
        self.to.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
    }

    fn labels<'v, const N: usize>(&self, values: [&'v str; N]) -> Vec<(&'static str, &'v str)> {
        debug_assert_eq!(self.family.labels.len(), N, "{}", self.family.name);
        let names = self.family.labels.iter().map(|label| label.name);
        names.zip(values).collect()
    }
}

/// Writes a family that has labels; it is announced even while it is empty.
fn samples(
    encoder: &mut DescriptorEncoder<'_>,
    family: &'static Family,
    fill: impl FnOnce(Samples<'_>) -> fmt::Result,
) -> fmt::Result {
    let to = describe(encoder, family)?;
    fill(Samples { family, to })
}

fn counters<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    family: &'static Family,
    counts: &BTreeMap<[String; N], u64>,
) -> fmt::Result {
    samples(encoder, family, |mut to| {
        counts
            .iter()
            .take(MOST_SERIES)
            .try_for_each(|(values, count)| to.counter(values.each_ref().map(String::as_str), *count))
    })
}

/// Writes a family without labels.
fn single(encoder: &mut DescriptorEncoder<'_>, family: &'static Family, value: u64) -> fmt::Result {
    debug_assert!(family.labels.is_empty(), "{}", family.name);
    let to = describe(encoder, family)?;
    match family.kind {
        Kind::Counter => ConstCounter::new(value).encode(to),
        Kind::Gauge => ConstGauge::new(value).encode(to),
        // A histogram is no single value.
        Kind::Histogram => Err(fmt::Error),
    }
}

/// `OpenMetrics` adds `_total` to the samples of a counter, not to its family.
fn describe<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    family: &'static Family,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    let name = family.name.strip_suffix("_total").unwrap_or(family.name);
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    encoder.encode_descriptor(name, family.help, None, kind)
}

/// `namespace/service-account`; what has another path shows it, and who proved nothing is `unknown`.
fn names(ends: &Ends) -> (String, String) {
    let name = |id: &Option<SpiffeId>| match id {
        None => "unknown".to_owned(),
        Some(id) => match (id.namespace(), id.service_account()) {
            (Some(namespace), Some(account)) => format!("{namespace}/{account}"),
            _ => id.path().to_owned(),
        },
    };
    (name(&ends.source), name(&ends.destination))
}

#[cfg(test)]
mod tests;
