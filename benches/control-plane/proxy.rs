//! A simulated proxy: a key, a certificate, a connection, a subscription that acknowledges whatever comes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use sidegate_identity::{
    SpiffeId, TrustBundles,
    tls::{self, Credentials, Expected},
};
use sidegate_proto::v1::{
    Ack, Hello, InboundPort, IssueRequest, SubscribeRequest, discovery_client::DiscoveryClient,
    identity_client::IdentityClient, subscribe_request::Message,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// What a proxy says of itself.
#[derive(Clone)]
pub(crate) struct Role {
    pub(crate) number: usize,
    /// Whose name is its join token.
    pub(crate) service: String,
    /// `namespace/name` of what it calls.
    pub(crate) calls: Vec<String>,
    /// Where its application is reached.
    pub(crate) port: u16,
}

/// An update that was acknowledged.
pub(crate) struct Acked {
    pub(crate) number: usize,
    pub(crate) at: Instant,
    pub(crate) bytes: usize,
    pub(crate) resources: usize,
}

/// One machine has many addresses, so that the limit per source counts as it would for many hosts.
fn source(number: usize) -> IpAddr {
    let [.., high, low] = (number / 500 + 2).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 0, high, low))
}

pub(crate) async fn dial(
    to: SocketAddr,
    number: usize,
    trust: &TrustBundles,
    own: Option<&Credentials>,
) -> Result<TlsStream<TcpStream>> {
    let id = SpiffeId::parse("spiffe://shop.test/ns/sidegate/sa/control-plane")?;
    let expected = Expected::OneOf(Arc::from([id]));
    let config = tls::client_config(own, Arc::new(trust.clone()), expected, &[b"h2"]);
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(source(number), 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(TlsConnector::from(config).connect(ServerName::from(to.ip()), stream).await?)
}

pub(crate) async fn channel(
    to: SocketAddr,
    number: usize,
    trust: &TrustBundles,
    own: Option<&Credentials>,
) -> Result<Channel> {
    let mut stream = Some(TokioIo::new(dial(to, number, trust, own).await?));
    let connect = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("the connection was lost")) }
    });
    Ok(Endpoint::from_static("http://control-plane").connect_with_connector(connect).await?)
}

/// Keys and requests are made beforehand where the figure is not about them.
pub(crate) struct Key {
    pair: KeyPair,
    pub(crate) csr: Vec<u8>,
}

impl Key {
    pub(crate) fn new() -> Result<Self> {
        let pair = KeyPair::generate()?;
        let csr = CertificateParams::new(Vec::new())?.serialize_request(&pair)?.der().to_vec();
        Ok(Self { pair, csr })
    }

    pub(crate) fn credentials(&self, chain: Vec<Vec<u8>>, trust: &TrustBundles) -> Result<Credentials> {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()));
        Ok(Credentials::new(chain, key, trust, UnixTime::now())?)
    }
}

/// A certificate for a join token, or for the certificate that the channel presents.
pub(crate) async fn issue(channel: Channel, csr: Vec<u8>, join_token: &str) -> Result<Vec<Vec<u8>>> {
    let request = IssueRequest { csr, join_token: join_token.to_owned() };
    Ok(IdentityClient::new(channel).issue(request).await?.into_inner().certificate_chain)
}

/// First certificate of a proxy.
pub(crate) async fn enrolled(
    to: SocketAddr,
    trust: &TrustBundles,
    number: usize,
    service: &str,
) -> Result<Credentials> {
    let key = Key::new()?;
    let chain = issue(channel(to, number, trust, None).await?, key.csr.clone(), service).await?;
    key.credentials(chain, trust)
}

/// Subscribes and acknowledges until the stream ends; tells each acknowledgement.
pub(crate) async fn subscribe(
    to: SocketAddr,
    trust: &TrustBundles,
    own: &Credentials,
    role: Role,
    acked: mpsc::UnboundedSender<Acked>,
) -> Result<()> {
    let channel = channel(to, role.number, trust, Some(own)).await?;
    let (say, said) = mpsc::channel(2);
    let hello = Hello {
        instance: format!("{:032x}", role.number),
        release: "bench".to_owned(),
        inbound: vec![InboundPort { address: format!("{}:{}", source(role.number), role.port), port: 8080 }],
        services: role.calls,
        held: BTreeMap::new().into_iter().collect(),
    };
    say.send(SubscribeRequest { message: Some(Message::Hello(hello)) }).await?;
    let mut updates = DiscoveryClient::new(channel)
        .max_decoding_message_size(16 << 20)
        .subscribe(ReceiverStream::new(said))
        .await?
        .into_inner();
    while let Some(update) = updates.message().await? {
        let ack = Ack { version: update.version };
        say.send(SubscribeRequest { message: Some(Message::Ack(ack)) }).await?;
        let (bytes, resources) = (update.encoded_len(), update.set.len() + update.removed.len());
        acked.send(Acked { number: role.number, at: Instant::now(), bytes, resources })?;
    }
    Ok(())
}

/// The next so many acknowledgements.
pub(crate) async fn next(
    acked: &mut mpsc::UnboundedReceiver<Acked>,
    count: usize,
    patience: Duration,
) -> Result<Vec<Acked>> {
    let mut all = Vec::with_capacity(count);
    let collected = tokio::time::timeout(patience, async {
        while all.len() < count {
            all.push(acked.recv().await.context("nobody acknowledges any more")?);
        }
        Ok(())
    });
    let ended: Result<Result<()>, _> = collected.await;
    ensure!(ended.is_ok(), "{} of {count} within {patience:?}", all.len());
    ended??;
    Ok(all)
}
