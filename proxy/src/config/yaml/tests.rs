use super::*;
use crate::config::file::ConfigFile;

/// Every kind of value that the configuration has.
const WHOLE: &str = "
trustDomain: shop.test
workload: {namespace: 0123, serviceAccount: 'orders', labels: {version: 1.10, <<: {app: orders}}}
identity: {files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}
policies: \"policies/\\u00e9\"
cache: ~
egress: Allow
inbound:
- &port {listen: '0.0.0.0:15106', forward: 'localhost:8080', protocol: auto}
- *port
outbound: [{listen: '127.0.0.1:9001', service: payments}]
services:
- name: payments
  identities: [spiffe://shop.test/ns/shop/sa/payments]
  routes:
  - matches: [{path: {type: PathPrefix, value: /pay}, headers: [{name: a, value: b}]}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: pay.test}}]
    backendRefs: [{service: payments, weight: 16}]
    faults: {forTests: true, abort: {status: 503, percent: 50}}
requirePostQuantum: true
limits: {connections: 1000}
workers: 2
";

fn read(result: Result<ConfigFile, serde_saphyr::Error>) -> Result<String, (String, Option<(u64, u64)>)> {
    result.map(|file| format!("{file:?}")).map_err(|error| {
        (error.to_string(), error.location().map(|location| (location.line(), location.column())))
    })
}

/// What `text` comes to, which is the same whether types and reader meet here or at each other.
fn both(text: &str) -> Result<String, (String, Option<(u64, u64)>)> {
    let here = read(from_str(text));
    let alone = read(serde_saphyr::from_str_with_options(text, options()));
    assert_eq!(here, alone, "{text}");
    here
}

#[test]
fn every_kind_of_value_is_what_the_reader_alone_makes_of_it() {
    let file = both(WHOLE).unwrap();
    assert!(file.contains("\"0123\"") && file.contains("\"1.10\""), "{file}");
}

#[test]
fn every_refusal_is_the_readers_own_with_its_place() {
    for (from, to) in [
        ("trustDomain: shop.test", ""),
        ("trustDomain: shop.test", "trustDomain: [shop.test]"),
        ("trustDomain: shop.test", "trustDomain: {shop: test}"),
        ("trustDomain: shop.test", "trustDomain: shop.test\ntrustDomain: shop.test"),
        ("trustDomain: shop.test", "trustDomain: *nothing"),
        ("trustDomain: shop.test", "trustDomain: !!binary AAA"),
        ("trustDomain: shop.test", "trustDomain: ~"),
        ("workload: {", "workload: {name: orders, "),
        ("workload: {", "workload: [{"),
        ("workload: {namespace", "workload: [shop, orders]\nx: {namespace"),
        ("workload: {", "workload: {1: x, "),
        ("workload: {", "workload: {~: x, "),
        ("workload: {", "workload: {true: x, "),
        ("workload: {", "workload: {[a]: x, "),
        ("workload: {", "workload: {{a: b}: x, "),
        ("cache: ~", "cache: [~]"),
        ("serviceAccount: 'orders', ", ""),
        ("version: 1.10", "version: [1, 10]"),
        ("version: 1.10", "version: 1, version: 2"),
        ("certificate: svid.pem, ", ""),
        ("egress: Allow", "egress: allow"),
        ("egress: Allow", "egress: {Allow: 1}"),
        ("egress: Allow", "egress: [Allow]"),
        ("inbound:\n- &port", "inbound: 3\nx:\n- &port"),
        ("protocol: auto", "protocol: smtp"),
        ("- *port", "- *harbour"),
        ("- *port", "- 15106"),
        ("- *port", "- <<: *port\n  listen: '127.0.0.1:1'\n  sort: 1"),
        ("outbound: [{", "outbound: [{listen: 'x', "),
        ("type: PathPrefix", "type: Prefix"),
        ("weight: 16", "weight: -1"),
        ("weight: 16", "weight: 99999999999"),
        ("weight: 16", "weight: 1.5"),
        ("weight: 16", "weight: heavy"),
        ("status: 503", "status: 70000"),
        ("percent: 50", "percent: much"),
        ("requirePostQuantum: true", "requirePostQuantum: yes"),
        ("requirePostQuantum: true", "requirePostQuantum: 1"),
        ("connections: 1000", "conections: 1000"),
        ("connections: 1000", "connections: []"),
        ("workers: 2", "workers: 2\n---\nworkers: 3"),
        ("workers: 2", "workers: 2\n\tx: 3"),
        ("workers: 2", "workers: [2"),
        ("workers: 2", "workers: 'two"),
        (WHOLE, ""),
        (WHOLE, "[]"),
        (WHOLE, "shop.test"),
    ] {
        let text = WHOLE.replacen(from, to, 1);
        assert_ne!(text, WHOLE, "{from}");
        assert!(both(&text).is_err(), "accepted: {to}");
    }
}
