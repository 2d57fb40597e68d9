//! Judging allocates nothing. A test binary of its own, because counting replaces the allocator.

use std::{collections::BTreeMap, net::IpAddr};

use sidegate_identity::SpiffeId;
use sidegate_policy::{Claims, Http, PolicySet, Request, Source, Workload, parse_yaml};

const POLICIES: &str = r#"
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec:
  action: Allow
  rules:
  - {from: [{serviceAccounts: [shop/web]}], to: [{methods: [GET], hosts: ["*.shop.test"], paths: ["/cart/{id}/**"]}]}
  - {from: [{namespaces: [shop], ipBlocks: [10.0.0.0/8]}], to: [{ports: [9090]}, {ports: [8080], sni: ["*.db.test"]}]}
  - {to: [{paths: ["/cart/{id}/**"]}], when: '!(request.headers["x-tenant"] in ["a", "b"]) && request.host.endsWith(".TEST")'}
  - {jwt: {issuer: corp, audiences: [pay], claims: {scope: {containsAny: [none]}, "realm[roles]": {containsAny: [clerk]}}}, to: [{methods: [GET]}]}
  - {from: [{serviceAccounts: [shop/web]}], to: [{paths: ["/cart/7/{item}", "/cart/{id}/x/**"]}, {grpc: {service: shop.Pay}}]}
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  action: Deny
  rules:
  - {to: [{paths: ["/admin/**"]}], expires: 2027-01-31}
  - {when: 'request.headers["x-debug"].contains("yes") || source.namespace == "bank"', to: [{methods: [GET]}]}
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: require, namespace: shop}
spec:
  action: Require
  mode: Shadow
  rules: [{from: [{trustDomains: [shop.test]}], to: [{methods: [GET]}]}]
"#;

#[test]
fn judging_allocates_nothing_whatever_the_verdict() {
    let set =
        PolicySet::new(parse_yaml("a.yaml", POLICIES, None).expect("valid policies")).expect("a valid set");
    let labels = BTreeMap::new();
    let workload =
        Workload { namespace: "shop", labels: &labels, trust_domain: "shop.test", root_namespace: None };
    let policies = set.compile(&workload);
    let callers = ["spiffe://shop.test/ns/shop/sa/web", "spiffe://evil.test/x"]
        .map(|id| SpiffeId::parse(id).expect("valid IDs"));

    let headers: Vec<(String, String)> = [("accept", "*/*"), ("x-tenant", "a,b"), ("x-debug", "no, never")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();

    let claims =
        Claims::parse(r#"{"iss":"corp","aud":["x","pay"],"scope":"a b","realm":{"roles":["clerk"]}}"#)
            .expect("valid claims");

    let mut verdicts = Vec::with_capacity(64);
    let allocated = allocation_counter::measure(|| {
        for identity in callers.iter().map(Some).chain([None]) {
            for path in ["/cart/7/items", "/admin/users", "/"] {
                let http = Http {
                    method: "GET",
                    host: "pay.shop.test",
                    path,
                    headers: &headers,
                    claims: Some(&claims),
                };
                for (http, sni) in [(Some(http), None), (None, None), (None, Some("a.db.test"))] {
                    let source = Source { identity, ip: IpAddr::from([10, 0, 0, 7]) };
                    let decision = policies.judge(&Request { source, port: 8080, http, sni, now: 0 });
                    verdicts.push(decision.code);
                }
            }
        }
    });

    assert_eq!(allocated.count_total, 0);
    let mut codes: Vec<_> = verdicts.iter().map(|code| code.map_or("Allow", |code| code.id())).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(
        codes,
        ["Allow", "SG0202", "SG0203", "SG0205", "SG0206"],
        "the test passes through every stage"
    );
}
