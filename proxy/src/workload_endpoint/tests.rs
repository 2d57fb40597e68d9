use std::path::PathBuf;

use rustls::pki_types::UnixTime;
use sidegate_identity::{
    Quarantine, Refused, SpiffeId, TrustBundle, TrustBundles, TrustDomain, certificates_in_sequence,
    tls::{Credentials, KeyUse},
};
use sidegate_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, time::timeout};
use tonic::{
    Streaming,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Channel, Uri},
};

use super::*;
use crate::{
    config::{Config, WorkloadEndpoint},
    snapshot::{Own, Publisher},
    test_authority::{Root, Svid as Issued},
};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";
const CONFIG: &str = "trustDomain: shop.test\n\
    workload: {namespace: shop, serviceAccount: payments}\n\
    identity: {files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}\n\
    policies: policies.yaml\n\
    inbound: [{listen: '127.0.0.1:0', forward: '127.0.0.1:1'}]\n\
    workloadApi: {listen: api.sock}\n";
/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// A sidecar as far as its application sees it here.
struct Sidecar {
    folder: TempDir,
    publisher: Publisher,
    metrics: Arc<Metrics>,
    _serving: JoinSet<()>,
}

impl Sidecar {
    /// Without an identity.
    fn start() -> Self {
        Self::answering(Users::Own)
    }

    fn answering(users: Users) -> Self {
        let folder = TempDir::new().unwrap();
        let config = Config::parse(&folder.path().join("proxy.yaml"), CONFIG).unwrap();
        let metrics = Arc::new(Metrics::default());
        let publisher = Publisher::new(config, Arc::clone(&metrics));
        let endpoint = WorkloadEndpoint { socket: folder.path().join("api.sock"), users: users.clone() };
        let socket = Socket::open(&endpoint).unwrap();
        let endpoint = Endpoint { mesh: publisher.reader(), users, metrics: Arc::clone(&metrics) };
        let mut serving = JoinSet::new();
        serving.spawn(run(socket, endpoint));
        Self { folder, publisher, metrics, _serving: serving }
    }

    fn has(&self, issued: &Issued, trust: TrustBundles) {
        let (chain, key) = issued.pkcs8();
        let credentials =
            Credentials::for_use(KeyUse::HandedOn, chain, key, &trust, UnixTime::now()).unwrap();
        self.publisher.local(Arc::new(trust), Own::New(credentials), None);
    }

    fn trusts(&self, trust: TrustBundles) {
        self.publisher.local(Arc::new(trust), Own::Kept, None);
    }

    async fn client(&self) -> Client {
        let socket = self.folder.path().join("api.sock");
        Client(SpiffeWorkloadApiClient::new(channel(socket).await))
    }

    fn refusals(&self, reason: &'static str) -> u64 {
        let mut found = 0;
        let seen = self.metrics.workload_refusals.each(|label, count| {
            found += if *label == reason { count } else { 0 };
            Ok(())
        });
        seen.unwrap();
        found
    }

    async fn has_streams(&self, wanted: i64) {
        let reached = async {
            while self.metrics.workload_streams.load(Ordering::Relaxed) != wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.expect("so many streams are open in time");
    }
}

struct Client(SpiffeWorkloadApiClient<Channel>);

impl Client {
    async fn svids(&mut self) -> Result<Streaming<X509svidResponse>, Status> {
        let answer = self.0.fetch_x509svid(with_header(X509svidRequest {}));
        Ok(timeout(PATIENCE, answer).await.expect("an answer in time")?.into_inner())
    }

    async fn bundles(&mut self) -> Result<Streaming<X509BundlesResponse>, Status> {
        let answer = self.0.fetch_x509_bundles(with_header(X509BundlesRequest {}));
        Ok(timeout(PATIENCE, answer).await.expect("an answer in time")?.into_inner())
    }
}

async fn channel(socket: PathBuf) -> Channel {
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    let endpoint = tonic::transport::Endpoint::from_static("http://workload-api.localhost");
    endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap()
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HEADER, MetadataValue::from_static("true"));
    request
}

async fn next<M>(stream: &mut Streaming<M>) -> Result<M, Status> {
    let message = timeout(PATIENCE, stream.message()).await.expect("a message in time")?;
    Ok(message.expect("the stream goes on"))
}

fn bundles<'a>(of: impl IntoIterator<Item = (&'a str, &'a Root)>) -> TrustBundles {
    let bundle = |(domain, root): (&str, &Root)| {
        TrustBundle::from_der(TrustDomain::parse(domain).unwrap(), [root.der()]).unwrap()
    };
    of.into_iter().map(bundle).collect()
}

fn shop(root: &Root) -> TrustBundles {
    bundles([("shop.test", root)])
}

#[tokio::test]
async fn the_application_gets_its_svid_with_the_key_and_the_bundle_of_each_trust_domain() {
    let (sidecar, root, partner) = (Sidecar::start(), Root::new(), Root::new());
    let issued = root.svid(PAYMENTS);
    sidecar.has(&issued, bundles([("shop.test", &root), ("partner.test", &partner)]));
    let mut client = sidecar.client().await;

    let answer = next(&mut client.svids().await.unwrap()).await.unwrap();
    let [svid] = answer.svids.as_slice() else { panic!("one SVID, not {}", answer.svids.len()) };
    assert_eq!(svid.spiffe_id, PAYMENTS);
    assert_eq!((svid.x509_svid.clone(), svid.x509_svid_key.clone()), issued.der());
    assert_eq!(certificates_in_sequence(&svid.bundle).unwrap(), [root.der()]);
    let federated = [("spiffe://partner.test".to_owned(), partner.der().to_vec())];
    assert_eq!(answer.federated_bundles, federated.clone().into(), "the own domain is not among them");

    let answer = next(&mut client.bundles().await.unwrap()).await.unwrap();
    let own = ("spiffe://shop.test".to_owned(), root.der().to_vec());
    assert_eq!(answer.bundles, [own].into_iter().chain(federated).collect());
}

#[tokio::test]
async fn a_renewal_and_a_changed_bundle_are_pushed_to_whom_they_concern() {
    let (sidecar, root, next_root) = (Sidecar::start(), Root::new(), Root::new());
    sidecar.has(&root.svid(PAYMENTS), shop(&root));
    let mut client = sidecar.client().await;
    let (mut svids, mut trusted) = (client.svids().await.unwrap(), client.bundles().await.unwrap());
    next(&mut svids).await.unwrap();
    next(&mut trusted).await.unwrap();

    let renewed = root.svid(PAYMENTS);
    sidecar.has(&renewed, shop(&root));
    assert_eq!(next(&mut svids).await.unwrap().svids[0].x509_svid, renewed.der().0);

    let both = [root.der(), next_root.der()];
    let bundle = TrustBundle::from_der(TrustDomain::parse("shop.test").unwrap(), both.clone()).unwrap();
    sidecar.trusts([bundle].into_iter().collect());
    let pushed = next(&mut svids).await.unwrap().svids.remove(0).bundle;
    assert_eq!(certificates_in_sequence(&pushed).unwrap(), both);
    // The renewal was none of the bundles, so this is the first that they hear.
    let pushed = next(&mut trusted).await.unwrap().bundles.remove("spiffe://shop.test").unwrap();
    assert_eq!(certificates_in_sequence(&pushed).unwrap(), both);
}

#[tokio::test]
async fn without_the_header_nothing_is_given() {
    let (sidecar, root) = (Sidecar::start(), Root::new());
    sidecar.has(&root.svid(PAYMENTS), shop(&root));
    let Client(mut client) = sidecar.client().await;
    let refused = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let refused = client.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let mut denied = Request::new(X509svidRequest {});
    denied.metadata_mut().insert(HEADER, MetadataValue::from_static("false"));
    assert_eq!(client.fetch_x509svid(denied).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(sidecar.refusals("header"), 3);
}

#[tokio::test]
async fn before_there_is_an_identity_the_answer_is_to_ask_again() {
    let (sidecar, root) = (Sidecar::start(), Root::new());
    let mut client = sidecar.client().await;
    assert_eq!(client.svids().await.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(client.bundles().await.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(sidecar.refusals("identity"), 2);
    sidecar.has(&root.svid(PAYMENTS), shop(&root));
    assert!(client.svids().await.is_ok());
    assert!(client.bundles().await.is_ok());
}

#[tokio::test]
async fn an_identity_that_is_taken_back_or_put_in_quarantine_is_taken_from_the_application() {
    let root = Root::new();
    let quarantine: Quarantine = [(SpiffeId::parse(PAYMENTS).unwrap(), Refused::All)].into_iter().collect();
    let endings: [(TrustBundles, fn() -> Own); 3] = [
        (TrustBundles::default(), || Own::Withdrawn),
        (shop(&root).without(quarantine), || Own::Kept),
        (shop(&Root::new()), || Own::Kept),
    ];
    for (trust, own) in endings {
        let sidecar = Sidecar::start();
        sidecar.has(&root.svid(PAYMENTS), shop(&root));
        let mut svids = sidecar.client().await.svids().await.unwrap();
        next(&mut svids).await.unwrap();
        sidecar.publisher.local(Arc::new(trust), own(), None);
        assert_eq!(next(&mut svids).await.unwrap_err().code(), tonic::Code::PermissionDenied);
        sidecar.has_streams(0).await;
    }
}

#[tokio::test]
async fn one_stream_too_many_is_refused_and_a_closed_one_makes_room() {
    let (sidecar, root) = (Sidecar::start(), Root::new());
    sidecar.has(&root.svid(PAYMENTS), shop(&root));
    let mut client = sidecar.client().await;
    let mut open = Vec::new();
    for _ in 0..MOST_STREAMS {
        open.push(client.svids().await.unwrap());
    }
    assert_eq!(client.svids().await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    assert_eq!(client.bundles().await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    assert_eq!(sidecar.refusals("streams"), 2);
    open.pop();
    sidecar.has_streams(i64::try_from(MOST_STREAMS).unwrap() - 1).await;
    assert!(client.svids().await.is_ok());
}

#[tokio::test]
async fn one_connection_too_many_is_closed() {
    let (sidecar, root) = (Sidecar::start(), Root::new());
    sidecar.has(&root.svid(PAYMENTS), shop(&root));
    let mut open = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        let mut client = sidecar.client().await;
        client.svids().await.unwrap();
        open.push(client);
    }
    let further = UnixStream::connect(sidecar.folder.path().join("api.sock")).await.unwrap();
    is_closed(further).await;
    assert_eq!(sidecar.refusals("connections"), 1);
}

/// The kernel says who is at the other end: this test, which is not of that user.
#[tokio::test]
async fn a_process_of_another_user_is_not_answered() {
    let own = rustix::process::geteuid().as_raw();
    let sidecar = Sidecar::answering(Users::These([own + 1].into()));
    let stranger = UnixStream::connect(sidecar.folder.path().join("api.sock")).await.unwrap();
    is_closed(stranger).await;
    assert_eq!(sidecar.refusals("user"), 1);

    let sidecar = Sidecar::answering(Users::These([own + 1, own].into()));
    assert_eq!(sidecar.client().await.svids().await.unwrap_err().code(), tonic::Code::Unavailable);
}

/// What Python's package sends, recorded: the socket's path where HTTP/2 has an authority.
#[tokio::test]
async fn a_client_of_grpcs_c_core_is_answered() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const ASKS: &[u8] = b"\x00\x01\x0b\x01\x04\x00\x00\x00\x01@\x05:path /SpiffeWorkloadAPI/FetchX509SVID@\n:authority\
        \x13tmp%2Fsn%2Fapi.sock\x83\x86@\x0ccontent-type\x10application/grpc@\x02te\x08trailers@\x14grpc-accept-encoding\
        \x17identity, deflate, gzip@\x0cgrpc-timeout\x022S@\nuser-agent0grpc-python/1.85.3 grpc-c/58.0.0 (linux; chttp2)\
        \x00\x12workload.spiffe.io\x04true\x00\x00\x05\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00";
    let (sidecar, root) = (Sidecar::start(), Root::new());
    sidecar.has(&root.svid(PAYMENTS), shop(&root));
    let mut stream = UnixStream::connect(sidecar.folder.path().join("api.sock")).await.unwrap();
    let sent = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SETTINGS, ASKS].concat();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &sent).await.unwrap();
    let mut answer = Vec::new();
    let has_svid = |answer: &[u8]| answer.windows(PAYMENTS.len()).any(|window| window == PAYMENTS.as_bytes());
    let answered = async {
        while !has_svid(&answer) {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "the connection ends: {answer:?}");
        }
    };
    timeout(PATIENCE, answered).await.expect("an SVID in time");
}

async fn is_closed(mut stream: UnixStream) {
    let mut byte = [0];
    let read = timeout(PATIENCE, stream.read(&mut byte)).await;
    assert!(matches!(read.expect("it is closed in time"), Ok(0) | Err(_)));
}

#[tokio::test]
async fn the_methods_of_the_jwt_profile_are_not_there() {
    let (sidecar, root) = (Sidecar::start(), Root::new());
    sidecar.has(&root.svid(PAYMENTS), shop(&root));
    let mut grpc = Grpc::new(channel(sidecar.folder.path().join("api.sock")).await);
    for method in ["FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"] {
        grpc.ready().await.unwrap();
        let path = format!("/SpiffeWorkloadAPI/{method}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<X509svidRequest, X509svidResponse>::default();
        let answer = grpc.unary(with_header(X509svidRequest {}), path, codec).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unimplemented, "{method}");
    }
}

#[test]
fn a_key_that_is_handed_on_is_not_printed() {
    let root = Root::new();
    let (chain, key) = root.svid(PAYMENTS).pkcs8();
    let credentials =
        Credentials::for_use(KeyUse::HandedOn, chain, key, &shop(&root), UnixTime::now()).unwrap();
    assert!(credentials.pkcs8().is_some());
    assert_eq!(format!("{credentials:?}"), format!("Credentials {{ id: {PAYMENTS}, .. }}"));
}
