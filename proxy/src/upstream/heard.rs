//! Hears an HTTP/1 server out. Takes the stream to an upstream; a server may answer and close before it has read the
//! request (413, 401), and then a write fails while the answer waits to be read. Here such a write succeeds into the void,
//! and reading tells how the connection ended: by an answer, or not. Whether any byte of an answer has come is told too.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pin_project! {
    /// A stream that can be read to its end whatever becomes of the writes.
    #[derive(Debug)]
    pub(super) struct Heard<S> {
        #[pin]
        stream: S,
        // Nothing more arrives there. The other direction ends soon: a write fails so only after a reset.
        is_deaf: bool,
        has_begun: bool,
    }
}

impl<S> Heard<S> {
    /// Over `stream`.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, is_deaf: false, has_begun: false }
    }

    /// A request is about to be sent.
    pub(super) fn forget(&mut self) {
        self.has_begun = false;
    }

    /// Whether a byte has come since.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether nothing that is written arrives any more.
    pub(super) fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    /// The stream below.
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The same, and nothing else.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead> AsyncRead for Heard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        ready!(this.stream.poll_read(cx, buf))?;
        if buf.filled().len() > before {
            *this.has_begun = true;
        } else if *this.is_deaf && buf.remaining() > 0 {
            // The failed write has used the kernel's error up, so the reset looks like an end in order.
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite> AsyncWrite for Heard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        if *this.is_deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(this.stream.poll_write(cx, buf));
        Poll::Ready(unless_deaf(written, buf.len(), this.is_deaf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if *this.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(this.stream.poll_flush(cx));
        Poll::Ready(unless_deaf(flushed, (), this.is_deaf))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if *this.is_deaf { Poll::Ready(Ok(())) } else { this.stream.poll_shutdown(cx) }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if *this.is_deaf {
            return Poll::Ready(Ok(length));
        }
        let written = ready!(this.stream.poll_write_vectored(cx, bufs));
        Poll::Ready(unless_deaf(written, length, this.is_deaf))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A cut (`ConnectionAborted`) stays an error: nothing may be read after it either.
fn unless_deaf<T>(result: io::Result<T>, swallowed: T, is_deaf: &mut bool) -> io::Result<T> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            *is_deaf = true;
            Ok(swallowed)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A connection whose server has said `answer` and has reset it, with unread bytes on its side.
    async fn reset_after(answer: &[u8]) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(answer).await.unwrap();
        SockRef::from(&server).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(server);
        client
    }

    #[tokio::test]
    async fn an_answer_is_heard_though_writing_has_failed() {
        let mut raw = reset_after(b"413").await;
        let failed = raw.write_all(b"body").await.unwrap_err();
        assert!(matches!(failed.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset));

        let mut stream = Heard::new(reset_after(b"413").await);
        stream.write_all(b"body").await.unwrap();
        stream.flush().await.unwrap();
        assert!(!stream.has_begun());
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"413");
        assert!(stream.has_begun());
        let end = stream.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset, "and what follows is not an end in order");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_still_a_broken_one() {
        let mut stream = Heard::new(reset_after(b"").await);
        stream.write_all(b"body").await.unwrap();
        stream.read(&mut [0; 3]).await.unwrap_err();
        assert!(!stream.has_begun());
    }
}
