//! What the pure stages of the data path cost by themselves: telling the protocol, bringing a path into its canonical form, the rule
//! for a request among 10 to 1,000, the endpoint for a call among 2 to 100. Each answer is checked: a stage that is quick
//! because it says something else is a fault.

use std::{fmt::Write, hint::black_box, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use sidegate_proxy::{
    config::{Balance, Config, HashKey, PathMode, Resilience, RouteRule},
    detect::{Detected, classify},
    http::path::normalize,
    measured::{Endpoints, Routes},
};

const ROUTES: [usize; 3] = [10, 100, 1_000];
/// Those of one service; a file may hold no more.
const RULES_PER_SERVICE: usize = 250;
const ENDPOINTS: [u16; 3] = [2, 10, 100];
/// Requests differ from one to the next, so that the caches hold what a busy sidecar's would.
const REQUESTS: usize = 64;

fn detect(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("detect");
    let head = "GET /api/v1/orders/17 HTTP/1.1\r\nhost: payments.shop\r\nuser-agent: curl/8.5\r\naccept: */*\r\n\r\n";
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2_000));
    let bytes: [(&str, &[u8], Option<Detected>); 5] = [
        ("http1", head.as_bytes(), Some(Detected::Http1)),
        ("http1-long", long.as_bytes(), Some(Detected::Http1)),
        ("http1-begun", &head.as_bytes()[..10], None),
        ("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0", Some(Detected::Http2)),
        ("opaque", b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n", Some(Detected::Opaque)),
    ];
    for (name, bytes, wanted) in bytes {
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(classify(black_box(bytes)), wanted));
        });
    }
}

fn paths(criterion: &mut Criterion) {
    for (name, mode) in [("strict", PathMode::Strict), ("compatible", PathMode::Compatible)] {
        let mut group = criterion.benchmark_group(format!("path/{name}"));
        for (name, path, is_taken) in [
            ("short", "/charge", true),
            ("usual", "/api/v1/customers/7f3c9a52/orders/17/items", true),
            ("escaped", "/files/r%C3%A9sum%C3%A9%20of%20the%20year.pdf", true),
            ("dots", "/api/v1/../v2//orders", mode == PathMode::Compatible),
            ("encoded-dots", "/api/%2e%2e/%252e/secret", false),
        ] {
            group.bench_function(name, |bencher| {
                bencher.iter(|| assert_eq!(normalize(black_box(path), mode).is_ok(), is_taken));
            });
        }
    }
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    let mut headers = HeaderMap::new();
    for (name, value) in [("accept", "*/*"), ("user-agent", "curl/8.5"), ("x-tenant", "blue")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for count in ROUTES {
        let routes = Routes::of(&rules(count)).expect("there are rules");
        for (name, method, below, is_found) in [
            ("prefix", "GET", "/17/items", true),
            ("header", "POST", "/17", true),
            ("none", "GET", "s", false),
        ] {
            let paths: Vec<(String, String)> = (0..REQUESTS)
                .map(|index| index * (count / 2) / REQUESTS)
                .map(|rule| (format!("/api/v1/resource-{rule}{below}"), format!("{method}-{rule}")))
                .collect();
            let mut next = paths.iter().cycle();
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    let (path, rule) = next.next().expect("a cycle has no end");
                    let found = routes.rule(black_box(method), "payments.shop", black_box(path), &headers);
                    assert_eq!(found, is_found.then_some(rule.as_str()));
                });
            });
        }
    }
}

fn endpoints(criterion: &mut Criterion) {
    let header = HeaderName::from_static("x-user");
    let users: Vec<HeaderMap> =
        (0..REQUESTS).map(|user| [(header.clone(), HeaderValue::from(user))].into_iter().collect()).collect();
    for (name, balance) in [
        ("latency", Balance::Latency),
        ("roundRobin", Balance::RoundRobin),
        ("header", Balance::Hash(HashKey::Header(header.clone()))),
    ] {
        let mut group = criterion.benchmark_group(format!("endpoint/{name}"));
        for count in ENDPOINTS {
            let addresses: Vec<SocketAddr> =
                (0..count).map(|host| SocketAddr::from(([10, 0, 0, 7], 15_000 + host))).collect();
            let rules = Resilience { balance: balance.clone(), ..Resilience::default() };
            let endpoints = Endpoints::of(&addresses, rules);
            let mut next = users.iter().cycle();
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter(|| {
                    let headers = next.next().expect("a cycle has no end");
                    assert!(endpoints.call(black_box(headers)).is_some());
                });
            });
        }
    }
}

/// `count` rules, two per resource: one for every request, one for those of a method and a tenant. As a file says them, of which several
/// make a thousand.
fn rules(count: usize) -> Vec<Arc<RouteRule>> {
    let all: Vec<usize> = (0..count / 2).collect();
    all.chunks(RULES_PER_SERVICE / 2).flat_map(of_one_file).collect()
}

fn of_one_file(resources: &[usize]) -> Vec<Arc<RouteRule>> {
    let mut text = "trustDomain: shop.test\nworkload: {namespace: shop, serviceAccount: orders}\n\
                    controlPlane: {address: '127.0.0.1:15110', trustBundle: root.pem}\n\
                    outbound: [{listen: '127.0.0.1:9001', service: payments}]\n\
                    services:\n- name: payments\n  routes:\n"
        .to_owned();
    for number in resources {
        let path = format!("path: {{value: /api/v1/resource-{number}}}");
        write!(
            text,
            "  - {{name: GET-{number}, matches: [{{{path}}}]}}\n  - {{name: POST-{number}, matches: [{{{path}, method: POST, \
             headers: [{{name: x-tenant, value: blue}}]}}]}}\n"
        )
        .expect("text takes every line");
    }
    let config = Config::parse(Path::new("bench.yaml"), &text).expect("a valid file");
    config.services.into_values().flat_map(|service| service.routes).collect()
}

fn brief() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = brief(); targets = detect, paths, routes, endpoints }
criterion_main!(benches);
