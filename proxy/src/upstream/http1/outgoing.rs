//! The request of an exchange as it goes out: its head, and its body by the framing that the head says, which is held to
//! what it said. Whatever is there is written at once; a large piece is written from where it is.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::Broken;
use crate::resilience::{BoxError, Sent};

/// Done before there was a request.
#[derive(Debug)]
pub(super) struct Outgoing<B = Sent> {
    /// What goes first, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// What goes next.
    large: Bytes,
    /// What goes after that.
    tail: &'static [u8],
    /// `None`: all of it is above.
    body: Option<B>,
    framing: Framing,
    is_unflushed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    /// This many bytes are to come.
    Length(u64),
    Chunked,
}

impl<B> Default for Outgoing<B> {
    fn default() -> Self {
        Self {
            out: Vec::new(),
            written: 0,
            large: Bytes::new(),
            tail: b"",
            body: None,
            framing: Framing::Length(0),
            is_unflushed: false,
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Outgoing<B> {
    /// The fields of `head` say where `body` ends.
    pub(super) fn begin(&mut self, head: &Parts, body: B) {
        self.framing = Framing::of(&head.headers);
        self.body = (!self.framing.is_over()).then_some(body);
        self.out = Vec::with_capacity(HEAD);
        write_head(&mut self.out, head);
    }

    /// Whether nothing is left to be sent.
    pub(super) fn is_done(&self) -> bool {
        self.body.is_none() && !self.is_pending() && !self.is_unflushed
    }

    /// Sends what there is. Ready when all is sent.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
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
                Some(Err(error)) => return Err(Broken::Request(error.into())),
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
        match &mut self.framing {
            // An empty chunk would be the last one.
            _ if data.is_empty() => {}
            Framing::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or_else(|| Broken::Request("it is longer than it said".into()))?;
                if *left == 0 {
                    self.body = None;
                }
                self.put(data, b"");
            }
            Framing::Chunked => {
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
        match self.framing {
            Framing::Length(0) => {}
            Framing::Length(_) => return Err(Broken::Request("it is shorter than it said".into())),
            Framing::Chunked => {
                self.out.extend_from_slice(b"0\r\n");
                write_fields(&mut self.out, trailers);
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

impl Framing {
    fn of(fields: &HeaderMap) -> Self {
        if fields.contains_key(TRANSFER_ENCODING) {
            return Self::Chunked;
        }
        let length = fields.get(CONTENT_LENGTH).map(HeaderValue::to_str);
        Self::Length(length.and_then(|length| length.ok()?.parse().ok()).unwrap_or(0))
    }

    fn is_over(self) -> bool {
        matches!(self, Self::Length(0))
    }
}

/// RFC 9112 §3 and §5.
fn write_head(out: &mut Vec<u8>, parts: &Parts) {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(out, &parts.headers);
    out.extend_from_slice(b"\r\n");
}

fn write_fields(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Room for most heads.
const HEAD: usize = 512;
/// From here on a piece is written from where it is.
const LARGE: usize = 4096;
