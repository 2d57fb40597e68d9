//! Exceptions to mutual TLS: they let in what they name without TLS, and change nothing else.

use std::collections::BTreeSet;

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use sidegate_codes::Code;
use sidegate_policy::{Document, PlaintextException, Policies, Sourced, Verdict, parse_json, parse_yaml};

use crate::{
    compile, compile_documents,
    generate::{Asked, asked, exceptions, policies, policies_of},
    judged, naively_with, verdict,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_without_tls_is_judged_as_the_page_says(
        set in policies(4), exceptions in exceptions(), asked in asked().prop_map(Asked::without_identity),
    ) {
        let compiled = with(&set, &exceptions);
        let decision = compiled.judge(&asked.request());
        let written: Vec<PlaintextException> = exceptions.iter().map(exception).collect();
        prop_assert_eq!(judged(&decision), naively_with(&set, &written, &asked, false));
        if let Some(shadow) = decision.shadow {
            prop_assert_eq!(shadow, verdict(&naively_with(&set, &written, &asked, true)));
        }
        prop_assert_eq!(compiled.explain(&asked.request()).decision, decision);
    }

    #[test]
    fn an_exception_changes_nothing_about_whoever_has_an_identity(
        set in policies(4), exceptions in exceptions(), asked in asked(), port in 8079_u16..9092,
    ) {
        let (without, with) = (compile(&set), with(&set, &exceptions));
        if asked.has_identity() {
            prop_assert_eq!(with.explain(&asked.request()), without.explain(&asked.request()));
        }
        prop_assert_eq!(with.http_rule(port), without.http_rule(port));
        prop_assert_eq!(with.asks_sni(port), without.asks_sni(port));
    }

    #[test]
    fn without_an_exception_nothing_comes_in_without_tls(
        set in policies(6), asked in asked().prop_map(Asked::without_identity),
    ) {
        let policies = compile(&set);
        let request = asked.request();
        prop_assert_eq!(policies.judge(&request).code, Some(Code::NoVerifiedPeer));
        prop_assert!(!policies.takes_plaintext(request.port, request.source.ip, request.now));
    }

    #[test]
    fn what_is_let_in_without_tls_is_of_a_connection_that_is_listened_to(
        set in policies(2), exceptions in exceptions(), asked in asked().prop_map(Asked::without_identity),
    ) {
        let policies = with(&set, &exceptions);
        let request = asked.request();
        let is_taken = policies.takes_plaintext(request.port, request.source.ip, request.now);
        prop_assert!(is_taken || policies.judge(&request).code == Some(Code::NoVerifiedPeer));
    }

    #[test]
    fn another_deny_or_require_and_time_never_widen_an_exception(
        set in policies(3), more in policies_of(&["Deny", "Require"]), exceptions in exceptions(),
        asked in asked().prop_map(Asked::without_identity), days in 0_u64..40_000,
    ) {
        let before = with(&set, &exceptions).judge(&asked.request()).verdict;
        let narrowed = with(&[set, more].concat(), &exceptions);
        let after = narrowed.judge(&asked.request()).verdict;
        prop_assert!(before == Verdict::Allow || after == Verdict::Deny);
        let later = asked.after(days * 86_400);
        prop_assert!(after == Verdict::Allow || narrowed.judge(&later.request()).verdict == Verdict::Deny);
    }

    #[test]
    fn an_exception_prints_as_what_reads_back_the_same_as_json_and_as_yaml(exceptions in exceptions()) {
        for document in exceptions {
            let json = document.to_json();
            let again = parse_json(&json, "wire").expect("our own JSON");
            prop_assert_eq!(again.to_json(), json.clone());
            prop_assert_eq!(exception(&again), exception(&document));
            let yaml = parse_yaml("a.yaml", &json, None).expect("JSON is YAML");
            prop_assert_eq!(yaml.iter().map(exception).collect::<Vec<_>>(), [exception(&document)]);
        }
    }
}

/// Properties of a world in which everything is denied would prove little.
#[test]
fn the_small_world_reaches_every_verdict_on_what_comes_without_tls() {
    let mut runner = TestRunner::deterministic();
    let strategy = (policies(4), exceptions(), asked().prop_map(Asked::without_identity));
    let mut seen = BTreeSet::new();
    for _ in 0..2000 {
        let (set, exceptions, asked) = strategy.new_tree(&mut runner).expect("nothing is rejected").current();
        seen.insert(with(&set, &exceptions).judge(&asked.request()).code.map_or("Allow", Code::id));
    }
    assert_eq!(seen, BTreeSet::from(["Allow", "SG0203", "SG0204", "SG0205", "SG0206"]));
}

fn with(set: &[Sourced], exceptions: &[Document]) -> Policies {
    compile_documents(
        set.iter().cloned().map(Document::Authorization).chain(exceptions.iter().cloned()).collect(),
    )
}

fn exception(document: &Document) -> PlaintextException {
    match document {
        Document::Plaintext(sourced) => sourced.policy().clone(),
        Document::Authorization(_) | Document::Egress(_) => unreachable!("it is an exception"),
    }
}
