//! The answer of an exchange as it comes in: its head, and its body by the framing that the head says. Reads no further than
//! it has to: what is left of what was read belongs to nobody, and ends the connection with the exchange.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use httparse::Status;
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    Broken, Most,
    head::{self, Framing, Head},
};
use crate::upstream::copy;

#[derive(Debug)]
pub(super) struct Incoming {
    most: Most,
    /// What was read and not understood yet.
    left: BytesMut,
    stage: Stage,
    /// As the head says.
    keeps_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    /// This many bytes are to come.
    Length(u64),
    /// Until the connection ends.
    Close,
    /// At the size of a chunk.
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// It is no HTTP any more.
    Switched,
    Ended,
}

impl Incoming {
    pub(super) fn new(most: Most) -> Self {
        Self { most, left: BytesMut::new(), stage: Stage::Ended, keeps_alive: true }
    }

    /// An answer is to come.
    pub(super) fn begin(&mut self) {
        self.stage = Stage::Head;
    }

    /// The next head, interim ones too.
    pub(super) fn poll_head<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        is_head: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Broken>> {
        loop {
            if !self.left.is_empty()
                && let Some(head) = Head::take(&mut self.left, self.most)?
            {
                if !head.is_interim() {
                    self.keeps_alive = head.keeps_alive();
                    self.stage = match head.framing(is_head)? {
                        _ if head.status() == StatusCode::SWITCHING_PROTOCOLS => Stage::Switched,
                        Framing::Length(0) => Stage::Ended,
                        Framing::Length(length) => Stage::Length(length),
                        Framing::Chunked => Stage::Size,
                        Framing::Close => Stage::Close,
                    };
                }
                return Poll::Ready(Ok(head));
            }
            if ready!(self.read(stream, cx))? == 0 {
                return Poll::Ready(Err(Broken::Incomplete));
            }
        }
    }

    /// The next piece of the body; `None` after its last.
    pub(super) fn poll_body<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.step() {
                Ok(Step::Piece(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Step::Ended) => return Poll::Ready(None),
                Ok(Step::Short) => {}
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
            match ready!(self.read(stream, cx)) {
                Ok(0) if self.stage == Stage::Close => {
                    self.stage = Stage::Ended;
                    self.keeps_alive = false;
                }
                Ok(0) => return Poll::Ready(Some(Err(Broken::Incomplete))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Whether nothing of the body is to come.
    pub(super) fn has_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Whether the connection may carry another exchange.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended() && self.keeps_alive && self.left.is_empty()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.stage {
            Stage::Ended | Stage::Switched => SizeHint::with_exact(0),
            Stage::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::new(),
        }
    }

    /// What was read behind the head of an answer that switched protocols.
    pub(super) fn take_left(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.left).into()
    }

    /// Goes on as far as what was read reaches.
    fn step(&mut self) -> Result<Step, Broken> {
        loop {
            let next = match self.stage {
                Stage::Ended | Stage::Switched => return Ok(Step::Ended),
                _ if self.left.is_empty() => return Ok(Step::Short),
                Stage::Head => return Err(Broken::Framing("a body before its head")),
                Stage::Close => return Ok(Step::Piece(self.piece(u64::MAX).0)),
                Stage::Length(length) => {
                    let (frame, rest) = self.piece(length);
                    self.stage = if rest == 0 { Stage::Ended } else { Stage::Length(rest) };
                    return Ok(Step::Piece(frame));
                }
                Stage::Chunk(size) => {
                    let (frame, rest) = self.piece(size);
                    self.stage = if rest == 0 { Stage::ChunkEnd } else { Stage::Chunk(rest) };
                    return Ok(Step::Piece(frame));
                }
                Stage::Size => self.size()?,
                Stage::ChunkEnd => self.chunk_end()?,
                Stage::Trailers => match head::take_trailers(&mut self.left, self.most)? {
                    None => None,
                    Some(trailers) => {
                        self.stage = Stage::Ended;
                        if trailers.is_empty() {
                            return Ok(Step::Ended);
                        }
                        return Ok(Step::Piece(Frame::trailers(trailers)));
                    }
                },
            };
            match next {
                Some(stage) => self.stage = stage,
                None => return Ok(Step::Short),
            }
        }
    }

    /// At most `length` bytes of what was read, and how many of `length` are left.
    fn piece(&mut self, length: u64) -> (Frame<Bytes>, u64) {
        let taken = self.left.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        // The last of it leaves nothing behind, not even the room it had.
        let bytes =
            if taken == self.left.len() { std::mem::take(&mut self.left) } else { self.left.split_to(taken) };
        (Frame::data(bytes.freeze()), length - taken as u64)
    }

    /// RFC 9112 §7.1; extensions are read over.
    fn size(&mut self) -> Result<Option<Stage>, Broken> {
        match httparse::parse_chunk_size(&self.left) {
            Ok(Status::Complete((length, size))) if length <= MOST_SIZE_LINE => {
                self.left.advance(length);
                Ok(Some(if size == 0 { Stage::Trailers } else { Stage::Chunk(size) }))
            }
            Ok(Status::Partial) if self.left.len() <= MOST_SIZE_LINE => Ok(None),
            _ => Err(Broken::Framing("a chunk's size")),
        }
    }

    fn chunk_end(&mut self) -> Result<Option<Stage>, Broken> {
        match &self.left[..] {
            [b'\r', b'\n', ..] => {
                self.left.advance(2);
                Ok(Some(Stage::Size))
            }
            [b'\r'] => Ok(None),
            _ => Err(Broken::Framing("a chunk's end")),
        }
    }

    /// Reads once. What comes is read where the whole thread reads, and takes no more room of its own than it has bytes.
    fn read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        copy::with_scratch(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
            self.left.extend_from_slice(buf.filled());
            Poll::Ready(Ok(buf.filled().len()))
        })
    }
}

/// How far what was read has led.
#[derive(Debug)]
enum Step {
    Piece(Frame<Bytes>),
    Ended,
    /// More has to be read.
    Short,
}

/// With its extensions, of which nobody makes use.
const MOST_SIZE_LINE: usize = 4096;
