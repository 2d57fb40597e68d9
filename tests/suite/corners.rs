//! Corner cases of HTTP/1 through a pair of sidecars, with both ends in the hands of the test.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::mesh::{
    App, Authority, Connection, Http, PATIENCE, Port, Service, Sidecar, body, client_h1, pieces,
};

const READS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: open, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/, \"/open/**\"]}]}]
";

fn pair(app: SocketAddr) -> (Sidecar, Sidecar) {
    let authority = Authority::new();
    let payments = Sidecar::start("payments", &authority, READS, &[Port::Inbound(app, "protocol: http")]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: http")];
    let orders = Sidecar::start("orders", &authority, READS, &to_payments);
    (orders, payments)
}

/// An application that reads a head and answers with `bytes`, each time, on every connection.
async fn scripted(bytes: &'static [u8]) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = tcp.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        if tcp.write_all(bytes).await.is_err() {
                            break;
                        }
                    }
                }
            });
        }
    });
    (address, serving)
}

/// An application that answers `/open/N` with the Nth of `answers`, and closes.
async fn numbered(answers: &'static [&'static str]) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let number = head.split(['/', ' ']).find_map(|part| part.parse::<usize>().ok()).unwrap();
            // The sidecar closes as soon as it cannot read on.
            let _ = tcp.write_all(answers[number].as_bytes()).await;
        }
    });
    (address, serving)
}

/// All that comes back for `sent`, up to the end of the connection.
async fn exchange(orders: &Sidecar, sent: &str) -> String {
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    client.write_all(sent.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut all)).await.expect("an end").unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_an_answer_without_chunks_and_its_connection_ends() {
    let app = App::start().await;
    let (orders, _payments) = pair(app.address);
    let answer =
        exchange(&orders, "POST / HTTP/1.0\r\nHost: payments\r\nContent-Length: 4\r\n\r\nbody").await;
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nbody"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("chunked"), "{answer}");

    // Kept alive, and then not: two answers on one connection.
    let kept = "GET / HTTP/1.0\r\nHost: payments\r\nConnection: keep-alive\r\n\r\n";
    let both = exchange(&orders, &format!("{kept}{}", kept.replace("keep-alive", "close"))).await;
    assert_eq!(both.matches("HTTP/1.0 200 ").count(), 2, "{both}");
}

#[tokio::test]
async fn pipelined_requests_are_judged_one_by_one_and_answered_in_order() {
    let app = App::start().await;
    let (orders, payments) = pair(app.address);
    let request = |path: &str, more: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: payments\r\n{more}Content-Length: {}\r\n\r\n{path}",
            path.len()
        )
    };
    let all = request("/open/1", "") + &request("/shut", "") + &request("/open/2", "Connection: close\r\n");
    let answers = exchange(&orders, &all).await;
    let found: Vec<_> = answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(found, ["200", "403", "200"], "{answers}");
    assert!(answers.find("/open/1").unwrap() < answers.find("denied").unwrap(), "{answers}");
    assert!(answers.find("denied").unwrap() < answers.find("/open/2").unwrap(), "{answers}");
    let seen: Vec<_> = app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(seen, ["/open/1", "/open/2"]);
    payments.accessed(|line| line["path"] == "/shut" && line["code"] == "SG0202");
}

#[tokio::test]
async fn answers_without_a_body_have_none_whatever_their_length_says() {
    for (method, answer) in [
        ("HEAD", &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"[..]),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
    ] {
        let (app, _serving) = scripted(answer).await;
        let (orders, _payments) = pair(app);
        let one = format!("{method} / HTTP/1.1\r\nHost: payments\r\n\r\n");
        let last = one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let answers = exchange(&orders, &(one + &last)).await;
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{method}: {answers}");
        assert!(answers.ends_with("\r\n\r\n"), "{method}: {answers}");
        assert_eq!(answers.contains("content-length: 5"), method == "HEAD", "{answers}");
    }
}

#[tokio::test]
async fn an_answer_with_two_readings_is_502_and_goes_to_nobody() {
    const ANSWERS: &[&str] = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody!",
        "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nbody",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ];
    let (app, _serving) = numbered(ANSWERS).await;
    let (orders, payments) = pair(app);
    for (number, answer) in ANSWERS.iter().enumerate() {
        let sent = format!("GET /open/{number} HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n");
        let heard = exchange(&orders, &sent).await;
        assert!(heard.starts_with("HTTP/1.1 502 ") && !heard.contains("body"), "{answer:?}: {heard}");
        let line = payments.accessed(|line| line["path"] == format!("/open/{number}"));
        assert_eq!((&line["code"], &line["status"]), (&"SG0617".into(), &502.into()), "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_that_says_its_length_twice_passes_with_one() {
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody";
    let (app, _serving) = numbered(Box::leak(Box::new([twice]))).await;
    let (orders, _payments) = pair(app);
    let heard =
        exchange(&orders, "GET /open/0 HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("body"), "{heard}");
    assert_eq!(heard.to_ascii_lowercase().matches("content-length").count(), 1, "{heard}");
}

#[tokio::test]
async fn an_informational_answer_does_not_pass_for_the_final_one() {
    let (app, _serving) = scripted(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone",
    )
    .await;
    let (orders, _payments) = pair(app);
    let answer = exchange(&orders, "GET / HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
}

#[tokio::test]
async fn chunks_pass_both_ways() {
    let app = App::start().await;
    let (orders, _payments) = pair(app.address);
    let sent = "POST / HTTP/1.1\r\nHost: payments\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n";
    let answer = exchange(&orders, sent).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(&app.seen()[0].body[..], b"abcde");

    let (app, _serving) =
        scripted(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            .await;
    let (orders, _payments) = pair(app);
    let mut client = Connection::plain(orders.outbound(), Http::One).await;
    assert_eq!(client.call("GET", "/").await.unwrap().body, "abcde");
    let mut client = Connection::plain(orders.outbound(), Http::Two).await;
    assert_eq!(client.call("GET", "/").await.unwrap().body, "abcde", "from HTTP/1.1 to HTTP/2");
}

/// Server-sent events: each is there before the next is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_piece_of_a_body_without_end_is_passed_on_at_once() {
    let (events, answer) = pieces();
    let answer = std::sync::Arc::new(std::sync::Mutex::new(Some(answer)));
    let app = Service::start(move |_| {
        let answer = answer.lock().unwrap().take().unwrap();
        async move { Response::builder().header("content-type", "text/event-stream").body(answer).unwrap() }
    })
    .await;
    let (orders, _payments) = pair(app.address);
    let mut client = client_h1(TcpStream::connect(orders.outbound()).await.unwrap()).await;
    let request = Request::get("/").header("host", "payments").body(body("")).unwrap();
    let mut heard = client.send_request(request).await.unwrap().into_body();
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        events.send(Frame::data(Bytes::from(event))).await.unwrap();
        let frame = timeout(PATIENCE, heard.frame()).await.expect("at once").unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    drop(events);
    assert!(timeout(PATIENCE, heard.frame()).await.unwrap().is_none(), "its end is an end");
}

/// The application answers before it has read the body, and the client hears it.
#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_complete_is_heard() {
    let (app, _serving) =
        scripted(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let (orders, _payments) = pair(app);
    let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: payments\r\nContent-Length: 1000000\r\n\r\nsome";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    timeout(PATIENCE, client.read_exact(&mut status)).await.expect("an answer").unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
}

/// A reader that does not read stops the writer at the far end: what is under way is held in sockets and a few frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_stops_the_writer_both_ways() {
    const PIECE: usize = 64 * 1024;
    /// Far more than the socket buffers of three hops take.
    const ENDLESS: usize = 1 << 30;
    let (written, answer) = pieces();
    let answer = std::sync::Arc::new(std::sync::Mutex::new(Some(answer)));
    let app = Service::start(move |request| {
        let answer = answer.lock().unwrap().take().unwrap();
        async move {
            // Its own reading stops too.
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(request);
            });
            Response::new(answer)
        }
    })
    .await;
    let (orders, payments) = pair(app.address);
    let mut client = client_h1(TcpStream::connect(orders.outbound()).await.unwrap()).await;
    let (upload, sent) = pieces();
    let request = Request::post("/").header("host", "payments").body(sent).unwrap();
    let _unread = client.send_request(request).await.unwrap();
    for sender in [written, upload] {
        let mut bytes = 0;
        let piece = Bytes::from(vec![7; PIECE]);
        // A writer that is not let go on for a whole second has been stopped.
        while timeout(Duration::from_secs(1), sender.send(Frame::data(piece.clone()))).await.is_ok() {
            bytes += PIECE;
            assert!(bytes < ENDLESS, "nobody stops the writer");
        }
        std::mem::forget(sender);
    }
    for sidecar in [&orders, &payments] {
        let held = sidecar.resident_bytes();
        assert!(held < 200 << 20, "{held} bytes are resident");
    }
}
