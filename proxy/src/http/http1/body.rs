//! The body of a request as it comes in over HTTP/1.

use std::{
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::message::Broken;

/// A body that there is something of. Dropped before its end, the rest of it is not waited for.
pub(in crate::http) struct Body(Rc<dyn Source>);

/// Where it comes from.
pub(super) trait Source {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>>;
    fn has_ended(&self) -> bool;
    fn size_hint(&self) -> SizeHint;
    /// Nobody reads it any more.
    fn leave(&self);
}

impl Body {
    pub(super) fn new(source: Rc<dyn Source>) -> Self {
        Self(source)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("size", &self.0.size_hint()).finish_non_exhaustive()
    }
}
