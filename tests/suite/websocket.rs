//! WebSockets: judged like the request that opens them, carried as they are, cut when they would be refused.

use std::{net::SocketAddr, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::mesh::{Authority, PATIENCE, Port, Sidecar};

const CHAT: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: chat, from: [{serviceAccounts: [shop/orders]}], to: [{methods: [GET], paths: [/chat]}]}]
";

pub(crate) const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: payments\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub(crate) const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Reads a request head, answers with `answer`, and from then on sends back what it gets.
pub(crate) struct Chat {
    pub(crate) address: SocketAddr,
    heads: tokio::sync::mpsc::UnboundedReceiver<String>,
    _serving: JoinSet<()>,
}

pub(crate) async fn chat(answer: &'static [u8]) -> Chat {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, heads) = tokio::sync::mpsc::unbounded_channel();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            let seen = seen.clone();
            connections.spawn(async move {
                let head = head(&mut tcp).await;
                if !head.is_empty() && seen.send(head).is_ok() && tcp.write_all(answer).await.is_ok() {
                    let (mut read, mut write) = tcp.split();
                    // It ends when the sidecar does.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
            });
        }
    });
    Chat { address, heads, _serving: serving }
}

/// Reads up to the end of a head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn pair(app: SocketAddr) -> (Sidecar, Sidecar) {
    let authority = Authority::new();
    let payments = Sidecar::start("payments", &authority, CHAT, &[Port::Inbound(app, "protocol: http")]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: http")];
    let orders = Sidecar::start("orders", &authority, CHAT, &to_payments);
    (orders, payments)
}

pub(crate) async fn open(orders: &Sidecar) -> (TcpStream, String) {
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    (client, answer)
}

/// On two threads: the application has to see the end while the test waits for the record of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_passes_through_a_pair_of_sidecars() {
    let mut chat = chat(SWITCHED).await;
    let (orders, payments) = pair(chat.address);
    let (mut client, answer) = open(&orders).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("upgrade: websocket\r\n"), "{answer}");
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    let seen = chat.heads.recv().await.unwrap().to_ascii_lowercase();
    assert!(seen.contains("sec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n"), "{seen}");
    assert!(seen.contains("x-sidegate-peer: spiffe://shop.test/ns/shop/sa/orders\r\n"), "{seen}");

    for message in [&b"\x81\x05hello"[..], b"\x82\x03\x00\x01\x02"] {
        client.write_all(message).await.unwrap();
        let mut echo = vec![0; message.len()];
        client.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, message);
    }
    let metrics = payments.page("/metrics").await.body;
    assert!(
        metrics.contains("sidegate_connections_active{direction=\"inbound\"} 1"),
        "it is still open: {metrics}"
    );
    drop(client);
    let line = payments.accessed(|line| line["path"] == "/chat");
    assert_eq!(
        (&line["status"], &line["rule"], &line["bytes_received"]),
        (&101.into(), &"chat".into(), &12.into())
    );
}

#[tokio::test]
async fn an_open_websocket_is_cut_when_policy_no_longer_permits_it() {
    let chat = chat(SWITCHED).await;
    let (orders, payments) = pair(chat.address);
    let (mut client, answer) = open(&orders).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    client.write_all(b"ping").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();

    payments.replace("policies.yaml", &CHAT.replace("[/chat]", "[/other]"));
    let changed = Instant::now();
    let read = tokio::time::timeout(PATIENCE, client.read(&mut [0; 4])).await.expect("still open");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(changed.elapsed().as_secs() < 1, "{:?}", changed.elapsed());
    assert_eq!(payments.accessed(|line| line["path"] == "/chat")["code"], "SG0207");
}

#[tokio::test]
async fn a_denied_websocket_is_a_denied_request() {
    let mut chat = chat(SWITCHED).await;
    let (orders, payments) = pair(chat.address);
    payments.replace("policies.yaml", &CHAT.replace("[/chat]", "[/other]"));
    payments.applied(2);
    let (_client, answer) = open(&orders).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(chat.heads.try_recv().is_err(), "nothing reached the application");
}

#[tokio::test]
async fn an_application_that_declines_is_heard() {
    let chat = chat(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await;
    let (orders, _payments) = pair(chat.address);
    let (_client, answer) = open(&orders).await;
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_broken_upstream() {
    let chat = chat(SWITCHED).await;
    let (orders, payments) = pair(chat.address);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    client.write_all(b"GET /chat HTTP/1.1\r\nHost: payments\r\n\r\n").await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(payments.accessed(|line| line["path"] == "/chat")["code"], "SG0617");
}

/// CVE-2025-64763: bytes that come before the answer belong to a protocol that nobody has agreed on yet.
#[tokio::test]
async fn bytes_before_the_switch_wait_for_it_and_end_with_it_where_it_is_declined() {
    let mut declining = chat(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await;
    let (orders, _payments) = pair(declining.address);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    let early = format!("{HANDSHAKE}GET /admin HTTP/1.1\r\nHost: payments\r\n\r\n");
    client.write_all(early.as_bytes()).await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 426 "));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest)).await.expect("it is over");
    assert!(rest.is_empty(), "what follows is no request: {ended:?}, {:?}", rest.escape_ascii().to_string());
    assert!(declining.heads.recv().await.unwrap().starts_with("GET /chat "));
    assert!(declining.heads.try_recv().is_err(), "nothing of it reached the application");

    let switching = chat(SWITCHED).await;
    let (orders, _payments) = pair(switching.address);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    client.write_all(format!("{HANDSHAKE}early").as_bytes()).await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
    let mut echo = [0; 5];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"early");
}

/// An application that takes its socket over does not read a body, so the body would become frames that nobody watches.
#[tokio::test]
async fn a_handshake_with_a_body_does_not_reach_the_application() {
    let mut chat = chat(SWITCHED).await;
    let (orders, payments) = pair(chat.address);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    let with_body =
        HANDSHAKE.replace("Upgrade: websocket", "Content-Length: 1000000000000\r\nUpgrade: websocket");
    client.write_all(with_body.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(orders.accessed(|line| line["path"] == "/chat")["code"], "SG0612");
    assert!(chat.heads.try_recv().is_err());
    drop(payments);
}

#[tokio::test]
async fn a_websocket_that_the_drain_deadline_ends_is_recorded_as_drained() {
    let chat = chat(SWITCHED).await;
    let authority = Authority::new();
    let svid = authority.svid(&crate::mesh::id("payments"));
    let ports = [Port::Inbound(chat.address, "protocol: http")];
    let short = "limits: {drainTimeout: 200ms}";
    let mut payments = Sidecar::start_as("payments", &svid, &authority, CHAT, &ports, short);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: http")];
    let orders = Sidecar::start("orders", &authority, CHAT, &to_payments);
    let (_client, answer) = open(&orders).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    payments.terminate();
    assert!(payments.wait().success());
    assert_eq!(payments.accessed(|line| line["path"] == "/chat")["code"], "SG0616");
}
