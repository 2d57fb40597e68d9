//! Every policy of `docs/policy.md` loads, and decides what the page says that it decides.
#![expect(clippy::panic, reason = "a failed test says so by panicking")]

use std::{collections::BTreeMap, fs, net::IpAddr};

use sidegate_identity::SpiffeId;
use sidegate_policy::{
    Claims, Decision, Egress, Http, Named, Outside, Policies, PolicySet, Request, Source, Workload,
    parse_yaml,
};

/// A fenced block: its language, and its text.
type Block = (String, String);

#[test]
fn every_example_of_the_page_loads_and_decides_as_written() {
    let (mut policies, mut egress) = (Policies::default(), Egress::default());
    let (mut examples, mut verdicts) = (0, 0);
    for (language, text) in blocks() {
        match language.as_str() {
            "yaml" => {
                (policies, egress) = compile(&text);
                examples += 1;
            }
            "verdicts" => {
                for line in text.lines() {
                    check(&policies, line);
                    verdicts += 1;
                }
            }
            "egress" => {
                for line in text.lines() {
                    check_leaving(&egress, line);
                    verdicts += 1;
                }
            }
            "plaintext" => {
                for line in text.lines() {
                    check_without_tls(&policies, line);
                    verdicts += 1;
                }
            }
            "text" => {}
            other => panic!("the page has a block that nothing tests: {other:?}"),
        }
    }
    assert!(examples >= 4 && verdicts >= 10, "{examples} examples, {verdicts} verdicts");
}

#[test]
fn the_error_that_the_page_shows_is_the_one_that_is_printed() {
    let shown = blocks()
        .into_iter()
        .find(|(language, text)| language == "text" && text.starts_with("policies/"))
        .map(|(_, text)| text);
    let text = "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: b}\n\
                spec:\n  selector: {app: payments}\n  acton: Allow\n";
    let error = parse_yaml("policies/payments.yaml", text, None).expect_err("acton is no field");
    assert_eq!(shown.as_deref().map(str::trim), Some(error.to_string().as_str()));
}

fn compile(text: &str) -> (Policies, Egress) {
    let policies = parse_yaml("docs/policy.md", text, None).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let set = PolicySet::new(policies).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
    let workload = Workload {
        namespace: "shop",
        labels: &BTreeMap::from([("app".to_owned(), "payments".to_owned())]),
        trust_domain: "shop.test",
        root_namespace: Some("sidegate"),
    };
    (set.compile(&workload), set.compile_egress(&workload))
}

/// `WORKLOAD host|sni|none NAME PORT at ADDRESS = Allow RULE`, or a code instead of `Allow`.
fn check_leaving(egress: &Egress, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [workload, word, name, port, "at", ip, "=", wanted, rule @ ..] = &words[..] else {
        panic!("not a verdict of egress: {line:?}");
    };
    let identity = SpiffeId::parse(workload).expect("the page names valid IDs");
    let name = match *word {
        "host" => Some(Named::Host(name)),
        "sni" => Some(Named::ServerName(name)),
        "none" => None,
        other => panic!("{other:?} is no way to ask for a name"),
    };
    let port = port.parse().expect("the page has valid ports");
    let outside = Outside { identity: Some(&identity), name, port, now: 1_780_000_000 };
    let ip = ip.parse().expect("the page has valid addresses");
    let Decision { code, rule: decided, .. } = egress.judge_address(&outside, ip, false);
    assert_eq!(code.map_or("Allow", |code| code.id()), *wanted, "{line}");
    assert_eq!(decided.map(|rule| &**rule), rule.first().copied(), "{line}");
}

/// `CALLER METHOD PATH [HEADER=VALUE…] [{CLAIMS}] = Allow RULE`, or a code instead of `Allow`.
fn check(policies: &Policies, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut sides = words.split(|word| *word == "=");
    let (Some([caller, method, path, headers @ ..]), Some([wanted, rule @ ..])) =
        (sides.next(), sides.next())
    else {
        panic!("not a verdict: {line:?}");
    };
    let is_claims = |text: &&&str| text.starts_with('{');
    let claims =
        headers.iter().find(is_claims).map(|json| Claims::parse(json).expect("the page has valid claims"));
    let headers = headers.iter().filter(|text| !is_claims(text));
    let header = |text: &&str| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers: Vec<_> = headers.map(|text| header(text).expect("a header is written name=value")).collect();
    let caller = SpiffeId::parse(caller).expect("the page names valid IDs");
    let http = Http { method, host: "payments.shop.test", path, headers: &headers, claims: claims.as_ref() };
    let source = Source { identity: Some(&caller), ip: IpAddr::from([10, 0, 0, 7]) };
    let Decision { code, rule: decided, .. } =
        policies.judge(&Request { source, port: 8080, http: Some(http), sni: None, now: 1_780_000_000 });
    assert_eq!(code.map_or("Allow", |code| code.id()), *wanted, "{line}");
    assert_eq!(decided.map(|rule| &**rule), rule.first().copied(), "{line}");
}

/// `ADDRESS METHOD PATH = Allow RULE`, or a code instead of `Allow`.
fn check_without_tls(policies: &Policies, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [ip, method, path, "=", wanted, rule @ ..] = &words[..] else {
        panic!("not a verdict on plaintext: {line:?}");
    };
    let source = Source { identity: None, ip: ip.parse().expect("the page has valid addresses") };
    let http = Http { method, host: "payments.shop.test", path, headers: &(), claims: None };
    let request = Request { source, port: 8080, http: Some(http), sni: None, now: 1_780_000_000 };
    let Decision { code, rule: decided, .. } = policies.judge(&request);
    assert_eq!(code.map_or("Allow", |code| code.id()), *wanted, "{line}");
    assert_eq!(decided.map(|rule| &**rule), rule.first().copied(), "{line}");
}

fn blocks() -> Vec<Block> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md");
    let page = fs::read_to_string(page).expect("the page is part of the repository");
    let fences: Vec<&str> = page.split("```").collect();
    let inside = fences.into_iter().skip(1).step_by(2);
    let block = |text: &str| text.split_once('\n').map(|(head, body)| (head.to_owned(), body.to_owned()));
    inside.map(|text| block(text).expect("a fence names its language")).collect()
}
