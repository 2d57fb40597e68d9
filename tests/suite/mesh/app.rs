//! Applications behind a sidecar: an HTTP server that remembers every request that reached it, and a raw listener.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{StreamExt, wrappers::IntervalStream};

use super::OwnTls;

/// What an application saw of one request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An HTTP application, either version, that answers 200 with the body it was sent and a trailer.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _serving: JoinSet<()>,
}

/// An HTTP/2 application whose answers never end.
pub(crate) struct Endless {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

pub(crate) async fn endless() -> Endless {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            connections.spawn(async move {
                let service = service_fn(|_: Request<Incoming>| async {
                    let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(10)));
                    let frames = ticks.map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"tick"))));
                    Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
                });
                // It ends when the sidecar does.
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tcp), service)
                    .await;
            });
        }
    });
    Endless { address, _serving: serving }
}

impl App {
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// The same over TLS of its own.
    pub(crate) async fn start_with(tls: &OwnTls) -> Self {
        Self::serve(Some(tls.acceptor())).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let log = Arc::clone(&seen);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (log, tls) = (Arc::clone(&log), tls.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, Arc::clone(&log)));
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A connection that the sidecar drops is no failure of the application.
                    match tls {
                        None => drop(server.serve_connection(TokioIo::new(tcp), service).await),
                        Some(tls) => {
                            let Ok(stream) = tls.accept(tcp).await else { return };
                            drop(server.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                });
            }
        });
        Self { address, seen, _serving: serving }
    }

    /// Everything that reached it so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    // A body that breaks off is remembered as empty.
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let is_grpc = parts.headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
    log.lock().unwrap().push(Seen {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map_or_else(|| parts.uri.to_string(), ToString::to_string),
        headers: parts.headers,
        body: body.clone(),
    });
    let mut response = Response::new(if is_grpc { with_trailers(body) } else { Full::new(body).boxed() });
    if is_grpc {
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    }
    Ok(response)
}

fn with_trailers(body: Bytes) -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-forwarded-client-cert", HeaderValue::from_static("forged"));
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    StreamBody::new(tokio_stream::iter(frames)).boxed()
}
