//! An identity in quarantine is nobody's peer any more, within a second and on open connections too.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::mesh::{App, Connection, ControlPlane, Http, Member};

const POLICIES: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec: {action: Allow, rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]}
";

async fn mesh(listeners: &str, protocol: &str) -> (ControlPlane, Member, Member) {
    let control_plane = ControlPlane::start("100ms", POLICIES);
    let payments = Member::start("payments", &control_plane, listeners);
    let outbound = format!("outbound: [{{listen: '127.0.0.1:0', service: payments, protocol: {protocol}}}]");
    let orders = Member::start("orders", &control_plane, &outbound);
    control_plane.serves_both().await;
    (control_plane, payments, orders)
}

#[tokio::test]
async fn a_quarantine_refuses_requests_within_a_second_and_lifting_it_restores() {
    let app = App::start().await;
    let inbound = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{}', protocol: http}}]", app.address);
    let (control_plane, payments, orders) = mesh(&inbound, "http").await;
    let mut client = Connection::plain(orders.address("outbound"), Http::One).await;
    assert_eq!(client.status("GET", "/").await, 200);

    control_plane.quarantine(&["add", "shop/orders", "--reason", "a test"]);
    let begun = Instant::now();
    while client.status("GET", "/").await == 200 {
        assert!(begun.elapsed() < Duration::from_secs(1), "still admitted");
    }
    payments.logged(|line| line["message"] == "update applied");
    let seen = app.seen().len();
    assert_eq!(client.status("GET", "/").await, 502);
    assert_eq!(app.seen().len(), seen, "nothing reaches the application");

    control_plane.quarantine(&["lift", "shop/orders"]);
    let lifted = Instant::now();
    while client.status("GET", "/").await != 200 {
        assert!(lifted.elapsed() < Duration::from_secs(5), "not admitted again");
    }
}

#[tokio::test]
async fn a_quarantine_cuts_an_open_connection_within_a_second() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    let inbound = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{address}', protocol: tcp}}]");
    let (control_plane, _payments, orders) = mesh(&inbound, "tcp").await;
    let mut client = TcpStream::connect(orders.address("outbound")).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let (mut served, _) = app.accept().await.unwrap();
    served.read_exact(&mut [0]).await.unwrap();

    control_plane.quarantine(&["add", "shop/orders", "--reason", "a test"]);
    let begun = Instant::now();
    // Reset, not closed: a cut must not look like an end.
    assert!(served.read(&mut [0]).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
