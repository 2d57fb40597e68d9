//! One connection to the control plane: TLS to exactly its SPIFFE ID, with or without a certificate of our own. The
//! mesh's own bundle says which roots vouch for it; where that one does not, the configured bundle is read again, so
//! that a mesh whose root was made anew can be joined anew.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use sidegate_codes::Code;
use sidegate_identity::{
    SpiffeId, TrustBundle, TrustBundles, TrustDomain,
    tls::{Credentials, Expected, KeyExchange, client_config_by},
};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{
    config::{Config, ControlPlane, ControlPlaneAddress},
    identity::vouches_for,
    snapshot::Reader,
    tls,
};

/// Connects to the control plane.
#[derive(Debug)]
pub(crate) struct Connector {
    address: ControlPlaneAddress,
    trust_domain: TrustDomain,
    bootstrap_file: PathBuf,
    /// As it was at the start.
    bootstrap: Arc<TrustBundles>,
    expected: Arc<[SpiffeId]>,
    key_exchange: KeyExchange,
    mesh: Reader,
}

/// No connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Usually a matter of time.
    #[error("{address}: {reason}")]
    Failed { address: String, reason: String },
    /// It has another root than the one that our certificate is of, and the configured bundle knows it.
    #[error(
        "{address}: it proves itself by `controlPlane.trustBundle` alone, which does not vouch for our certificate"
    )]
    OtherRoot { address: String },
}

/// Why a handshake or what leads to it failed.
struct DialError {
    reason: String,
    is_untrusted: bool,
}

impl Connector {
    /// The error is why the configured bundle cannot be used.
    pub(super) fn new(
        config: &Config,
        control_plane: &ControlPlane,
        expected: SpiffeId,
        mesh: Reader,
    ) -> Result<Self, String> {
        let trust_domain = config.trust_domain.clone();
        let pem = std::fs::read(&control_plane.trust_bundle).map_err(|error| error.to_string())?;
        Ok(Self {
            address: control_plane.address.clone(),
            bootstrap_file: control_plane.trust_bundle.clone(),
            bootstrap: Arc::new(bundles(&trust_domain, &pem)?),
            trust_domain,
            expected: Arc::new([expected]),
            key_exchange: config.key_exchange,
            mesh,
        })
    }

    /// A new connection; with `credentials` the control plane knows who is calling.
    pub(super) async fn connect(&self, credentials: Option<&Credentials>) -> Result<Channel, ConnectError> {
        let trust = self.trust();
        match self.dial(credentials, Arc::clone(&trust)).await {
            Ok(channel) => Ok(channel),
            Err(error) if error.is_untrusted => self.connect_anew(credentials, &trust, error).await,
            Err(error) => Err(self.failed(error.reason)),
        }
    }

    /// By the configured bundle as it is now, unless that is what failed just now.
    async fn connect_anew(
        &self,
        credentials: Option<&Credentials>,
        tried: &TrustBundles,
        error: DialError,
    ) -> Result<Channel, ConnectError> {
        let configured = match self.configured().await {
            Ok(configured) if configured != *tried => Arc::new(configured),
            Ok(_) => return Err(self.failed(error.reason)),
            Err(unusable) => {
                let file = self.bootstrap_file.display();
                return Err(self.failed(format!("{}; and {file}: {unusable}", error.reason)));
            }
        };
        let channel = self
            .dial(credentials, Arc::clone(&configured))
            .await
            .map_err(|error| self.failed(error.reason))?;
        if credentials.is_none_or(|own| vouches_for(&configured, own)) {
            Ok(channel)
        } else {
            Err(ConnectError::OtherRoot { address: self.address.to_string() })
        }
    }

    async fn dial(
        &self,
        credentials: Option<&Credentials>,
        trust: Arc<TrustBundles>,
    ) -> Result<Channel, DialError> {
        let expected = Expected::OneOf(Arc::clone(&self.expected));
        let config = client_config_by(self.key_exchange, credentials, trust, expected, &[b"h2"]);
        // Connected here rather than inside the channel: the reason of a failed handshake stays readable, and a lost
        // connection is noticed rather than replaced unseen.
        let stream = timeout(CONNECT_TIMEOUT, async {
            let stream = self.open().await.map_err(|cause| DialError::other(&cause))?;
            tls::originate_over(stream, config).await.map_err(|cause| DialError {
                is_untrusted: cause.code() == Code::UntrustedCertificate,
                reason: cause.to_string(),
            })
        })
        .await
        .map_err(|_| DialError::other(&"no connection in time"))??;
        let mut stream = Some(TokioIo::new(stream));
        Endpoint::from_static("http://control-plane.sidegate")
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER)
            .keep_alive_while_idle(true)
            .connect_with_connector(service_fn(move |_: Uri| {
                let stream = stream.take();
                async move { stream.ok_or_else(|| std::io::Error::other("the connection was lost")) }
            }))
            .await
            .map_err(|cause| DialError::other(&cause))
    }

    async fn open(&self) -> std::io::Result<Either<TcpStream, UnixStream>> {
        match &self.address {
            ControlPlaneAddress::Network(address) => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Ok(Either::Left(tcp))
            }
            ControlPlaneAddress::Socket(path) => Ok(Either::Right(UnixStream::connect(path).await?)),
        }
    }

    /// Whether the kernel tells the control plane whose process this is.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.address, ControlPlaneAddress::Socket(_))
    }

    /// The mesh's own bundle once it is known; the configured one at the first contact.
    fn trust(&self) -> Arc<TrustBundles> {
        let snapshot = self.mesh.load();
        if snapshot.trust.get(self.trust_domain.as_str()).is_some() {
            Arc::clone(&snapshot.trust)
        } else {
            Arc::clone(&self.bootstrap)
        }
    }

    async fn configured(&self) -> Result<TrustBundles, String> {
        let pem = tokio::fs::read(&self.bootstrap_file).await.map_err(|error| error.to_string())?;
        bundles(&self.trust_domain, &pem)
    }

    fn failed(&self, reason: String) -> ConnectError {
        ConnectError::Failed { address: self.address.to_string(), reason }
    }
}

impl DialError {
    fn other(cause: &dyn std::fmt::Display) -> Self {
        Self { reason: cause.to_string(), is_untrusted: false }
    }
}

fn bundles(trust_domain: &TrustDomain, pem: &[u8]) -> Result<TrustBundles, String> {
    let bundle = TrustBundle::from_pem(trust_domain.clone(), pem).map_err(|error| error.to_string())?;
    Ok([bundle].into_iter().collect())
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(5);
