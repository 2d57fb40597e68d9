//! What clients over a unix socket put where HTTP/2 has an authority. gRPC's C core, and so its Python, C++ and Ruby, sends the
//! percent-encoded path of the socket, others the path itself: neither is an authority (RFC 9113 §8.3.1), and the HTTP
//! library refuses it. Nobody reads the value here, so the two bytes that it minds are replaced by `-` on the way.
//!
//! Receives what the client sends, hands it on with every length unchanged, which keeps both ends' HPACK tables alike,
//! and leaves alone whatever it does not understand: that is the HTTP library's to refuse.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pin_project! {
    /// A client's end of a connection.
    pub(super) struct Readable<S> {
        #[pin]
        stream: S,
        frames: Frames,
    }
}

/// What came from a client.
struct Frames {
    /// Not looked at yet.
    came: BytesMut,
    /// To be read.
    ready: BytesMut,
    /// Of what comes next, that which is no header block.
    passing: usize,
}

impl<S> Readable<S> {
    pub(super) fn new(stream: S) -> Self {
        let frames = Frames { came: BytesMut::new(), ready: BytesMut::new(), passing: PREFACE };
        Self { stream, frames }
    }
}

impl Frames {
    /// Moves on what is complete.
    fn sort(&mut self) {
        loop {
            let passed = self.passing.min(self.came.len());
            self.ready.unsplit(self.came.split_to(passed));
            self.passing -= passed;
            let Some(&[high, middle, low, kind, ..]) = self.came.get(..FRAME_HEAD) else { return };
            let length =
                FRAME_HEAD + usize::from(high) * 65_536 + usize::from(middle) * 256 + usize::from(low);
            if kind != HEADERS || length > MOST_FRAME {
                self.passing = length;
                continue;
            }
            if self.came.len() < length {
                return;
            }
            let mut frame = self.came.split_to(length);
            if let Some(block) = header_block(&frame) {
                // What is not understood stays as it is.
                let _ = mend(&mut frame[block]);
            }
            self.ready.unsplit(frame);
        }
    }
}

impl<S: AsyncRead> AsyncRead for Readable<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        while this.frames.ready.is_empty() {
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(this.stream.as_mut().poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // The end, perhaps within a frame: that is for the reader to see.
                this.frames.ready = this.frames.came.split();
                break;
            }
            this.frames.came.extend_from_slice(chunk.filled());
            this.frames.sort();
        }
        let ready = &mut this.frames.ready;
        let length = ready.len().min(buf.remaining());
        buf.put_slice(&ready[..length]);
        ready.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite> AsyncWrite for Readable<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(cx)
    }
}

/// Where the header block is in a HEADERS frame, without padding and priority (RFC 9113 §6.2).
fn header_block(frame: &[u8]) -> Option<Range<usize>> {
    let flags = *frame.get(4)?;
    let (mut begin, mut end) = (FRAME_HEAD, frame.len());
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(begin)?))?;
        begin += 1;
    }
    if flags & PRIORITY != 0 {
        begin += 5;
    }
    (begin <= end).then_some(begin..end)
}

/// Walks the fields of a header block (RFC 7541 §6) to the authority's plain value.
fn mend(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        let (index, next) = match first {
            // A field that the table holds.
            0x80.. => {
                at = integer(block, at, 7)?.1;
                continue;
            }
            // A new size of the table.
            0x20..0x40 => {
                at = integer(block, at, 5)?.1;
                continue;
            }
            0x40.. => integer(block, at, 6)?,
            _ => integer(block, at, 4)?,
        };
        let (is_authority, value) = if index == 0 {
            let name = string(block, next)?;
            (block.get(name.clone())? == b":authority", string(block, name.end)?)
        } else {
            (index == AUTHORITY, string(block, next)?)
        };
        at = value.end;
        let is_plain = block.get(value.start.checked_sub(1)?)? & 0x80 == 0;
        if is_authority && is_plain {
            for byte in block.get_mut(value)?.iter_mut().filter(|byte| matches!(byte, b'%' | b'/')) {
                *byte = b'-';
            }
        }
    }
    Some(())
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1), and where it ends.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1_usize << bits) - 1;
    let prefix = usize::from(*block.get(at)?) & most;
    if prefix < most {
        return Some((prefix, at + 1));
    }
    let mut value = most;
    for (place, byte) in block.get(at + 1..)?.iter().take(3).enumerate() {
        value += usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, at + 2 + place));
        }
    }
    None
}

/// Where a string's bytes are (RFC 7541 §5.2).
fn string(block: &[u8], at: usize) -> Option<Range<usize>> {
    let (length, begin) = integer(block, at, 7)?;
    let end = begin.checked_add(length)?;
    (end <= block.len()).then_some(begin..end)
}

/// `PRI * HTTP/2.0` and so on.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The place of `:authority` in the static table.
const AUTHORITY: usize = 1;
/// The largest that the HTTP library takes; a larger one is passed on for it to refuse.
const MOST_FRAME: usize = FRAME_HEAD + 16_384;
const CHUNK: usize = 2_048;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    const PREFACE_TEXT: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, length[0], length[1], kind, flags, 0, 0, 0, 1][..], payload].concat()
    }

    /// A literal without a reference to the table, as the C core writes it.
    fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
        [&[0x40, length(name)][..], name, &[length(value)], value].concat()
    }

    async fn read_in_pieces(sent: &[u8], piece: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(piece);
        let mut read = Vec::new();
        let mut server = Readable::new(server);
        let writing = async move {
            tokio::io::AsyncWriteExt::write_all(&mut client, sent).await.unwrap();
        };
        let ((), result) = tokio::join!(writing, server.read_to_end(&mut read));
        result.unwrap();
        read
    }

    #[tokio::test]
    async fn the_path_of_a_socket_becomes_an_authority_and_nothing_else_changes() {
        let path = literal(b":path", b"/SpiffeWorkloadAPI/FetchX509SVID");
        let others = [frame(4, 0, &[0; 12]), frame(0, 1, b"/a%2Fb")].concat();
        let sent = |authority: &[u8]| {
            let by_index = [&[0x41, u8::try_from(authority.len()).unwrap()][..], authority].concat();
            let plain = [path.clone(), literal(b":authority", authority), vec![0x83, 0x86]].concat();
            let padded = [&[2, 0, 0, 0, 0, 16][..], &by_index, &path, &[0, 0]].concat();
            let frames = [frame(1, 4, &plain), frame(1, 4 | PADDED | PRIORITY, &padded)].concat();
            [PREFACE_TEXT, &others, &frames, &others].concat()
        };
        let (before, after) = (sent(b"tmp%2Frun%2Fapi.sock"), sent(b"tmp-2Frun-2Fapi.sock"));
        for piece in [1, 7, 4096] {
            assert_eq!(read_in_pieces(&before, piece).await, after);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_panic_or_change_their_number(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            is_headers in any::<bool>(),
        ) {
            let flags = noise.first().copied().unwrap_or_default();
            let sent = if is_headers { frame(1, flags, &noise) } else { noise };
            let sent = [PREFACE_TEXT, &sent].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(read_in_pieces(&sent, 64));
            prop_assert_eq!(read.len(), sent.len());
            for (read, sent) in read.iter().zip(&sent) {
                prop_assert!(read == sent || (*read == b'-' && matches!(sent, b'%' | b'/')));
            }
        }
    }
}
