//! Shared links between two sidecars: of many requests or opaque connections at once, each is judged, limited and cut by itself, like
//! one that has a connection of its own.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::BodyExt;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Barrier, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::{
    mesh::{
        Authority, Body, Connection, Does, Endpoint, Http, PATIENCE, Port, Service, Sidecar, body, client_h1,
        id, tls,
    },
    streams::{breaks_off, ticking},
    websocket::{SWITCHED, chat, open},
};

const CALLERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules:
  - {name: watch, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/watch]}]}
  - {name: rest, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/kept, /echo, /chat]}]}
";

const EVERYTHING: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: everything, from: [{serviceAccounts: [shop/orders]}]}]
";

/// What two sidecars speak when they have agreed on a shared link for HTTP.
const LINK: &[u8] = b"sidegate-yamux-http/1";
/// As many as the callers of one test.
const MANY: usize = 40;

struct Pair {
    orders: Sidecar,
    payments: Sidecar,
    authority: Authority,
}

fn pair(app: &Service) -> Pair {
    let authority = Authority::new();
    let payments =
        Sidecar::start("payments", &authority, CALLERS, &[Port::Inbound(app.address, "protocol: http")]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: http")];
    let orders = Sidecar::start_as(
        "orders",
        &authority.svid(&id("orders")),
        &authority,
        CALLERS,
        &to_payments,
        // One, so that all the requests are under way on the same.
        "workers: 1",
    );
    Pair { orders, payments, authority }
}

/// Answers nobody until so many ask at once; then each with what it has sent.
async fn at_once(many: usize) -> Service {
    let barrier = Arc::new(Barrier::new(many));
    Service::start(move |request| {
        let barrier = Arc::clone(&barrier);
        async move {
            let said = request.into_body().collect().await.unwrap().to_bytes();
            barrier.wait().await;
            Response::new(body(said))
        }
    })
    .await
}

/// The body of a request, as the body of its answer.
fn echoed(said: hyper::body::Incoming) -> Body {
    said.map_err(io::Error::other).boxed_unsync()
}

fn request(method: &str, target: &str, said: impl Into<Bytes>) -> Request<Body> {
    Request::builder().method(method).uri(target).header("host", "payments").body(body(said)).unwrap()
}

/// A call on a connection of its own to the sidecar of the caller.
async fn call(orders: &Sidecar, request: Request<Body>) -> Response<hyper::body::Incoming> {
    let mut client = client_h1(TcpStream::connect(orders.outbound()).await.unwrap()).await;
    let answer = client.send_request(request).await.unwrap();
    // The connection ends with its sender.
    tokio::spawn(async move {
        let _client = client;
        std::future::pending::<()>().await;
    });
    answer
}

/// How many connections of peers a sidecar has seen.
async fn connections(payments: &Sidecar) -> usize {
    let metrics = payments.page("/metrics").await.body;
    let counts = metrics.lines().filter(|line| {
        line.starts_with("sidegate_connections_total{") && line.contains("direction=\"inbound\"")
    });
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_share_a_connection_and_each_has_its_own_answer() {
    let app = at_once(MANY).await;
    let Pair { orders, payments, .. } = pair(&app);
    for round in 0..3 {
        let calls = (0..MANY).map(|n| {
            // Larger than what a stream takes without being read.
            let said = format!("{round} {n} ").repeat(if n % 10 == 0 { 100_000 } else { 10 });
            let orders = &orders;
            async move {
                let answer = call(orders, request("POST", "/echo", said.clone())).await;
                assert_eq!(answer.status(), 200);
                let heard = answer.into_body().collect().await.unwrap().to_bytes();
                assert!(heard == said.as_bytes(), "{round} {n}: {} bytes of {}", heard.len(), said.len());
            }
        });
        join_all(calls).await;
    }
    let connections = connections(&payments).await;
    assert!((1..=8).contains(&connections), "{connections} connections for {MANY} requests at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_no_links_is_called_as_often_at_once() {
    let authority = Authority::new();
    let payments = Endpoint::start(&authority, |_| Does::Hangs).await;
    let to_payments = [Port::Outbound("payments", payments.address, "protocol: http")];
    let orders = Sidecar::start("orders", &authority, CALLERS, &to_payments);
    let mut calls = JoinSet::new();
    for _ in 0..MANY {
        let mut client = Connection::plain(orders.outbound(), Http::One).await;
        calls.spawn(async move { client.call("GET", "/kept").await });
    }
    payments.reached(MANY).await;
    assert_eq!(payments.connections(), MANY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_policy_cuts_the_streams_that_it_denies_and_no_other_of_their_link() {
    let app = ticking().await;
    let Pair { orders, payments, .. } = pair(&app);
    let mut answers = Vec::new();
    for n in 0..MANY {
        let target = if n % 2 == 0 { "/watch" } else { "/kept" };
        answers.push((target, call(&orders, request("GET", target, "")).await.into_body()));
    }
    assert!(connections(&payments).await <= 8);
    payments.replace("policies.yaml", &CALLERS.replace("[/watch]", "[/other]"));
    payments.accessed_times(MANY / 2, |line| line["code"] == "SG0207" && line["path"] == "/watch");
    for (target, mut answer) in answers {
        if target == "/watch" {
            breaks_off(answer).await;
            continue;
        }
        for _ in 0..20 {
            timeout(PATIENCE, answer.frame()).await.unwrap().unwrap().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_carries_nothing_more_when_its_peer_is_trusted_no_longer() {
    let app = ticking().await;
    let Pair { orders, payments, .. } = pair(&app);
    let mut answers = Vec::new();
    for _ in 0..MANY {
        answers.push(call(&orders, request("GET", "/kept", "")).await.into_body());
    }
    payments.move_away("payments");
    payments.accessed_times(MANY, |line| line["path"] == "/kept" && line["code"] == "SG0311");
    for answer in answers {
        breaks_off(answer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_calls_drops_the_streams_of_a_server_that_it_trusts_no_longer() {
    let app = ticking().await;
    let Pair { orders, payments: _payments, .. } = pair(&app);
    let mut answers = Vec::new();
    for _ in 0..MANY {
        answers.push(call(&orders, request("GET", "/kept", "")).await.into_body());
    }
    orders.move_away("orders");
    for answer in answers {
        breaks_off(answer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_drains_answers_all_that_is_under_way_on_its_links() {
    let (release, released) = watch::channel(false);
    let (arrived, mut arrivals) = watch::channel(0);
    let arrived = Arc::new(arrived);
    let app = Service::start(move |_| {
        let mut released = released.clone();
        arrived.send_modify(|arrived| *arrived += 1);
        async move {
            released.wait_for(|released| *released).await.unwrap();
            Response::new(body("done"))
        }
    })
    .await;
    let Pair { orders, mut payments, .. } = pair(&app);
    let calls = join_all((0..MANY).map(|_| async {
        let answer = call(&orders, request("GET", "/kept", "")).await;
        let status = answer.status();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }));
    let draining = async {
        timeout(PATIENCE, arrivals.wait_for(|arrived| *arrived == MANY)).await.unwrap().unwrap();
        payments.terminate();
        payments.logged(|line| line["message"] == "draining");
        release.send(true).unwrap();
    };
    let (answers, ()) = tokio::join!(calls, draining);
    for (status, said) in answers {
        assert_eq!((status.as_u16(), &said[..]), (200, &b"done"[..]));
    }
    assert!(payments.wait().success());
}

#[tokio::test]
async fn a_websocket_has_a_connection_of_its_own_beside_a_busy_link() {
    let app = chat(SWITCHED).await;
    let authority = Authority::new();
    let payments =
        Sidecar::start("payments", &authority, CALLERS, &[Port::Inbound(app.address, "protocol: http")]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: http")];
    let orders = Sidecar::start("orders", &authority, CALLERS, &to_payments);
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let (socket, head) = open(&orders).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        sockets.push(socket);
    }
    assert_eq!(connections(&payments).await, sockets.len());
}

/// Numbers without an order that anybody sees, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// One exchange: heard to its end, left in the middle of its answer, or left in the middle of its request.
async fn exchange(to: std::net::SocketAddr, dice: &mut Dice) {
    let said = vec![u8::try_from(dice.roll(256)).unwrap(); usize::try_from(dice.roll(200_000)).unwrap()];
    let mut client = TcpStream::connect(to).await.unwrap();
    let head = format!("POST /echo HTTP/1.1\r\nhost: payments\r\ncontent-length: {}\r\n\r\n", said.len());
    client.write_all(head.as_bytes()).await.unwrap();
    let leaves = dice.roll(4);
    if leaves == 0 {
        client.write_all(&said[..said.len() / 2]).await.unwrap();
        return;
    }
    let (mut read, mut write) = client.split();
    let reading = async {
        let mut answer = Vec::new();
        let mut piece = vec![0; 16 * 1024];
        loop {
            let count = timeout(PATIENCE, read.read(&mut piece)).await.expect("it stalls").unwrap();
            assert!(count > 0, "the answer ends early: {}", answer.len());
            answer.extend_from_slice(&piece[..count]);
            let begin = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4);
            if begin.is_some_and(|begin| leaves == 1 && answer.len() > begin + said.len() / 2) {
                return;
            }
            if let Some(begin) = begin.filter(|begin| answer.len() >= begin + said.len()) {
                assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer[..begin].escape_ascii());
                assert!(answer[begin..] == said, "somebody else's answer, or not all of it");
                return;
            }
        }
    };
    let (written, ()) = tokio::join!(write.write_all(&said), reading);
    // Whoever leaves early need not have said all.
    assert!(leaves == 1 || written.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_at_any_moment_disturb_no_other_and_leave_nothing_behind() {
    let app = Service::start(|request| async move { Response::new(echoed(request.into_body())) }).await;
    let Pair { orders, payments, .. } = pair(&app);
    let mut callers = JoinSet::new();
    for seed in 0..MANY as u64 {
        let to = orders.outbound();
        callers.spawn(async move {
            let mut dice = Dice(seed);
            for _ in 0..15 {
                exchange(to, &mut dice).await;
            }
        });
    }
    while let Some(called) = callers.join_next().await {
        called.unwrap();
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let metrics = orders.page("/metrics").await.body;
        if metrics.contains("sidegate_connections_active{direction=\"outbound\"} 0") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "who has left is still there: {metrics}");
    }
    for sidecar in [&orders, &payments] {
        let metrics = sidecar.page("/metrics").await.body;
        assert!(metrics.contains("sidegate_connection_panics_total 0"), "{metrics}");
    }
}

/// A link that the test itself speaks, by another implementation of yamux.
struct Raw {
    opened: tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<yamux::Stream>>,
    _driving: JoinSet<()>,
}

impl Raw {
    async fn to(sidecar: &Sidecar, authority: &Authority, account: &str) -> Self {
        let svid = authority.svid(&id(account));
        let stream = tls(sidecar.inbound(), authority, Some(&svid), &id("payments"), LINK).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(LINK));
        let mut link = yamux::Connection::new(stream.compat(), yamux::Config::default(), yamux::Mode::Client);
        let (opened, mut wanted) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<_>>(1);
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            loop {
                tokio::select! {
                    Some(wants) = wanted.recv() => {
                        let Ok(stream) = poll_fn(|cx| link.poll_new_outbound(cx)).await else { return };
                        // Whoever wanted it may have given up.
                        let _ = wants.send(stream);
                    }
                    ended = poll_fn(|cx| link.poll_next_inbound(cx)) => {
                        assert!(!matches!(ended, Some(Ok(_))), "a server opens no streams");
                        return;
                    }
                }
            }
        });
        Self { opened, _driving: driving }
    }

    async fn open(&self) -> Compat<yamux::Stream> {
        let (wants, stream) = tokio::sync::oneshot::channel();
        self.opened.send(wants).await.unwrap();
        stream.await.unwrap().compat()
    }

    /// Says `request` on a stream of its own, and hears until that ends.
    async fn says(&self, request: &str) -> String {
        let mut stream = self.open().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut heard = Vec::new();
        // However it ends.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("an end");
        String::from_utf8_lossy(&heard).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_on_a_link_is_judged_and_checked_like_any_other() {
    let app = at_once(1).await;
    let Pair { payments, authority, .. } = pair(&app);
    let permitted = Raw::to(&payments, &authority, "orders").await;
    let head = "host: payments\r\nconnection: close\r\n";
    for (request, status) in [
        (format!("GET /kept HTTP/1.1\r\n{head}\r\n"), "200"),
        (format!("GET /secret HTTP/1.1\r\n{head}\r\n"), "403"),
        (format!("GET /kept/../secret HTTP/1.1\r\n{head}\r\n"), "400"),
        (
            format!("POST /kept HTTP/1.1\r\n{head}content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
            "400",
        ),
        (format!("GET /kept HTTP/1.1\r\n{head}host: other\r\n\r\n"), "400"),
    ] {
        let answer = permitted.says(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    let stranger = Raw::to(&payments, &authority, "stranger").await;
    let answer = stranger.says(&format!("GET /kept HTTP/1.1\r\n{head}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let line = payments.accessed(|line| line["status"] == 403 && line["path"] == "/kept");
    assert_eq!((&line["src"], &line["tls"]), (&id("stranger").into(), &"mutual".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_of_a_link_take_places_under_the_limit_of_connections() {
    let (app, authority) = (at_once(1).await, Authority::new());
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let svid = authority.svid(&id("payments"));
    let more = "limits: {connectionsPerSource: 3}";
    let payments = Sidecar::start_as("payments", &svid, &authority, CALLERS, &ports, more);
    let link = Raw::to(&payments, &authority, "orders").await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = link.open().await;
        stream.write_all(b"GET /kept HTTP/1.1\r\nhost: payments\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        streams.push(stream);
    }
    assert_eq!(link.says("GET /kept HTTP/1.1\r\nhost: payments\r\n\r\n").await, "");
    payments.accessed(|line| line["code"] == "SG0606");
    drop(streams);
    let deadline = std::time::Instant::now() + PATIENCE;
    while !link
        .says("GET /kept HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n")
        .await
        .contains("200")
    {
        assert!(std::time::Instant::now() < deadline, "the places are not given back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_its_protocol_ends_and_is_recorded() {
    let app = at_once(1).await;
    let Pair { payments, authority, .. } = pair(&app);
    let svid = authority.svid(&id("orders"));
    let ping = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    for frames in [vec![1; 12], ping.repeat(20_000)] {
        let mut stream =
            tls(payments.inbound(), &authority, Some(&svid), &id("payments"), LINK).await.unwrap();
        // It may end before all is said.
        let _ = stream.write_all(&frames).await;
        let mut heard = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("an end");
        drop(ended);
    }
    payments.accessed_times(2, |line| line["code"] == "SG0659" && line["src"] == id("orders").as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_carries_no_requests_to_a_port_of_opaque_bytes() {
    let (app, authority) = (at_once(1).await, Authority::new());
    let payments =
        Sidecar::start("payments", &authority, CALLERS, &[Port::Inbound(app.address, "protocol: tcp")]);
    let link = Raw::to(&payments, &authority, "orders").await;
    assert_eq!(link.says("GET /kept HTTP/1.1\r\nhost: payments\r\n\r\n").await, "");
    payments.accessed(|line| line["code"] == "SG0615");
}

/// What an application of opaque bytes does with each connection: it says back what it hears, and resets it at an `R`.
async fn resetting() -> (std::net::SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = tcp.read(&mut bytes).await {
                    if bytes[..count].contains(&b'R') {
                        SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
                        return;
                    }
                    if tcp.write_all(&bytes[..count]).await.is_err() {
                        return;
                    }
                }
                // The end of the one direction is passed on as the end of the other.
                let _ = tcp.shutdown().await;
            });
        }
    });
    (address, serving)
}

fn opaque_pair(app: std::net::SocketAddr) -> (Sidecar, Sidecar) {
    let authority = Authority::new();
    let payments = Sidecar::start("payments", &authority, EVERYTHING, &[Port::Inbound(app, "protocol: tcp")]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: tcp")];
    let svid = authority.svid(&id("orders"));
    let orders = Sidecar::start_as("orders", &svid, &authority, EVERYTHING, &to_payments, "workers: 1");
    (orders, payments)
}

/// Connections that are all open at once: each has said something and heard it.
async fn all_open(orders: &Sidecar) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..MANY {
        let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        open.push(client);
    }
    open
}

/// How a connection ends that was cut.
async fn reset(mut client: TcpStream) -> io::ErrorKind {
    let read = timeout(PATIENCE, client.read(&mut [0; 64])).await.expect("it goes on");
    read.expect_err("a cut must not look like an end").kind()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_opaque_connections_at_once_share_a_connection_and_each_carries_its_own_bytes() {
    let (app, _serving) = resetting().await;
    let (orders, payments) = opaque_pair(app);
    let open = all_open(&orders).await;
    let shared = connections(&payments).await;
    assert!((1..=8).contains(&shared), "{shared} connections for {MANY} at once");
    let talks = open.into_iter().enumerate().map(async |(n, mut client)| {
        let said = vec![u8::try_from(n).unwrap(); if n % 10 == 0 { 3_000_000 } else { 30_000 }];
        let (mut read, mut write) = client.split();
        let saying = async {
            write.write_all(&said).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let ((), ended) = tokio::join!(saying, read.read_to_end(&mut heard));
        ended.unwrap();
        assert!(heard == said, "{n}: {} bytes of {}", heard.len(), said.len());
    });
    join_all(talks).await;
    payments.accessed_times(MANY, |line| {
        line["protocol"] == "tcp" && line["verdict"] == "allowed" && line["src"] == id("orders").as_str()
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_one_opaque_connection_is_one_at_the_other_end_and_of_no_other() {
    let (app, _serving) = resetting().await;
    let (orders, _payments) = opaque_pair(app);
    let mut open = all_open(&orders).await;
    // The last of them, which are streams of a link.
    for _ in 0..3 {
        let mut client = open.pop().unwrap();
        client.write_all(b"R").await.unwrap();
        assert_eq!(reset(client).await, io::ErrorKind::ConnectionReset);
    }
    for client in &mut open {
        client.write_all(b"y").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'y');
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_connections_on_a_link_are_cut_when_policy_denies_them() {
    let (app, _serving) = resetting().await;
    let (orders, payments) = opaque_pair(app);
    let open = all_open(&orders).await;
    payments.replace("policies.yaml", &EVERYTHING.replace("shop/orders", "shop/nobody"));
    for client in open {
        assert_eq!(reset(client).await, io::ErrorKind::ConnectionReset);
    }
    payments.accessed_times(MANY, |line| line["code"] == "SG0207" && line["bytes_received"] == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_connections_on_a_link_are_cut_when_either_side_trusts_the_other_no_longer() {
    let (app, _serving) = resetting().await;
    for of_server in [true, false] {
        let (orders, payments) = opaque_pair(app);
        let open = all_open(&orders).await;
        let (sidecar, account) = if of_server { (&payments, "payments") } else { (&orders, "orders") };
        sidecar.move_away(account);
        for client in open {
            assert_eq!(reset(client).await, io::ErrorKind::ConnectionReset);
        }
        sidecar.accessed_times(MANY, |line| line["code"] == "SG0311" && line["bytes_received"] == 1);
    }
}
