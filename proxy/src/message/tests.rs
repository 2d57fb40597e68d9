use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::AsyncWrite;

use super::*;

/// Takes `most` bytes at a time.
struct Narrow {
    most: usize,
    taken: Vec<u8>,
}

impl AsyncWrite for Narrow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let taken = buf.len().min(self.most);
        self.taken.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

type Pieces = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// What goes out of a message whose body comes in `pieces` and may have trailers, through a stream that takes `most` bytes at a
/// time.
async fn sent(
    ends: Ends,
    pieces: &[&'static [u8]],
    trailers: Option<HeaderMap>,
    most: usize,
) -> Result<String, Broken> {
    let data = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece)));
    let frames: Vec<_> = data.chain(trailers.map(Frame::trailers)).map(Ok).collect();
    let mut outgoing = Outgoing::<Pieces>::default();
    outgoing.begin(b"head\r\n\r\n".to_vec(), ends, StreamBody::new(stream::iter(frames)));
    let mut stream = Narrow { most, taken: Vec::new() };
    poll_fn(|cx| outgoing.poll(&mut stream, cx)).await?;
    assert!(outgoing.is_done());
    Ok(String::from_utf8(stream.taken).unwrap())
}

/// Longer than what is copied.
static LONG: [u8; 10_000] = [b'a'; 10_000];

#[tokio::test]
async fn a_message_goes_out_the_same_however_little_is_taken_at_a_time() {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("sum"), HeaderValue::from_static("1"))]);
    for most in [1, 7, 4096, usize::MAX] {
        let short = sent(Ends::Length(5), &[b"he", b"", b"llo"], None, most).await.unwrap();
        assert_eq!(short, "head\r\n\r\nhello");
        let long = sent(Ends::Length(10_002), &[b"b", &LONG, b"c"], None, most).await.unwrap();
        assert!(long.ends_with(&format!("\r\n\r\nb{}c", "a".repeat(LONG.len()))));
        let chunks: &[&[u8]] = &[b"hello", b"", &LONG, b"!"];
        let chunked =
            sent(Ends::Chunked { with_trailers: true }, chunks, Some(trailers.clone()), most).await.unwrap();
        let (_, body) = chunked.split_once("\r\n\r\n").unwrap();
        let long = format!("2710\r\n{}\r\n", "a".repeat(LONG.len()));
        assert_eq!(body, format!("5\r\nhello\r\n{long}1\r\n!\r\n0\r\nsum: 1\r\n\r\n"));
    }
}

#[tokio::test]
async fn a_body_is_held_to_the_length_that_its_head_says() {
    for pieces in [&[&b"hell"[..]][..], &[], &[b"hello", b"!"], &[b"hello!"], &[b"hel", b"lo!"]] {
        let result = sent(Ends::Length(5), pieces, None, usize::MAX).await;
        // What follows the last byte is not even asked for.
        let is_cut = matches!(&result, Ok(sent) if sent.ends_with("\r\n\r\nhello"));
        assert!(is_cut || matches!(result, Err(Broken::Body(_))), "{pieces:?}: {result:?}");
    }
}
