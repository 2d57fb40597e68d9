use std::{collections::BTreeMap, path::Path, pin::Pin};

use sidegate_identity::tls::KeyUse;
use sidegate_proto::workload::{
    X509BundlesRequest, X509BundlesResponse, X509svid,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Response, transport::Server};

use super::*;
use crate::{
    snapshot::{Reader, Snapshot},
    test_authority::{Root, Svid},
};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";
const OTHER: &str = "spiffe://shop.test/ns/shop/sa/other";

/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

type Said = Result<X509svidResponse, Status>;

/// A provider that says what the test tells it to.
struct Provider {
    folder: TempDir,
    /// Each stream that is opened, for the test to speak on.
    opened: mpsc::Receiver<mpsc::Sender<Said>>,
    stop: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

struct Service(mpsc::Sender<mpsc::Sender<Said>>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = ReceiverStream<Said>;
    type FetchX509BundlesStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<X509BundlesResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        if request.metadata().get(HEADER).is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("no security header"));
        }
        let (say, said) = mpsc::channel(4);
        self.0.send(say).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(said)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

impl Provider {
    fn new() -> Self {
        let mut provider = Self {
            folder: TempDir::new().unwrap(),
            opened: mpsc::channel(1).1,
            stop: None,
            tasks: JoinSet::new(),
        };
        provider.start();
        provider
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("api.sock")
    }

    fn start(&mut self) {
        let (open, opened) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel();
        let listener = UnixListener::bind(self.socket()).unwrap();
        self.tasks.spawn(async move {
            Server::builder()
                .add_service(SpiffeWorkloadApiServer::new(Service(open)))
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                    let _ = stopped.await;
                })
                .await
                .unwrap();
        });
        (self.opened, self.stop) = (opened, Some(stop));
    }

    /// Ends every stream and removes the socket.
    async fn end(&mut self, stream: mpsc::Sender<Said>) {
        drop(stream);
        self.stop.take().unwrap().send(()).unwrap();
        self.tasks.join_next().await.unwrap().unwrap();
        std::fs::remove_file(self.socket()).unwrap();
    }

    async fn stream(&mut self) -> mpsc::Sender<Said> {
        timeout(PATIENCE, self.opened.recv()).await.expect("a stream is opened in time").unwrap()
    }
}

/// A sidecar that follows a provider, and what is in force of it.
struct Sidecar {
    reader: Reader,
    metrics: Arc<Metrics>,
    _following: JoinSet<Infallible>,
}

impl Sidecar {
    fn of(provider: &Provider, more: &str) -> Self {
        let text = format!(
            "trustDomain: shop.test\n\
             workload: {{namespace: shop, serviceAccount: payments}}\n\
             identity: {{workloadApi: {{socket: api.sock{more}}}}}\n\
             policies: policies.yaml\n\
             inbound: [{{listen: '127.0.0.1:0', forward: '127.0.0.1:1'}}]\n"
        );
        let config = Config::parse(&provider.folder.path().join("proxy.yaml"), &text).unwrap();
        let metrics = Arc::new(Metrics::default());
        let publisher = Arc::new(Publisher::new(config.clone(), Arc::clone(&metrics)));
        let client = Client::of(&config, &publisher, &metrics).expect("the identity is the provider's");
        let mut following = JoinSet::new();
        following.spawn(client.run());
        Self { reader: publisher.reader(), metrics, _following: following }
    }

    async fn until(&mut self, is_wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        timeout(PATIENCE, async {
            while !is_wanted(&self.reader.load()) {
                self.reader.changed().await;
            }
        })
        .await
        .expect("it is in force in time");
        self.reader.snapshot()
    }

    async fn presents(&mut self, svid: &Svid) -> Arc<Snapshot> {
        let chain = svid.der().0;
        self.until(|snapshot| presented(snapshot) == Some(&chain)).await
    }

    /// How often something was counted as `result`.
    fn renewals(&self, result: &'static str) -> u64 {
        let mut found = 0;
        let seen = self.metrics.renewals.each(|label, count| {
            found += if *label == result { count } else { 0 };
            Ok(())
        });
        seen.unwrap();
        found
    }

    /// Waits until that has been counted as often.
    async fn counts(&self, result: &'static str, times: u64) {
        timeout(PATIENCE, async {
            while self.renewals(result) < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it is counted in time");
    }
}

fn presented(snapshot: &Snapshot) -> Option<&[u8]> {
    Some(snapshot.secured.as_ref()?.credentials.chain().first()?.as_ref())
}

fn message(svid: &Svid, root: &Root, id: &str, hint: &str) -> X509svid {
    let (x509_svid, x509_svid_key) = svid.der();
    X509svid {
        spiffe_id: id.to_owned(),
        x509_svid,
        x509_svid_key,
        bundle: root.der().to_vec(),
        hint: hint.to_owned(),
    }
}

fn answer(svids: Vec<X509svid>) -> X509svidResponse {
    X509svidResponse { svids, crl: Vec::new(), federated_bundles: BTreeMap::new() }
}

fn wanted() -> Wanted {
    let identity = sidegate_identity::SpiffeId::parse(PAYMENTS).unwrap();
    Wanted { identity, hint: None, key_use: KeyUse::Sealed }
}

#[tokio::test]
async fn each_answer_takes_the_place_of_the_one_before() {
    let (mut provider, root, foreign) = (Provider::new(), Root::new(), Root::new());
    let mut sidecar = Sidecar::of(&provider, "");
    let stream = provider.stream().await;

    let first = root.svid(PAYMENTS);
    let mut with_partner = answer(vec![message(&first, &root, PAYMENTS, "")]);
    with_partner.federated_bundles.insert("spiffe://partner.test".into(), foreign.der().to_vec());
    stream.send(Ok(with_partner)).await.unwrap();
    let snapshot = sidecar.presents(&first).await;
    assert_eq!(snapshot.trust.get("shop.test").unwrap().authorities(), [root.der()]);
    assert_eq!(snapshot.trust.get("partner.test").unwrap().authorities(), [foreign.der()]);

    let second = root.svid(PAYMENTS);
    stream.send(Ok(answer(vec![message(&second, &root, PAYMENTS, "")]))).await.unwrap();
    let snapshot = sidecar.presents(&second).await;
    assert!(snapshot.trust.get("partner.test").is_none(), "what an answer lacks is taken back");
    assert_eq!(sidecar.renewals("ok"), 2);
    assert_eq!(sidecar.renewals("failed"), 0);
}

#[tokio::test]
async fn the_certificate_stays_while_the_provider_is_away_and_is_followed_when_it_is_back() {
    let (mut provider, root) = (Provider::new(), Root::new());
    let mut sidecar = Sidecar::of(&provider, "");
    let (first, second) = (root.svid(PAYMENTS), root.svid(PAYMENTS));
    let stream = provider.stream().await;
    stream.send(Ok(answer(vec![message(&first, &root, PAYMENTS, "")]))).await.unwrap();
    sidecar.presents(&first).await;

    provider.end(stream).await;
    sidecar.counts("failed", 1).await;
    assert_eq!(presented(&sidecar.reader.load()), Some(first.der().0.as_slice()));

    provider.start();
    let stream = provider.stream().await;
    stream.send(Ok(answer(vec![message(&second, &root, PAYMENTS, "")]))).await.unwrap();
    sidecar.presents(&second).await;
}

#[tokio::test]
async fn an_identity_that_is_taken_back_is_used_no_longer() {
    let root = Root::new();
    let (mine, others) = (root.svid(PAYMENTS), root.svid(OTHER));
    let taken_back: [Said; 2] = [
        Err(Status::permission_denied("no identity issued")),
        Ok(answer(vec![message(&others, &root, OTHER, "")])),
    ];
    for taken_back in taken_back {
        let mut provider = Provider::new();
        let mut sidecar = Sidecar::of(&provider, "");
        let stream = provider.stream().await;
        stream.send(Ok(answer(vec![message(&mine, &root, PAYMENTS, "")]))).await.unwrap();
        sidecar.presents(&mine).await;
        stream.send(taken_back).await.unwrap();
        let snapshot = sidecar.until(|snapshot| snapshot.secured.is_none()).await;
        assert!(snapshot.trust.get("shop.test").is_none(), "and nobody is trusted by it");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_in_order_leaves_the_one_before_in_force() {
    let (mut provider, root, stranger) = (Provider::new(), Root::new(), Root::new());
    let mut sidecar = Sidecar::of(&provider, "");
    let stream = provider.stream().await;
    let good = root.svid(PAYMENTS);
    stream.send(Ok(answer(vec![message(&good, &root, PAYMENTS, "")]))).await.unwrap();
    sidecar.presents(&good).await;

    // The provider's bundle does not vouch for what it issued.
    let bad = answer(vec![message(&root.svid(PAYMENTS), &stranger, PAYMENTS, "")]);
    stream.send(Ok(bad)).await.unwrap();
    sidecar.counts("failed", 1).await;
    let snapshot = sidecar.reader.snapshot();
    assert_eq!(presented(&snapshot), Some(good.der().0.as_slice()));
    assert_eq!(snapshot.trust.get("shop.test").unwrap().authorities(), [root.der()]);
}

#[tokio::test]
async fn the_configured_hint_chooses_among_svids_of_one_identity() {
    let (mut provider, root) = (Provider::new(), Root::new());
    let mut sidecar = Sidecar::of(&provider, ", hint: internal");
    let stream = provider.stream().await;
    let (external, internal, again) = (root.svid(PAYMENTS), root.svid(PAYMENTS), root.svid(PAYMENTS));
    let svids = vec![
        message(&external, &root, PAYMENTS, "external"),
        message(&internal, &root, PAYMENTS, "internal"),
        message(&again, &root, PAYMENTS, "internal"),
    ];
    stream.send(Ok(answer(svids))).await.unwrap();
    sidecar.presents(&internal).await;
}

#[test]
fn the_first_svid_with_the_own_identity_is_taken() {
    let root = Root::new();
    let (other, mine) = (root.svid(OTHER), root.svid(PAYMENTS));
    let svids = vec![message(&other, &root, OTHER, ""), message(&mine, &root, PAYMENTS, "")];
    let read = Answer::read(answer(svids), &wanted(), UnixTime::now()).unwrap();
    assert_eq!(read.credentials.chain()[0].as_ref(), mine.der().0);
}

#[test]
fn whatever_is_wrong_with_an_answer_refuses_the_whole() {
    let (root, stranger) = (Root::new(), Root::new());
    let svid = root.svid(PAYMENTS);
    let good = || message(&svid, &root, PAYMENTS, "");
    let federated = |key: &str, der: Vec<u8>| X509svidResponse {
        federated_bundles: [(key.to_owned(), der)].into(),
        ..answer(vec![good()])
    };
    let cases: [(&str, X509svidResponse, &str); 15] = [
        ("no SVID", answer(vec![]), "`svids` is empty"),
        (
            "no ID",
            answer(vec![X509svid { spiffe_id: String::new(), ..good() }]),
            "`svids.spiffe_id` is empty",
        ),
        (
            "no certificate",
            answer(vec![X509svid { x509_svid: vec![], ..good() }]),
            "`svids.x509_svid` is empty",
        ),
        (
            "no key",
            answer(vec![X509svid { x509_svid_key: vec![], ..good() }]),
            "`svids.x509_svid_key` is empty",
        ),
        ("no bundle", answer(vec![X509svid { bundle: vec![], ..good() }]), "`svids.bundle` is empty"),
        ("another's", answer(vec![message(&svid, &root, OTHER, "")]), "it has no SVID for"),
        (
            "a name that the certificate does not bear out",
            answer(vec![message(&root.svid(OTHER), &root, PAYMENTS, "")]),
            "the certificate is for spiffe://shop.test/ns/shop/sa/other",
        ),
        (
            "a key of another certificate",
            answer(vec![X509svid { x509_svid_key: root.svid(PAYMENTS).der().1, ..good() }]),
            "does not belong",
        ),
        (
            "a bundle with a leaf in it",
            answer(vec![X509svid { bundle: [root.der().to_vec(), svid.der().0].concat(), ..good() }]),
            "cannot be an authority",
        ),
        (
            "bytes after the bundle",
            answer(vec![X509svid { bundle: [root.der().to_vec(), vec![0x30]].concat(), ..good() }]),
            "no sequence of DER",
        ),
        ("another's bundle", answer(vec![message(&svid, &stranger, PAYMENTS, "")]), "does not lead to"),
        (
            "revocation lists",
            X509svidResponse { crl: vec![vec![0x30, 0]], ..answer(vec![good()]) },
            "revocation lists",
        ),
        (
            "a second bundle for the own domain",
            federated("spiffe://shop.test", stranger.der().to_vec()),
            "own trust domain",
        ),
        (
            "a domain without its scheme",
            federated("partner.test", stranger.der().to_vec()),
            "not the SPIFFE ID",
        ),
        (
            "an ID that is no domain's",
            federated("spiffe://partner.test/ns/a", stranger.der().to_vec()),
            "federated_bundles",
        ),
    ];
    for (case, answer, reason) in cases {
        let refusal = Answer::read(answer, &wanted(), UnixTime::now()).expect_err(case).to_string();
        assert!(refusal.contains(reason), "{case}: {refusal}");
    }
    assert!(Answer::read(federated("spiffe://partner.test", vec![]), &wanted(), UnixTime::now()).is_ok());
}

#[test]
fn a_message_is_printed_without_its_key() {
    let root = Root::new();
    let printed = format!("{:?}", answer(vec![message(&root.svid(PAYMENTS), &root, PAYMENTS, "")]));
    assert!(printed.contains(PAYMENTS) && !printed.contains("key"), "{printed}");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_not_there_is_asked_again_more_and_more_seldom() {
    let root = Root::new();
    let mut provider = Provider::new();
    provider.stop.take().unwrap().send(()).unwrap();
    provider.tasks.join_next().await.unwrap().unwrap();
    std::fs::remove_file(provider.socket()).unwrap();
    let begun = tokio::time::Instant::now();
    let mut sidecar = Sidecar::of(&provider, "");
    sidecar.counts("failed", 4).await;
    // Half a second, one and two, less a fifth.
    assert!(begun.elapsed() >= Duration::from_millis(2800), "{:?}", begun.elapsed());
    assert!(sidecar.reader.load().secured.is_none());

    provider.start();
    let svid = root.svid(PAYMENTS);
    let stream = provider.stream().await;
    stream.send(Ok(answer(vec![message(&svid, &root, PAYMENTS, "")]))).await.unwrap();
    sidecar.presents(&svid).await;
    assert!(Path::exists(&provider.socket()));
}
