//! HTTP through the inbound path: what is permitted reaches the application exactly as it was judged, and nothing
//! else reaches it at all.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::mesh::{App, Authority, Connection, Http, Port, Sidecar, id, tls};

const POLICY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: payments-callers}
spec:
  action: Allow
  rules:
  - name: orders-charge
    from: [{serviceAccounts: [shop/orders]}]
    to: [{methods: [POST], paths: [/charge, '/charge/{id}'], hosts: [payments]}]
  - name: anyone-public
    to: [{paths: ['/public/**']}]
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: admin-is-closed}
spec:
  action: Deny
  rules:
  - name: nobody
    to: [{paths: ['/admin/**']}]
";

struct Stage {
    app: App,
    sidecar: Sidecar,
    authority: Authority,
}

impl Stage {
    async fn new() -> Self {
        let (app, authority) = (App::start().await, Authority::new());
        let sidecar =
            Sidecar::start("payments", &authority, POLICY, &[Port::Inbound(app.address, "protocol: auto")]);
        Self { app, sidecar, authority }
    }

    async fn stream(
        &self,
        caller: &str,
        alpn: &[u8],
    ) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let svid = self.authority.svid(&id(caller));
        tls(self.sidecar.inbound(), &self.authority, Some(&svid), &id("payments"), alpn).await.unwrap()
    }

    async fn caller(&self, caller: &str, version: Http) -> Connection {
        let alpn: &[u8] = if version == Http::Two { b"h2" } else { b"http/1.1" };
        Connection::over(self.stream(caller, alpn).await, version).await
    }

    /// Writes raw bytes and reads the head of whatever comes back.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.stream("orders", b"http/1.1").await;
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A close without close_notify still leaves what was read.
        while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test]
async fn a_permitted_request_reaches_the_application_with_its_callers_identity() {
    let stage = Stage::new().await;
    for version in [Http::One, Http::Two] {
        let mut orders = stage.caller("orders", version).await;
        let request =
            Request::post(if version == Http::Two { "http://payments/charge?x=1" } else { "/charge?x=1" });
        let request = if version == Http::One { request.header("host", "payments") } else { request };
        let reply =
            orders.send(request.body(Full::new(Bytes::from_static(b"5 EUR"))).unwrap()).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, "5 EUR"));
    }
    for seen in stage.app.seen() {
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str(), &seen.body[..]),
            ("POST", "/charge?x=1", &b"5 EUR"[..])
        );
        assert_eq!(seen.headers["x-sidegate-peer"], id("orders").as_str());
    }
    let line = stage.sidecar.accessed(|line| line["path"] == "/charge");
    assert_eq!(
        (&line["verdict"], &line["policy"], &line["rule"]),
        (&"allowed".into(), &"shop/payments-callers".into(), &"orders-charge".into())
    );
    assert_eq!((&line["src"], &line["dst"]), (&id("orders").into(), &id("payments").into()));
}

const TENANTS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: tenants}
spec:
  action: Allow
  rules:
  - name: tenant
    to: [{paths: [/tenant]}]
    when: request.headers[\"x-tenant\"] == \"a\"
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-debug}
spec:
  action: Deny
  rules:
  - name: debug
    when: '\"x-debug\" in request.headers && request.headers[\"x-debug\"] != \"off\"'
";

#[tokio::test]
async fn a_condition_on_a_header_is_judged_on_what_is_forwarded() {
    let (app, authority) = (App::start().await, Authority::new());
    let sidecar =
        Sidecar::start("payments", &authority, TENANTS, &[Port::Inbound(app.address, "protocol: auto")]);
    let stage = Stage { app, sidecar, authority };
    for (headers, status) in [
        ("x-tenant: a\r\n", "200"),
        ("X-TENANT: a\r\nx-debug: off\r\n", "200"),
        ("x-tenant: b\r\n", "403"),
        ("", "403"),
        ("x-tenant: a\r\nx-tenant: b\r\n", "403"),
        ("x-tenant: b\r\nx-tenant: a\r\n", "403"),
        ("x-tenant: a, b\r\n", "403"),
        // Some read the two as one.
        ("x-tenant: a\r\nx_tenant: b\r\n", "400"),
        // The application would be sent none.
        ("x-tenant: a\r\nconnection: x-tenant\r\n", "403"),
        ("x-tenant: a\r\nx-debug: on\r\n", "403"),
        ("x-tenant: a\r\nx-debug: off\r\nx-debug: on\r\n", "403"),
    ] {
        let answer =
            stage.raw(format!("GET /tenant HTTP/1.1\r\nhost: payments\r\n{headers}\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{headers:?}: {answer}");
    }
    assert_eq!(stage.app.seen().len(), 2);
    let doubt = stage.sidecar.accessed(|line| line["code"] == "SG0205");
    assert_eq!(doubt["rule"], "debug");
}

#[tokio::test]
async fn a_denied_request_stops_before_the_application_and_explains_itself_in_the_log_alone() {
    let stage = Stage::new().await;
    for (caller, method, target, code, rule) in [
        ("web", "POST", "/charge", "SG0202", None),
        ("orders", "GET", "/charge", "SG0202", None),
        ("orders", "POST", "/charge/1/refund", "SG0202", None),
        ("orders", "GET", "/admin/keys", "SG0203", Some("nobody")),
        ("orders", "GET", "/%61dmin/keys", "SG0203", Some("nobody")),
    ] {
        let reply = stage.caller(caller, Http::One).await.call(method, target).await.unwrap();
        assert_eq!(reply.status, 403, "{caller} {method} {target}");
        let request_id = reply.headers["x-request-id"].to_str().unwrap();
        assert_eq!(
            reply.body,
            format!("denied (request id {request_id})\n"),
            "the peer learns no more than this"
        );
        let line = stage.sidecar.accessed(|line| line["request_id"] == request_id);
        assert_eq!(
            (line["verdict"].as_str(), line["code"].as_str(), line["rule"].as_str()),
            (Some("denied"), Some(code), rule)
        );
    }
    assert!(stage.app.seen().is_empty());
    let near = stage.sidecar.accessed(|line| line["src"] == id("orders") && line["path"] == "/charge");
    assert!(near["nearest"].as_str().unwrap().contains("method GET is not in [POST]"), "{near}");
    let metrics = stage.sidecar.page("/metrics").await.body;
    let denied = "sidegate_denied_total{src=\"shop/orders\",dst=\"shop/payments\",code=\"SG0203\",policy=\"shop/admin-is-closed\",rule=\"nobody\"} 2";
    assert!(metrics.contains(denied), "{metrics}");
}

#[tokio::test]
async fn an_ambiguous_path_is_refused_whatever_policy_says() {
    let stage = Stage::new().await;
    let mut caller = stage.caller("orders", Http::One).await;
    for target in [
        "/public/../admin/keys",
        "/public/%2e%2e/admin/keys",
        "/public/..%2fadmin/keys",
        "/public//admin",
        "/public/a;b",
        "/public/%5c..%5cadmin",
        "/public/%252e%252e/admin",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%00",
    ] {
        assert_eq!(caller.status("GET", target).await, 400, "{target}");
    }
    assert_eq!(caller.status("GET", "/public/a").await, 200);
    assert_eq!(stage.app.seen().len(), 1);
    assert_eq!(stage.sidecar.accessed(|line| line["status"] == 400)["code"], "SG0610");
}

#[tokio::test]
async fn an_ambiguous_message_never_reaches_the_application() {
    let stage = Stage::new().await;
    for (what, request) in [
        (
            "two lengths",
            "POST /public/a HTTP/1.1\r\nHost: payments\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody!",
        ),
        (
            "unknown coding",
            "POST /public/a HTTP/1.1\r\nHost: payments\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        ("no host", "GET /public/a HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET /public/a HTTP/1.1\r\nHost: payments\r\nHost: other\r\n\r\n"),
        ("target against host", "GET http://payments/public/a HTTP/1.1\r\nHost: other\r\n\r\n"),
        ("userinfo", "GET /public/a HTTP/1.1\r\nHost: a@payments\r\n\r\n"),
        (
            "stripping",
            "GET /public/a HTTP/1.1\r\nHost: payments\r\nAuthorization: Bearer x\r\nConnection: authorization\r\n\r\n",
        ),
        ("tunnel", "CONNECT payments:443 HTTP/1.1\r\nHost: payments:443\r\n\r\n"),
        (
            "upgrade",
            "GET /public/a HTTP/1.1\r\nHost: payments\r\nConnection: upgrade\r\nUpgrade: tls/1.0\r\n\r\n",
        ),
        ("obs-fold", "GET /public/a HTTP/1.1\r\nHost: payments\r\nX-A: 1\r\n  2\r\n\r\n"),
        ("space before colon", "GET /public/a HTTP/1.1\r\nHost : payments\r\n\r\n"),
    ] {
        let answer = stage.raw(request.as_bytes()).await;
        let refused = ["HTTP/1.1 400", "HTTP/1.1 501"].iter().any(|status| answer.starts_with(status));
        assert!(refused, "{what}: {answer}");
    }
    assert!(stage.app.seen().is_empty(), "{:?}", stage.app.seen());
}

#[tokio::test]
async fn a_request_smuggled_behind_two_framings_is_never_read_as_one() {
    let stage = Stage::new().await;
    let head = "POST /public/a HTTP/1.1\r\nHost: payments\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";
    let smuggled = "GET /public/smuggled HTTP/1.1\r\nHost: payments\r\n\r\n";
    let mut stream = stage.stream("orders", b"http/1.1").await;
    stream.write_all(format!("{head}0\r\n\r\n{smuggled}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    // The sidecar ends the connection by itself, in whatever way.
    let _ = stream.read_to_string(&mut answer).await;
    // RFC 9112 §6.3 would let chunked win; nothing is won by serving whoever tries.
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(stage.app.seen().is_empty());
}

#[tokio::test]
async fn a_caller_cannot_claim_an_identity_in_a_header_or_a_trailer() {
    let stage = Stage::new().await;
    let mut caller = stage.caller("orders", Http::One).await;
    let request = Request::get("/public/a")
        .header("host", "payments")
        .header("x-sidegate-peer", id("admin"))
        .header("X_Sidegate_Peer", id("admin"))
        .header("x-forwarded-client-cert", "URI=spiffe://shop.test/ns/shop/sa/admin")
        .header("forwarded", "for=10.0.0.1")
        .header("accept", "*/*");
    assert_eq!(caller.send(request.body(Full::default()).unwrap()).await.unwrap().status, 200);
    let mut stream = stage.stream("orders", b"http/1.1").await;
    stream
        .write_all(b"POST /public/b HTTP/1.1\r\nHost: payments\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: x-sidegate-peer\r\n\r\n0\r\nx-sidegate-peer: admin\r\nx-sum: 1\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for seen in stage.app.seen() {
        let peers: Vec<_> = seen.headers.get_all("x-sidegate-peer").iter().collect();
        assert_eq!(peers, [id("orders").as_str()]);
        for name in ["x_sidegate_peer", "x-forwarded-client-cert", "forwarded"] {
            assert!(!seen.headers.contains_key(name), "{name}");
        }
    }
}

#[tokio::test]
async fn grpc_keeps_its_trailers_and_learns_of_a_denial_in_its_own_words() {
    let stage = Stage::new().await;
    let mut caller = stage.caller("orders", Http::Two).await;
    let call = |path: &str| {
        Request::post(format!("http://payments{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))
            .unwrap()
    };
    let reply = caller.send(call("/public/Service/Call")).await.unwrap();
    let trailers = reply.trailers.expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert!(!trailers.contains_key("x-forwarded-client-cert"), "a trailer says nothing about identity");
    assert_eq!(stage.app.seen()[0].headers["te"], "trailers");

    let denied = caller.send(call("/admin/Service/Call")).await.unwrap();
    assert_eq!(
        (denied.status.as_u16(), &denied.headers["grpc-status"], &denied.headers["grpc-message"]),
        (200, &"7".parse().unwrap(), &"denied".parse().unwrap())
    );
    assert_eq!(stage.app.seen().len(), 1);
}

#[tokio::test]
async fn requests_share_connections_on_both_sides() {
    let stage = Stage::new().await;
    let mut caller = stage.caller("orders", Http::One).await;
    for _ in 0..5 {
        assert_eq!(caller.status("GET", "/public/a").await, 200);
        assert_eq!(caller.status("GET", "/admin/a").await, 403, "a denial does not cost the connection");
    }
    let metrics = stage.sidecar.page("/metrics").await.body;
    assert!(metrics.contains("sidegate_connections_total{direction=\"inbound\",src=\"shop/orders\",dst=\"shop/payments\",tls=\"mutual\",verdict=\"allowed\"} 1"), "{metrics}");
}
