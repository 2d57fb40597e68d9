//! Carries bytes between two streams in both directions until both have ended, and counts them. A half that closes
//! closes the other's half alone, so protocols that half-close keep working.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

/// Bytes so far, readable while the copy runs and after it was cancelled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried {
    /// From downstream.
    pub(crate) received: Rc<Cell<u64>>,
    /// To downstream.
    pub(crate) sent: Rc<Cell<u64>>,
}

/// Copies until both directions have ended.
pub(super) async fn carry<D, U>(downstream: D, mut upstream: U, carried: &Carried) -> io::Result<()>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut downstream = Counting {
        stream: downstream,
        carried: carried.clone(),
    };
    copy_bidirectional(&mut downstream, &mut upstream)
        .await
        .map(|_| ())
}

struct Counting<S> {
    stream: S,
    carried: Carried,
}

fn add(count: &Cell<u64>, bytes: usize) {
    count.set(count.get().saturating_add(bytes as u64));
}

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        add(&self.carried.received, buf.filled().len().saturating_sub(before));
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &result {
            add(&self.carried.sent, *bytes);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
