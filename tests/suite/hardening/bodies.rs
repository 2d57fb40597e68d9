//! Bodies of requests that trickle: refused while nothing is answered, broken off after, and only for time in which it is
//! the peer that is waited for.

use std::{net::SocketAddr, time::Duration};

use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{ORDERS, Stage, until_closed};
use crate::mesh::{App, Authority, Body, PATIENCE, Port, Sidecar, body, client_h2, id, pieces};

const POST: &str = "POST /upload HTTP/1.1\r\nHost: payments\r\nContent-Length: 1000\r\n\r\n";
const QUICK: &str = "limits: {bodyRate: 100, bodyTimeout: 500ms}";

/// An application that reads a head, says `early`, and reads the `length` bytes of the body after a `pause`.
async fn reluctant(early: &'static [u8], pause: Duration, length: usize) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let serve = async |mut tcp: TcpStream| {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await?);
            }
            tcp.write_all(early).await?;
            tokio::time::sleep(pause).await;
            tcp.read_exact(&mut vec![0; length]).await?;
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
        };
        while let Ok((tcp, _)) = listener.accept().await {
            // It breaks off when the sidecar gives the request up.
            let _ = serve(tcp).await;
        }
    });
    (address, serving)
}

#[tokio::test]
async fn a_body_in_drips_is_refused_and_a_body_in_two_pieces_is_not() {
    let mut stage = Stage::new("http", QUICK).await;
    let mut slow = stage.link(b"http/1.1").await;
    slow.write_all(POST.as_bytes()).await.unwrap();
    let (mut answers, mut drips) = tokio::io::split(slow);
    let dripping = async {
        while drips.write_all(b"x").await.is_ok() && drips.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = Vec::new();
    let reading = async {
        // However the connection ends after it.
        let _ = answers.read_to_end(&mut answer).await;
    };
    let both = async { tokio::join!(dripping, reading) };
    timeout(PATIENCE, both).await.expect("the body goes on forever");
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close\r\n"), "{answer}");
    stage.has_counted("SG0651", 1).await;
    let line = stage.sidecar.accessed(|line| line["code"] == "SG0651");
    assert_eq!(
        (&line["status"], &line["verdict"], &line["rule"]),
        (&408.into(), &"failed".into(), &"orders".into())
    );
    stage.serves_others().await;

    let mut stage = Stage::new("http", "limits: {bodyRate: 1, bodyTimeout: 20s}").await;
    let mut halves = stage.link(b"http/1.1").await;
    for part in [POST.as_bytes(), &[b'a'; 500]] {
        halves.write_all(part).await.unwrap();
        halves.flush().await.unwrap();
        stage.serves_others().await;
    }
    halves.write_all(&[b'a'; 500]).await.unwrap();
    let mut answer = [0; 13];
    halves.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 ");
    assert_eq!(stage.failed("SG0651").await, 0);
}

#[tokio::test]
async fn a_slow_body_of_http2_costs_its_own_stream_alone() {
    let stage = Stage::new("http", QUICK).await;
    let mut client = client_h2(stage.link(b"h2").await).await;
    let (body_of_slow, slow) = pieces();
    body_of_slow.send(Frame::data("some".into())).await.unwrap();
    let answer = timeout(PATIENCE, client.send_request(post("text/plain", slow))).await.expect("no answer");
    assert_eq!(answer.unwrap().status(), 408);
    stage.has_counted("SG0651", 1).await;
    let neighbour = client.send_request(post("text/plain", body(""))).await.unwrap();
    assert_eq!(neighbour.status(), 200);
}

#[tokio::test]
async fn a_stream_of_grpc_messages_may_pause() {
    let stage = Stage::new("http", QUICK).await;
    let mut client = client_h2(stage.link(b"h2").await).await;
    let (messages, stream) = pieces();
    let talking = async {
        messages.send(Frame::data("one".into())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        messages.send(Frame::data("two".into())).await.unwrap();
        drop(messages);
    };
    let (call, ()) = tokio::join!(client.send_request(post("application/grpc", stream)), talking);
    assert_eq!(call.unwrap().status(), 200);
    assert_eq!(stage.failed("SG0651").await, 0);
    assert_eq!(stage.app.seen()[0].body, "onetwo");
}

#[tokio::test]
async fn an_application_that_reads_slowly_is_no_fault_of_the_caller() {
    const LENGTH: usize = 32 * 1024 * 1024;
    let (app, _serving) = reluctant(b"", Duration::from_secs(9), LENGTH).await;
    let stage = Stage::before(app, "http", "limits: {bodyRate: 1, bodyTimeout: 4s}").await;
    let mut stream = stage.link(b"http/1.1").await;
    let head = format!("POST /upload HTTP/1.1\r\nHost: payments\r\nContent-Length: {LENGTH}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'a'; LENGTH]).await.unwrap();
    // The end of it may still be in the TLS session, and reading does not send it.
    stream.flush().await.unwrap();
    let mut answer = [0; 13];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 ");
    assert_eq!(stage.failed("SG0651").await, 0);
}

#[tokio::test]
async fn a_body_that_trickles_while_it_is_answered_is_broken_off() {
    let early = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n";
    let (app, _serving) = reluctant(early, Duration::ZERO, 1_000).await;
    let stage = Stage::before(app, "http", "limits: {bodyRate: 100, bodyTimeout: 3s}").await;
    let mut slow = stage.link(b"http/1.1").await;
    slow.write_all(POST.as_bytes()).await.unwrap();
    let answer = String::from_utf8(until_closed(&mut slow).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("early"), "{answer}");
    assert!(!answer.contains("\r\n0\r\n"), "it looks complete: {answer}");
    let line = stage.sidecar.accessed(|line| line["code"] == "SG0651");
    assert_eq!((&line["status"], &line["verdict"]), (&200.into(), &"failed".into()));
}

#[tokio::test]
async fn an_application_that_trickles_is_refused_by_its_own_sidecar() {
    let (app, authority) = (App::start().await, Authority::new());
    let peer =
        Sidecar::start("payments", &authority, ORDERS, &[Port::Inbound(app.address, "protocol: http")]);
    let ports = [Port::Outbound("payments", peer.inbound(), "protocol: http")];
    let svid = authority.svid(&id("orders"));
    let sidecar = Sidecar::start_as("orders", &svid, &authority, ORDERS, &ports, QUICK);
    let mut slow = TcpStream::connect(sidecar.outbound()).await.unwrap();
    slow.write_all(POST.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, slow.read_to_end(&mut answer)).await.expect("still open").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", answer.escape_ascii());
    let line = sidecar.accessed(|line| line["code"] == "SG0651");
    assert_eq!((&line["direction"], &line["status"]), (&"outbound".into(), &408.into()));
}

fn post(kind: &str, body: Body) -> http::Request<Body> {
    http::Request::post("http://payments/upload").header("content-type", kind).body(body).unwrap()
}
