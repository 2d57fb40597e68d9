//! Policies and requests from a small world, so that matches, near misses and doubts are all frequent.

use std::{net::IpAddr, sync::Arc};

use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::select,
};
use serde_json::{Map, Value, json};
use sidegate_identity::SpiffeId;
use sidegate_policy::{Claims, Document, Http, Request, Source, Sourced, parse_json};

const IDENTITIES: &[&str] = &[
    "spiffe://shop.test/ns/shop/sa/web",
    "spiffe://shop.test/ns/shop/sa/orders",
    "spiffe://shop.test/ns/bank/sa/web",
    "spiffe://evil.test/ns/shop/sa/web",
    "spiffe://evil.test/ns/bank/sa/orders",
    "spiffe://evil.test/batch",
];
const ACCOUNTS: &[&str] = &["shop/web", "shop/orders", "bank/web", "bank/orders"];
const NAMESPACES: &[&str] = &["shop", "bank"];
const DOMAINS: &[&str] = &["shop.test", "evil.test"];
const BLOCKS: &[&str] =
    &["10.0.0.0/8", "10.1.0.0/16", "::ffff:10.1.2.3", "0.0.0.0/0", "::/0", "fd00::/8", "10.1.2.2/31"];
const ADDRESSES: &[&str] = &["10.1.2.3", "::ffff:10.1.2.3", "10.1.2.4", "11.0.0.1", "fd00::1", "::1"];
const METHODS: &[&str] = &["GET", "POST"];
const PATTERNS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/{x}",
    "/a/**",
    "/**",
    "/{x}",
    "/{x}/b",
    "/a/{x}/**",
    "/a/b/{y}",
    "/a/b/c",
    "/a/b/c/{z}",
    "/shop.Pay/Charge",
];
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/",
    "/a/b/c",
    "/ab",
    "/b",
    "",
    "*",
    "/**",
    "/{x}",
    "a",
    "/A",
    "/a/{x}",
    "/a/b/c/d",
    "/shop.Pay/Charge",
    "/shop.Pay/Refund",
    "/shop.Pay/",
    "/shop.Pay/Charge/",
    "/Pay/Charge",
];
const HOST_PATTERNS: &[&str] = &["shop.test", "*.shop.test", "*.test", "A.shop.test"];
const HOSTS: &[&str] =
    &["shop.test", "a.shop.test", "A.Shop.test", "a.b.shop.test", "myshop.test", ".test", "", "test"];
const NAMES: &[&str] = &["db.shop.test", "shop.test", "test", "a.b.shop.test"];
const SERVICES: &[&str] = &["shop.Pay", "Pay"];
const CALLS: &[&str] = &["Charge", "Refund"];
/// Questions of a `when`: each kind, right and wrong, on what is always there and on what is not.
const QUESTIONS: &[&str] = &[
    "request.method == \"GET\"",
    "request.method != 'GET'",
    "request.path.startsWith(\"/a\")",
    "request.host == \"shop.TEST\"",
    "request.host.endsWith(\".test\")",
    "request.headers[\"x-a\"] == \"1\"",
    "request.headers[\"X-A\"] != \"1\"",
    "request.headers[\"x-a\"] in [\"1\", \"2\"]",
    "request.headers[\"x-a\"].contains(\"2\")",
    "request.headers[\"x-b\"].startsWith(\"1\")",
    "\"x-a\" in request.headers",
    "\"x-b\" in request.headers",
    "source.principal.contains(\"shop\")",
    "source.trustDomain == \"shop.test\"",
    "source.namespace == \"shop\"",
    "source.serviceAccount in ['web']",
    "destination.port == 8080",
    "destination.port in [9090, 1]",
    "destination.port >= 9000",
    "destination.port < 9000",
];
const FIELDS: &[(&str, &str)] = &[
    ("x-a", "1"),
    ("X-A", "2"),
    ("x-a", "1,2"),
    ("x-a", "1, 1"),
    ("x-a", ""),
    ("x_a", "1"),
    ("x-b", "1"),
    ("x-b", "12"),
    ("x-ab", "1"),
];
/// Tokens that were verified: right ones, and those in which a claim is missing, of another type, or another's.
const TOKENS: &[&str] = &[
    r#"{"iss":"corp","aud":"pay","scope":"read charge","role":"admin","level":3,"vip":true}"#,
    r#"{"iss":"corp","aud":["web","pay"],"scope":["read"],"role":["admin","clerk"],"level":"3"}"#,
    r#"{"iss":"corp","aud":[],"scope":"charged","role":"admin clerk","vip":false,"in":{"role":"clerk"}}"#,
    r#"{"iss":"corp","scope":["read",7],"role":7,"level":3.0,"in":{"role":["x","admin"]}}"#,
    r#"{"iss":"other","aud":"pay","scope":"charge","role":"admin","level":3,"vip":true}"#,
];
const ISSUERS: &[&str] = &["corp", "corp", "corp", "other"];
const AUDIENCES: &[&str] = &["pay", "web"];
const CLAIMS: &[&str] = &["scope", "role", "level", "vip", "in[role]", "in"];
const TESTS: &[&str] = &[
    r#"{"exists":true}"#,
    r#"{"exists":false}"#,
    r#"{"equals":"admin"}"#,
    r#"{"equals":3}"#,
    r#"{"equals":true}"#,
    r#"{"containsAny":["charge"]}"#,
    r#"{"containsAny":["admin","read"]}"#,
];
const PORTS: &[u16] = &[8080, 9090];
/// Around 2027-01-31.
const MOMENTS: &[u64] = &[0, 1_801_353_599, 1_801_353_600, 1_900_000_000];

/// A request that owns what it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    identity: Option<SpiffeId>,
    ip: IpAddr,
    port: u16,
    http: Option<(&'static str, &'static str, &'static str)>,
    sni: Option<&'static str>,
    headers: Vec<(String, String)>,
    claims: Option<Arc<Claims>>,
    now: u64,
}

impl Asked {
    pub(crate) fn after(self, seconds: u64) -> Self {
        Self { now: self.now + seconds, ..self }
    }

    pub(crate) fn without_identity(self) -> Self {
        Self { identity: None, ..self }
    }

    pub(crate) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    pub(crate) fn request(&self) -> Request<'_> {
        Request {
            source: Source { identity: self.identity.as_ref(), ip: self.ip },
            port: self.port,
            http: self.http.map(|(method, host, path)| Http {
                method,
                host,
                path,
                headers: &self.headers,
                claims: self.claims.as_deref(),
            }),
            sni: self.sni,
            now: self.now,
        }
    }
}

/// Any request.
pub(crate) fn asked() -> impl Strategy<Value = Asked> {
    let http = (select(&["GET", "POST", "get"]), select(HOSTS), select(PATHS));
    let identity = prop_oneof![9 => select(IDENTITIES).prop_map(Some), 1 => Just(None)];
    let headers = vec(select(FIELDS), 0..4);
    let http = (option::weighted(0.7, http), option::of(select(NAMES)), option::of(select(TOKENS)));
    (identity, select(ADDRESSES), select(PORTS), http, headers, select(MOMENTS)).prop_map(
        |(identity, ip, port, (http, sni, token), headers, now)| Asked {
            identity: identity.map(|id| SpiffeId::parse(id).expect("the world has valid IDs")),
            ip: ip.parse().expect("the world has valid addresses"),
            port,
            sni: sni.filter(|_| http.is_none()),
            http,
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            claims: token.map(|json| Arc::new(Claims::parse(json).expect("the world has valid tokens"))),
            now,
        },
    )
}

/// Any policies, each under a name of its own.
pub(crate) fn policies(max: usize) -> impl Strategy<Value = Vec<Sourced>> {
    vec(spec(), 0..=max).prop_map(|specs| named("p", specs))
}

/// Policies of one of these actions, under names that [`policies`] does not use.
pub(crate) fn policies_of(actions: &'static [&'static str]) -> impl Strategy<Value = Vec<Sourced>> {
    vec((select(actions), spec()), 1..=2).prop_map(|specs| {
        let with = |(action, (namespace, mut spec)): (&str, (&'static str, Value))| {
            spec["action"] = json!(action);
            (namespace, spec)
        };
        named("q", specs.into_iter().map(with).collect())
    })
}

/// Up to three exceptions to mutual TLS.
pub(crate) fn exceptions() -> impl Strategy<Value = Vec<Document>> {
    vec(exception(), 0..4).prop_map(|specs| {
        let document = |(index, (namespace, spec)): (usize, (&'static str, Value))| {
            let metadata = json!({"name": format!("x{index}"), "namespace": namespace});
            let document = json!({
                "apiVersion": "sidegate.dev/v1alpha1", "kind": "PlaintextException", "metadata": metadata, "spec": spec,
            });
            parse_json(&document.to_string(), &format!("generated:x{index}")).expect("the world has valid exceptions")
        };
        specs.into_iter().enumerate().map(document).collect()
    })
}

fn exception() -> impl Strategy<Value = (&'static str, Value)> {
    let namespace = prop_oneof![6 => Just("shop"), 2 => Just("sidegate"), 1 => Just("bank")];
    let selector = option::weighted(0.2, select(&[r#"{"app":"pay"}"#, r#"{"app":"web"}"#]));
    let some =
        |chance: f64, words: &'static [&'static str]| option::weighted(chance, vec(select(words), 1..3));
    let from = vec(vec(select(BLOCKS), 1..3).prop_map(|blocks| json!({"ipBlocks": blocks})), 1..3);
    let operation = (vec(select(PORTS), 1..3), some(0.3, METHODS), some(0.5, PATTERNS));
    let operation = operation.prop_map(|(ports, methods, paths)| {
        fields([
            ("ports", Some(ports.into())),
            ("methods", methods.map(Value::from)),
            ("paths", paths.map(Value::from)),
        ])
    });
    let expires = prop_oneof![1 => Just("2027-01-31"), 2 => Just("2099-12-31")];
    (namespace, selector, from, vec(operation, 1..3), expires).prop_map(
        |(namespace, selector, from, to, expires)| {
            let mut spec = json!({"from": from, "to": to, "expires": expires, "reason": "the small world"});
            if let Some(selector) = selector {
                spec["selector"] = serde_json::from_str(selector).expect("the world has valid labels");
            }
            (namespace, spec)
        },
    )
}

fn named(prefix: &str, specs: Vec<(&'static str, Value)>) -> Vec<Sourced> {
    let policy = |(index, (namespace, spec))| {
        let metadata = json!({"name": format!("{prefix}{index}"), "namespace": namespace});
        let document = json!({
            "apiVersion": "sidegate.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec,
        });
        parse_json(&document.to_string(), &format!("generated:{prefix}{index}"))
            .ok()
            .and_then(Document::into_authorization)
            .expect("the world has valid policies")
    };
    specs.into_iter().enumerate().map(policy).collect()
}

fn spec() -> impl Strategy<Value = (&'static str, Value)> {
    let namespace = prop_oneof![6 => Just("shop"), 2 => Just("sidegate"), 1 => Just("bank")];
    let selector = option::weighted(0.3, select(&[r#"{"app":"pay"}"#, r#"{"app":"web"}"#]));
    let action = prop_oneof![4 => Just("Allow"), 1 => Just("Deny"), 1 => Just("Require")];
    let mode = prop_oneof![4 => Just("Enforce"), 1 => Just("Shadow")];
    (namespace, selector, action, mode, vec(rule(), 1..4)).prop_map(
        |(namespace, selector, action, mode, rules)| {
            let mut spec = json!({"action": action, "mode": mode, "rules": rules});
            if let Some(selector) = selector {
                spec["selector"] = serde_json::from_str(selector).expect("the world has valid labels");
            }
            (namespace, spec)
        },
    )
}

fn rule() -> impl Strategy<Value = Value> {
    let from = option::weighted(0.7, vec(peer(), 1..3));
    let to = option::weighted(0.7, vec(operation(), 1..3));
    let expires = option::weighted(0.2, Just("2027-01-31"));
    (from, to, option::weighted(0.3, jwt()), option::weighted(0.3, when()), expires).prop_map(
        |(from, to, jwt, when, expires)| {
            let is_of_tls = |to: &Vec<Value>| to.iter().any(|to| to.get("sni").is_some());
            let jwt = jwt.filter(|_| !to.as_ref().is_some_and(is_of_tls));
            let to = if from.is_none() && to.is_none() && jwt.is_none() && when.is_none() {
                Some(vec![json!({"paths": ["/**"]})])
            } else {
                to
            };
            fields([
                ("from", from.map(Value::from)),
                ("to", to.map(Value::from)),
                ("jwt", jwt),
                ("when", when.map(Value::from)),
                ("expires", expires.map(Value::from)),
            ])
        },
    )
}

fn jwt() -> impl Strategy<Value = Value> {
    let audiences = option::weighted(0.3, vec(select(AUDIENCES), 1..3));
    let claims = btree_map(select(CLAIMS), select(TESTS), 0..3);
    (select(ISSUERS), audiences, claims).prop_map(|(issuer, audiences, claims)| {
        let test = |(name, test): (&str, &str)| {
            (name.to_owned(), serde_json::from_str::<Value>(test).expect("the world has valid tests"))
        };
        let claims: Map<_, _> = claims.into_iter().map(test).collect();
        fields([
            ("issuer", Some(issuer.into())),
            ("audiences", audiences.map(Value::from)),
            (
                "claims",
                Some(Value::Object(claims)).filter(|it| it.as_object().is_some_and(|it| !it.is_empty())),
            ),
        ])
    })
}

/// Any condition.
pub(crate) fn when() -> impl Strategy<Value = String> {
    select(QUESTIONS).prop_map(str::to_owned).prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("{one} && {other}")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("{one}||{other}")),
            inner.clone().prop_map(|it| format!("!({it})")),
            inner.prop_map(|it| format!("( {it} )")),
        ]
    })
}

fn peer() -> impl Strategy<Value = Value> {
    let some =
        |chance: f64, words: &'static [&'static str]| option::weighted(chance, vec(select(words), 1..3));
    let parts = (
        some(0.3, IDENTITIES),
        some(0.4, ACCOUNTS),
        some(0.2, NAMESPACES),
        some(0.2, DOMAINS),
        some(0.2, BLOCKS),
    );
    parts.prop_map(|(principals, accounts, namespaces, domains, blocks)| {
        or_else(
            fields([
                ("principals", principals.map(Value::from)),
                ("serviceAccounts", accounts.map(Value::from)),
                ("namespaces", namespaces.map(Value::from)),
                ("trustDomains", domains.map(Value::from)),
                ("ipBlocks", blocks.map(Value::from)),
            ]),
            json!({"trustDomains": DOMAINS}),
        )
    })
}

fn operation() -> impl Strategy<Value = Value> {
    let some =
        |chance: f64, words: &'static [&'static str]| option::weighted(chance, vec(select(words), 1..3));
    let ports = option::weighted(0.2, vec(select(PORTS), 1..3));
    let asked = prop_oneof![
        5 => (some(0.4, METHODS), some(0.6, PATTERNS)).prop_map(|(methods, paths)| [
            ("methods", methods.map(Value::from)),
            ("paths", paths.map(Value::from)),
        ]),
        1 => grpc().prop_map(|grpc| [("grpc", Some(grpc)), ("methods", None)]),
    ];
    let of_http =
        (asked, some(0.2, HOST_PATTERNS), ports.clone()).prop_map(|([first, second], hosts, ports)| {
            or_else(
                fields([first, second, ("hosts", hosts.map(Value::from)), ("ports", ports.map(Value::from))]),
                json!({"ports": PORTS}),
            )
        });
    let of_tls = (vec(select(HOST_PATTERNS), 1..3), ports).prop_map(|(names, ports)| {
        fields([("sni", Some(Value::from(names))), ("ports", ports.map(Value::from))])
    });
    prop_oneof![6 => of_http, 1 => of_tls]
}

fn grpc() -> impl Strategy<Value = Value> {
    (select(SERVICES), option::of(select(CALLS))).prop_map(|(service, method)| {
        fields([("service", Some(service.into())), ("method", method.map(Value::from))])
    })
}

fn fields<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

/// An empty map is no source and no operation.
fn or_else(value: Value, other: Value) -> Value {
    if value.as_object().is_some_and(Map::is_empty) { other } else { value }
}
