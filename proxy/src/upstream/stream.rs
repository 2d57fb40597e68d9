//! Streams to and through upstreams. A [`Stream`] can be severed from elsewhere, whoever holds it; [`carry`] copies
//! bytes both ways and counts them, and ends a broken or cancelled connection as broken, never as complete.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use rustls::client::UnbufferedClientConnection;
use sidegate_codes::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::copy::both_ways;
use crate::{
    balance::ConnectionSlot,
    error::Error,
    mux,
    snapshot::{ALPN_MANY_HTTP1, ALPN_MANY_TCP},
    tls::Originated,
    transport::{Resets, Transport},
};

/// A connected stream to an upstream.
#[derive(Debug)]
pub(crate) struct Stream {
    io: Transport<UnbufferedClientConnection>,
    severed: Arc<Severed>,
    /// Says that the stream is gone.
    closed: DropGuard,
    /// Its place among the connections of its service, for as long as it is there.
    _slot: Option<ConnectionSlot>,
}

/// Severs a [`Stream`], whoever holds it.
#[derive(Debug)]
pub(crate) struct Cut {
    severed: Arc<Severed>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Severed {
    is_severed: AtomicBool,
    /// Whoever waits to read: every connection has somebody who does.
    reader: AtomicWaker,
}

/// Bytes so far, readable while the copy runs and after it was cancelled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried {
    /// From downstream.
    pub(crate) received: Rc<Cell<u64>>,
    /// To downstream.
    pub(crate) sent: Rc<Cell<u64>>,
}

impl Carried {
    pub(super) fn add_received(&self, bytes: usize) {
        add(&self.received, bytes);
    }

    pub(super) fn add_sent(&self, bytes: usize) {
        add(&self.sent, bytes);
    }

    /// Ends when no byte has passed either way for `limit`, to within a quarter of it.
    pub(crate) async fn until_idle(&self, limit: Duration) -> Error {
        let total = || self.received.get().saturating_add(self.sent.get());
        let (mut before, mut quiet) = (total(), 0);
        while quiet < QUARTERS {
            tokio::time::sleep(limit / QUARTERS).await;
            let now = total();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
        Error::expired(Code::IdleTimeout, "limits.opaqueIdleTimeout")
    }
}

/// Copies until both directions have ended. A half that closes closes the other's half alone, so protocols that
/// half-close keep working. Dropped or failed before, both sides are reset: a cut must not look like an end.
#[expect(
    clippy::manual_async_fn,
    reason = "that would have room for its arguments twice, even while they are silent"
)]
pub(super) fn carry<D, U>(
    mut downstream: D,
    mut upstream: U,
    carried: &Carried,
) -> impl Future<Output = io::Result<()>>
where
    D: AsyncRead + AsyncWrite + Resets + Unpin,
    U: AsyncRead + AsyncWrite + Resets + Unpin,
{
    async move {
        downstream.resets_on_close(true)?;
        upstream.resets_on_close(true)?;
        both_ways(&mut downstream, &mut upstream, carried).await?;
        downstream.resets_on_close(false)?;
        upstream.resets_on_close(false)
    }
}

/// The same for a tunnel inside of the downstream's HTTP, whose socket is out of reach: there a cut is told by its
/// protocol, in HTTP/1.1 by an end alone.
pub(super) async fn carry_tunnel<D, U>(
    mut downstream: D,
    mut upstream: U,
    carried: &Carried,
) -> io::Result<()>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Resets + Unpin,
{
    upstream.resets_on_close(true)?;
    both_ways(&mut downstream, &mut upstream, carried).await?;
    upstream.resets_on_close(false)
}

/// The same for two streams that were HTTP until both sides agreed on another protocol.
pub(crate) async fn carry_upgraded<D, U>(
    mut downstream: D,
    mut upstream: U,
    carried: &Carried,
) -> io::Result<()>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    both_ways(&mut downstream, &mut upstream, carried).await
}

impl Stream {
    /// To the local application.
    pub(super) fn plain(tcp: TcpStream) -> Self {
        Self::new(Transport::Plain(tcp))
    }

    /// To a peer.
    pub(super) fn tls(stream: Originated) -> Self {
        Self::new(Transport::Tls(stream))
    }

    /// One of many over a link to a peer.
    pub(super) fn shared(stream: mux::Stream) -> Self {
        Self::new(Transport::Shared(stream))
    }

    /// Whether it is one of many.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.io, Transport::Shared(_))
    }

    /// Whether the peer has agreed that it is a link for many streams.
    pub(super) fn is_link(&self) -> bool {
        let Transport::Tls(stream) = &self.io else { return false };
        matches!(stream.agreed().alpn_protocol(), Some(ALPN_MANY_HTTP1 | ALPN_MANY_TCP))
    }

    /// Whether the peer has said that it takes no more on the link that this is a stream of.
    pub(super) fn is_left(&self) -> bool {
        matches!(&self.io, Transport::Shared(stream) if stream.is_left())
    }

    fn new(io: Transport<UnbufferedClientConnection>) -> Self {
        Self { io, severed: Arc::default(), closed: CancellationToken::new().drop_guard(), _slot: None }
    }

    /// The same, which holds `slot` until it is gone.
    pub(super) fn counted(self, slot: Option<ConnectionSlot>) -> Self {
        Self { _slot: slot, ..self }
    }

    /// The means to sever it.
    pub(super) fn cut(&self) -> Cut {
        Cut { severed: Arc::clone(&self.severed), closed: self.closed.token().clone() }
    }
}

impl Cut {
    /// From now on every read and write fails.
    pub(super) fn sever(&self) {
        self.severed.is_severed.store(true, Ordering::Release);
        self.severed.reader.wake();
    }

    /// Ends when the stream is gone.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl Severed {
    fn check(&self) -> io::Result<()> {
        if self.is_severed.load(Ordering::Acquire) {
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, "severed: the peer is trusted no longer"))
        } else {
            Ok(())
        }
    }
}

impl Resets for Stream {
    fn resets_on_close(&self, resets: bool) -> io::Result<()> {
        self.io.resets_on_close(resets)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Registered first: a cut in between is then seen by the check.
        this.severed.reader.register(cx.waker());
        this.severed.check()?;
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.severed.check()?;
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.severed.check()?;
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

fn add(count: &Cell<u64>, bytes: usize) {
    count.set(count.get().saturating_add(bytes as u64));
}

/// Looks at an opaque connection in the time that it may be quiet.
const QUARTERS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_no_byte_has_passed_for_as_long_as_it_may() {
        let carried = Carried::default();
        let limit = Duration::from_mins(1);
        let begun = tokio::time::Instant::now();
        let busy = async {
            for _ in 0..5 {
                tokio::time::sleep(limit / 2).await;
                add(&carried.sent, 1);
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            () = busy => unreachable!("it never ends"),
            error = carried.until_idle(limit) => error,
        };
        assert_eq!(error.code(), Code::IdleTimeout);
        let idle = begun.elapsed().saturating_sub(limit / 2 * 5);
        assert!(idle >= limit && idle <= limit + limit / 4, "{idle:?}");
    }
}
