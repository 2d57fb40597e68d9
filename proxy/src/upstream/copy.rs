//! Copies bytes both ways between two streams, with buffers of the thread's and not of the connection's: one that is silent
//! holds none. Takes two streams and what counts their bytes; hands on each half's end by itself, so that protocols that
//! half-close keep working; ends at the first failure.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Carried;
use crate::scratch;

/// Until both directions have ended.
pub(super) async fn both_ways<D, U>(downstream: &mut D, upstream: &mut U, carried: &Carried) -> io::Result<()>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut request, mut answer) = (Way::default(), Way::default());
    poll_fn(|cx| {
        let one = request.poll(downstream, upstream, |bytes| carried.add_received(bytes), cx)?;
        let other = answer.poll(upstream, downstream, |bytes| carried.add_sent(bytes), cx)?;
        if one.is_ready() && other.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    stage: Stage,
    /// What the writer did not take yet.
    left: Vec<u8>,
    /// Something was written since the last flush.
    is_unflushed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Copying,
    /// The reader has ended.
    Ending,
    Ended,
}

impl Way {
    fn poll<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        count: impl Fn(usize),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.stage {
                Stage::Copying => {
                    ready!(self.write_left(writer, cx))?;
                    match self.copy(reader, writer, &count, cx)? {
                        Poll::Ready(0) => self.stage = Stage::Ending,
                        Poll::Ready(_) => {}
                        Poll::Pending => {
                            // The other side may wait for it before it says more.
                            ready!(self.flush(writer, cx))?;
                            return Poll::Pending;
                        }
                    }
                }
                Stage::Ending => {
                    ready!(self.flush(writer, cx))?;
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.stage = Stage::Ended;
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once and writes what came, as much of it as the writer takes now. Gives how much was read.
    fn copy<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        count: impl Fn(usize),
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<usize>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        scratch::lend(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            if Pin::new(reader).poll_read(cx, &mut buf)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let read = buf.filled();
            count(read.len());
            let mut rest = read;
            while !rest.is_empty() {
                let Poll::Ready(written) = Pin::new(&mut *writer).poll_write(cx, rest)? else {
                    self.left.extend_from_slice(rest);
                    break;
                };
                rest = after(rest, written)?;
                self.is_unflushed = true;
            }
            Ok(Poll::Ready(read.len()))
        })
    }

    fn write_left<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.left.is_empty() {
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.left))?;
            self.is_unflushed = true;
            let rest = after(&self.left, written)?.len();
            self.left.drain(..self.left.len() - rest);
        }
        // Its place, too.
        self.left = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn flush<W: AsyncWrite + Unpin>(&mut self, writer: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_unflushed {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// What is left of `bytes` after a write.
fn after(bytes: &[u8], written: usize) -> io::Result<&[u8]> {
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    bytes.get(written..).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::scratch::BYTES as CHUNK;

    #[tokio::test]
    async fn each_side_gets_what_the_other_said_and_its_end() {
        let (mut client, mut downstream) = duplex(7);
        let (mut upstream, mut server) = duplex(5);
        let carried = Carried::default();
        let request: Vec<u8> = (0..100_000_u32).map(|at| at.to_be_bytes()[3]).collect();
        let asking = async {
            client.write_all(&request).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let answering = async {
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            // After the end of the other half.
            server.write_all(b"heard").await.unwrap();
            server.shutdown().await.unwrap();
            heard
        };
        let (copied, answer, heard) =
            tokio::join!(both_ways(&mut downstream, &mut upstream, &carried), asking, answering);
        copied.unwrap();
        assert_eq!((answer.as_slice(), heard == request), (&b"heard"[..], true));
        assert_eq!((carried.received.get(), carried.sent.get()), (100_000, 5));
    }

    #[tokio::test]
    async fn what_a_writer_does_not_take_is_kept_and_no_more_is_read() {
        let (mut client, mut downstream) = duplex(4 * CHUNK);
        let (mut upstream, mut server) = duplex(1);
        let carried = Carried::default();
        client.write_all(&vec![7; 3 * CHUNK]).await.unwrap();
        let copying = both_ways(&mut downstream, &mut upstream, &carried);
        tokio::select! {
            biased;
            copied = copying => panic!("{copied:?}"),
            first = server.read_u8() => assert_eq!(first.unwrap(), 7),
        }
        assert_eq!(carried.received.get(), CHUNK as u64);
    }

    #[tokio::test]
    async fn a_side_that_breaks_ends_both() {
        let (client, mut downstream) = duplex(64);
        let (mut upstream, mut server) = duplex(64);
        server.write_all(b"answer").await.unwrap();
        drop(client);
        let failed = both_ways(&mut downstream, &mut upstream, &Carried::default()).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::BrokenPipe);
    }
}
