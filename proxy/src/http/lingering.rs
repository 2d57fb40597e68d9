//! Ends an HTTP/1 connection so that its last answer is heard (RFC 9112 §9.6). Takes a downstream stream; a server that
//! closes while request bytes are still under way has its kernel answer them with a reset, and a reset makes the
//! client's kernel forget what the client has not read yet. So this side is closed first, and what still comes is read
//! and forgotten until the client has closed too, or has had its time.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

pin_project! {
    /// A stream whose shutdown waits for the other side.
    #[derive(Debug)]
    pub(super) struct Lingering<S> {
        #[pin]
        stream: S,
        // Begins when this side is closed. Boxed: connections live without it for most of their time.
        deadline: Option<Pin<Box<Sleep>>>,
        is_tunnel: Arc<AtomicBool>,
    }
}

/// Says of a [`Lingering`] stream, whoever holds it, that what it carries is HTTP no longer.
#[derive(Clone, Debug)]
pub(super) struct Tunnel(Arc<AtomicBool>);

impl<S> Lingering<S> {
    /// Over `stream`.
    pub(super) fn new(stream: S) -> (Self, Tunnel) {
        let is_tunnel = Arc::new(AtomicBool::new(false));
        (Self { stream, deadline: None, is_tunnel: Arc::clone(&is_tunnel) }, Tunnel(is_tunnel))
    }

    /// The stream below.
    pub(super) fn below_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl Tunnel {
    /// From now on each half of the stream ends by itself, and nothing is forgotten.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S: AsyncRead> AsyncRead for Lingering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite> AsyncWrite for Lingering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if this.deadline.is_none() {
            ready!(this.stream.as_mut().poll_shutdown(cx))?;
        }
        if this.is_tunnel.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut forgotten = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut forgotten);
            // However the other side ends: it has had its answer, or wants none.
            if ready!(this.stream.as_mut().poll_read(cx, &mut buf)).is_err() || buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// For the client to read the answer and to close; below any drain timeout that is of use.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_client_still_sends_is_read_until_it_closes() {
        let (mut client, server) = tokio::io::duplex(16);
        let (mut server, _) = Lingering::new(server);
        server.write_all(b"answer").await.unwrap();
        let begun = Instant::now();
        let sending = async {
            // More than the pipe holds: it gets through only if it is read.
            client.write_all(&[7; 1000]).await.unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            drop(client);
            heard
        };
        let (closed, heard) = tokio::join!(server.shutdown(), sending);
        closed.unwrap();
        assert_eq!(heard, b"answer");
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_closes_is_not_waited_for_forever() {
        let (_client, server) = tokio::io::duplex(16);
        let begun = Instant::now();
        Lingering::new(server).0.shutdown().await.unwrap();
        assert!((LINGER..LINGER * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_is_half_closed_still_reads() {
        let (mut client, server) = tokio::io::duplex(16);
        let (mut server, tunnel) = Lingering::new(server);
        tunnel.begin();
        client.write_all(b"last words").await.unwrap();
        let begun = Instant::now();
        server.shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let mut words = [0; 10];
        server.read_exact(&mut words).await.unwrap();
        assert_eq!(&words, b"last words");
    }
}
