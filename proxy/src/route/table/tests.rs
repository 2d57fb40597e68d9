use http::{HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::config::{HeaderChanges, Rewrite, RouteAction, RouteTimeouts};

fn rule(name: &str, hostnames: &[&str], matches: Vec<RouteMatch>) -> Arc<RouteRule> {
    Arc::new(RouteRule {
        name: name.into(),
        hostnames: hostnames.iter().map(|host| host.parse().unwrap()).collect(),
        matches,
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        mirrors: Vec::new(),
        action: RouteAction::Forward { rewrite: Rewrite::default(), backends: Vec::new() },
        timeouts: RouteTimeouts::default(),
        retries: None,
        rate: None,
        faults: None,
    })
}

fn exact(path: &str) -> RouteMatch {
    RouteMatch {
        path: PathMatch::Exact(path.to_owned()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn prefix(path: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix(path.to_owned()), ..exact("/") }
}

fn with(mut one: RouteMatch, method: Option<Method>, headers: usize, query: usize) -> RouteMatch {
    one.method = method;
    one.headers = ["a", "b"].iter().take(headers).map(|name| field(name, "1")).collect();
    one.query = ["a", "b"].iter().take(query).map(|name| ((*name).to_owned(), "1".to_owned())).collect();
    one
}

fn field(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap())
}

/// The name of the rule that decides, and what it matched of the path.
fn found(rules: &[Arc<RouteRule>], asking: &Asking<'_>) -> Option<(String, usize)> {
    let table = RouteTable::compile(rules, |_| None).unwrap();
    table.find(asking).map(|matched| (matched.rule.name.to_string(), matched.prefix))
}

fn get<'a>(path: &'a str, headers: &'a HeaderMap) -> Asking<'a> {
    Asking { method: "GET", host: "payments", path, query: None, headers }
}

#[test]
fn a_service_without_rules_has_no_table() {
    assert!(RouteTable::compile(&[], |_| None).is_none());
}

#[test]
fn a_prefix_matches_whole_segments() {
    let (rules, none) = ([rule("abc", &[], vec![prefix("/abc")])], HeaderMap::new());
    for (path, is_match) in [
        ("/abc", true),
        ("/abc/", true),
        ("/abc/def", true),
        ("/abcd", false),
        ("/ab", false),
        ("/", false),
        ("/x/abc", false),
        ("/ABC", false),
        ("*", false),
    ] {
        let want = is_match.then(|| ("abc".to_owned(), 4));
        assert_eq!(found(&rules, &get(path, &none)), want, "{path}");
    }
    let rules = [rule("all", &[], vec![prefix("")])];
    for path in ["/", "/a/b", "*"] {
        assert_eq!(found(&rules, &get(path, &none)), Some(("all".to_owned(), 0)), "{path}");
    }
}

#[test]
fn the_more_specific_rule_decides_wherever_it_stands() {
    let post = Some(Method::POST);
    // The least specific first.
    let mut rules = vec![
        rule("any", &[], vec![prefix("")]),
        rule("any-query", &[], vec![with(prefix(""), None, 0, 1)]),
        rule("any-queries", &[], vec![with(prefix(""), None, 0, 2)]),
        rule("any-header", &[], vec![with(prefix(""), None, 1, 0)]),
        rule("any-headers", &[], vec![with(prefix(""), None, 2, 0)]),
        rule("any-post", &[], vec![with(prefix(""), post.clone(), 0, 0)]),
        rule("prefix", &[], vec![prefix("/a")]),
        rule("longer", &[], vec![prefix("/a/b")]),
        rule("exact", &[], vec![exact("/a/b")]),
        rule("below", &["*.test"], vec![prefix("")]),
        rule("below-longer", &["*.shop.test"], vec![prefix("")]),
        rule("host", &["a.shop.test"], vec![prefix("")]),
    ];
    let mut headers = HeaderMap::new();
    headers.extend([field("a", "1"), field("b", "1")]);
    let asking = Asking {
        method: "POST",
        host: "a.shop.test",
        path: "/a/b",
        query: Some("a=1&b=1"),
        headers: &headers,
    };
    for _ in 0..2 {
        let mut left = rules.clone();
        // Whoever decided is taken away: the next most specific decides then.
        let mut order = Vec::new();
        while !left.is_empty() {
            let (name, _) = found(&left, &asking).unwrap();
            left.retain(|rule| *rule.name != *name);
            order.push(name);
        }
        order.reverse();
        let names = ["any", "any-query", "any-queries", "any-header", "any-headers", "any-post", "prefix"];
        let names = names.into_iter().chain(["longer", "exact", "below", "below-longer", "host"]);
        assert_eq!(order, names.collect::<Vec<_>>());
        rules.reverse();
    }
}

#[test]
fn of_two_that_are_alike_the_first_decides() {
    let none = HeaderMap::new();
    let rules = [rule("first", &[], vec![prefix("/a")]), rule("second", &[], vec![prefix("/a")])];
    assert_eq!(found(&rules, &get("/a", &none)).unwrap().0, "first");
}

#[test]
fn a_field_matches_if_it_is_there_once_with_this_value() {
    let rules = [rule("tenant", &[], vec![with(prefix(""), None, 1, 0)])];
    for (values, is_match) in [(&["1"][..], true), (&["2"], false), (&["1", "1"], false), (&[], false)] {
        let headers: HeaderMap = values.iter().map(|value| field("a", value)).collect();
        let mut doubled = HeaderMap::new();
        for (name, value) in values.iter().map(|value| field("a", value)) {
            doubled.append(name, value);
        }
        assert_eq!(found(&rules, &get("/", &doubled)).is_some(), is_match, "{values:?} {headers:?}");
    }
}

#[test]
fn a_method_is_compared_exactly() {
    let (rules, none) =
        ([rule("post", &[], vec![with(prefix(""), Some(Method::POST), 0, 0)])], HeaderMap::new());
    assert!(found(&rules, &Asking { method: "POST", ..get("/", &none) }).is_some());
    assert!(found(&rules, &get("/", &none)).is_none());
}

#[test]
fn a_wildcard_takes_names_below_and_not_the_name_itself() {
    let (rules, none) = ([rule("below", &["*.shop"], vec![prefix("")])], HeaderMap::new());
    for (host, is_match) in [
        ("a.shop", true),
        ("a.b.shop", true),
        ("shop", false),
        (".shop", false),
        ("ashop", false),
        ("a.shop.x", false),
    ] {
        assert_eq!(found(&rules, &Asking { host, ..get("/", &none) }).is_some(), is_match, "{host}");
    }
}

/// In the order of Gateway API: two lengths of the host, the path, the method, how many headers, how many parameters.
type Rank = (usize, usize, bool, usize, bool, usize, usize);

/// What Gateway API says, word by word: all rules are looked at, and of all matches that hold the one with precedence is
/// taken.
fn naive(rules: &[Arc<RouteRule>], asking: &Asking<'_>) -> Option<(String, usize)> {
    let segments = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let mut best: Option<(Rank, (String, usize))> = None;
    for rule in rules {
        // "Characters in a matching non-wildcard hostname", then "characters in a matching hostname".
        let hosts = rule.hostnames.iter().filter_map(|host| {
            let text = host.to_string();
            match text.strip_prefix("*.") {
                None if text == asking.host => Some((text.len(), text.len())),
                Some(parent) if asking.host.ends_with(&format!(".{parent}")) => Some((0, text.len())),
                _ => None,
            }
        });
        let Some(host) = (if rule.hostnames.is_empty() { Some((0, 0)) } else { hosts.max() }) else {
            continue;
        };
        for one in &rule.matches {
            let (is_exact, length) = match &one.path {
                PathMatch::Exact(path) if path == asking.path => (true, path.len()),
                PathMatch::Prefix(path) if path.is_empty() => (false, 0),
                PathMatch::Prefix(path) if segments(asking.path).starts_with(&segments(path)) => {
                    (false, path.len())
                }
                _ => continue,
            };
            let has_method = match &one.method {
                Some(method) if method != asking.method => continue,
                method => method.is_some(),
            };
            let header = |name: &HeaderName| {
                asking.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>()
            };
            if one.headers.iter().any(|(name, value)| header(name) != [value.as_bytes()]) {
                continue;
            }
            let parameter = |name: &str| {
                let pairs = asking.query.unwrap_or_default().split('&');
                let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs.find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
            };
            if one.query.iter().any(|(name, value)| parameter(name).as_ref() != Some(value)) {
                continue;
            }
            let rank = (host.0, host.1, is_exact, length, has_method, one.headers.len(), one.query.len());
            if best.as_ref().is_none_or(|(other, _)| rank > *other) {
                best = Some((rank, (rule.name.to_string(), length)));
            }
        }
    }
    best.map(|(_, found)| found)
}

fn some_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop::sample::select(vec!["", "/a", "/a/b", "/a/b/c", "/b", "/ab"]);
    let method = prop::sample::select(vec![None, Some(Method::GET), Some(Method::POST)]);
    (any::<bool>(), path, method, 0..3_usize, 0..3_usize).prop_map(
        |(is_exact, path, method, headers, query)| {
            let one = match (is_exact, path) {
                (true, "") => exact("/"),
                (true, path) => exact(path),
                (false, path) => prefix(path),
            };
            with(one, method, headers, query)
        },
    )
}

fn some_rules() -> impl Strategy<Value = Vec<Arc<RouteRule>>> {
    let hosts = prop::sample::subsequence(vec!["payments", "*.shop", "a.shop", "*.a.shop"], 0..3);
    let one = (hosts, prop::collection::vec(some_match(), 1..4));
    prop::collection::vec(one, 1..8).prop_map(|rules| {
        let rules = rules.into_iter().enumerate();
        rules.map(|(index, (hosts, matches))| rule(&index.to_string(), &hosts, matches)).collect()
    })
}

proptest! {
    #[test]
    fn the_compiled_form_decides_as_gateway_api_says(
        rules in some_rules(),
        method in prop::sample::select(vec!["GET", "POST", "PUT"]),
        host in prop::sample::select(vec!["payments", "a.shop", "b.a.shop", "shop", "x"]),
        path in prop::sample::select(vec!["/", "*", "/a", "/a/", "/a/b", "/a/b/c/d", "/ab", "/b/a", "/c"]),
        query in prop::sample::select(vec![None, Some("a=1"), Some("b=1&a=1"), Some("a=2&a=1&b=1"), Some("")]),
        fields in prop::sample::subsequence(vec![("a", "1"), ("b", "1"), ("b", "2")], 0..=3),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let (name, value) = field(name, value);
            headers.append(name, value);
        }
        let asking = Asking { method, host, path, query, headers: &headers };
        prop_assert_eq!(found(&rules, &asking), naive(&rules, &asking));
    }

    /// Where Gateway API gives no order: as long as no two matches are alike, the place of a rule says nothing.
    #[test]
    fn the_order_of_rules_decides_nothing_unless_two_are_alike(
        rules in some_rules(),
        path in prop::sample::select(vec!["/", "/a", "/a/b", "/b/a"]),
    ) {
        let headers = HeaderMap::new();
        let asking = Asking { method: "GET", host: "a.shop", path, query: Some("a=1"), headers: &headers };
        let rank = |one: &RouteMatch| (one.path.clone(), one.method.is_some(), one.headers.len(), one.query.len());
        let mut seen = Vec::new();
        let mut rules = rules;
        rules.retain(|rule| {
            let is_new = rule.matches.iter().all(|one| !seen.contains(&rank(one)));
            seen.extend(rule.matches.iter().map(rank));
            is_new
        });
        let mut reversed = rules.clone();
        reversed.reverse();
        prop_assert_eq!(found(&rules, &asking), found(&reversed, &asking));
    }
}
