//! Bodies in passing: counts their bytes, cleans their trailers, and ends a request's that trickles. Nothing is held back: a frame in is a frame out,
//! so back-pressure reaches from end to end and memory stays constant.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::{
    expect::Wait,
    flow::{BrokenBody, Flow, Half},
    headers, http1,
};
use crate::{telemetry::Record, upstream::Leased};

pin_project! {
    /// The body of a request on its way to an upstream.
    #[derive(Debug)]
    pub(crate) struct RequestBody {
        body: Received,
        flow: Rc<Flow>,
        // Until it is asked for, where that is expected.
        wait: Option<Wait>,
    }
}

/// What a downstream sends.
#[derive(Debug)]
pub(super) enum Received {
    /// It has none, or is a copy of a request that has none.
    Nothing,
    Http1(http1::Body),
    Http2(Incoming),
}

pin_project! {
    /// The body of a response on its way downstream.
    #[project = ResponseBodyProjection]
    pub(crate) enum ResponseBody {
        /// What an upstream answers. Its record is written when the last byte is through, or when the downstream
        /// leaves.
        Upstream { #[pin] body: Leased, record: Record },
        /// What this sidecar answers by itself, recorded already.
        Text { #[pin] body: Full<Bytes> },
    }
}

impl RequestBody {
    /// What a downstream sends; its bytes are counted in `flow`, and it ends when that is cut.
    pub(super) fn new(body: Received, flow: Rc<Flow>) -> Self {
        Self { body, flow, wait: None }
    }

    /// No body.
    pub(super) fn nothing() -> Self {
        Self { body: Received::Nothing, flow: Rc::default(), wait: None }
    }

    /// It is not read before that.
    pub(super) fn wait(&mut self, wait: Wait) {
        self.wait = Some(wait);
    }
}

impl Received {
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match self {
            Self::Nothing => Poll::Ready(None),
            Self::Http1(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BrokenBody::from)))
            }
            Self::Http2(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BrokenBody::from)))
            }
        }
    }
}

impl ResponseBody {
    /// What an upstream answers.
    pub(crate) fn upstream(body: Leased, mut record: Record) -> Self {
        record.waits_for_downstream(!body.is_end_stream());
        Self::Upstream { body, record }
    }

    /// What this sidecar answers by itself.
    pub(crate) fn text(text: String) -> Self {
        Self::Text { body: Full::from(text) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let this = self.project();
        if this.flow.poll_cut(Half::Request, cx).is_ready() {
            return Poll::Ready(Some(Err(BrokenBody::Cut)));
        }
        if let Some(wait) = this.wait {
            if let Err(not_asked) = ready!(wait.poll(cx)) {
                return Poll::Ready(Some(Err(not_asked.into())));
            }
            *this.wait = None;
        }
        this.flow.ask();
        let polled = this.body.poll_frame(cx);
        let came = match &polled {
            Poll::Ready(frame) => Some(data_bytes(frame.as_ref())),
            Poll::Pending => None,
        };
        if let Err(broken) = this.flow.asked(came, cx) {
            return Poll::Ready(Some(Err(broken)));
        }
        let mut frame = ready!(polled);
        match &mut frame {
            Some(Ok(frame)) => clean(frame),
            Some(Err(_)) => this.flow.break_off(),
            None => {}
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
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match self.project() {
            ResponseBodyProjection::Text { body } => body.poll_frame(cx).map_err(|never| match never {}),
            ResponseBodyProjection::Upstream { mut body, record } => {
                if let Poll::Ready(denied) = record.flow().poll_cut(Half::Answer, cx) {
                    record.failed(&denied);
                    return Poll::Ready(Some(Err(BrokenBody::Cut)));
                }
                let polled = body.as_mut().poll_frame(cx);
                // Not asked again while the downstream has no room for what it was given.
                record.waits_for_downstream(matches!(&polled, Poll::Ready(Some(Ok(_)))));
                let mut frame = ready!(polled);
                match &mut frame {
                    Some(Ok(frame)) => {
                        record.add_sent(frame.data_ref().map_or(0, Bytes::len));
                        // Nobody asks again after trailers, or for more than Content-Length said.
                        if frame.is_trailers() || body.is_end_stream() {
                            record.complete();
                        }
                        clean(frame);
                    }
                    Some(Err(error)) => record.upstream_broke(error),
                    None => record.complete(),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BrokenBody::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream { body, .. } => body.is_end_stream(),
            Self::Text { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream { body, .. } => body.size_hint(),
            Self::Text { body } => body.size_hint(),
        }
    }
}

fn data_bytes<E>(frame: Option<&Result<Frame<Bytes>, E>>) -> u64 {
    let bytes = frame.and_then(|frame| frame.as_ref().ok()?.data_ref());
    bytes.map_or(0, Bytes::len) as u64
}

fn clean(frame: &mut Frame<Bytes>) {
    if let Some(trailers) = frame.trailers_mut() {
        headers::clean_trailers(trailers);
    }
}
