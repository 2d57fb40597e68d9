//! Messages as they come in: head after head, and bodies by the framing that their heads say. What was read and belongs to no
//! message yet is kept; a connection of which everything was understood holds no buffer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use httparse::Status;
use tokio::io::{AsyncRead, ReadBuf};

use super::{Broken, Framing, Most, fields::take_trailers};
use crate::scratch;

#[derive(Debug)]
pub(crate) struct Incoming {
    most: Most,
    /// What was read and not understood yet.
    left: BytesMut,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
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
    pub(crate) fn new(most: Most) -> Self {
        Self { most, left: BytesMut::new(), stage: Stage::Ended }
    }

    /// The next head, which `take` takes off the front of what was read as soon as it is complete. `None`: the connection has
    /// ended before its first byte.
    pub(crate) fn poll_head<S: AsyncRead + Unpin, H>(
        &mut self,
        stream: &mut S,
        take: impl Fn(&mut BytesMut, Most) -> Result<Option<H>, Broken>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<H>, Broken>> {
        loop {
            if !self.left.is_empty()
                && let Some(head) = take(&mut self.left, self.most)?
            {
                return Poll::Ready(Ok(Some(head)));
            }
            if ready!(self.poll_read(stream, cx))? == 0 {
                let is_between = self.left.is_empty();
                return Poll::Ready(if is_between { Ok(None) } else { Err(Broken::Incomplete) });
            }
        }
    }

    /// A head was the last, and its body is to come.
    pub(crate) fn expect(&mut self, framing: Framing) {
        self.stage = match framing {
            Framing::Length(0) => Stage::Ended,
            Framing::Length(length) => Stage::Length(length),
            Framing::Chunked => Stage::Size,
            Framing::Close => Stage::Close,
        };
    }

    /// It is no HTTP any more.
    pub(crate) fn switch(&mut self) {
        self.stage = Stage::Switched;
    }

    /// The next piece of the body; `None` after its last.
    pub(crate) fn poll_body<S: AsyncRead + Unpin>(
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
            match ready!(self.poll_read(stream, cx)) {
                Ok(0) if self.stage == Stage::Close => self.stage = Stage::Ended,
                Ok(0) => return Poll::Ready(Some(Err(Broken::Incomplete))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Whether nothing of the body is to come.
    pub(crate) fn has_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Whether anything was read that nobody has asked for yet.
    pub(crate) fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.stage {
            Stage::Ended | Stage::Switched => SizeHint::with_exact(0),
            Stage::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::new(),
        }
    }

    /// What was read behind the head of an answer that switched protocols.
    pub(crate) fn take_left(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.left).into()
    }

    /// Goes on as far as what was read reaches.
    fn step(&mut self) -> Result<Step, Broken> {
        loop {
            let next = match self.stage {
                Stage::Ended | Stage::Switched => return Ok(Step::Ended),
                _ if self.left.is_empty() => return Ok(Step::Short),
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
                Stage::Trailers => match take_trailers(&mut self.left, self.most)? {
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

    /// Reads once, ahead of what is asked for if need be; ready with 0 at the end. What comes is read where the whole thread reads,
    /// and takes no more room of its own than it has bytes.
    pub(crate) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        scratch::lend(|scratch| {
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
