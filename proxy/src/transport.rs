//! What carries a connection, one way or another: bytes both ways, and an end that is told apart from a cut. The same for what comes in
//! and for what goes out.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    detect::{NotHttp, Rewound},
    mux,
    tls::{Session, TlsStream},
};

/// One connection, or what is like one. `S`: this side's end of TLS.
pub(crate) enum Transport<S> {
    /// Without TLS.
    Plain(TcpStream),
    /// On the heap: it is more than a kilobyte, and each step of the path would hold another.
    Tls(Box<TlsStream<S>>),
    /// A stream of a link.
    Shared(mux::Stream),
}

/// A stream whose end can be told apart: closed in order, or reset.
pub(crate) trait Resets {
    /// Whether it is reset when it is dropped. Else it is then closed in order.
    fn resets_on_close(&self, resets: bool) -> io::Result<()>;
}

macro_rules! each {
    ($this:expr, $stream:ident => $what:expr) => {
        match $this {
            Transport::Plain($stream) => $what,
            Transport::Tls($stream) => $what,
            Transport::Shared($stream) => $what,
        }
    };
}

impl Resets for TcpStream {
    fn resets_on_close(&self, resets: bool) -> io::Result<()> {
        SockRef::from(self).set_linger(resets.then_some(Duration::ZERO))
    }
}

impl<S: Session> Resets for Transport<S> {
    fn resets_on_close(&self, resets: bool) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.resets_on_close(resets),
            Self::Tls(stream) => stream.tcp().resets_on_close(resets),
            // It is reset unless both sides have ended it.
            Self::Shared(_) => Ok(()),
        }
    }
}

impl<S: Resets> Resets for Rewound<S> {
    fn resets_on_close(&self, resets: bool) -> io::Result<()> {
        self.get_ref().resets_on_close(resets)
    }
}

impl<S: Resets> Resets for NotHttp<S> {
    fn resets_on_close(&self, resets: bool) -> io::Result<()> {
        self.get_ref().resets_on_close(resets)
    }
}

impl<S: Session> AsyncRead for Transport<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl<S: Session> AsyncWrite for Transport<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }
}

impl<S> fmt::Debug for Transport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        each!(self, stream => fmt::Debug::fmt(stream, f))
    }
}
