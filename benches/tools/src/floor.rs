//! The floor: what hyper, rustls and the kernel ask for a pair that only forwards. No policy, no records, no limits, no
//! deadlines; what a proxy costs above this is its own.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use http::{HeaderValue, Request, Response, Uri, Version, header::HOST};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Floor, Link, Side, tls::Material};

/// Runs one half for as long as it lives.
pub(crate) async fn run(half: Floor) -> Result<()> {
    let Floor { side, link, listen, to, certificate, key, roots } = half;
    let material = Material::read(&certificate, &key, &roots)?;
    let protocol: Option<&[u8]> = match link {
        Link::Http1 => Some(b"http/1.1"),
        Link::Http2 => Some(b"h2"),
        Link::Tcp => None,
    };
    let (accepts, dials) = match side {
        Side::Outbound => (None, Some(TlsConnector::from(Arc::new(material.client(protocol)?)))),
        Side::Inbound => (Some(TlsAcceptor::from(Arc::new(material.server(protocol)?))), None),
    };
    let half =
        Arc::new(Half { side, link, accepts, dials, to, idle: Mutex::default(), shared: Mutex::default() });
    let listener = TcpListener::bind(listen).await?;
    crate::say(&"ready")?;
    loop {
        let (stream, _) = listener.accept().await?;
        let half = Arc::clone(&half);
        // A load that ends in the middle of a request is no fault of this end.
        tokio::spawn(async move { half.serve(stream).await });
    }
}

/// Plain, or TLS over it.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

struct Half {
    side: Side,
    link: Link,
    accepts: Option<TlsAcceptor>,
    dials: Option<TlsConnector>,
    to: SocketAddr,
    /// Upstream HTTP/1.1 connections, the one used last on top. Held for a few instructions.
    idle: Mutex<Vec<http1::SendRequest<Incoming>>>,
    /// The one upstream HTTP/2 connection. Held for a few instructions.
    shared: Mutex<Option<http2::SendRequest<Incoming>>>,
}

impl Half {
    async fn serve(self: Arc<Self>, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut downstream: Box<dyn Stream> = match &self.accepts {
            Some(tls) => Box::new(tls.accept(stream).await?),
            None => Box::new(stream),
        };
        if self.link == Link::Tcp {
            let mut upstream = self.dial().await?;
            copy_bidirectional_with_sizes(&mut downstream, &mut upstream, COPY, COPY).await?;
            return Ok(());
        }
        let forward = service_fn(move |request| {
            let half = Arc::clone(&self);
            async move { half.forward(request).await }
        });
        let served = auto::Builder::new(TokioExecutor::new());
        let _ = served.serve_connection(TokioIo::new(downstream), forward).await;
        Ok(())
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Incoming>> {
        let is_http2 = match self.side {
            Side::Outbound => self.link == Link::Http2,
            // gRPC needs HTTP/2 at the application; the rest is HTTP/1.1 there, as behind the other proxies.
            Side::Inbound => request.headers().contains_key("te"),
        };
        if is_http2 { self.forward_http2(request).await } else { self.forward_http1(request).await }
    }

    async fn forward_http1(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse()?;
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().entry(HOST).or_insert(HeaderValue::from_static("server"));
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|connection| !connection.is_closed());
            let ready = idle.iter().rposition(http1::SendRequest::is_ready);
            ready.map(|ready| idle.remove(ready))
        };
        let mut connection = if let Some(connection) = idle {
            connection
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(self.dial().await?)).await?;
            tokio::spawn(connection);
            sender
        };
        let response = connection.send_request(request).await;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(response?)
    }

    async fn forward_http2(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() =
            Uri::builder().scheme("http").authority("server").path_and_query(path).build()?;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(HOST);
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut connection = if let Some(connection) = shared.filter(|connection| !connection.is_closed()) {
            connection
        } else {
            let io = TokioIo::new(self.dial().await?);
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
            sender
        };
        Ok(connection.send_request(request).await?)
    }

    async fn dial(&self) -> Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.dials {
            Some(tls) => Box::new(tls.connect(ServerName::try_from("server")?, stream).await?),
            None => Box::new(stream),
        })
    }
}

const COPY: usize = 16 * 1024;
