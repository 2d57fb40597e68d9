//! Opaque bytes, watched: ends a connection that was said to carry anything but HTTP when it names HTTP after all.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::first_line::{LONGEST_LINE, begins_like_a_request};

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

    /// Refuses a first line that names HTTP before the name is handed on: wider than [`super::classify`], because servers
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
