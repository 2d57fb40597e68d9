//! One connection to the control plane: TLS to exactly its SPIFFE ID, with or without a certificate of our own.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use sidegate_identity::{
    SpiffeId, TrustBundles,
    tls::{Credentials, Expected, client_config},
};
use tokio::{net::TcpStream, time::timeout};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{snapshot::Reader, tls};

/// Connects to the control plane.
#[derive(Debug)]
pub(crate) struct Connector {
    address: String,
    bootstrap: Arc<TrustBundles>,
    expected: Arc<[SpiffeId]>,
    mesh: Reader,
}

/// No connection. Usually a matter of time.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {reason}")]
pub(crate) struct ConnectError {
    address: String,
    reason: String,
}

impl Connector {
    pub(super) fn new(
        address: String,
        bootstrap: Arc<TrustBundles>,
        expected: SpiffeId,
        mesh: Reader,
    ) -> Self {
        Self {
            address,
            bootstrap,
            expected: Arc::new([expected]),
            mesh,
        }
    }

    /// A new connection; with `credentials` the control plane knows who is calling.
    pub(super) async fn connect(&self, credentials: Option<&Credentials>) -> Result<Channel, ConnectError> {
        let error = |reason: String| ConnectError {
            address: self.address.clone(),
            reason,
        };
        let expected = Expected::OneOf(Arc::clone(&self.expected));
        let config = client_config(credentials, self.trust(), expected, &[b"h2"]);
        // Connected here rather than inside the channel: the reason of a failed handshake stays readable, and a lost
        // connection is noticed rather than replaced unseen.
        let stream = timeout(CONNECT_TIMEOUT, async {
            let tcp = TcpStream::connect(&self.address)
                .await
                .map_err(|cause| error(cause.to_string()))?;
            tcp.set_nodelay(true).map_err(|cause| error(cause.to_string()))?;
            tls::originate(tcp, config)
                .await
                .map_err(|cause| error(cause.to_string()))
        })
        .await
        .map_err(|_| error("no connection in time".to_owned()))??;
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
            .map_err(|cause| error(cause.to_string()))
    }

    /// The mesh's own bundle once it is known; the configured one at the first contact.
    fn trust(&self) -> Arc<TrustBundles> {
        let snapshot = self.mesh.load();
        let domain = self.expected.first().map_or("", SpiffeId::trust_domain);
        if snapshot.trust.get(domain).is_some() {
            Arc::clone(&snapshot.trust)
        } else {
            Arc::clone(&self.bootstrap)
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(5);
