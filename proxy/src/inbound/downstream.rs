//! What comes in, one way or another: bytes both ways, whoever carries them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{mux, tls::Terminated, upstream::Resets};

/// One connection, or what is like one.
#[derive(Debug)]
pub(super) enum Downstream {
    /// Without TLS.
    Plain(TcpStream),
    /// TLS that was ended here.
    Tls(Terminated),
    /// A stream of a link.
    Shared(mux::Stream),
}

macro_rules! each {
    ($this:expr, $stream:ident => $what:expr) => {
        match $this {
            Downstream::Plain($stream) => $what,
            Downstream::Tls($stream) => $what,
            Downstream::Shared($stream) => $what,
        }
    };
}

impl Resets for Downstream {
    fn resets_on_close(&self, resets: bool) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.resets_on_close(resets),
            Self::Tls(stream) => stream.resets_on_close(resets),
            // It is reset unless both sides have ended it.
            Self::Shared(_) => Ok(()),
        }
    }
}

impl AsyncRead for Downstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Downstream {
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
