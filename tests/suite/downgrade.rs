//! A port whose policies read HTTP carries no bytes that cannot be read, whatever the caller calls them.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{Authority, PATIENCE, Port, Sidecar, id, tls},
    opaque::echo,
};

const OPEN: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

/// For another caller: what it says of the port is what counts.
const WITH_HTTP: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules:
  - {name: orders, from: [{serviceAccounts: [shop/orders]}]}
  - {name: web-reads, from: [{serviceAccounts: [shop/web]}], to: [{methods: [GET]}]}
";

/// What comes back of opaque bytes that `orders` sends, under each kind of link.
async fn answers(sidecar: &Sidecar, authority: &Authority) -> Vec<Vec<u8>> {
    let svid = authority.svid(&id("orders"));
    let mut answers = Vec::new();
    for alpn in [&b"sidegate-tcp/1"[..], b""] {
        let mut stream = tls(sidecar.inbound(), authority, Some(&svid), &id("payments"), alpn).await.unwrap();
        stream.write_all(b"\x01ping\n").await.unwrap();
        let mut back = vec![0; 6];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("an end");
        answers.push(read.map_or_else(|_| Vec::new(), |_| back));
    }
    answers
}

#[tokio::test]
async fn an_auto_port_with_a_condition_on_http_refuses_opaque_bytes_and_says_what_to_do() {
    let (echo, authority) = (echo().await, Authority::new());
    let ports = [Port::Inbound(echo.address, "protocol: auto")];
    let sidecar = Sidecar::start("payments", &authority, WITH_HTTP, &ports);
    assert_eq!(answers(&sidecar, &authority).await, [b"", b""]);
    let line = sidecar.accessed(|line| line["code"] == "SG0208");
    assert_eq!(
        (&line["verdict"], &line["policy"], &line["rule"]),
        (&"denied".into(), &"shop/callers".into(), &"web-reads".into())
    );
}

#[tokio::test]
async fn without_a_condition_on_http_an_auto_port_carries_opaque_bytes() {
    let (echo, authority) = (echo().await, Authority::new());
    let ports = [Port::Inbound(echo.address, "protocol: auto")];
    let sidecar = Sidecar::start("payments", &authority, OPEN, &ports);
    assert_eq!(answers(&sidecar, &authority).await, [b"\x01ping\n", b"\x01ping\n"]);
}

#[tokio::test]
async fn a_port_that_is_declared_tcp_keeps_its_opaque_bytes_under_conditions_on_http() {
    let (echo, authority) = (echo().await, Authority::new());
    let ports = [Port::Inbound(echo.address, "protocol: tcp")];
    let sidecar = Sidecar::start("payments", &authority, WITH_HTTP, &ports);
    assert_eq!(answers(&sidecar, &authority).await, [b"\x01ping\n", b"\x01ping\n"]);
}

#[tokio::test]
async fn a_new_condition_on_http_cuts_the_opaque_connections_of_an_auto_port() {
    let (echo, authority) = (echo().await, Authority::new());
    let ports = [Port::Inbound(echo.address, "protocol: auto")];
    let sidecar = Sidecar::start("payments", &authority, OPEN, &ports);
    let svid = authority.svid(&id("orders"));
    let mut open =
        tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"sidegate-tcp/1").await.unwrap();
    open.write_all(b"\x01ping\n").await.unwrap();
    open.read_exact(&mut [0; 6]).await.unwrap();

    sidecar.replace("policies.yaml", WITH_HTTP);
    let changed = Instant::now();
    let read = tokio::time::timeout(PATIENCE, open.read(&mut [0; 4])).await.expect("still open");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(changed.elapsed().as_secs() < 1, "{:?}", changed.elapsed());
    sidecar.accessed(|line| line["code"] == "SG0207" && line["rule"] == "web-reads");
}
