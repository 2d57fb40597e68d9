//! The body of an upstream's answer, with the connection that it comes over.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    connection::{Http1, StreamSlot, Terms},
    http1,
    pool::{Idle, Lent},
    stream::Stream,
};
use crate::{detect::Rewound, http::expect::Answered, message::Broken};

/// The end of the body gives the connection back to the pool; dropping it before ends the HTTP/1.1 connection or
/// resets the HTTP/2 stream.
#[derive(Debug)]
pub(crate) struct Leased(Came);

#[derive(Debug)]
enum Came {
    /// There is nothing more, or never was.
    Nothing,
    Http1(Box<(http1::Answering, Lease)>),
    Http2 {
        body: Incoming,
        _stream: StreamSlot,
    },
}

/// A connection that is lent.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) idle: Rc<Idle>,
    pub(super) _lent: Lent,
    pub(super) terms: Terms,
    pub(super) answered: Option<Answered>,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenAnswer {
    /// Of HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] Broken),
    /// Of HTTP/2. Transparent, so that hyper passes the reason of a reset on.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl Leased {
    pub(super) fn http1(body: http1::Answering, lease: Lease) -> Self {
        let mut leased = Self(Came::Http1(Box::new((body, lease))));
        leased.end_if_complete();
        leased
    }

    pub(super) fn http2(body: Incoming, stream: StreamSlot) -> Self {
        let mut leased = Self(Came::Http2 { body, _stream: stream });
        leased.end_if_complete();
        leased
    }

    /// What this sidecar answers by itself.
    pub(crate) fn nothing() -> Self {
        Self(Came::Nothing)
    }

    fn end_if_complete(&mut self) {
        if self.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Came::Http1(came) = std::mem::replace(&mut self.0, Came::Nothing) {
            let (body, Lease { idle, mut terms, answered, .. }) = *came;
            // A body that nobody asked for goes with its connection.
            drop(answered);
            if let Some(connection) = body.into_connection() {
                terms.idle_since = Instant::now();
                idle.put(Http1 { connection, terms });
            }
        }
    }
}

impl Body for Leased {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let frame = match &mut self.0 {
            Came::Nothing => return Poll::Ready(None),
            Came::Http1(came) => {
                ready!(Pin::new(&mut came.0).poll_frame(cx)).map(|frame| frame.map_err(BrokenAnswer::from))
            }
            Came::Http2 { body, .. } => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(BrokenAnswer::from))
            }
        };
        match &frame {
            None => self.end(),
            // Nothing follows trailers, and hyper does not ask whether anything does.
            Some(Ok(frame)) if frame.is_trailers() => self.end(),
            Some(Ok(_)) => self.end_if_complete(),
            // What broke is not lent again.
            Some(Err(_)) => self.0 = Came::Nothing,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Came::Nothing => true,
            Came::Http1(came) => came.0.is_end_stream(),
            Came::Http2 { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Came::Nothing => SizeHint::with_exact(0),
            Came::Http1(came) => came.0.size_hint(),
            Came::Http2 { body, .. } => body.size_hint(),
        }
    }
}

/// The upstream's end of a tunnel that an answer has opened.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The connection itself.
    Http1(Option<Rewound<Stream>>),
    /// A stream of it.
    Http2(OnUpgrade),
}

/// What both are.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

impl Opened {
    /// By `answer`, whose body is empty from now on.
    pub(crate) fn by(answer: &mut Response<Leased>) -> Self {
        match std::mem::replace(&mut answer.body_mut().0, Came::Nothing) {
            Came::Http1(came) => Self::Http1(came.0.into_tunnel()),
            Came::Nothing | Came::Http2 { .. } => Self::Http2(hyper::upgrade::on(answer)),
        }
    }

    /// Its bytes, as soon as they are those of the tunnel.
    pub(crate) async fn stream(self) -> Result<Box<dyn Duplex>, String> {
        match self {
            Self::Http1(tunnel) => Ok(Box::new(tunnel.ok_or("the connection is closed")?)),
            Self::Http2(stream) => match stream.await {
                Ok(stream) => Ok(Box::new(TokioIo::new(stream))),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}
