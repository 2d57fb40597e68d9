//! WebSockets over HTTP/2 (RFC 8441), and between it and HTTP/1.1 in every combination.

use std::{net::SocketAddr, time::Instant};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use crate::mesh::{Authority, Body, PATIENCE, Port, Service, Sidecar, body, client_h1, client_h2, id, tls};

/// Policy sees the GET that a handshake of either version is.
const CHAT: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: chat, from: [{serviceAccounts: [shop/orders]}], to: [{methods: [GET], paths: [/chat]}]}]
";

/// Takes WebSockets of either version, tells of each handshake, and sends back what it gets. What it proves of a handshake of
/// HTTP/1.1 is what `proof` makes of its key.
async fn chat(proof: fn(&[u8]) -> String) -> (Service, mpsc::UnboundedReceiver<String>) {
    let (seen, handshakes) = mpsc::unbounded_channel();
    let service = Service::start(move |mut request| {
        let seen = seen.clone();
        async move {
            let protocol = request.extensions().get::<Protocol>().map(|protocol| format!("{protocol:?}"));
            let key = request.headers().get("sec-websocket-key").cloned();
            let peer = request.headers().get("x-sidegate-peer").map(|peer| peer.to_str().unwrap().to_owned());
            let _ = seen.send(format!("{} {} {protocol:?} {peer:?}", request.method(), request.uri().path()));
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let (mut read, mut write) = tokio::io::split(&mut stream);
                // It ends when the sidecar does.
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            let mut answer = Response::new(body(""));
            if request.version() == Version::HTTP_11 {
                *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let fields = answer.headers_mut();
                fields.insert("connection", "upgrade".parse().unwrap());
                fields.insert("upgrade", "websocket".parse().unwrap());
                fields.insert("sec-websocket-accept", proof(key.unwrap().as_bytes()).parse().unwrap());
            }
            answer
        }
    })
    .await;
    (service, handshakes)
}

/// RFC 6455 §4.2.2.
fn accept(key: &[u8]) -> String {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
}

/// RFC 6455 §1.3.
const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SAMPLE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn pair(app: SocketAddr, protocol: &str) -> (Sidecar, Sidecar) {
    let authority = Authority::new();
    let inbound = format!("protocol: {protocol}");
    let payments = Sidecar::start("payments", &authority, CHAT, &[Port::Inbound(app, &inbound)]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: auto")];
    let orders = Sidecar::start("orders", &authority, CHAT, &to_payments);
    (orders, payments)
}

fn extended(path: &str) -> Request<Body> {
    let mut request = Request::connect(format!("http://payments{path}")).body(body("")).unwrap();
    *request.version_mut() = Version::HTTP_2;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request
}

fn upgrade(path: &str) -> Request<Body> {
    Request::get(path)
        .header("host", "payments")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", SAMPLE_KEY)
        .body(body(""))
        .unwrap()
}

async fn echoes(answer: Response<hyper::body::Incoming>) -> impl AsyncRead + AsyncWrite + Unpin {
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    for message in [&b"\x81\x05hello"[..], b"\x82\x03\x00\x01\x02"] {
        stream.write_all(message).await.unwrap();
        let mut echo = vec![0; message.len()];
        timeout(PATIENCE, stream.read_exact(&mut echo)).await.expect("an echo").unwrap();
        assert_eq!(echo, message);
    }
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_of_http2_reaches_an_http2_application_and_both_ends_close() {
    let (app, mut handshakes) = chat(accept).await;
    let (orders, payments) = pair(app.address, "http2");
    let mut client = client_h2(TcpStream::connect(orders.outbound()).await.unwrap()).await;
    // The sidecar's SETTINGS have to be there: an ordinary request is answered behind them.
    let refused = client.send_request(Request::get("http://payments/other").body(body("")).unwrap()).await;
    assert_eq!(refused.unwrap().status(), 403);
    let answer = client.send_request(extended("/chat")).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut stream = echoes(answer).await;
    let seen = handshakes.recv().await.unwrap();
    assert_eq!(seen, format!("CONNECT /chat Some(\"b\\\"websocket\\\"\") Some(\"{}\")", id("orders")));

    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end").unwrap();
    let line = payments.accessed(|line| line["path"] == "/chat");
    assert_eq!(
        (&line["rule"], &line["verdict"], &line["bytes_received"]),
        (&"chat".into(), &"allowed".into(), &12.into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_of_http1_becomes_an_extended_connect_to_an_http2_application() {
    let (app, mut handshakes) = chat(accept).await;
    let (orders, _payments) = pair(app.address, "http2");
    let mut client = client_h1(TcpStream::connect(orders.outbound()).await.unwrap()).await;
    let answer = client.send_request(upgrade("/chat")).await.unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["sec-websocket-accept"], SAMPLE_ACCEPT);
    echoes(answer).await;
    assert!(handshakes.recv().await.unwrap().starts_with("CONNECT /chat Some"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extended_connect_becomes_a_handshake_to_an_http1_application_which_must_prove_that_it_read_it() {
    for (proof, want) in [(accept as fn(&[u8]) -> String, 200), (|_| SAMPLE_ACCEPT.to_owned(), 502)] {
        let (app, mut handshakes) = chat(proof).await;
        let (orders, _payments) = pair(app.address, "http");
        let mut client = client_h2(TcpStream::connect(orders.outbound()).await.unwrap()).await;
        let other = client.send_request(Request::get("http://payments/other").body(body("")).unwrap()).await;
        assert_eq!(other.unwrap().status(), 403);
        let answer = client.send_request(extended("/chat")).await.unwrap();
        assert_eq!(answer.status(), want);
        let seen = handshakes.recv().await.unwrap();
        assert!(seen.starts_with("GET /chat None"), "{seen}");
        if want == 200 {
            echoes(answer).await;
        } else {
            orders.accessed(|line| line["path"] == "/chat" && line["code"] == "SG0617");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extended_connect_on_the_link_is_judged_as_a_get_and_cut_by_policy() {
    let (app, authority) = (chat(accept).await.0, Authority::new());
    let ports = [Port::Inbound(app.address, "protocol: http2")];
    let sidecar = Sidecar::start("payments", &authority, CHAT, &ports);
    let svid = authority.svid(&id("orders"));
    let link = tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"h2").await.unwrap();
    let mut link = client_h2(link).await;
    let other = link.send_request(Request::get("http://payments/other").body(body("")).unwrap()).await;
    assert_eq!(other.unwrap().status(), 403);
    assert_eq!(link.send_request(extended("/other")).await.unwrap().status(), 403);
    let mut stream = echoes(link.send_request(extended("/chat")).await.unwrap()).await;

    sidecar.replace("policies.yaml", &CHAT.replace("[/chat]", "[/other]"));
    let changed = Instant::now();
    let read = timeout(PATIENCE, stream.read(&mut [0; 4])).await.expect("still open");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(changed.elapsed().as_secs() < 1, "{:?}", changed.elapsed());
    sidecar.accessed(|line| line["path"] == "/chat" && line["code"] == "SG0207");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_are_those_that_the_port_lists() {
    const SWITCHED: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let app = crate::websocket::chat(SWITCHED).await;
    let authority = Authority::new();
    let listed = "protocol: http, upgrades: [tcp]";
    let any = CHAT.replace("methods: [GET], ", "");
    let payments = Sidecar::start("payments", &authority, &any, &[Port::Inbound(app.address, listed)]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), listed)];
    let orders = Sidecar::start("orders", &authority, &any, &to_payments);
    let to_tcp = |name: &str| {
        let request = Request::post("/chat").header("host", "payments");
        request.header("connection", "upgrade").header("upgrade", name).body(body("")).unwrap()
    };
    let mut client = client_h1(TcpStream::connect(orders.outbound()).await.unwrap()).await;
    let answer = client.send_request(to_tcp("tcp")).await.unwrap();
    assert_eq!(answer.status(), 101);
    echoes(answer).await;
    for name in ["websocket", "spdy/3.1", "h2c, tcp"] {
        let mut client = client_h1(TcpStream::connect(orders.outbound()).await.unwrap()).await;
        let answer = client.send_request(to_tcp(name)).await.unwrap();
        assert_eq!(answer.status(), 501, "{name}");
    }
    orders.accessed(|line| line["code"] == "SG0618");
}
