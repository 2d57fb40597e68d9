//! `sidegate policy import`: what is translated is judged as the other mesh judges it, and what is not is refused with its
//! reason, never wider.

use std::{collections::BTreeMap, fs, net::IpAddr};

use serde_json::Value;
use sidegate_policy::{Claims, Http, Policies, PolicySet, Request, Source, Verdict, Workload, parse_yaml};
use tempfile::TempDir;

use super::{document, sidegate, stderr, stdout};

/// `CALLER METHOD PATH [HEADER=VALUE…] [port=N] [from=ADDRESS] [token=CLAIMS]`; without method and path an opaque connection.
struct Call<'c> {
    caller: &'c str,
    http: Option<(&'c str, &'c str)>,
    headers: Vec<(String, String)>,
    port: u16,
    ip: IpAddr,
    claims: Option<Claims>,
}

impl<'c> Call<'c> {
    fn parse(text: &'c str) -> Self {
        let mut words = text.split_whitespace();
        let caller = words.next().expect("a caller");
        let mut call = Self {
            caller,
            http: None,
            headers: Vec::new(),
            port: 8080,
            ip: IpAddr::from([10, 0, 0, 7]),
            claims: None,
        };
        let (pairs, method_and_path): (Vec<&str>, Vec<&str>) = words.partition(|word| word.contains('='));
        if let [method, path] = method_and_path[..] {
            call.http = Some((method, path));
        }
        for (name, value) in pairs.into_iter().filter_map(|pair| pair.split_once('=')) {
            match name {
                "port" => call.port = value.parse().expect("a port"),
                "token" => call.claims = Some(Claims::parse(value).expect("claims")),
                "from" => call.ip = value.parse().expect("an address"),
                _ => call.headers.push((name.to_owned(), value.to_owned())),
            }
        }
        call
    }

    fn is_allowed(&self, policies: &Policies) -> bool {
        let caller = format!("spiffe://{}", self.caller).parse().expect("a SPIFFE ID");
        let http = self.http.map(|(method, path)| Http {
            method,
            host: "a.test",
            path,
            headers: &self.headers,
            claims: self.claims.as_ref(),
        });
        let source = Source { identity: Some(&caller), ip: self.ip };
        let request = Request { source, port: self.port, http, sni: None, now: 1_780_000_000 };
        policies.judge(&request).verdict == Verdict::Allow
    }
}

fn import(from: &str, text: &str, output: &str) -> std::process::Output {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("a.yaml");
    fs::write(&file, text).expect("a file");
    let file = file.display().to_string();
    sidegate(&["policy", "import", from, &file, "--trust-domain", "shop.test", "-o", output])
}

/// The policies that an import prints, for a workload of namespace `shop` with the label `app: pay`.
fn compile(text: &str) -> Policies {
    let policies =
        if text.is_empty() { Vec::new() } else { parse_yaml("import", text, None).expect("it loads") };
    let labels = BTreeMap::from([("app".to_owned(), "pay".to_owned())]);
    let workload = Workload {
        namespace: "shop",
        labels: &labels,
        trust_domain: "shop.test",
        root_namespace: Some("istio-system"),
    };
    PolicySet::new(policies).expect("it is a set").compile(&workload)
}

/// Fails if a call in `allowed` is denied, or one in `denied` is not.
fn judged(policies: &Policies, rule: &str, allowed: &[&str], denied: &[&str]) {
    for call in allowed {
        assert!(Call::parse(call).is_allowed(policies), "{rule}: {call} is denied");
    }
    for call in denied {
        assert!(!Call::parse(call).is_allowed(policies), "{rule}: {call} is let in");
    }
}

fn istio(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n"
    )
}

const WEB: &str = "shop.test/ns/shop/sa/web";

#[test]
fn rules_of_istio_decide_what_istio_decides() {
    let web = |rest: &str| format!("{WEB} {rest}");
    let get = web("GET /");
    for (rule, matching, other) in [
        ("{}", vec![get.clone(), web("")], vec![]),
        ("{from: [{source: {principals: ['*']}}]}", vec![get.clone(), web("")], vec![]),
        (
            "{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}",
            vec![get.clone(), web("")],
            vec!["shop.test/ns/shop/sa/web2 GET /".into(), "other.test/ns/shop/sa/web GET /".into()],
        ),
        (
            "{from: [{source: {principals: [shop.test/ns/shop/*, '*/sa/batch']}}]}",
            vec![get.clone(), "shop.test/ns/x/sa/batch GET /".into()],
            vec!["shop.test/ns/shopping/sa/web GET /".into(), "shop.test/ns/x/sa/batch2 GET /".into()],
        ),
        (
            "{from: [{source: {namespaces: [shop], notPrincipals: [shop.test/ns/shop/sa/bad]}}]}",
            vec![get.clone()],
            vec!["shop.test/ns/shop/sa/bad GET /".into(), "shop.test/ns/x/sa/web GET /".into()],
        ),
        (
            "{from: [{source: {namespaces: ['prod-*']}}, {source: {notNamespaces: [shop]}}]}",
            vec!["shop.test/ns/prod-1/sa/a GET /".into(), "shop.test/ns/x/sa/a GET /".into()],
            vec![get.clone()],
        ),
        (
            "{from: [{source: {serviceAccounts: [web, x/job]}}]}",
            vec![get.clone(), "shop.test/ns/x/sa/job".into()],
            vec!["shop.test/ns/x/sa/web GET /".into(), "other.test/ns/shop/sa/web GET /".into()],
        ),
        (
            "{from: [{source: {notServiceAccounts: [web, x/job]}}]}",
            vec!["shop.test/ns/x/sa/web GET /".into()],
            vec![get.clone(), "shop.test/ns/x/sa/job GET /".into()],
        ),
        (
            "{from: [{source: {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.9.0.0/16]}}]}",
            vec![get.clone(), web("GET / from=10.8.0.1")],
            vec![web("GET / from=10.9.0.1"), web("GET / from=11.0.0.1")],
        ),
        (
            "{when: [{key: source.ip, notValues: [10.0.0.7]}]}",
            vec![web("GET / from=10.0.0.8"), web("GET / from=fd00::1")],
            vec![get.clone()],
        ),
        (
            "{to: [{operation: {methods: [GET, HEAD], ports: ['8080']}}]}",
            vec![get.clone(), web("HEAD /x")],
            vec![web("POST /"), web("GET / port=9090")],
        ),
        (
            "{to: [{operation: {notMethods: [GET], notPorts: ['9090']}}]}",
            vec![web("POST /")],
            vec![get.clone(), web("POST / port=9090")],
        ),
        (
            "{to: [{operation: {paths: [/a, /b/*, /c*, '*.css']}}]}",
            vec![web("GET /a"), web("GET /b/"), web("GET /b/x/y"), web("GET /cd/e"), web("GET /x/y.css")],
            vec![web("GET /a/"), web("GET /ab"), web("GET /b"), web("GET /x"), web("GET /y.css/x")],
        ),
        (
            "{to: [{operation: {paths: ['/a/{*}/b', '/c/{**}']}}]}",
            vec![web("GET /a/1/b"), web("GET /c/"), web("GET /c/1/2")],
            vec![web("GET /a//b"), web("GET /a/1/2/b"), web("GET /c")],
        ),
        (
            "{to: [{operation: {notPaths: [/a, /b*]}}]}",
            vec![web("GET /ab")],
            vec![web("GET /a"), web("GET /b"), web("GET /bc/d")],
        ),
        ("{to: [{operation: {hosts: [a.test, 'a.test:*']}}]}", vec![get.clone()], vec![]),
        ("{to: [{operation: {notHosts: [a.test, 'a.test:*']}}]}", vec![], vec![get.clone()]),
        (
            "{when: [{key: 'request.headers[X-Tenant]', values: [a, 'b*'], notValues: [bad]}]}",
            vec![web("GET / x-tenant=a"), web("GET / x-tenant=bc")],
            vec![get.clone(), web("GET / x-tenant=c"), web("GET / x-tenant=bad")],
        ),
        (
            "{when: [{key: 'request.headers[x-debug]', notValues: ['*']}]}",
            vec![get.clone()],
            vec![web("GET / x-debug=1")],
        ),
        (
            "{when: [{key: destination.port, values: ['8080']}, {key: source.namespace, values: ['sh*']}]}",
            vec![get.clone(), web("")],
            vec![web("GET / port=80"), "shop.test/ns/x/sa/web GET /".into()],
        ),
        (
            "{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [GET]}}], when: [{key: source.principal, values: ['*/sa/web']}]}",
            vec![get.clone()],
            vec![web("POST /"), "shop.test/ns/shop/sa/x GET /".into()],
        ),
    ] {
        let (matching, other): (Vec<&str>, Vec<&str>) =
            (matching.iter().map(String::as_str).collect(), other.iter().map(String::as_str).collect());
        let allow = import("istio", &istio(&format!("{{rules: [{rule}]}}")), "yaml");
        assert_eq!(allow.status.code(), Some(0), "{rule}: {}", stderr(&allow));
        judged(&compile(stdout(&allow)), rule, &matching, &other);

        let everybody = istio("{rules: [{}]}").replace("name: a", "name: all");
        let deny = istio(&format!("{{action: DENY, rules: [{rule}]}}"));
        let deny = import("istio", &format!("{everybody}---\n{deny}"), "yaml");
        assert_eq!(deny.status.code(), Some(0), "{rule}: {}", stderr(&deny));
        // The Allow beside it is for the mesh's own trust domain.
        let others: Vec<&str> = other.into_iter().filter(|call| call.starts_with("shop.test/")).collect();
        judged(&compile(stdout(&deny)), &format!("DENY {rule}"), &others, &matching);
    }
}

#[test]
fn a_condition_on_http_takes_no_opaque_connection_and_a_deny_on_it_denies_one() {
    let rule = "{to: [{operation: {methods: ['*']}}]}";
    let allow = import("istio", &istio(&format!("{{rules: [{rule}]}}")), "yaml");
    judged(&compile(stdout(&allow)), rule, &[&format!("{WEB} GET /")], &[WEB]);
    let deny = istio(&format!("{{action: DENY, rules: [{rule}]}}"));
    let everybody = istio("{rules: [{}]}").replace("name: a", "name: all");
    let deny = import("istio", &format!("{everybody}---\n{deny}"), "yaml");
    judged(&compile(stdout(&deny)), rule, &[], &[WEB, &format!("{WEB} GET /")]);
}

#[test]
fn selectors_empty_rules_the_root_namespace_and_dry_runs_keep_their_meaning() {
    let call = format!("{WEB} GET /");
    for (text, is_allowed) in [
        (istio("{selector: {matchLabels: {app: pay}}, rules: [{}]}"), true),
        (istio("{selector: {matchLabels: {app: other}}, rules: [{}]}"), false),
        (istio("{rules: [{}]}").replace("namespace: shop", "namespace: istio-system"), true),
        (istio("{rules: [{}]}").replace("namespace: shop", "namespace: other"), false),
        (istio("{}"), false),
        (istio("{rules: []}"), false),
        (istio("{rules: [{}]}") + "---\n" + &istio("{action: DENY}").replace("name: a", "name: b"), true),
        (
            istio("{rules: [{}]}")
                + "---\n"
                + &istio("{action: DENY, rules: [{}]}")
                    .replace("name: a", "name: b, annotations: {istio.io/dry-run: 'true'}"),
            true,
        ),
        (
            istio("{rules: [{}]}")
                + "---\n"
                + &istio("{action: DENY, rules: [{}]}").replace("name: a", "name: b"),
            false,
        ),
    ] {
        let output = import("istio", &text, "yaml");
        assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
        assert_eq!(Call::parse(&call).is_allowed(&compile(stdout(&output))), is_allowed, "{text}");
    }
}

#[test]
fn what_has_no_exact_translation_is_refused_at_its_line_and_never_wider() {
    let everybody = istio("{rules: [{}]}").replace("name: a", "name: all");
    for (spec, why) in [
        ("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", "whose tokens are meant"),
        ("{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]}", "remoteIpBlocks"),
        ("{rules: [{when: [{key: 'request.auth.claims[a]', values: [b]}]}]}", "whose tokens are meant"),
        ("{rules: [{when: [{key: connection.sni, values: [b]}]}]}", "connection.sni"),
        ("{rules: [{when: [{key: 'request.headers[x-forwarded-for]', values: [b]}]}]}", "x-forwarded-for"),
        ("{rules: [{to: [{operation: {hosts: [a.test]}}]}]}", "a.test:*"),
        ("{rules: [{to: [{operation: {paths: ['/a/{**}/b']}}]}]}", "template"),
        ("{rules: [{to: [{operation: {methods: [get]}}]}]}", "method"),
        ("{rules: [{from: [{source: {principals: ['a*b']}}]}]}", "pattern"),
        ("{rules: [{from: [{source: {ipBlocks: [10.0.0.0/40]}}]}]}", "10.0.0.0/40"),
        ("{rules: [{from: [{source: {}}]}]}", "empty"),
        ("{rules: [{fromm: []}]}", "fromm"),
        ("{targetRefs: [{kind: Service, name: a}], rules: [{}]}", "targetRefs"),
    ] {
        let allow = import("istio", &istio(spec), "yaml");
        assert_eq!(allow.status.code(), Some(1), "{spec}");
        assert!(
            stderr(&allow).contains(why) && stderr(&allow).contains("SG0231"),
            "{spec}: {}",
            stderr(&allow)
        );
        assert_eq!(stdout(&allow), "", "{spec}");

        let deny = istio(&spec.replacen('{', "{action: DENY, ", 1));
        let deny = import("istio", &format!("{everybody}---\n{deny}"), "yaml");
        assert_eq!(deny.status.code(), Some(1), "{spec}");
        judged(&compile(stdout(&deny)), spec, &[], &[&format!("{WEB} GET /"), WEB]);
    }
    let custom = istio("{action: CUSTOM, provider: {name: opa}, rules: [{}]}");
    let custom = import("istio", &format!("{everybody}---\n{custom}"), "yaml");
    assert_eq!(custom.status.code(), Some(1));
    judged(&compile(stdout(&custom)), "CUSTOM", &[], &[&format!("{WEB} GET /")]);
    let audit =
        import("istio", &format!("{everybody}---\n{}", istio("{action: AUDIT, rules: [{}]}")), "yaml");
    assert_eq!(audit.status.code(), Some(1));
    judged(&compile(stdout(&audit)), "AUDIT", &[&format!("{WEB} GET /")], &[]);
}

/// After Istio's own task on JWT, with an audience.
const ISSUERS: &str = "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt-example, namespace: shop}
spec:
  selector: {matchLabels: {app: pay}}
  jwtRules:
  - issuer: testing@secure.istio.io
    audiences: [pay]
    jwksUri: https://raw.githubusercontent.com/istio/istio/release-1.30/security/tools/jwt/samples/jwks.json
---
";

#[test]
fn what_istio_asks_of_tokens_is_asked_of_the_tokens_of_its_issuers() {
    let everybody = istio("{rules: [{}]}").replace("name: a", "name: all");
    let token = |claims: &str| {
        let issuer = "\"iss\":\"testing@secure.istio.io\",\"aud\":\"pay\"";
        format!("{WEB} GET / token={{{issuer},{claims}}}")
    };
    let (none, opaque) = (format!("{WEB} GET /"), WEB.to_owned());
    let tester = token("\"sub\":\"testing@secure.istio.io\"");
    let other = token("\"sub\":\"other\"");
    let foreign = format!("{WEB} GET / token={{\"iss\":\"evil\",\"sub\":\"testing@secure.istio.io\"}}");
    let (member, stranger) =
        (token("\"sub\":\"a\",\"groups\":[\"group1\"]"), token("\"sub\":\"a\",\"groups\":[\"x\"]"));
    let scoped = token("\"sub\":\"a\",\"scope\":\"read\\u0020write\",\"azp\":\"app\"");
    let nested = token("\"sub\":\"a\",\"realm\":{\"roles\":[\"clerk\"]}");
    let source = |list: &str| format!("{{rules: [{{from: [{{source: {{requestPrincipals: [{list}]}}}}]}}]}}");
    let when = |key: &str, value: &str| {
        format!("{{rules: [{{when: [{{key: 'request.auth.{key}', values: [{value}]}}]}}]}}")
    };
    for (spec, allowed, denied) in [
        (
            source("testing@secure.istio.io/testing@secure.istio.io"),
            vec![&tester],
            vec![&other, &none, &opaque, &foreign],
        ),
        (source("'*'"), vec![&tester, &other], vec![&none, &opaque, &foreign]),
        (source("'testing@secure.istio.io/*'"), vec![&tester, &other], vec![&none, &foreign]),
        (when("principal", "testing@secure.istio.io/other"), vec![&other], vec![&tester, &none]),
        (when("claims[groups]", "group1, group2"), vec![&member], vec![&stranger, &other, &none]),
        (when("claims[scope]", "write"), vec![&scoped], vec![&other, &none]),
        (when("claims[realm][roles]", "clerk"), vec![&nested], vec![&other, &none]),
        (when("presenter", "app"), vec![&scoped], vec![&other, &none]),
        (when("audiences", "pay"), vec![&other], vec![&none, &foreign]),
        (when("audiences", "else"), vec![], vec![&other, &none]),
    ] {
        let output = import("istio", &format!("{ISSUERS}{}", istio(&spec)), "yaml");
        assert_eq!(output.status.code(), Some(0), "{spec}: {}", stderr(&output));
        let (allowed, denied): (Vec<&str>, Vec<&str>) =
            (allowed.into_iter().map(|it| &**it).collect(), denied.into_iter().map(|it| &**it).collect());
        judged(&compile(stdout(&output)), &spec, &allowed, &denied);
    }
    // Istio's own way to ask for a token.
    let must = istio("{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}");
    let output = import("istio", &format!("{ISSUERS}{everybody}---\n{must}"), "yaml");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    judged(&compile(stdout(&output)), "a must", &[&tester, &other], &[&none]);
}

#[test]
fn whose_tokens_istio_verifies_becomes_the_configuration_of_the_sidecars() {
    let output = import("istio", ISSUERS.trim_end().trim_end_matches("---"), "json");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let document = document(&output);
    let entry = &document["constructs"][0];
    assert_eq!(
        (&entry["outcome"], &entry["workloads"]),
        (&"configures".into(), &"shop with {\"app\":\"pay\"}".into())
    );
    let jwt = &entry["jwt"];
    assert_eq!((&jwt["header"], &jwt["forward"]), (&"authorization".into(), &false.into()));
    assert_eq!(jwt["issuers"][0]["keys"]["trustBundle"], "/etc/ssl/certs/ca-certificates.crt");
    let text = format!(
        "trustDomain: shop.test\nworkload: {{namespace: shop, serviceAccount: pay}}\n\
         controlPlane: {{address: '127.0.0.1:1', trustBundle: root.pem}}\n\
         inbound: [{{listen: '127.0.0.1:0', forward: '127.0.0.1:8080'}}]\njwt: {jwt}\n"
    );
    assert!(sidegate_proxy::config::Config::parse(std::path::Path::new("a.yaml"), &text).is_ok(), "{text}");
    for (change, why) in [
        (("    audiences: [pay]\n", ""), "audiences"),
        (("https://", "http://"), "plaintext"),
        (("    jwksUri", "    outputPayloadToHeader: x\n    jwksUri"), "outputPayloadToHeader"),
        (("    jwksUri", "    fromParams: [token]\n    jwksUri"), "fromParams"),
        (("    jwksUri", "    fromHeaders: [{name: x, prefix: 'a '}]\n    jwksUri"), "a token stands"),
        (("    jwksUri", "    fromHeaders: [{name: x}, {name: y}]\n    jwksUri"), "one header field"),
        (("    jwksUri: ", "    jwks: "), "jwks"),
        (("  selector:", "  targetRefs: []\n  selector:"), "targetRefs"),
    ] {
        let everybody = istio("{rules: [{}]}");
        let text = format!("{}{everybody}", ISSUERS.replace(change.0, change.1));
        let output = import("istio", &text, "yaml");
        assert_eq!(output.status.code(), Some(1), "{why}");
        assert!(stderr(&output).contains(why), "{why}: {}", stderr(&output));
        judged(&compile(stdout(&output)), why, &[], &[&format!("{WEB} GET /")]);
    }
}

#[test]
fn what_istio_asks_of_tokens_and_has_no_exact_translation_is_refused() {
    for (spec, why) in [
        ("{action: DENY, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", "in a DENY"),
        ("{action: DENY, rules: [{when: [{key: 'request.auth.claims[a]', values: [b]}]}]}", "in a DENY"),
        ("{rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}", "notRequestPrincipals"),
        (
            "{rules: [{from: [{source: {requestPrincipals: ['testing@secure.istio.io/a*']}}]}]}",
            "not the begin",
        ),
        ("{rules: [{from: [{source: {requestPrincipals: ['*a']}}]}]}", "no translation"),
        ("{rules: [{from: [{source: {requestPrincipals: [a]}}]}]}", "issuer/subject"),
        ("{rules: [{when: [{key: 'request.auth.claims[a]', values: ['b*']}]}]}", "pattern"),
        ("{rules: [{when: [{key: 'request.auth.claims[a]', notValues: [b]}]}]}", "notValues"),
        ("{rules: [{when: [{key: 'request.auth.claims[permission]', values: [b]}]}]}", "permission"),
        ("{rules: [{when: [{key: 'request.auth.claims[scp]', values: [b]}]}]}", "scp"),
        ("{rules: [{when: [{key: request.auth.other, values: [b]}]}]}", "request.auth.other"),
    ] {
        let output = import("istio", &format!("{ISSUERS}{}", istio(spec)), "yaml");
        assert_eq!(output.status.code(), Some(1), "{spec}");
        assert!(stderr(&output).contains(why), "{spec}: {}", stderr(&output));
        judged(&compile(stdout(&output)), spec, &[], &[&format!("{WEB} GET /"), WEB]);
    }
}

#[test]
fn strict_mutual_tls_holds_and_what_takes_plaintext_is_refused() {
    let peers = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: a}}\nspec: {spec}\n"
        )
    };
    for (spec, code) in [
        ("{mtls: {mode: STRICT}}", 0),
        ("{mtls: {mode: PERMISSIVE}}", 1),
        ("{mtls: {mode: DISABLE}}", 1),
        ("{mtls: {}}", 1),
        ("{}", 1),
        ("{mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: STRICT}}}", 0),
        ("{mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}", 1),
    ] {
        let output = import("istio", &peers(spec), "yaml");
        assert_eq!((output.status.code(), stdout(&output)), (Some(code), ""), "{spec}: {}", stderr(&output));
    }
}

#[test]
fn the_report_says_of_every_construct_what_became_of_it() {
    let text = istio("{rules: [{}]}")
        + "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRICT}}\n"
        + "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: shop}\nspec: {}\n"
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
    let output = import("istio", &text, "json");
    assert_eq!(output.status.code(), Some(1));
    let document = document(&output);
    let outcomes: Vec<&Value> =
        document["constructs"].as_array().expect("a list").iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["translated", "holds", "refused", "ignored"]);
    assert_eq!(document["constructs"][0]["to"][0], "shop/a");
    assert_eq!(document["constructs"][2]["standIn"], "shop/r");
    let texts = document["policies"].as_array().expect("a list").iter();
    let texts: Vec<&str> = texts.map(|policy| policy["text"].as_str().expect("text")).collect();
    judged(&compile(&texts.join("---\n")), "as JSON", &[], &[&format!("{WEB} GET /")]);
    for words in ["→ shop/a", "mutual TLS", "SG0231", "left alone", "refused 1"] {
        let report = import("istio", &text, "yaml");
        assert!(stderr(&report).contains(words), "{words} in {}", stderr(&report));
    }
}

#[test]
fn a_file_that_is_no_manifest_imports_nothing() {
    for text in ["a: [", "just: a map", "- list"] {
        let output = import("istio", text, "yaml");
        assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""), "{text}");
        assert!(stderr(&output).contains("SG0231"), "{text}: {}", stderr(&output));
    }
}

/// A Server of port 8080, two authentications, and what more is given.
fn linkerd(more: &str) -> String {
    let object = |kind: &str, name: &str, spec: &str| {
        format!(
            "apiVersion: policy.linkerd.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
        )
    };
    object("Server", "pay", "{podSelector: {matchLabels: {app: pay}}, port: 8080, proxyProtocol: HTTP/2}")
        + &object(
            "MeshTLSAuthentication",
            "web",
            "{identities: [web.shop.serviceaccount.identity.linkerd.cluster.local, '*.ops.serviceaccount.identity.linkerd.cluster.local'], identityRefs: [{kind: ServiceAccount, name: job}]}",
        )
        + &object("MeshTLSAuthentication", "any", "{identities: ['*']}")
        + &object("NetworkAuthentication", "net", "{networks: [{cidr: 10.0.0.0/8, except: [10.9.0.0/16]}]}")
        + more
}

fn authorization(name: &str, target: &str, required: &str) -> String {
    format!(
        "apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{targetRef: {target}, requiredAuthenticationRefs: {required}}}\n---\n"
    )
}

fn route(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: policy.linkerd.io/v1beta3\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{parentRefs: [{{kind: Server, name: pay}}], rules: {rules}}}\n---\n"
    )
}

const SERVER: &str = "{kind: Server, name: pay}";
const BY_WEB: &str = "[{kind: MeshTLSAuthentication, name: web}]";

#[test]
fn policies_of_linkerd_let_in_whom_linkerd_lets_in() {
    let web = |rest: &str| format!("{WEB} {rest}");
    let health = "[{matches: [{path: {type: Exact, value: /health}, method: GET}]}]";
    let api = "[{matches: [{path: {value: /api}, headers: [{name: X-A, value: b}]}]}]";
    for (more, allowed, denied) in [
        (
            authorization("a", SERVER, BY_WEB),
            vec![
                web("GET /"),
                web(""),
                "shop.test/ns/ops/sa/x GET /".into(),
                "shop.test/ns/shop/sa/job".into(),
            ],
            vec![
                web("GET / port=9090"),
                "shop.test/ns/x/sa/web GET /".into(),
                "other.test/ns/shop/sa/web".into(),
            ],
        ),
        (
            authorization(
                "a",
                SERVER,
                "[{kind: MeshTLSAuthentication, name: any}, {kind: NetworkAuthentication, name: net}]",
            ),
            vec![web("GET /"), "shop.test/ns/x/sa/y".into()],
            vec![web("GET / from=10.9.0.1"), web("GET / from=11.0.0.1"), "other.test/ns/x/sa/y".into()],
        ),
        (
            authorization("a", "{kind: Namespace, name: shop}", "[{kind: ServiceAccount, name: web}]"),
            vec![web("GET /")],
            vec!["shop.test/ns/shop/sa/job GET /".into()],
        ),
        (
            route("health", health) + &authorization("a", "{kind: HTTPRoute, name: health}", BY_WEB),
            vec![web("GET /health")],
            vec![web("POST /health"), web("GET /health/x"), web("GET /"), web("")],
        ),
        // A Server with routes takes only what one of them matches.
        (
            route("health", health) + &route("api", api) + &authorization("a", SERVER, BY_WEB),
            vec![web("GET /health"), web("GET /api x-a=b"), web("PUT /api/1 x-a=b")],
            vec![web("GET /api"), web("GET /apis x-a=b"), web("GET /")],
        ),
        (
            "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: open, namespace: shop}\n\
             spec: {podSelector: {}, port: 9090, accessPolicy: all-authenticated}\n"
                .to_owned(),
            vec!["shop.test/ns/x/sa/y GET / port=9090".into()],
            vec![web("GET /"), "other.test/ns/x/sa/y GET / port=9090".into()],
        ),
    ] {
        let output = import("linkerd", &linkerd(&more), "yaml");
        assert_eq!(output.status.code(), Some(0), "{more}{}", stderr(&output));
        let (allowed, denied): (Vec<&str>, Vec<&str>) =
            (allowed.iter().map(String::as_str).collect(), denied.iter().map(String::as_str).collect());
        judged(&compile(stdout(&output)), &more, &allowed, &denied);
    }
}

#[test]
fn what_of_linkerd_has_no_exact_translation_is_refused_and_lets_nobody_in() {
    let prefix = |path: &str| format!("[{{matches: [{{path: {{value: {path}}}}}]}}]");
    let regex = "[{matches: [{path: {type: RegularExpression, value: '/a.*'}}]}]";
    let server = |spec: &str| {
        format!(
            "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {{name: b, namespace: shop}}\nspec: {spec}\n---\n"
        )
    };
    for (more, why) in [
        (authorization("a", SERVER, "[{kind: NetworkAuthentication, name: net}]"), "without an identity"),
        (authorization("a", SERVER, "[]"), "without an identity"),
        (authorization("a", SERVER, "[{kind: MeshTLSAuthentication, name: web}, {kind: MeshTLSAuthentication, name: any}]"), "two"),
        (authorization("a", SERVER, "[{kind: MeshTLSAuthentication, name: nobody}]"), "not in these files"),
        (authorization("a", "{kind: Server, name: nothing}", BY_WEB), "not in these files"),
        (authorization("a", "{kind: GRPCRoute, name: g}", BY_WEB), "GRPCRoute"),
        (route("r", regex), "RegularExpression"),
        (route("r", "[{matches: [{queryParams: [{name: a, value: b}]}]}]"), "queryParams"),
        // The more specific of the two would take a request from the policy.
        (
            route("r", &prefix("/a")) + &route("s", &prefix("/a/b")) + &authorization("a", "{kind: HTTPRoute, name: r}", BY_WEB),
            "may match one request",
        ),
        (server("{podSelector: {}, port: 9090, accessPolicy: all-unauthenticated}"), "all-unauthenticated"),
        (
            server("{podSelector: {}, port: http}") + &authorization("a", "{kind: Server, name: b}", BY_WEB),
            "named by its pods",
        ),
        (
            server("{podSelector: {matchExpressions: []}, port: 80}") + &authorization("a", "{kind: Server, name: b}", BY_WEB),
            "matchExpressions",
        ),
        (
            "apiVersion: policy.linkerd.io/v1beta1\nkind: ServerAuthorization\nmetadata: {name: x}\nspec: {}\n".to_owned(),
            "ServerAuthorization",
        ),
    ] {
        let output = import("linkerd", &linkerd(&more), "yaml");
        assert_eq!(output.status.code(), Some(1), "{more}");
        assert!(stderr(&output).contains(why) && stderr(&output).contains("SG0231"), "{why}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{more}");
    }
}
