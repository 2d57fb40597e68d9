use proptest::prelude::*;

use super::*;
use crate::{PolicySet, Workload, parse_yaml};

fn egress(spec: &str) -> Egress {
    let text = format!(
        "apiVersion: sidegate.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: out, namespace: shop}}\nspec:\n{spec}\n"
    );
    compiled(&text)
}

fn compiled(text: &str) -> Egress {
    let set = PolicySet::new(parse_yaml("egress.yaml", text, None).unwrap()).unwrap();
    set.compile_egress(&Workload {
        namespace: "shop",
        labels: &[("app".to_owned(), "payments".to_owned())].into(),
        trust_domain: "shop.test",
        root_namespace: Some("mesh"),
    })
}

fn payments() -> SpiffeId {
    SpiffeId::parse("spiffe://shop.test/ns/shop/sa/payments").unwrap()
}

fn asked<'a>(identity: &'a SpiffeId, name: Option<Named<'a>>, port: u16) -> Outside<'a> {
    Outside { identity: Some(identity), name, port, now: 1_780_000_000 }
}

fn lets_out(egress: &Egress, name: Option<Named<'_>>, port: u16, ip: &str) -> bool {
    let identity = payments();
    let decision = egress.judge_address(&asked(&identity, name, port), ip.parse().unwrap(), false);
    assert_eq!(decision.code, (decision.verdict == Verdict::Deny).then_some(Code::EgressDenied));
    decision.verdict == Verdict::Allow
}

const HOST: Option<Named<'static>> = Some(Named::Host("api.cards.test"));
const SNI: Option<Named<'static>> = Some(Named::ServerName("api.cards.test"));

#[test]
fn without_a_policy_nothing_leaves() {
    let none = Egress::default();
    assert!(!none.selects());
    for name in [None, HOST, SNI] {
        assert!(!lets_out(&none, name, 443, "8.8.8.8"));
        assert!(!none.reads_names(443, 0));
    }
}

#[test]
fn a_name_is_let_out_as_it_is_asked_for_and_to_public_addresses_alone() {
    let out = egress("  rules: [{name: cards, to: [{hosts: [api.cards.test], ports: [443]}]}]");
    assert!(lets_out(&out, HOST, 443, "8.8.8.8"));
    assert!(!lets_out(&out, HOST, 80, "8.8.8.8"), "another port");
    assert!(!lets_out(&out, SNI, 443, "8.8.8.8"), "another word");
    assert!(!lets_out(&out, None, 443, "8.8.8.8"), "an address alone");
    assert!(!lets_out(&out, Some(Named::Host("api.cards.test.evil")), 443, "8.8.8.8"));
    for trap in ["127.0.0.1", "169.254.169.254", "10.0.0.7", "::1", "fd00::1", "::ffff:169.254.169.254"] {
        assert!(!lets_out(&out, HOST, 443, trap), "{trap}");
    }
    let identity = payments();
    let in_mesh = out.judge_address(&asked(&identity, HOST, 443), [8, 8, 8, 8].into(), true);
    assert_eq!(in_mesh.verdict, Verdict::Deny);
}

#[test]
fn a_block_beside_a_name_says_which_of_its_addresses_are_meant() {
    let out = egress(
        "  rules: [{name: cards, to: [{sni: [api.cards.test], ipBlocks: [10.0.0.0/24, 0.0.0.0/0], ports: [443]}]}]",
    );
    assert!(lets_out(&out, SNI, 443, "10.0.0.7"));
    assert!(lets_out(&out, SNI, 443, "8.8.8.8"));
    assert!(!lets_out(&out, SNI, 443, "10.0.1.7"), "0.0.0.0/0 means no private address");
    assert!(!lets_out(&out, None, 443, "10.0.0.7"), "the name is not optional");
    assert!(!lets_out(&out, HOST, 443, "10.0.0.7"));
}

#[test]
fn only_the_workloads_that_a_rule_is_for_are_let_out() {
    let out = egress(
        "  rules: [{name: a, from: [{serviceAccounts: [shop/payments]}], to: [{ipBlocks: [10.0.0.9], ports: [25]}]}]",
    );
    assert!(lets_out(&out, None, 25, "10.0.0.9"));
    for other in ["spiffe://shop.test/ns/shop/sa/orders", "spiffe://evil.test/ns/shop/sa/payments"] {
        let other = SpiffeId::parse(other).unwrap();
        let denied = out.judge_address(&asked(&other, None, 25), [10, 0, 0, 9].into(), false);
        assert_eq!(denied.verdict, Verdict::Deny);
    }
    let nobody = Outside { identity: None, name: None, port: 25, now: 1_780_000_000 };
    assert_eq!(out.judge_address(&nobody, [10, 0, 0, 9].into(), false).verdict, Verdict::Deny);
}

#[test]
fn a_rule_that_is_over_is_as_if_it_were_not_there() {
    let out =
        egress("  rules: [{name: a, to: [{hosts: [api.cards.test], ports: [443]}], expires: 2026-05-28}]");
    let identity = payments();
    let at = |now| Outside { now, ..asked(&identity, HOST, 443) };
    // 2026-05-28T00:00:00Z
    let end = 1_779_926_400;
    assert_eq!(out.judge_name(&at(end - 1)).verdict, Verdict::Allow);
    assert_eq!(out.judge_address(&at(end - 1), [8, 8, 8, 8].into(), false).verdict, Verdict::Allow);
    assert_eq!(out.judge_name(&at(end)).verdict, Verdict::Deny);
    assert_eq!(out.judge_address(&at(end), [8, 8, 8, 8].into(), false).verdict, Verdict::Deny);
    assert!(out.reads_names(443, end - 1) && !out.reads_names(443, end));
    assert_eq!(
        out.nearest(&at(end), None, false).as_deref(),
        Some("rule a of shop/out: it ended on 2026-05-28")
    );
}

#[test]
fn a_shadow_policy_is_judged_and_lets_nothing_out() {
    let out = egress("  mode: Shadow\n  rules: [{name: a, to: [{hosts: [api.cards.test], ports: [443]}]}]");
    let identity = payments();
    let decision = out.judge_address(&asked(&identity, HOST, 443), [8, 8, 8, 8].into(), false);
    assert_eq!((decision.verdict, decision.shadow), (Verdict::Deny, Some(Verdict::Allow)));
    assert_eq!(decision.shadow_rule.map(|rule| &**rule), Some("a"));
    assert!(!out.selects() && !out.reads_names(443, 0));
}

#[test]
fn a_policy_of_another_namespace_or_for_other_labels_is_for_others() {
    let policy = |namespace: &str, selector: &str| {
        compiled(&format!(
            "apiVersion: sidegate.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: out, namespace: {namespace}}}\n\
             spec: {{selector: {{app: {selector}}}, rules: [{{to: [{{ipBlocks: [0.0.0.0/0], ports: [443]}}]}}]}}\n"
        ))
    };
    assert!(lets_out(&policy("shop", "payments"), None, 443, "8.8.8.8"));
    assert!(lets_out(&policy("mesh", "payments"), None, 443, "8.8.8.8"));
    assert!(!lets_out(&policy("shop", "orders"), None, 443, "8.8.8.8"));
    assert!(!lets_out(&policy("bank", "payments"), None, 443, "8.8.8.8"));
}

#[test]
fn the_nearest_rule_says_what_kept_it_from_matching() {
    let out = egress("  rules: [{name: cards, to: [{hosts: [\"*.cards.test\"], ports: [443]}]}]");
    let identity = payments();
    let nearest = |name, port, ip: Option<&str>| {
        out.nearest(&asked(&identity, name, port), ip.map(|ip| ip.parse().unwrap()), false).unwrap()
    };
    assert_eq!(nearest(HOST, 80, None), "rule cards of shop/out: it is not for port 80");
    assert_eq!(
        nearest(Some(Named::Host("evil.test")), 443, None),
        "rule cards of shop/out: host evil.test is not in hosts [*.cards.test]"
    );
    assert_eq!(
        nearest(HOST, 443, Some("169.254.169.254")),
        "rule cards of shop/out: 169.254.169.254 is not of the public Internet, or of the mesh, and stands in no ipBlocks"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Admitting one never admits another: what a set of rules lets out, one rule of it lets out by itself.
    #[test]
    fn a_rule_for_one_destination_never_lets_out_to_another(
        rules in prop::collection::vec((0_usize..4, 0_usize..4, 0_usize..3, any::<bool>()), 1..6),
        name in 0_usize..9, port in 0_usize..3, ip in 0_usize..5,
    ) {
        const NAMES: [&str; 4] = ["a.test", "b.test", "*.c.test", "d.test"];
        const BLOCKS: [&str; 4] = ["", "10.0.0.0/8", "0.0.0.0/0", "9.9.9.9"];
        const PORTS: [u16; 3] = [80, 443, 25];
        const ASKED: [&str; 4] = ["a.test", "b.test", "x.c.test", "c.test"];
        const IPS: [&str; 5] = ["8.8.8.8", "10.0.0.7", "127.0.0.1", "9.9.9.9", "169.254.169.254"];
        let written = |(position, &(name, block, port, by_sni)): (usize, &(usize, usize, usize, bool))| {
            let word = if by_sni { "sni" } else { "hosts" };
            let names = if name == 3 && block > 0 { String::new() } else { format!("{word}: ['{}'], ", NAMES[name]) };
            let blocks = if block == 0 { String::new() } else { format!("ipBlocks: ['{}'], ", BLOCKS[block]) };
            format!("  - {{name: r{position}, to: [{{{names}{blocks}ports: [{}]}}]}}\n", PORTS[port])
        };
        let name = match name {
            0..4 => Some(Named::Host(ASKED[name])),
            4..8 => Some(Named::ServerName(ASKED[name - 4])),
            _ => None,
        };
        let written: Vec<String> = rules.iter().enumerate().map(written).collect();
        let all = egress(&format!("  rules:\n{}", written.concat()));
        let lets = |egress: &Egress| lets_out(egress, name, PORTS[port], IPS[ip]);
        let alone = written.iter().any(|rule| lets(&egress(&format!("  rules:\n{rule}"))));
        prop_assert_eq!(lets(&all), alone);
        // And each by itself only where it says so.
        if lets(&all) {
            let means = |&(rule_name, block, rule_port, by_sni): &(usize, usize, usize, bool)| {
                let named = !(rule_name == 3 && block > 0);
                let name_is = match name {
                    None => !named,
                    Some(Named::Host(asked)) => named && !by_sni && NAMES[rule_name].trim_start_matches("*.") == asked.trim_start_matches("x."),
                    Some(Named::ServerName(asked)) => named && by_sni && NAMES[rule_name].trim_start_matches("*.") == asked.trim_start_matches("x."),
                };
                let address_is = match BLOCKS[block] {
                    "10.0.0.0/8" => IPS[ip] == "10.0.0.7",
                    "9.9.9.9" => IPS[ip] == "9.9.9.9",
                    _ => matches!(IPS[ip], "8.8.8.8" | "9.9.9.9"),
                };
                name_is && address_is && PORTS[rule_port] == PORTS[port]
            };
            prop_assert!(rules.iter().any(means));
        }
    }
}
