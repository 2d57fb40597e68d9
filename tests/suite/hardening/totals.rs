//! What all peers together may take: descriptors, memory, places, labels.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{ORDERS, Stage, link};
use crate::mesh::{App, Authority, Connection, ControlPlane, Http, Member, PATIENCE, Port, Sidecar, id, tls};

/// CPU time of a process so far, in clock ticks (proc(5): utime and stime).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn without_descriptors_the_sidecar_waits_serves_what_it_has_and_comes_back() {
    let (app, authority) = (App::start().await, Authority::new());
    let svid = authority.svid(&id("payments"));
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let script = "ulimit -n 64; exec \"$0\" \"$@\"";
    let sidecar = Sidecar::start_under(script, &svid, &authority, ORDERS, &ports);
    let opened = sidecar.logged(|line| line["message"] == "open files");
    assert_eq!(opened["limit"], 64);
    let mut bystander = Connection::over(link(&sidecar, &authority, b"http/1.1").await, Http::One).await;
    assert_eq!(bystander.status("GET", "/").await, 200);

    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(TcpStream::connect(sidecar.inbound()).await.unwrap());
    }
    let line = sidecar.logged(|line| line["code"] == "SG0658");
    assert_eq!(line["direction"], "inbound");
    assert_eq!(bystander.status("GET", "/").await, 200, "on the pooled connection to the application");
    let before = ticks(sidecar.pid());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = ticks(sidecar.pid()) - before;
    assert!(spent < 50, "{spent} ticks of 100 in a second: it spins");

    drop(held);
    let again = async {
        loop {
            let stream = link(&sidecar, &authority, b"http/1.1").await;
            if Connection::over(stream, Http::One).await.call("GET", "/").await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("it accepts no more");
}

#[tokio::test]
async fn above_the_memory_limit_nothing_new_is_taken_on_and_it_ends() {
    // The least there may be; connections with half a head of 1 MiB each fill it.
    let mut stage =
        Stage::new("http", "workers: 1\nlimits: {memory: 33554432, headerBytes: 1048576, headTimeout: 1m}")
            .await;
    stage.serves_others().await;
    let half = [&b"GET / HTTP/1.1\r\nHost: payments\r\nx: "[..], &vec![b'a'; 900_000]].concat();
    let mut held = Vec::new();
    while stage.bystander.status("GET", "/").await == 200 {
        assert!(held.len() < 500, "the memory never ends");
        let (svid, server) = (stage.authority.svid(&id("orders")), id("payments"));
        let tls = tls(stage.sidecar.inbound(), &stage.authority, Some(&svid), &server, b"http/1.1");
        // Refused from that moment on.
        let Ok(mut stream) = tls.await else { continue };
        if stream.write_all(&half).await.is_ok() && stream.flush().await.is_ok() {
            held.push(stream);
        }
    }
    assert_eq!(stage.sidecar.accessed(|line| line["status"] == 503)["code"], "SG0657");
    let refused = TcpStream::connect(stage.sidecar.inbound()).await.unwrap().read(&mut [0; 1]).await;
    assert!(matches!(refused, Ok(0) | Err(_)), "a new connection is let in");

    drop(held);
    let again = async { while stage.bystander.status("GET", "/").await != 200 {} };
    tokio::time::timeout(PATIENCE, again).await.expect("it sheds forever");
    stage.new_bystander().await;
    stage.serves_others().await;
}

#[tokio::test]
async fn the_memory_that_a_burst_has_taken_is_given_back_in_silence() {
    const TAKEN: u64 = 20_000_000;
    let authority = Authority::new();
    let nobody = [Port::Outbound("payments", "127.0.0.1:1".parse().unwrap(), "protocol: http")];
    let sidecar = Sidecar::start("orders", &authority, ORDERS, &nobody);
    let before = sidecar.resident_bytes();
    let half = [&b"GET / HTTP/1.1\r\nHost: payments\r\nx: "[..], &vec![b'a'; 60_000]].concat();
    let mut held = Vec::new();
    while sidecar.resident_bytes() < before + TAKEN {
        assert!(held.len() < 2_000, "the memory never grows");
        let mut stream = TcpStream::connect(sidecar.outbound()).await.unwrap();
        stream.write_all(&half).await.unwrap();
        held.push(stream);
    }
    drop(held);
    let deadline = std::time::Instant::now() + PATIENCE;
    while sidecar.resident_bytes() > before + TAKEN / 2 {
        assert!(std::time::Instant::now() < deadline, "{} of {before} bytes", sidecar.resident_bytes());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn callers_in_all_places_leave_the_application_its_own_calls() {
    let (app, authority) = (App::start().await, Authority::new());
    let peer =
        Sidecar::start("payments", &authority, ORDERS, &[Port::Inbound(app.address, "protocol: http")]);
    let svid = authority.svid(&id("orders"));
    let ports = [
        Port::Inbound(app.address, "protocol: http"),
        Port::Outbound("payments", peer.inbound(), "protocol: http"),
    ];
    let sidecar = Sidecar::start_as("orders", &svid, &authority, ORDERS, &ports, "limits: {connections: 3}");
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(TcpStream::connect(sidecar.inbound()).await.unwrap());
    }
    sidecar.accessed(|line| line["code"] == "SG0606" && line["direction"] == "inbound");
    let mut own = Connection::plain(sidecar.outbound(), Http::One).await;
    assert_eq!(own.status("GET", "/").await, 200);
}

#[tokio::test]
async fn what_a_peer_chooses_becomes_no_label() {
    let stage = Stage::new("http", "").await;
    let names = |page: &str| {
        page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' ')).count()
    };
    let mut caller = Connection::over(stage.link(b"http/1.1").await, Http::One).await;
    assert_eq!(caller.status("GET", "/").await, 200);
    let before = names(&stage.sidecar.page("/metrics").await.body);
    for n in 0..200 {
        let request = http::Request::builder()
            .method(format!("M{n}").as_str())
            .uri(format!("/evil-{n}?evil={n}"))
            .header("host", format!("evil-{n}.test"))
            .header("user-agent", format!("evil/{n}"));
        assert!(caller.send(request.body(http_body_util::Full::default()).unwrap()).await.is_ok());
    }
    let page = stage.sidecar.page("/metrics").await.body;
    assert!(!page.contains("evil") && !page.contains("M199"), "{page}");
    assert_eq!(names(&page), before, "a peer made new series");
}

#[tokio::test]
async fn idle_connections_over_the_limit_are_closed_and_one_is_used_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let one = "workers: 1\nlimits: {idleConnections: 1}";
    let stage = Stage::before(listener.local_addr().unwrap(), "http", one).await;
    let mut callers = tokio::task::JoinSet::new();
    let mut upstreams = Vec::new();
    for _ in 0..3 {
        let mut caller = Connection::over(stage.link(b"http/1.1").await, Http::One).await;
        callers.spawn(async move { caller.status("GET", "/").await });
        let (mut upstream, _) = listener.accept().await.unwrap();
        assert_ne!(upstream.read(&mut [0; 1024]).await.unwrap(), 0);
        upstreams.push(upstream);
    }
    for upstream in &mut upstreams {
        upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    }
    assert_eq!(callers.join_all().await, [200; 3]);
    let mut heard = tokio::task::JoinSet::new();
    for mut upstream in upstreams {
        heard.spawn(async move {
            let read = tokio::time::timeout(PATIENCE, upstream.read(&mut [0; 1024])).await.unwrap().unwrap();
            if read > 0 {
                upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
            read > 0
        });
    }
    for _ in 0..2 {
        assert!(!heard.join_next().await.unwrap().unwrap(), "two are closed");
    }
    let mut again = Connection::over(stage.link(b"http/1.1").await, Http::One).await;
    assert_eq!(again.status("GET", "/again").await, 200);
    assert!(heard.join_next().await.unwrap().unwrap(), "and one is used again");
}

#[tokio::test]
async fn an_update_over_the_limit_is_not_taken() {
    let rule = |name: &str, path: &str| {
        format!(
            "  - {{name: '{name}', from: [{{serviceAccounts: [shop/orders]}}], to: [{{paths: ['{path}']}}]}}\n"
        )
    };
    let policies = |rules: &str| {
        format!(
            "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: callers, namespace: shop}}\n\
             spec:\n  selector: {{app: payments}}\n  action: Allow\n  rules:\n{rules}"
        )
    };
    let app = App::start().await;
    let control_plane = ControlPlane::start("100ms", &policies(&rule("charge", "/charge")));
    let inbound = format!(
        "limits: {{snapshotBytes: 65536}}\ninbound: [{{listen: '127.0.0.1:0', forward: '{}', protocol: http}}]",
        app.address
    );
    let payments = Member::start("payments", &control_plane, &inbound);
    let orders = Member::start(
        "orders",
        &control_plane,
        "outbound: [{listen: '127.0.0.1:0', service: shop/payments, protocol: http}]",
    );
    control_plane.serves_both().await;
    let mut client = Connection::plain(orders.address("outbound"), Http::One).await;
    assert_eq!(client.status("GET", "/charge").await, 200);

    let long: String =
        (0..500).map(|n| rule(&format!("r{n}"), &format!("/{}/{n}", "x".repeat(200)))).collect();
    control_plane.policies(&policies(&format!("{}{long}", rule("refund", "/refund"))));
    payments.logged(|line| line.to_string().contains("message length too large"));
    assert_ne!(client.status("GET", "/refund").await, 200, "it would allow this");
}
