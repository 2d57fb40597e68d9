//! What leaves the mesh, through a forward proxy: what a rule of an `EgressPolicy` names, and nothing else. `localhost` is
//! the one name that every machine knows, and its address one that a rule has to mean.

use std::{net::SocketAddr, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::mesh::{App, Authority, ControlPlane, Member, PATIENCE, Port, Sidecar};

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
    (ask_on(&mut tcp, method, target, host).await, tcp)
}

async fn ask_on(tcp: &mut TcpStream, method: &str, target: &str, host: &str) -> u16 {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, tcp.read_u8()).await.unwrap().expect("a whole head"));
    }
    let answer = String::from_utf8(answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
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
async fn an_open_answer_is_cut_and_the_next_request_refused_when_their_rule_goes() {
    let (app, slow) = (App::start().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (quick, slow_port) = (app.address.port(), slow.local_addr().unwrap().port());
    let rule = |ports: &str| rules(&format!("  - {{to: [{{ipBlocks: [127.0.0.1], ports: [{ports}]}}]}}"));
    let proxy = proxy(&rule(&format!("{quick}, {slow_port}")), "");
    let target = |port: u16| (format!("http://127.0.0.1:{port}/x"), format!("127.0.0.1:{port}"));
    let (url, host) = target(quick);
    let (status, mut kept) = ask(&proxy, "GET", &url, &host).await;
    assert_eq!((status, app.seen().len()), (200, 1));
    let answering = tokio::spawn(async move {
        let (mut outside, _) = slow.accept().await.unwrap();
        assert_ne!(outside.read(&mut [0; 1024]).await.unwrap(), 0);
        outside
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ntick\r\n")
            .await
            .unwrap();
        // Whatever comes of it, the answer has no end.
        outside.read(&mut [0; 1024]).await
    });
    let (slow_url, slow_host) = target(slow_port);
    let (status, mut open) = ask(&proxy, "GET", &slow_url, &slow_host).await;
    assert_eq!(status, 200);

    proxy.replace("policies.yaml", &rule("1"));
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, open.read_to_end(&mut rest)).await.expect("the answer is still open");
    assert!(end.is_err() || !rest.ends_with(b"0\r\n\r\n"), "{end:?} {}", rest.escape_ascii());
    proxy.accessed(|line| line["code"] == "SG0207");
    let reached = timeout(PATIENCE, answering).await.expect("the host outside is still connected").unwrap();
    assert!(matches!(reached, Ok(0) | Err(_)), "{reached:?}");
    assert_eq!(ask_on(&mut kept, "GET", &url, &host).await, 403);
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn policies_of_egress_come_from_the_control_plane_and_so_do_their_change_and_their_end() {
    let (app, outside) = (App::start().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (http, tcp) = (app.address.port(), outside.local_addr().unwrap().port());
    let none = NONE.replace("name: callers", "name: callers, namespace: shop");
    let egress = |ports: &str| {
        let text = rules(&format!("  - {{name: out, to: [{{ipBlocks: [127.0.0.1], ports: [{ports}]}}]}}"));
        format!("{none}---\n{}", text.replace("name: out}\n", "name: out, namespace: shop}\n"))
    };
    let control_plane = ControlPlane::start("100ms", &egress(&format!("{http}, {tcp}")));
    let orders = Member::start(
        "orders",
        &control_plane,
        "outbound: [{listen: '127.0.0.1:0', proxy: [shop/payments]}]",
    );
    let proxy = orders.address("outbound");
    let (url, host) = (format!("http://127.0.0.1:{http}/x"), format!("127.0.0.1:{http}"));
    let until = async |status: u16| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut connection = TcpStream::connect(proxy).await.unwrap();
            let answered = ask_on(&mut connection, "GET", &url, &host).await;
            if answered == status {
                return;
            }
            assert!(Instant::now() < deadline, "{answered} and never {status}");
        }
    };
    until(200).await;
    let recorded = control_plane.edge(|edge| edge["rule"] == "out").await;
    assert_eq!(
        (&recorded["verdict"], &recorded["tls"]),
        (&"allowed".into(), &"plaintext".into()),
        "{recorded}"
    );
    let mut tunnel = TcpStream::connect(proxy).await.unwrap();
    let database = format!("127.0.0.1:{tcp}");
    assert_eq!(ask_on(&mut tunnel, "CONNECT", &database, &database).await, 200);
    let (mut reached, _) = timeout(PATIENCE, outside.accept()).await.unwrap().unwrap();
    tunnel.write_all(b"ping").await.unwrap();
    timeout(PATIENCE, reached.read_exact(&mut [0; 4])).await.unwrap().unwrap();

    control_plane.policies(&egress(&http.to_string()));
    let end = timeout(PATIENCE, reached.read(&mut [0; 4])).await.expect("the tunnel is still open");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    until(200).await;
    let mut refused = TcpStream::connect(proxy).await.unwrap();
    assert_eq!(ask_on(&mut refused, "CONNECT", &database, &database).await, 403);

    control_plane.policies(&none);
    until(404).await;
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
