//! The application at the end of each path. It costs as little as it can and is never what is measured.

use std::{convert::Infallible, net::SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Either, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Of each answer over HTTP, and of each TCP connection that is opened for one.
pub(crate) const ANSWER: usize = 1024;

type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// Serves both ports for as long as it lives.
pub(crate) async fn run(http: SocketAddr, tcp: SocketAddr) -> Result<()> {
    let (http, tcp) = (TcpListener::bind(http).await?, TcpListener::bind(tcp).await?);
    crate::say(&"ready")?;
    tokio::try_join!(serve_http(http), serve_tcp(tcp))?;
    Ok(())
}

async fn serve_http(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let served = auto::Builder::new(TokioExecutor::new());
            // A load that ends in the middle of a request is no fault of this end.
            let _ = served.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    if request.method() == Method::POST {
        return echo(request).await;
    }
    Ok(Response::new(Either::Left(Full::new(Bytes::from_static(&[b'x'; ANSWER])))))
}

/// A unary gRPC method that returns its message.
async fn echo(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let message = request.into_body().collect().await?.to_bytes();
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = Full::new(message).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(Either::Right(body.boxed_unsync()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

async fn serve_tcp(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(send(stream));
    }
}

/// Eight bytes say how many to send, again and again until the other end is closed.
async fn send(mut stream: TcpStream) -> std::io::Result<()> {
    let chunk = vec![b'x'; 256 * 1024];
    loop {
        let mut left = stream.read_u64().await?;
        while left > 0 {
            let next = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            stream.write_all(&chunk[..next]).await?;
            left -= next as u64;
        }
    }
}
