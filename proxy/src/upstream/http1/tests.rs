use bytes::BytesMut;
use http::Request;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

const MOST: Most = Most { bytes: 512, fields: 8 };

/// What is understood of an answer that comes in the two halves `first` and `second` and then ends: its body, whether it had
/// trailers, and whether the connection may serve another request.
async fn understood(first: &[u8], second: &[u8]) -> Result<(String, bool, bool), Broken> {
    let mut stream = first.chain(second);
    let mut incoming = Incoming::new(MOST);
    let head = loop {
        let head = poll_fn(|cx| incoming.poll_head(&mut stream, Head::take, cx)).await?;
        let head = head.ok_or(Broken::Incomplete)?;
        if !head.is_interim() {
            break head;
        }
    };
    assert_eq!(head.status(), StatusCode::OK);
    let framing = head.framing(false)?;
    incoming.expect(framing);
    let (mut body, mut has_trailers) = (String::new(), false);
    while let Some(frame) = poll_fn(|cx| incoming.poll_body(&mut stream, cx)).await {
        match frame?.into_data() {
            Ok(data) => body.push_str(std::str::from_utf8(&data).unwrap()),
            Err(frame) => has_trailers = frame.into_trailers().is_ok(),
        }
    }
    let may_serve = head.keeps_alive() && framing != Framing::Close && !incoming.has_left();
    Ok((body, has_trailers, may_serve))
}

#[tokio::test]
async fn an_answer_reads_the_same_however_it_is_split() {
    let answers = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ("hello", false, true)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ("", false, true)),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\n",
            ("hello", false, true),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nsum: 1\r\n\r\n",
            ("hello", true, true),
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhe",
            ("he", false, true),
        ),
        ("HTTP/1.1 200 OK\r\n\r\nhello", ("hello", false, false)),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhe", ("he", false, false)),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhe", ("he", false, true)),
        ("HTTP/1.1 200 OK\r\nConnection: a, Close\r\nContent-Length: 2\r\n\r\nhe", ("he", false, false)),
    ];
    for (answer, (body, has_trailers, is_over)) in answers {
        for at in 0..=answer.len() {
            let (first, second) = answer.as_bytes().split_at(at);
            let got = understood(first, second).await.unwrap();
            assert_eq!(got, (body.to_owned(), has_trailers, is_over), "{answer:?} at {at}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_ends_early_is_never_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nsum: 1\r\n\r\n",
    ] {
        for at in 0..answer.len() {
            let got = understood(&answer.as_bytes()[..at], b"").await;
            assert!(matches!(got, Err(Broken::Incomplete)), "{answer:?} up to {at}: {got:?}");
        }
    }
}

#[tokio::test]
async fn what_follows_an_answer_unasked_ends_its_connection() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhe";
    for more in ["x", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "\r\n"] {
        let (_, _, is_over) = understood(format!("{answer}{more}").as_bytes(), b"").await.unwrap();
        assert!(!is_over, "{more:?}");
    }
}

#[tokio::test]
async fn an_answer_without_one_reading_is_refused() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "a".repeat(512));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(9));
    let endless = "HTTP/1.1 200 OK\r\n".to_owned() + &"a".repeat(600);
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        &long,
        &many,
        &endless,
        &format!("{chunked}x\r\n"),
        &format!("{chunked}-1\r\n"),
        &format!("{chunked}10000000000000000\r\n"),
        &format!("{chunked}2\r\nhello\r\n"),
        &format!("{chunked}2\nhe\n0\n\n"),
        &format!("{chunked}0\r\nsum 1\r\n\r\n"),
        &format!("{chunked}0\r\n{}\r\n", "a: b\r\n".repeat(9)),
        &format!("{chunked}2;{}", "a".repeat(5000)),
    ] {
        let got = understood(answer.as_bytes(), b"").await;
        assert!(
            matches!(got, Err(Broken::Head(_) | Broken::Framing(_) | Broken::TooLarge)),
            "{answer:?}: {got:?}"
        );
    }
}

#[test]
fn the_end_of_a_body_follows_from_its_head() {
    let framing = |head: &str, is_head| {
        let mut bytes = BytesMut::from(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes());
        Head::take(&mut bytes, MOST).unwrap().unwrap().framing(is_head).unwrap()
    };
    assert_eq!(framing("200 OK\r\ncontent-length: 5", false), Framing::Length(5));
    assert_eq!(framing("200 OK\r\ncontent-length: 5\r\ncontent-length: 5", false), Framing::Length(5));
    assert_eq!(framing("200 OK\r\ntransfer-encoding: chunked", false), Framing::Chunked);
    assert_eq!(framing("200 OK\r\ntransfer-encoding: gzip, Chunked", false), Framing::Chunked);
    assert_eq!(framing("200 OK\r\ntransfer-encoding: chunked, gzip", false), Framing::Close);
    assert_eq!(framing("200 OK", false), Framing::Close);
    for without in ["200 OK\r\ncontent-length: 5", "200 OK\r\ntransfer-encoding: chunked", "200 OK"] {
        assert_eq!(framing(without, true), Framing::Length(0), "to a HEAD: {without}");
    }
    for without in ["204 No Content", "304 Not Modified\r\ncontent-length: 5", "101 Switching Protocols"] {
        assert_eq!(framing(without, false), Framing::Length(0), "{without}");
    }
}

/// A connection, and its other end.
async fn connected() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (Connection::new(Stream::plain(stream), MOST), server)
}

/// Asks for `/`, and gets `answer` from the other end.
async fn asked(connection: &Connection, server: &mut TcpStream, answer: &str) -> Response<Answering> {
    let (head, ()) = Request::get("/").body(()).unwrap().into_parts();
    let answering = async {
        let mut request = vec![0; "GET / HTTP/1.1\r\n\r\n".len()];
        server.read_exact(&mut request).await.unwrap();
        server.write_all(answer.as_bytes()).await.unwrap();
    };
    tokio::join!(connection.exchange(&head, Sent::Empty, |_| {}), answering).0.unwrap()
}

const WHOLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhe";

#[tokio::test]
async fn a_connection_serves_one_exchange_after_the_other() {
    let (connection, mut server) = connected().await;
    for _ in 0..3 {
        assert!(connection.is_idle());
        let answer = asked(&connection, &mut server, WHOLE).await;
        assert!(!connection.is_idle(), "its answer is not through");
        let mut body = answer.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "he");
        assert!(body.is_end_stream() && body.into_connection().is_some());
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_or_says_something_unasked_is_idle_no_more() {
    for unasked in ["", "HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let (connection, mut server) = connected().await;
        let answer = asked(&connection, &mut server, WHOLE).await;
        answer.into_body().collect().await.unwrap();
        assert!(connection.is_idle());
        server.write_all(unasked.as_bytes()).await.unwrap();
        server.shutdown().await.unwrap();
        // What the kernel has told of is known once the runtime has looked.
        while connection.is_idle() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_dropped_before_its_end_closes_its_connection() {
    let (connection, mut server) = connected().await;
    let answer = asked(&connection, &mut server, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhe").await;
    drop(answer);
    assert!(!connection.is_idle());
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_was_read_behind_a_switch_of_protocols_belongs_to_the_tunnel() {
    let (connection, mut server) = connected().await;
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nfirst ";
    let answer = asked(&connection, &mut server, head).await;
    assert!(!connection.is_idle());
    let mut tunnel = answer.into_body().into_tunnel().unwrap();
    server.write_all(b"then").await.unwrap();
    let mut said = [0; 10];
    tunnel.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"first then");
    tunnel.write_all(b"heard").await.unwrap();
    let mut told = [0; 5];
    server.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"heard");
}
