//! A message as it goes out: its head, and its body, which is held to what the head says of its end. Whatever is there is
//! written at once; a large piece is written from where it is.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::{Broken, fields::write_fields};
use crate::resilience::BoxError;

/// Done before there was a message.
#[derive(Debug)]
pub(crate) struct Outgoing<B> {
    /// What goes first, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// What goes next.
    large: Bytes,
    /// What goes after that.
    tail: &'static [u8],
    /// `None`: all of it is above.
    body: Option<B>,
    ends: Ends,
    is_unflushed: bool,
}

/// How a body that goes out says where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// After this many bytes.
    Length(u64),
    /// After the last chunk, behind which there may be trailers for whoever wants them.
    Chunked { with_trailers: bool },
    /// With the connection.
    Close,
}

impl<B> Default for Outgoing<B> {
    fn default() -> Self {
        Self {
            out: Vec::new(),
            written: 0,
            large: Bytes::new(),
            tail: b"",
            body: None,
            ends: Ends::Length(0),
            is_unflushed: false,
        }
    }
}

impl Ends {
    fn has_nothing(self) -> bool {
        matches!(self, Self::Length(0))
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Outgoing<B> {
    /// Sends `head`, and behind it what `ends` says of `body`.
    pub(crate) fn begin(&mut self, head: Vec<u8>, ends: Ends, body: B) {
        self.ends = ends;
        self.body = (!ends.has_nothing()).then_some(body);
        self.out = head;
        self.written = 0;
    }

    /// Whether nothing is left to be sent.
    pub(crate) fn is_done(&self) -> bool {
        self.body.is_none() && !self.is_pending() && !self.is_unflushed
    }

    /// Sends what there is. Ready when all is sent.
    pub(crate) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            self.fill(cx)?;
            if self.is_pending() {
                ready!(self.write(stream, cx))?;
            } else {
                if self.is_unflushed {
                    ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                    self.is_unflushed = false;
                }
                return if self.body.is_none() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    }

    fn is_pending(&self) -> bool {
        !self.out.is_empty() || !self.large.is_empty() || !self.tail.is_empty()
    }

    /// Takes what the body has, as long as it is little.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while self.large.is_empty()
            && self.tail.is_empty()
            && self.out.len() < LARGE
            && let Some(body) = &mut self.body
        {
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else { break };
            match frame {
                Some(Ok(frame)) => self.push(frame)?,
                Some(Err(error)) => return Err(Broken::Body(error.into())),
                None => self.end(&HeaderMap::new())?,
            }
        }
        Ok(())
    }

    fn push(&mut self, frame: Frame<Bytes>) -> Result<(), Broken> {
        match frame.into_data() {
            Ok(data) => self.push_data(data),
            Err(frame) => frame.into_trailers().map_or(Ok(()), |trailers| self.end(&trailers)),
        }
    }

    fn push_data(&mut self, data: Bytes) -> Result<(), Broken> {
        match &mut self.ends {
            // An empty chunk would be the last one.
            _ if data.is_empty() => {}
            Ends::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or_else(|| Broken::Body("it is longer than it said".into()))?;
                if *left == 0 {
                    self.body = None;
                }
                self.put(data, b"");
            }
            Ends::Close => self.put(data, b""),
            Ends::Chunked { .. } => {
                // Writing to memory does not fail.
                let _ = write!(self.out, "{:x}\r\n", data.len());
                self.put(data, b"\r\n");
            }
        }
        Ok(())
    }

    fn put(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() < LARGE {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(tail);
        } else {
            self.large = data;
            self.tail = tail;
        }
    }

    fn end(&mut self, trailers: &HeaderMap) -> Result<(), Broken> {
        self.body = None;
        match self.ends {
            Ends::Length(0) | Ends::Close => {}
            Ends::Length(_) => return Err(Broken::Body("it is shorter than it said".into())),
            Ends::Chunked { with_trailers } => {
                self.out.extend_from_slice(b"0\r\n");
                if with_trailers {
                    write_fields(&mut self.out, trailers);
                }
                self.out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let bufs = [&self.out[self.written..], &self.large, self.tail].map(IoSlice::new);
        let mut count = ready!(Pin::new(stream).poll_write_vectored(cx, &bufs))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.is_unflushed = true;
        let first = count.min(self.out.len() - self.written);
        self.written += first;
        count -= first;
        if self.written == self.out.len() {
            // Whoever waits for an answer, or idles, holds no buffer.
            self.out = Vec::new();
            self.written = 0;
        }
        let next = count.min(self.large.len());
        self.large.advance(next);
        self.tail = &self.tail[count - next..];
        Poll::Ready(Ok(()))
    }
}

/// From here on a piece is written from where it is.
const LARGE: usize = 4096;
