//! Changes apply to the living; what a sidecar is told to end, it ends in order.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::mesh::{App, Authority, Connection, Http, PATIENCE, Port, Sidecar, id, tls};

const OPEN: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

const CLOSED: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: nobody-yet, from: [{serviceAccounts: [shop/nobody]}]}]
";

async fn orders(sidecar: &Sidecar, authority: &Authority) -> Connection {
    let svid = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), authority, Some(&svid), &id("payments"), b"http/1.1").await.unwrap();
    Connection::over(stream, Http::One).await
}

#[tokio::test]
async fn a_policy_change_is_in_force_on_an_open_connection_within_a_second() {
    let (app, authority) = (App::start().await, Authority::new());
    let sidecar =
        Sidecar::start("payments", &authority, OPEN, &[Port::Inbound(app.address, "protocol: http")]);
    let mut orders = orders(&sidecar, &authority).await;
    for (policy, want) in [(CLOSED, 403), (OPEN, 200)] {
        sidecar.replace("policies.yaml", policy);
        let changed = Instant::now();
        while orders.status("GET", "/").await != want {
            assert!(changed.elapsed() < Duration::from_secs(1), "not in force after a second: {want}");
        }
    }
}

#[tokio::test]
async fn an_open_opaque_connection_is_cut_when_policy_no_longer_permits_it() {
    let authority = Authority::new();
    let echo = crate::opaque::echo().await;
    let sidecar =
        Sidecar::start("payments", &authority, OPEN, &[Port::Inbound(echo.address, "protocol: tcp")]);
    let svid = authority.svid(&id("orders"));
    let mut open =
        tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"sidegate-tcp/1").await.unwrap();
    open.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    open.read_exact(&mut pong).await.unwrap();

    sidecar.replace("policies.yaml", CLOSED);
    let changed = Instant::now();
    let read = tokio::time::timeout(PATIENCE, open.read(&mut pong)).await.expect("still open");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
    let line = sidecar.accessed(|line| line["code"] == "SG0207");
    assert_eq!((&line["verdict"], &line["bytes_received"]), (&"denied".into(), &4.into()));
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_takes_nothing_new() {
    let authority = Authority::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let mut sidecar = Sidecar::start("payments", &authority, OPEN, &[Port::Inbound(app, "protocol: http")]);
    let mut orders = orders(&sidecar, &authority).await;
    let request = tokio::spawn(async move { orders.call("GET", "/").await });
    let (mut upstream, _) = listener.accept().await.unwrap();
    assert_ne!(upstream.read(&mut [0; 1024]).await.unwrap(), 0, "the request is at the application");

    sidecar.terminate();
    sidecar.logged(|line| line["message"] == "draining");
    assert_eq!(sidecar.page("/readyz").await.status, 503);
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await.unwrap();
    let reply = request.await.unwrap().unwrap();
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, "done"));
    assert!(sidecar.wait().success());
}

/// Their requests may have been under way, and what is no GET would not be sent again elsewhere.
#[tokio::test]
async fn silent_connections_have_a_last_request_answered_as_draining_begins() {
    let (app, authority) = (App::start().await, Authority::new());
    let mut sidecar =
        Sidecar::start("payments", &authority, OPEN, &[Port::Inbound(app.address, "protocol: http")]);
    let mut used = orders(&sidecar, &authority).await;
    assert_eq!(used.status("POST", "/").await, 200);
    let mut fresh = orders(&sidecar, &authority).await;

    sidecar.terminate();
    sidecar.logged(|line| line["message"] == "draining");
    for connection in [&mut used, &mut fresh] {
        let last = connection.call("POST", "/").await.expect("an answer");
        assert_eq!((last.status.as_u16(), &last.headers["connection"]), (200, &"close".parse().unwrap()));
    }
    assert!(sidecar.wait().success());
}

/// Port 8080's caller may not reach what listens on another port, whenever the connection was opened.
#[tokio::test]
async fn a_request_is_judged_by_the_port_that_it_is_forwarded_to() {
    let (public, private, authority) = (App::start().await, App::start().await, Authority::new());
    let policy = OPEN.replace("from:", &format!("to: [{{ports: [{}]}}], from:", public.address.port()));
    let sidecar =
        Sidecar::start("payments", &authority, &policy, &[Port::Inbound(public.address, "protocol: http")]);
    let mut orders = orders(&sidecar, &authority).await;
    assert_eq!(orders.status("GET", "/").await, 200);
    sidecar.configure(|text| text.replace(&public.address.to_string(), &private.address.to_string()));
    sidecar.logged(|line| line["message"] == "configuration applied");
    assert_eq!(orders.status("GET", "/").await, 403);
    assert!(private.seen().is_empty());
}

#[tokio::test]
async fn a_draining_sidecar_still_carries_the_calls_that_its_last_requests_need() {
    let (ledger, authority) = (App::start().await, Authority::new());
    let everybody = OPEN.replace("[{serviceAccounts: [shop/orders]}]", "[{namespaces: [shop]}]");
    let ledger_sidecar =
        Sidecar::start("ledger", &authority, &everybody, &[Port::Inbound(ledger.address, "protocol: http")]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports = [
        Port::Inbound(listener.local_addr().unwrap(), "protocol: http"),
        Port::Outbound("ledger", ledger_sidecar.inbound(), "protocol: http"),
    ];
    let mut sidecar = Sidecar::start("payments", &authority, &everybody, &ports);
    let mut orders = orders(&sidecar, &authority).await;
    let request = tokio::spawn(async move { orders.call("GET", "/").await });
    let (mut app, _) = listener.accept().await.unwrap();
    assert_ne!(app.read(&mut [0; 1024]).await.unwrap(), 0, "the request is at the application");

    sidecar.terminate();
    sidecar.logged(|line| line["message"] == "draining");
    let mut upstream = Connection::plain(sidecar.outbound(), Http::One).await;
    assert_eq!(
        upstream.status("GET", "/entry").await,
        200,
        "the application needs its own upstream to answer"
    );
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(request.await.unwrap().unwrap().status, 200);
    drop(upstream);
    assert!(sidecar.wait().success());
}
