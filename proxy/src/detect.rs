//! What a connection carries, from its first bytes. Takes an accepted connection, hands it on with nothing lost, and
//! refuses silence where bytes are owed. [`classify`] is pure and gives the same answer for every split of the bytes.

pub mod client_hello;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use crate::error::Error;

use client_hello::{BadHello, ClientHello};

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// An HTTP/1.x request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// Anything else, or silence: a server that speaks first, perhaps.
    Opaque,
}

/// What the first bytes of either side said.
#[derive(Debug)]
pub(crate) struct Heard<S, U> {
    pub(crate) detected: Detected,
    pub(crate) downstream: Rewound<S>,
    /// The upstream that was connected in case it spoke first, with what it has said.
    pub(crate) upstream: Option<Rewound<U>>,
}

/// A stream whose first bytes have been read, and are read again.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    first: Vec<u8>,
    stream: S,
}

/// Waits for the first byte of an inbound connection: it must begin a TLS handshake record (RFC 8446 §5.1).
pub(crate) async fn tls(tcp: &TcpStream, limit: Duration) -> Result<(), Error> {
    let mut first = [0];
    match timeout(limit, tcp.peek(&mut first)).await {
        Err(_) => Err(Error::DetectTimeout),
        Ok(Err(error)) => Err(Error::Downstream(error.to_string())),
        Ok(Ok(0)) => Err(Error::Downstream("closed before its first byte".to_owned())),
        Ok(Ok(_)) if first == [TLS_HANDSHAKE] => Ok(()),
        Ok(Ok(_)) => Err(Error::Plaintext { first: first[0] }),
    }
}

/// Reads until the protocol is known. Silence until `limit` is opaque: the server may speak first.
pub(crate) async fn protocol<S: AsyncRead + Unpin>(
    stream: S,
    limit: Duration,
) -> Result<(Detected, Rewound<S>), Error> {
    classified(stream, Vec::new(), limit).await
}

/// Reads on from `first`.
async fn classified<S: AsyncRead + Unpin>(
    mut stream: S,
    mut first: Vec<u8>,
    limit: Duration,
) -> Result<(Detected, Rewound<S>), Error> {
    let detected = match timeout(limit, read_until_known(&mut stream, &mut first)).await {
        Err(_) => Detected::Opaque,
        Ok(result) => result.map_err(|error| Error::Downstream(error.to_string()))?,
    };
    Ok((detected, Rewound { first, stream }))
}

/// Listens to both sides. A client that speaks within `quiet` says its protocol by itself, as in [`protocol`]. Else `connect` is
/// asked for the upstream, and whoever speaks first decides: bytes of the server make the connection opaque at once, and
/// wait here until a verdict lets them pass; bytes of the client are looked at as ever. An upstream that cannot be had, or
/// ends unheard, decides nothing.
pub(crate) async fn first_to_speak<S, U>(
    mut stream: S,
    quiet: Duration,
    limit: Duration,
    connect: impl AsyncFnOnce() -> Option<U>,
) -> Result<Heard<S, U>, Error>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    let mut first = Vec::new();
    let mut upstream = None;
    let read = if let Ok(read) = timeout(quiet, read_some(&mut stream, &mut first)).await {
        read
    } else {
        tokio::select! {
            // The client first: what it has said must not be overtaken.
            biased;
            read = read_some(&mut stream, &mut first) => read,
            // Boxed: most clients speak at once, and hold no room for it.
            () = Box::pin(server_speaks(connect, &mut upstream)) => Ok(()),
            () = tokio::time::sleep(limit.saturating_sub(quiet)) => Ok(()),
        }
    };
    read.map_err(|error| Error::Downstream(error.to_string()))?;
    if first.is_empty() {
        return Ok(Heard { detected: Detected::Opaque, downstream: Rewound::fresh(stream), upstream });
    }
    let (detected, downstream) = classified(stream, first, limit).await?;
    Ok(Heard { detected, downstream, upstream: upstream.filter(|_| detected == Detected::Opaque) })
}

/// Ends when the upstream has said something, which is then in `heard`.
async fn server_speaks<U: AsyncRead + Unpin>(
    connect: impl AsyncFnOnce() -> Option<U>,
    heard: &mut Option<Rewound<U>>,
) {
    if let Some(stream) = connect().await {
        let upstream = heard.insert(Rewound::fresh(stream));
        if read_some(&mut upstream.stream, &mut upstream.first).await.is_ok() && !upstream.first.is_empty() {
            return;
        }
        *heard = None;
    }
    std::future::pending::<()>().await;
}

/// Adds what comes next; nothing at the end of the stream.
async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, into: &mut Vec<u8>) -> io::Result<()> {
    stream.take(512).read_buf(into).await.map(|_| ())
}

async fn read_until_known<S: AsyncRead + Unpin>(stream: &mut S, first: &mut Vec<u8>) -> io::Result<Detected> {
    loop {
        if let Some(detected) = classify(first) {
            return Ok(detected);
        }
        if stream.take(512).read_buf(first).await? == 0 {
            return Ok(Detected::Opaque);
        }
    }
}

/// Whose TLS an opaque stream of the application's begins: the server name of its `ClientHello`. `None`: it is not
/// TLS, or it names nobody.
pub(crate) async fn server_name<S: AsyncRead + Unpin>(
    mut stream: Rewound<S>,
    limit: Duration,
) -> Result<(Option<String>, Rewound<S>), Error> {
    let mut hello = ClientHello::default();
    let mut seen = 0;
    let reading = async {
        loop {
            match hello.read(&stream.first[seen..]) {
                Some(Ok(name)) => return Ok(name),
                Some(Err(BadHello::NotTls)) => return Ok(None),
                Some(Err(bad)) => return Err(Error::BadHello(bad)),
                None if seen == 0 && stream.first.is_empty() => return Ok(None),
                None => seen = stream.first.len(),
            }
            match (&mut stream.stream).take(512).read_buf(&mut stream.first).await {
                Ok(0) => return Err(Error::Downstream("closed within its ClientHello".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(Error::Downstream(error.to_string())),
            }
        }
    };
    let name = timeout(limit, reading).await.map_err(|_| Error::DetectTimeout)??;
    Ok((name, stream))
}

/// What `bytes` begin; `None` while more bytes could decide otherwise.
pub fn classify(bytes: &[u8]) -> Option<Detected> {
    if bytes.starts_with(HTTP2_PREFACE) {
        return Some(Detected::Http2);
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return None;
    }
    classify_http1(bytes)
}

/// RFC 9112 §3: method SP request-target SP HTTP-version CRLF.
fn classify_http1(bytes: &[u8]) -> Option<Detected> {
    // Empty lines before the request line are skipped by servers (RFC 9112 §2.2).
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    if start > MOST_BLANKS {
        return Some(Detected::Opaque);
    }
    let line = &bytes[start..];
    if line.is_empty() {
        return None;
    }
    let method = line.iter().position(|byte| !is_method_byte(*byte)).unwrap_or(line.len());
    if method > LONGEST_METHOD || (method < line.len() && (method == 0 || line[method] != b' ')) {
        return Some(Detected::Opaque);
    }
    match line.iter().position(|byte| *byte == b'\n') {
        None if line.len() >= LONGEST_LINE => Some(Detected::Opaque),
        None => None,
        Some(end) => {
            let line = line[..end].trim_ascii_end();
            let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            let is_http = matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
            Some(if is_http { Detected::Http1 } else { Detected::Opaque })
        }
    }
}

/// A word and a blank: a longer line could still end in a version.
fn begins_like_a_request(line: &[u8]) -> bool {
    let method = line.iter().position(|byte| !is_method_byte(*byte)).unwrap_or(line.len());
    (1..=LONGEST_METHOD).contains(&method) && line.get(method).is_some_and(u8::is_ascii_whitespace)
}

fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_')
}

impl<S> Rewound<S> {
    /// A stream of which nothing was read.
    pub(crate) fn fresh(stream: S) -> Self {
        Self { first: Vec::new(), stream }
    }

    /// A stream of which `first` was read.
    pub(crate) fn new(first: Vec<u8>, stream: S) -> Self {
        Self { first, stream }
    }

    /// The stream below.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Whether there are bytes to be read again.
    pub(crate) fn has_read(&self) -> bool {
        !self.first.is_empty()
    }

    /// What was read, and the stream below.
    pub(crate) fn into_parts(self) -> (Vec<u8>, S) {
        (self.first, self.stream)
    }
}

impl<S: AsyncRead + Unpin> Rewound<S> {
    /// With its first byte there, unless none comes until `limit`: the server may speak first.
    pub(crate) async fn begun(mut self, limit: Duration) -> Result<Self, Error> {
        if self.first.is_empty() {
            let mut stream = (&mut self.stream).take(512);
            if let Ok(Err(error)) = timeout(limit, stream.read_buf(&mut self.first)).await {
                return Err(Error::Downstream(error.to_string()));
            }
        }
        Ok(self)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..count]);
        self.first.drain(..count);
        if self.first.is_empty() {
            // Connections idle without it.
            self.first = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// An opaque stream that may not turn out to be HTTP: a peer that calls its HTTP opaque would have it forwarded without
/// a look at its path, its framing and its claims of identity.
#[derive(Debug)]
pub(crate) struct NotHttp<S> {
    stream: S,
    /// What has been read until it is known; `None` from then on.
    first: Option<Vec<u8>>,
}

impl<S> NotHttp<S> {
    /// Watches the first bytes of `stream`.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, first: Some(Vec::new()) }
    }

    /// Looks into nothing: the port is declared to carry any bytes.
    pub(crate) fn unwatched(stream: S) -> Self {
        Self { stream, first: None }
    }

    /// The stream below.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Refuses a first line that names HTTP before the name is handed on: wider than [`classify`], because servers
    /// differ in what they take for a request line.
    fn watch(&mut self, read: &[u8]) -> io::Result<()> {
        let Some(first) = &mut self.first else {
            return Ok(());
        };
        first.extend_from_slice(read);
        let start = first
            .iter()
            // Some servers skip blank lines before a request, of whatever blanks.
            .position(|byte| !byte.is_ascii_whitespace())
            .unwrap_or(first.len());
        let line = first[start..].split(|byte| *byte == b'\n').next().unwrap_or_default();
        if line.windows(5).any(|bytes| bytes.eq_ignore_ascii_case(b"HTTP/")) {
            let why = "HTTP on a connection that was said to be opaque";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let is_over = start + line.len() < first.len();
        if !is_over && first.len() >= LONGEST_LINE && (line.is_empty() || begins_like_a_request(line)) {
            let why = "a first line as long as only a request for HTTP would be";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        if is_over || first.len() >= LONGEST_LINE {
            self.first = None;
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NotHttp<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let result = self.watch(buf.filled().get(before..).unwrap_or_default());
        if result.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NotHttp<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const TLS_HANDSHAKE: u8 = 0x16;
/// RFC 9113 §3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const LONGEST_METHOD: usize = 24;
/// Two empty lines.
const MOST_BLANKS: usize = 4;
/// As long as a request line may be that is still recognised without a declared protocol.
const LONGEST_LINE: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

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
            let (detected, _, server, _, is_called) =
                heard(Duration::ZERO, bytes, Some(b"220 hello\r\n")).await;
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
}
