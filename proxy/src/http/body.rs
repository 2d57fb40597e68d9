//! Bodies in passing: counts their bytes and cleans their trailers. Nothing is held back: a frame in is a frame out,
//! so back-pressure reaches from end to end and memory stays constant.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::headers;
use crate::{telemetry::Record, upstream::Leased};

/// Bytes of a request body so far; its response's record reads it.
pub(crate) type ByteCount = Rc<Cell<u64>>;

pin_project! {
    /// The body of a request on its way to an upstream.
    #[derive(Debug)]
    pub(crate) struct RequestBody {
        #[pin]
        body: Incoming,
        count: ByteCount,
    }
}

pin_project! {
    /// The body of a response on its way downstream. Its record is written when the last byte is through, or when
    /// the downstream leaves.
    pub(crate) struct ResponseBody {
        #[pin]
        source: Source,
        record: Record,
    }
}

pin_project! {
    #[project = SourceProjection]
    enum Source {
        Upstream { #[pin] body: Leased },
        Text { #[pin] body: Full<Bytes> },
    }
}

impl RequestBody {
    /// What a downstream sends; its bytes are added to `count`.
    pub(crate) fn new(body: Incoming, count: ByteCount) -> Self {
        Self { body, count }
    }
}

impl ResponseBody {
    /// What an upstream answers.
    pub(crate) fn upstream(body: Leased, record: Record) -> Self {
        Self {
            source: Source::Upstream { body },
            record,
        }
    }

    /// What this sidecar answers by itself.
    pub(crate) fn text(text: String, record: Record) -> Self {
        Self {
            source: Source::Text {
                body: Full::from(text),
            },
            record,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.project();
        let mut frame = ready!(this.body.poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame {
            if let Some(bytes) = frame.data_ref() {
                this.count
                    .set(this.count.get().saturating_add(bytes.len() as u64));
            }
            clean(frame);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut this = self.project();
        let mut frame = ready!(match this.source.as_mut().project() {
            SourceProjection::Upstream { body } => body.poll_frame(cx),
            SourceProjection::Text { body } => body.poll_frame(cx).map_err(|never| match never {}),
        });
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    this.record.add_sent(bytes.len());
                }
                clean(frame);
                // hyper does not ask again once it has sent as much as Content-Length said.
                if this.source.is_end_stream() {
                    this.record.complete();
                }
            }
            Some(Err(error)) => this.record.upstream_broke(error),
            None => this.record.complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream { body } => body.size_hint(),
            Source::Text { body } => body.size_hint(),
        }
    }
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream { body } => body.is_end_stream(),
            Self::Text { body } => body.is_end_stream(),
        }
    }
}

fn clean(frame: &mut Frame<Bytes>) {
    if let Some(trailers) = frame.trailers_mut() {
        headers::clean_trailers(trailers);
    }
}
