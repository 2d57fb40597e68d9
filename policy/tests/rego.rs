//! Conditions in Rego: what is not plainly true denies, whatever the reason, and soon.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::time::{Duration, Instant};

use sidegate_policy::{
    Claims, Http, Policies, PolicyError, PolicySet, Request, Source, Verdict, Workload, parse_yaml,
};

/// Whoever is of the mesh may call, as far as `module` does not object.
fn policies(module: &str) -> Result<Policies, PolicyError> {
    policies_beside("", module)
}

/// The same beside another document.
fn policies_beside(other: &str, module: &str) -> Result<Policies, PolicyError> {
    let module = module.replace('\n', "\n      ");
    let text = format!(
        "apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: everybody, namespace: shop}}
spec: {{action: Allow, rules: [{{from: [{{trustDomains: [shop.test]}}]}}]}}
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: guard, namespace: shop}}
spec:
  action: Require
  rules:
  - name: module
    rego: |
      package sidegate
      {module}
---
{other}"
    );
    let text = text.trim_end_matches("---\n");
    let set = PolicySet::new(parse_yaml("guard.yaml", text, None)?).unwrap();
    let labels = [].into();
    let workload =
        Workload { namespace: "shop", labels: &labels, trust_domain: "shop.test", root_namespace: None };
    Ok(set.compile(&workload))
}

fn judged(policies: &Policies, http: Option<Http<'_>>) -> Result<(), String> {
    let orders = "spiffe://shop.test/ns/shop/sa/orders".parse().unwrap();
    let source = Source { identity: Some(&orders), ip: [10, 0, 0, 7].into() };
    let request = Request { source, port: 8080, http, sni: None, now: 1_780_000_000 };
    let decision = policies.judge(&request);
    match decision.verdict {
        Verdict::Allow => Ok(()),
        Verdict::Deny => Err(decision.code.unwrap().id().to_owned()),
    }
}

/// On a busy machine a decision may be out of time, and another one is not: whether one of them is `expected`.
fn comes_to(policies: &Policies, http: Option<Http<'_>>, expected: &Result<(), String>) -> bool {
    (0..50).any(|_| judged(policies, http) == *expected)
}

fn get<'a>(headers: &'a Vec<(String, String)>, claims: Option<&'a Claims>) -> Http<'a> {
    Http { method: "GET", host: "Pay.test", path: "/charge", headers, claims }
}

fn refused(module: &str) -> PolicyError {
    policies(module).map(|_| ()).expect_err(module)
}

#[test]
fn a_module_that_says_true_is_met_and_one_that_says_false_is_not() {
    let claims = Claims::parse(r#"{"iss": "corp", "roles": ["clerk"]}"#).unwrap();
    let fields = vec![("x-tenant".to_owned(), "a".to_owned()), ("X-Tenant".to_owned(), "b".to_owned())];
    for holds in [
        "allow := true",
        "allow if input.source.principal == \"spiffe://shop.test/ns/shop/sa/orders\"",
        "allow if { input.source.namespace == \"shop\"; input.source.serviceAccount == \"orders\" }",
        "allow if { input.source.ip == \"10.0.0.7\"; input.destination.port == 8080 }",
        "allow if { input.request.method == \"GET\"; startswith(input.request.path, \"/charge\") }",
        "allow if input.request.host == \"pay.test\"",
        "allow if input.request.headers[\"x-tenant\"] == [\"a\", \"b\"]",
        "allow if \"clerk\" in input.request.claims.roles",
        "default allow := false\nallow if is_clerk\nis_clerk if some \"clerk\" in input.request.claims.roles",
    ] {
        let request = Some(get(&fields, Some(&claims)));
        assert!(comes_to(&policies(holds).unwrap(), request, &Ok(())), "{holds}");
    }
    for fails in ["allow := false", "default allow := false\nallow if input.request.method == \"POST\""] {
        let not_met = Err("SG0204".to_owned());
        let request = Some(get(&fields, Some(&claims)));
        assert!(comes_to(&policies(fails).unwrap(), request, &not_met), "{fails}");
    }
}

#[test]
fn what_is_undefined_fails_or_is_no_boolean_denies() {
    let none = Vec::new();
    for doubtful in [
        "allow if input.request.method == \"POST\"",
        "allow if input.nothing",
        "allow := \"yes\"",
        "allow := 1",
        "allow := null",
        "allow := [true]",
        "allow := {true}",
        "allow := to_number(\"a\")",
        "allow := true if true\nallow := false if true",
        "allow := input.request.claims.admin",
        "allow if allow",
        "allow if not permitted\npermitted if not allow",
    ] {
        let policies = policies(doubtful).unwrap();
        assert_eq!(judged(&policies, Some(get(&none, None))), Err("SG0205".to_owned()), "{doubtful}");
    }
}

#[test]
fn an_opaque_connection_is_judged_without_a_request() {
    let asks = policies("allow if input.request.method == \"GET\"").unwrap();
    assert_eq!(judged(&asks, None), Err("SG0205".to_owned()));
    assert!(asks.http_rule(8080).is_some(), "so that nobody chooses to be judged by less");
}

/// What comes without TLS has no identity that a module could compare with anything, be it to find that it is another.
#[test]
fn what_a_module_asks_of_an_identity_is_undefined_for_a_caller_without_one() {
    let exception = "apiVersion: sidegate.dev/v1alpha1\nkind: PlaintextException\nmetadata: {name: x, namespace: shop}\n\
                     spec: {from: [{ipBlocks: [10.0.0.7]}], to: [{ports: [8080]}], expires: 2099-12-31, reason: a test}\n";
    let judged = |module: &str| {
        let guarded = policies_beside(exception, module).unwrap();
        let none = Vec::new();
        let source = Source { identity: None, ip: [10, 0, 0, 7].into() };
        let http = Some(get(&none, None));
        // On a busy machine a decision may be out of time, and another one is not.
        (0..50).any(|_| {
            let request = Request { source, port: 8080, http, sni: None, now: 1_780_000_000 };
            guarded.judge(&request).verdict == Verdict::Allow
        })
    };
    for asks in [
        "allow if input.source.namespace != \"bank\"",
        "allow if input.source.principal == null",
        "allow if input.source.trustDomain != \"evil.test\"",
        "allow if input.source.serviceAccount != \"web\"",
    ] {
        assert!(!judged(asks), "{asks}");
    }
    assert!(judged("allow if input.source.ip == \"10.0.0.7\""));
}

#[test]
fn a_module_that_takes_too_long_denies_in_time() {
    let list = (0..200).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    let slow = policies(&format!(
        "many := [{list}]\nallow if count([1 | some a in many; some b in many; some c in many; some d in many; a + b + c + d > 0]) > 0"
    ))
    .unwrap();
    let began = Instant::now();
    assert_eq!(judged(&slow, Some(get(&Vec::new(), None))), Err("SG0205".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_deepest_module_that_is_taken_is_judged_on_an_ordinary_stack() {
    // `package` is the first statement of thirty-two.
    let rules = (0..30).map(|n| format!("r{n} if r{}\n", n + 1)).collect::<Vec<_>>().concat();
    let deep = format!("allow if r0\n{rules}r30 if {{ [[[[[[[[1 + 1]]]]]]]] == [[[[[[[[2]]]]]]]] }}");
    let judging = std::thread::Builder::new().stack_size(2 << 20);
    let judged =
        judging.spawn(move || comes_to(&policies(&deep).unwrap(), Some(get(&Vec::new(), None)), &Ok(())));
    assert!(judged.unwrap().join().unwrap());
}

#[test]
fn what_is_no_module_or_may_not_be_called_refuses_the_file_with_its_line() {
    for (module, why) in [
        ("allow if", "allow"),
        ("allow if count(numbers.range(1, 1000000000)) > 1", "numbers.range(…) cannot be called here"),
        ("f(x) := f(x)\nallow if f(1)", "f(…) cannot be called here"),
        ("allow if http.send({}).status == 200", "http.send(…) cannot be called here"),
        ("permit := true", "data.sidegate.allow"),
    ] {
        let error = refused(module).to_string();
        assert!(error.contains(why) && error.starts_with("guard.yaml:"), "{module}: {error}");
        assert!(error.contains("spec.rules[0].rego") && error.ends_with("(SG0212)"), "{error}");
    }
    let nested = format!("allow := {}1{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(refused(&nested).to_string().contains("SG0212"));
    let long = format!("# {}\nallow := true", "a".repeat(20_000));
    assert!(refused(&long).to_string().contains("at most 16384 are allowed (SG0216)"));
}

#[test]
fn rego_stands_in_a_require_alone() {
    for action in ["Allow", "Deny"] {
        let text = format!(
            "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: a, namespace: b}}\n\
             spec: {{action: {action}, rules: [{{rego: \"package sidegate\\nallow := true\"}}]}}\n"
        );
        let error = parse_yaml("a.yaml", &text, None).unwrap_err().to_string();
        assert!(error.contains("`rego` can stand in a Require alone"), "{error}");
    }
}
