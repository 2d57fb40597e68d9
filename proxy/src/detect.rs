//! What a connection carries, from its first bytes. Takes an accepted connection, hands it on with nothing lost, and
//! refuses silence where bytes are owed. [`classify`] is pure and gives the same answer for every split of the bytes.

pub mod client_hello;
mod first_line;
mod not_http;
mod rewound;

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};

pub use first_line::classify;
pub(crate) use not_http::NotHttp;
pub(crate) use rewound::Rewound;

use client_hello::{BadHello, ClientHello};

use crate::error::Error;

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

/// What the first byte of an inbound connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// A TLS handshake.
    Tls,
    /// Anything else; the byte.
    Other(u8),
}

/// What the first bytes of either side said.
#[derive(Debug)]
pub(crate) struct Heard<S, U> {
    pub(crate) detected: Detected,
    pub(crate) downstream: Rewound<S>,
    /// The upstream that was connected in case it spoke first, with what it has said.
    pub(crate) upstream: Option<Rewound<U>>,
}

/// Waits for the first byte of an inbound connection: it should begin a TLS handshake record (RFC 8446 §5.1), and what does
/// is TLS to everybody from here on.
pub(crate) async fn first(tcp: &TcpStream, limit: Duration) -> Result<First, Error> {
    let mut first = [0];
    match timeout(limit, tcp.peek(&mut first)).await {
        Err(_) => Err(Error::DetectTimeout),
        Ok(Err(error)) => Err(Error::Downstream(error.to_string())),
        Ok(Ok(0)) => Err(Error::Downstream("closed before its first byte".to_owned())),
        Ok(Ok(_)) if first == [TLS_HANDSHAKE] => Ok(First::Tls),
        Ok(Ok(_)) => Ok(First::Other(first[0])),
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
    Ok((detected, Rewound::new(first, stream)))
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

const TLS_HANDSHAKE: u8 = 0x16;

#[cfg(test)]
mod tests;
