//! The body of an upstream's answer, with the connection that it comes over.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    Pool,
    connection::{Http1, StreamSlot},
    dial::Destination,
};
use crate::http::expect::Answered;

/// The end of the body gives the connection back to the pool; dropping it before ends the HTTP/1.1 connection or
/// resets the HTTP/2 stream.
#[derive(Debug)]
pub(crate) struct Leased {
    /// `None`: there is nothing, and never was.
    body: Option<Incoming>,
    lease: Option<Lease>,
}

/// What is lent.
#[derive(Debug)]
pub(super) enum Lease {
    Http1 { pool: Rc<Pool>, destination: Destination, connection: Http1, answered: Option<Answered> },
    Http2 { _stream: StreamSlot },
}

impl Leased {
    pub(super) fn new(body: Incoming, lease: Lease) -> Self {
        let mut leased = Self { body: Some(body), lease: Some(lease) };
        leased.end_if_complete();
        leased
    }

    /// What this sidecar answers by itself.
    pub(crate) fn nothing() -> Self {
        Self { body: None, lease: None }
    }

    fn end_if_complete(&mut self) {
        if self.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(Lease::Http1 { pool, destination, connection, answered }) = self.lease.take() {
            // A body that nobody asked for goes with its connection.
            drop(answered);
            pool.give_back(destination, connection);
        }
    }
}

impl Body for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            None => self.end(),
            // Nothing follows trailers, and hyper does not ask whether anything does.
            Some(Ok(frame)) if frame.is_trailers() => self.end(),
            Some(Ok(_)) => self.end_if_complete(),
            // What broke is not lent again.
            Some(Err(_)) => self.lease = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}
