//! Servers that speak first, on ports of which nobody said what they carry: no stall, and no word before a verdict.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    mesh::{App, Authority, PATIENCE, Port, Sidecar, id, tls},
    opaque::serve,
};

const ORDERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

const NOBODY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: nobody, from: [{serviceAccounts: [shop/nobody]}]}]
";

const READS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: reads, from: [{serviceAccounts: [shop/orders]}], to: [{methods: [GET]}]}]
";

/// What `limits.detectTimeout` is by default: the stall that there must not be.
const STALL: Duration = Duration::from_secs(3);

fn pair(app: std::net::SocketAddr, policies: &str) -> (Sidecar, Sidecar) {
    let authority = Authority::new();
    let payments = Sidecar::start("payments", &authority, policies, &[Port::Inbound(app, "protocol: auto")]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: auto")];
    let orders = Sidecar::start("orders", &authority, policies, &to_payments);
    (orders, payments)
}

#[tokio::test]
async fn a_greeting_comes_through_a_pair_of_sidecars_without_a_stall() {
    let server = serve(b"220 mail.test ESMTP\r\n").await;
    let (orders, payments) = pair(server.address, ORDERS);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    let start = Instant::now();
    let mut greeting = [0; 21];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 mail.test ESMTP\r\n");
    assert!(start.elapsed() < STALL / 2, "{:?}", start.elapsed());
    client.write_all(b"EHLO a\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"EHLO a\r\n", "the connection is an ordinary one from then on");
    payments.accessed(|line| line["protocol"] == "tcp" && line["verdict"] == "allowed");
    orders.accessed(|line| line["protocol"] == "tcp" && line["verdict"] == "allowed");
}

/// A peer without ALPN: the called sidecar listens to both sides by itself.
#[tokio::test]
async fn a_greeting_comes_to_a_link_that_negotiated_nothing() {
    let (server, authority) = (serve(b"SSH-2.0-test\r\n").await, Authority::new());
    let ports = [Port::Inbound(server.address, "protocol: auto")];
    let sidecar = Sidecar::start("payments", &authority, ORDERS, &ports);
    let svid = authority.svid(&id("orders"));
    let mut client = tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"").await.unwrap();
    let start = Instant::now();
    let mut greeting = [0; 14];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"SSH-2.0-test\r\n");
    assert!(start.elapsed() < STALL / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_greeting_is_not_heard_by_whom_policy_denies() {
    let server = serve(b"SSH-2.0-test\r\n").await;
    let (orders, payments) = pair(server.address, NOBODY);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    let mut all = Vec::new();
    // A reset is as good a refusal as an end.
    let _ = tokio::time::timeout(PATIENCE, client.read_to_end(&mut all)).await.expect("an end");
    assert_eq!(all, b"");
    payments.accessed(|line| line["code"] == "SG0202");
    assert!(server.connections() == 0, "the application was not even connected to");
}

#[tokio::test]
async fn a_client_of_http_that_hesitates_is_still_one_of_http() {
    let app = App::start().await;
    let (orders, payments) = pair(app.address, READS);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    // Longer than the quiet time: the candidate is connected, and refused for the policies' sake.
    payments.accessed(|line| line["code"] == "SG0202" && line["protocol"] == "tcp");
    client.write_all(b"GET /late HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
    assert_eq!(app.seen().len(), 1);
    payments.accessed(|line| line["path"] == "/late" && line["rule"] == "reads");
}
