//! The body of a request that can be sent again: the part of it that has passed, up to a bound. What came in is passed on as it
//! comes; only a copy of it is held, until an answer begins or the bound is passed. A new turn ends the
//! one before with an error, so that a half-sent body never looks like a whole one.

use std::{
    cell::{Cell, RefCell},
    error,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::http::RequestBody;

/// A body that is kept for another turn. `None`: there is none.
#[derive(Debug)]
pub(crate) struct Held<B = RequestBody>(Option<Rc<Kept<B>>>);

/// The body of a request on its way to an upstream.
#[derive(Debug)]
pub(crate) enum Sent<B = RequestBody> {
    /// It is sent once, or not at all.
    Once(B),
    /// It has none.
    Empty,
    /// One turn of a body that is kept.
    Turn(Turn<B>),
}

/// One sending of a kept body.
#[derive(Debug)]
pub(crate) struct Turn<B> {
    kept: Rc<Kept<B>>,
    number: u32,
}

#[derive(Debug)]
struct Kept<B> {
    /// What has not come in yet.
    body: RefCell<B>,
    /// What has, as long as it is held. No borrow outlives a poll.
    pieces: RefCell<Vec<Piece>>,
    /// The piece that this turn sends next.
    next: Cell<usize>,
    turn: Cell<u32>,
    bytes: Cell<usize>,
    most: usize,
    is_held: Cell<bool>,
    has_ended: Cell<bool>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// A body as it comes in.
pub(crate) trait Incoming: Body<Data = Bytes, Error: Into<BoxError>> + Unpin {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Incoming for B {}

/// This turn is over: another one sends the body.
#[derive(Debug, thiserror::Error)]
#[error("the request is sent another time")]
struct Superseded;

impl<B: Incoming> Held<B> {
    /// Keeps `most` bytes of `body`.
    pub(crate) fn new(body: B, most: usize) -> Self {
        Self((!body.is_end_stream()).then(|| Rc::new(Kept::new(body, most))))
    }

    /// The body, from its beginning. The turn before, if any, gets no more of it.
    pub(crate) fn turn(&self) -> Sent<B> {
        match &self.0 {
            None => Sent::Empty,
            Some(kept) => {
                kept.turn.set(kept.turn.get().wrapping_add(1));
                kept.next.set(0);
                Sent::Turn(Turn { kept: Rc::clone(kept), number: kept.turn.get() })
            }
        }
    }

    /// Whether all of the body so far is there for another turn.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.as_ref().is_none_or(|kept| kept.is_held.get())
    }

    /// Whether the downstream has nothing more to send.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.as_ref().is_none_or(|kept| kept.has_ended())
    }
}

impl<B> Drop for Held<B> {
    /// There is no other turn: the copy goes, and what comes in is only passed on.
    fn drop(&mut self) {
        if let Some(kept) = &self.0 {
            kept.is_held.set(false);
        }
    }
}

impl<B: Incoming> Kept<B> {
    fn new(body: B, most: usize) -> Self {
        Self {
            body: RefCell::new(body),
            pieces: RefCell::default(),
            next: Cell::new(0),
            turn: Cell::new(0),
            bytes: Cell::new(0),
            most,
            is_held: Cell::new(true),
            has_ended: Cell::new(false),
        }
    }

    fn has_ended(&self) -> bool {
        self.has_ended.get() || self.body.borrow().is_end_stream()
    }

    /// The next piece of what is held already.
    fn again(&self) -> Option<Frame<Bytes>> {
        let mut pieces = self.pieces.borrow_mut();
        let frame = match pieces.get(self.next.get()) {
            None => {
                if !self.is_held.get() {
                    pieces.clear();
                    self.next.set(0);
                }
                return None;
            }
            Some(Piece::Data(bytes)) => Frame::data(bytes.clone()),
            Some(Piece::Trailers(trailers)) => Frame::trailers(trailers.clone()),
        };
        self.next.set(self.next.get() + 1);
        Some(frame)
    }

    fn hold(&self, frame: &Frame<Bytes>) {
        if !self.is_held.get() {
            return;
        }
        let mut pieces = self.pieces.borrow_mut();
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(bytes), _) => Piece::Data(bytes.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        let more = frame.data_ref().map_or(0, Bytes::len);
        self.bytes.set(self.bytes.get().saturating_add(more));
        if self.bytes.get() > self.most || pieces.len() >= MOST_PIECES {
            self.is_held.set(false);
            pieces.clear();
            self.next.set(0);
        } else {
            pieces.push(piece);
            self.next.set(pieces.len());
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.again() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.has_ended.get() {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut *self.body.borrow_mut()).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.hold(frame),
            // A broken body has no other turn.
            Some(Err(_)) => self.is_held.set(false),
            None => self.has_ended.set(true),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.next.get() >= self.pieces.borrow().len() && self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let pieces = self.pieces.borrow();
        let left: usize = pieces.iter().skip(self.next.get()).map(Piece::len).sum();
        let left = left as u64;
        let rest =
            if self.has_ended.get() { SizeHint::with_exact(0) } else { self.body.borrow().size_hint() };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(left));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(left));
        }
        hint
    }
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Trailers(_) => 0,
        }
    }
}

impl<B> Turn<B> {
    fn is_current(&self) -> bool {
        self.kept.turn.get() == self.number
    }
}

impl<B: Incoming> Body for Sent<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Once(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Turn(turn) if turn.is_current() => turn.kept.poll(cx),
            Self::Turn(_) => Poll::Ready(Some(Err(Superseded.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.is_end_stream(),
            Self::Turn(turn) => turn.is_current() && turn.kept.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once(body) => body.size_hint(),
            Self::Turn(turn) => turn.kept.size_hint(),
        }
    }
}

pub(crate) type BoxError = Box<dyn error::Error + Send + Sync>;

/// Pieces of a body that are held, however small they are.
const MOST_PIECES: usize = 1_024;

#[cfg(test)]
mod tests;
