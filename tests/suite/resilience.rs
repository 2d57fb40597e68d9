//! Calls to endpoints that fail: what is tried again reaches somebody exactly once, what may have been processed is
//! never sent twice, and what fails at once says which bound or state was in the way.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::{net::TcpListener, task::JoinSet};

use crate::mesh::{
    App, Authority, Connection,
    Does::{self, Answers, AnswersLast, Breaks, BreaksOff, Closes, Hangs, Refuses, Stops},
    Endpoint, Http, PATIENCE, Port, Reply, Sidecar, id,
};

const POLICY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

/// A sidecar with one worker whose application calls `shop/payments` at `endpoints`, by `rules`.
fn orders(authority: &Authority, endpoints: &[SocketAddr], rules: &str) -> Sidecar {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("'{endpoint}'")).collect();
    let services = format!(
        "workers: 1\nservices:\n- name: shop/payments\n  identities: ['{}']\n  endpoints: [{}]\n{rules}",
        id("payments"),
        endpoints.join(", "),
    );
    let svid = authority.svid(&id("orders"));
    let port = [Port::Service("payments", "protocol: auto")];
    Sidecar::start_as("orders", &svid, authority, POLICY, &port, &services)
}

async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn always(authority: &Authority, does: Does) -> Endpoint {
    Endpoint::start(authority, move |_| does).await
}

async fn client(orders: &Sidecar, version: Http) -> Connection {
    Connection::plain(orders.outbound(), version).await
}

/// `method /a` with a body.
async fn post(client: &mut Connection, version: Http, method: &str) -> u16 {
    let request = match version {
        Http::One => Request::builder().uri("/a").header("host", "payments"),
        Http::Two => Request::builder().uri("http://payments/a"),
    };
    let body = Full::new(Bytes::from_static(b"ten euros"));
    client.send(request.method(method).body(body).unwrap()).await.unwrap().status.as_u16()
}

async fn grpc(client: &mut Connection) -> Reply {
    let request =
        Request::post("http://payments/bank.Payments/Pay").header("content-type", "application/grpc");
    client.send(request.body(Full::default()).unwrap()).await.unwrap()
}

/// The value of a sample of `/metrics`, named with its labels; 0 while there is none.
async fn sample(sidecar: &Sidecar, name: &str) -> u64 {
    let page = sidecar.page("/metrics").await.body;
    let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn what_could_not_be_sent_goes_to_another_endpoint_and_is_executed_once() {
    let authority = Authority::new();
    for version in [Http::One, Http::Two] {
        let (refusing, serving) = (closed().await, always(&authority, Answers(200)).await);
        let orders = orders(&authority, &[refusing, serving.address], "  balance: {by: roundRobin}\n");
        let mut client = client(&orders, version).await;
        for _ in 0..10 {
            assert_eq!(post(&mut client, version, "POST").await, 200);
        }
        assert_eq!(serving.seen(), vec!["POST /a"; 10]);
        // It is asked until it is ejected, and no more after that.
        let asked = orders.accessed(|line| line["attempts"] == 2);
        assert_eq!(asked["upstream"], serving.address.to_string());
        let retried =
            r#"sidegate_retries_total{service="shop/payments",reason="unreachable",outcome="answered"}"#;
        let asked = sample(&orders, retried).await;
        assert!((4..=6).contains(&asked), "{asked}");
        let ejected =
            format!(r#"sidegate_endpoints{{service="shop/payments",endpoint="{refusing}",state="ejected"}}"#);
        assert_eq!(sample(&orders, &ejected).await, 1);
        let reason = format!(
            r#"sidegate_endpoint_ejections_total{{service="shop/payments",endpoint="{refusing}",reason="consecutive"}}"#
        );
        assert_eq!(sample(&orders, &reason).await, 1);
        orders
            .logged(|line| line["message"] == "endpoint ejected" && line["endpoint"] == refusing.to_string());
    }
}

#[tokio::test]
async fn nothing_is_tried_again_where_one_attempt_is_all() {
    let authority = Authority::new();
    let (refusing, serving) = (closed().await, always(&authority, Answers(200)).await);
    let rules = "  balance: {by: roundRobin}\n  retries: {attempts: 1}\n";
    let orders = orders(&authority, &[refusing, serving.address], rules);
    let mut client = client(&orders, Http::One).await;
    // Which of the two is first depends on their ports.
    let mut statuses = [client.status("GET", "/a").await, client.status("GET", "/a").await];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
}

#[tokio::test]
async fn what_may_have_been_processed_is_not_sent_again() {
    let authority = Authority::new();
    for (version, does) in [(Http::One, Breaks), (Http::One, Closes), (Http::Two, Breaks)] {
        let endpoints = [always(&authority, does).await, always(&authority, does).await];
        let orders = orders(&authority, &[endpoints[0].address, endpoints[1].address], "");
        let mut client = client(&orders, version).await;
        assert_eq!(post(&mut client, version, "POST").await, 502);
        assert_eq!(endpoints[0].seen().len() + endpoints[1].seen().len(), 1);
        assert_eq!(orders.accessed(|line| line["status"] == 502)["code"], "SG0617");
    }
}

#[tokio::test]
async fn a_keep_alive_race_never_surfaces_to_an_idempotent_caller() {
    let authority = Authority::new();
    // Every second request meets a connection that ends just then.
    let racing = Endpoint::start(&authority, |nth| if nth == 0 { Answers(200) } else { Closes }).await;
    let orders = orders(&authority, &[racing.address], "  retries: {budgetPercent: 100}\n");
    let mut callers = JoinSet::new();
    for method in ["GET", "PUT"] {
        for _ in 0..4 {
            let mut client = client(&orders, Http::One).await;
            callers.spawn(async move {
                for _ in 0..50 {
                    assert_eq!(post(&mut client, Http::One, method).await, 200);
                }
            });
        }
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    let reset = r#"sidegate_retries_total{service="shop/payments",reason="reset",outcome="answered"}"#;
    assert!(sample(&orders, reset).await > 0, "there was a race at all");
}

#[tokio::test]
async fn a_post_that_meets_a_keep_alive_race_is_never_executed_twice() {
    let authority = Authority::new();
    let racing = Endpoint::start(&authority, |nth| if nth == 0 { Answers(200) } else { Closes }).await;
    let orders = orders(&authority, &[racing.address], "");
    let mut client = client(&orders, Http::One).await;
    for _ in 0..10 {
        assert_eq!(post(&mut client, Http::One, "POST").await, 200);
        assert_eq!(post(&mut client, Http::One, "POST").await, 502);
    }
    assert_eq!(racing.seen().len(), 20);
}

#[tokio::test]
async fn a_connection_that_said_close_is_not_used_again() {
    let authority = Authority::new();
    let closing = Endpoint::start(&authority, |nth| if nth == 0 { AnswersLast(200) } else { Closes }).await;
    let orders = orders(&authority, &[closing.address], "");
    let mut client = client(&orders, Http::One).await;
    for _ in 0..10 {
        assert_eq!(post(&mut client, Http::One, "POST").await, 200);
    }
    assert_eq!((closing.seen().len(), closing.connections()), (10, 10));
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_with_its_body_whatever_its_method() {
    let authority = Authority::new();
    let refusing = Endpoint::start(&authority, |nth| if nth % 2 == 0 { Refuses } else { Answers(200) }).await;
    let orders = orders(&authority, &[refusing.address], "  retries: {budgetPercent: 100}\n");
    let mut client = client(&orders, Http::Two).await;
    for _ in 0..10 {
        assert_eq!(post(&mut client, Http::Two, "POST").await, 200);
    }
    assert_eq!(refusing.seen(), vec!["POST /a"; 10]);
    let refused =
        r#"sidegate_retries_total{service="shop/payments",reason="refused_stream",outcome="answered"}"#;
    assert_eq!(sample(&orders, refused).await, 10);
}

#[tokio::test]
async fn a_body_beyond_its_bound_is_sent_once() {
    let authority = Authority::new();
    let refusing = Endpoint::start(&authority, |nth| if nth % 2 == 0 { Refuses } else { Answers(200) }).await;
    let orders = orders(&authority, &[refusing.address], "  retries: {bodyBytes: 4}\n");
    let mut client = client(&orders, Http::Two).await;
    let statuses = [post(&mut client, Http::Two, "POST").await, post(&mut client, Http::Two, "POST").await];
    assert_eq!(statuses, [502, 200]);
    assert_eq!(refusing.seen().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_says_goodbye_loses_no_request() {
    let authority = Authority::new();
    let leaving =
        Endpoint::start(&authority, |nth| if nth < 3 { Answers(200) } else { AnswersLast(200) }).await;
    let orders = orders(&authority, &[leaving.address], "");
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let mut client = client(&orders, Http::Two).await;
        callers.spawn(async move {
            for _ in 0..25 {
                assert_eq!(post(&mut client, Http::Two, "POST").await, 200);
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert_eq!(leaving.seen().len(), 100);
    assert!(leaving.connections() > 1);
}

#[tokio::test]
async fn an_answer_is_tried_again_only_where_the_rules_and_the_method_allow_it() {
    let authority = Authority::new();
    let cases = [
        ("", "GET", 503, 1),
        ("  retries: {statuses: [503]}\n", "GET", 503, 3),
        ("  retries: {statuses: [502]}\n", "GET", 503, 1),
        ("  retries: {statuses: [503]}\n", "POST", 503, 1),
        ("  retries: {statuses: [503], anyMethod: true}\n", "POST", 503, 3),
    ];
    for (rules, method, status, tries) in cases {
        let failing = always(&authority, Answers(503)).await;
        let orders = orders(&authority, &[failing.address], rules);
        let mut client = client(&orders, Http::One).await;
        assert_eq!(post(&mut client, Http::One, method).await, status, "{rules}");
        assert_eq!(failing.seen().len(), tries, "{method} {rules}");
        assert_eq!(orders.accessed(|line| line["status"] == status)["attempts"], tries);
    }
}

/// What a service with a rule for `/a` and one for the rest is asked: the tries of `method` on each.
async fn tries_by_rule(method: &str, service: &str, rule: &str) -> [usize; 2] {
    let authority = Authority::new();
    let failing = always(&authority, Answers(503)).await;
    let rules =
        format!("{service}  routes: [{{matches: [{{path: {{value: /a}}}}], retries: {rule}}}, {{}}]\n");
    let orders = orders(&authority, &[failing.address], &rules);
    let mut client = client(&orders, Http::One).await;
    assert_eq!(post(&mut client, Http::One, method).await, 503);
    let first = failing.seen().len();
    assert_eq!(client.status(method, "/b").await, 503);
    [first, failing.seen().len() - first]
}

#[tokio::test]
async fn a_rule_says_what_of_its_own_requests_is_tried_again_and_of_no_others() {
    let all = "  retries: {statuses: [503]}\n";
    for (method, service, rule, tries) in [
        ("GET", "", "{statuses: [503]}", [3, 1]),
        ("GET", "", "{statuses: [503], attempts: 2}", [2, 1]),
        ("GET", all, "{attempts: 1}", [1, 3]),
        ("GET", all, "{statuses: []}", [1, 3]),
        ("GET", all, "{attempts: 2}", [2, 3]),
        ("POST", "", "{statuses: [503]}", [1, 1]),
        ("POST", "", "{statuses: [503], anyMethod: true}", [3, 1]),
    ] {
        assert_eq!(tries_by_rule(method, service, rule).await, tries, "{method} {service} {rule}");
    }
}

#[tokio::test]
async fn a_rule_spends_no_more_than_the_budget_of_its_service() {
    let none = "  retries: {budgetPercent: 0, budgetPerSecond: 0}\n";
    assert_eq!(tries_by_rule("GET", none, "{statuses: [503], attempts: 10}").await, [1, 1]);
}

#[tokio::test]
async fn a_rule_bounds_one_try_of_its_own_requests_and_of_no_others() {
    let authority = Authority::new();
    // Each connection hangs at first.
    let hanging = Endpoint::start(&authority, |nth| if nth == 0 { Hangs } else { Answers(200) }).await;
    let serving = always(&authority, Answers(200)).await;
    let rules = "  balance: {by: roundRobin}\n  timeouts: {request: 2s}\n  retries: {backoff: 1ms}\n  \
                 routes: [{matches: [{path: {value: /quick}}], timeouts: {backendRequest: 100ms}}, {}]\n";
    let orders = orders(&authority, &[hanging.address, serving.address], rules);
    let mut client = client(&orders, Http::One).await;
    for _ in 0..4 {
        assert_eq!(client.status("GET", "/quick").await, 200);
    }
    // A POST that hung may have been processed: it is given up and not sent again.
    let mut statuses = [client.status("POST", "/quick").await, client.status("POST", "/quick").await];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 504]);
    let mut statuses = [client.status("GET", "/slow").await, client.status("GET", "/slow").await];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 504]);
    let late = orders.accessed(|line| line["path"] == "/slow" && line["status"] == 504);
    assert_eq!((&late["attempts"], &late["code"]), (&1.into(), &"SG0602".into()));
}

#[tokio::test]
async fn another_endpoint_is_preferred_for_another_try() {
    let authority = Authority::new();
    let (failing, serving) = (always(&authority, Answers(503)).await, always(&authority, Answers(200)).await);
    let rules =
        "  balance: {by: roundRobin}\n  retries: {statuses: [503]}\n  outliers: {consecutive: 1000}\n";
    let orders = orders(&authority, &[failing.address, serving.address], rules);
    let mut client = client(&orders, Http::One).await;
    for _ in 0..8 {
        assert_eq!(client.status("GET", "/a").await, 200);
    }
    assert_eq!(serving.seen().len(), 8);
}

#[tokio::test]
async fn a_spent_budget_ends_further_tries_and_says_so() {
    let authority = Authority::new();
    let endpoints = [closed().await, closed().await];
    let rules = "  retries: {budgetPercent: 0, budgetPerSecond: 0}\n";
    let orders = orders(&authority, &endpoints, rules);
    let mut client = client(&orders, Http::One).await;
    assert_eq!(client.status("GET", "/a").await, 502);
    let line = orders.accessed(|line| line["status"] == 502);
    assert_eq!((&line["code"], &line["attempts"]), (&"SG0644".into(), &1.into()));
    let spent = r#"sidegate_retries_total{service="shop/payments",reason="unreachable",outcome="no_budget"}"#;
    assert_eq!(sample(&orders, spent).await, 1);
}

#[tokio::test]
async fn a_budget_bounds_what_a_failing_service_is_asked() {
    let authority = Authority::new();
    let failing = always(&authority, Answers(503)).await;
    let rules = "  retries: {statuses: [503], budgetPercent: 10, budgetPerSecond: 1, backoff: 1ms}\n";
    let orders = orders(&authority, &[failing.address], rules);
    let mut client = client(&orders, Http::One).await;
    let begin = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.status("GET", "/a").await, 503);
    }
    let given = usize::try_from(begin.elapsed().as_secs()).unwrap() + 2;
    let asked = failing.seen().len();
    assert!((101..=110 + given).contains(&asked), "{asked}");
}

#[tokio::test]
async fn an_ejected_endpoint_is_probed_and_comes_back() {
    let authority = Authority::new();
    // It fails twice on each of its first connections, and serves from then on.
    let flapping = Endpoint::start(&authority, |nth| if nth < 2 { Answers(503) } else { Answers(200) }).await;
    let serving = always(&authority, Answers(200)).await;
    let rules = "  balance: {by: roundRobin}\n  outliers: {consecutive: 2, ejection: 100ms}\n";
    let orders = orders(&authority, &[flapping.address, serving.address], rules);
    let mut client = client(&orders, Http::One).await;
    let mut failed = 0;
    let deadline = Instant::now() + PATIENCE;
    while flapping.seen().len() < 4 {
        assert!(Instant::now() < deadline, "{:?}", flapping.seen());
        failed += u32::from(client.status("GET", "/a").await == 503);
    }
    assert_eq!(failed, 2);
    orders.logged(|line| line["message"] == "endpoint is back");
    let state = format!(
        r#"sidegate_endpoints{{service="shop/payments",endpoint="{}",state="in"}}"#,
        flapping.address
    );
    assert_eq!(sample(&orders, &state).await, 1);
}

/// The ejections of `endpoint` for failures in a row.
async fn ejections(orders: &Sidecar, endpoint: SocketAddr) -> u64 {
    let labels = format!(r#"service="shop/payments",endpoint="{endpoint}",reason="consecutive""#);
    sample(orders, &format!("sidegate_endpoint_ejections_total{{{labels}}}")).await
}

#[tokio::test]
async fn an_answer_that_breaks_off_counts_against_its_endpoint() {
    let authority = Authority::new();
    let (breaking, serving) = (always(&authority, BreaksOff).await, always(&authority, Answers(200)).await);
    let rules = "  balance: {by: roundRobin}\n  outliers: {consecutive: 2}\n";
    let orders = orders(&authority, &[breaking.address, serving.address], rules);
    let mut client = client(&orders, Http::One).await;
    let mut broken = 0;
    for _ in 0..10 {
        if let Ok(reply) = client.call("GET", "/a").await {
            assert_eq!(reply.status, 200);
        } else {
            broken += 1;
            // HTTP/1.1 has no other way to say it.
            client = self::client(&orders, Http::One).await;
        }
    }
    assert_eq!((broken, breaking.seen().len()), (2, 2));
    assert_eq!(ejections(&orders, breaking.address).await, 1);
    assert_eq!(orders.accessed(|line| line["code"] == "SG0617")["status"], 200);
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_says_nothing_against_the_endpoint() {
    let authority = Authority::new();
    let (stopping, other) = (always(&authority, Stops).await, always(&authority, Answers(200)).await);
    let rules = "  balance: {by: roundRobin}\n  outliers: {consecutive: 2}\n";
    let orders = orders(&authority, &[stopping.address, other.address], rules);
    for left in 1..=4 {
        while stopping.seen().len() < left {
            let mut client = client(&orders, Http::One).await;
            let request = Request::get("/a").header("host", "payments").body(Full::default()).unwrap();
            assert_eq!(client.open(request).await.unwrap().status(), 200);
        }
    }
    // Which also lets the last client's connection end.
    assert_eq!(ejections(&orders, stopping.address).await, 0);
    orders.accessed_times(4, |line| line["code"] == "SG0620");
    assert_eq!(ejections(&orders, stopping.address).await, 0);
}

#[tokio::test]
async fn a_call_over_a_breaker_fails_at_once_with_the_code_of_the_bound() {
    let authority = Authority::new();
    let cases = [
        ("requests: 1", Http::One, "SG0640", "requests"),
        ("endpointRequests: 1", Http::One, "SG0640", "endpointRequests"),
        ("connections: 1", Http::One, "SG0642", "connections"),
        ("endpointConnections: 1", Http::One, "SG0642", "endpointConnections"),
    ];
    for (bound, version, code, limit) in cases {
        let hanging = always(&authority, Hangs).await;
        let orders = orders(&authority, &[hanging.address], &format!("  breakers: {{{bound}}}\n"));
        let mut first = client(&orders, version).await;
        let mut held = JoinSet::new();
        held.spawn(async move { drop(first.call("GET", "/held").await) });
        hanging.reached(1).await;
        let mut second = client(&orders, version).await;
        assert_eq!(second.status("GET", "/a").await, 503, "{bound}");
        assert_eq!(orders.accessed(|line| line["status"] == 503)["code"], code);
        let refused =
            format!(r#"sidegate_breaker_refusals_total{{service="shop/payments",limit="{limit}"}}"#);
        assert_eq!(sample(&orders, &refused).await, 1);
        assert_eq!(hanging.seen(), ["GET /held"]);
    }
}

#[tokio::test]
async fn calls_that_wait_for_a_connection_are_bounded() {
    let authority = Authority::new();
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let orders = orders(&authority, &[silent.local_addr().unwrap()], "  breakers: {pending: 1}\n");
    let mut first = client(&orders, Http::One).await;
    let mut held = JoinSet::new();
    held.spawn(async move { drop(first.call("GET", "/held").await) });
    let _dialling = silent.accept().await.unwrap();
    let mut second = client(&orders, Http::One).await;
    assert_eq!(second.status("GET", "/a").await, 503);
    assert_eq!(orders.accessed(|line| line["status"] == 503)["code"], "SG0641");
}

#[tokio::test]
async fn a_grpc_caller_reads_of_an_open_breaker_as_unavailable() {
    let authority = Authority::new();
    let hanging = always(&authority, Hangs).await;
    let orders = orders(&authority, &[hanging.address], "  breakers: {requests: 1}\n");
    let mut first = client(&orders, Http::Two).await;
    let mut held = JoinSet::new();
    held.spawn(async move { drop(first.call("GET", "/held").await) });
    hanging.reached(1).await;
    let reply = grpc(&mut client(&orders, Http::Two).await).await;
    assert_eq!((reply.status.as_u16(), &reply.headers["grpc-status"]), (200, &"14".parse().unwrap()));
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_followed_by_another_only_where_twice_is_once() {
    let authority = Authority::new();
    for (method, status, tries) in [("GET", 504, 3), ("POST", 504, 1)] {
        let hanging = always(&authority, Hangs).await;
        let orders = orders(&authority, &[hanging.address], "  timeouts: {perTry: 1s}\n");
        let mut client = client(&orders, Http::One).await;
        assert_eq!(post(&mut client, Http::One, method).await, status);
        assert_eq!(hanging.seen().len(), tries, "{method}");
        assert_eq!(orders.accessed(|line| line["status"] == 504)["code"], "SG0602");
    }
}

#[tokio::test]
async fn all_tries_together_keep_to_the_time_of_the_request() {
    let authority = Authority::new();
    let hanging = always(&authority, Hangs).await;
    let rules = "  timeouts: {perTry: 1s, request: 1500ms}\n  retries: {attempts: 10}\n";
    let orders = orders(&authority, &[hanging.address], rules);
    let mut client = client(&orders, Http::One).await;
    let begin = Instant::now();
    assert_eq!(client.status("GET", "/a").await, 504);
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    assert_eq!(hanging.seen().len(), 2);
}

#[tokio::test]
async fn a_connection_that_takes_too_long_is_told_apart() {
    let authority = Authority::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for rules in ["  timeouts: {connect: 100ms}\n", "limits: {connectTimeout: 100ms}\n"] {
        let orders = orders(&authority, &[silent.local_addr().unwrap()], rules);
        for version in [Http::One, Http::Two] {
            let mut client = client(&orders, version).await;
            assert_eq!(client.status("GET", "/a").await, 503);
        }
        assert_eq!(orders.accessed(|line| line["status"] == 503)["code"], "SG0645");
    }
}

#[tokio::test]
async fn a_service_whose_endpoints_are_all_ejected_says_so() {
    let authority = Authority::new();
    let rules = "  outliers: {consecutive: 1, maxEjectedPercent: 100}\n";
    let orders = orders(&authority, &[closed().await], rules);
    let mut client = client(&orders, Http::One).await;
    assert_eq!(client.status("GET", "/a").await, 502);
    assert_eq!(client.status("GET", "/a").await, 503);
    assert_eq!(orders.accessed(|line| line["status"] == 503)["code"], "SG0643");
}

#[tokio::test]
async fn a_service_without_endpoints_says_so() {
    let authority = Authority::new();
    let orders = orders(&authority, &[], "");
    let mut client = client(&orders, Http::One).await;
    assert_eq!(client.status("GET", "/a").await, 503);
    assert_eq!(orders.accessed(|line| line["status"] == 503)["code"], "SG0603");
}

#[tokio::test]
async fn an_endpoint_that_leaves_gets_no_more_requests_and_its_connections_end() {
    let authority = Authority::new();
    for version in [Http::One, Http::Two] {
        let (leaving, staying) =
            (always(&authority, Answers(200)).await, always(&authority, Answers(200)).await);
        let addresses = [leaving.address, staying.address];
        let orders = orders(&authority, &addresses, "  balance: {by: roundRobin}\n");
        let mut client = client(&orders, version).await;
        for _ in 0..2 {
            assert_eq!(post(&mut client, version, "POST").await, 200);
        }
        assert_eq!((leaving.open(), staying.open()), (1, 1));
        orders.configure(|text| text.replace(&format!("'{}', ", leaving.address), ""));
        let deadline = Instant::now() + PATIENCE;
        while leaving.open() > 0 {
            assert!(Instant::now() < deadline, "its connection is still open");
            assert_eq!(post(&mut client, version, "POST").await, 200);
        }
        let before = leaving.seen().len();
        assert_eq!(post(&mut client, version, "POST").await, 200);
        assert_eq!((leaving.seen().len(), staying.open()), (before, 1));
    }
}

#[tokio::test]
async fn equal_keys_reach_the_same_endpoint() {
    let authority = Authority::new();
    let endpoints = [always(&authority, Answers(200)).await, always(&authority, Answers(200)).await];
    let rules = "  balance: {by: header, name: x-user}\n";
    let orders = orders(&authority, &[endpoints[0].address, endpoints[1].address], rules);
    let mut client = client(&orders, Http::One).await;
    for user in 0..16 {
        let before = [endpoints[0].seen().len(), endpoints[1].seen().len()];
        for _ in 0..4 {
            let request =
                Request::get("/a").header("host", "payments").header("x-user", format!("user-{user}"));
            assert_eq!(client.send(request.body(Full::default()).unwrap()).await.unwrap().status, 200);
        }
        let more = [endpoints[0].seen().len() - before[0], endpoints[1].seen().len() - before[1]];
        assert!(more == [4, 0] || more == [0, 4], "{more:?}");
    }
    assert!(endpoints.iter().all(|endpoint| !endpoint.seen().is_empty()));
}

#[tokio::test]
async fn endpoints_that_are_restarted_one_after_the_other_lose_no_request_and_execute_none_twice() {
    let (app, authority) = (App::start().await, Authority::new());
    let start =
        || Sidecar::start("payments", &authority, POLICY, &[Port::Inbound(app.address, "protocol: auto")]);
    let mut endpoints = [start(), start()];
    let addresses = [endpoints[0].inbound(), endpoints[1].inbound()];
    let orders = orders(&authority, &addresses, "  balance: {by: roundRobin}\n");
    let mut clients = [client(&orders, Http::One).await, client(&orders, Http::Two).await];
    let mut sent = 0;
    for round in 0..60 {
        if round == 20 {
            endpoints[0].terminate();
        }
        for (client, version) in clients.iter_mut().zip([Http::One, Http::Two]) {
            assert_eq!(post(client, version, "POST").await, 200, "round {round}");
            sent += 1;
        }
    }
    assert!(endpoints[0].wait().success());
    assert_eq!(app.seen().len(), sent);
}
