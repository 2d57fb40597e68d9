use std::path::Path;

use super::*;
use crate::config::{Config, ConfigError, Retries};

/// A configuration whose service `shop/payments` has `routes`.
fn parse(routes: &str) -> Result<Vec<Arc<RouteRule>>, ConfigError> {
    let text = format!(
        "
trustDomain: shop.test
workload: {{namespace: shop, serviceAccount: orders}}
identity:
  files: {{certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}
policies: policies/
outbound: [{{listen: '127.0.0.1:9001', service: payments}}]
services:
- name: payments
  identities: ['spiffe://shop.test/ns/shop/sa/payments']
  endpoints: ['10.0.0.7:15106']
  routes: {routes}
"
    );
    let config = Config::parse(Path::new("proxy.yaml"), &text)?;
    Ok(config.services.into_values().next().unwrap().routes)
}

/// The fields that are at fault, from `routes` on.
fn faults(routes: &str) -> Vec<String> {
    match parse(routes) {
        Err(ConfigError::Values { faults, .. }) => {
            let fields = faults.into_iter().map(|fault| fault.field);
            fields.map(|field| field.trim_start_matches("services[0].").to_owned()).collect()
        }
        other => panic!("expected faults, got {other:?}"),
    }
}

#[test]
fn a_rule_without_conditions_takes_every_request_to_the_service_itself() {
    let rules = parse("[{}]").unwrap();
    assert_eq!(&*rules[0].name, "rule-1");
    assert_eq!(rules[0].matches[0].path, PathMatch::Prefix(String::new()));
    assert_eq!(rules[0].action, RouteAction::Forward { rewrite: Rewrite::default(), backends: Vec::new() });
}

#[test]
fn a_backend_without_a_namespace_is_of_the_workloads_own() {
    let rules = parse("[{backendRefs: [{service: next}, {service: lab/next, weight: 0}]}]").unwrap();
    let names: Vec<&str> = rules[0].backends().map(ServiceName::as_str).collect();
    assert_eq!(names, ["shop/next", "lab/next"]);
}

#[test]
fn a_trailing_slash_of_a_prefix_means_nothing() {
    let rules = parse(
        "[{matches: [{path: {value: /a/}}], filters: [{type: URLRewrite, urlRewrite: \
         {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b/}}}]}]",
    )
    .unwrap();
    assert_eq!(rules[0].matches[0].path, PathMatch::Prefix("/a".to_owned()));
    let RouteAction::Forward { rewrite, .. } = &rules[0].action else { panic!("{:?}", rules[0]) };
    assert_eq!(rewrite.path, Some(PathChange::Prefix("/b".to_owned())));
}

#[test]
fn what_could_be_read_in_two_ways_or_never_match_is_refused_with_its_field() {
    for (routes, field) in [
        ("[{hostnames: []}]", "routes[0].hostnames"),
        ("[{matches: []}]", "routes[0].matches"),
        ("[{backendRefs: []}]", "routes[0].backendRefs"),
        ("[{hostnames: ['*']}]", "routes[0].hostnames[0]"),
        ("[{hostnames: ['a.*.b']}]", "routes[0].hostnames[0]"),
        ("[{hostnames: ['a:80']}]", "routes[0].hostnames[0]"),
        ("[{matches: [{path: {type: RegularExpression, value: '/.*'}}]}]", "routes[0].matches[0].path.type"),
        (
            "[{matches: [{headers: [{type: RegularExpression, name: a, value: '.*'}]}]}]",
            "routes[0].matches[0].headers[0].type",
        ),
        ("[{matches: [{path: {type: Exact, value: a}}]}]", "routes[0].matches[0].path.value"),
        ("[{matches: [{path: {value: /a/../b}}]}]", "routes[0].matches[0].path.value"),
        ("[{matches: [{path: {value: '/%61'}}]}]", "routes[0].matches[0].path.value"),
        ("[{matches: [{method: 'GET POST'}]}]", "routes[0].matches[0].method"),
        (
            "[{matches: [{headers: [{name: a, value: b}, {name: A, value: c}]}]}]",
            "routes[0].matches[0].headers",
        ),
        ("[{name: 'a b'}]", "routes[0].name"),
        ("[{name: a}, {name: a}]", "routes[1].name"),
        ("[{backendRefs: [{service: a, weight: 1000001}]}]", "routes[0].backendRefs[0].weight"),
        ("[{timeouts: {request: 0s}}]", "routes[0].timeouts.request"),
        ("[{retries: {attempts: 0}}]", "routes[0].retries.attempts"),
        ("[{retries: {attempts: 11}}]", "routes[0].retries.attempts"),
        ("[{retries: {statuses: [500]}}]", "routes[0].retries.statuses[0]"),
        ("[{retries: {anyMethod: true}}]", "routes[0].retries.anyMethod"),
        ("[{retries: {statuses: [], anyMethod: true}}]", "routes[0].retries.anyMethod"),
        ("[{retries: {backoff: 0s}}]", "routes[0].retries.backoff"),
        ("[{retries: {bodyBytes: 99999999}}]", "routes[0].retries.bodyBytes"),
        (
            "[{retries: {attempts: 1}, filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]",
            "routes[0].retries",
        ),
        ("[{rateLimit: {requests: 0}}]", "routes[0].rateLimit.requests"),
        ("[{timeouts: {request: 1s, backendRequest: 2s}}]", "routes[0].timeouts.backendRequest"),
    ] {
        assert_eq!(faults(routes), [field], "{routes}");
    }
}

#[test]
fn a_rule_has_its_own_word_on_tries_and_the_service_has_the_rest() {
    let service = Retries { statuses: vec![StatusCode::BAD_GATEWAY], any_method: true, ..Retries::default() };
    let over = |retries: &str| {
        let rules = parse(&format!("[{{retries: {retries}}}]")).unwrap();
        rules[0].retries.as_ref().unwrap().over(&service)
    };
    assert_eq!(over("{}"), service);
    assert_eq!(
        over("{attempts: 1, bodyBytes: 0}"),
        Retries { attempts: 1, body_bytes: 0, ..service.clone() }
    );
    // A promise about other answers is none about these.
    let own = over("{statuses: [503]}");
    assert_eq!((own.statuses, own.any_method), (vec![StatusCode::SERVICE_UNAVAILABLE], false));
    assert!(over("{statuses: []}").statuses.is_empty());
}

#[test]
fn filters_that_undo_each_other_are_refused() {
    const REDIRECT: &str = "{type: RequestRedirect, requestRedirect: {scheme: https}}";
    const REWRITE: &str = "{type: URLRewrite, urlRewrite: {hostname: a}}";
    const PREFIX: &str =
        "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}";
    const SET: &str = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}";
    assert!(parse(&format!("[{{filters: [{SET}, {REWRITE}]}}]")).is_ok());
    for (rule, field) in [
        (format!("filters: [{REDIRECT}, {REWRITE}]"), "routes[0].filters"),
        (format!("filters: [{REWRITE}, {REWRITE}]"), "routes[0].filters"),
        (format!("filters: [{SET}, {SET}]"), "routes[0].filters"),
        (format!("filters: [{REDIRECT}], backendRefs: [{{service: a}}]"), "routes[0].backendRefs"),
        (
            format!("filters: [{PREFIX}], matches: [{{path: {{type: Exact, value: /a}}}}]"),
            "routes[0].filters",
        ),
        (
            "backendRefs: [{service: a, filters: [{type: RequestHeaderModifier}]}]".to_owned(),
            "routes[0].backendRefs[0].filters[0]",
        ),
        (
            format!("backendRefs: [{{service: a, filters: [{SET}, {SET}]}}]"),
            "routes[0].backendRefs[0].filters[1]",
        ),
        ("filters: [{type: RequestMirror}]".to_owned(), "routes[0].filters[0]"),
        ("filters: [{type: URLRewrite, requestRedirect: {}}]".to_owned(), "routes[0].filters[0]"),
        ("filters: [{type: URLRewrite, urlRewrite: {}}]".to_owned(), "routes[0].filters[0].urlRewrite"),
        (
            "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /a/../b}}}]"
                .to_owned(),
            "routes[0].filters[0].urlRewrite.path.replaceFullPath",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]".to_owned(),
            "routes[0].filters[0].requestRedirect.statusCode",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {service: a}, percent: 101}}]".to_owned(),
            "routes[0].filters[0].requestMirror.percent",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {service: a}, \
             fraction: {numerator: 2, denominator: 1}}}]"
                .to_owned(),
            "routes[0].filters[0].requestMirror.fraction",
        ),
    ] {
        assert_eq!(faults(&format!("[{{{rule}}}]")), [field], "{rule}");
    }
}

#[test]
fn a_backend_cannot_redirect_or_mirror() {
    let routes = "[{backendRefs: [{service: a, filters: [{type: RequestRedirect, requestRedirect: {}}]}]}]";
    assert!(matches!(parse(routes), Err(ConfigError::Syntax { .. })));
}

#[test]
fn a_field_that_frames_addresses_or_vouches_cannot_be_changed() {
    for (name, is_refused) in [
        ("x-tenant", false),
        ("Authorization", false),
        ("Host", true),
        ("content-length", true),
        ("Content_Length", true),
        ("Transfer-Encoding", true),
        ("connection", true),
        ("te", true),
        ("upgrade", true),
        ("x-forwarded-for", true),
        ("X_Forwarded_For", true),
        ("x-sidegate-peer", true),
        ("x-original-url", true),
        ("x-http-method-override", true),
        ("x-request-id", true),
    ] {
        for (part, change) in
            [("set", format!("{{name: {name}, value: b}}")), ("add", format!("{{name: {name}, value: b}}"))]
        {
            for (kind, field) in [
                ("RequestHeaderModifier", "requestHeaderModifier"),
                ("ResponseHeaderModifier", "responseHeaderModifier"),
            ] {
                let routes = format!("[{{filters: [{{type: {kind}, {field}: {{{part}: [{change}]}}}}]}}]");
                let want = format!("routes[0].filters[0].{field}.{part}[0].name");
                let seen = if parse(&routes).is_ok() { Vec::new() } else { faults(&routes) };
                assert_eq!(seen, if is_refused { vec![want] } else { Vec::new() }, "{name}");
            }
        }
        let routes = format!(
            "[{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{remove: [{name}]}}}}]}}]"
        );
        assert_eq!(parse(&routes).is_err(), is_refused, "{name}");
    }
    let twice = "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: \
                 {set: [{name: a, value: b}], remove: [A]}}]}]";
    assert_eq!(faults(twice), ["routes[0].filters[0].requestHeaderModifier"]);
}

#[test]
fn faults_are_refused_unless_the_rule_says_that_they_are_meant() {
    const ABORT: &str = "abort: {percent: 1, status: 500}";
    assert!(parse(&format!("[{{faults: {{forTests: true, {ABORT}}}}}]")).is_ok());
    for (injected, field) in [
        (ABORT.to_owned(), "routes[0].faults.forTests"),
        (format!("forTests: false, {ABORT}"), "routes[0].faults.forTests"),
        ("forTests: true".to_owned(), "routes[0].faults"),
        ("forTests: true, delay: {percent: 1, duration: 61s}".to_owned(), "routes[0].faults.delay.duration"),
    ] {
        assert_eq!(faults(&format!("[{{faults: {{{injected}}}}}]")), [field], "{injected}");
    }
    // Neither what succeeds nor what would pass for a verdict of a policy.
    for status in [200, 302, 399, 401, 403, 600] {
        let abort = format!("[{{faults: {{forTests: true, abort: {{percent: 1, status: {status}}}}}}}]");
        assert!(faults(&abort).contains(&"routes[0].faults.abort.status".to_owned()), "{status}");
    }
}
