//! `Expect: 100-continue` from the client to the application: the body flows when the application asks for it, and is never
//! read when it, or a sidecar, answers instead.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::mesh::{App, Authority, Connection, Http, PATIENCE, Port, Sidecar};

const READS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: open, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/]}]}]
";
const HEAD: &str = "POST / HTTP/1.1\r\nHost: payments\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

fn pair(app: SocketAddr) -> (Sidecar, Sidecar) {
    let authority = Authority::new();
    let payments = Sidecar::start("payments", &authority, READS, &[Port::Inbound(app, "protocol: http")]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: auto")];
    let orders = Sidecar::start("orders", &authority, READS, &to_payments);
    (orders, payments)
}

/// An application that reads one head, says `first`, reads on until it has `body` bytes or an end, and says `last`. It returns
/// the head and what came after it.
async fn script(
    first: &'static str,
    body: usize,
    last: &'static str,
) -> (SocketAddr, JoinHandle<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let head = head_of(&mut tcp).await;
        tcp.write_all(first.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while read.len() < body {
            let mut part = [0; 64];
            match tcp.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(count) => read.extend_from_slice(&part[..count]),
            }
        }
        // The sidecar may have closed.
        let _ = tcp.write_all(last.as_bytes()).await;
        (head, read)
    });
    (address, serving)
}

/// Up to its empty line.
async fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("a head").unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

/// Whatever still comes until the end.
async fn rest_of(mut stream: TcpStream) -> String {
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end").unwrap();
    String::from_utf8(rest).unwrap()
}

async fn client(orders: &Sidecar) -> TcpStream {
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    client.write_all(HEAD.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn the_body_flows_once_the_application_asks_for_it() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let (app, serving) = script("HTTP/1.1 100 Continue\r\n\r\n", 4, answer).await;
    let (orders, _payments) = pair(app);
    let mut client = client(&orders).await;
    assert!(head_of(&mut client).await.starts_with("http/1.1 100 "));
    client.write_all(b"body").await.unwrap();
    assert!(head_of(&mut client).await.starts_with("http/1.1 200 "));
    let (head, body) = serving.await.unwrap();
    assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
    assert_eq!(body, b"body");
}

#[tokio::test]
async fn an_application_that_answers_instead_never_makes_the_client_send_the_body() {
    for status in ["417 Expectation Failed", "401 Unauthorized", "200 OK"] {
        let answer: &'static str = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno").leak();
        let (app, serving) = script(answer, 1, "").await;
        let (orders, payments) = pair(app);
        let mut client = client(&orders).await;
        let head = head_of(&mut client).await;
        assert!(head.starts_with(&format!("http/1.1 {}", &status[..3])), "not asked for the body: {head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert_eq!(rest_of(client).await, "no");
        assert_eq!(timeout(PATIENCE, serving).await.expect("its connection ends").unwrap().1, b"");
        let line = payments.accessed(|line| line["direction"] == "inbound");
        assert_eq!((&line["verdict"], &line["bytes_received"]), (&"allowed".into(), &0.into()));
    }
}

#[tokio::test]
async fn an_application_that_knows_nothing_of_it_gets_the_body_all_the_same() {
    let (app, serving) = script("", 4, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let (orders, _payments) = pair(app);
    let mut client = client(&orders).await;
    assert!(head_of(&mut client).await.starts_with("http/1.1 100 "));
    client.write_all(b"body").await.unwrap();
    assert!(head_of(&mut client).await.starts_with("http/1.1 200 "));
    assert_eq!(serving.await.unwrap().1, b"body");
}

/// Its library tells no 100, so it waits for none; the application may still answer before the body has come.
#[tokio::test]
async fn an_expectation_of_http2_reaches_the_application() {
    let (app, serving) = script("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n", 1, "").await;
    let (orders, _payments) = pair(app);
    let mut client = Connection::plain(orders.outbound(), Http::Two).await;
    let request = http::Request::post("http://payments/").header("expect", "100-continue");
    let request = request.body(http_body_util::Full::from("body")).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 417);
    let (head, body) = serving.await.unwrap();
    assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
    assert_eq!(body, b"");
}

#[tokio::test]
async fn whoever_is_refused_is_not_asked_for_the_body() {
    let app = App::start().await;
    let (orders, _payments) = pair(app.address);
    for (from, to, status) in [("/ ", "/shut ", "403"), ("100-continue", "the-impossible", "417")] {
        let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
        client.write_all(HEAD.replace(from, to).as_bytes()).await.unwrap();
        let head = head_of(&mut client).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        // Its end, with no request before it.
        rest_of(client).await;
    }
    assert!(app.seen().is_empty());
    let line = orders.accessed(|line| line["status"] == 417);
    assert_eq!(
        (&line["code"], &line["detail"]),
        (&"SG0625".into(), &"the expectation the-impossible".into())
    );
}

#[tokio::test]
async fn an_expectation_of_http_1_0_or_without_a_body_is_none() {
    let app = App::start().await;
    let (orders, _payments) = pair(app.address);
    let old = "POST / HTTP/1.0\r\nHost: payments\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody";
    let empty = "GET / HTTP/1.1\r\nHost: payments\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    for sent in [old, empty] {
        let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        let answer = rest_of(client).await;
        assert!(answer.split_once(' ').unwrap().1.starts_with("200 "), "{answer}");
    }
    assert!(app.seen().iter().all(|seen| !seen.headers.contains_key("expect")), "{:?}", app.seen());
}
