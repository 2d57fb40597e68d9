//! Opens connections: a destination in, a connected stream and its proven peer out, within the connect timeout.

use std::{
    hash::{Hash, Hasher},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ClientConfig;
use sidegate_codes::Code;
use sidegate_identity::Usage;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{
    config::Forward,
    error::Error,
    identity::Peer,
    snapshot::{PeerTls, Reader},
    tls,
};

/// Where a connection leads. Two are equal only if one connection may serve both, compared in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The local application.
    App(Forward),
    /// A sidecar, under one generation of credentials and trust and one set of identities.
    Peer { address: SocketAddr, tls: PeerTls },
}

/// What a connection will carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Carries {
    Http1,
    Http2,
    Tcp,
}

/// A connected stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects to `destination` and, if it is a peer, verifies who answers.
pub(crate) async fn dial(
    destination: &Destination,
    carries: Carries,
    limit: Duration,
    trust: &Reader,
) -> Result<(Stream, Option<Arc<Peer>>), Error> {
    match timeout(limit, connect(destination, carries, trust)).await {
        Ok(result) => result,
        Err(_) => Err(Error::Upstream {
            code: Code::UpstreamUnreachable,
            detail: format!("{destination} did not accept a connection in time"),
        }),
    }
}

async fn connect(
    destination: &Destination,
    carries: Carries,
    trust: &Reader,
) -> Result<(Stream, Option<Arc<Peer>>), Error> {
    match destination {
        Destination::App(forward) => {
            let tcp = TcpStream::connect((forward.host(), forward.port())).await;
            Ok((Stream::Plain(tuned(tcp, destination)?), None))
        }
        Destination::Peer { address, tls } => {
            let tcp = tuned(TcpStream::connect(address).await, destination)?;
            let stream = tls::originate(tcp, config(tls, carries))
                .await
                .map_err(|error| as_upstream(&error, *address))?;
            let certificates = stream.get_ref().1.peer_certificates();
            let peer = Peer::of(certificates, Usage::Server, &trust.load().trust)?;
            Ok((Stream::Tls(Box::new(stream)), Some(Arc::new(peer))))
        }
    }
}

fn config(tls: &PeerTls, carries: Carries) -> Arc<ClientConfig> {
    Arc::clone(match carries {
        Carries::Http1 => &tls.http1,
        Carries::Http2 => &tls.http2,
        Carries::Tcp => &tls.tcp,
    })
}

/// Requests are small and answers are awaited: nothing waits for a fuller packet.
fn tuned(tcp: io::Result<TcpStream>, destination: &Destination) -> Result<TcpStream, Error> {
    let unreachable = |error: io::Error| Error::Upstream {
        code: Code::UpstreamUnreachable,
        detail: format!("{destination}: {error}"),
    };
    let tcp = tcp.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    Ok(tcp)
}

fn as_upstream(error: &Error, address: SocketAddr) -> Error {
    Error::Upstream {
        code: error.code(),
        detail: format!("{address}: {error}"),
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::App(forward) => forward.fmt(f),
            Self::Peer { address, .. } => address.fmt(f),
        }
    }
}

impl Hash for Destination {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::App(forward) => forward.port().hash(state),
            Self::Peer { address, tls } => (address, tls.generation).hash(state),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
