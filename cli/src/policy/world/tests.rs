use std::collections::BTreeMap;

use sidegate_policy::{Verdict, parse_yaml};

use super::*;

const POLICIES: &str = r#"
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec:
  action: Allow
  rules:
  - {name: orders, from: [{serviceAccounts: [shop/orders]}], to: [{methods: [POST], paths: ["/charge/{id}"]}]}
  - {name: bank, from: [{namespaces: [bank], ipBlocks: [10.0.0.0/8]}], to: [{ports: [9090]}]}
  - {name: partner, from: [{trustDomains: [partner.test]}], to: [{hosts: ["*.shop.test"], methods: [GET]}]}
  - {name: database, from: [{serviceAccounts: [shop/orders]}], to: [{ports: [5432], sni: [db.test]}]}
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  action: Deny
  rules: [{name: seven, to: [{ports: [8080], paths: ["/{any}/7"]}]}, {name: inner, from: [{ipBlocks: [10.1.0.0/16]}]}]
"#;

fn set(text: &str) -> PolicySet {
    PolicySet::new(parse_yaml("a.yaml", text, None).expect("valid policies")).expect("a valid set")
}

/// Who decided what, over all calls of the world.
fn reached(text: &str) -> BTreeSet<String> {
    let (set, labels) = (set(text), BTreeMap::new());
    let local = TrustDomain::parse("shop.test").expect("a trust domain");
    let workload =
        Workload { namespace: "shop", labels: &labels, trust_domain: "shop.test", root_namespace: None };
    let world = World::of(&[&set], &workload, &local, "pay", &[]);
    let policies = set.compile(&workload);
    let mut reached = BTreeSet::new();
    for caller in world.callers() {
        let calls = world.calls(caller, Known::default(), 100_000);
        assert!(calls.is_complete);
        for call in &calls.list {
            let decision = policies.judge(&call.request(caller, 0));
            let rule = decision.rule.map_or("-", |rule| rule);
            let verdict = if decision.verdict == Verdict::Allow { "Allow" } else { "Deny" };
            reached.insert(format!("{verdict} {rule}"));
        }
    }
    reached
}

#[test]
fn every_rule_decides_some_call_and_some_call_is_decided_by_none() {
    let wanted = [
        "Allow bank",
        "Allow database",
        "Allow orders",
        "Allow partner",
        "Deny -",
        "Deny inner",
        "Deny seven",
    ];
    assert_eq!(reached(POLICIES), wanted.map(str::to_owned).into());
}

#[test]
fn a_block_within_a_block_leaves_an_address_of_the_outer_alone() {
    let addresses =
        addresses(&set(POLICIES).iter().flat_map(|it| it.rules().map(|(rule, _)| rule)).collect::<Vec<_>>());
    let has = |holds: &dyn Fn([u8; 4]) -> bool| {
        addresses.iter().any(|ip| matches!(ip, IpAddr::V4(ip) if holds(ip.octets())))
    };
    assert!(has(&|ip| ip[..2] == [10, 1]) && has(&|ip| ip[0] == 10 && ip[1] != 1) && has(&|ip| ip[0] != 10));
}

#[test]
fn what_is_known_of_a_call_is_kept() {
    let (set, labels) = (set(POLICIES), BTreeMap::new());
    let local = TrustDomain::parse("shop.test").expect("a trust domain");
    let workload =
        Workload { namespace: "shop", labels: &labels, trust_domain: "shop.test", root_namespace: None };
    let world = World::of(&[&set], &workload, &local, "pay", &[]);
    let caller = SpiffeId::parse("spiffe://shop.test/ns/shop/sa/orders").expect("an ID");
    let known = Known {
        port: Some(80),
        is_http: Some(true),
        method: Some("PUT"),
        route: Some("/charge/{id}"),
        path: None,
    };
    let calls = world.calls(Some(&caller), known, 1000).list;
    assert!(!calls.is_empty());
    for call in calls {
        let Asked::Http { method, path, .. } = call.asked else { unreachable!("it is HTTP") };
        assert!(call.port == 80 && method == "PUT" && path.starts_with("/charge/"), "{path}");
    }
    assert!(!world.calls(Some(&caller), Known::default(), 3).is_complete);
}
