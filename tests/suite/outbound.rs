//! The outbound path: mutual TLS to exactly the service that was called, or an error.

use tokio::{io::AsyncReadExt, net::TcpListener};

use crate::mesh::{App, Authority, Connection, Http, Port, Sidecar, id};

const ORDERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

#[tokio::test]
async fn requests_of_both_versions_reach_the_service_over_mutual_tls() {
    let (app, authority) = (App::start().await, Authority::new());
    let payments =
        Sidecar::start("payments", &authority, ORDERS, &[Port::Inbound(app.address, "protocol: auto")]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: auto")];
    let orders = Sidecar::start("orders", &authority, ORDERS, &to_payments);
    for version in [Http::One, Http::Two] {
        let mut client = Connection::plain(orders.outbound(), version).await;
        for _ in 0..3 {
            assert_eq!(client.status("GET", "/a").await, 200);
        }
        let protocol = if version == Http::One { "http1" } else { "http2" };
        let line = orders.accessed(|line| line["protocol"] == protocol && line["status"] == 200);
        assert_eq!((&line["tls"], &line["dst"]), (&"mutual".into(), &id("payments").into()));
        let line = payments.accessed(|line| line["protocol"] == protocol && line["status"] == 200);
        assert_eq!(line["src"], id("orders").as_str());
    }
    assert_eq!(app.seen().len(), 6);
}

#[tokio::test]
async fn a_server_that_is_not_the_service_gets_no_request() {
    let (app, authority) = (App::start().await, Authority::new());
    // Valid, and somebody else.
    let ledger =
        Sidecar::start("ledger", &authority, ORDERS, &[Port::Inbound(app.address, "protocol: http")]);
    let to_payments = [Port::Outbound("payments", ledger.inbound(), "protocol: http")];
    let orders = Sidecar::start("orders", &authority, ORDERS, &to_payments);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    assert_eq!(client.status("GET", "/a").await, 502);
    assert_eq!(orders.accessed(|line| line["status"] == 502)["code"], "SG0305");
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn nothing_is_ever_sent_in_plaintext() {
    let authority = Authority::new();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to_payments = [Port::Outbound("payments", plain.local_addr().unwrap(), "protocol: http")];
    let orders = Sidecar::start("orders", &authority, ORDERS, &to_payments);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    let calling = tokio::spawn(async move { client.status("GET", "/secret").await });
    let (mut tcp, _) = plain.accept().await.unwrap();
    let mut first = vec![0; 4096];
    let length = tcp.read(&mut first).await.unwrap();
    assert_eq!(first[0], 0x16, "a TLS handshake and nothing else");
    assert!(!first[..length].windows(7).any(|bytes| bytes == b"/secret"));
    drop(tcp);
    assert_eq!(calling.await.unwrap(), 502);
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_an_error_with_a_code() {
    let authority = Authority::new();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let orders =
        Sidecar::start("orders", &authority, ORDERS, &[Port::Outbound("payments", closed, "protocol: http")]);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    let reply = client.call("GET", "/a").await.unwrap();
    assert_eq!(reply.status, 502);
    assert!(reply.body.starts_with("unavailable (request id "), "{}", reply.body);
    assert_eq!(orders.accessed(|line| line["status"] == 502)["code"], "SG0601");
}
