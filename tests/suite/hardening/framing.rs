//! HTTP/1 messages that two programs could read in two ways.

use tokio::io::AsyncWriteExt;

use super::{Stage, until_closed};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: payments\r\n";

#[tokio::test]
async fn a_message_with_two_readings_is_refused_told_and_counted() {
    let mut stage = Stage::new("http", "").await;
    let attacks = [
        ("SG0610", "GET /public#/../admin HTTP/1.1\r\nHost: payments\r\n\r\n".to_owned(), "fragment"),
        ("SG0610", "GET admin HTTP/1.1\r\nHost: payments\r\n\r\n".to_owned(), "target"),
        ("SG0611", "GET / HTTP/1.1\r\nHost: payments\r\nhost: payments\r\n\r\n".to_owned(), "two Host"),
        ("SG0612", format!("{HEAD}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "both"),
        ("SG0612", format!("{HEAD}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "chunked"),
        ("SG0612", format!("{HEAD}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), "field name"),
        ("SG0612", format!("{HEAD}Content-Length: 0\r\nContent-Length: 0\r\n\r\n"), "two Content-Length"),
        ("SG0612", format!("{HEAD}x: a\n\r\n"), "CR LF"),
        ("SG0612", format!("{HEAD}x: a\r\n b\r\n\r\n"), "folded"),
        ("SG0612", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), "HTTP/1.0"),
    ];
    for (code, request, detail) in &attacks {
        let before = stage.failed(code).await;
        let mut stream = stage.link(b"http/1.1").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{request:?}: {}", answer.escape_ascii());
        let line = stage.sidecar.accessed(|line| {
            line["code"] == *code && line["detail"].as_str().is_some_and(|text| text.contains(detail))
        });
        assert_eq!(
            (&line["verdict"], &line["status"], &line["protocol"]),
            (&"failed".into(), &400.into(), &"http1".into())
        );
        stage.has_counted(code, before + 1).await;
        stage.serves_others().await;
    }
    assert_eq!(stage.app.seen().len(), attacks.len(), "the bystander's requests and no other");
}

/// Split so that the guard sees the attack after hyper has begun to read the head.
#[tokio::test]
async fn an_attack_in_pieces_is_the_same_attack() {
    let stage = Stage::new("http", "").await;
    for cut in [1, 4, 8, 20] {
        let mut stream = stage.link(b"http/1.1").await;
        let (first, rest) = b"GET /a#b HTTP/1.1\r\nHost: payments\r\n\r\n".split_at(cut);
        stream.write_all(first).await.unwrap();
        stream.flush().await.unwrap();
        stage.sidecar.page("/livez").await;
        // The sidecar may have refused by then.
        let _ = stream.write_all(rest).await;
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{cut}: {}", answer.escape_ascii());
    }
    assert!(stage.app.seen().is_empty());
}

#[tokio::test]
async fn a_refused_message_takes_nothing_from_the_one_before_it() {
    let stage = Stage::new("http", "").await;
    let mut stream = stage.link(b"http/1.1").await;
    let both =
        "GET /first HTTP/1.1\r\nHost: payments\r\n\r\nGET /second#a HTTP/1.1\r\nHost: payments\r\n\r\n";
    stream.write_all(both.as_bytes()).await.unwrap();
    let answer = String::from_utf8(until_closed(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 400 "), "{answer}");
    let targets: Vec<_> = stage.app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/first"]);
}

#[tokio::test]
async fn a_chunk_that_lies_about_its_length_is_a_bad_request_and_no_failure_of_the_application() {
    let mut stage = Stage::new("http", "").await;
    for body in
        ["3\r\nabcd\r\n0\r\n\r\n", "3\nabc\r\n0\r\n\r\n", "ffffffffffffffff1\r\n", "0\r\n x: folded\r\n\r\n"]
    {
        let before = stage.failed("SG0612").await;
        let mut stream = stage.link(b"http/1.1").await;
        let request = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{body:?}: {}", answer.escape_ascii());
        stage.has_counted("SG0612", before + 1).await;
        stage.serves_others().await;
    }
}

#[tokio::test]
async fn what_hyper_refuses_has_a_code_and_a_count() {
    let mut stage = Stage::new("http", "limits: {headTimeout: 300ms, headers: 10, headerBytes: 8192}").await;
    let many = format!("{HEAD}{}\r\n", "x-a: 1\r\n".repeat(50));
    let long = format!("{HEAD}x: {}\r\n\r\n", "a".repeat(10_000));
    let control = format!("{HEAD}x: a\0b\r\n\r\n");
    for (code, status, request) in [("SG0613", 431, many), ("SG0613", 431, long), ("SG0612", 400, control)] {
        let before = stage.failed(code).await;
        let mut stream = stage.link(b"http/1.1").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{}", answer.escape_ascii());
        stage.has_counted(code, before + 1).await;
    }
    let mut slow = stage.link(b"http/1.1").await;
    slow.write_all(HEAD.as_bytes()).await.unwrap();
    until_closed(&mut slow).await;
    assert_eq!(stage.sidecar.accessed(|line| line["code"] == "SG0650")["protocol"], "http1");
    stage.has_counted("SG0650", 1).await;
    stage.serves_others().await;
}

#[tokio::test]
async fn what_follows_a_refused_upgrade_too_early_is_never_read_as_a_request() {
    let stage = Stage::new("http", "").await;
    let mut stream = stage.link(b"http/1.1").await;
    let upgrade = "GET /chat HTTP/1.1\r\nHost: payments\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let early = format!("{upgrade}GET /smuggled#a HTTP/1.1\r\nHost: payments\r\n\r\n");
    stream.write_all(early.as_bytes()).await.unwrap();
    let answer = String::from_utf8(until_closed(&mut stream).await).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let targets: Vec<_> = stage.app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/chat"], "the application answers it without an upgrade");
}
