//! Peers that take their time: with a head, without a request, not reading, not leaving.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Stage, until_closed};

/// A body that no buffer between here and the application holds.
const LARGE: usize = 64 * 1024 * 1024;

/// An application that answers whatever it reads with more than anybody buffers.
async fn generous() -> (std::net::SocketAddr, tokio::task::JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            connections.spawn(async move {
                if tcp.read(&mut [0; 4096]).await.is_ok() {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                    // Until the sidecar has had enough.
                    let _ = tcp.write_all(head.as_bytes()).await;
                    let _ = tcp.write_all(&vec![b'x'; LARGE]).await;
                }
            });
        }
    });
    (address, serving)
}

#[tokio::test]
async fn a_head_in_drips_is_ended_and_an_idle_connection_is_not_taken_for_one() {
    let mut stage = Stage::new("http", "limits: {headTimeout: 400ms}").await;
    let mut slow = stage.link(b"http/1.1").await;
    let begun = Instant::now();
    let dripping = async {
        for byte in b"GET / HTTP/1.1\r\nHost: payments\r\nx: ".iter().chain(std::iter::repeat(&b'a')) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if slow.write_all(&[*byte]).await.is_err() || slow.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(crate::mesh::PATIENCE, dripping).await.expect("the head goes on forever");
    assert!(begun.elapsed() >= Duration::from_millis(400));
    stage.has_counted("SG0650", 1).await;
    // It has idled all the time.
    stage.serves_others().await;
}

#[tokio::test]
async fn a_connection_without_a_request_ends_in_order_and_is_no_failure() {
    let stage =
        Stage::new("http", "limits: {keepAliveTimeout: 400ms, idleTimeout: 200ms, headTimeout: 400ms}").await;
    let mut idle = stage.link(b"http/1.1").await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n").await.unwrap();
    assert!(until_closed(&mut idle).await.starts_with(b"HTTP/1.1 200 "));

    let mut idle = stage.link(b"h2").await;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let frames = until_closed(&mut idle).await;
    assert!(
        frames.windows(5).any(|bytes| bytes == [0, 0, 8, 7, 0]),
        "no GOAWAY in {}",
        frames.escape_ascii()
    );
    assert_eq!(stage.failed("SG0650").await, 0);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let (address, _generous) = generous().await;
    let stage = Stage::before(address, "http", "limits: {writeTimeout: 500ms}").await;
    let mut unread = stage.link(b"http/1.1").await;
    unread.write_all(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n").await.unwrap();
    // Waited for without blocking: the application runs on this thread too.
    stage.has_counted("SG0652", 1).await;
    let line = stage.sidecar.accessed(|line| line["code"] == "SG0652");
    assert_eq!(
        (&line["protocol"], &line["verdict"], &line["status"]),
        (&"http1".into(), &"failed".into(), &200.into())
    );

    // With HTTP/2 a peer reads and yet takes nothing: its window stays at zero.
    let mut unread = stage.link(b"h2").await;
    let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
    let get = b"\0\0\x0d\x01\x05\0\0\0\x01\x82\x86\x84\x01\x08payments";
    unread.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings, get].concat()).await.unwrap();
    until_closed(&mut unread).await;
    stage.has_counted("SG0652", 2).await;
}

#[tokio::test]
async fn an_answer_that_is_read_slowly_is_read_to_its_end() {
    let (address, _generous) = generous().await;
    let stage = Stage::before(address, "http", "limits: {writeTimeout: 1s}").await;
    let mut slow = stage.link(b"http/1.1").await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut read, mut part) = (0, vec![0; 4 * 1024 * 1024]);
    while read < LARGE {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let count = slow.read_exact(&mut part[..(LARGE - read).min(4 * 1024 * 1024)]).await.unwrap();
        read += count;
    }
    assert_eq!(stage.failed("SG0652").await, 0);
}

#[tokio::test]
async fn a_connection_grows_only_so_old() {
    let endless = crate::mesh::endless().await;
    let ages = "limits: {connectionAge: 400ms, connectionGrace: 400ms}";
    let stage = Stage::before(endless.address, "http2", ages).await;
    let mut stream = stage.link(b"h2").await;
    let get = b"\0\0\x0d\x01\x05\0\0\0\x01\x82\x86\x84\x01\x08payments";
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings, get].concat()).await.unwrap();
    let frames = until_closed(&mut stream).await;
    assert!(frames.windows(5).any(|bytes| bytes == [0, 0, 8, 7, 0]), "no GOAWAY came first");
    stage.has_counted("SG0654", 1).await;
    let line = stage.sidecar.accessed(|line| line["code"] == "SG0654");
    assert_eq!((&line["protocol"], &line["verdict"]), (&"http2".into(), &"failed".into()));
}
