//! An outbound port as a forward proxy: absolute targets and CONNECT lead to the services that it lists, over mutual
//! TLS, and to nobody else.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    mesh::{App, Authority, Connection, Http, OwnTls, PATIENCE, Port, Sidecar, id},
    opaque::echo,
};

const CALLERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

const NO_ADMIN: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}], to: [{paths: ['/a/**']}]}]
";

/// `orders`' sidecar as a proxy for `payments`, whose application is `app`.
struct Proxied {
    orders: Sidecar,
    payments: Sidecar,
}

fn proxied(app: SocketAddr, policies: &str, inbound: &str, service: &str) -> Proxied {
    let authority = Authority::new();
    let payments = Sidecar::start("payments", &authority, policies, &[Port::Inbound(app, inbound)]);
    let list = [("payments", payments.inbound(), service)];
    let orders = Sidecar::start("orders", &authority, policies, &[Port::Among("proxy", &list)]);
    Proxied { orders, payments }
}

/// Sends `head` and reads the head of the answer; what follows is the caller's.
async fn ask(address: SocketAddr, head: &str) -> (String, TcpStream) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(tcp.read_u8().await.expect("a whole head"));
    }
    (String::from_utf8(answer).unwrap(), tcp)
}

/// A tunnel to `authority` that stands.
async fn tunnel(proxied: &Proxied, authority: &str) -> TcpStream {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let (answer, tcp) = ask(proxied.orders.outbound(), &head).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("x-request-id: ") && !answer.contains("content-length"), "{answer}");
    tcp
}

#[tokio::test]
async fn absolute_targets_lead_to_their_service_without_what_was_for_the_proxy() {
    let app = App::start().await;
    let proxied = proxied(app.address, CALLERS, "protocol: http", "");
    let head = |target: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: payments\r\nProxy-Authorization: Basic c2VjcmV0\r\n\
             Proxy-Connection: keep-alive\r\nx-own: kept\r\n\r\n"
        )
    };
    for target in ["http://payments/x?y=1", "http://payments", "/x"] {
        let (answer, _tcp) = ask(proxied.orders.outbound(), &head(target)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{target}: {answer}");
    }
    let seen = app.seen();
    assert_eq!(seen.iter().map(|seen| seen.target.as_str()).collect::<Vec<_>>(), ["/x?y=1", "/", "/x"]);
    for seen in seen {
        assert_eq!(
            (&seen.headers["host"], &seen.headers["x-own"]),
            (&"payments".parse().unwrap(), &"kept".parse().unwrap())
        );
        assert!(seen.headers.keys().all(|name| !name.as_str().starts_with("proxy-")), "{:?}", seen.headers);
    }
}

#[tokio::test]
async fn a_tunnel_carries_the_applications_own_tls_to_the_proven_peer() {
    let tls = OwnTls::of("payments");
    let app = App::start_with(&tls).await;
    let proxied = proxied(app.address, CALLERS, "protocol: auto", "");
    for authority in ["payments:443", "PAYMENTS.shop:9443"] {
        let stream = tls.connect("payments", tunnel(&proxied, authority).await).await.unwrap();
        let mut client = Connection::over(stream, Http::One).await;
        assert_eq!(client.status("GET", "/a").await, 200);
    }
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn each_half_of_a_tunnel_ends_by_itself() {
    let echo = echo().await;
    for (inbound, service) in
        [("protocol: tcp", "protocol: tcp"), ("protocol: tcp", ""), ("protocol: auto", "")]
    {
        let proxied = proxied(echo.address, CALLERS, inbound, service);
        let mut tcp = tunnel(&proxied, "payments:25").await;
        let sent = vec![7; 300_000];
        let (mut read, mut write) = tcp.split();
        let sending = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let ((), read) = tokio::join!(sending, read.read_to_end(&mut received));
        read.unwrap();
        assert!(received == sent, "{} bytes came back", received.len());
        let line = proxied.orders.accessed(|line| line["method"] == "CONNECT");
        assert_eq!((&line["path"], &line["dst"]), (&"payments:25".into(), &id("payments").into()));
        assert_eq!((&line["status"], &line["bytes_received"]), (&200.into(), &300_000.into()));
    }
}

#[tokio::test]
async fn http_inside_of_a_tunnel_is_judged_as_http() {
    let app = App::start().await;
    let proxied = proxied(app.address, NO_ADMIN, "protocol: http", "");
    for version in [Http::One, Http::Two] {
        let mut client = Connection::over(tunnel(&proxied, "payments:80").await, version).await;
        assert_eq!(client.status("GET", "/a/1").await, 200);
        assert_eq!(client.status("GET", "/admin").await, 403);
    }
    let line = proxied.payments.accessed(|line| line["status"] == 403);
    assert_eq!((&line["path"], &line["src"]), (&"/admin".into(), &id("orders").into()));
    assert_eq!(app.seen().iter().filter(|seen| seen.target == "/a/1").count(), 2);
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn http2_asks_for_tunnels_too() {
    let echo = echo().await;
    let proxied = proxied(echo.address, CALLERS, "protocol: tcp", "");
    let tcp = TcpStream::connect(proxied.orders.outbound()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    let driving = tokio::spawn(async move { drop(connection.await) });
    for (authority, status) in [("payments:25", 200), ("evil.test:25", 404)] {
        let request = Request::connect(authority).body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status, "{authority}");
        if status == 200 {
            let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
            stream.write_all(b"\x00hello").await.unwrap();
            let mut back = [0; 6];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"\x00hello");
        }
    }
    drop(sender);
    driving.abort();
}

#[tokio::test]
async fn a_tunnel_that_leads_to_no_service_of_the_port_is_refused() {
    let app = App::start().await;
    let proxied = proxied(app.address, CALLERS, "protocol: auto", "");
    let own = proxied.orders.outbound();
    for (head, status, code) in [
        ("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 404, "SG0621"),
        // The proxy, asked for itself.
        (&format!("CONNECT {own} HTTP/1.1\r\nHost: {own}\r\n\r\n"), 404, "SG0621"),
        (&format!("GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\n\r\n"), 404, "SG0621"),
        ("CONNECT payments:443 HTTP/1.1\r\nHost: stock:443\r\n\r\n", 400, "SG0611"),
        ("CONNECT payments HTTP/1.1\r\nHost: payments\r\n\r\n", 400, "SG0611"),
        ("CONNECT payments:443 HTTP/1.1\r\nHost: payments:443\r\nContent-Length: 2\r\n\r\n", 400, "SG0612"),
        ("GET https://payments/ HTTP/1.1\r\nHost: payments\r\n\r\n", 501, "SG0618"),
    ] {
        let (answer, _tcp) = ask(own, head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        let (_, request_id) = answer.split_once("x-request-id: ").expect("a request id");
        let request_id = request_id.lines().next().unwrap();
        let line = proxied.orders.accessed(|line| line["request_id"] == request_id);
        assert_eq!(line["code"], code, "{head}");
    }
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn a_port_that_is_no_proxy_opens_no_tunnel() {
    let (app, authority) = (App::start().await, Authority::new());
    let payments = Sidecar::start("payments", &authority, CALLERS, &[Port::Inbound(app.address, "")]);
    let list = [("payments", payments.inbound(), "")];
    for port in [Port::Among("services", &list), Port::Outbound("payments", payments.inbound(), "")] {
        let orders = Sidecar::start("orders", &authority, CALLERS, &[port]);
        let head = "CONNECT payments:443 HTTP/1.1\r\nHost: payments:443\r\n\r\n";
        let (answer, _tcp) = ask(orders.outbound(), head).await;
        assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
    }
}

#[tokio::test]
async fn no_byte_of_a_tunnel_goes_out_before_its_peer_has_proven_itself() {
    let authority = Authority::new();
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let list = [("payments", stranger.local_addr().unwrap(), "")];
    let orders = Sidecar::start("orders", &authority, CALLERS, &[Port::Among("proxy", &list)]);
    let address = orders.outbound();
    let asking = tokio::spawn(async move {
        ask(address, "CONNECT payments:443 HTTP/1.1\r\nHost: payments:443\r\n\r\n").await
    });
    let (mut tcp, _) = timeout(PATIENCE, stranger.accept()).await.unwrap().unwrap();
    assert_eq!(tcp.read_u8().await.unwrap(), 0x16, "a TLS handshake and nothing else");
    assert!(!asking.is_finished(), "nobody has proven anything yet");
    // Nobody answers any further try either.
    drop((tcp, stranger));
    let (answer, mut tcp) = timeout(PATIENCE, asking).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let ended = timeout(PATIENCE, tcp.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the connection ends with the refusal");
}

#[tokio::test]
async fn bytes_for_a_tunnel_that_is_not_open_yet_end_its_connection() {
    let authority = Authority::new();
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let list = [("payments", stranger.local_addr().unwrap(), "")];
    let orders = Sidecar::start("orders", &authority, CALLERS, &[Port::Among("proxy", &list)]);
    let eager = "CONNECT payments:443 HTTP/1.1\r\nHost: payments:443\r\n\r\n\
                 GET http://payments/eager HTTP/1.1\r\nHost: payments\r\n\r\n";
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    client.write_all(eager.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("an end");
    assert!(!answer.windows(5).any(|bytes| bytes == b" 200 "), "{}", answer.escape_ascii());
    assert!(answer.windows(5).filter(|bytes| *bytes == b"HTTP/").count() <= 1, "{}", answer.escape_ascii());
}

#[tokio::test]
async fn a_tunnel_to_an_impostor_or_to_nobody_is_refused() {
    let (app, authority) = (App::start().await, Authority::new());
    let ledger = Sidecar::start("ledger", &authority, CALLERS, &[Port::Inbound(app.address, "")]);
    let list = [("payments", ledger.inbound(), "")];
    let orders = Sidecar::start("orders", &authority, CALLERS, &[Port::Among("proxy", &list)]);
    let head = "CONNECT payments:443 HTTP/1.1\r\nHost: payments:443\r\n\r\n";
    let (answer, _tcp) = ask(orders.outbound(), head).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(orders.accessed(|line| line["status"] == 502)["code"], "SG0305");

    orders.configure(|text| text.replace(&format!("endpoints: ['{}']", ledger.inbound()), "endpoints: []"));
    orders.logged(|line| line["message"] == "configuration applied");
    let (answer, _tcp) = ask(orders.outbound(), head).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(orders.accessed(|line| line["status"] == 503)["code"], "SG0603");
    assert!(app.seen().is_empty());
}
