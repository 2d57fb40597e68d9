//! Applications and clients whose bodies a test sends and reads piece by piece.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;

/// Any body, either way.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An application of either HTTP version that answers as a test says.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Service {
    pub(crate) async fn start<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::with_streams(200, answer).await
    }

    /// The same, that takes so many streams of HTTP/2 on a connection.
    pub(crate) async fn with_streams<F, R>(streams: u32, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let answer = answer.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let response = answer(request);
                        async move { Ok::<_, io::Error>(response.await) }
                    });
                    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    builder.http2().enable_connect_protocol().max_concurrent_streams(streams);
                    // A connection that the sidecar drops is no failure of the application.
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(tcp), service).await;
                });
            }
        });
        Self { address, _serving: serving }
    }
}

/// A whole body.
pub(crate) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that ends when its sender is dropped, and holds no more than one piece by itself.
pub(crate) fn pieces() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, stream_of(ReceiverStream::new(receiver)))
}

/// A body of these frames.
pub(crate) fn stream_of(frames: impl tokio_stream::Stream<Item = Frame<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(tokio_stream::StreamExt::map(frames, Ok)).boxed_unsync()
}

/// HTTP/1.1 over `stream`. The connection ends with its sender, and whoever sends on it sees how.
pub(crate) async fn client_h1<S>(stream: S) -> http1::SendRequest<Body>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    sender
}

/// HTTP/2 over `stream`, the same.
pub(crate) async fn client_h2<S>(stream: S) -> http2::SendRequest<Body>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}
