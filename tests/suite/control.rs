//! Real sidecars under a real control plane: nothing they report is refused or lost, and neither a restart nor a root
//! that was made anew leaves one behind.

use std::{net::SocketAddr, time::Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::mesh::{App, Authority, Connection, ControlPlane, Http, Member, Port, Sidecar, id, tls};

const POLICIES: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  selector: {app: payments}
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/charge]}]}]
";

fn payments(control_plane: &ControlPlane, app: SocketAddr) -> Member {
    let listeners = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{app}', protocol: http}}]");
    Member::start("payments", control_plane, &listeners)
}

/// A connection that is no TLS, to its end.
async fn plaintext(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // Refused by closing; whether the bytes were taken before does not matter.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    let _ = stream.read(&mut [0; 64]).await;
}

#[tokio::test]
async fn what_was_seen_before_the_first_certificate_is_reported_with_all_that_comes_after() {
    let app = App::start().await;
    let mut control_plane = ControlPlane::start("100ms", POLICIES);
    control_plane.stop();
    let payments = payments(&control_plane, app.address);
    // It has no certificate yet, and so no name for its own end of the edge.
    plaintext(payments.address("inbound")).await;
    control_plane.start_again();
    let unnamed = control_plane.edge(|edge| edge["direction"] == "inbound").await;
    let known = (&unnamed["source"], &unnamed["destination"], &unnamed["protocol"]);
    assert_eq!(known, (&json!(null), &json!(id("payments")), &json!(null)));

    let orders = Member::start(
        "orders",
        &control_plane,
        "outbound: [{listen: '127.0.0.1:0', service: shop/payments, protocol: http}]",
    );
    control_plane.serves_both().await;
    let mut client = Connection::plain(orders.address("outbound"), Http::One).await;
    assert_eq!(client.status("GET", "/charge").await, 200);
    assert_eq!(client.status("GET", "/refund").await, 403);
    for (direction, verdict, source, tls) in [
        ("inbound", "allowed", json!(id("orders")), "mutual"),
        ("inbound", "denied", json!(id("orders")), "mutual"),
        ("outbound", "allowed", json!(id("orders")), "mutual"),
    ] {
        let reported = control_plane.edge(|edge| {
            edge["direction"] == direction
                && edge["verdict"] == verdict
                && edge["source"] == source
                && edge["tls"] == tls
        });
        reported.await;
    }
}

#[tokio::test]
async fn the_last_report_is_sent_at_the_end() {
    let app = App::start().await;
    let control_plane = ControlPlane::start("5m", POLICIES);
    let mut payments = payments(&control_plane, app.address);
    payments.logged(|line| line["message"] == "update applied");
    plaintext(payments.address("inbound")).await;
    payments.terminate();
    assert!(payments.wait().success());
    let edges = control_plane.get("/v1/edges?window=1h").await;
    assert_eq!(edges["edges"].as_array().unwrap().len(), 1, "{edges:#}");
}

#[tokio::test]
async fn an_access_log_that_nobody_reads_does_not_keep_a_sidecar_from_ending() {
    let app = App::start().await;
    let control_plane = ControlPlane::start("100ms", POLICIES);
    let mut payments = payments(&control_plane, app.address);
    // More lines than a pipe and the writer's own buffer hold.
    for _ in 0..1_000 {
        plaintext(payments.address("inbound")).await;
    }
    payments.terminate();
    payments.logged(|line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("nobody reads the access log"))
    });
    assert!(payments.wait().success());
}

#[tokio::test]
async fn a_sidecar_follows_to_a_root_that_was_made_anew_as_soon_as_it_is_told_of_it() {
    let app = App::start().await;
    let mut control_plane = ControlPlane::start("100ms", POLICIES);
    let payments = payments(&control_plane, app.address);
    payments.logged(|line| line["message"] == "update applied");
    control_plane.stop();
    control_plane.lose_its_state();
    control_plane.start_again();
    payments.logged(|line| line["code"] == "SG0605");
    payments.replace_root(&control_plane.root());
    control_plane.first("/v1/proxies", "proxies", |proxy| proxy["acked"].as_u64() > Some(0)).await;
}

#[tokio::test]
async fn a_sidecar_does_not_follow_to_a_root_that_it_was_not_told_of() {
    let app = App::start().await;
    let mut control_plane = ControlPlane::start("100ms", POLICIES);
    let payments = payments(&control_plane, app.address);
    payments.logged(|line| line["message"] == "update applied");
    control_plane.stop();
    control_plane.lose_its_state();
    control_plane.start_again();
    payments.logged(|line| {
        let is_untrusted = line["error"].as_str().is_some_and(|error| error.contains("UnknownIssuer"));
        line["code"] == "SG0605" && is_untrusted
    });
    let proxies = control_plane.get("/v1/proxies").await;
    assert_eq!(proxies["proxies"], json!([]));
}

const OPEN: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec: {action: Allow, rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]}
";

#[tokio::test]
async fn a_root_that_is_taken_out_of_the_bundle_is_trusted_no_longer_even_if_it_is_the_own_one() {
    let (app, old, new) = (App::start().await, Authority::new(), Authority::new());
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let sidecar = Sidecar::start("payments", &old, OPEN, &ports);
    let (orders, itself) = (old.svid(&id("orders")), id("payments"));
    let connect = || tls(sidecar.inbound(), &old, Some(&orders), &itself, b"http/1.1");
    connect().await.unwrap();
    sidecar.replace("bundle.pem", &new.bundle());
    sidecar.logged(|line| line["code"] == "SG0313");
    assert!(connect().await.is_err());
    assert_eq!(sidecar.page("/readyz").await.status, 503);
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let authority = Authority::new();
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports = [Port::Inbound(app.local_addr().unwrap(), "protocol: http")];
    let mut sidecar = Sidecar::start_as(
        "payments",
        &authority.svid(&id("payments")),
        &authority,
        OPEN,
        &ports,
        "limits: {drainTimeout: 1h}",
    );
    let orders = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), &authority, Some(&orders), &id("payments"), b"http/1.1").await;
    let mut client = Connection::over(stream.unwrap(), Http::One).await;
    let request = tokio::spawn(async move { client.call("GET", "/").await });
    let (_never_answers, _) = app.accept().await.unwrap();
    sidecar.terminate();
    sidecar.logged(|line| line["message"] == "draining");
    let begun = Instant::now();
    sidecar.terminate();
    assert!(sidecar.wait().success());
    assert!(begun.elapsed() < crate::mesh::PATIENCE);
    assert!(request.await.unwrap().is_err());
}
