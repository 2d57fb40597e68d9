//! The guard's reading of HTTP/1, against two others: `httparse`, which hyper reads heads with, and one here that knows no
//! leniency. What the guard lets through, all read alike; what nobody could read otherwise, it lets through; and how the
//! bytes are cut into pieces changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidegate_proxy::http::guard::framing::{Framing, Scanner};

fuzz_target!(|bytes: &[u8]| {
    let read = byte_by_byte(bytes);
    let mut begin = 0;
    for message in &read.messages {
        check_head(&bytes[begin..], message.head - begin, message.framing);
        if let Some(end) = message.end {
            check_body(&bytes[message.head..end], message.framing);
            begin = end;
        }
    }
    if let Some(refused) = read.refused
        && read.messages.last().is_none_or(|message| message.end.is_some())
    {
        let head = end_of_head(&bytes[begin..]).filter(|end| refused < begin + end);
        assert!(
            head.is_none_or(|end| !is_plain(&bytes[begin..begin + end])),
            "refused without a reason at {refused}: {}",
            bytes.escape_ascii()
        );
    }
    in_pieces(bytes, &read);
});

/// What the guard made of a connection's bytes.
#[derive(Debug, Default)]
struct Read {
    messages: Vec<Message>,
    /// Where it refused, if it did.
    refused: Option<usize>,
    /// Behind which bytes it waited for an answer.
    pauses: Vec<usize>,
}

#[derive(Debug)]
struct Message {
    /// Where its head ends, and where all of it.
    head: usize,
    end: Option<usize>,
    framing: Framing,
}

fn byte_by_byte(bytes: &[u8]) -> Read {
    let (mut scanner, mut read) = (Scanner::new(), Read::default());
    for (at, byte) in bytes.iter().enumerate() {
        if let Err(refused) = scanner.read(std::slice::from_ref(byte)) {
            assert_eq!(refused.at, 0);
            read.refused = Some(at);
            break;
        }
        if scanner.heads() > read.messages.len() as u64 {
            read.messages.push(Message { head: at + 1, end: None, framing: scanner.framing() });
        }
        if let Some(message) = read.messages.last_mut().filter(|message| message.end.is_none())
            && (scanner.is_between() || scanner.is_undecided())
        {
            message.end = Some(at + 1);
        }
        if scanner.is_undecided() {
            scanner.decide(false);
            read.pauses.push(at + 1);
        }
    }
    assert_eq!(read.messages.len() as u64, scanner.heads());
    read
}

/// The same in pieces whose sizes the input chooses; a piece ends where an answer is waited for.
fn in_pieces(bytes: &[u8], whole: &Read) {
    let (mut scanner, mut at) = (Scanner::new(), 0);
    let mut sizes = bytes.iter().rev().map(|byte| usize::from(*byte % 64) + 1).cycle();
    while at < bytes.len() {
        let pause = whole.pauses.iter().find(|pause| **pause > at).map_or(bytes.len(), |pause| *pause);
        let end = (at + sizes.next().unwrap_or(1)).min(pause);
        if let Err(refused) = scanner.read(&bytes[at..end]) {
            assert_eq!(Some(at + refused.at), whole.refused, "{}", bytes.escape_ascii());
            return;
        }
        at = end;
        assert_eq!(scanner.is_undecided(), whole.pauses.contains(&at), "{}", bytes.escape_ascii());
        scanner.decide(false);
    }
    assert_eq!(whole.refused, None, "only byte by byte: {}", bytes.escape_ascii());
    assert_eq!(scanner.heads(), whole.messages.len() as u64);
}

/// A head that was let through ends where its first empty line is, `httparse` finds the same end or refuses it, and both
/// find the same framing in it.
fn check_head(bytes: &[u8], end: usize, framing: Framing) {
    let shown = bytes.escape_ascii();
    assert_eq!(end_of_head(bytes), Some(end), "another end: {shown}");
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Err(_) => {}
        Ok(httparse::Status::Partial) => panic!("httparse reads on: {shown}"),
        Ok(httparse::Status::Complete(length)) => {
            assert_eq!(length, end, "httparse ends elsewhere: {shown}");
            assert_eq!(framing_of(&request), Some(framing), "another framing: {shown}");
        }
    }
}

/// Where the first empty line ends, after those that come before a request.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let blank = bytes.chunks(2).take_while(|pair| pair == b"\r\n").count() * 2;
    let end = bytes[blank..].windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(blank + end + 4)
}

/// `None`: two readings, or none.
fn framing_of(request: &httparse::Request<'_, '_>) -> Option<Framing> {
    let all = |name: &str| -> Vec<&[u8]> {
        let named = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.trim_ascii()).collect()
    };
    if all("host").len() > 1 {
        return None;
    }
    match (&all("transfer-encoding")[..], &all("content-length")[..]) {
        ([], []) => Some(Framing::Length(0)),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") && request.version == Some(1) => {
            Some(Framing::Chunked)
        }
        ([], [length]) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(length).ok()?.parse().ok().map(Framing::Length)
        }
        _ => None,
    }
}

/// A head in which nobody finds anything odd.
fn is_plain(head: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let is_read = request.parse(head).is_ok_and(|status| status == httparse::Status::Complete(head.len()));
    let target = request.path.unwrap_or_default();
    let has_path = !request.method.unwrap_or_default().eq_ignore_ascii_case("CONNECT");
    let is_origin_form = has_path
        && target.starts_with('/')
        && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%?&=".contains(&byte));
    let line_ends = head.windows(2).filter(|pair| pair == b"\r\n").count();
    let has_bare_ends = head.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count() != line_ends * 2;
    is_read && is_origin_form && !has_bare_ends && framing_of(&request).is_some()
}

/// A body that was let through ends where a reader without leniency ends it.
fn check_body(body: &[u8], framing: Framing) {
    match framing {
        Framing::Length(length) => assert_eq!(body.len() as u64, length),
        Framing::Chunked => assert_eq!(rest_of_chunks(body), Some(&b""[..]), "{}", body.escape_ascii()),
    }
}

/// What follows the last chunk and its trailers.
fn rest_of_chunks(mut body: &[u8]) -> Option<&[u8]> {
    loop {
        let (line, rest) = line(body)?;
        let digits = line.split(|byte| *byte == b';').next()?;
        let is_size = (1..=16).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_size)?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            body = rest;
            break;
        }
        body = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let (trailer, rest) = line(body)?;
        body = rest;
        if trailer.is_empty() {
            return Some(body);
        }
        let name = trailer.split(|byte| *byte == b':').next().filter(|name| name.len() < trailer.len())?;
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name.is_empty() || !name.iter().all(is_token) {
            return None;
        }
    }
}

/// A line that ends with CR LF and holds neither alone, and what follows.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
    (!line.iter().any(|byte| matches!(byte, b'\r' | b'\n'))).then_some((line, rest))
}

const MOST_FIELDS: usize = 512;
