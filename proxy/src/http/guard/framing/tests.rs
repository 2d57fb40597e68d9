use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<Scanner, Fault> {
    let mut scanner = Scanner::new();
    scanner.read(bytes).map(|()| scanner).map_err(|refused| refused.fault)
}

fn head(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}

#[test]
fn messages_end_where_their_one_framing_says() {
    let messages: [(&[u8], u64); 6] = [
        (b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.0\r\n\r\n", 2),
        (b"\r\n\r\nPOST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: \t 4 \r\n\r\n\0\r\n#GET /b HTTP/1.1\r\n\r\n", 2),
        (
            b"POST / HTTP/1.1\r\nTRANSFER-encoding: Chunked \r\n\r\n5;a=b\r\n\n\n\n\n\n\r\n0\r\nx: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            2,
        ),
        (b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 1),
        (b"CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n\r\n", 1),
        (b"GET / HTTP/1.1\r\nx-transfer-encoding: gzip\r\nx-content-length-of-something: x\r\n\r\n", 1),
    ];
    for (bytes, heads) in messages {
        let scanner = read(bytes).unwrap_or_else(|fault| panic!("{fault}: {}", bytes.escape_ascii()));
        assert_eq!(scanner.heads(), heads, "{}", bytes.escape_ascii());
        assert!(scanner.is_between() || scanner.is_undecided(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let heads: [(&str, Fault); 22] = [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", Fault::TwoFramings),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", Fault::TwoFramings),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::Coding),
        ("Transfer-Encoding: xchunked\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked, identity\r\n", Fault::Coding),
        ("Transfer-Encoding: gzip, chunked\r\n", Fault::Coding),
        ("Transfer-Encoding: \r\n", Fault::Coding),
        ("Transfer-Encoding: chunk\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked\x0b\r\n", Fault::Coding),
        ("Transfer-Encoding : chunked\r\n", Fault::FieldName),
        ("Content-Length: 4\r\nContent-Length: 4\r\n", Fault::SecondLength),
        ("Content-Length: 4, 4\r\n", Fault::Length),
        ("Content-Length: +4\r\n", Fault::Length),
        ("Content-Length: 4 4\r\n", Fault::Length),
        ("Content-Length: \r\n", Fault::Length),
        ("Content-Length: 18446744073709551616\r\n", Fault::Length),
        ("host: b\r\n", Fault::SecondHost),
        ("x: a\r\n b\r\n", Fault::Folded),
        ("x: a\nTransfer-Encoding: chunked\r\n", Fault::LineEnd),
        ("x: a\rTransfer-Encoding: chunked\r\n", Fault::LineEnd),
        ("x\r\n", Fault::FieldName),
        (": x\r\n", Fault::FieldName),
    ];
    for (lines, fault) in heads {
        assert_eq!(read(&head(lines)).unwrap_err(), fault, "{lines:?}");
    }
    let requests: [(&[u8], Fault); 16] = [
        (b"GET /public#/../admin HTTP/1.1\r\n", Fault::Fragment),
        (b"GET # HTTP/1.1\r\n", Fault::Fragment),
        (b"GET admin HTTP/1.1\r\n", Fault::Target),
        (b"GET ftp://a/ HTTP/1.1\r\n", Fault::Target),
        (b"GET * HTTP/1.1\r\n", Fault::Target),
        (b"GET /a\tb HTTP/1.1\r\n", Fault::Target),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n", Fault::Target),
        (b"GET  / HTTP/1.1\r\n", Fault::Target),
        (b"CONNECT / HTTP/1.1\r\n", Fault::Target),
        (b"GET /  HTTP/1.1\r\n", Fault::Version),
        (b"GET / HTTP/2.0\r\n", Fault::Version),
        (b"GET /\r\n", Fault::Target),
        (b"GET / HTTP/1.1\n", Fault::LineEnd),
        (b"\nGET / HTTP/1.1\r\n", Fault::LineEnd),
        (b" GET / HTTP/1.1\r\n", Fault::Method),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", Fault::CodingInHttp10),
    ];
    for (bytes, fault) in requests {
        assert_eq!(read(bytes).unwrap_err(), fault, "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_chunk_is_as_long_as_it_says_and_its_extensions_are_short() {
    let body = |chunks: &str| {
        let mut bytes = head("Transfer-Encoding: chunked\r\n");
        bytes.extend_from_slice(chunks.as_bytes());
        read(&bytes).map(|scanner| scanner.is_between())
    };
    assert_eq!(body("0\r\n\r\n"), Ok(true));
    assert_eq!(body(&format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(MOST_EXTENSION_BYTES))), Ok(true));
    for (chunks, fault) in [
        (format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(MOST_EXTENSION_BYTES + 1)), Fault::ChunkExtension),
        ("1;e\nx\r\n0\r\n\r\n".into(), Fault::ChunkExtension),
        ("1\nx\r\n".into(), Fault::ChunkSize),
        ("\r\n".into(), Fault::ChunkSize),
        ("0x1\r\n".into(), Fault::ChunkSize),
        ("-1\r\n".into(), Fault::ChunkSize),
        ("1 \r\n".into(), Fault::ChunkSize),
        ("10000000000000001\r\n".into(), Fault::ChunkSize),
        ("00000000000000001\r\n".into(), Fault::ChunkSize),
        ("1\r\nxy\r\n".into(), Fault::ChunkEnd),
        ("2\r\nx\r\n\r\n".into(), Fault::ChunkEnd),
        ("1\r\nx\n".into(), Fault::ChunkEnd),
        ("0\r\n x: y\r\n\r\n".into(), Fault::Folded),
        ("0\r\nx: y\n\r\n".into(), Fault::LineEnd),
    ] {
        assert_eq!(body(&chunks), Err(fault), "{chunks:?}");
    }
}

#[test]
fn what_follows_an_upgrade_is_a_tunnel_or_another_request_and_never_both() {
    for request in
        ["GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n"]
    {
        let mut tunnel = read(request.as_bytes()).unwrap();
        tunnel.decide(true);
        tunnel.read(b"\0\n: anything").unwrap();

        let mut refused = read(request.as_bytes()).unwrap();
        refused.decide(false);
        assert_eq!(refused.read(b"GET /#a HTTP/1.1\r\n").unwrap_err().fault, Fault::Fragment);

        // Sent before the answer: whoever answers without a tunnel has to end the connection.
        let early = read(&[request.as_bytes(), b"x"].concat()).unwrap();
        assert!(early.is_early() && !read(request.as_bytes()).unwrap().is_early());
    }
}

#[test]
fn a_tunnel_cannot_be_had_without_asking() {
    let mut scanner = read(&head("")).unwrap();
    scanner.decide(true);
    assert_eq!(scanner.read(b"\0").unwrap_err().fault, Fault::Method);
}

/// Requests and pieces of requests, good and bad, so that chance meets the states.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(&b"GET / HTTP/1.1\r\n"[..]),
        Just(&b"CONNECT a:1 HTTP/1.1\r\n"[..]),
        Just(&b"Host: a\r\n"[..]),
        Just(&b"Content-Length: 3\r\n"[..]),
        Just(&b"Transfer-Encoding: chunked\r\n"[..]),
        Just(&b"upgrade: websocket\r\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"3\r\nabc\r\n"[..]),
        Just(&b"0\r\n"[..]),
        Just(&b"abc"[..]),
        Just(&b"\n"[..]),
        Just(&b"#"[..]),
        Just(&b"\0"[..]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn every_split_of_the_bytes_says_the_same(bytes in pieces(), cuts in prop::collection::vec(0usize..200, 0..6)) {
        let mut whole = Scanner::new();
        let at_once = whole.read(&bytes);
        let mut split = Scanner::new();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut in_parts = Ok(());
        for part in cuts.windows(2) {
            in_parts = split.read(&bytes[part[0]..part[1]]).map_err(|refused| Refused { at: part[0] + refused.at, ..refused });
            if in_parts.is_err() {
                break;
            }
        }
        prop_assert_eq!(at_once, in_parts);
        prop_assert_eq!(whole.heads(), split.heads());
        prop_assert_eq!(whole.state, split.state);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        // Whatever it says of them.
        let _ = Scanner::new().read(&bytes);
    }
}
