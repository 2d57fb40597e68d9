//! Bundles of other trust domains by their endpoints: two control planes that federate, and partners that lie.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Response, StatusCode, header::LOCATION};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sidegate_identity::{
    TrustBundle, TrustBundles, TrustDomain,
    tls::{ClientAuth, server_config},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::mesh::{
    App, Authority, Connection, ControlPlane, Http, Member, PATIENCE, Port, Sidecar, credentials, id,
};

const PARTNER: &str = "partner.test";
const PARTNERS_CONTROL_PLANE: &str = "spiffe://partner.test/ns/sidegate/sa/control-plane";
const POLICIES: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  action: Allow
  rules:
  - name: partner
    from: [{principals: ['spiffe://partner.test/ns/shop/sa/orders']}]
";

/// Waits until the control plane says of its files what is wanted; nothing tells when it does.
async fn until(control_plane: &ControlPlane, wanted: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = control_plane.get("/v1/status").await;
        let said = status["mesh"]["lastError"].to_string();
        if wanted(&said) {
            return;
        }
        assert!(Instant::now() < deadline, "{said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Trusts the partner by its endpoint, beginning with `partner.pem`.
fn by_spiffe(url: &str, more: &str) -> String {
    format!(
        "federation:\n- trustDomain: {PARTNER}\n  bundle: partner.pem\n  \
         httpsSpiffe: {{url: '{url}', spiffeId: '{PARTNERS_CONTROL_PLANE}', refresh: 1s{more}}}\n"
    )
}

const LOOPBACK: &str = ", allowAddresses: [127.0.0.1/32]";

#[tokio::test]
async fn two_meshes_federate_and_a_call_crosses_their_domains_also_after_a_rotation() {
    let app = App::start().await;
    let shop = ControlPlane::start("100ms", POLICIES);
    let partner = ControlPlane::start_of(PARTNER, "100ms", POLICIES, "certificates: {leafLife: 20s}\n");
    let inbound = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{}', protocol: http}}]", app.address);
    let payments = Member::start("payments", &shop, &inbound);
    let served = "inbound: [{listen: '127.0.0.1:0', forward: '127.0.0.1:1', protocol: http}]\n\
                  workloadApi: {listen: api.sock}";
    let provider = Member::start("orders", &partner, served);

    shop.write("partner.pem", &partner.root());
    shop.extend(&by_spiffe(&format!("https://{}/spiffe/bundle.json", partner.bundle), LOOPBACK));
    partner.write("shop.pem", &shop.root());
    let shops = format!(
        "federation:\n- trustDomain: shop.test\n  bundle: shop.pem\n  httpsSpiffe: {{url: 'https://{}/spiffe/bundle.json', \
         spiffeId: 'spiffe://shop.test/ns/sidegate/sa/control-plane', refresh: 1s{LOOPBACK}}}\n",
        shop.bundle
    );
    partner.extend(&shops);

    // The partner's application, whose sidecar has its identity and both bundles from the Workload API.
    provider.logged(|line| line["message"] == "update applied");
    let socket = provider.file("api.sock");
    let ports = [Port::Outbound("payments", payments.address("inbound"), "protocol: http")];
    let unused = Authority::new();
    let folder = Sidecar::folder("orders", &unused.svid(&id("orders")), &unused, POLICIES, &ports, "");
    let file = folder.path().join("proxy.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("trustDomain: shop.test", "trustDomain: partner.test").replace(
        "identity: {files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}",
        &format!("identity: {{workloadApi: {{socket: '{}'}}}}", socket.display()),
    );
    std::fs::write(&file, text).unwrap();
    let orders = Sidecar::start_in(folder, &ports);
    until_answered(&orders).await;

    // A new root of the partner is known here before it signs, and nothing of the old one is trusted at the end.
    let before = partner.root();
    let rotated = partner.operator(&["certs", "rotate", "start", "--reason", "a test"]);
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    let deadline = Instant::now() + Duration::from_mins(2);
    while partner.get("/v1/status").await["rotation"]["phase"] != "steady" {
        assert!(Instant::now() < deadline, "still rotating");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(partner.root(), before);
    until_answered(&orders).await;
    let old: String = before.lines().filter(|line| !line.starts_with('-')).collect();
    let deadline = Instant::now() + PATIENCE;
    while shop_holds(&shop).contains(&old) {
        assert!(Instant::now() < deadline, "the old root is still trusted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn shop_holds(shop: &ControlPlane) -> String {
    std::fs::read_to_string(shop.mesh_file().with_file_name("state/federation/partner.test.json")).unwrap()
}

/// Calls until the whole path is known on both sides.
async fn until_answered(orders: &Sidecar) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = Connection::plain(orders.outbound(), Http::One).await;
        if client.call("GET", "/").await.is_ok_and(|reply| reply.status == StatusCode::OK) {
            return;
        }
        assert!(Instant::now() < deadline, "never answered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A bundle endpoint that answers what a test wants, under any credentials.
struct Lying {
    url: String,
    answer: Arc<Mutex<Response<String>>>,
    asked: Arc<Mutex<usize>>,
    _serving: JoinSet<()>,
}

impl Lying {
    /// Over TLS by this acceptor.
    async fn start(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/bundle.json", listener.local_addr().unwrap().port());
        let answer = Arc::new(Mutex::new(Response::new(String::new())));
        let (told, asked) = (Arc::clone(&answer), Arc::new(Mutex::new(0)));
        let (counted, mut serving) = (Arc::clone(&asked), JoinSet::new());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                *counted.lock().unwrap() += 1;
                let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
                connections.spawn(async move {
                    // A client that refuses the server is what some tests want.
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |_: http::Request<Incoming>| {
                        let answer = told.lock().unwrap().clone().map(|body| Full::new(Bytes::from(body)));
                        async move { Ok::<_, std::convert::Infallible>(answer) }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, answer, asked, _serving: serving }
    }

    fn answers(&self, response: Response<String>) {
        *self.answer.lock().unwrap() = response;
    }

    fn tells(&self, document: String) {
        self.answers(Response::new(document));
    }
}

/// Proves to be this under the authority, whose own the identity is.
fn as_svid(authority: &Authority, identity: &str) -> TlsAcceptor {
    let domain = TrustDomain::parse(PARTNER).unwrap();
    let bundle = TrustBundle::from_pem(domain, authority.bundle().as_bytes()).unwrap();
    let trust = Arc::new(TrustBundles::from_iter([bundle]));
    let own = credentials(&authority.svid(identity), &trust);
    TlsAcceptor::from(server_config(&own, trust, ClientAuth::Optional, &[b"http/1.1"]))
}

/// SPIFFE's JSON of these PEM texts.
fn document(roots: &[&str], sequence: u64) -> String {
    let key = |pem: &&str| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        serde_json::json!({"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(&der)]})
    };
    let keys: Vec<_> = roots.iter().map(key).collect();
    serde_json::json!({"keys": keys, "spiffe_sequence": sequence}).to_string()
}

/// A root that says whose it is.
fn root_of(trust_domain: &str) -> String {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

#[tokio::test]
async fn whatever_a_partner_tells_that_is_not_its_newer_bundle_leaves_the_last_good_one_and_is_told() {
    let shop = ControlPlane::start("100ms", POLICIES);
    let authority = Authority::new();
    let partner = Lying::start(as_svid(&authority, PARTNERS_CONTROL_PLANE)).await;
    let good = document(&[&authority.bundle()], 7);
    partner.tells(good.clone());
    shop.write("partner.pem", &authority.bundle());
    shop.extend(&by_spiffe(&partner.url, LOOPBACK));
    let deadline = Instant::now() + PATIENCE;
    while !shop.mesh_file().with_file_name("state/federation/partner.test.json").exists() {
        assert!(Instant::now() < deadline, "never fetched");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until(&shop, |said| said == "null").await;
    let holds = |document: &str| {
        let kept: serde_json::Value = serde_json::from_str(&shop_holds(&shop)).unwrap();
        kept["document"] == document
    };
    assert!(holds(&good));

    let redirect =
        Response::builder().status(302).header(LOCATION, &partner.url).body(String::new()).unwrap();
    let own = authority.bundle();
    let ours = root_of("shop.test");
    for (answer, why) in [
        (redirect, "302"),
        (Response::new(" ".repeat(300 << 10)), "length limit exceeded"),
        (Response::new(document(&[&own], 6)), "smaller than 7"),
        (Response::new(document(&[&own, &Authority::new().bundle()], 7)), "the same spiffe_sequence 7"),
        (Response::new(document(&[&own, &ours], 8)), "another trust domain"),
        (Response::new(document(&[&root_of("other.test")], 8)), "another trust domain"),
        (Response::new("{}".to_owned()), "keys"),
    ] {
        partner.answers(answer);
        until(&shop, |said| said.contains("SG0364") && said.contains(why)).await;
        assert!(holds(&good), "{why}");
    }
    let request = http::Request::get("/metrics").header("host", "localhost").body(Full::default()).unwrap();
    let metrics = Connection::plain(shop.api, Http::One).await.send(request).await.unwrap().body;
    assert!(
        metrics.contains("sidegate_federation_refreshed_timestamp_seconds{trust_domain=\"partner.test\"} ")
    );
    assert!(metrics.contains("sidegate_federation_refreshes_total{result=\"failed\"} "), "{metrics}");

    let newer = document(&[&own, &Authority::new().bundle()], 8);
    partner.tells(newer.clone());
    until(&shop, |said| said == "null").await;
    assert!(holds(&newer));
}

#[tokio::test]
async fn a_server_that_does_not_prove_the_partners_identity_under_its_own_bundle_is_not_heard() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (acceptor, why) in [
        (as_svid(&authority, "spiffe://partner.test/ns/shop/sa/orders"), "not the service"),
        (as_svid(&stranger, PARTNERS_CONTROL_PLANE), "does not lead to an authority"),
    ] {
        let shop = ControlPlane::start("100ms", POLICIES);
        let partner = Lying::start(acceptor).await;
        partner.tells(document(&[&stranger.bundle()], 9));
        shop.write("partner.pem", &authority.bundle());
        shop.extend(&by_spiffe(&partner.url, LOOPBACK));
        until(&shop, |said| said.contains("SG0364") && said.contains(why)).await;
        assert!(!shop_holds(&shop).contains("x5c"), "nothing of it is kept");
    }
}

#[tokio::test]
async fn an_address_of_the_own_host_is_not_even_asked_unless_it_is_allowed() {
    let (shop, authority) = (ControlPlane::start("100ms", POLICIES), Authority::new());
    let partner = Lying::start(as_svid(&authority, PARTNERS_CONTROL_PLANE)).await;
    shop.write("partner.pem", &authority.bundle());
    shop.extend(&by_spiffe(&partner.url, ""));
    until(&shop, |said| said.contains("SG0364") && said.contains("allowAddresses")).await;
    assert_eq!(*partner.asked.lock().unwrap(), 0);
}

#[tokio::test]
async fn by_https_web_the_named_authorities_vouch_for_the_host_and_no_others() {
    let (shop, authority) = (ControlPlane::start("100ms", POLICIES), Authority::new());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let server = rustls::ServerConfig::builder_with_provider(sidegate_identity::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let partner = Lying::start(TlsAcceptor::from(Arc::new(server))).await;
    partner.tells(document(&[&authority.bundle()], 1));
    let web = |roots: &str| {
        format!(
            "federation:\n- trustDomain: {PARTNER}\n  httpsWeb: {{url: '{}', trustBundle: {roots}, refresh: 1s{LOOPBACK}}}\n",
            partner.url
        )
    };
    shop.write("others.pem", &Authority::new().bundle());
    shop.extend(&web("others.pem"));
    until(&shop, |said| said.contains("SG0364") && said.contains("invalid peer certificate")).await;
    assert!(!shop_holds(&shop).contains("x5c"));
    shop.write("web.pem", &made.cert.pem());
    shop.extend(&web("web.pem"));
    let deadline = Instant::now() + PATIENCE;
    while !shop_holds(&shop).contains("x5c") {
        assert!(Instant::now() < deadline, "{}", shop_holds(&shop));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until(&shop, |said| said == "null").await;
}
