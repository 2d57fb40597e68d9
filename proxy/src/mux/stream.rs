//! One stream of a link, as whoever speaks on it sees it: bytes both ways, each with an end of its own. Dropped before both have
//! ended, it is reset.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{channel::Channel, state::State};

/// One stream.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    channel: Rc<RefCell<Channel>>,
    link: Rc<RefCell<State>>,
}

impl Stream {
    pub(super) fn new((id, channel): (u32, Rc<RefCell<Channel>>), link: &Rc<RefCell<State>>) -> Self {
        Self { id, channel, link: Rc::clone(link) }
    }

    /// Whether the other side has said that its link takes no more: what begins on it now may not be answered.
    pub(crate) fn is_left(&self) -> bool {
        self.link.borrow().is_left()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut channel = self.channel.borrow_mut();
        match channel.broken {
            // A cut: nothing is read behind it.
            Some(io::ErrorKind::ConnectionAborted) => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            Some(kind) if channel.incoming.is_empty() && !channel.has_ended => {
                return Poll::Ready(Err(kind.into()));
            }
            _ => {}
        }
        let count = channel.incoming.len().min(buf.remaining());
        if count == 0 {
            if channel.has_ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            channel.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        buf.put_slice(&channel.incoming[..count]);
        if count == channel.incoming.len() {
            // Whoever is silent holds no buffer.
            channel.incoming = BytesMut::new();
        } else {
            channel.incoming.advance(count);
        }
        self.link.borrow_mut().read(self.id, &mut channel, count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    /// What is written is gathered for the link, which has nothing to be flushed.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.channel.borrow().broken.map_or(Ok(()), |kind| Err(kind.into())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.borrow_mut().shut(self.id, &mut self.channel.borrow_mut());
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut channel = self.channel.borrow_mut();
        if let Some(kind) = channel.broken {
            return Poll::Ready(Err(kind.into()));
        }
        if channel.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Some(count) = self.link.borrow_mut().send(self.id, &mut channel, bufs) {
            return Poll::Ready(Ok(count));
        }
        channel.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.link.borrow_mut().forget(self.id, &self.channel.borrow());
    }
}
