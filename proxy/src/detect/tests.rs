use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::{first_line::LONGEST_LINE, *};

const STREAMS: [(&[u8], Detected); 14] = [
    (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", Detected::Http1),
    (b"POST /a?b=c HTTP/1.0\r\n\r\n", Detected::Http1),
    (b"\r\nGET / HTTP/1.1\r\n\r\n", Detected::Http1),
    (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Detected::Opaque),
    (b"VERSION-CONTROL / HTTP/1.1\r\n", Detected::Http1),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00", Detected::Http2),
    // Whole, though no frame has followed yet.
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detected::Http2),
    (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Detected::Opaque),
    (b"EHLO mail.test\r\n", Detected::Opaque),
    (b"SET key value\r\n", Detected::Opaque),
    (b"*1\r\n$4\r\nPING\r\n", Detected::Opaque),
    (b"GET / HTTP/3.0\r\n", Detected::Opaque),
    (b"\x16\x03\x01\x02\x00", Detected::Opaque),
    (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Detected::Opaque),
];

#[test]
fn first_bytes_tell_the_protocol() {
    for (bytes, want) in STREAMS {
        assert_eq!(classify(bytes), Some(want), "{}", bytes.escape_ascii());
    }
}

#[test]
fn every_split_gives_the_same_answer() {
    for (bytes, want) in STREAMS {
        let first_answer = (0..=bytes.len()).find_map(|length| classify(&bytes[..length]));
        assert_eq!(first_answer, Some(want), "{}", bytes.escape_ascii());
    }
}

#[test]
fn an_endless_line_does_not_wait_for_its_end() {
    let mut line = b"GET /".to_vec();
    line.resize(LONGEST_LINE, b'a');
    assert_eq!(classify(&line), Some(Detected::Opaque));
}

#[tokio::test(start_paused = true)]
async fn silence_is_opaque_and_nothing_is_lost() {
    let (mut client, server) = tokio::io::duplex(64);
    client.write_all(b"GET").await.unwrap();
    let (detected, mut stream) = protocol(server, Duration::from_secs(3)).await.unwrap();
    assert_eq!(detected, Detected::Opaque);
    client.write_all(b" more").await.unwrap();
    drop(client);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"GET more");
}

const QUIET: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(3);

/// What is heard if the client says `client` after `wait`, and a server that greets with `server` is there or not. With it,
/// how long that took, and whether the server was called at all.
async fn heard(
    wait: Duration,
    client: &'static [u8],
    server: Option<&'static [u8]>,
) -> (Detected, Vec<u8>, Option<Vec<u8>>, Duration, bool) {
    let (mut theirs, ours) = tokio::io::duplex(64);
    let (mut far, near) = tokio::io::duplex(64);
    let started = tokio::time::Instant::now();
    let mut is_called = false;
    let connect = async || {
        is_called = true;
        far.write_all(server?).await.unwrap();
        Some(near)
    };
    let speaks = async {
        tokio::time::sleep(wait).await;
        theirs.write_all(client).await.unwrap();
        std::future::pending::<()>().await;
    };
    let heard = tokio::select! {
        heard = first_to_speak(ours, QUIET, LIMIT, connect) => heard.unwrap(),
        () = speaks => unreachable!("it waits for ever"),
    };
    let upstream = heard.upstream.map(|upstream| upstream.into_parts().0);
    (heard.detected, heard.downstream.into_parts().0, upstream, started.elapsed(), is_called)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_waits_no_longer_than_the_quiet_time() {
    let (detected, client, server, took, _) = heard(LIMIT, b"", Some(b"220 hello\r\n")).await;
    assert_eq!(
        (detected, &client[..], server.as_deref()),
        (Detected::Opaque, &b""[..], Some(&b"220 hello\r\n"[..]))
    );
    assert!(took < QUIET * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_speaks_at_once_calls_no_upstream() {
    for (bytes, want) in STREAMS {
        let (detected, _, server, _, is_called) = heard(Duration::ZERO, bytes, Some(b"220 hello\r\n")).await;
        assert_eq!((detected, server, is_called), (want, None, false), "{}", bytes.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hesitates_decides_while_its_server_is_silent_or_away() {
    for server in [Some(&b""[..]), None] {
        for (bytes, want) in STREAMS {
            let (detected, client, upstream, ..) = heard(QUIET * 4, bytes, server).await;
            assert_eq!((detected, client.is_empty()), (want, false), "{}", bytes.escape_ascii());
            let is_kept = want == Detected::Opaque && server.is_some();
            assert_eq!(upstream.is_some(), is_kept, "an upstream is of use to opaque bytes alone");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_of_both_ends_with_the_limit() {
    let (detected, _, server, took, _) = heard(LIMIT * 2, b"", Some(b"")).await;
    assert_eq!((detected, server.as_deref(), took), (Detected::Opaque, Some(&b""[..]), LIMIT));
}

#[tokio::test]
async fn http_is_not_handed_on_as_opaque_bytes_however_it_is_split() {
    for (bytes, detected) in STREAMS {
        for split in 0..bytes.len() {
            let (one, two) = bytes.split_at(split);
            let mut stream = NotHttp::new(one.chain(two));
            let mut through = Vec::new();
            let result = stream.read_to_end(&mut through).await;
            let names_http = bytes.windows(5).any(|bytes| bytes == b"HTTP/");
            assert!(names_http || detected == Detected::Opaque);
            assert_eq!(result.is_err(), names_http, "{}", bytes.escape_ascii());
            assert_eq!(through == bytes, !names_http, "{} came through", through.escape_ascii());
        }
    }
}

#[tokio::test]
async fn a_first_line_without_end_is_opaque_only_if_it_cannot_be_a_request() {
    let long = |start: &[u8], fill: u8| {
        let mut bytes = start.to_vec();
        bytes.resize(LONGEST_LINE + 10, fill);
        bytes
    };
    for (bytes, is_refused) in [
        (long(b"GET /", b'a'), true),
        (long(b"GET\t/", b'a'), true),
        (long(b"\r\n", b'\n'), true),
        (long(b"\x00\x01", b'a'), false),
        (long(b"aaaa", b'a'), false),
    ] {
        let mut through = Vec::new();
        let result = NotHttp::new(&bytes[..]).read_to_end(&mut through).await;
        assert_eq!(result.is_err(), is_refused, "{}", bytes[..8].escape_ascii());
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_answers_do_not_flip(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let first = (0..=bytes.len()).find_map(|length| classify(&bytes[..length]));
        if let Some(first) = first {
            prop_assert_eq!(classify(&bytes), Some(first));
        }
    }
}
