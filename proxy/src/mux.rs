//! Many streams over one connection between two sidecars, so that what many callers say at once takes one write, one record and one
//! system call. Takes a TLS stream whose ALPN has agreed on it; hands on streams that carry HTTP/1.1 like a connection of their own.
//! Refuses, with the whole link, whatever breaks the protocol, a window, or the bounds of what is no part of a stream.
//!
//! The frames are yamux' (<https://github.com/hashicorp/yamux/blob/master/spec.md>). Each stream has a window of its own, so that one
//! whose reader is slow holds up no other.

mod channel;
mod frame;
mod state;
mod stream;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::{config::Limits, scratch};
use state::State;

pub use stream::Stream;

/// One link, which has to be driven for its streams to go on.
#[derive(Debug)]
pub struct Link<T> {
    transport: T,
    state: Rc<RefCell<State>>,
    pulse: Interval,
    idle: Duration,
    idle_since: Option<Instant>,
}

/// Opens streams of a link that somebody drives.
#[derive(Clone, Debug)]
pub(crate) struct Opener(Rc<RefCell<State>>);

/// Who has connected opens the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Opens streams, and takes none.
    Client,
    /// Takes streams, and opens none.
    Server,
}

/// What the other side may do.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Per second, frames that are no part of a stream.
    control_frames: u32,
    /// Per second, streams that are reset.
    stream_resets: u32,
    /// How long a link may have no stream.
    idle: Duration,
}

/// Why a link ended other than in order.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// What no version of the protocol has, or no window takes.
    #[error("{0}")]
    Protocol(&'static str),
    /// Pings, windows and empty frames.
    #[error("limits.controlFrames: more frames that are no part of a stream than that")]
    Control,
    /// By whoever was told to open no more.
    #[error("limits.streamResets: more streams reset than that")]
    Resets,
    /// More answers wait than a peer leaves that means well.
    #[error("it asks, and takes no answers")]
    Deaf,
    /// Nothing comes.
    #[error("it is silent when asked whether it is there")]
    Silent,
    /// In order by the transport, and not by the link.
    #[error("the connection ended under its streams")]
    Truncated,
    /// The transport broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Side {
    fn first(self) -> u32 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }
}

impl Bounds {
    /// `idle`: how long a link may have no stream.
    pub fn of(limits: &Limits, idle: Duration) -> Self {
        Self { control_frames: limits.control_frames, stream_resets: limits.stream_resets, idle }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Link<T> {
    /// Over `transport`, on which nothing was said.
    pub fn new(transport: T, side: Side, bounds: Bounds) -> Self {
        let mut pulse = interval_at(Instant::now() + PULSE, PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let state = Rc::new(RefCell::new(State::new(side, bounds)));
        Self { transport, state, pulse, idle: bounds.idle, idle_since: None }
    }

    /// What opens streams of it.
    pub(crate) fn opener(&self) -> Opener {
        Opener(Rc::clone(&self.state))
    }

    /// Takes no more streams: when the last is over, so is the link.
    pub fn go_away(&self) {
        self.state.borrow_mut().go_away();
    }

    /// Drives the link until the other side opens a stream; `None` when it has ended in order.
    pub async fn next(&mut self) -> Result<Option<Stream>, Broken> {
        let next = poll_fn(|cx| self.poll_next(cx)).await;
        let Err(broken) = next else { return next };
        self.refuse(&broken).await;
        // Without streams, however a connection ends is an end in order.
        let is_of_nobody = matches!(broken, Broken::Io(_)) && self.state.borrow().count() == 0;
        if is_of_nobody { Ok(None) } else { Err(broken) }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Stream>, Broken>> {
        if let Some(arrived) = self.arrived() {
            return Poll::Ready(Ok(Some(arrived)));
        }
        self.state.borrow_mut().driven_by(cx.waker());
        while self.pulse.poll_tick(cx).is_ready() {
            self.look_after()?;
        }
        let has_ended = self.poll_receive(cx)?;
        let sent = self.poll_send(cx)?;
        if let Some(arrived) = self.arrived() {
            return Poll::Ready(Ok(Some(arrived)));
        }
        if has_ended {
            let is_idle = self.state.borrow().count() == 0;
            return Poll::Ready(if is_idle { Ok(None) } else { Err(Broken::Truncated) });
        }
        if !self.state.borrow().is_over() {
            return Poll::Pending;
        }
        ready!(sent);
        // However that ends: nothing is left to be said.
        Pin::new(&mut self.transport).poll_shutdown(cx).map(|_| Ok(None))
    }

    /// What the other side has opened and nobody has taken yet.
    fn arrived(&self) -> Option<Stream> {
        let arrived = self.state.borrow_mut().arrived()?;
        Some(Stream::new(arrived, &self.state))
    }

    /// Reads what there is; whether that was the last. Also while nothing can be sent: the other side may wait for that in turn, and
    /// each stream takes no more than its window.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        for _ in 0..MOST_READS {
            let (transport, state) = (&mut self.transport, &self.state);
            let came = scratch::lend(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(transport).poll_read(cx, &mut buf))?;
                state.borrow_mut().receive(buf.filled())?;
                Poll::Ready(Ok::<_, Broken>(buf.filled().len()))
            });
            let Poll::Ready(came) = came else { return Ok(false) };
            if came? == 0 {
                return Ok(true);
            }
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        while !state.unsent().is_empty() {
            let count = ready!(Pin::new(&mut self.transport).poll_write(cx, state.unsent()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.sent(count);
        }
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Now and then: is the other side there, and does anybody need the link?
    fn look_after(&mut self) -> Result<(), Broken> {
        let mut state = self.state.borrow_mut();
        state.rest();
        if state.ping() >= MOST_SILENT {
            return Err(Broken::Silent);
        }
        if state.count() > 0 {
            self.idle_since = None;
        } else if self.idle_since.get_or_insert_with(Instant::now).elapsed() >= self.idle {
            state.go_away();
        }
        Ok(())
    }

    /// Says so to whoever broke the protocol, if it still listens.
    async fn refuse(&mut self, broken: &Broken) {
        let kind = match broken {
            Broken::Io(error) => error.kind(),
            Broken::Truncated => io::ErrorKind::UnexpectedEof,
            Broken::Protocol(_) | Broken::Control | Broken::Resets | Broken::Deaf | Broken::Silent => {
                self.state.borrow_mut().refuse();
                // Once: a side that takes nothing is not waited for.
                let _ = poll_fn(|cx| Poll::Ready(self.poll_send(cx))).await;
                io::ErrorKind::ConnectionReset
            }
        };
        self.state.borrow_mut().end(kind);
    }
}

impl<T> Drop for Link<T> {
    fn drop(&mut self) {
        self.state.borrow_mut().end(io::ErrorKind::ConnectionReset);
    }
}

impl Opener {
    /// A new stream, unless either side takes no more.
    pub(crate) fn open(&self) -> Option<Stream> {
        let opened = self.0.borrow_mut().open()?;
        Some(Stream::new(opened, &self.0))
    }

    /// Opens no more: when the last is over, so is the link.
    pub(crate) fn go_away(&self) {
        self.0.borrow_mut().go_away();
    }

    /// Whether it may be asked for streams.
    pub(crate) fn is_open(&self) -> bool {
        self.0.borrow().is_open()
    }

    /// Those that are open.
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().count()
    }
}

/// How often a link is looked after.
const PULSE: Duration = Duration::from_secs(10);
/// Pulses that the other side may let pass without a word.
const MOST_SILENT: u32 = 2;
/// In one turn, before others have theirs.
const MOST_READS: usize = 8;

#[cfg(test)]
mod tests;
