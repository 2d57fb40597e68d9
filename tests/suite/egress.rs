//! What leaves the mesh, through a forward proxy: what a rule of an `EgressPolicy` names, and nothing else. `localhost` is
//! the one name that every machine knows, and its address one that a rule has to mean.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::mesh::{App, Authority, PATIENCE, Port, Sidecar};

/// A policy of egress for `orders` with these rules.
fn rules(rules: &str) -> String {
    format!(
        "apiVersion: sidegate.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: out}}\nspec:\n  \
         selector: {{app: orders}}\n  rules:\n{rules}\n"
    )
}

/// No policy of egress at all.
const NONE: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec: {action: Allow, rules: [{from: [{serviceAccounts: [shop/orders]}]}]}
";

/// `orders`' sidecar as a proxy, under `policies`. `payments` is at an address where nobody is.
fn proxy(policies: &str, more: &str) -> Sidecar {
    let authority = Authority::new();
    let list = [("payments", SocketAddr::from(([127, 0, 0, 1], 9)), "")];
    let ports = [Port::Among("proxy", &list)];
    let svid = authority.svid(&crate::mesh::id("orders"));
    Sidecar::start_as("orders", &svid, &authority, policies, &ports, more)
}

/// The status of the answer to a request with this target, and the connection.
async fn ask(proxy: &Sidecar, method: &str, target: &str, host: &str) -> (u16, TcpStream) {
    let mut tcp = TcpStream::connect(proxy.outbound()).await.unwrap();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, tcp.read_u8()).await.unwrap().expect("a whole head"));
    }
    let answer = String::from_utf8(answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), tcp)
}

async fn get(proxy: &Sidecar, authority: &str) -> u16 {
    ask(proxy, "GET", &format!("http://{authority}/x"), authority).await.0
}

/// Somebody outside who must not be reached.
struct Nobody(std::net::TcpListener);

impl Nobody {
    fn listen() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The kernel has no connection for it: each answer to its caller is there by now.
    fn was_not_reached(&self) {
        let error = self.0.accept().expect_err("nobody may connect");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn without_a_policy_of_egress_nothing_leaves() {
    let nobody = Nobody::listen();
    let address = nobody.address();
    let proxy = proxy(NONE, "");
    for host in ["localhost", "127.0.0.1"] {
        let authority = format!("{host}:{}", address.port());
        assert_eq!(get(&proxy, &authority).await, 404, "{authority}");
        assert_eq!(ask(&proxy, "CONNECT", &authority, &authority).await.0, 404, "{authority}");
    }
    nobody.was_not_reached();
}

#[tokio::test]
async fn a_host_that_a_rule_names_is_reached_and_another_is_not() {
    let outside = App::start().await;
    let port = outside.address.port();
    let nobody = Nobody::listen();
    let elsewhere = nobody.address();
    let proxy = proxy(
        &rules(&format!(
            "  - {{name: cards, to: [{{hosts: [localhost], ipBlocks: [127.0.0.1], ports: [{port}]}}]}}"
        )),
        "",
    );
    assert_eq!(get(&proxy, &format!("localhost:{port}")).await, 200);
    let line = proxy.accessed(|line| line["rule"] == "cards");
    assert_eq!(
        (&line["policy"], &line["tls"], &line["verdict"]),
        (&"shop/out".into(), &"plaintext".into(), &"allowed".into())
    );
    // Another port, another name for the same host, and its address.
    for authority in [
        format!("localhost:{}", elsewhere.port()),
        format!("localhost.localdomain:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ] {
        assert_eq!(get(&proxy, &authority).await, 403, "{authority}");
    }
    proxy.accessed(|line| line["code"] == "SG0220" && line["verdict"] == "denied");
    assert_eq!(outside.seen().len(), 1);
    nobody.was_not_reached();
    let metrics = proxy.page("/metrics").await;
    let metrics = metrics.body;
    let counts = |family: &str, label: &str| {
        metrics.lines().any(|line| line.starts_with(family) && line.contains(label))
    };
    assert!(counts("sidegate_connections_total{", "tls=\"plaintext\""), "{metrics}");
    assert!(counts("sidegate_denied_total{", "code=\"SG0220\""), "{metrics}");
}

#[tokio::test]
async fn a_name_that_leads_to_an_address_of_this_host_is_not_let_out_without_a_block_that_means_it() {
    let nobody = Nobody::listen();
    let address = nobody.address();
    let port = address.port();
    for blocks in ["", "ipBlocks: [0.0.0.0/0, '::/0'], ", "ipBlocks: [10.0.0.0/8, 169.254.169.254], "] {
        let proxy =
            proxy(&rules(&format!("  - {{to: [{{hosts: [localhost], {blocks}ports: [{port}]}}]}}")), "");
        assert_eq!(get(&proxy, &format!("localhost:{port}")).await, 403, "{blocks}");
        let authority = format!("localhost:{port}");
        assert_eq!(ask(&proxy, "CONNECT", &authority, &authority).await.0, 403, "{blocks}");
    }
    nobody.was_not_reached();
}

#[tokio::test]
async fn an_open_tunnel_is_cut_when_its_rule_goes_and_a_rule_for_another_workload_opens_none() {
    let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("127.0.0.1:{}", outside.local_addr().unwrap().port());
    let port = outside.local_addr().unwrap().port();
    let rule = |from: &str| {
        rules(&format!(
            "  - {{name: db, from: [{from}], to: [{{ipBlocks: [127.0.0.0/8], ports: [{port}]}}]}}"
        ))
    };
    let proxy = proxy(&rule("{serviceAccounts: [shop/orders]}"), "");
    let (status, mut tunnel) = ask(&proxy, "CONNECT", &authority, &authority).await;
    assert_eq!(status, 200);
    let (mut outside_end, _) = timeout(PATIENCE, outside.accept()).await.unwrap().unwrap();
    tunnel.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    timeout(PATIENCE, outside_end.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"ping");

    proxy.replace("policies.yaml", &rule("{serviceAccounts: [shop/stock]}"));
    let end = timeout(PATIENCE, outside_end.read(&mut heard)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    proxy.accessed(|line| line["code"] == "SG0207");
    assert_eq!(ask(&proxy, "CONNECT", &authority, &authority).await.0, 403);
}

#[tokio::test]
async fn a_rule_that_is_over_and_one_in_shadow_let_nothing_out() {
    let nobody = Nobody::listen();
    let address = nobody.address();
    let port = address.port();
    let to = format!("to: [{{ipBlocks: [127.0.0.1], ports: [{port}]}}]");
    let authority = format!("127.0.0.1:{port}");

    let over = proxy(&rules(&format!("  - {{name: old, {to}, expires: 2020-01-01}}")), "");
    assert_eq!(get(&over, &authority).await, 403);
    let line = over.accessed(|line| line["code"] == "SG0220");
    assert!(line["nearest"].as_str().unwrap().ends_with("it ended on 2020-01-01"), "{line}");

    let shadow = rules(&format!("  - {{name: new, {to}}}")).replace("  rules:", "  mode: Shadow\n  rules:");
    let enforced = rules(&format!("  - {{to: [{{ipBlocks: [127.0.0.1], ports: [{}]}}]}}", port ^ 1));
    let shadow = shadow.replace("name: out", "name: trial");
    let proxy = proxy(&format!("{enforced}---\n{shadow}"), "");
    assert_eq!(get(&proxy, &authority).await, 403);
    let metrics = proxy.page("/metrics").await;
    let metrics = metrics.body;
    assert!(metrics.lines().any(|line| line.contains("SG0220")), "{metrics}");
    nobody.was_not_reached();
}

#[tokio::test]
async fn the_address_of_a_service_is_never_reached_in_plaintext_whatever_a_rule_says() {
    let nobody = Nobody::listen();
    let address = nobody.address();
    let authority = Authority::new();
    let list = [("payments", address, "")];
    let port = address.port();
    let policy = rules(&format!(
        "  - {{to: [{{ipBlocks: [127.0.0.0/8], ports: [{port}]}}]}}\n  \
         - {{to: [{{hosts: [localhost], ipBlocks: [127.0.0.0/8], ports: [{port}]}}]}}"
    ));
    let orders = Sidecar::start("orders", &authority, &policy, &[Port::Among("proxy", &list)]);
    for host in ["127.0.0.1", "localhost"] {
        let authority = format!("{host}:{port}");
        assert_eq!(get(&orders, &authority).await, 403, "{host}");
        assert_eq!(ask(&orders, "CONNECT", &authority, &authority).await.0, 403, "{host}");
    }
    nobody.was_not_reached();
}

#[tokio::test]
async fn where_egress_is_allowed_by_default_the_own_host_is_still_out_of_reach() {
    let nobody = Nobody::listen();
    let address = nobody.address();
    let proxy = proxy(NONE, "egress: Allow");
    for host in ["127.0.0.1", "localhost", "127.1"] {
        assert!(get(&proxy, &format!("{host}:{}", address.port())).await >= 400, "{host}");
    }
    nobody.was_not_reached();
}
