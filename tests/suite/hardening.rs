//! Attacks on a real sidecar, over raw sockets: each has a named bound, and is told, recorded and counted; a client on
//! another connection notices nothing.

mod bodies;
mod frames;
mod framing;
mod idle;
mod pace;
mod totals;

use std::net::SocketAddr;

use http::StatusCode;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::client::TlsStream;

use crate::mesh::{App, Authority, Connection, Http, PATIENCE, Port, Sidecar, id, tls};

const ORDERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

/// A sidecar with an application, an attacker's means, and a client that behaves.
struct Stage {
    app: App,
    authority: Authority,
    sidecar: Sidecar,
    bystander: Connection,
}

impl Stage {
    async fn new(protocol: &str, more: &str) -> Self {
        let app = App::start().await;
        let address = app.address;
        Self::with(app, address, protocol, more).await
    }

    /// In front of another application than its own.
    async fn before(address: SocketAddr, protocol: &str, more: &str) -> Self {
        Self::with(App::start().await, address, protocol, more).await
    }

    async fn with(app: App, address: SocketAddr, protocol: &str, more: &str) -> Self {
        let authority = Authority::new();
        let svid = authority.svid(&id("payments"));
        let protocol = format!("protocol: {protocol}");
        let ports = [Port::Inbound(address, &protocol)];
        let sidecar = Sidecar::start_as("payments", &svid, &authority, ORDERS, &ports, more);
        let stream = link(&sidecar, &authority, b"http/1.1").await;
        let bystander = Connection::over(stream, Http::One).await;
        Self { app, authority, sidecar, bystander }
    }

    /// Whoever behaves, on a connection of now.
    async fn new_bystander(&mut self) {
        self.bystander = Connection::over(self.link(b"http/1.1").await, Http::One).await;
    }

    async fn link(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        link(&self.sidecar, &self.authority, alpn).await
    }

    /// What the metric has counted under `code` so far.
    async fn failed(&self, code: &str) -> u64 {
        let line = format!("sidegate_failed_total{{direction=\"inbound\",code=\"{code}\"}} ");
        let page = self.sidecar.page("/metrics").await;
        page.body.lines().find_map(|text| text.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    /// Waits until it has counted `count` of them: an attacker sees its connection end before its end is recorded.
    async fn has_counted(&self, code: &str, count: u64) {
        let counted = async {
            while self.failed(code).await < count {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, counted).await.is_ok();
        let page = self.sidecar.page("/metrics").await.body;
        let lines: Vec<_> = page.lines().filter(|line| line.starts_with("sidegate_failed_total")).collect();
        assert!(in_time, "{code} is not counted {count} times: {lines:?}");
        assert_eq!(self.failed(code).await, count, "{code}");
    }

    /// Whoever behaves is served.
    async fn serves_others(&mut self) {
        let reply =
            self.bystander.call("GET", "/bystander").await.expect("the bystander's own connection lives");
        assert_eq!(reply.status, StatusCode::OK);
    }
}

async fn link(sidecar: &Sidecar, authority: &Authority, alpn: &[u8]) -> TlsStream<TcpStream> {
    let svid = authority.svid(&id("orders"));
    tls(sidecar.inbound(), authority, Some(&svid), &id("payments"), alpn).await.unwrap()
}

/// Everything until the sidecar ends the connection, in whatever way.
async fn until_closed(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut read = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await;
    assert!(end.is_ok(), "still open after: {}", read.escape_ascii());
    read
}
