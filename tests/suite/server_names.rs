//! `to.sni`: policies on the server name of TLS that the application speaks by itself, which the sidecars carry unread.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    mesh::{Authority, OwnTls, Port, Sidecar},
    opaque::echo,
};

const DATABASE: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: database, from: [{serviceAccounts: [shop/orders]}], to: [{sni: [db.shop.test]}]}]
";

const NO_ADMIN: &str = "
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
  rules: [{name: admin, to: [{sni: [admin.shop.test]}]}]
";

/// `orders`' sidecar in front of `payments`' sidecar in front of a server of the application's own TLS.
struct Pair {
    orders: Sidecar,
    payments: Sidecar,
    _serving: JoinSet<()>,
}

impl Pair {
    async fn of(own: &OwnTls, protocol: &str, policies: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (app, acceptor) = (listener.local_addr().unwrap(), own.acceptor());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(tcp).await {
                    let _ = stream.write_all(b"welcome").await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        let authority = Authority::new();
        let inbound = [Port::Inbound(app, protocol)];
        let payments = Sidecar::start("payments", &authority, policies, &inbound);
        let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: tcp")];
        let orders = Sidecar::start("orders", &authority, policies, &to_payments);
        Self { orders, payments, _serving: serving }
    }

    async fn welcomed(&self, own: &OwnTls, name: &str) -> bool {
        let tcp = TcpStream::connect(self.orders.outbound()).await.unwrap();
        let Ok(mut stream) = own.connect(name, tcp).await else { return false };
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.is_ok() && text == b"welcome"
    }
}

#[tokio::test]
async fn an_allow_on_a_server_name_lets_in_who_names_it_and_nobody_else() {
    for protocol in ["protocol: tcp", "protocol: auto"] {
        let own = OwnTls::of("db.shop.test");
        let pair = Pair::of(&own, protocol, DATABASE).await;
        assert!(pair.welcomed(&own, "db.shop.test").await, "{protocol}");
        let line = pair.payments.accessed(|line| line["verdict"] == "allowed");
        assert_eq!(line["rule"], "database");

        assert!(!pair.welcomed(&own, "other.shop.test").await, "{protocol}");
        let line = pair.payments.accessed(|line| line["verdict"] == "denied");
        assert_eq!(line["code"], "SG0202");
        let nearest = line["nearest"].as_str().unwrap();
        assert!(nearest.contains("sni other.shop.test is not in [db.shop.test]"), "{nearest}");
    }
}

#[tokio::test]
async fn bytes_without_a_server_name_are_let_in_by_no_rule_that_asks_for_one() {
    let echo = echo().await;
    let authority = Authority::new();
    for (policies, code) in [(DATABASE, "SG0202"), (NO_ADMIN, "SG0205")] {
        let inbound = [Port::Inbound(echo.address, "protocol: tcp")];
        let payments = Sidecar::start("payments", &authority, policies, &inbound);
        let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: tcp")];
        let orders = Sidecar::start("orders", &authority, policies, &to_payments);
        let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
        client.write_all(b"no TLS at all").await.unwrap();
        let mut back = Vec::new();
        // A reset is as good a refusal as an end.
        let _ = client.read_to_end(&mut back).await;
        assert_eq!(back, b"", "{code}");
        assert_eq!(payments.accessed(|line| line["verdict"] == "denied")["code"], code);
    }
}

#[tokio::test]
async fn a_deny_on_a_server_name_refuses_that_name_and_lets_others_by() {
    let own = OwnTls::of("db.shop.test");
    let pair = Pair::of(&own, "protocol: tcp", NO_ADMIN).await;
    assert!(pair.welcomed(&own, "db.shop.test").await);
    assert!(!pair.welcomed(&own, "admin.shop.test").await);
    let line = pair.payments.accessed(|line| line["verdict"] == "denied");
    assert_eq!((&line["code"], &line["rule"]), (&"SG0203".into(), &"admin".into()));
}
