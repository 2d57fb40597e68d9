//! A mesh in a folder of its own, with a control plane that serves it.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use sidegate_control_plane::{
    app::{Running, StartError},
    config::Config,
    registry::{Archive, Event, Issuance, Query, Refused},
    tokens::{Secret, Terms, Token, Tokens},
};
use sidegate_identity::{SpiffeId, TrustBundle, TrustBundles, TrustDomain};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Files on disk; the control plane comes with [`Mesh::start`].
pub(crate) struct Mesh {
    folder: tempfile::TempDir,
    running: Option<Running>,
}

pub(crate) const ALLOW_ORDERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: payments-callers, namespace: shop}
spec:
  selector: {app: payments}
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

pub(crate) const ALLOW_WEB: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: orders-callers, namespace: shop}
spec:
  selector: {app: orders}
  action: Allow
  rules: [{name: web, from: [{serviceAccounts: [shop/web]}]}]
";

impl Mesh {
    /// Services orders and payments with join tokens of their names, and a policy for each.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policies")).unwrap();
        let mesh = Self { folder, running: None };
        mesh.write("mesh.yaml", &mesh_yaml("6h"));
        mesh.write("policies/payments.yaml", ALLOW_ORDERS);
        mesh.write("policies/orders.yaml", ALLOW_WEB);
        mesh
    }

    pub(crate) async fn started() -> Self {
        let mut mesh = Self::new();
        mesh.start().await.unwrap();
        mesh
    }

    pub(crate) async fn start(&mut self) -> Result<(), StartError> {
        self.running = Some(Running::start(&self.path("mesh.yaml")).await?);
        Ok(())
    }

    pub(crate) async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file as an editor does: written aside, renamed into place.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let aside = self.path(&format!("{name}.new"));
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.path(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// What a sidecar bootstraps with.
    pub(crate) fn trust(&self) -> TrustBundles {
        trust_in(&fs::read(self.running().root_certificate()).unwrap())
    }

    /// A file of the mesh as this process sees it, which may have mounted something there.
    pub(crate) fn seen_by(&self, process: u32, name: &str) -> PathBuf {
        let path = self.path(name);
        PathBuf::from(format!("/proc/{process}/root")).join(path.strip_prefix("/").unwrap())
    }

    /// Makes a join token as the operator does, for an hour.
    pub(crate) fn token(&self, identity: &str, uses: Option<u32>) -> (Token, Secret) {
        self.token_of(now_ms(), identity, uses)
    }

    /// The same two hours ago.
    pub(crate) fn expired_token(&self, identity: &str) -> Secret {
        self.token_of(now_ms() - 2 * 3_600_000, identity, None).1
    }

    /// Takes one back as the operator does.
    pub(crate) fn revoke(&self, token: &Token) {
        self.tokens().revoke(&token.id, now_ms()).unwrap();
    }

    fn token_of(&self, now_ms: u64, identity: &str, uses: Option<u32>) -> (Token, Secret) {
        let secret = Secret::generate().unwrap();
        let identity = SpiffeId::parse(identity).unwrap();
        let terms = Terms { identity, life: Duration::from_hours(1), uses };
        (self.tokens().add(&secret, &terms, now_ms).unwrap(), secret)
    }

    fn tokens(&self) -> Tokens {
        Tokens::open(&Config::load(&self.path("mesh.yaml")).unwrap()).unwrap()
    }

    /// What is on record, in its order.
    pub(crate) fn records(&self) -> (Vec<Issuance>, Vec<Refused>) {
        let archive = Archive::open(&Config::load(&self.path("mesh.yaml")).unwrap()).unwrap();
        archive.verify().unwrap();
        let query = Query { limit: 100_000, ..Query::default() };
        let (mut issued, mut refused) = (Vec::new(), Vec::new());
        let listed = archive.issued(&query).unwrap().into_iter().chain(archive.refused(&query).unwrap());
        for listed in listed.rev() {
            match listed.event {
                Event::Issued(event) => issued.push(event),
                Event::Refused(event) => refused.push(event),
                Event::Rotated(_) => {}
            }
        }
        (issued, refused)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.request(path, "localhost").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Status and body of a GET with this Host.
    pub(crate) async fn request(&self, path: &str, host: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.running().api()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// Asks until the document says what is expected: the API shows another task's work.
    pub(crate) async fn wait_for(&self, path: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let document = self.get(path).await;
            if expected(&document) {
                return document;
            }
            assert!(tokio::time::Instant::now() < deadline, "{path} never said it: {document}");
            tokio::task::yield_now().await;
        }
    }
}

/// The bundle of a root's certificate.
pub(crate) fn trust_in(pem: &[u8]) -> TrustBundles {
    let trust_domain = TrustDomain::parse("shop.test").unwrap();
    [TrustBundle::from_pem(trust_domain, pem).unwrap()].into_iter().collect()
}

pub(crate) fn mesh_yaml(leaf_life: &str) -> String {
    let token = |token: &str| {
        let digest = Sha256::digest(token);
        digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
    };
    format!(
        r#"apiVersion: sidegate.dev/v1alpha1
kind: Mesh
trustDomain: shop.test
policies: policies
state: state
listen: {{grpc: "127.0.0.1:0", api: "127.0.0.1:0"}}
certificates: {{leafLife: {leaf_life}}}
services:
- {{namespace: shop, name: orders, joinTokens: ["{}"]}}
- {{namespace: shop, name: payments, joinTokens: ["{}"]}}
"#,
        token("orders"),
        token("payments")
    )
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}
