//! Clients of a sidecar: raw TLS under any SVID, and HTTP over it or over plain TCP.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use sidegate_identity::{
    SpiffeId, TrustBundle, TrustBundles, TrustDomain,
    tls::{Credentials, Expected, client_config},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Authority, DOMAIN, Svid};

/// Mutual TLS as `svid`, which `authority` issued, to a server that must prove `server`. An empty `alpn` offers none.
pub(crate) async fn tls(
    address: SocketAddr,
    authority: &Authority,
    svid: Option<&Svid>,
    server: &str,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    let bundle = TrustBundle::from_pem(domain, authority.bundle().as_bytes()).unwrap();
    let trust: TrustBundles = [bundle].into_iter().collect();
    let credentials = svid.map(|svid| credentials(svid, &trust));
    let expected = Expected::OneOf(Arc::new([SpiffeId::parse(server).unwrap()]));
    let offered: &[&[u8]] = if alpn.is_empty() { &[] } else { &[alpn] };
    let config = client_config(credentials.as_ref(), Arc::new(trust), expected, offered);
    connect(address, config).await
}

/// TLS by any configuration.
pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::from(address.ip()), tcp).await
}

pub(crate) fn credentials(svid: &Svid, trust: &TrustBundles) -> Credentials {
    let chain = CertificateDer::pem_slice_iter(svid.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(svid.key.as_bytes()).unwrap();
    Credentials::new(chain, key, trust, UnixTime::now()).unwrap()
}

/// Which HTTP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Http {
    One,
    Two,
}

/// One HTTP connection; requests go over this one or not at all.
pub(crate) struct Connection {
    sender: Sender,
    _driving: JoinSet<()>,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Connection {
    /// Over `stream`.
    pub(crate) async fn over<S>(stream: S, version: Http) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut driving = JoinSet::new();
        let stream = TokioIo::new(stream);
        let sender = match version {
            Http::One => {
                let (sender, connection) = http1::handshake(stream).await.unwrap();
                // How a connection ends is seen by whoever sends on it.
                driving.spawn(async move { drop(connection.await) });
                Sender::One(sender)
            }
            Http::Two => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                driving.spawn(async move { drop(connection.await) });
                Sender::Two(sender)
            }
        };
        Self { sender, _driving: driving }
    }

    /// In plaintext, as an application speaks to its own sidecar.
    pub(crate) async fn plain(address: SocketAddr, version: Http) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), version).await
    }

    /// Sends `request`; the answer's body is yet to be read.
    pub(crate) async fn open(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Two(sender) => sender.send_request(request).await,
        }
    }

    /// Sends `request` and reads the answer to its end.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Reply> {
        let response = self.open(request).await?;
        let (parts, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        let body = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
        Ok(Reply { status: parts.status, headers: parts.headers, body, trailers })
    }

    /// `method target`, to host `payments`.
    pub(crate) async fn call(&mut self, method: &str, target: &str) -> hyper::Result<Reply> {
        let request = match self.sender {
            Sender::One(_) => Request::builder().uri(target).header("host", "payments"),
            Sender::Two(_) => Request::builder().uri(format!("http://payments{target}")),
        };
        self.send(request.method(method).body(Full::default()).unwrap()).await
    }

    /// The status of `method target`.
    pub(crate) async fn status(&mut self, method: &str, target: &str) -> u16 {
        self.call(method, target).await.expect("an answer").status.as_u16()
    }
}
