use super::*;
use crate::{PolicySet, Source, Workload, parse_yaml};

fn compile(text: &str) -> Policies {
    PolicySet::new(parse_yaml("a.yaml", text, Some("shop")).unwrap()).unwrap().compile(&Workload {
        namespace: "shop",
        labels: &[].into(),
        trust_domain: "shop.test",
        root_namespace: None,
    })
}

fn explained(policies: &Policies, method: &str, path: &str) -> String {
    let caller = "spiffe://shop.test/ns/shop/sa/web".parse().unwrap();
    let source = Source { identity: Some(&caller), ip: [10, 0, 0, 7].into() };
    let http = Some(Http { method, host: "pay", path, headers: &(), claims: None });
    policies.explain(&Request { source, port: 8080, http, sni: None, now: 0 }).to_string()
}

#[test]
fn among_thousands_of_rules_the_one_with_the_requests_path_is_the_nearest() {
    let rule = |rule: usize| {
        format!(
            "  - {{from: [{{serviceAccounts: [shop/web]}}], to: [{{methods: [GET], paths: [\"/r{rule}/{{id}}\"]}}]}}"
        )
    };
    let rules = (0..5000).map(rule).collect::<Vec<_>>().join("\n");
    let policies = compile(&format!(
        "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\n\
         spec:\n  action: Allow\n  rules:\n{rules}"
    ));
    assert_eq!(
        explained(&policies, "POST", "/r4321/7"),
        "SG0202 denied: no Allow rule matches; nearest: rule rule-4322 of shop/p matched caller and path, \
         method POST is not in [GET]"
    );
}

#[test]
fn a_shadow_policy_that_would_decide_otherwise_is_named() {
    let policies = compile(
        "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: allow}
spec: {action: Allow, rules: [{name: all, to: [{paths: [/**]}]}]}
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: tighter}
spec: {action: Deny, mode: Shadow, rules: [{name: admin, to: [{paths: [/admin/**]}]}]}
",
    );
    assert_eq!(
        explained(&policies, "GET", "/admin"),
        "allowed by rule all of shop/allow (a.yaml:5); would be denied by rule admin of shop/tighter"
    );
    assert_eq!(explained(&policies, "GET", "/"), "allowed by rule all of shop/allow (a.yaml:5)");
}
