//! What comes in without TLS: what a `PlaintextException` names, until its day, and nothing else. Whoever begins TLS has no
//! part in it.

use std::{net::SocketAddr, time::Instant};

use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Duration, timeout},
};

use crate::mesh::{
    App, Authority, Connection, ControlPlane, Http, Member, PATIENCE, Port, Sidecar, endless, id, tls,
};

/// An exception for `from`, to `to`, that is over in so many days.
pub(crate) fn exception(from: &str, to: &str, days: i64) -> String {
    let expires = time::OffsetDateTime::now_utc().date() + time::Duration::days(days);
    format!(
        "---\napiVersion: sidegate.dev/v1alpha1\nkind: PlaintextException\nmetadata: {{name: probes, namespace: shop}}\nspec:\n  \
         selector: {{app: payments}}\n  from: [{{ipBlocks: [{from}]}}]\n  to: [{{{to}}}]\n  expires: {expires}\n  \
         reason: Probes of the load balancer\n"
    )
}

/// For `GET /healthz` at the application's port.
fn healthz(app: SocketAddr) -> String {
    exception("127.0.0.1", &format!("ports: [{}], methods: [GET], paths: [/healthz]", app.port()), 7)
}

const CALLERS: &str = "---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec: {action: Allow, rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]}
";

async fn http_under(policies: &dyn Fn(SocketAddr) -> String) -> (App, Authority, Sidecar) {
    let (app, authority) = (App::start().await, Authority::new());
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let policies = CALLERS.to_owned() + &policies(app.address);
    let sidecar = Sidecar::start("payments", &authority, &policies, &ports);
    (app, authority, sidecar)
}

/// The sidecar of a control plane, which has told it its policies.
fn payments(control_plane: &ControlPlane, app: SocketAddr) -> Member {
    let listeners = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{app}', protocol: http}}]");
    let payments = Member::start("payments", control_plane, &listeners);
    payments.logged(|line| line["message"] == "update applied");
    payments
}

async fn plain(sidecar: &Sidecar) -> Connection {
    Connection::plain(sidecar.inbound(), Http::One).await
}

/// What a connection from `ip` that begins with `bytes` is answered, to its end.
async fn answered(sidecar: &Sidecar, ip: &str, bytes: &[u8]) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
    let mut tcp = socket.connect(sidecar.inbound()).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good a refusal as an end.
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it is closed");
    String::from_utf8(answer).unwrap()
}

const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn what_an_exception_names_comes_in_without_an_identity_and_nothing_beside_it() {
    let (app, _authority, sidecar) = http_under(&healthz).await;
    let mut probe = plain(&sidecar).await;
    let claims = ["x-forwarded-client-cert", "x-sidegate-peer", "x_sidegate_peer", "forwarded", "x-real-ip"];
    let mut request = Request::get("/healthz").header("host", "payments");
    for name in claims {
        request = request.header(name, "By=spiffe://shop.test/ns/shop/sa/orders");
    }
    let reply = probe.send(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(reply.status, 200);
    let seen = app.seen();
    assert_eq!(seen.len(), 1);
    for name in claims {
        assert!(!seen[0].headers.contains_key(name), "{name} reached the application");
    }
    let line = sidecar.accessed(|line| line["path"] == "/healthz");
    let told = ["src", "tls", "verdict", "code", "policy", "rule"].map(|field| &line[field]);
    let want = [
        &Value::Null,
        &json!("plaintext"),
        &json!("allowed"),
        &Value::Null,
        &json!("shop/probes"),
        &json!("probes"),
    ];
    assert_eq!(told, want, "{line}");

    // The same connection, for another path and another method.
    for (method, path) in [("GET", "/charge"), ("POST", "/healthz"), ("GET", "/healthz/x")] {
        assert_eq!(probe.status(method, path).await, 403, "{method} {path}");
    }
    let line = sidecar.accessed(|line| line["path"] == "/charge");
    assert_eq!(
        (&line["code"], &line["verdict"], &line["src"]),
        (&json!("SG0206"), &json!("denied"), &Value::Null)
    );
    let nearest = line["nearest"].as_str().unwrap();
    assert!(nearest.contains("path /charge is not in [/healthz]"), "{line}");
    assert_eq!(app.seen().len(), 1, "nothing else reached the application");
    let metrics = sidecar.page("/metrics").await.body;
    let counts = |name: &str, labels: &[&str]| {
        metrics.lines().any(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
    };
    assert!(
        counts("sidegate_connections_total{", &["tls=\"plaintext\"", "verdict=\"allowed\""]),
        "{metrics}"
    );
}

#[tokio::test]
async fn from_another_address_to_another_port_or_after_its_day_nothing_is_read() {
    let (app, _authority, sidecar) = http_under(&healthz).await;
    assert_eq!(answered(&sidecar, "127.0.0.2", PROBE).await, "");
    let line = sidecar.accessed(|line| line["code"] == "SG0101");
    assert_eq!((&line["tls"], &line["verdict"]), (&json!("plaintext"), &json!("failed")));
    assert!(answered(&sidecar, "127.0.0.1", PROBE).await.starts_with("HTTP/1.1 200"));
    assert_eq!(app.seen().len(), 1);

    let another: fn(SocketAddr) -> String = |app| {
        let port = if app.port() == 80 { 81 } else { 80 };
        exception("127.0.0.1", &format!("ports: [{port}]"), 7)
    };
    let over: fn(SocketAddr) -> String = |app| exception("127.0.0.1", &format!("ports: [{}]", app.port()), 0);
    for policies in [another, over] {
        let (app, _authority, sidecar) = http_under(&policies).await;
        assert_eq!(answered(&sidecar, "127.0.0.1", PROBE).await, "");
        sidecar.accessed(|line| line["code"] == "SG0101");
        assert!(app.seen().is_empty());
    }
}

#[tokio::test]
async fn whoever_begins_tls_on_the_same_port_is_judged_by_identity() {
    let (app, authority, sidecar) = http_under(&healthz).await;
    for (account, path, want) in [("orders", "/charge", 200), ("web", "/healthz", 403)] {
        let svid = authority.svid(&id(account));
        let stream =
            tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"http/1.1").await.unwrap();
        assert_eq!(Connection::over(stream, Http::One).await.status("GET", path).await, want, "{account}");
    }
    let line = sidecar.accessed(|line| line["path"] == "/healthz");
    assert_eq!((&line["src"], &line["tls"]), (&json!(id("web")), &json!("mutual")));
    // Without a certificate a handshake is none, from wherever it comes: it does not become plaintext.
    let nameless = tls(sidecar.inbound(), &authority, None, &id("payments"), b"http/1.1").await;
    if let Ok(mut stream) = nameless {
        assert!(!matches!(stream.read(&mut [0; 1]).await, Ok(1..)), "it is not spoken with");
    }
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn a_deny_and_a_require_hold_beside_an_exception() {
    const MORE: &str = "---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: never, namespace: shop}
spec: {action: Deny, rules: [{name: debug, to: [{paths: [/debug]}]}]}
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: reads, namespace: shop}
spec: {action: Require, rules: [{name: get, to: [{methods: [GET]}]}]}
";
    let policies = |app: SocketAddr| exception("127.0.0.0/8", &format!("ports: [{}]", app.port()), 7) + MORE;
    let (app, _authority, sidecar) = http_under(&policies).await;
    let mut client = plain(&sidecar).await;
    assert_eq!(client.status("GET", "/anything").await, 200);
    for (method, path, code) in [("GET", "/debug", "SG0203"), ("POST", "/anything", "SG0204")] {
        assert_eq!(client.status(method, path).await, 403);
        sidecar.accessed(|line| line["code"] == code && line["tls"] == "plaintext");
    }
    // Nor does anything come in that is no HTTP, and has no path to be denied by.
    assert_eq!(answered(&sidecar, "127.0.0.1", b"\x00\x01\x02 no request\r\n").await, "");
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn observing_lets_nothing_in_that_no_exception_names() {
    let app = App::start().await;
    let policies = CALLERS.to_owned() + &healthz(app.address);
    let control_plane = ControlPlane::start_with("100ms", &policies, "enforcement: Observe\n");
    let payments = payments(&control_plane, app.address);
    let mut probe = Connection::plain(payments.address("inbound"), Http::One).await;
    assert_eq!([probe.status("GET", "/healthz").await, probe.status("GET", "/charge").await], [200, 403]);
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn an_exception_that_is_taken_away_cuts_what_is_open() {
    let (authority, echo) = (Authority::new(), crate::opaque::echo().await);
    let open = exception("127.0.0.1", &format!("ports: [{}]", echo.address.port()), 7);
    let ports = [Port::Inbound(echo.address, "protocol: tcp")];
    let sidecar = Sidecar::start("payments", &authority, &(CALLERS.to_owned() + &open), &ports);
    let mut tcp = TcpStream::connect(sidecar.inbound()).await.unwrap();
    tcp.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    tcp.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"ping");

    sidecar.replace("policies.yaml", CALLERS);
    let changed = Instant::now();
    let read = timeout(PATIENCE, tcp.read(&mut pong)).await.expect("still open");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
    let line = sidecar.accessed(|line| line["code"] == "SG0207");
    assert_eq!(
        (&line["tls"], &line["src"], &line["bytes_received"]),
        (&json!("plaintext"), &Value::Null, &json!(4))
    );
    assert_eq!(answered(&sidecar, "127.0.0.1", b"ping").await, "");
}

#[tokio::test]
async fn an_exception_that_is_taken_away_ends_requests_that_are_open_and_refuses_the_next() {
    let (authority, endless) = (Authority::new(), endless().await);
    let open = exception("127.0.0.1", &format!("ports: [{}]", endless.address.port()), 7);
    let ports = [Port::Inbound(endless.address, "protocol: http2")];
    let sidecar = Sidecar::start("payments", &authority, &(CALLERS.to_owned() + &open), &ports);
    let mut client = Connection::plain(sidecar.inbound(), Http::Two).await;
    let request = Request::get("http://payments/").body(Full::default()).unwrap();
    let mut body = client.open(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok(), "the stream is open");

    sidecar.replace("policies.yaml", CALLERS);
    let broken = timeout(PATIENCE, async { while let Some(Ok(_)) = body.frame().await {} });
    broken.await.expect("the stream outlives the exception");
    sidecar.accessed(|line| line["code"] == "SG0207" && line["tls"] == "plaintext");
    // Nothing was proven on the connection that could be taken away; its next request is judged as any.
    assert_eq!(client.status("GET", "/").await, 403);
}

#[tokio::test]
async fn an_exception_for_longer_than_exceptions_last_is_refused_and_changes_nothing() {
    let (app, _authority, sidecar) = http_under(&healthz).await;
    let lasting = exception("127.0.0.1", &format!("ports: [{}]", app.address.port()), 92);
    sidecar.replace("policies.yaml", &(CALLERS.to_owned() + &lasting));
    let line = sidecar.logged(|line| line["code"] == "SG0212");
    assert!(line["error"].as_str().unwrap().contains("an exception lasts 90 days at most"), "{line}");
    let mut probe = plain(&sidecar).await;
    assert_eq!([probe.status("GET", "/healthz").await, probe.status("GET", "/charge").await], [200, 403]);
}

/// The exception lets in; nothing makes a sidecar send so.
#[tokio::test]
async fn an_exception_takes_no_tls_from_calls_between_sidecars() {
    let (app, authority, payments) = http_under(&healthz).await;
    let ports = format!("ports: [{}, {}]", app.address.port(), payments.inbound().port());
    let everything = CALLERS.to_owned() + &exception("127.0.0.0/8", &ports, 7).replace("payments", "orders");
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: http")];
    let orders = Sidecar::start("orders", &authority, &everything, &to_payments);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    assert_eq!(client.status("GET", "/healthz").await, 200);
    let line = payments.accessed(|line| line["path"] == "/healthz");
    assert_eq!(
        (&line["src"], &line["tls"], &line["policy"]),
        (&json!(id("orders")), &json!("mutual"), &json!("shop/callers"))
    );
    // An endpoint that speaks no TLS is none, whatever may come in there.
    let unproven = [Port::Outbound("payments", app.address, "protocol: http")];
    let orders = Sidecar::start("orders", &authority, &everything, &unproven);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    assert!(client.status("GET", "/healthz").await >= 500);
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn a_control_plane_distributes_an_exception_and_its_ledger_shows_what_came_in() {
    let app = App::start().await;
    let control_plane = ControlPlane::start("100ms", &(CALLERS.to_owned() + &healthz(app.address)));
    let payments = payments(&control_plane, app.address);
    let mut probe = Connection::plain(payments.address("inbound"), Http::One).await;
    assert_eq!([probe.status("GET", "/healthz").await, probe.status("GET", "/charge").await], [200, 403]);
    let admitted =
        control_plane.edge(|edge| edge["verdict"] == "allowed" && edge["tls"] == "plaintext").await;
    assert_eq!(
        ["source", "destination", "policy", "rule"].map(|field| &admitted[field]),
        [&Value::Null, &json!(id("payments")), &json!("shop/probes"), &json!("probes")],
    );
    let denied = control_plane.edge(|edge| edge["verdict"] == "denied" && edge["tls"] == "plaintext").await;
    assert_eq!((&denied["code"], &denied["source"]), (&json!("SG0206"), &Value::Null));
}
