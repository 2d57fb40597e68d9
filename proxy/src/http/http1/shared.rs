//! What the serving of a connection and the body of its request share: the stream, and how far it was read. Borrowed for one
//! poll at a time, since the body may be read by another task.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Body, Downstream, Ended,
    body::Source,
    head::{self, Asked, Head},
};
use crate::{
    detect::Rewound,
    message::{Broken, Incoming, Most},
    upstream::Duplex,
};

/// One connection.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is known of either direction, none of which follows from another"
)]
pub(super) struct Shared<S> {
    /// `None`: a tunnel's.
    stream: Option<Downstream<S>>,
    incoming: Incoming,
    /// What is left to be sent of a 100, once the body that waits for it is asked for (RFC 9110 §10.1.1).
    interim: &'static [u8],
    /// Somebody may still read the body of the request.
    has_reader: bool,
    /// The body of the request broke off, or was given up: nothing more is read.
    is_given_up: bool,
    /// It takes no more requests.
    is_closing: bool,
    /// Between two requests, and nothing of the next was read.
    is_silent: bool,
    /// Whoever waits for the body to be read or given up.
    waiting: Option<Waker>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Shared<S> {
    pub(super) fn new(stream: Downstream<S>, most: Most) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            stream: Some(stream),
            incoming: Incoming::new(most),
            interim: b"",
            has_reader: false,
            is_given_up: false,
            is_closing: false,
            is_silent: true,
            waiting: None,
        }))
    }

    /// A request begins, of which the head is there. Its body, if it has one.
    pub(super) fn begin(shared: &Rc<RefCell<Self>>, asked: Asked) -> Option<Body> {
        let mut this = shared.borrow_mut();
        this.incoming.expect(asked.framing);
        this.has_reader = !this.incoming.has_ended();
        this.interim = if asked.expects_continue && this.has_reader { CONTINUE } else { b"" };
        this.has_reader.then(|| Body::new(Rc::clone(shared) as Rc<dyn Source>))
    }

    /// What it has become, with what was read of that already.
    pub(super) fn take_tunnel(&mut self) -> Option<Box<dyn Duplex>> {
        let stream = self.stream.take()?;
        Some(Box::new(Rewound::new(self.incoming.take_left(), stream)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Shared<S> {
    /// Whether nothing of a request was read that is not answered.
    pub(super) fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// What is in flight is the last.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Ready when a request may have begun, or none will.
    pub(super) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            Some(stream) if !self.is_closing => stream.below_mut().below_mut().poll_begun(cx),
            _ => Poll::Ready(()),
        }
    }

    /// The head of the next request; `None` if there is none.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Head>, Broken>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(None)) };
        if self.is_closing && !self.incoming.has_left() {
            return Poll::Ready(Ok(None));
        }
        let polled = self.incoming.poll_head(stream, head::take, cx);
        self.is_silent = polled.is_pending() && !self.incoming.has_left();
        polled
    }

    /// Whether the client has left, as far as that can be known: what it says instead is kept for later, and not read any
    /// further.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        if !self.incoming.has_ended() || self.incoming.has_left() || self.is_given_up {
            return Poll::Pending;
        }
        match ready!(self.incoming.poll_read(stream, cx)) {
            Ok(0) => Poll::Ready(Ended::Broken(Broken::Incomplete.to_string())),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(Ended::Broken(error.to_string())),
        }
    }

    /// The answer is about to be sent, so that the body is not asked for any more. Whether another request may come: what is there
    /// of a body that nobody wants is read over, and no more is waited for.
    pub(super) fn answered(&mut self, cx: &mut Context<'_>) -> bool {
        self.interim = b"";
        self.give_up(cx);
        !self.is_given_up && !self.is_closing
    }

    /// Ready when the body of the request was read to its end (true) or will not be.
    pub(super) fn poll_read_whole(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.give_up(cx);
        if self.is_given_up || self.incoming.has_ended() {
            return Poll::Ready(!self.is_given_up);
        }
        self.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Reads over what is there of a body that nobody reads.
    fn give_up(&mut self, cx: &mut Context<'_>) {
        let Some(stream) = &mut self.stream else { return };
        if self.has_reader || self.is_given_up {
            return;
        }
        for _ in 0..MOST_FORGOTTEN {
            if self.incoming.has_ended() {
                return;
            }
            match self.incoming.poll_body(stream, cx) {
                Poll::Ready(Some(Ok(_)) | None) => {}
                Poll::Ready(Some(Err(_))) | Poll::Pending => break,
            }
        }
        self.is_given_up = !self.incoming.has_ended();
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        if self.interim.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim = &self.interim[written..];
        }
        // What is left in the stream goes out with the next flush: the answer's, at the latest.
        Pin::new(stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Source for RefCell<Shared<S>> {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut this = self.borrow_mut();
        let this = &mut *this;
        if this.is_given_up {
            return Poll::Ready(Some(Err(Broken::Incomplete)));
        }
        if let Err(error) = ready!(this.poll_interim(cx)) {
            return Poll::Ready(Some(Err(error.into())));
        }
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        let frame = ready!(this.incoming.poll_body(stream, cx));
        this.is_given_up = matches!(frame, Some(Err(_)));
        if (this.is_given_up || this.incoming.has_ended())
            && let Some(waiting) = this.waiting.take()
        {
            waiting.wake();
        }
        Poll::Ready(frame)
    }

    fn has_ended(&self) -> bool {
        self.borrow().incoming.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.borrow().incoming.size_hint()
    }

    fn leave(&self) {
        let mut this = self.borrow_mut();
        this.has_reader = false;
        if let Some(waiting) = this.waiting.take() {
            waiting.wake();
        }
    }
}

/// The stream, borrowed for one call at a time: what is written to it may come from a body that reads of it.
pub(super) struct Lent<'a, S>(pub(super) &'a RefCell<Shared<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> Lent<'_, S> {
    fn poll<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut Downstream<S>>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.0.borrow_mut().stream {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lent<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Pieces of a body that nobody wants: as much as comes with its head.
const MOST_FORGOTTEN: usize = 8;
