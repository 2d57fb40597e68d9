//! One connection to whoever decides: in plaintext on this host, or with a server that has proven who it is. It serves for a
//! while and no longer than both certificates, so that what proves the server is looked at again.

use std::{path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use sidegate_identity::Usage;
use sidegate_proto::external_authorization::authorization_client::AuthorizationClient;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::Instant,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::External;
use crate::{
    config::DecisionServer,
    identity::{Peer, client_time_to_begin},
    snapshot::{ALPN_HTTP2, Snapshot},
    tls,
};

/// An open connection, whose requests share it.
#[derive(Debug)]
pub(super) struct Connection {
    channel: Channel,
    until: Instant,
}

impl Connection {
    /// The error is for the log.
    pub(super) async fn open(external: &External, snapshot: &Snapshot) -> Result<Self, String> {
        let (channel, time) = match &external.config.server {
            DecisionServer::Loopback(address) => (over(tcp(address).await?).await?, LONGEST),
            DecisionServer::Unix(path) => (over(unix(path).await?).await?, LONGEST),
            DecisionServer::Tls { address, trust_bundle, name } => {
                let config = tls::trusting_file(trust_bundle, &[ALPN_HTTP2]).await?;
                (over(proven(address, name.clone(), config).await?).await?, LONGEST)
            }
            DecisionServer::Mesh { address, .. } => of_mesh(address, external, snapshot).await?,
        };
        Ok(Self { channel, until: Instant::now() + time.min(LONGEST) })
    }

    /// Whether questions may still be begun on it.
    pub(super) fn is_usable(&self) -> bool {
        Instant::now() < self.until
    }

    pub(super) fn client(&self, answer_bytes: usize) -> AuthorizationClient<Channel> {
        AuthorizationClient::new(self.channel.clone()).max_decoding_message_size(answer_bytes)
    }
}

/// A server of the mesh, and for how long it is asked.
async fn of_mesh(
    address: &str,
    external: &External,
    snapshot: &Snapshot,
) -> Result<(Channel, Duration), String> {
    let (Some(tls), Some(secured)) = (&external.tls, &snapshot.secured) else {
        return Err("this sidecar has no valid certificate".to_owned());
    };
    let stream = tls::originate_over(tcp(address).await?, Arc::clone(&tls.http2))
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    let peer = Peer::of(stream.get_ref().1.peer_certificates(), Usage::Server, &snapshot.trust)
        .map_err(|error| format!("{address}: {error}"))?;
    let time = client_time_to_begin(secured.credentials.svid(), &peer);
    Ok((over(stream).await?, time))
}

async fn tcp(address: impl tokio::net::ToSocketAddrs + std::fmt::Display) -> Result<TcpStream, String> {
    let named = address.to_string();
    let tcp = TcpStream::connect(address).await.map_err(|error| format!("{named}: {error}"))?;
    tcp.set_nodelay(true).map_err(|error| format!("{named}: {error}"))?;
    Ok(tcp)
}

async fn unix(path: &Path) -> Result<UnixStream, String> {
    UnixStream::connect(path).await.map_err(|error| format!("{}: {error}", path.display()))
}

async fn proven(
    address: &str,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let tcp = tcp(address).await?;
    TlsConnector::from(config).connect(name, tcp).await.map_err(|error| format!("{address}: {error}"))
}

/// HTTP/2 over a stream. A lost connection is noticed rather than replaced unseen.
async fn over<S>(stream: S) -> Result<Channel, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut stream = Some(TokioIo::new(stream));
    Endpoint::from_static("http://external-authorization.sidegate")
        .http2_max_header_list_size(MOST_HEADER_BYTES)
        .connect_with_connector(service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| std::io::Error::other("the connection was lost")) }
        }))
        .await
        .map_err(|error| error.to_string())
}

/// Then names are looked up and trust bundles read anew.
const LONGEST: Duration = Duration::from_mins(10);
const MOST_HEADER_BYTES: u32 = 16 * 1024;
