//! An HTTP/1.1 connection to an upstream (RFC 9112), lent to one exchange at a time. Takes a request in canonical form, hands on
//! the answer as it comes, and refuses what has no one reading: the connection is then closed. Whoever waits for the
//! answer drives it: there is no task, no queue and no buffer for a connection that idles.

mod head;

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};

use super::{heard::Heard, stream::Stream};
use crate::{
    detect::Rewound,
    message::{Broken, Ends, Framing, Incoming, Most, Outgoing, plain_length, write_fields},
    resilience::Sent,
};
use head::Head;

/// A connection, to which both the pool and the answer that comes over it hold on.
#[derive(Clone)]
pub(super) struct Connection(Rc<RefCell<State>>);

/// The body of an answer. Dropped before its end it closes the connection.
#[derive(Debug)]
pub(crate) struct Answering {
    connection: Connection,
    has_ended: bool,
}

struct State {
    /// `None`: closed.
    stream: Option<Heard<Stream>>,
    outgoing: Outgoing<Sent>,
    incoming: Incoming,
    /// As the head of the answer says.
    keeps_alive: bool,
    /// Why the rest of the request could not be sent after its answer had begun.
    unsent: Option<Broken>,
    /// Whoever waits for more of the answer while the request is still on its way.
    reader: Option<Waker>,
    /// Whoever sends the rest of the request.
    sender: Option<Waker>,
}

impl Connection {
    /// Over `stream`, on which nothing was said.
    pub(super) fn new(stream: Stream, most: Most) -> Self {
        Self(Rc::new(RefCell::new(State {
            stream: Some(Heard::new(stream)),
            outgoing: Outgoing::default(),
            incoming: Incoming::new(most),
            keeps_alive: true,
            unsent: None,
            reader: None,
            sender: None,
        })))
    }

    /// Sends a request and waits for the head of its answer. `informed` hears of each interim answer but a switch of protocols.
    /// Dropped before its end, the connection must not be used again.
    pub(super) async fn exchange(
        &self,
        head: &Parts,
        body: Sent,
        informed: impl Fn(StatusCode),
    ) -> Result<Response<Answering>, Broken> {
        let is_head = head.method == Method::HEAD;
        self.0.borrow_mut().begin(head, body);
        let head = poll_fn(|cx| self.0.borrow_mut().poll_head(is_head, &informed, cx)).await?;
        Ok(head.into_response(Answering { connection: self.clone(), has_ended: false }))
    }

    /// Whether it may be lent: the last answer is through, and the upstream has neither closed it nor said anything unasked.
    pub(super) fn is_idle(&self) -> bool {
        self.0.borrow_mut().is_idle()
    }

    /// Whether it is a stream of a link, and not a connection of its own.
    pub(super) fn is_shared(&self) -> bool {
        self.0.borrow().stream.as_ref().is_some_and(|stream| stream.get_ref().is_shared())
    }

    /// Whether a byte of an answer has come since the request began.
    pub(super) fn has_begun(&self) -> bool {
        self.0.borrow().stream.as_ref().is_some_and(Heard::has_begun)
    }

    /// Whether all of the request is on its way.
    pub(super) fn has_sent(&self) -> bool {
        self.0.borrow().outgoing.is_done()
    }

    /// Sends the rest of a request whose answer has begun, whether or not that is read.
    pub(super) async fn send_rest(self) {
        poll_fn(|cx| self.0.borrow_mut().poll_rest(cx)).await;
    }
}

impl State {
    fn begin(&mut self, head: &Parts, body: Sent) {
        if let Some(stream) = &mut self.stream {
            stream.forget();
        }
        // An answer that was dropped halfway would leave its rest here.
        self.keeps_alive = false;
        self.outgoing.begin(written(head), ends(&head.headers), body);
    }

    fn poll_head(
        &mut self,
        is_head: bool,
        informed: &impl Fn(StatusCode),
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Broken>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(Broken::Incomplete)) };
        if let Poll::Ready(Err(broken)) = self.outgoing.poll(&mut *stream, cx) {
            return Poll::Ready(Err(broken));
        }
        loop {
            let head = ready!(self.incoming.poll_head(&mut *stream, Head::take, cx))?;
            let head = head.ok_or(Broken::Incomplete)?;
            if head.is_interim() {
                informed(head.status());
                continue;
            }
            if head.status() == StatusCode::SWITCHING_PROTOCOLS {
                self.incoming.switch();
            } else {
                let framing = head.framing(is_head)?;
                self.incoming.expect(framing);
                self.keeps_alive = head.keeps_alive() && framing != Framing::Close;
            }
            return Poll::Ready(Ok(head));
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Some(Err(self.unsent.take().unwrap_or(Broken::Incomplete))));
        };
        let polled = self.incoming.poll_body(&mut *stream, cx);
        if polled.is_pending() && !self.outgoing.is_done() {
            self.reader = Some(cx.waker().clone());
        }
        polled
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(()) };
        match self.outgoing.poll(&mut *stream, cx) {
            Poll::Pending => {
                self.sender = Some(cx.waker().clone());
                Poll::Pending
            }
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(broken)) => {
                tracing::debug!(error = %broken, "a request broke off after its answer had begun");
                self.unsent = Some(broken);
                self.close();
                Poll::Ready(())
            }
        }
    }

    fn close(&mut self) {
        self.stream = None;
        for waiting in [self.reader.take(), self.sender.take()].into_iter().flatten() {
            waiting.wake();
        }
    }

    fn is_over(&self) -> bool {
        let is_through = self.outgoing.is_done() && self.incoming.has_ended() && !self.incoming.has_left();
        let hears =
            self.stream.as_ref().is_some_and(|stream| !stream.is_deaf() && !stream.get_ref().is_left());
        hears && self.keeps_alive && is_through
    }

    fn is_idle(&mut self) -> bool {
        if !self.is_over() {
            return false;
        }
        let Some(stream) = &mut self.stream else { return false };
        let mut byte = [0; 1];
        let mut cx = Context::from_waker(Waker::noop());
        // Anything but silence is the end of it, or an answer that nobody asked for.
        Pin::new(&mut *stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

/// RFC 9112 §3.
fn written(head: &Parts) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(&mut out, &head.headers);
    out.extend_from_slice(b"\r\n");
    out
}

/// Where the body ends, as the fields say.
fn ends(fields: &HeaderMap) -> Ends {
    if fields.contains_key(TRANSFER_ENCODING) {
        return Ends::Chunked { with_trailers: true };
    }
    Ends::Length(fields.get(CONTENT_LENGTH).and_then(plain_length).unwrap_or(0))
}

impl Answering {
    /// The connection, if the answer is through and it may serve another request.
    pub(super) fn into_connection(mut self) -> Option<Connection> {
        self.has_ended = true;
        self.connection.0.borrow().is_over().then(|| self.connection.clone())
    }

    /// What the connection has become, of which the first bytes may have been read already.
    pub(super) fn into_tunnel(mut self) -> Option<Rewound<Stream>> {
        self.has_ended = true;
        let mut state = self.connection.0.borrow_mut();
        let stream = state.stream.take()?;
        Some(Rewound::new(state.incoming.take_left(), stream.into_inner()))
    }
}

impl Body for Answering {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = ready!(self.connection.0.borrow_mut().poll_body(cx));
        // What broke stays to be closed.
        self.has_ended = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.connection.0.borrow().incoming.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.connection.0.borrow().incoming.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if !self.is_end_stream() {
            self.connection.0.borrow_mut().close();
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Room for most heads.
const HEAD: usize = 512;

#[cfg(test)]
mod tests;
