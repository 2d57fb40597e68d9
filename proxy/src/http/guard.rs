//! Stands between a downstream connection and whoever parses its messages, and looks at the raw bytes. Hands them on unchanged,
//! and refuses what a parser would repair or put up with in silence. What it sees is in a `Wire`, which `serve` reads: the
//! reason of a refusal, which no parser knows, and whether the connection makes progress.

mod frames;
pub mod framing;
mod wire;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frames::{Flood, Frames};
use framing::{Fault, Refused, Scanner};

pub(crate) use wire::{Refusal, Wire};

use crate::config::Limits;

/// A guarded downstream connection.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    scan: Scan,
    wire: Arc<Wire>,
    /// After a refusal nothing more of the stream is read.
    end: Option<End>,
}

/// How reading ends after a refusal.
#[derive(Clone, Copy, Debug)]
enum End {
    /// In a head: what is left of [`POISON`], and then nothing.
    Poison(&'static [u8]),
    /// In a body: whoever reads it must not take it for complete.
    Error(Fault),
}

#[derive(Debug)]
enum Scan {
    Http1(Scanner),
    Http2(Frames),
}

impl<S> Guarded<S> {
    /// Carries HTTP/1.0 or HTTP/1.1.
    pub(crate) fn http1(stream: S) -> Self {
        let scanner = Scanner::new();
        let wire = Wire::default();
        wire.see(&scanner);
        wire.flushed(true);
        Self { stream, scan: Scan::Http1(scanner), wire: Arc::new(wire), end: None }
    }

    /// Carries HTTP/2.
    pub(crate) fn http2(stream: S, limits: &Limits) -> Self {
        let frames = Frames::new(limits.control_frames, limits.stream_resets, Instant::now());
        Self { stream, scan: Scan::Http2(frames), wire: Arc::default(), end: None }
    }

    /// What is seen of it.
    pub(crate) fn wire(&self) -> Arc<Wire> {
        Arc::clone(&self.wire)
    }

    /// The stream below. What is read of it is not looked at.
    pub(super) fn below_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Looks at what was read into `buf` from `before` on.
    fn look(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let read = buf.filled().get(before..).unwrap_or_default();
        let scanner = match &mut self.scan {
            Scan::Http1(scanner) => scanner,
            Scan::Http2(frames) => {
                let result = frames.received(read, Instant::now);
                return result.map_err(|flood| self.refuse_flood(flood));
            }
        };
        let result = scanner.read(read);
        self.wire.see(scanner);
        let Err(Refused { at, fault }) = result else { return Ok(()) };
        let is_in_head = scanner.is_in_head() || scanner.is_between();
        buf.set_filled(before + at);
        self.wire.refuse(Refusal::of(fault, is_in_head));
        self.end = Some(if is_in_head { End::Poison(POISON) } else { End::Error(fault) });
        // What came before the fault is good, and an empty read would say that the connection ended in order.
        if buf.filled().len() > before { Ok(()) } else { self.finish(buf) }
    }

    /// Counts what was written of `bufs`: `written` bytes in all.
    fn wrote(&mut self, bufs: &[io::IoSlice<'_>], written: usize) -> io::Result<()> {
        let Scan::Http2(frames) = &mut self.scan else {
            self.wire.wrote(Some(written as u64));
            return Ok(());
        };
        // Of HTTP/2 only DATA is progress: a peer without a window still answers pings.
        self.wire.wrote(Some(0));
        let mut left = written;
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or_default();
            left -= part.len();
            let wire = &self.wire;
            if let Err(flood) = frames.sent(part, Instant::now, |said| wire.hear(said)) {
                return Err(self.refuse_flood(flood));
            }
        }
        Ok(())
    }

    fn refuse_flood(&self, flood: Flood) -> io::Error {
        self.wire.refuse(Refusal::flood(flood));
        io::Error::new(io::ErrorKind::InvalidData, flood)
    }

    /// What is read after a refusal.
    fn finish(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        match &mut self.end {
            None => {}
            Some(End::Error(fault)) => return Err(io::Error::new(io::ErrorKind::InvalidData, *fault)),
            Some(End::Poison(left)) => {
                let (now, later) = left.split_at(left.len().min(buf.remaining()));
                buf.put_slice(now);
                *left = later;
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.end.is_some() {
            return Poll::Ready(this.finish(buf));
        }
        if let Scan::Http1(scanner) = &mut this.scan
            && scanner.is_undecided()
            && let Some(is_tunnel) = this.wire.decision()
        {
            scanner.decide(is_tunnel);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.look(buf, before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.wire.flushed(matches!(flushed, Poll::Ready(Ok(()))));
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.wire.close();
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.wire.flushed(false);
        let Poll::Ready(written) = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs) else {
            this.wire.wrote(None);
            return Poll::Pending;
        };
        let written = written?;
        this.wrote(bufs, written)?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// No byte of a head, and the end of one: without it more would be waited for.
const POISON: &[u8] = b"\0\r\n\r\n";

#[cfg(test)]
mod tests;
