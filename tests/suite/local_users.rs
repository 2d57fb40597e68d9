//! A sidecar on its control plane's host: the kernel says whose process it is, and no join token is needed. Other users than
//! that of the tests are in `tests/programs/test_local_users.py`.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::mesh::{App, Connection, ControlPlane, Http, Member, PATIENCE, id};

const POLICIES: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec: {action: Allow, rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]}
";
const OUTBOUND: &str = "outbound: [{listen: '127.0.0.1:0', service: payments, protocol: http}]";

/// The user of this test, and one that is nearly it.
fn own_user() -> (String, String) {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    (format!("{{uid: {user}, gid: {group}}}"), format!("{{uid: {user}, gid: {}}}", group + 1))
}

fn records(control_plane: &ControlPlane, arguments: &[&str]) -> Vec<Value> {
    let listed = control_plane.operator(&[&["certs", "list", "-o", "json"], arguments].concat());
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    listed["records"].as_array().unwrap().clone()
}

/// Waits for a record that is wanted.
fn record(control_plane: &ControlPlane, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listed = records(control_plane, arguments);
        if let Some(found) = listed.iter().find(|record| wanted(record)) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "{listed:#?}");
        // Nothing tells when the registry has grown.
        thread::sleep(Duration::from_millis(50));
    }
}

fn is_of_a_process(text: &Value) -> bool {
    text.as_str().is_some_and(|text| text.starts_with("uid "))
}

#[tokio::test]
async fn a_process_is_who_its_user_is_without_a_token_and_renews_after_a_crash_of_the_control_plane() {
    let (own, nearly) = own_user();
    let mut control_plane = ControlPlane::start_local(&nearly, POLICIES, "certificates: {leafLife: 12s}\n");
    let orders = Member::local("orders", &control_plane, OUTBOUND);
    let refused = orders.logged(|line| line["code"] == "SG0306");
    assert!(refused["error"].as_str().unwrap().contains("SG0365"), "another group is another: {refused}");
    let refused = record(&control_plane, &["--refused"], |record| record["code"] == "SG0365");
    assert!(is_of_a_process(&refused["caller"]), "{refused}");

    control_plane.local_users(&own);
    let issued = orders.logged(|line| line["message"] == "certificate issued");
    assert_eq!(issued["identity"], id("orders"), "as soon as its user is of a service");
    let first = record(&control_plane, &["--id", "shop/orders"], |record| record["attestor"] == "unix");
    assert!(is_of_a_process(&first["evidence"]), "{first}");

    let app = App::start().await;
    let inbound = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{}', protocol: http}}]", app.address);
    let _payments = Member::start("payments", &control_plane, &inbound);
    called(&orders).await;
    // The socket's file stays behind, and the next control plane takes its place.
    control_plane.kill();
    assert!(control_plane.file("local.sock").exists());
    control_plane.start_again();
    let renewed = record(&control_plane, &["--id", "shop/orders"], |record| record["attestor"] == "svid");
    assert!(is_of_a_process(&renewed["caller"]), "{renewed}");
    assert_ne!(first["key"], renewed["key"], "a key for each certificate");
    called(&orders).await;
}

/// Waits until payments answers to the application of orders.
async fn called(orders: &Member) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = Connection::plain(orders.address("outbound"), Http::One).await;
        let reply = client.call("GET", "/").await.unwrap();
        if reply.status == 200 {
            return;
        }
        assert!(Instant::now() < deadline, "{reply:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_user_proves_one_identity_and_the_control_plane_its_own() {
    let (own, _) = own_user();
    let control_plane = ControlPlane::start_local(&own, POLICIES, "");
    let claims_to_be_payments = Member::local("payments", &control_plane, OUTBOUND);
    let refused = claims_to_be_payments.logged(|line| line["code"] == "SG0313");
    assert!(refused["error"].as_str().unwrap().contains(&id("orders")), "{refused}");

    let another = ControlPlane::start("100ms", POLICIES);
    let misled = Member::local_under(&another.root(), "orders", &control_plane, OUTBOUND);
    let refused = misled.logged(|line| line["message"] == "no new certificate");
    assert_eq!(refused["code"], "SG0605", "who answers at the socket is not believed: {refused}");
    let issued = records(&control_plane, &["--id", "shop/orders"]);
    let callers: BTreeSet<_> = issued.iter().map(|record| record["caller"].as_str().unwrap()).collect();
    assert_eq!(callers.len(), 1, "the first one alone: {callers:?}");
}

#[test]
fn a_control_plane_at_whose_socket_another_one_answers_does_not_start() {
    let (own, _) = own_user();
    let first = ControlPlane::start_local(&own, POLICIES, "");
    let mut second = ControlPlane::start_local(&own, POLICIES, "");
    second.stop();
    let socket = second.file("local.sock");
    assert!(!socket.exists(), "it went with its control plane");
    std::fs::hard_link(first.file("local.sock"), &socket).unwrap();
    let refused = second.start_fails();
    assert!(refused.contains("SG0366") && refused.contains("another process answers"), "{refused}");
    let orders = Member::local("orders", &first, OUTBOUND);
    orders.logged(|line| line["message"] == "certificate issued");
}
