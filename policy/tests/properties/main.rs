//! What holds for every set of policies and every request.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use sidegate_codes::Code;
use sidegate_policy::{
    AuthorizationPolicy, Condition, Decision, Document, Mode, PlaintextException, Policies, PolicySet,
    Sourced, Verdict, Workload, parse_json, parse_yaml,
};

mod generate;
mod lints;
mod naive;
mod plaintext;

use generate::{asked, policies, policies_of, when};
use naive::{Judged, Place};

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_compiled_form_decides_as_the_page_says(set in policies(6), asked in asked()) {
        let compiled = compile(&set);
        let decision = compiled.judge(&asked.request());
        prop_assert_eq!(judged(&decision), naively(&set, &asked, false));
        let trial = naively(&set, &asked, true);
        prop_assert_eq!(decision.shadow, shadowed(&set).then(|| verdict(&trial)));
        let in_shadow = |name: &String| set.iter().any(|it| {
            **it.name() == **name && it.policy().spec.mode == Mode::Shadow
        });
        let policy = trial.policy.filter(in_shadow);
        prop_assert_eq!(decision.shadow_rule.map(ToString::to_string), policy.as_ref().and(trial.rule));
        prop_assert_eq!(decision.shadow_policy.map(ToString::to_string), policy);
    }

    #[test]
    fn the_order_of_policies_decides_nothing(
        (set, shuffled) in policies(6).prop_flat_map(|set| (Just(set.clone()), Just(set).prop_shuffle())),
        asked in asked(),
    ) {
        let (one, other) = (compile(&set), compile(&shuffled));
        prop_assert_eq!(one.judge(&asked.request()), other.judge(&asked.request()));
    }

    #[test]
    fn the_order_of_rules_decides_at_most_which_of_them_is_named(set in policies(6), asked in asked()) {
        let reversed: Vec<Sourced> = set.iter().map(with_rules_reversed).collect();
        let (one, other) = (compile(&set), compile(&reversed));
        let (one, other) = (one.judge(&asked.request()), other.judge(&asked.request()));
        prop_assert_eq!((one.verdict, one.code, one.policy, one.shadow), (other.verdict, other.code, other.policy, other.shadow));
    }

    #[test]
    fn another_deny_or_require_never_widens(
        set in policies(5), more in policies_of(&["Deny", "Require"]), asked in asked(),
    ) {
        let before = compile(&set).judge(&asked.request()).verdict;
        let after = compile(&[set, more].concat()).judge(&asked.request()).verdict;
        prop_assert!(before == Verdict::Allow || after == Verdict::Deny);
    }

    #[test]
    fn another_allow_never_narrows(set in policies(5), more in policies_of(&["Allow"]), asked in asked()) {
        let before = compile(&set).judge(&asked.request()).verdict;
        let after = compile(&[set, more].concat()).judge(&asked.request()).verdict;
        prop_assert!(before == Verdict::Deny || after == Verdict::Allow);
    }

    #[test]
    fn shadow_policies_change_nothing(set in policies(6), asked in asked()) {
        let enforced: Vec<Sourced> =
            set.iter().filter(|it| it.policy().spec.mode == Mode::Enforce).cloned().collect();
        let (with, without) = (compile(&set), compile(&enforced));
        let without = without.judge(&asked.request());
        prop_assert_eq!(without.shadow, None);
        let with = Decision { shadow: None, shadow_policy: None, shadow_rule: None, ..with.judge(&asked.request()) };
        prop_assert_eq!(with, without);
    }

    #[test]
    fn time_never_widens(set in policies(6), asked in asked(), days in 0_u64..4000) {
        let later = asked.clone().after(days * 86_400);
        let policies = compile(&set);
        let (before, after) = (policies.judge(&asked.request()).verdict, policies.judge(&later.request()).verdict);
        prop_assert!(before == Verdict::Allow || after == Verdict::Deny);
    }

    #[test]
    fn explain_decides_as_judge_and_names_a_miss_where_a_rule_could_have_permitted(
        set in policies(6), asked in asked(),
    ) {
        let policies = compile(&set);
        let explanation = policies.explain(&asked.request());
        prop_assert_eq!(explanation.decision, policies.judge(&asked.request()));
        match explanation.decision.code.map(Code::id) {
            Some("SG0204") => prop_assert!(explanation.nearest.is_some()),
            Some("SG0205") => prop_assert!(explanation.nearest.is_some()),
            Some("SG0202") => {}
            _ => prop_assert_eq!(&explanation.nearest, &None),
        }
        if let Some(nearest) = explanation.nearest {
            let missed = ["is not in", "is not of", "expired on", "opaque", "server name", "does not hold", "cannot be decided", "token", "claim"].iter().any(|word| nearest.contains(word));
            prop_assert!(missed, "{}", nearest);
        }
    }

    #[test]
    fn what_is_printed_reads_back_the_same_as_json_and_as_yaml(set in policies(3)) {
        for sourced in set {
            let json = sourced.to_json();
            let again = parse_json(&json, "wire").expect("our own JSON");
            prop_assert_eq!(again.to_json(), json.clone());
            let again = authorization(again);
            prop_assert_eq!(again.policy(), sourced.policy());
            let mut yaml = parse_yaml("a.yaml", &json, None).expect("JSON is YAML");
            let yaml = authorization(yaml.remove(0));
            prop_assert_eq!(yaml.policy(), sourced.policy());
            let serde: AuthorizationPolicy = serde_json::from_str(&json).expect("our own JSON");
            prop_assert_eq!(&serde, sourced.policy());
        }
    }

    #[test]
    fn a_condition_prints_as_it_was_written_and_reads_back_the_same(text in when()) {
        let condition: Condition = text.parse().expect("the world has valid conditions");
        prop_assert_eq!(condition.to_string(), text.trim());
        prop_assert_eq!(condition.to_string().parse::<Condition>(), Ok(condition));
    }

    #[test]
    fn no_text_makes_the_reader_of_conditions_panic(
        any in any::<String>(),
        words in prop::collection::vec(prop::sample::select(WORDS), 0..40),
    ) {
        let _ = any.parse::<Condition>();
        let _ = words.concat().parse::<Condition>();
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = parse_yaml("a.yaml", &text, None);
        let _ = parse_json(&text, "wire");
    }

    #[test]
    fn no_damage_to_a_policy_makes_the_reader_panic(
        set in policies(1), at in any::<prop::sample::Index>(), damage in "[\\[\\]{}:,*&!|>'\"#\\-\\n a-c0-9é]{0,4}",
    ) {
        for sourced in set {
            let mut text = sourced.to_json();
            let at = at.index(text.len());
            text.replace_range(at..=at, &damage);
            let _ = parse_yaml("a.yaml", &text, None);
            let _ = parse_json(&text, "wire");
        }
    }
}

/// What conditions are made of.
const WORDS: &[&str] = &[
    "(",
    ")",
    "!",
    "&&",
    "||",
    " in ",
    "[",
    "]",
    ".",
    ",",
    "==",
    "!=",
    "<",
    ">=",
    "\"a\"",
    "'",
    "8080",
    "é",
    " ",
    "request.method",
    "request.headers",
    "[\"x-a\"]",
    "destination.port",
    "source.namespace",
    ".startsWith(",
    "\\",
];

/// Properties of a world in which everything is denied would prove little.
#[test]
fn the_small_world_reaches_every_verdict_and_a_shadow_that_differs() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..3000 {
        let (set, asked) =
            (policies(6), asked()).new_tree(&mut runner).expect("nothing is rejected").current();
        let policies = compile(&set);
        let Decision { verdict, code, shadow, path_pattern, policy, rule, .. } =
            policies.judge(&asked.request());
        let (policy, decided) = (policy.map(|it| &**it), rule.map(|it| &**it));
        seen.insert(code.map_or("Allow", Code::id));
        if shadow.is_some_and(|shadow| shadow != verdict) {
            seen.insert("differs");
        }
        let by_token = |it: &Sourced| {
            it.policy()
                .spec
                .rules
                .iter()
                .any(|rule| rule.jwt.is_some() && Some(&*rule.name.to_string()) == decided)
        };
        if verdict == Verdict::Allow && set.iter().filter(|it| Some(&**it.name()) == policy).any(by_token) {
            seen.insert("token");
        }
        if code == Some(Code::Undecidable) && asked.request().http.is_some() {
            seen.insert("doubt of a condition");
        }
        if path_pattern.is_some_and(|pattern| pattern.starts_with("/shop.Pay/")) {
            seen.insert("gRPC");
        }
    }
    let wanted = [
        "Allow",
        "SG0201",
        "SG0202",
        "SG0203",
        "SG0204",
        "SG0205",
        "SG0206",
        "differs",
        "doubt of a condition",
        "gRPC",
        "token",
    ];
    assert_eq!(seen, BTreeSet::from(wanted));
}

fn compile(set: &[Sourced]) -> Policies {
    compile_documents(set.iter().cloned().map(Document::Authorization).collect())
}

fn compile_documents(documents: Vec<Document>) -> Policies {
    let labels = labels();
    let workload = Workload {
        namespace: "shop",
        labels: &labels,
        trust_domain: "shop.test",
        root_namespace: Some("sidegate"),
    };
    PolicySet::new(documents).expect("names are unique").compile(&workload)
}

fn naively(set: &[Sourced], asked: &generate::Asked, shadow_too: bool) -> Judged {
    naively_with(set, &[], asked, shadow_too)
}

fn naively_with(
    set: &[Sourced],
    exceptions: &[PlaintextException],
    asked: &generate::Asked,
    shadow_too: bool,
) -> Judged {
    let policies: Vec<AuthorizationPolicy> = set.iter().map(|it| it.policy().clone()).collect();
    let labels = labels();
    let place = Place {
        namespace: "shop",
        labels: &labels,
        trust_domain: "shop.test",
        root_namespace: Some("sidegate"),
    };
    naive::judge(&policies, exceptions, &place, &asked.request(), shadow_too)
}

/// Whether a shadow policy selects the workload.
fn shadowed(set: &[Sourced]) -> bool {
    let labels = labels();
    let workload = Workload {
        namespace: "shop",
        labels: &labels,
        trust_domain: "shop.test",
        root_namespace: Some("sidegate"),
    };
    let set = PolicySet::new(set.to_vec()).expect("names are unique");
    set.selecting(&workload).any(|it| it.policy().spec.mode == Mode::Shadow)
}

fn judged(decision: &Decision<'_>) -> Judged {
    Judged {
        code: decision.code.map_or("Allow", |code| code.id()),
        policy: decision.policy.map(ToString::to_string),
        rule: decision.rule.map(ToString::to_string),
        pattern: decision.path_pattern.map(ToString::to_string),
    }
}

fn verdict(judged: &Judged) -> Verdict {
    if judged.code == "Allow" { Verdict::Allow } else { Verdict::Deny }
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), "pay".to_owned())])
}

fn with_rules_reversed(sourced: &Sourced) -> Sourced {
    let mut document: serde_json::Value = serde_json::from_str(&sourced.to_json()).expect("our own JSON");
    if let Some(rules) = document["spec"]["rules"].as_array_mut() {
        rules.reverse();
    }
    authorization(parse_json(&document.to_string(), "reversed").expect("names are written out"))
}

fn authorization(document: Document) -> Sourced {
    document.into_authorization().expect("it is about who may do what")
}
