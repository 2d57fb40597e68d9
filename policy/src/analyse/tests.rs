use super::*;
use crate::parse_yaml;

/// A policy in flow form, so that each rule is one line.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n---\n"
    )
}

fn lint_with(text: &str, services: Option<&[Service<'_>]>) -> Vec<Finding> {
    let trust_domain = TrustDomain::parse("shop.test").unwrap();
    let set = PolicySet::new(parse_yaml("a.yaml", text, Some("shop")).unwrap()).unwrap();
    set.lint(&Surroundings {
        trust_domain: Some(&trust_domain),
        root_namespace: Some("root"),
        services,
        now: 1_801_353_600, // 2027-01-31
    })
}

/// `id policy/rule`, one per finding.
fn lint(policies: &[(&str, &str)]) -> Vec<String> {
    let text: String = policies.iter().map(|(name, spec)| policy(name, spec)).collect();
    let shown = |it: Finding| format!("{} {}/{}", it.lint.id(), it.policy, it.rule.as_deref().unwrap_or("-"));
    lint_with(&text, None).into_iter().map(shown).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn what_a_deny_refuses_whole_is_found_and_what_it_refuses_in_part_is_not() {
    let allow = "{action: Allow, rules: [{name: r, from: [{serviceAccounts: [shop/web]}], to: [{methods: [GET], paths: [\"/admin/{id}\"]}]}]}";
    for deny in [
        "{action: Deny, rules: [{name: d, to: [{paths: [/admin/**]}]}]}",
        "{action: Deny, rules: [{name: d, from: [{namespaces: [shop]}]}]}",
        "{action: Deny, rules: [{name: d, from: [{trustDomains: [shop.test]}], to: [{methods: [GET, POST]}]}]}",
        "{action: Deny, rules: [{name: d, expires: 2020-01-01, from: [{principals: [\"spiffe://shop.test/ns/shop/sa/web\"]}]}]}",
    ] {
        let found = lint(&[("a", allow), ("d", deny)]);
        assert!(found.contains(&"covered-by-deny shop/a/r".to_owned()), "{deny}: {found:?}");
    }
    for deny in [
        "{action: Deny, mode: Shadow, rules: [{name: d, to: [{paths: [/admin/**]}]}]}",
        "{action: Deny, rules: [{name: d, to: [{paths: [/admin/7]}]}]}",
        "{action: Deny, rules: [{name: d, to: [{paths: [/admin/**], ports: [80]}]}]}",
        "{action: Deny, rules: [{name: d, from: [{serviceAccounts: [shop/web], ipBlocks: [10.0.0.0/8]}]}]}",
        "{action: Deny, rules: [{name: d, from: [{serviceAccounts: [shop/web], trustDomains: [evil.test]}]}]}",
        "{selector: {app: pay}, action: Deny, rules: [{name: d, to: [{paths: [/admin/**]}]}]}",
    ] {
        assert_eq!(lint(&[("a", allow), ("d", deny)]), NOTHING, "{deny}");
    }
}

#[test]
fn of_two_rules_that_say_the_same_the_later_is_the_duplicate() {
    let rules = "{action: Allow, rules: [{name: one, from: [{serviceAccounts: [shop/web]}]}, \
                 {name: two, from: [{principals: [\"spiffe://shop.test/ns/shop/sa/web\"]}]}]}";
    assert_eq!(lint(&[("a", rules)]), ["duplicate-rule shop/a/two"]);
}

#[test]
fn a_narrower_rule_is_shadowed_whichever_comes_first_unless_it_lasts_longer() {
    let rules = |narrow: &str, wide: &str| {
        format!(
            "{{action: Allow, rules: [{{name: narrow, from: [{{serviceAccounts: [shop/web]}}]{narrow}}}, \
             {{name: wide, from: [{{namespaces: [shop]}}]{wide}}}]}}"
        )
    };
    assert_eq!(lint(&[("a", &rules("", ""))]), ["shadowed-rule shop/a/narrow"]);
    assert_eq!(
        lint(&[("a", &rules(", expires: 2030-01-01", ", expires: 2030-01-01"))]),
        ["shadowed-rule shop/a/narrow"]
    );
    assert_eq!(lint(&[("a", &rules("", ", expires: 2030-01-01"))]), NOTHING);
}

#[test]
fn each_require_policy_must_be_met_by_itself_so_none_shadows_another() {
    let wide = "{action: Require, rules: [{name: r, from: [{trustDomains: [shop.test]}]}]}";
    let narrow = "{action: Require, rules: [{name: r, from: [{namespaces: [shop]}]}]}";
    assert_eq!(lint(&[("a", wide), ("b", narrow)]), NOTHING);
}

#[test]
fn a_rule_that_is_over_is_found_from_its_day_on() {
    let rule = |day: &str| {
        format!("{{action: Allow, rules: [{{name: r, from: [{{namespaces: [shop]}}], expires: {day}}}]}}")
    };
    assert_eq!(lint(&[("a", &rule("2027-01-31"))]), ["expired-rule shop/a/r"]);
    assert_eq!(lint(&[("a", &rule("2027-02-01"))]), NOTHING);
}

#[test]
fn anybody_may_read_some_paths_and_no_more() {
    for to in ["{ports: [80]}", "{methods: [GET], paths: [/**]}", "{paths: [/cart]}", "{methods: [GET]}"] {
        let rule = format!("{{action: Allow, rules: [{{name: r, to: [{to}]}}]}}");
        assert_eq!(lint(&[("a", &rule)]), ["any-caller shop/a/r"], "{to}");
        let named = rule.replace("name: r,", "name: r, from: [{namespaces: [shop]}],");
        assert_eq!(lint(&[("a", &named)]), NOTHING, "{to}");
        assert_eq!(lint(&[("a", &rule.replace("Allow", "Require"))]), NOTHING, "{to}");
    }
    let health = "{action: Allow, rules: [{name: r, to: [{methods: [GET, HEAD], paths: [/healthz]}]}]}";
    assert_eq!(lint(&[("a", health)]), NOTHING);
}

#[test]
fn a_denied_path_is_no_prefix_of_what_is_allowed_below_and_beside_it() {
    let deny = |path: &str| format!("{{action: Deny, rules: [{{name: d, to: [{{paths: [{path}]}}]}}]}}");
    let allow = |path: &str| {
        format!(
            "{{action: Allow, rules: [{{name: r, from: [{{namespaces: [shop]}}], to: [{{paths: [\"{path}\"]}}]}}]}}"
        )
    };
    for path in ["/**", "/admin/", "/admin/**", "/administrator"] {
        let found = lint(&[("a", &allow(path)), ("d", &deny("/admin"))]);
        assert_eq!(found, ["prefix-without-boundary shop/d/d"], "{path}");
        let over = allow(path).replace("name: r,", "name: r, expires: 2020-01-01,");
        assert_eq!(lint(&[("a", &over), ("d", &deny("/admin"))]), ["expired-rule shop/a/r"], "{path}");
    }
    assert_eq!(lint(&[("a", &allow("/**")), ("d", &deny("/admin/**"))]), NOTHING);
    assert_eq!(lint(&[("a", &allow("/cart")), ("d", &deny("/admin"))]), NOTHING);
    let both = deny("/admin, /admin/, \"/admin/{id}\", /administrator");
    assert_eq!(lint(&[("a", &allow("/**")), ("d", &both)]), ["prefix-without-boundary shop/d/d"]);
}

#[test]
fn a_rule_for_a_whole_trust_domain_may_read_some_paths_and_no_more() {
    let rule =
        |from: &str, rest: &str| format!("{{action: Allow, rules: [{{name: r, from: [{from}]{rest}}}]}}");
    for from in [
        "{trustDomains: [shop.test]}",
        "{ipBlocks: [0.0.0.0/0]}",
        "{trustDomains: [a.test], ipBlocks: [\"::/0\"]}",
    ] {
        for rest in [
            "",
            ", to: [{ports: [80]}]",
            ", to: [{paths: [/cart]}]",
            ", to: [{methods: [GET], paths: [/**]}]",
        ] {
            assert_eq!(lint(&[("a", &rule(from, rest))]), ["whole-domain shop/a/r"], "{from}{rest}");
        }
        assert_eq!(
            lint(&[("a", &rule(from, ", to: [{methods: [GET], paths: [/cart]}]"))]),
            NOTHING,
            "{from}"
        );
        assert_eq!(lint(&[("a", &rule(from, "").replace("Allow", "Require"))]), NOTHING, "{from}");
    }
    for from in [
        "{trustDomains: [shop.test], namespaces: [shop]}",
        "{trustDomains: [shop.test], ipBlocks: [10.0.0.0/8]}",
    ] {
        assert_eq!(lint(&[("a", &rule(from, ""))]), NOTHING, "{from}");
    }
}

#[test]
fn an_allow_rule_that_no_guardrail_lets_through_is_unreachable() {
    let allow = |to: &str| {
        format!(
            "{{action: Allow, rules: [{{name: r, from: [{{serviceAccounts: [shop/web]}}], to: [{to}]}}]}}"
        )
    };
    let require = |rule: &str| format!("{{action: Require, rules: [{{name: q, {rule}}}]}}");
    for (to, rule) in [
        ("{methods: [POST]}", "to: [{methods: [GET, HEAD]}]"),
        ("{ports: [80]}", "to: [{ports: [443]}]"),
        ("{paths: [\"/a/{id}\"]}", "to: [{paths: [\"/b/**\", /a]}]"),
        ("{hosts: [a.test]}", "to: [{hosts: [\"*.a.test\"]}]"),
        ("{sni: [a.test]}", "to: [{sni: [b.test]}]"),
        ("{sni: [a.test]}", "to: [{methods: [GET]}]"),
        ("{ports: [80]}", "from: [{namespaces: [bank]}]"),
        ("{ports: [80]}", "from: [{trustDomains: [far.test]}]"),
        ("{ports: [80]}", "from: [{serviceAccounts: [shop/orders]}]"),
    ] {
        let found = lint(&[("a", &allow(to)), ("q", &require(rule))]);
        assert_eq!(found, ["unreachable-rule shop/a/r"], "{to} {rule}");
    }
    for (to, rule) in [
        ("{methods: [GET]}", "to: [{methods: [GET, HEAD]}]"),
        ("{methods: [GET]}", "to: [{ports: [80]}]"),
        ("{paths: [\"/a/{id}\"]}", "to: [{paths: [\"/{x}/b\"]}]"),
        ("{paths: [/a]}", "to: [{paths: [\"/a/**\"]}]"),
        ("{hosts: [\"*.a.test\"]}", "to: [{hosts: [\"*.b.a.test\"]}]"),
        ("{ports: [80]}", "from: [{trustDomains: [shop.test]}]"),
    ] {
        assert_eq!(lint(&[("a", &allow(to)), ("q", &require(rule))]), NOTHING, "{to} {rule}");
    }
    let apart = require("to: [{methods: [GET]}]");
    let post = allow("{methods: [POST]}");
    for unrelated in [
        apart.replace("action: Require", "selector: {app: pay}, action: Require"),
        apart.replace("action: Require", "action: Require, mode: Shadow"),
    ] {
        assert_eq!(lint(&[("a", &post), ("q", &unrelated)]), NOTHING, "{unrelated}");
    }
}

#[test]
fn guardrails_that_no_request_satisfies_together_contradict_each_other() {
    let require = |rule: &str| format!("{{action: Require, rules: [{{name: q, to: [{rule}]}}]}}");
    let (reads, writes) = (require("{methods: [GET]}"), require("{methods: [POST]}"));
    assert_eq!(lint(&[("a", &reads), ("b", &writes)]), ["contradicting-policies shop/b/-"]);
    assert_eq!(lint(&[("a", &reads), ("b", &require("{methods: [POST, GET]}"))]), NOTHING);
    let (one, other) = (
        reads.replace("action:", "selector: {app: one}, action:"),
        writes.replace("action:", "selector: {app: other}, action:"),
    );
    assert_eq!(lint(&[("a", &one), ("b", &other)]), NOTHING);
}

/// What an index of the rules must not leave out.
#[test]
fn a_covering_rule_is_found_whatever_it_is_covered_by() {
    let narrow = "{name: narrow, from: [{serviceAccounts: [shop/web]}], to: [{methods: [GET], ports: [80], paths: [\"/a/b/{id}\"]}]}";
    for wide in [
        "from: [{serviceAccounts: [shop/web, shop/orders]}]",
        "from: [{namespaces: [shop]}]",
        "from: [{namespaces: [bank]}, {serviceAccounts: [shop/web]}]",
        "to: [{ports: [79, 80]}]",
        "to: [{paths: [\"/a/**\"]}]",
        "to: [{paths: [\"/**\"]}]",
        "to: [{paths: [\"/{x}/b/{id}\"]}]",
        "to: [{methods: [POST]}, {ports: [80], paths: [/x, \"/a/b/**\"]}]",
    ] {
        for rules in
            [format!("{narrow}, {{name: wide, {wide}}}"), format!("{{name: wide, {wide}}}, {narrow}")]
        {
            let found = lint(&[("a", &format!("{{action: Allow, rules: [{rules}]}}"))]);
            assert!(found.contains(&"shadowed-rule shop/a/narrow".to_owned()), "{wide}: {found:?}");
        }
    }
}

#[test]
fn rules_that_cannot_be_told_apart_quickly_are_compared_up_to_a_bound_and_the_rest_is_told() {
    let rules = |from: &dyn Fn(usize) -> String| {
        let rules = (0..7_000).map(|index| format!("  - from: [{{{}}}]\n", from(index)));
        let spec = format!("action: Allow\n  rules:\n{}", rules.collect::<String>());
        lint_with(&policy("a", &spec), None).into_iter().map(|it| it.lint.id()).collect::<Vec<_>>()
    };
    assert_eq!(rules(&|index| format!("namespaces: [n{index}]")), ["not-compared"]);
    assert_eq!(rules(&|index| format!("serviceAccounts: [shop/a{index}]")), NOTHING);
}

#[test]
fn policies_are_compared_with_the_services_that_are_there() {
    let identity = SpiffeId::parse("spiffe://shop.test/ns/shop/sa/web").unwrap();
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let services = [Service { identity: &identity, namespace: "shop", labels: &labels }];
    let text = policy(
        "a",
        "{selector: {app: wbe}, action: Allow, rules: [{name: r, from: [{namespaces: [shop]}]}]}",
    ) + &policy(
        "b",
        "{selector: {app: web}, action: Allow, rules: [{name: r, from: [{serviceAccounts: [shop/wbe, shop/web]}]}]}",
    ) + &policy(
        "c",
        "{action: Allow, rules: [{name: r, from: [{serviceAccounts: [any/one], trustDomains: [far.test]}]}]}",
    );
    let shown: Vec<String> = lint_with(&text, Some(&services))
        .into_iter()
        .map(|it| format!("{} {}: {}", it.lint.id(), it.source, it.why))
        .collect();
    assert_eq!(
        shown,
        [
            "selects-nothing a.yaml:1: no service in its reach has the labels {app: wbe}",
            "unknown-principal a.yaml:11: no service of the mesh is service account shop/wbe",
        ]
    );
    assert!(lint_with(&text, None).is_empty());
}

#[test]
fn identifiers_are_unique() {
    let ids: std::collections::BTreeSet<_> = Lint::ALL.iter().map(|lint| lint.id()).collect();
    assert_eq!(ids.len(), Lint::ALL.len());
}

/// `id policy`, one per finding about exceptions, each `(name, spec)`, beside other policies.
fn lint_exceptions(exceptions: &[(&str, &str)], policies: &[(&str, &str)]) -> Vec<String> {
    let exceptions = exceptions.iter().map(|(name, spec)| {
        format!(
            "apiVersion: sidegate.dev/v1alpha1\nkind: PlaintextException\nmetadata: {{name: {name}}}\n\
             spec: {{{spec}, reason: a test}}\n---\n"
        )
    });
    let policies = policies.iter().map(|(name, spec)| policy(name, spec));
    let text: String = exceptions.chain(policies).collect();
    let findings = lint_with(&text, None).into_iter().filter(|it| it.policy.starts_with("shop/x"));
    findings.map(|it| format!("{} {}", it.lint.id(), it.policy)).collect()
}

const PROBES: &str = "from: [{ipBlocks: [10.0.0.7]}], to: [{ports: [80], methods: [GET], paths: [/healthz]}]";

#[test]
fn an_exception_is_told_when_it_is_over_and_when_it_soon_will_be() {
    for (day, found) in [
        ("2027-01-31", &["expired-rule shop/x"][..]),
        ("2027-02-01", &["exception-ends-soon shop/x"]),
        ("2027-02-14", &["exception-ends-soon shop/x"]),
        ("2027-02-15", &[]),
    ] {
        let spec = format!("{PROBES}, expires: {day}");
        assert_eq!(lint_exceptions(&[("x", &spec)], &[]), found, "{day}");
    }
}

#[test]
fn an_exception_from_everywhere_or_for_everything_is_too_wide() {
    for (from, found) in [
        ("0.0.0.0/0", &["plaintext-anywhere shop/x"][..]),
        ("128.0.0.0/1", &["plaintext-anywhere shop/x"]),
        ("\"::/0\"", &["plaintext-anywhere shop/x"]),
        ("10.0.0.0/15", &["plaintext-wide shop/x"]),
        ("\"fd00::/8\"", &["plaintext-wide shop/x"]),
        ("10.0.0.0/16", &[]),
        ("\"fd00:1:2::/48\"", &[]),
    ] {
        let spec = format!(
            "from: [{{ipBlocks: [10.9.9.9, {from}]}}], to: [{{ports: [80], paths: [/a]}}], expires: 2027-03-31"
        );
        assert_eq!(lint_exceptions(&[("x", &spec)], &[]), found, "{from}");
    }
    let http =
        ("p", "{action: Allow, rules: [{from: [{namespaces: [shop]}], to: [{ports: [80], paths: [/a]}]}]}");
    for (to, found) in [
        ("{ports: [80], methods: [GET]}", true),
        ("{ports: [80], paths: [\"/**\"]}", true),
        ("{ports: [80]}", true),
        ("{ports: [81]}", false),
        ("{ports: [80], paths: [/a, \"/b/**\"]}", false),
    ] {
        let spec = format!("from: [{{ipBlocks: [10.0.0.7]}}], to: [{to}], expires: 2027-03-31");
        let wide = ["plaintext-wide shop/x"];
        assert_eq!(lint_exceptions(&[("x", &spec)], &[http]), if found { &wide[..] } else { &[] }, "{to}");
    }
}

#[test]
fn an_exception_that_another_policy_makes_useless_is_found() {
    let lasting = format!("{PROBES}, expires: 2027-03-31");
    let one = [("x", &*lasting)];
    for (spec, found) in [
        ("{action: Deny, rules: [{to: [{paths: [/healthz]}]}]}", "covered-by-deny shop/x"),
        ("{action: Deny, rules: [{from: [{ipBlocks: [10.0.0.0/8]}]}]}", "covered-by-deny shop/x"),
        ("{action: Require, rules: [{from: [{trustDomains: [shop.test]}]}]}", "unreachable-rule shop/x"),
    ] {
        assert_eq!(lint_exceptions(&one, &[("p", spec)]), [found], "{spec}");
    }
    for spec in [
        "{action: Deny, rules: [{from: [{trustDomains: [shop.test]}]}]}",
        "{action: Deny, mode: Shadow, rules: [{to: [{paths: [/healthz]}]}]}",
        "{action: Deny, rules: [{to: [{paths: [/a]}]}]}",
        "{action: Require, rules: [{from: [{trustDomains: [shop.test]}]}, {to: [{paths: [/healthz]}]}]}",
        "{action: Require, mode: Shadow, rules: [{from: [{trustDomains: [shop.test]}]}]}",
        "{action: Require, selector: {app: a}, rules: [{from: [{trustDomains: [shop.test]}]}]}",
    ] {
        assert_eq!(lint_exceptions(&one, &[("p", spec)]), NOTHING, "{spec}");
    }
    let wider = "from: [{ipBlocks: [10.0.0.0/24]}], to: [{ports: [80, 81], paths: [\"/healthz\", /metrics]}], expires: ";
    let (longer, shorter) = (format!("{wider}2027-04-30"), format!("{wider}2027-03-30"));
    assert_eq!(lint_exceptions(&[("x", &lasting), ("xx", &longer)], &[]), ["shadowed-rule shop/x"]);
    assert_eq!(lint_exceptions(&[("x", &lasting), ("xx", &shorter)], &[]), NOTHING);
    assert_eq!(lint_exceptions(&[("x", &lasting), ("xx", &lasting)], &[]), ["duplicate-rule shop/xx"]);
}
