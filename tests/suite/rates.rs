//! Rate limits, through real sidecars: what passes is what the limit says, however many workers and connections there
//! are, and whoever is over it learns so in the words of its protocol.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::task::JoinSet;

use crate::mesh::{App, Authority, Connection, Http, Port, Reply, Sidecar, id};

/// Orders and carts may call everything but `/admin`.
const CALLERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: both, from: [{serviceAccounts: [shop/orders, shop/carts]}]}]
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec:
  action: Deny
  rules: [{name: admin, to: [{paths: [/admin]}]}]
";

/// Six requests of each caller, and then one in ten minutes.
const SIX_EACH: &str = "protocol: http, rateLimits: [{name: six, rate: {requests: 6, period: 1h}}]";

fn payments(authority: &Authority, app: &App, fields: &str, more: &str) -> Sidecar {
    let port = [Port::Inbound(app.address, fields)];
    Sidecar::start_as("payments", &authority.svid(&id("payments")), authority, CALLERS, &port, more)
}

/// A sidecar beside `shop/<account>` that calls payments.
fn caller(account: &str, authority: &Authority, payments: SocketAddr) -> Sidecar {
    let port = [Port::Outbound("payments", payments, "protocol: auto")];
    Sidecar::start_as(account, &authority.svid(&id(account)), authority, CALLERS, &port, "workers: 2")
}

async fn client(sidecar: &Sidecar, version: Http) -> Connection {
    Connection::plain(sidecar.outbound(), version).await
}

/// What `connections` at once are answered to three requests each.
async fn statuses(sidecar: &Sidecar, connections: usize) -> Vec<u16> {
    let mut all = JoinSet::new();
    for _ in 0..connections {
        let mut client = client(sidecar, Http::One).await;
        all.spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..3 {
                statuses.push(client.status("GET", "/a").await);
            }
            statuses
        });
    }
    let mut statuses = all.join_all().await.concat();
    statuses.sort_unstable();
    statuses
}

/// The value of a sample of `/metrics`, named with its labels.
async fn sample(sidecar: &Sidecar, name: &str) -> Option<u64> {
    let page = sidecar.page("/metrics").await.body;
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn a_caller_over_its_limit_is_refused_by_all_workers_together_and_another_is_not() {
    let (authority, app) = (Authority::new(), App::start().await);
    let payments = payments(&authority, &app, SIX_EACH, "workers: 4");
    let orders = caller("orders", &authority, payments.inbound());
    let carts = caller("carts", &authority, payments.inbound());
    let mut wanted = vec![200; 6];
    wanted.extend([429; 18]);
    assert_eq!(statuses(&orders, 8).await, wanted);
    assert_eq!(app.seen().len(), 6);
    let mut client = client(&carts, Http::One).await;
    assert_eq!(client.status("GET", "/a").await, 200);
    let limited = r#"sidegate_rate_limited_total{direction="inbound",limit="PORT/six",src="shop/orders",reason="rate"}"#;
    let limited = limited.replace("PORT", &app.address.port().to_string());
    assert_eq!(sample(&payments, &limited).await, Some(18));
    let line = payments.accessed(|line| line["status"] == 429);
    assert_eq!(
        (&line["code"], &line["verdict"], &line["rule"]),
        (&"SG0646".into(), &"failed".into(), &"both".into())
    );
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.ends_with("/six: 6 requests in 1h have come"), "{detail}");
}

#[tokio::test]
async fn the_refusal_is_429_with_retry_after_and_tells_nothing_of_the_limit() {
    let (authority, app) = (Authority::new(), App::start().await);
    let fields = "protocol: http, rateLimits: [{name: one, rate: {requests: 1, period: 1h}}]";
    let payments = payments(&authority, &app, fields, "");
    let orders = caller("orders", &authority, payments.inbound());
    assert_eq!(client(&orders, Http::One).await.status("POST", "/a").await, 200);
    for version in [Http::One, Http::Two] {
        let reply = client(&orders, version).await.call("POST", "/a").await.unwrap();
        assert_eq!(reply.status, 429);
        let seconds: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((3_500..=3_600).contains(&seconds), "{seconds}");
        assert!(reply.body.starts_with("too many requests (request id "), "{}", reply.body);
        assert!(!reply.body.contains("one"), "{}", reply.body);
    }
    assert_eq!(app.seen().len(), 1);
}

async fn grpc(client: &mut Connection) -> Reply {
    let request =
        Request::post("http://payments/bank.Payments/Pay").header("content-type", "application/grpc");
    client.send(request.body(Full::new(Bytes::from_static(b"\0\0\0\0\0"))).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_grpc_caller_learns_resource_exhausted_in_an_answer_of_trailers_alone() {
    let (authority, app) = (Authority::new(), App::start().await);
    let fields = "protocol: http, rateLimits: [{name: one, rate: {requests: 1, period: 1h}}]";
    let payments = payments(&authority, &app, fields, "");
    let orders = caller("orders", &authority, payments.inbound());
    let mut client = client(&orders, Http::Two).await;
    assert!(!grpc(&mut client).await.headers.contains_key("grpc-status"));
    let reply = grpc(&mut client).await;
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
    assert_eq!(reply.headers["grpc-status"], "8");
    assert_eq!(reply.headers["grpc-message"], "too many requests");
    assert!(reply.trailers.is_none());
    assert_eq!(payments.accessed(|line| line["code"] == "SG0646")["protocol"], "http2");
}

#[tokio::test]
async fn what_policy_denies_or_the_limit_does_not_name_costs_nothing() {
    let (authority, app) = (Authority::new(), App::start().await);
    let fields = "protocol: http, rateLimits: [{name: charges, rate: {requests: 1, period: 1h}, \
                  matches: [{path: {value: /charge}, method: POST}, {path: {value: /admin}}]}]";
    let payments = payments(&authority, &app, fields, "");
    let orders = caller("orders", &authority, payments.inbound());
    let mut client = client(&orders, Http::One).await;
    for _ in 0..3 {
        assert_eq!(client.status("GET", "/admin").await, 403);
        assert_eq!(client.status("GET", "/charge").await, 200);
        assert_eq!(client.status("POST", "/charges").await, 200);
    }
    assert_eq!(client.status("POST", "/charge/17").await, 200);
    // Whichever way it is spelled.
    assert_eq!(client.status("POST", "/%63harge").await, 429);
}

#[tokio::test]
async fn a_caller_beyond_those_that_are_told_apart_is_refused() {
    let (authority, app) = (Authority::new(), App::start().await);
    let payments = payments(&authority, &app, SIX_EACH, "limits: {rateCallers: 1}");
    let orders = caller("orders", &authority, payments.inbound());
    let carts = caller("carts", &authority, payments.inbound());
    assert_eq!(client(&orders, Http::One).await.status("GET", "/a").await, 200);
    assert_eq!(client(&carts, Http::One).await.status("GET", "/a").await, 429);
    assert_eq!(payments.accessed(|line| line["status"] == 429)["code"], "SG0647");
    assert_eq!(client(&orders, Http::One).await.status("GET", "/a").await, 200);
}

#[tokio::test]
async fn a_changed_file_keeps_what_was_counted_of_a_limit_that_it_does_not_change() {
    let (authority, app) = (Authority::new(), App::start().await);
    let payments = payments(&authority, &app, SIX_EACH, "");
    let orders = caller("orders", &authority, payments.inbound());
    assert_eq!(statuses(&orders, 2).await, [200; 6]);
    payments.configure(|file| {
        file.replace("rateLimits: [", "rateLimits: [{name: more, rate: {requests: 900}}, ")
    });
    payments.configured(1);
    assert_eq!(statuses(&orders, 1).await, [429; 3]);
    payments.configure(|file| file.replace("requests: 6,", "requests: 7,"));
    payments.configured(2);
    assert_eq!(statuses(&orders, 1).await, [200; 3]);
}

#[tokio::test]
async fn a_route_takes_no_more_requests_of_the_application_than_its_limit_says() {
    let (authority, app) = (Authority::new(), App::start().await);
    let payments = payments(&authority, &app, "protocol: http", "");
    let services = format!(
        "workers: 4\nservices:\n- name: payments\n  identities: ['{}']\n  endpoints: ['{}']\n  routes:\n  \
         - {{name: charges, matches: [{{path: {{value: /charge}}}}], rateLimit: {{requests: 2, period: 1h}}}}\n  - {{}}\n",
        id("payments"),
        payments.inbound(),
    );
    let port = [Port::Service("payments", "protocol: auto")];
    let orders =
        Sidecar::start_as("orders", &authority.svid(&id("orders")), &authority, CALLERS, &port, &services);
    let mut statuses = Vec::new();
    for _ in 0..6 {
        // Each connection may meet another worker.
        let mut client = client(&orders, Http::One).await;
        statuses.push(client.status("GET", "/charge").await);
        assert_eq!(client.status("GET", "/other").await, 200);
    }
    assert_eq!(statuses, [200, 200, 429, 429, 429, 429]);
    assert_eq!(app.seen().len(), 8);
    let limited = r#"sidegate_rate_limited_total{direction="outbound",limit="shop/payments/charges",src="none",reason="rate"}"#;
    assert_eq!(sample(&orders, limited).await, Some(4));
    assert_eq!(orders.accessed(|line| line["status"] == 429)["route"], "charges");
}
