use std::path::Path;

use super::*;
use crate::config::{Config, PathMatch};

/// A sidecar of files with `limits` in its only port.
fn config(limits: &str) -> Result<Config, String> {
    let text = format!(
        "trustDomain: shop.test
workload: {{namespace: shop, serviceAccount: payments}}
identity: {{files: {{certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}}}
policies: policies.yaml
inbound:
- listen: 127.0.0.1:15106
  forward: 127.0.0.1:8080
  rateLimits:
{limits}"
    );
    Config::parse(Path::new("sidecar.yaml"), &text).map_err(|error| error.to_string())
}

fn limits(text: &str) -> Vec<RateLimit> {
    config(text).unwrap().inbound[0].rate_limits.clone()
}

fn refused(text: &str, field: &str) {
    let error = config(text).unwrap_err();
    assert!(error.contains(field), "{error}");
}

#[test]
fn a_limit_without_more_words_is_each_callers_own_for_every_request() {
    let all = limits("  - {name: all, rate: {requests: 100}}");
    let rate = Rate { requests: 100, period: Duration::from_secs(1), burst: 100 };
    assert_eq!((all[0].per, all[0].rate), (Per::Caller, rate));
    assert!(all[0].hostnames.is_empty() && all[0].callers.is_empty());
    assert_eq!(all[0].matches[0].path, PathMatch::Prefix(String::new()));
}

#[test]
fn every_word_of_a_limit_is_read() {
    let text = "  - name: charges
    hostnames: [payments.shop]
    matches: [{path: {value: /charge}, method: POST}]
    callers: [spiffe://shop.test/ns/shop/sa/orders]
    per: all
    rate: {requests: 10, period: 1m, burst: 3}";
    let charges = &limits(text)[0];
    assert_eq!(charges.hostnames.len() + charges.callers.len(), 2);
    assert_eq!(charges.matches[0].path, PathMatch::Prefix("/charge".to_owned()));
    assert_eq!(charges.rate, Rate { requests: 10, period: Duration::from_mins(1), burst: 3 });
    assert_eq!(charges.per, Per::All);
}

#[test]
fn what_could_not_be_counted_is_refused_with_its_field() {
    refused("  - {name: a, rate: {requests: 0}}", "inbound[0].rateLimits[0].rate.requests: 0");
    refused("  - {name: a, rate: {requests: 1000001}}", "rate.requests: 1000001");
    refused("  - {name: a, rate: {requests: 1, burst: 0}}", "rate.burst: 0");
    refused("  - {name: a, rate: {requests: 1, period: 2h}}", "rate.period: 2h");
    refused("  - {name: a, rate: {requests: 1, period: 0s}}", "rate.period: 0s");
    refused("  - {name: a b, rate: {requests: 1}}", "rateLimits[0].name");
    refused("  - {name: a, callers: [orders], rate: {requests: 1}}", "callers[0]");
    refused("  - {name: a, callers: [], rate: {requests: 1}}", "callers: is empty");
    refused(
        "  - {name: a, matches: [{path: {value: /a/../b}}], rate: {requests: 1}}",
        "matches[0].path.value",
    );
    refused("  - {name: a, rate: {requests: 1, unit: second}}", "unit");
}

#[test]
fn two_limits_of_one_name_are_a_fault() {
    refused(
        "  - {name: a, rate: {requests: 1}}\n  - {name: a, rate: {requests: 2}}",
        "rateLimits[1].name: \"a\"",
    );
}
