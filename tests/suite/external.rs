//! Whoever decides beside policy, through a real sidecar: a server that speaks Envoy's protocol. Its OK admits what policy
//! permits, and whatever is not its OK in time admits nothing.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rcgen::CertifiedKey;
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer};
use sidegate_identity::{
    TrustBundle, TrustBundles, TrustDomain,
    tls::{ClientAuth, server_config},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use crate::{
    mesh::{
        App, Authority, Connection, DOMAIN, Decider, Http, OkResponse, PATIENCE, Port, Reply, Says, Sidecar,
        credentials, endless, id, no, ok, option, tls,
    },
    opaque::echo,
};

const POLICY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: charge, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/charge]}]}]
";

const ANYBODY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

/// A busy machine is no late answer.
const PATIENT: &str = "timeout: 10s";
const LISTED: &str = "timeout: 10s, sendHeaders: [x-tenant, x-many, x-none], setHeaders: [x-user], \
                      removeHeaders: [x-secret, x-other]";

struct Stage {
    app: App,
    sidecar: Sidecar,
    authority: Authority,
}

impl Stage {
    /// An application whose sidecar asks at `address`, in the way that `fields` say.
    async fn new(address: &str, fields: &str) -> Self {
        Self::of(Authority::new(), address, fields).await
    }

    async fn of(authority: Authority, address: &str, fields: &str) -> Self {
        let app = App::start().await;
        // Each worker has a breaker of its own.
        let more = format!("workers: 1\nexternalAuthorization: {{address: '{address}', {fields}}}");
        let ports = [Port::Inbound(app.address, "protocol: http")];
        let svid = authority.svid(&id("payments"));
        let sidecar = Sidecar::start_as("payments", &svid, &authority, POLICY, &ports, &more);
        Self { app, sidecar, authority }
    }

    async fn caller(&self) -> Connection {
        Connection::over(stream(&self.sidecar, &self.authority, b"h2").await, Http::Two).await
    }

    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let request = Request::post(format!("http://payments{path}"));
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.caller()
            .await
            .send(request.body(Full::new(Bytes::from_static(b"the body"))).unwrap())
            .await
            .unwrap()
    }

    async fn charge(&self) -> u16 {
        self.send("/charge", &[]).await.status.as_u16()
    }

    /// Nothing gets through, and the log says why.
    async fn refused(&self, status: u16, code: &str, why: &str) {
        let reached = self.app.seen().len();
        assert_eq!(self.charge().await, status, "{why}");
        assert_eq!(self.app.seen().len(), reached, "{why}");
        self.sidecar.accessed(|line| {
            let nearest = line["nearest"].as_str().unwrap_or_default();
            line["code"] == code && line["verdict"] == "denied" && nearest.contains(why)
        });
    }
}

async fn stream(
    sidecar: &Sidecar,
    authority: &Authority,
    alpn: &[u8],
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let svid = authority.svid(&id("orders"));
    tls(sidecar.inbound(), authority, Some(&svid), &id("payments"), alpn).await.unwrap()
}

/// The TLS of a server of the mesh.
fn of_mesh(authority: &Authority, account: &str) -> TlsAcceptor {
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    let bundle = TrustBundle::from_pem(domain, authority.bundle().as_bytes()).unwrap();
    let trust: TrustBundles = [bundle].into_iter().collect();
    let own = credentials(&authority.svid(&id(account)), &trust);
    server_config(&own, Arc::new(trust), ClientAuth::Required, &[b"h2"]).into()
}

#[tokio::test]
async fn an_ok_admits_and_the_question_shows_who_calls_what_with_the_listed_fields_alone() {
    let decider =
        Decider::start(Says::Answer(ok(&[("X-User", "anna"), ("x-user", "berta")], &["x-secret"]))).await;
    let stage = Stage::new(&decider.address.to_string(), LISTED).await;
    let fields = [
        ("x-tenant", "a"),
        ("x-many", "1"),
        ("x-many", "2"),
        ("x-private", "p"),
        ("x-user", "root"),
        ("x_user", "root"),
        ("x-secret", "s"),
        ("x-other", "o"),
    ];
    let spelled = stage.send("/charge", &fields).await;
    assert_eq!(spelled.status, 400, "two spellings of a name are ambiguous by themselves");
    let fields: Vec<_> = fields.into_iter().filter(|(name, _)| *name != "x_user").collect();
    assert_eq!(stage.send("/charge?amount=5", &fields).await.status, 200);

    let asked = decider.asked();
    let (source, destination) = (asked[0].source.clone().unwrap(), asked[0].destination.clone().unwrap());
    assert_eq!((source.principal, destination.principal), (id("orders"), id("payments")));
    assert_eq!(source.address.unwrap().socket.unwrap().address, "127.0.0.1");
    let port = destination.address.unwrap().socket.unwrap().port;
    assert_eq!(port, u32::from(stage.app.address.port()));
    let http = asked[0].request.clone().unwrap().http.unwrap();
    assert_eq!((&*http.method, &*http.path, &*http.host), ("POST", "/charge?amount=5", "payments"));
    assert_eq!((&*http.protocol, http.size, http.body.len(), http.raw_body.len()), ("HTTP/2", 8, 0, 0));
    assert!(!http.id.is_empty());
    let shown =
        [("x-many", "1,2"), ("x-tenant", "a")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(http.headers, shown.into_iter().collect());

    let seen = &stage.app.seen()[0];
    let users: Vec<_> = seen.headers.get_all("x-user").iter().collect();
    assert_eq!(users, ["anna", "berta"]);
    assert_eq!(&*seen.body, b"the body");
    assert!(seen.headers.get("x-secret").is_none() && seen.headers.get("x-other").is_some());
    let metrics = stage.sidecar.page("/metrics").await.body;
    assert!(metrics.contains("sidegate_external_decisions_total{outcome=\"allowed\"} 1"), "{metrics}");
}

#[tokio::test]
async fn what_only_whoever_decides_may_set_does_not_come_from_the_caller_in_any_spelling() {
    let decider = Decider::start(Says::Answer(ok(&[], &[]))).await;
    let stage = Stage::new(&decider.address.to_string(), LISTED).await;
    for name in ["x-user", "x_user", "X-User"] {
        assert_eq!(stage.send("/charge", &[(name, "root")]).await.status, 200, "{name}");
    }
    for seen in stage.app.seen() {
        assert!(!seen.headers.values().any(|value| value == "root"), "{:?}", seen.headers);
    }
}

#[tokio::test]
async fn it_is_asked_about_what_policy_permits_and_its_ok_widens_nothing() {
    let decider = Decider::start(Says::Answer(ok(&[], &[]))).await;
    let stage = Stage::new(&decider.address.to_string(), PATIENT).await;
    assert_eq!(stage.send("/refund", &[]).await.status, 403);
    assert!(decider.asked().is_empty() && stage.app.seen().is_empty());
    stage.sidecar.accessed(|line| line["code"] == "SG0202" && line["path"] == "/refund");
    assert_eq!(stage.charge().await, 200);
    assert_eq!(decider.asked().len(), 1);
}

#[tokio::test]
async fn a_denial_refuses_with_its_4xx_and_with_403_for_anything_else() {
    let decider = Decider::start(Says::Answer(no(7, 0))).await;
    let stage = Stage::new(&decider.address.to_string(), PATIENT).await;
    for (code, http, status) in
        [(7, 0, 403), (16, 401, 401), (8, 429, 429), (7, 302, 403), (7, 200, 403), (99, -1, 403)]
    {
        decider.says(Says::Answer(no(code, http)));
        stage.refused(status, "SG0250", &format!("status {code}: not on a Sunday")).await;
    }
    decider.says(Says::Answer(ok(&[], &[])));
    assert_eq!(stage.charge().await, 200);
    let metrics = stage.sidecar.page("/metrics").await.body;
    assert!(metrics.contains("sidegate_external_decisions_total{outcome=\"denied\"} 6"), "{metrics}");
}

#[tokio::test]
async fn an_answer_that_is_not_an_ok_as_the_configuration_allows_it_is_refused_whole() {
    let decider = Decider::start(Says::Nothing).await;
    let stage = Stage::new(&decider.address.to_string(), LISTED).await;
    let plain = ok(&[], &[]);
    let of = |change: OkResponse| {
        let mut answer = plain.clone();
        answer.ok = Some(change);
        answer
    };
    let without_status = {
        let mut answer = plain.clone();
        answer.status = None;
        answer
    };
    let contradicting = {
        let mut answer = no(0, 403);
        answer.status.as_mut().unwrap().message.clear();
        answer
    };
    let conditional = {
        let mut set = option("x-user", "a");
        set.append_action = 1;
        set
    };
    let cases = [
        (without_status, "no status"),
        (contradicting, "its response a denial"),
        (ok(&[("x-user", "a"), ("x-tenant", "b")], &[]), "\"x-tenant\", which is not in setHeaders"),
        (ok(&[("x-sidegate-peer", "spiffe://shop.test/ns/shop/sa/root")], &[]), "x-sidegate-peer"),
        (ok(&[("x-forwarded-for", "1.2.3.4")], &[]), "x-forwarded-for"),
        (ok(&[("transfer-encoding", "chunked")], &[]), "transfer-encoding"),
        (ok(&[(":path", "/refund")], &[]), ":path"),
        (ok(&[("x-user", "a\r\nx-tenant: b")], &[]), "is none"),
        (ok(&[("x-user", " a")], &[]), "is none"),
        (ok(&[], &["x-tenant"]), "\"x-tenant\", which is not in removeHeaders"),
        (ok(&[], &["host"]), "host"),
        (of(OkResponse { headers: vec![conditional], ..OkResponse::default() }), "on a condition"),
        (
            of(OkResponse {
                response_headers_to_add: vec![option("set-cookie", "a=b")],
                ..OkResponse::default()
            }),
            "change the answer",
        ),
        (
            of(OkResponse { query_parameters_to_remove: vec!["amount".to_owned()], ..OkResponse::default() }),
            "change the query",
        ),
    ];
    for (answer, why) in cases {
        decider.says(Says::Answer(answer));
        stage.refused(503, "SG0252", why).await;
    }
    decider.says(Says::Answer(plain));
    assert_eq!(stage.charge().await, 200);
}

#[tokio::test]
async fn no_answer_refuses_whatever_the_reason() {
    let decider = Decider::start(Says::Nothing).await;
    // Not so many that it is not asked any more.
    let stage =
        Stage::new(&decider.address.to_string(), "timeout: 10s, answerBytes: 2048, breaker: {failures: 99}")
            .await;
    let oversized = Says::Answer(ok(&[("x-user", &"a".repeat(4096))], &[]));
    for (says, why) in [
        (Says::Fails(13), "Internal"),
        (Says::Fails(0), ""),
        (Says::Bytes(vec![0xff; 32]), ""),
        (oversized, "too large"),
    ] {
        decider.says(says);
        stage.refused(503, "SG0251", why).await;
    }
    decider.says(Says::Answer(ok(&[], &[])));
    assert_eq!(stage.charge().await, 200);
}

#[tokio::test]
async fn a_late_answer_refuses_in_time() {
    let decider = Decider::start(Says::Nothing).await;
    let stage = Stage::new(&decider.address.to_string(), "timeout: 200ms").await;
    let began = Instant::now();
    stage.refused(503, "SG0251", "timeout is over").await;
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    assert_eq!(decider.asked().len(), 1);
}

#[tokio::test]
async fn after_failures_in_a_row_it_is_not_asked_for_a_while_and_then_tried_again() {
    let decider = Decider::start(Says::Fails(14)).await;
    let address = decider.address;
    let fields = "timeout: 10s, breaker: {failures: 2, openFor: 1s}";
    let stage = Stage::new(&address.to_string(), fields).await;
    stage.refused(503, "SG0251", "unavailable").await;
    stage.refused(503, "SG0251", "unavailable").await;
    stage.refused(503, "SG0251", "not asked for now").await;
    assert_eq!(decider.asked().len(), 2);
    decider.says(Says::Answer(ok(&[], &[])));
    let deadline = Instant::now() + PATIENCE;
    while stage.charge().await != 200 {
        assert!(Instant::now() < deadline);
    }
    // Gone, and back at the same place.
    drop(decider);
    stage.refused(503, "SG0251", "").await;
    let decider = Decider::start_at(address, None, Says::Answer(ok(&[], &[]))).await;
    let deadline = Instant::now() + PATIENCE;
    while stage.charge().await != 200 {
        assert!(Instant::now() < deadline);
    }
    assert!(!decider.asked().is_empty());
}

#[tokio::test]
async fn a_server_of_the_mesh_proves_one_of_its_identities_and_another_is_not_asked() {
    for (account, status) in [("opa", 200), ("intruder", 503)] {
        let authority = Authority::new();
        let decider = Decider::start_behind(of_mesh(&authority, account), Says::Answer(ok(&[], &[]))).await;
        let fields = format!("{PATIENT}, identities: ['{}']", id("opa"));
        let stage = Stage::of(authority, &decider.address.to_string(), &fields).await;
        assert_eq!(stage.charge().await, status, "{account}");
        assert_eq!(decider.asked().len(), usize::from(status == 200), "{account}");
    }
}

#[tokio::test]
async fn a_server_outside_of_the_mesh_proves_its_name_by_the_authorities_of_the_file() {
    let folder = TempDir::new().unwrap();
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["opa.test".to_owned()]).unwrap();
    let CertifiedKey { cert: stranger, .. } =
        rcgen::generate_simple_self_signed(["opa.test".to_owned()]).unwrap();
    std::fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
    std::fs::write(folder.path().join("stranger.pem"), stranger.pem()).unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server));
    for (file, name, status) in
        [("ca", "opa.test", 200), ("ca", "other.test", 503), ("stranger", "opa.test", 503)]
    {
        let decider = Decider::start_behind(acceptor.clone(), Says::Answer(ok(&[], &[]))).await;
        let file = folder.path().join(format!("{file}.pem"));
        let fields = format!("{PATIENT}, tls: {{trustBundle: '{}', serverName: {name}}}", file.display());
        let stage = Stage::new(&decider.address.to_string(), &fields).await;
        assert_eq!(stage.charge().await, status, "{file:?} {name}");
        assert_eq!(decider.asked().len(), usize::from(status == 200));
    }
}

#[tokio::test]
async fn a_server_on_this_host_is_asked_over_its_socket() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("opa.sock");
    let stage = Stage::new(&format!("unix:{}", socket.display()), PATIENT).await;
    stage.refused(503, "SG0251", "opa.sock").await;
    let decider = Decider::start_at_socket(&socket, Says::Answer(ok(&[], &[])));
    assert_eq!(stage.charge().await, 200);
    decider.says(Says::Answer(no(7, 0)));
    stage.refused(403, "SG0250", "not on a Sunday").await;
}

#[tokio::test]
async fn an_opaque_connection_is_asked_about_too() {
    let (app, authority) = (echo().await, Authority::new());
    let decider = Decider::start(Says::Answer(no(7, 0))).await;
    let more = format!("externalAuthorization: {{address: '{}', {PATIENT}}}", decider.address);
    let ports = [Port::Inbound(app.address, "protocol: tcp")];
    let svid = authority.svid(&id("payments"));
    let sidecar = Sidecar::start_as("payments", &svid, &authority, ANYBODY, &ports, &more);
    let exchange = async || {
        let mut stream = stream(&sidecar, &authority, b"sidegate-tcp/1").await;
        let mut answer = [0; 4];
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut answer).await.map(|_| answer)
    };
    assert!(exchange().await.is_err());
    assert_eq!(app.connections(), 0);
    sidecar.accessed(|line| line["code"] == "SG0250" && line["protocol"] == "tcp");
    let asked = decider.asked().remove(0);
    assert_eq!(asked.source.unwrap().principal, id("orders"));
    assert!(asked.request.unwrap().http.is_none());
    decider.says(Says::Answer(ok(&[], &[])));
    assert_eq!(exchange().await.unwrap(), *b"ping");
    // There are no header fields that it could set.
    decider.says(Says::Answer(ok(&[("x-user", "a")], &[])));
    assert!(exchange().await.is_err());
    sidecar.accessed(|line| line["code"] == "SG0252");
}

#[tokio::test]
async fn what_is_open_is_cut_when_somebody_else_decides_from_now_on() {
    let (app, authority) = (endless().await, Authority::new());
    let first = Decider::start(Says::Answer(ok(&[], &[]))).await;
    let second = Decider::start(Says::Answer(ok(&[], &[]))).await;
    let more = format!("externalAuthorization: {{address: '{}', {PATIENT}}}", first.address);
    let ports = [Port::Inbound(app.address, "protocol: http2")];
    let svid = authority.svid(&id("payments"));
    let sidecar = Sidecar::start_as("payments", &svid, &authority, ANYBODY, &ports, &more);
    let mut caller = Connection::over(stream(&sidecar, &authority, b"h2").await, Http::Two).await;
    let request = Request::get("http://payments/").body(Full::default()).unwrap();
    let open = caller.open(request).await.unwrap();
    assert_eq!(open.status(), 200);
    // A change of something else leaves it as it is.
    sidecar.configure(|text| text.replace("protocol: http2", "protocol: http2, paths: compatible"));
    sidecar.configured(1);
    assert_eq!(first.asked().len(), 1);
    sidecar.configure(|text| text.replace(&first.address.to_string(), &second.address.to_string()));
    sidecar.configured(2);
    sidecar.accessed(|line| line["code"] == "SG0207");
    let request = Request::get("http://payments/").body(Full::default()).unwrap();
    assert_eq!(caller.open(request).await.unwrap().status(), 200);
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
}
