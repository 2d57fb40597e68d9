//! What the analysis claims of a set holds for every request.

use std::collections::BTreeSet;

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};
use sidegate_identity::TrustDomain;
use sidegate_policy::{Finding, Lint, PolicySet, Sourced, Surroundings, Verdict, parse_json};

use crate::{
    compile,
    generate::{Asked, asked, policies},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_rule_said_to_be_covered_by_deny_or_unreachable_never_lets_a_request_in(
        set in policies(8), asked in proptest::collection::vec(asked(), 16), known in any::<bool>(),
    ) {
        for finding in lint(&set, known).iter().filter(|it| is_of_no_effect(it.lint)) {
            let alone = compile(&[as_the_only_allow(&set, finding)]);
            let policies = compile(&set);
            for asked in asked.iter().map(Asked::request) {
                if alone.judge(&asked).verdict == Verdict::Allow {
                    prop_assert_eq!(policies.judge(&asked).verdict, Verdict::Deny, "{:?}", finding);
                }
            }
        }
    }

    #[test]
    fn policies_said_to_contradict_each_other_let_nothing_in_where_both_hold(
        set in policies(8), asked in proptest::collection::vec(asked(), 16), known in any::<bool>(),
    ) {
        for finding in lint(&set, known).iter().filter(|it| it.lint == Lint::ContradictingPolicies) {
            let is_of = |it: &&Sourced| {
                *it.name() == finding.policy || Some(it.source()) == finding.related.as_ref()
            };
            let mut both: Vec<Sourced> = set.iter().filter(is_of).cloned().collect();
            if both.len() != 2 || !both.iter().all(selects_the_workload) {
                continue;
            }
            both.push(parsed(&json!({
                "apiVersion": "sidegate.dev/v1alpha1", "kind": "AuthorizationPolicy",
                "metadata": {"name": "everything", "namespace": "shop"},
                "spec": {"action": "Allow", "rules": [
                    {"name": "http", "to": [{"paths": ["/**"]}]}, {"name": "any", "to": [{"ports": [8080, 9090]}]},
                ]},
            })));
            let policies = compile(&both);
            for asked in asked.iter().map(Asked::request) {
                prop_assert_eq!(policies.judge(&asked).verdict, Verdict::Deny, "{:?}", finding);
            }
        }
    }

    #[test]
    fn a_rule_said_to_be_duplicate_or_shadowed_can_go_and_every_verdict_stays(
        set in policies(8), asked in proptest::collection::vec(asked(), 16), known in any::<bool>(),
    ) {
        for finding in lint(&set, known).iter().filter(|it| is_redundancy(it.lint)) {
            let (with, without) = (compile(&set), compile(&without_rule(&set, finding)));
            for asked in asked.iter().map(Asked::request) {
                let (with, without) = (with.judge(&asked), without.judge(&asked));
                prop_assert_eq!((with.verdict, with.shadow), (without.verdict, without.shadow), "{:?}", finding);
            }
        }
    }
}

/// Claims that are never made would hold too.
#[test]
fn the_small_world_reaches_every_claim() {
    let mut runner = TestRunner::deterministic();
    let strategy = policies(8);
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        let set = strategy.new_tree(&mut runner).expect("a set").current();
        seen.extend(lint(&set, true).into_iter().map(|finding| finding.lint));
    }
    for lint in [
        Lint::CoveredByDeny,
        Lint::DuplicateRule,
        Lint::ShadowedRule,
        Lint::UnreachableRule,
        Lint::ContradictingPolicies,
    ] {
        assert!(seen.contains(&lint), "{}", lint.id());
    }
}

fn is_of_no_effect(lint: Lint) -> bool {
    matches!(lint, Lint::CoveredByDeny | Lint::UnreachableRule)
}

/// Otherwise it changes nothing that is judged here.
fn selects_the_workload(sourced: &Sourced) -> bool {
    let spec = &sourced.policy().spec;
    let namespace = sourced.policy().metadata.namespace.as_str();
    namespace != "bank"
        && spec.selector.as_ref().is_none_or(|labels| labels.get("app").is_some_and(|app| app == "pay"))
}

fn is_redundancy(lint: Lint) -> bool {
    matches!(lint, Lint::DuplicateRule | Lint::ShadowedRule)
}

/// With the surroundings that the requests are judged in, or knowing nothing of them.
fn lint(set: &[Sourced], known: bool) -> Vec<Finding> {
    let trust_domain = TrustDomain::parse("shop.test").expect("a trust domain");
    let set = PolicySet::new(set.to_vec()).expect("names are unique");
    set.lint(&Surroundings {
        trust_domain: known.then_some(&trust_domain),
        root_namespace: known.then_some("sidegate"),
        services: None,
        now: 0,
    })
}

fn as_the_only_allow(set: &[Sourced], finding: &Finding) -> Sourced {
    let mut document = document(set.iter().find(|it| *it.name() == finding.policy).expect("its policy"));
    document["spec"]["action"] = json!("Allow");
    rules(&mut document).retain(|rule| is_of(rule, finding));
    parsed(&document)
}

fn without_rule(set: &[Sourced], finding: &Finding) -> Vec<Sourced> {
    let changed = |sourced: &Sourced| {
        if *sourced.name() != finding.policy {
            return Some(sourced.clone());
        }
        let mut document = document(sourced);
        let rules = rules(&mut document);
        rules.retain(|rule| !is_of(rule, finding));
        let is_empty = rules.is_empty();
        (!is_empty).then(|| parsed(&document))
    };
    set.iter().filter_map(changed).collect()
}

fn is_of(rule: &Value, finding: &Finding) -> bool {
    rule["name"].as_str() == finding.rule.as_deref()
}

fn document(sourced: &Sourced) -> Value {
    serde_json::from_str(&sourced.to_json()).expect("our own JSON")
}

fn rules(document: &mut Value) -> &mut Vec<Value> {
    document["spec"]["rules"].as_array_mut().expect("rules are a list")
}

fn parsed(document: &Value) -> Sourced {
    let document = parse_json(&document.to_string(), "changed").expect("names are written out");
    document.into_authorization().expect("it is about who may do what")
}
