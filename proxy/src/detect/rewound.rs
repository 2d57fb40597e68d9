//! A stream whose first bytes were looked at: whoever gets it reads them again, and none is lost.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::timeout,
};

use crate::error::Error;

/// A stream whose first bytes have been read, and are read again.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    pub(super) first: Vec<u8>,
    pub(super) stream: S,
}

impl<S> Rewound<S> {
    /// A stream of which nothing was read.
    pub(crate) fn fresh(stream: S) -> Self {
        Self::new(Vec::new(), stream)
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

    /// Ready when there is something to read: a byte, or the end.
    pub(crate) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.first.is_empty() {
            let mut bytes = [0; 512];
            let mut buf = ReadBuf::new(&mut bytes);
            // A stream that has failed has ended for whoever reads it again.
            if ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)).is_ok() {
                self.first.extend_from_slice(buf.filled());
            }
        }
        Poll::Ready(())
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
