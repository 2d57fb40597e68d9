//! A sidecar's side of the wire: keys, mutual TLS, a subscription.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use sidegate_identity::{
    SpiffeId, TrustBundles,
    tls::{self, Credentials, Expected},
};
use sidegate_proto::v1::{
    Ack, Hello, InboundPort, IssueRequest, IssueResponse, Nack, SubscribeRequest, Update,
    discovery_client::DiscoveryClient, identity_client::IdentityClient, subscribe_request::Message,
};
use tokio::{net::TcpSocket, sync::mpsc, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Error},
};

use crate::mesh::Mesh;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A key with its CSR.
pub(crate) struct Key {
    pub(crate) pair: KeyPair,
    pub(crate) csr: Vec<u8>,
}

impl Key {
    pub(crate) fn new() -> Self {
        Self::asking_for(&[])
    }

    /// A CSR that asks for DNS names; a CA that listened to it would be no CA of ours.
    pub(crate) fn asking_for(names: &[&str]) -> Self {
        let pair = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let csr = CertificateParams::new(names).unwrap().serialize_request(&pair).unwrap();
        let csr = csr.der().to_vec();
        Self { pair, csr }
    }

    pub(crate) fn into_credentials(self, response: IssueResponse, trust: &TrustBundles) -> Credentials {
        let chain = response.certificate_chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()));
        Credentials::new(chain, key, trust, UnixTime::now()).unwrap()
    }
}

/// A channel to the control plane, with a client certificate or none. The server must be the control plane.
pub(crate) async fn connect(mesh: &Mesh, credentials: Option<&Credentials>) -> Result<Channel, Error> {
    connect_at(mesh.running().grpc(), LOOPBACK, &mesh.trust(), credentials).await
}

async fn connect_at(
    address: SocketAddr,
    source: IpAddr,
    trust: &TrustBundles,
    credentials: Option<&Credentials>,
) -> Result<Channel, Error> {
    let id = SpiffeId::parse("spiffe://shop.test/ns/sidegate/sa/control-plane").unwrap();
    let expected = Expected::OneOf(Arc::from([id]));
    let config = tls::client_config(credentials, Arc::new(trust.clone()), expected, &[b"h2"]);
    let connector = TlsConnector::from(config);
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(source, 0))?;
            let stream = socket.connect(address).await?;
            let name = ServerName::from(address.ip());
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://control-plane").connect_with_connector(connect).await
}

/// Asks for a certificate.
pub(crate) async fn issue(
    mesh: &Mesh,
    credentials: Option<&Credentials>,
    csr: Vec<u8>,
    join_token: &str,
) -> Result<IssueResponse, Status> {
    let channel = connect(mesh, credentials).await.unwrap();
    let request = IssueRequest { csr, join_token: join_token.to_owned() };
    IdentityClient::new(channel).issue(request).await.map(tonic::Response::into_inner)
}

/// Asks a control plane for a certificate that may vanish at any moment.
pub(crate) async fn issue_at(
    grpc: SocketAddr,
    trust: &TrustBundles,
    csr: Vec<u8>,
    join_token: &str,
) -> Result<IssueResponse, Status> {
    issue_from(LOOPBACK, grpc, trust, csr, join_token).await
}

/// The same from an address of this host.
pub(crate) async fn issue_from(
    source: IpAddr,
    grpc: SocketAddr,
    trust: &TrustBundles,
    csr: Vec<u8>,
    join_token: &str,
) -> Result<IssueResponse, Status> {
    let channel = connect_at(grpc, source, trust, None)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let request = IssueRequest { csr, join_token: join_token.to_owned() };
    IdentityClient::new(channel).issue(request).await.map(tonic::Response::into_inner)
}

/// Credentials by a service's join token, which is its name.
pub(crate) async fn join(mesh: &Mesh, service: &str) -> Credentials {
    let key = Key::new();
    let response = issue(mesh, None, key.csr.clone(), service).await.unwrap();
    key.into_credentials(response, &mesh.trust())
}

/// A subscribed sidecar.
pub(crate) struct Sidecar {
    pub(crate) requests: mpsc::Sender<SubscribeRequest>,
    pub(crate) updates: Streaming<Update>,
}

pub(crate) const INSTANCE: &str = "0123456789abcdef0123456789abcdef";

/// The Hello of a sidecar that calls `services` and holds nothing.
pub(crate) fn hello(services: &[&str]) -> Hello {
    Hello {
        instance: INSTANCE.to_owned(),
        release: "0.1.0".to_owned(),
        inbound: vec![InboundPort { address: "0.0.0.0:15106".to_owned(), port: 8080 }],
        services: services.iter().map(ToString::to_string).collect(),
        held: BTreeMap::new(),
    }
}

impl Sidecar {
    pub(crate) async fn subscribe(
        mesh: &Mesh,
        credentials: &Credentials,
        hello: Hello,
    ) -> Result<Self, Status> {
        let channel = connect(mesh, Some(credentials)).await.unwrap();
        let (requests, stream) = mpsc::channel(4);
        requests.send(request(Message::Hello(hello))).await.unwrap();
        let updates = DiscoveryClient::new(channel).subscribe(ReceiverStream::new(stream)).await?;
        Ok(Self { requests, updates: updates.into_inner() })
    }

    /// The next Update. Fails well before the control plane's own fallback could have noticed a change.
    pub(crate) async fn update(&mut self) -> Update {
        self.end_or_update().await.unwrap().expect("the stream has ended")
    }

    pub(crate) async fn end_or_update(&mut self) -> Result<Option<Update>, Status> {
        timeout(Duration::from_secs(5), self.updates.message()).await.expect("no update in time")
    }

    /// Why the control plane ended the stream; an update before that fails the test.
    pub(crate) async fn ended(&mut self) -> Status {
        self.end_or_update().await.expect_err("the stream must end")
    }

    pub(crate) async fn ack(&self, update: &Update) {
        self.answer(Message::Ack(Ack { version: update.version })).await;
    }

    pub(crate) async fn nack(&self, update: &Update) {
        let nack = Nack {
            version: update.version,
            path: "policies/shop/payments-callers: spec.rules[0]".to_owned(),
            code: "SG0405".to_owned(),
            message: "not understood".to_owned(),
        };
        self.answer(Message::Nack(nack)).await;
    }

    /// The next Update, acknowledged.
    pub(crate) async fn acked_update(&mut self) -> Update {
        let update = self.update().await;
        self.ack(&update).await;
        update
    }

    pub(crate) async fn answer(&self, message: Message) {
        self.requests.send(request(message)).await.unwrap();
    }
}

/// The names of an Update's resources.
pub(crate) fn names(update: &Update) -> Vec<&str> {
    update.set.iter().map(|resource| resource.name.as_str()).collect()
}

/// What a sidecar holds that has this Update in force.
pub(crate) fn held(update: &Update) -> BTreeMap<String, String> {
    update.set.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect()
}

fn request(message: Message) -> SubscribeRequest {
    SubscribeRequest { message: Some(message) }
}
