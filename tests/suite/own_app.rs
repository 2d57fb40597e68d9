//! From a sidecar to its own application: what the application says it did not process, and what is the same done twice,
//! survives the end of a kept connection; what may have been processed is never sent again.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::mesh::{
    Authority, Connection,
    Does::{Answers, Breaks, Closes, Refuses},
    Endpoint, Http, Port, Sidecar, body, client_h2, id, tls,
};

const POLICY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

/// A sidecar beside the application at `app`, and a caller of its inbound port.
struct Stage {
    authority: Authority,
    sidecar: Sidecar,
    app: SocketAddr,
}

impl Stage {
    fn new(app: SocketAddr, version: Http) -> Self {
        let authority = Authority::new();
        let protocol = if version == Http::Two { "protocol: http2" } else { "protocol: http" };
        let sidecar = Sidecar::start("payments", &authority, POLICY, &[Port::Inbound(app, protocol)]);
        Self { authority, sidecar, app }
    }

    async fn link(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let orders = self.authority.svid(&id("orders"));
        tls(self.sidecar.inbound(), &self.authority, Some(&orders), &id("payments"), b"h2").await.unwrap()
    }

    async fn caller(&self) -> Connection {
        Connection::over(self.link().await, Http::Two).await
    }

    /// How many further tries ended so.
    async fn again(&self, reason: &str, outcome: &str) -> u64 {
        let labels = format!(r#"{{service="{}",reason="{reason}",outcome="{outcome}"}} "#, self.app);
        let page = self.sidecar.page("/metrics").await.body;
        let name = format!("sidegate_retries_total{labels}");
        page.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    }
}

/// The status of `method /a` with a body of `bytes`.
async fn send(caller: &mut Connection, method: &str, bytes: usize) -> u16 {
    let request = Request::builder().method(method).uri("http://payments/a");
    let body = Full::new(Bytes::from(vec![7; bytes]));
    caller.send(request.body(body).unwrap()).await.unwrap().status.as_u16()
}

#[tokio::test]
async fn a_kept_connection_that_the_application_closes_costs_an_idempotent_caller_nothing() {
    let app = Endpoint::app(Http::One, |nth| if nth == 0 { Answers(200) } else { Closes }).await;
    let stage = Stage::new(app.address, Http::One);
    let mut caller = stage.caller().await;
    for method in ["GET", "PUT", "DELETE", "GET", "PUT", "DELETE"] {
        assert_eq!(send(&mut caller, method, 9).await, 200, "{method}");
    }
    let tried = stage.sidecar.accessed(|line| line["attempts"] == 2);
    assert_eq!((&tried["status"], &tried["verdict"]), (&200.into(), &"allowed".into()));
    assert_eq!(stage.again("reset", "answered").await, 5);
}

#[tokio::test]
async fn a_post_over_a_kept_connection_that_the_application_closes_is_502_and_processed_once() {
    let app = Endpoint::app(Http::One, |nth| if nth == 0 { Answers(200) } else { Closes }).await;
    let stage = Stage::new(app.address, Http::One);
    let mut caller = stage.caller().await;
    for _ in 0..5 {
        assert_eq!(send(&mut caller, "POST", 9).await, 200);
        assert_eq!(send(&mut caller, "POST", 9).await, 502);
    }
    assert_eq!(app.seen(), vec!["POST /a"; 10]);
    let failed = stage.sidecar.accessed(|line| line["status"] == 502);
    assert_eq!(failed["code"], "SG0617");
    let detail = failed["detail"].as_str().unwrap();
    assert!(detail.ends_with("not sent again, since it may have been processed"), "{detail}");
}

#[tokio::test]
async fn what_breaks_on_a_new_connection_or_after_half_a_head_is_not_sent_again() {
    let app = Endpoint::app(Http::One, |_| Closes).await;
    let stage = Stage::new(app.address, Http::One);
    assert_eq!(send(&mut stage.caller().await, "GET", 0).await, 502, "it was not kept");
    assert_eq!(app.seen().len(), 1);

    let app = Endpoint::app(Http::One, |nth| if nth == 0 { Answers(200) } else { Breaks }).await;
    let stage = Stage::new(app.address, Http::One);
    let mut caller = stage.caller().await;
    assert_eq!(send(&mut caller, "GET", 0).await, 200);
    assert_eq!(send(&mut caller, "GET", 0).await, 502, "an answer had begun");
    assert_eq!(app.seen().len(), 2);
    assert_eq!(stage.sidecar.accessed(|line| line["status"] == 502)["code"], "SG0617");
}

#[tokio::test]
async fn a_body_longer_than_what_is_held_is_sent_to_the_application_once() {
    const HELD: usize = 64 * 1024;
    for (bytes, status, seen) in [(HELD, 200, 3), (HELD + 1, 502, 2)] {
        let app = Endpoint::app(Http::One, |nth| if nth == 0 { Answers(200) } else { Closes }).await;
        let stage = Stage::new(app.address, Http::One);
        let mut caller = stage.caller().await;
        assert_eq!(send(&mut caller, "PUT", bytes).await, 200);
        assert_eq!(send(&mut caller, "PUT", bytes).await, status, "{bytes}");
        assert_eq!(app.seen().len(), seen, "{bytes}");
    }
}

#[tokio::test]
async fn a_stream_that_the_application_refuses_is_sent_again_at_most_twice() {
    let app = Endpoint::app(Http::Two, |nth| if nth % 2 == 0 { Refuses } else { Answers(200) }).await;
    let stage = Stage::new(app.address, Http::Two);
    let mut caller = stage.caller().await;
    for _ in 0..5 {
        assert_eq!(send(&mut caller, "POST", 9).await, 200);
    }
    assert_eq!(app.seen(), vec!["POST /a"; 5]);
    assert_eq!(stage.again("refused_stream", "answered").await, 5);

    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let app = Endpoint::app(Http::Two, move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Refuses
    })
    .await;
    let stage = Stage::new(app.address, Http::Two);
    assert_eq!(send(&mut stage.caller().await, "GET", 0).await, 502);
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    let failed = stage.sidecar.accessed(|line| line["status"] == 502);
    assert_eq!((&failed["code"], &failed["attempts"]), (&"SG0617".into(), &3.into()));
    assert_eq!(stage.again("refused_stream", "failed").await, 2);
}

/// How the first connection of an application ends: with its request number `after`, counted from 1.
#[derive(Clone, Copy)]
struct Goodbye {
    after: usize,
    /// The last stream that may have been processed.
    last: u32,
    /// It is closed at once, whatever is unanswered.
    closes: bool,
}

/// An application of HTTP/2 that says goodbye on its first connection, and never after. `processed` are the streams that it
/// has read on each connection and did not disown.
struct Leaving {
    address: SocketAddr,
    processed: Arc<Mutex<Vec<Vec<u32>>>>,
    _serving: JoinSet<()>,
}

impl Leaving {
    async fn start(goodbye: Goodbye) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let processed = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&processed);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            for nth in 0.. {
                let (tcp, _) = listener.accept().await.unwrap();
                log.lock().unwrap().push(Vec::new());
                let (log, goodbye) = (Arc::clone(&log), (nth == 0).then_some(goodbye));
                // It ends with the sidecar's end of it.
                connections.spawn(async move { drop(by_hand(tcp, goodbye, nth, &log).await) });
            }
        });
        Self { address, processed, _serving: serving }
    }

    fn processed(&self) -> Vec<usize> {
        self.processed.lock().unwrap().iter().map(Vec::len).collect()
    }
}

/// Frames by hand (RFC 9113 §4.1): no library says a GOAWAY with a last stream of the test's choice.
async fn by_hand(
    mut tcp: TcpStream,
    goodbye: Option<Goodbye>,
    nth: usize,
    log: &Mutex<Vec<Vec<u32>>>,
) -> std::io::Result<()> {
    const PREFACE: usize = 24;
    const END_STREAM: u8 = 0x1;
    let (mut requests, last) = (0, goodbye.map_or(u32::MAX, |goodbye| goodbye.last));
    tcp.read_exact(&mut [0; PREFACE]).await?;
    tcp.write_all(&frame(SETTINGS, 0, 0, b"")).await?;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        tcp.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await?;
        if kind == SETTINGS && flags == 0 {
            tcp.write_all(&frame(SETTINGS, 0x1, 0, b"")).await?;
        }
        if !matches!(kind, HEADERS | DATA) || flags & END_STREAM == 0 {
            continue;
        }
        requests += 1;
        let says_goodbye = goodbye.filter(|goodbye| goodbye.after == requests);
        if stream <= last {
            log.lock().unwrap()[nth].push(stream);
        }
        if let Some(goodbye) = says_goodbye {
            let no_error = [goodbye.last.to_be_bytes(), [0; 4]].concat();
            tcp.write_all(&frame(GOAWAY, 0, 0, &no_error)).await?;
            if goodbye.closes {
                return tcp.shutdown().await;
            }
        }
        if stream <= last {
            // `:status: 200` of the static table (RFC 7541 §6.1).
            tcp.write_all(&frame(HEADERS, 0x4 | END_STREAM, stream, &[0x88])).await?;
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn streams_above_the_last_of_a_goaway_are_sent_again_whatever_their_method() {
    let app = Leaving::start(Goodbye { after: 4, last: 1, closes: false }).await;
    let stage = Stage::new(app.address, Http::Two);
    let caller = client_h2(stage.link().await).await;
    let mut calls = JoinSet::new();
    for _ in 0..4 {
        let mut caller = caller.clone();
        let request = Request::post("http://payments/a").body(body("ten euros")).unwrap();
        calls.spawn(async move { caller.send_request(request).await.unwrap().status().as_u16() });
    }
    assert_eq!(calls.join_all().await, [200; 4]);
    assert_eq!(app.processed(), [1, 3], "each once");
    assert_eq!(stage.again("refused_stream", "answered").await, 3);
}

#[tokio::test]
async fn a_stream_that_a_goaway_does_not_disown_is_sent_again_only_where_twice_is_once() {
    for (method, status, processed) in [("GET", 200, &[2, 1][..]), ("POST", 502, &[2])] {
        let app = Leaving::start(Goodbye { after: 2, last: 3, closes: true }).await;
        let stage = Stage::new(app.address, Http::Two);
        let mut caller = stage.caller().await;
        assert_eq!(send(&mut caller, method, 0).await, 200);
        assert_eq!(send(&mut caller, method, 0).await, status, "{method}");
        assert_eq!(app.processed(), processed, "{method}");
    }
}

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
