//! Tokens through a real sidecar: the keys come from a file or from a server, over TLS; who has no good token is refused, and
//! what is open when its token ends is cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs::default_provider, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{StreamExt as _, wrappers::IntervalStream};

use crate::mesh::{
    App, Authority, Connection, Http, PATIENCE, Port, Reply, Service, Sidecar, body, client_h2, id,
    stream_of, tls,
};

const POLICY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: payments-people}
spec:
  action: Allow
  rules:
  - name: charge
    from: [{serviceAccounts: [shop/orders]}]
    to: [{paths: [/charge]}]
    jwt: {issuer: corp, claims: {scope: {containsAny: [charge]}}}
  - name: public
    to: [{paths: [/public]}]
";

/// An issuer of tokens.
struct Issuer {
    kid: &'static str,
    key: EcdsaKeyPair,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        Self { kid, key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    fn keys(&self) -> String {
        let point = self.key.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": self.kid, "x": x, "y": y}]}).to_string()
    }

    /// A token for the scope that is good for so long.
    fn token(&self, scope: &str, life: Duration) -> String {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + life;
        self.sign(&json!({"iss": "corp", "aud": "pay", "scope": scope, "exp": end.as_secs()}))
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"});
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64.encode(signature))
    }
}

struct Stage {
    app: App,
    sidecar: Sidecar,
    authority: Authority,
}

impl Stage {
    /// With keys as `keys` says, and further fields of `jwt`.
    async fn new(keys: &str, more: &str) -> Self {
        let (app, authority) = (App::start().await, Authority::new());
        let jwt = format!("jwt: {{{more} issuers: [{{issuer: corp, audiences: [pay], keys: {keys}}}]}}");
        let ports = [Port::Inbound(app.address, "protocol: http")];
        let svid = authority.svid(&id("payments"));
        let sidecar = Sidecar::start_as("payments", &svid, &authority, POLICY, &ports, &jwt);
        Self { app, sidecar, authority }
    }

    async fn caller(&self) -> Connection {
        let svid = self.authority.svid(&id("orders"));
        let server = id("payments");
        let stream = tls(self.sidecar.inbound(), &self.authority, Some(&svid), &server, b"h2").await.unwrap();
        Connection::over(stream, Http::Two).await
    }

    /// A GET with these lines of `authorization`.
    async fn get(&self, path: &str, lines: &[String]) -> Reply {
        let request = Request::get(format!("http://payments{path}"));
        let request = lines.iter().fold(request, |request, line| request.header("authorization", line));
        self.caller().await.send(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
    }

    async fn with(&self, token: &str) -> u16 {
        self.get("/charge", &[format!("Bearer {token}")]).await.status.as_u16()
    }
}

/// A server of keys, over TLS: what it answers can be changed, and how often it was asked is counted. It wants a thread beside
/// the test's, which waits for a sidecar without letting others run.
struct KeyServer {
    address: SocketAddr,
    trust_bundle: String,
    answer: Arc<std::sync::Mutex<String>>,
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl KeyServer {
    async fn start(answer: String) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked) = (Arc::new(std::sync::Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (said, count) = (Arc::clone(&answer), Arc::clone(&asked));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
                count.fetch_add(1, Ordering::SeqCst);
                let answer = said.lock().unwrap().clone();
                // Whoever has read enough may have left.
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { address, trust_bundle: certificate.pem(), answer, asked, _serving: serving }
    }

    /// An answer with these keys.
    fn with(keys: &str) -> String {
        let length = keys.len();
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{keys}")
    }

    /// As the configuration of a sidecar names it.
    fn keys(&self, folder: &tempfile::TempDir, more: &str) -> String {
        let bundle = folder.path().join("ca.pem");
        std::fs::write(&bundle, &self.trust_bundle).unwrap();
        let (port, bundle) = (self.address.port(), bundle.display());
        format!("{{url: 'https://localhost:{port}/keys', trustBundle: {bundle}, {more}}}")
    }
}

/// A file with the keys, and how the configuration names it.
fn file(keys: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, keys).unwrap();
    let named = format!("{{file: {}}}", path.display());
    (folder, named)
}

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_good_token_is_let_in_and_goes_no_further_and_every_other_is_refused_with_its_code() {
    let (issuer, stranger) = (Issuer::new("a"), Issuer::new("a"));
    let (_folder, keys) = file(&issuer.keys());
    let stage = Stage::new(&keys, "").await;
    let good = issuer.token("read charge", HOUR);

    assert_eq!(stage.with(&good).await, 200);
    assert!(stage.app.seen()[0].headers.get("authorization").is_none(), "the application did not get it");
    assert_eq!(stage.with(&issuer.token("read", HOUR)).await, 403, "a good token that does not say enough");
    let nearest = stage.sidecar.accessed(|line| line["code"] == "SG0202");
    assert!(nearest["nearest"].as_str().unwrap().contains("claim scope has none of [charge]"), "{nearest}");
    assert_eq!(stage.get("/charge", &[]).await.status, 403, "no token");

    for (token, why) in [
        (stranger.token("charge", HOUR), "not signed by the key"),
        (good.replace("eyJhbGciOi", "eyJhbGciOj"), "cannot be read"),
        (issuer.sign(&json!({"iss": "corp", "aud": "web", "exp": 4_000_000_000_u64})), "another audience"),
        (issuer.sign(&json!({"iss": "evil", "aud": "pay", "exp": 4_000_000_000_u64})), "not configured"),
        (issuer.sign(&json!({"iss": "corp", "aud": "pay", "exp": 1})), "has expired"),
    ] {
        let reply = stage.get("/public", &[format!("Bearer {token}")]).await;
        assert_eq!(reply.status, 401, "{why}: even where no policy asks for a token");
        assert_eq!(reply.headers["www-authenticate"], "Bearer error=\"invalid_token\"");
        assert!(reply.body.starts_with("denied (request id "), "{}", reply.body);
        stage.sidecar.accessed(|line| {
            line["code"] == "SG0240" && line["nearest"].as_str().is_some_and(|nearest| nearest.contains(why))
        });
    }
    let twice = [format!("Bearer {good}"), format!("Bearer {good}")];
    assert_eq!(stage.get("/public", &twice).await.status, 401, "several");
    let in_query = stage.get("/public?access_token=x", &twice[..1]).await;
    assert_eq!(in_query.status, 401, "one in the query besides");
    assert_eq!(stage.get("/public", &["Basic YTpi".to_owned()]).await.status, 200, "another scheme");
    assert_eq!(stage.app.seen().len(), 2, "nothing that was refused reached the application");
    assert_eq!(stage.app.seen()[1].headers["authorization"], "Basic YTpi");
}

#[tokio::test]
async fn a_token_is_passed_on_where_that_is_wanted_and_may_stand_in_a_field_of_its_own() {
    let issuer = Issuer::new("a");
    let (_folder, keys) = file(&issuer.keys());
    let stage = Stage::new(&keys, "header: x-user-token, forward: true,").await;
    let token = issuer.token("charge", HOUR);
    let request = Request::get("http://payments/charge").header("x-user-token", &token);
    let request = request.header("authorization", "Bearer of-the-application's-own");
    let reply = stage.caller().await.send(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(reply.status, 200);
    let headers = &stage.app.seen()[0].headers;
    assert_eq!(headers["x-user-token"], token);
    assert_eq!(headers["authorization"], "Bearer of-the-application's-own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_from_a_server_and_a_new_key_is_asked_for_when_a_token_names_it() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let server = KeyServer::start(KeyServer::with(&old.keys())).await;
    let folder = tempfile::TempDir::new().unwrap();
    let stage = Stage::new(&server.keys(&folder, "allowAddresses: [127.0.0.1/32, '::1/128']"), "").await;
    assert_eq!(stage.with(&old.token("charge", HOUR)).await, 200);

    *server.answer.lock().unwrap() = KeyServer::with(&new.keys());
    assert_eq!(stage.with(&new.token("charge", HOUR)).await, 200, "the request waits for the look");
    assert_eq!(stage.with(&old.token("charge", HOUR)).await, 401, "and the old key is gone");
    let asked = server.asked.load(Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(stage.with(&Issuer::new("made-up").token("charge", HOUR)).await, 401);
    }
    assert_eq!(
        server.asked.load(Ordering::SeqCst),
        asked,
        "names that are made up are not worth a look each"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_no_token_is_good_and_the_log_says_why() {
    let issuer = Issuer::new("a");
    let keys = KeyServer::with(&issuer.keys());
    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: https://evil.test/\r\ncontent-length: 0\r\n\r\n";
    let endless = format!("HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n{}", " ".repeat(900_000));
    let allowed = "allowAddresses: [127.0.0.1/32, '::1/128']";
    for (answer, more, why) in [
        (keys.as_str(), "", "is an address of the own host or link"),
        (elsewhere, allowed, "302 Found"),
        (&endless, allowed, "at most 262144 bytes"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", allowed, "not a JSON Web Key Set"),
    ] {
        let server = KeyServer::start(answer.to_owned()).await;
        let folder = tempfile::TempDir::new().unwrap();
        let stage = Stage::new(&server.keys(&folder, more), "").await;
        let is_it = |line: &Value| {
            line["code"] == "SG0241" && line["error"].as_str().is_some_and(|error| error.contains(why))
        };
        stage.sidecar.logged(is_it);
        assert_eq!(stage.with(&issuer.token("charge", HOUR)).await, 503, "{why}");
        assert_eq!(stage.get("/public", &[]).await.status, 200, "what needs no token is not touched");
        let page = stage.sidecar.page("/metrics").await.body;
        assert!(!page.contains("sidegate_token_keys_failed_total 0"), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_nobody_vouches_for_is_not_asked() {
    let issuer = Issuer::new("a");
    let server = KeyServer::start(KeyServer::with(&issuer.keys())).await;
    let other = KeyServer::start(String::new()).await;
    let folder = tempfile::TempDir::new().unwrap();
    let keys = server.keys(&folder, "allowAddresses: [127.0.0.1/32, '::1/128']");
    std::fs::write(folder.path().join("ca.pem"), &other.trust_bundle).unwrap();
    let stage = Stage::new(&keys, "").await;
    stage.sidecar.logged(|line| line["code"] == "SG0241");
    assert_eq!(stage.with(&issuer.token("charge", HOUR)).await, 503);
    assert_eq!(server.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_open_when_its_token_ends_is_cut() {
    let issuer = Issuer::new("a");
    let (_folder, keys) = file(&issuer.keys());
    let authority = Authority::new();
    let app = Service::start(|_| async {
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(10)));
        Response::new(stream_of(ticks.map(|_| Frame::data(Bytes::from_static(b"tick")))))
    })
    .await;
    let jwt = format!("jwt: {{issuers: [{{issuer: corp, audiences: [pay], keys: {keys}}}]}}");
    let ports = [Port::Inbound(app.address, "protocol: http2")];
    let svid = authority.svid(&id("payments"));
    let sidecar = Sidecar::start_as("payments", &svid, &authority, POLICY, &ports, &jwt);
    let caller = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), &authority, Some(&caller), &id("payments"), b"h2").await.unwrap();
    let mut client = client_h2(stream).await;
    let mut get = async |path: &str, token: Option<String>| {
        let request = Request::get(format!("http://payments{path}"));
        let request = token
            .into_iter()
            .fold(request, |request, token| request.header("authorization", format!("Bearer {token}")));
        client.send_request(request.body(body("")).unwrap()).await.unwrap().into_body()
    };
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 22;
    let token = issuer.sign(&json!({"iss": "corp", "aud": "pay", "scope": "charge", "exp": end}));
    let mut charged = get("/charge", Some(token)).await;
    let mut public = get("/public", None).await;
    // Half a minute is for clocks that differ, and eight seconds of it are left.
    let cut = async {
        while let Some(frame) = charged.frame().await {
            if frame.is_err() {
                return;
            }
        }
        unreachable!("a cut must not look like an end");
    };
    tokio::time::timeout(PATIENCE * 2, cut).await.expect("the token has ended");
    sidecar.accessed(|line| line["path"] == "/charge" && line["code"] == "SG0207");
    tokio::time::timeout(PATIENCE, public.frame()).await.unwrap().unwrap().unwrap();
}
