//! The mesh's root is replaced while requests flow: nobody notices, whoever falls or is away.

use std::{
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use sidegate_identity::{
    SpiffeId, TrustBundle, TrustBundles, TrustDomain,
    tls::{Credentials, Expected, client_config},
};
use tokio::task::JoinHandle;

use crate::mesh::{App, Connection, ControlPlane, DOMAIN, Http, Member, Svid, connect, credentials, id};

const POLICIES: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec: {action: Allow, rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]}
";

struct Mesh {
    control_plane: ControlPlane,
    payments: Member,
    orders: Member,
    app: App,
}

/// Calls that go on.
struct Traffic {
    calls: JoinHandle<usize>,
    stop: Arc<AtomicBool>,
}

impl Traffic {
    /// How many were answered; one that was not fails the test.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.calls.await.unwrap()
    }
}

impl Mesh {
    /// Opaque ports: each connection of the client is a handshake between the sidecars.
    async fn start(more: &'static str) -> Self {
        let app = App::start().await;
        let control_plane = ControlPlane::start_with("100ms", POLICIES, more);
        let inbound =
            format!("inbound: [{{listen: '127.0.0.1:0', forward: '{}', protocol: tcp}}]", app.address);
        let payments = Member::start("payments", &control_plane, &inbound);
        let outbound = "outbound: [{listen: '127.0.0.1:0', service: payments, protocol: tcp}]";
        let orders = Member::start("orders", &control_plane, outbound);
        control_plane.serves_both().await;
        Self { control_plane, payments, orders, app }
    }

    /// Calls until it is stopped, each time on a connection of its own.
    fn traffic(&self) -> Traffic {
        let (address, stop) = (self.orders.address("outbound"), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let calls = tokio::spawn(async move {
            let mut answered = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut client = Connection::plain(address, Http::One).await;
                let reply = client.call("GET", "/").await.unwrap();
                assert_eq!(reply.status, 200, "request {answered}: {}", reply.body);
                answered += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answered
        });
        Traffic { calls, stop }
    }

    fn rotate(&self, what: &[&str]) -> Value {
        let output = self.control_plane.operator(&[&["certs"], what, &["-o", "json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until the rotation is in one of these phases; hands on which.
    async fn phase(&self, wanted: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_mins(2);
        loop {
            let status = self.control_plane.get("/v1/status").await;
            let phase = status["rotation"]["phase"].as_str().unwrap();
            if wanted.contains(&phase) {
                return phase.to_owned();
            }
            assert!(Instant::now() < deadline, "{status:#}\n{:#}", self.rotate(&["rotate", "status"]));
            // Nothing tells when a document of the API changes.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn root(&self) -> String {
        let status = self.control_plane.get("/v1/status").await;
        status["root"]["fingerprint"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_rotation_fails_no_request_though_the_control_plane_falls_in_each_phase() {
    let mut mesh = Mesh::start("certificates: {leafLife: 20s}\n").await;
    let before = mesh.root().await;
    let traffic = mesh.traffic();
    let begun = mesh.rotate(&["rotate", "start", "--reason", "a test"]);
    assert_eq!((&begun["number"], &begun["phase"]["name"]), (&1.into(), &"prepare".into()));
    for phases in [&["prepare", "activate", "retire"][..], &["activate", "retire"], &["retire", "steady"]] {
        mesh.phase(phases).await;
        mesh.control_plane.kill();
        mesh.control_plane.start_again();
    }
    mesh.phase(&["steady"]).await;
    assert_ne!(mesh.root().await, before);
    assert!(traffic.end().await > 20);
    // Trusted by whoever comes now: one root, and the right one.
    assert_eq!(mesh.control_plane.root().matches("BEGIN").count(), 1);
    let verified = mesh.control_plane.operator(&["certs", "verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[tokio::test]
async fn who_is_away_is_named_and_waited_for_and_an_abort_goes_back_without_a_failed_request() {
    let mesh = Mesh::start("certificates: {leafLife: 20s}\n").await;
    let before = mesh.root().await;
    mesh.payments.suspend();
    mesh.rotate(&["rotate", "start", "--reason", "a test"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    let blocker = loop {
        let status = mesh.rotate(&["rotate", "status"]);
        // The other one acknowledges, and then it is alone.
        if let [blocker] = status["blockers"].as_array().unwrap().as_slice() {
            break blocker.clone();
        }
        assert!(Instant::now() < deadline, "{status:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(
        (&blocker["identity"], &blocker["waitsFor"]),
        (&id("payments").into(), &"acknowledgement".into())
    );
    assert_eq!(mesh.phase(&["prepare", "activate"]).await, "prepare");
    mesh.payments.resume();
    mesh.phase(&["activate"]).await;
    assert_ne!(mesh.root().await, before);

    let traffic = mesh.traffic();
    let aborted = mesh.rotate(&["rotate", "abort", "--reason", "a test"]);
    assert_eq!(
        aborted["phase"]["name"], "activate",
        "both are trusted until nothing of the new one is alive"
    );
    assert_eq!(mesh.root().await, before);
    mesh.phase(&["steady"]).await;
    assert_eq!(mesh.root().await, before);
    assert!(traffic.end().await > 20);
}

#[tokio::test]
async fn a_tainted_root_is_gone_in_seconds_though_its_certificates_would_live_for_hours() {
    let mesh = Mesh::start("").await;
    let before = mesh.root().await;
    let tainted = mesh.rotate(&["taint", "--reason", "a test"]);
    assert_eq!((&tainted["cause"], &tainted["urgent"]), (&"taint".into(), &true.into()));
    mesh.phase(&["retire", "steady"]).await;
    let refused = mesh.control_plane.operator(&["certs", "rotate", "abort", "--reason", "a test"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stdout));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("SG0360"));
    mesh.phase(&["steady"]).await;
    assert_ne!(mesh.root().await, before);
    let mut client = Connection::plain(mesh.orders.address("outbound"), Http::One).await;
    assert_eq!(client.status("GET", "/").await, 200);
}

/// The owner of a root, who has its key elsewhere.
struct RootOwner(CertifiedIssuer<'static, KeyPair>);

impl RootOwner {
    fn new() -> Self {
        let params = Self::authority(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn authority(constraints: BasicConstraints) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(constraints);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = time::OffsetDateTime::now_utc() - Duration::from_mins(5);
        params.not_after = time::OffsetDateTime::now_utc() + Duration::from_hours(1);
        params
    }

    /// Signs the request that the control plane makes, and hands the certificate back, which is taken.
    fn serve(&self, mesh: &Mesh) -> Value {
        let output = self.hand_over(mesh, &["--reason", "a test"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The same with other words to it, whatever comes of it.
    fn hand_over(&self, mesh: &Mesh, words: &[&str]) -> Output {
        let folder = tempfile::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let request = ["certs", "intermediate", "request", "--out", &path("request.pem")];
        assert!(mesh.control_plane.operator(&request).status.success());
        let request = std::fs::read_to_string(path("request.pem")).unwrap();
        let key = CertificateSigningRequestParams::from_pem(&request).unwrap().public_key;
        let mut params = Self::authority(BasicConstraints::Constrained(0));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        let certificate = params.signed_by(&key, &self.0).unwrap();
        std::fs::write(path("intermediate.pem"), certificate.pem()).unwrap();
        std::fs::write(path("root.pem"), self.0.pem()).unwrap();
        let (certificate, root) = (path("intermediate.pem"), path("root.pem"));
        let install = ["certs", "intermediate", "install", "--certificate", &certificate, "--root", &root];
        mesh.control_plane.operator(&[&install, words, &["-o", "json"]].concat())
    }
}

#[tokio::test]
async fn a_mesh_moves_under_an_offline_root_and_changes_its_intermediate_without_a_failed_request() {
    let mesh = Mesh::start("certificates: {leafLife: 20s}\n").await;
    let (owner, traffic) = (RootOwner::new(), mesh.traffic());
    assert_eq!(owner.serve(&mesh)["phase"]["name"], "prepare");
    mesh.phase(&["steady"]).await;
    let status = mesh.control_plane.get("/v1/status").await;
    assert_eq!(status["root"]["offline"], true);
    assert_eq!(mesh.control_plane.root(), owner.0.pem(), "the new root alone, and no intermediate");
    assert_eq!(owner.serve(&mesh)["phase"]["name"], "steady", "under the same root nobody is waited for");
    assert_eq!(
        mesh.control_plane.get("/v1/status").await["root"]["fingerprint"],
        status["root"]["fingerprint"]
    );
    let refused = mesh.control_plane.operator(&["certs", "rotate", "start", "--reason", "a test"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(1) && told.contains("SG0360") && told.contains("intermediate"),
        "{told}"
    );
    assert!(traffic.end().await > 20);
}

/// Whoever has a copy of the file with the root's key, and is orders by it.
struct Thief(Credentials);

impl Thief {
    fn of(mesh: &Mesh) -> Self {
        let stolen = std::fs::read(mesh.control_plane.file("state/root.key")).unwrap();
        let key = KeyPair::try_from(&PrivateKeyDer::from_pem_slice(&stolen).unwrap()).unwrap();
        let root = CertificateDer::from_pem_slice(&stolen).unwrap();
        let issuer = Issuer::from_ca_cert_der(&root, key).unwrap();
        let forged = Svid::signed_by(&issuer, &id("orders"), Duration::from_hours(1));
        Self(credentials(&forged, &trust(&mesh.control_plane.root())))
    }

    /// To payments, by whichever root that proves itself now.
    async fn connect(&self, mesh: &Mesh) -> std::io::Result<Connection> {
        let trust = Arc::new(trust(&mesh.control_plane.root()));
        let expected = Expected::OneOf(Arc::new([SpiffeId::parse(&id("payments")).unwrap()]));
        let config = client_config(Some(&self.0), trust, expected, &[b"sidegate-tcp/1"]);
        let stream = connect(mesh.payments.address("inbound"), config).await?;
        Ok(Connection::over(stream, Http::One).await)
    }
}

fn trust(root: &str) -> TrustBundles {
    [TrustBundle::from_pem(TrustDomain::parse(DOMAIN).unwrap(), root.as_bytes()).unwrap()]
        .into_iter()
        .collect()
}

#[tokio::test]
async fn what_a_stolen_key_signs_is_cut_and_refused_once_another_root_has_taken_its_place_in_a_hurry() {
    let mesh = Mesh::start("").await;
    let thief = Thief::of(&mesh);
    let mut open = thief.connect(&mesh).await.unwrap();
    assert_eq!(open.status("GET", "/").await, 200, "it is orders to everybody");

    let (owner, urgently) = (RootOwner::new(), ["--taint", "--reason", "a test"]);
    let begun = owner.hand_over(&mesh, &urgently);
    assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
    let begun: Value = serde_json::from_slice(&begun.stdout).unwrap();
    assert_eq!((&begun["cause"], &begun["urgent"]), (&"taint".into(), &true.into()), "{begun:#}");
    mesh.phase(&["steady"]).await;
    assert_eq!(mesh.control_plane.root(), owner.0.pem(), "seconds later, though certificates live for hours");
    let reached = mesh.app.seen().len();
    assert!(open.call("GET", "/").await.is_err(), "what was open is cut");
    if let Ok(mut again) = thief.connect(&mesh).await {
        assert!(again.call("GET", "/").await.is_err(), "refused by payments, whom the thief believes");
    }
    assert_eq!(mesh.app.seen().len(), reached);
    let mut client = Connection::plain(mesh.orders.address("outbound"), Http::One).await;
    assert_eq!(client.status("GET", "/").await, 200);

    let refused = owner.hand_over(&mesh, &urgently);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && told.contains("SG0360"), "the same root is no other: {told}");
}
