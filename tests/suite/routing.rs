//! Routes of a service, through real sidecars: which rule takes a request, and what becomes of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::net::TcpListener;

use crate::mesh::{App, Authority, Connection, Http, Port, Reply, Sidecar, id};

const ORDERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

/// Lets nobody near `/admin`.
const NOT_ADMIN: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec:
  action: Deny
  rules: [{name: admin, to: [{paths: [/admin]}]}]
";

/// A service behind its sidecar.
struct Service {
    app: App,
    sidecar: Sidecar,
    account: &'static str,
}

impl Service {
    async fn start(account: &'static str, authority: &Authority, policies: &str) -> Self {
        let app = App::start().await;
        let port = [Port::Inbound(app.address, "protocol: http")];
        let sidecar = Sidecar::start(account, authority, policies, &port);
        Self { app, sidecar, account }
    }

    fn seen(&self) -> usize {
        self.app.seen().len()
    }

    /// As an entry of `services`.
    fn entry(&self, routes: &str) -> String {
        entry(self.account, &self.sidecar.inbound().to_string(), routes)
    }
}

fn entry(account: &str, endpoint: &str, routes: &str) -> String {
    format!(
        "- {{name: {account}, identities: ['{}'], endpoints: ['{endpoint}'], routes: {routes}}}\n",
        id(account)
    )
}

/// A sidecar beside `shop/orders` whose outbound port leads to `payments`, with `services` described.
fn orders(authority: &Authority, payments: &Service, services: &[String]) -> Sidecar {
    let ports = [Port::Outbound("payments", payments.sidecar.inbound(), "protocol: http")];
    let more = format!("services:\n{}", services.concat());
    Sidecar::start_as("orders", &authority.svid(&id("orders")), authority, ORDERS, &ports, &more)
}

async fn call(orders: &Sidecar, request: http::request::Builder) -> Reply {
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    client.send(request.header("host", "payments:9001").body(Full::new(Bytes::new())).unwrap()).await.unwrap()
}

async fn get(orders: &Sidecar, path: &str) -> Reply {
    call(orders, Request::get(path)).await
}

#[tokio::test]
async fn without_routes_everything_goes_to_the_service_and_with_them_what_none_matches_goes_nowhere() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    let plain = orders(&authority, &payments, &[payments.entry("[]")]);
    assert_eq!(get(&plain, "/a").await.status, 200);
    let routes = "[{matches: [{path: {value: /a}}]}]";
    let by_rule = orders(&authority, &payments, &[payments.entry(routes)]);
    assert_eq!(get(&by_rule, "/a/b").await.status, 200);
    let reply = get(&by_rule, "/ab").await;
    assert_eq!(reply.status, 404);
    assert!(reply.body.starts_with("not found (request id "), "{}", reply.body);
    assert_eq!(by_rule.accessed(|line| line["status"] == 404)["code"], "SG0660");
    assert_eq!(by_rule.accessed(|line| line["status"] == 200)["route"], "rule-1");
    assert_eq!(payments.seen(), 2);
}

#[tokio::test]
async fn backends_get_requests_by_their_weights() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    let next = Service::start("next", &authority, ORDERS).await;
    let never = Service::start("never", &authority, ORDERS).await;
    let routes = "[{backendRefs: [{service: payments, weight: 9}, {service: next, weight: 1}, \
                  {service: never, weight: 0}]}]";
    let services = [payments.entry(routes), next.entry("[]"), never.entry("[]")];
    let orders = orders(&authority, &payments, &services);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    for _ in 0..500 {
        assert_eq!(client.status("GET", "/a").await, 200);
    }
    // Six standard deviations of a binomial of 500 at 0.1 are 40.
    assert!((10..=90).contains(&next.seen()), "{}", next.seen());
    assert_eq!((payments.seen() + next.seen(), never.seen()), (500, 0));
}

#[tokio::test]
async fn a_backend_that_is_not_known_fails_its_share_and_no_other() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    let routes = "[{matches: [{path: {value: /half}}], backendRefs: [{service: payments}, {service: nobody}]}, \
                  {matches: [{path: {value: /none}}], backendRefs: [{service: payments, weight: 0}]}, {}]";
    let orders = orders(&authority, &payments, &[payments.entry(routes)]);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    let mut failed = 0;
    for _ in 0..100 {
        let status = client.status("GET", "/half").await;
        assert!(matches!(status, 200 | 500), "{status}");
        failed += usize::from(status == 500);
    }
    // Six standard deviations of a binomial of 100 at 0.5 are 30.
    assert!((20..=80).contains(&failed), "{failed}");
    assert_eq!(payments.seen() + failed, 100);
    assert_eq!(get(&orders, "/none").await.status, 500);
    assert_eq!(orders.accessed(|line| line["status"] == 500)["code"], "SG0661");
    assert_eq!(get(&orders, "/other").await.status, 200);
}

#[tokio::test]
async fn each_backend_must_prove_its_own_identity() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    // Said to be `next`, and it is `payments`.
    let impostor = entry("next", &payments.sidecar.inbound().to_string(), "[]");
    let routes = "[{matches: [{path: {value: /next}}], backendRefs: [{service: next}]}, {}]";
    let orders = orders(&authority, &payments, &[payments.entry(routes), impostor]);
    assert_eq!(get(&orders, "/next").await.status, 502);
    assert_eq!(orders.accessed(|line| line["status"] == 502)["code"], "SG0305");
    assert_eq!(get(&orders, "/a").await.status, 200);
    assert_eq!(payments.seen(), 1);
}

#[tokio::test]
async fn header_fields_change_on_the_way_there_and_back() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    let routes = "[{matches: [{path: {value: /a}}], filters: [
        {type: RequestHeaderModifier, requestHeaderModifier:
          {set: [{name: x-set, value: new}], add: [{name: x-add, value: two}], remove: [x-gone]}},
        {type: ResponseHeaderModifier, responseHeaderModifier:
          {set: [{name: x-answer, value: rule}], remove: [content-type]}}],
        backendRefs: [{service: payments, filters: [
          {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: '1'}]}}]}]}, {}]";
    let orders = orders(&authority, &payments, &[payments.entry(routes)]);
    let asked = |path: &str| {
        // The application answers in the type that it is asked in.
        let asked = Request::get(path).header("content-type", "application/grpc");
        asked.header("x-set", "old").header("x-add", "one").header("x-gone", "here")
    };
    let reply = call(&orders, asked("/a")).await;
    assert_eq!(
        (&reply.headers["x-answer"], reply.headers.get("content-type")),
        (&"rule".parse().unwrap(), None)
    );
    let reply = call(&orders, asked("/b")).await;
    assert!(reply.headers.get("x-answer").is_none() && reply.headers.contains_key("content-type"));
    let seen = payments.app.seen();
    let values = |index: usize, name: &str| {
        let values = seen[index].headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned());
        values.collect::<Vec<_>>()
    };
    let of = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (name, changed, kept) in [
        ("x-set", &["new"][..], &["old"][..]),
        ("x-add", &["one", "two"], &["one"]),
        ("x-gone", &[], &["here"]),
        ("x-backend", &["1"], &[]),
    ] {
        assert_eq!((values(0, name), values(1, name)), (of(changed), of(kept)), "{name}");
    }
}

#[tokio::test]
async fn a_redirect_is_answered_here_and_sent_nowhere() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    let redirect = |path: &str, how: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{how}}}}}]}}"
        )
    };
    let rules = [
        redirect("/plain", "statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /there}"),
        redirect("/secure", "scheme: https, hostname: pay.test"),
        redirect(
            "/port",
            "port: 8443, path: {type: ReplacePrefixMatch, replacePrefixMatch: /p}, statusCode: 308",
        ),
        redirect("/eighty", "scheme: http, port: 80"),
        "{}".to_owned(),
    ];
    let orders = orders(&authority, &payments, &[payments.entry(&format!("[{}]", rules.join(", ")))]);
    for (path, status, location) in [
        ("/plain/x?q=%2e", 301, "http://payments:9001/there?q=%2e"),
        ("/secure/x", 302, "https://pay.test/secure/x"),
        ("/port/x/y", 308, "http://payments:8443/p/x/y"),
        ("/eighty", 302, "http://payments/eighty"),
    ] {
        let reply = get(&orders, path).await;
        assert_eq!((reply.status.as_u16(), reply.headers["location"].to_str().unwrap()), (status, location));
        assert!(reply.body.is_empty());
    }
    assert_eq!(payments.seen(), 0);
    assert_eq!(get(&orders, "/other").await.status, 200);
}

#[tokio::test]
async fn a_rewritten_request_is_what_the_policy_of_the_called_service_judges() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, NOT_ADMIN).await;
    let rewrite = |path: &str, to: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: URLRewrite, urlRewrite: \
             {{hostname: Inner.Test, path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}}}}}]}}"
        )
    };
    let routes = format!("[{}, {}, {{}}]", rewrite("/old", "/new"), rewrite("/innocent", "/admin"));
    let orders = orders(&authority, &payments, &[payments.entry(&routes)]);
    assert_eq!(get(&orders, "/old/x?q=/admin").await.status, 200);
    let seen = &payments.app.seen()[0];
    assert_eq!(
        (seen.target.as_str(), seen.headers["host"].to_str().unwrap()),
        ("/new/x?q=/admin", "inner.test")
    );
    // What looked harmless here is judged as what it became, and the other way round.
    assert_eq!(get(&orders, "/innocent").await.status, 403);
    let line = payments.sidecar.accessed(|line| line["verdict"] == "denied");
    assert_eq!((&line["path"], &line["rule"]), (&"/admin".into(), &"admin".into()));
    assert_eq!(get(&orders, "/admin").await.status, 403);
    // A path that is ambiguous is refused before any rule sees it.
    assert_eq!(get(&orders, "/old/..%2fadmin").await.status, 400);
    assert_eq!(payments.seen(), 1);
}

#[tokio::test]
async fn a_rule_with_a_timeout_gives_up_and_the_others_do_not() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = entry("next", &silent.local_addr().unwrap().to_string(), "[]");
    let routes = "[{matches: [{path: {value: /slow}}], backendRefs: [{service: next}], timeouts: {request: 200ms}}, \
                  {timeouts: {request: 5s}}]";
    let orders = orders(&authority, &payments, &[payments.entry(routes), silent]);
    let began = Instant::now();
    assert_eq!(get(&orders, "/slow").await.status, 504);
    assert!(began.elapsed() < Duration::from_secs(4), "before limits.connectTimeout: {:?}", began.elapsed());
    assert_eq!(orders.accessed(|line| line["status"] == 504)["code"], "SG0662");
    assert_eq!(get(&orders, "/a").await.status, 200);
}

#[tokio::test]
async fn a_fault_is_seen_wherever_one_looks_and_spares_the_other_rules() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    let routes = "[{name: broken, matches: [{path: {value: /a}}], \
                   faults: {forTests: true, abort: {percent: 100, status: 503}}}, \
                  {name: slow, matches: [{path: {value: /b}}], \
                   faults: {forTests: true, delay: {percent: 100, duration: 50ms}}}, \
                  {name: late, matches: [{path: {value: /c}}], timeouts: {request: 50ms}, \
                   faults: {forTests: true, delay: {percent: 100, duration: 1m}}}, \
                  {name: rare, matches: [{path: {value: /d}}], \
                   faults: {forTests: true, abort: {percent: 0, status: 503}}}, {}]";
    let orders = orders(&authority, &payments, &[payments.entry(routes)]);
    let warned = orders.logged(|line| line["level"] == "WARN" && line["rule"] == "broken");
    assert_eq!((&warned["code"], &warned["service"]), (&"SG0663".into(), &"shop/payments".into()));

    let reply = get(&orders, "/a").await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.starts_with("fault (request id "), "{}", reply.body);
    let line = orders.accessed(|line| line["route"] == "broken");
    assert_eq!((&line["code"], &line["verdict"]), (&"SG0663".into(), &"failed".into()));

    let began = Instant::now();
    assert_eq!(get(&orders, "/b").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(50));
    let line = orders.accessed(|line| line["route"] == "slow");
    assert_eq!((&line["code"], &line["verdict"]), (&"SG0663".into(), &"allowed".into()));

    assert_eq!(get(&orders, "/c").await.status, 504);
    assert_eq!(get(&orders, "/d").await.status, 200);
    assert_eq!(get(&orders, "/other").await.status, 200);
    assert_eq!(payments.seen(), 3);
    let metrics = orders.page("/metrics").await.body;
    for wanted in [
        "sidegate_faults_injected_total{service=\"shop/payments\",route=\"broken\",kind=\"abort\"} 1",
        "sidegate_faults_injected_total{service=\"shop/payments\",route=\"slow\",kind=\"delay\"} 1",
    ] {
        assert!(metrics.contains(wanted), "{wanted}\n{metrics}");
    }
    assert!(!metrics.contains("route=\"rare\""));
}

#[tokio::test]
async fn changed_routes_count_for_the_next_request_of_an_open_connection() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    let next = Service::start("next", &authority, ORDERS).await;
    let services = [payments.entry("[{name: first}]"), next.entry("[]")];
    let orders = orders(&authority, &payments, &services);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    assert_eq!(client.status("GET", "/a").await, 200);
    orders.configure(|text| {
        text.replace("[{name: first}]", "[{name: second, backendRefs: [{service: next}]}]")
    });
    orders.logged(|line| line["message"] == "configuration applied");
    assert_eq!(client.status("GET", "/a").await, 200);
    assert_eq!((payments.seen(), next.seen()), (1, 1));
    // What is refused changes nothing.
    orders.configure(|text| text.replace("[{name: second,", "[{name: third, hostnames: [],"));
    orders.logged(|line| line["code"] == "SG0403");
    assert_eq!(client.status("GET", "/a").await, 200);
    assert_eq!((payments.seen(), next.seen()), (1, 2));
}

// Waiting for a line holds up a thread, and the application behind the mirror needs one meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_gets_copies_and_what_becomes_of_them_changes_nothing() {
    let authority = Authority::new();
    let payments = Service::start("payments", &authority, ORDERS).await;
    let shadow = Service::start("shadow", &authority, ORDERS).await;
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = entry("silent", &silent.local_addr().unwrap().to_string(), "[]");
    let mirror = |path: &str, to: &str, share: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestMirror, requestMirror: \
             {{backendRef: {{service: {to}}}{share}}}}}]}}"
        )
    };
    let routes = [
        mirror("/all", "shadow", ""),
        mirror("/none", "shadow", ", percent: 0"),
        mirror("/some", "shadow", ", fraction: {numerator: 1, denominator: 4}"),
        mirror("/silent", "silent", ""),
        mirror("/unknown", "nobody", ""),
        "{}".to_owned(),
    ];
    let services = [payments.entry(&format!("[{}]", routes.join(", "))), shadow.entry("[]"), silent];
    let orders = orders(&authority, &payments, &services);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    assert_eq!(client.status("GET", "/all?q=1").await, 200);
    let line = shadow.sidecar.accessed(|line| line["path"] == "/all");
    let original = payments.sidecar.accessed(|line| line["path"] == "/all");
    assert_eq!(line["request_id"], original["request_id"]);
    assert_eq!((shadow.app.seen()[0].target.as_str(), shadow.seen()), ("/all?q=1", 1));

    for _ in 0..200 {
        assert_eq!(client.status("GET", "/some").await, 200);
    }
    assert_eq!(client.status("GET", "/none").await, 200);
    assert_eq!(client.status("GET", "/unknown").await, 200);
    orders.accessed(|line| line["code"] == "SG0604");
    // A body is not held for a copy, so there is none. More silent copies than there may be under way hold nothing up.
    let post = Request::post("/all").header("host", "payments").body(Full::from("body")).unwrap();
    assert_eq!(client.send(post).await.unwrap().status, 200);
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.status("GET", "/silent").await, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let metrics = orders.page("/metrics").await.body;
    let count = |service: &str, route: &str, result: &str| {
        let labels = format!("{{service=\"shop/{service}\",route=\"{route}\",result=\"{result}\"}} ");
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(&format!("sidegate_mirrored_total{labels}")));
        line.map_or(0, |count| count.parse::<usize>().unwrap())
    };
    assert_eq!(count("shadow", "rule-1", "body"), 1);
    assert!(count("silent", "rule-4", "busy") > 0, "{metrics}");
    assert_eq!(count("nobody", "rule-5", "failed"), 1);
    // Six standard deviations of a binomial of 200 at 0.25 are 37.
    let some = count("shadow", "rule-3", "sent");
    assert!((13..=87).contains(&some), "{some}");
    assert!(shadow.app.seen().iter().all(|seen| seen.method == "GET" && seen.target != "/none"));
}
