//! Bounded everything: what is over a limit is refused, counted, and costs nobody else anything.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::mesh::{App, Authority, Connection, Http, PATIENCE, Port, Sidecar, id, tls};

const ORDERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

async fn stage(limits: &str) -> (App, Authority, Sidecar) {
    let (app, authority) = (App::start().await, Authority::new());
    let svid = authority.svid(&id("payments"));
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let more = format!("limits: {{{limits}}}");
    let sidecar = Sidecar::start_as("payments", &svid, &authority, ORDERS, &ports, &more);
    (app, authority, sidecar)
}

async fn orders(sidecar: &Sidecar, authority: &Authority) -> std::io::Result<Connection> {
    let svid = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), authority, Some(&svid), &id("payments"), b"http/1.1").await?;
    Ok(Connection::over(stream, Http::One).await)
}

/// Whether the sidecar ends the connection by itself.
async fn is_closed(mut tcp: TcpStream) -> bool {
    let read = tokio::time::timeout(PATIENCE, tcp.read(&mut [0; 64])).await.expect("still open");
    matches!(read, Ok(0) | Err(_))
}

#[tokio::test]
async fn connections_over_the_limit_of_a_source_are_refused_and_counted() {
    let (_app, authority, sidecar) = stage("connectionsPerSource: 1").await;
    let mut first = orders(&sidecar, &authority).await.unwrap();
    assert_eq!(first.status("GET", "/").await, 200);
    assert!(is_closed(TcpStream::connect(sidecar.inbound()).await.unwrap()).await);
    sidecar.accessed(|line| line["code"] == "SG0606");
    assert_eq!(first.status("GET", "/").await, 200, "who was in stays in");
}

#[tokio::test]
async fn a_silent_peer_does_not_hold_a_place() {
    let (_app, _authority, sidecar) = stage("detectTimeout: 100ms, handshakeTimeout: 200ms").await;
    assert!(is_closed(TcpStream::connect(sidecar.inbound()).await.unwrap()).await);
    sidecar.accessed(|line| line["code"] == "SG0619");
    let mut half = TcpStream::connect(sidecar.inbound()).await.unwrap();
    // The head of a ClientHello record, and then nothing.
    half.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    assert!(is_closed(half).await);
    sidecar.accessed(|line| line["code"] == "SG0310");
}

/// A peer that begins a handshake and goes no further.
async fn half_a_handshake(sidecar: &Sidecar) -> TcpStream {
    let mut half = TcpStream::connect(sidecar.inbound()).await.unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    half
}

#[tokio::test]
async fn handshakes_over_the_limit_wait_and_are_given_up_in_time() {
    let (app, authority) = (App::start().await, Authority::new());
    let start = |limits: &str| {
        let (svid, more) = (authority.svid(&id("payments")), format!("workers: 1\nlimits: {{{limits}}}"));
        let ports = [Port::Inbound(app.address, "protocol: http")];
        Sidecar::start_as("payments", &svid, &authority, ORDERS, &ports, &more)
    };
    let sidecar = start("handshakes: 2, handshakeTimeout: 20s");
    let begun = Instant::now();
    let _half = half_a_handshake(&sidecar).await;
    assert_eq!(orders(&sidecar, &authority).await.unwrap().status("GET", "/").await, 200);
    assert!(begun.elapsed() < Duration::from_secs(20), "there was a place beside it");

    let sidecar = start("handshakes: 1, handshakeTimeout: 4s");
    let begun = Instant::now();
    let half = half_a_handshake(&sidecar).await;
    assert_eq!(orders(&sidecar, &authority).await.unwrap().status("GET", "/").await, 200);
    assert!(begun.elapsed() >= Duration::from_secs(3), "it has not waited: {:?}", begun.elapsed());
    assert!(is_closed(half).await);

    let mut halves = Vec::new();
    for _ in 0..5 {
        halves.push(half_a_handshake(&sidecar).await);
    }
    assert!(orders(&sidecar, &authority).await.is_err(), "five were before it");
    for half in halves {
        assert!(is_closed(half).await);
    }
    sidecar.accessed(|line| line["code"] == "SG0310");
    assert_eq!(orders(&sidecar, &authority).await.unwrap().status("GET", "/").await, 200);
}

#[tokio::test]
async fn each_piece_of_a_cookie_counts_as_a_field() {
    let (app, authority, sidecar) = stage("headers: 10").await;
    let svid = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"h2").await.unwrap();
    let mut caller = Connection::over(stream, Http::Two).await;
    for (pieces, status) in [(3, 200), (20, 431)] {
        let mut request = http::Request::get("http://payments/");
        for n in 0..pieces {
            request = request.header("cookie", format!("c{n}=1"));
        }
        let reply = caller.send(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
        assert_eq!(reply.status, status);
    }
    assert_eq!(app.seen().len(), 1);
    assert_eq!(app.seen()[0].headers["cookie"], "c0=1; c1=1; c2=1");
}

#[tokio::test]
async fn a_pooled_connection_that_idles_too_long_is_closed() {
    let authority = Authority::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let svid = authority.svid(&id("payments"));
    let ports = [Port::Inbound(listener.local_addr().unwrap(), "protocol: http")];
    let one = "workers: 1\nlimits: {idleTimeout: 5s}";
    let sidecar = Sidecar::start_as("payments", &svid, &authority, ORDERS, &ports, one);
    let mut caller = orders(&sidecar, &authority).await.unwrap();
    let calls =
        tokio::spawn(async move { [caller.status("GET", "/").await, caller.status("GET", "/").await] });
    let (mut app, _) = listener.accept().await.unwrap();
    for _ in 0..2 {
        assert_ne!(app.read(&mut [0; 1024]).await.unwrap(), 0, "both on this connection");
        app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    }
    assert_eq!(calls.await.unwrap(), [200, 200]);
    let begun = Instant::now();
    assert!(is_closed(app).await);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn heads_over_the_limits_are_refused_before_policy() {
    let (app, authority, sidecar) = stage("headers: 10, pathBytes: 64").await;
    let mut caller = orders(&sidecar, &authority).await.unwrap();
    assert_eq!(caller.status("GET", &format!("/{}", "a".repeat(64))).await, 431);
    assert_eq!(sidecar.accessed(|line| line["status"] == 431)["code"], "SG0613");
    let mut request = http::Request::get("/").header("host", "payments");
    for n in 0..20 {
        request = request.header(format!("x-{n}"), "1");
    }
    let reply = caller.send(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
    assert_eq!(reply.status, 431);
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_given_up() {
    let authority = Authority::new();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let svid = authority.svid(&id("payments"));
    let ports = [Port::Inbound(silent.local_addr().unwrap(), "protocol: http")];
    let limits = "limits: {responseTimeout: 200ms}";
    let sidecar = Sidecar::start_as("payments", &svid, &authority, ORDERS, &ports, limits);
    let mut caller = orders(&sidecar, &authority).await.unwrap();
    assert_eq!(caller.status("GET", "/").await, 504);
    let line = sidecar.accessed(|line| line["status"] == 504);
    assert_eq!(
        (&line["code"], &line["verdict"], &line["rule"]),
        (&"SG0602".into(), &"failed".into(), &"orders".into())
    );
    assert!(line["duration_ms"].as_f64().unwrap() < Duration::from_secs(5).as_secs_f64() * 1_000.0);
}

#[tokio::test]
async fn what_the_http_library_refuses_is_recorded_too() {
    let (app, authority, sidecar) = stage("headers: 10, headerBytes: 8192").await;
    let svid = authority.svid(&id("orders"));
    let many = "x-a: 1\r\n".repeat(50);
    for (code, request) in [
        ("SG0613", format!("GET / HTTP/1.1\r\nHost: payments\r\n{many}\r\n")),
        ("SG0612", "GET / HTTP/1.1\r\nHost : payments\r\n\r\n".to_owned()),
    ] {
        let mut stream =
            tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"http/1.1").await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // The connection ends with the refusal, in whatever way.
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        let line = sidecar.accessed(|line| line["code"] == code);
        assert_eq!((&line["verdict"], &line["src"]), (&"failed".into(), &id("orders").into()));
    }
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn requests_in_flight_over_the_limit_are_shed_and_the_place_comes_back() {
    let authority = Authority::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let svid = authority.svid(&id("payments"));
    let ports = [Port::Inbound(listener.local_addr().unwrap(), "protocol: http")];
    let one = "workers: 1\nlimits: {requests: 1}";
    let sidecar = Sidecar::start_as("payments", &svid, &authority, ORDERS, &ports, one);
    let mut first = orders(&sidecar, &authority).await.unwrap();
    let mut second = orders(&sidecar, &authority).await.unwrap();
    let waiting = tokio::spawn(async move { first.status("GET", "/first").await });
    let (mut app, _) = listener.accept().await.unwrap();
    assert_ne!(app.read(&mut [0; 1024]).await.unwrap(), 0, "the one place is taken");

    assert_eq!(second.status("GET", "/second").await, 503);
    assert_eq!(sidecar.accessed(|line| line["path"] == "/second")["code"], "SG0607");
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(waiting.await.unwrap(), 200);
    // Its record is written when its answer is through; from then on the place is free.
    sidecar.accessed(|line| line["path"] == "/first" && line["status"] == 200);
    let again = tokio::spawn(async move { second.status("GET", "/third").await });
    assert_ne!(app.read(&mut [0; 1024]).await.unwrap(), 0, "on the pooled connection");
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(again.await.unwrap(), 200);
}

#[tokio::test]
async fn streams_over_the_limit_wait_for_one_to_end() {
    let (authority, endless) = (Authority::new(), crate::mesh::endless().await);
    let svid = authority.svid(&id("payments"));
    let ports = [Port::Inbound(endless.address, "protocol: http2")];
    let sidecar = Sidecar::start_as("payments", &svid, &authority, ORDERS, &ports, "limits: {streams: 1}");
    let orders = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), &authority, Some(&orders), &id("payments"), b"h2").await.unwrap();
    let mut caller = Connection::over(stream, Http::Two).await;
    let request = || http::Request::get("http://payments/").body(http_body_util::Full::default()).unwrap();
    let mut first = caller.open(request()).await.unwrap().into_body();
    let second = caller.open(request());
    tokio::pin!(second);
    for _ in 0..5 {
        tokio::select! {
            biased;
            answer = &mut second => panic!("a second stream was served: {answer:?}"),
            frame = first.frame() => assert!(frame.unwrap().is_ok()),
        }
    }
    drop(first);
    let answer = tokio::time::timeout(PATIENCE, second).await.expect("the place does not come back");
    assert_eq!(answer.unwrap().status(), 200);
}
