//! Opaque connections through both sidecars, and the line between them and HTTP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::mesh::{App, Authority, Port, Sidecar, id, tls};

const ORDERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

const WITH_HTTP_DENY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec:
  action: Deny
  rules: [{name: admin, to: [{paths: [/admin]}]}]
";

/// A server that greets first and then sends back what it gets, up to the end of it.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Echo {
    /// How many have come so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

pub(crate) async fn echo() -> Echo {
    serve(b"").await
}

pub(crate) async fn serve(greeting: &'static [u8]) -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            connections.spawn(async move {
                let (mut read, mut write) = tcp.split();
                if write.write_all(greeting).await.is_ok() {
                    // The end of the one direction is passed on as the end of the other.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                }
            });
        }
    });
    Echo { address, connections: count, _serving: serving }
}

/// `orders`' sidecar in front of `payments`' sidecar in front of `app`.
fn pair(app: SocketAddr, policies: &str) -> (Sidecar, Sidecar) {
    let authority = Authority::new();
    let payments = Sidecar::start("payments", &authority, policies, &[Port::Inbound(app, "protocol: tcp")]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: tcp")];
    let orders = Sidecar::start("orders", &authority, policies, &to_payments);
    (orders, payments)
}

#[tokio::test]
async fn bytes_and_half_closes_pass_through_a_pair_of_sidecars() {
    let echo = serve(b"220 hello\r\n").await;
    let (orders, payments) = pair(echo.address, ORDERS);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    let mut greeting = [0; 11];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello\r\n", "the server speaks first");

    let sent = vec![7; 1_000_000];
    let (mut read, mut write) = client.split();
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let ((), read) = tokio::join!(sending, read.read_to_end(&mut received));
    read.unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
    let line = payments.accessed(|line| line["protocol"] == "tcp");
    assert_eq!(
        (&line["verdict"], &line["rule"], &line["bytes_received"]),
        (&"allowed".into(), &"orders".into(), &1_000_000.into())
    );
    let line = orders.accessed(|line| line["protocol"] == "tcp");
    assert_eq!(
        (&line["direction"], &line["tls"], &line["dst"]),
        (&"outbound".into(), &"mutual".into(), &id("payments").into())
    );
}

#[tokio::test]
async fn a_deny_rule_that_cannot_be_evaluated_on_opaque_bytes_denies() {
    let echo = serve(b"220 hello\r\n").await;
    let (orders, payments) = pair(echo.address, WITH_HTTP_DENY);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    let mut all = Vec::new();
    // A reset is as good a refusal as an end.
    let _ = client.read_to_end(&mut all).await;
    assert_eq!(all, b"", "not even the greeting came through");
    let line = payments.accessed(|line| line["protocol"] == "tcp");
    assert_eq!(
        (&line["verdict"], &line["code"], &line["rule"]),
        (&"denied".into(), &"SG0205".into(), &"admin".into())
    );
}

#[tokio::test]
async fn an_http_port_is_never_downgraded_to_opaque_bytes() {
    let (app, authority) = (App::start().await, Authority::new());
    let sidecar =
        Sidecar::start("payments", &authority, ORDERS, &[Port::Inbound(app.address, "protocol: http")]);
    let svid = authority.svid(&id("orders"));
    for alpn in [&b"sidegate-tcp/1"[..], b""] {
        let stream = tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), alpn).await;
        // Without a common protocol the handshake itself may end it.
        if let Ok(mut stream) = stream {
            let _ = stream.write_all(b"\x01\x02 GET /admin HTTP/1.1\r\nHost: payments\r\n\r\n").await;
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
            assert_eq!(all, b"");
        }
    }
    sidecar.accessed(|line| line["code"] == "SG0615");
    assert!(app.seen().is_empty());
}

/// The default `protocol: auto`, and an Allow without HTTP conditions.
#[tokio::test]
async fn http_that_calls_itself_opaque_does_not_reach_the_application() {
    let (app, authority) = (App::start().await, Authority::new());
    let sidecar =
        Sidecar::start("payments", &authority, ORDERS, &[Port::Inbound(app.address, "protocol: auto")]);
    let svid = authority.svid(&id("orders"));
    let mut stream =
        tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"sidegate-tcp/1").await.unwrap();
    let forged =
        format!("GET /a/../b HTTP/1.1\r\nHost: payments\r\nX-Sidegate-Peer: {}\r\n\r\n", id("admin"));
    stream.write_all(forged.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // A reset is as good a refusal as an end.
    let _ = stream.read_to_end(&mut all).await;
    assert_eq!(all, b"");
    sidecar.accessed(|line| line["protocol"] == "tcp" && line["verdict"] == "failed");
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn a_port_that_is_declared_tcp_is_not_looked_into() {
    let echo = echo().await;
    let (orders, _payments) = pair(echo.address, ORDERS);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    let bytes = b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n";
    client.write_all(bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!(back, bytes);
}
