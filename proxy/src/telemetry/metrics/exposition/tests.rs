use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    error::Breaker,
    rate::Place,
    resilience::{End, Reason},
    telemetry::{
        Carried, Direction, Judgement, TlsState,
        edges::Observation,
        metrics::{
            BreakerLabels, ConnectionLabels, CopyLabels, EjectionLabels, FaultLabels, HandshakeLabels,
            RateLabels, RateReason, RetryLabels,
        },
    },
};

/// One observation in every family that has labels.
fn busy() -> (Arc<Metrics>, Edges) {
    let metrics = Metrics::default();
    metrics.connections.add(ConnectionLabels {
        direction: Direction::Inbound,
        source: None,
        destination: None,
        tls: TlsState::Mutual,
        verdict: Verdict::Allowed,
    });
    metrics.handshake_failures.add(HandshakeLabels {
        direction: Direction::Inbound,
        code: Code::HandshakeFailed,
        reason: "peer_alert",
    });
    metrics.renewals.add("ok");
    metrics.workload_refusals.add("user");
    metrics.policies_refused.add(Code::PolicyUnknownField);
    metrics.external_decisions.add("allowed");
    let (service, rule) = ("shop/payments".parse().unwrap(), "rule-1".into());
    metrics.copies.add(CopyLabels { service, rule, result: "sent" });
    let (service, rule) = ("shop/payments".parse().unwrap(), "rule-1".into());
    metrics.faults.add(FaultLabels { service, rule, kind: "abort" });
    let service: Arc<str> = "shop/payments".into();
    let endpoint = std::net::SocketAddr::from(([10, 0, 0, 7], 15106));
    metrics.endpoints.add(&service, endpoint, crate::balance::Standing::In, 1);
    let reason = "consecutive";
    metrics.ejections.add(EjectionLabels { service: Arc::clone(&service), endpoint, reason });
    metrics.ejections_ignored.add(Arc::clone(&service));
    metrics.breakers.add(BreakerLabels { service: Arc::clone(&service), breaker: Breaker::Pending });
    metrics.retries.add(RetryLabels { service, reason: Reason::Reset, end: End::Answered });
    let of = Place::Port { listen: endpoint, port: 8080, name: "charges".into() };
    metrics.rate_limited.add(RateLabels { of, caller: None, reason: RateReason::Rate });
    let edges = Edges::new(1, 8);
    let allowed = (Verdict::Allowed, Some(Verdict::Denied));
    for (verdict, shadow) in [(Verdict::Denied, None), (Verdict::Failed, None), allowed] {
        let key = Key {
            direction: Direction::Inbound,
            ends: Ends { source: None, destination: None },
            port: 8080,
            carried: Carried::Http1,
            tls: TlsState::Mutual,
            judgement: Judgement { verdict, code: None, policy: None, rule: None, route: None, shadow },
        };
        let seen = Observation {
            status: Some(200),
            failed: false,
            received: 0,
            sent: 0,
            duration: Duration::from_millis(1),
        };
        edges.shard(0).record(&key, seen);
    }
    (Arc::new(metrics), edges)
}

/// Name, kind and help of every family that the exposition announces.
fn announced(text: &str) -> Vec<(String, &str, &str)> {
    let mut found = Vec::new();
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap().1;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = if kind == "counter" { "_total" } else { "" };
            found.push((format!("{name}{suffix}"), kind, help));
        }
    }
    found
}

#[test]
fn the_exposition_announces_exactly_the_declared_families_even_empty() {
    let text = render(&Arc::default(), &Edges::new(1, 8), &AccessLog::off()).unwrap();
    let declared: Vec<_> = families::ALL
        .iter()
        .map(|family| {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            (family.name.to_owned(), kind, family.help)
        })
        .collect();
    assert_eq!(announced(&text), declared);
}

#[test]
fn every_sample_carries_the_labels_of_its_family() {
    let (metrics, edges) = busy();
    let text = render(&metrics, &edges, &AccessLog::off()).unwrap();
    for family in families::ALL {
        let sample = match family.kind {
            Kind::Histogram => format!("{}_count", family.name),
            Kind::Counter | Kind::Gauge => family.name.to_owned(),
        };
        let line = text
            .lines()
            .find(|line| line.strip_prefix(&sample).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .unwrap_or_else(|| panic!("no sample of {sample} in\n{text}"));
        let labels: Vec<_> = line
            .split(['{', ',', '}'])
            .filter_map(|part| part.split_once('='))
            .map(|(name, _)| name)
            .collect();
        let declared: Vec<_> = family.labels.iter().map(|label| label.name).collect();
        assert_eq!(labels, declared, "{line}");
    }
}

/// The value of `family`'s samples whose labels contain `part`, and how many these are.
fn sum(text: &str, family: &str, part: &str) -> (u64, usize) {
    let lines = text.lines().filter(|line| line.starts_with(family) && line.contains(part));
    let values: Vec<u64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    (values.iter().sum(), values.len())
}

#[test]
fn a_family_that_is_full_grows_no_more_and_what_it_leaves_out_is_counted() {
    let (metrics, edges) = (Metrics::default(), Edges::new(1, MOST_SERIES * 2));
    let beyond = MOST_SERIES + 3;
    for number in 0..beyond {
        let id = SpiffeId::parse(&format!("spiffe://shop.test/ns/shop/sa/caller-{number}")).unwrap();
        let ends = Ends { source: Some(id), destination: None };
        metrics.connections.add(ConnectionLabels {
            direction: Direction::Inbound,
            source: ends.source.clone(),
            destination: None,
            tls: TlsState::Mutual,
            verdict: Verdict::Allowed,
        });
        let (verdict, duration) = (Verdict::Allowed, Duration::from_millis(1));
        let key = Key {
            direction: Direction::Inbound,
            ends,
            port: 8080,
            carried: Carried::Http1,
            tls: TlsState::Mutual,
            judgement: Judgement { verdict, ..Judgement::ADMITTED },
        };
        let seen = Observation { status: Some(200), failed: false, received: 0, sent: 0, duration };
        edges.shard(0).record(&key, seen);
    }
    let text = render(&Arc::new(metrics), &edges, &AccessLog::off()).unwrap();
    let most = u64::try_from(MOST_SERIES).unwrap();
    for family in ["sidegate_connections_total", "sidegate_requests_total"] {
        assert_eq!(sum(&text, family, "caller-"), (most, MOST_SERIES), "{family}");
    }
    // Three of each.
    assert_eq!(sum(&text, "sidegate_metrics_overflow_total", ""), (6, 1));
}
