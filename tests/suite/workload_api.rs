//! A sidecar serves the SPIFFE Workload API to its application: seen with the client of the `spiffe` crate, which knows
//! nothing of Sidegate.

use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use spiffe::{TrustDomain, WorkloadApiClient, X509Source, workload_api::error::WorkloadApiError};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use crate::mesh::{App, Authority, Connection, DOMAIN, Http, PATIENCE, Port, Sidecar, Svid, id, tls};

const ORDERS_ALONE: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}], to: [{paths: ['/**']}]}]
";
const SERVED: &str = "workloadApi: {listen: api.sock}";

fn orders(app: &App, authority: &Authority) -> Sidecar {
    let ports = [Port::Inbound(app.address, "protocol: http")];
    Sidecar::start_as("orders", &authority.svid(&id("orders")), authority, ORDERS_ALONE, &ports, SERVED)
}

fn endpoint(sidecar: &Sidecar) -> String {
    format!("unix://{}", sidecar.file("api.sock").display())
}

async fn client(sidecar: &Sidecar) -> WorkloadApiClient {
    WorkloadApiClient::connect_to(endpoint(sidecar)).await.unwrap()
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it comes in time")
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// The application is the workload: with what it was given it calls another sidecar as `orders`.
#[tokio::test]
async fn an_application_gets_an_svid_that_the_mesh_knows_it_by() {
    let (app, authority) = (App::start().await, Authority::new());
    let orders = orders(&app, &authority);
    let to_app = [Port::Inbound(app.address, "protocol: http")];
    let payments = Sidecar::start("payments", &authority, ORDERS_ALONE, &to_app);

    let given = in_time(client(&orders).await.fetch_x509_context()).await.unwrap();
    let svid = given.default_svid().unwrap();
    assert_eq!(svid.spiffe_id().to_string(), id("orders"));
    let domain = TrustDomain::new(DOMAIN).unwrap();
    assert_eq!(given.bundle_set().get(&domain).unwrap().authorities().len(), 1);

    let own = Svid {
        chain: pem("CERTIFICATE", svid.leaf().as_bytes()),
        key: pem("PRIVATE KEY", svid.private_key().as_bytes()),
    };
    let stream = tls(payments.inbound(), &authority, Some(&own), &id("payments"), b"http/1.1").await.unwrap();
    assert_eq!(Connection::over(stream, Http::One).await.status("GET", "/").await, 200);
    payments.accessed(|line| line["src"] == id("orders") && line["verdict"] == "allowed");
}

#[tokio::test]
async fn a_renewal_and_a_new_root_reach_the_application_as_they_come_into_force() {
    let (app, authority) = (App::start().await, Authority::new());
    let orders = orders(&app, &authority);
    let mut contexts = client(&orders).await.stream_x509_contexts().await.unwrap();
    let first = in_time(contexts.next()).await.unwrap().unwrap();

    let renewed = authority.svid(&id("orders"));
    orders.replace("key.pem", &renewed.key);
    orders.replace("svid.pem", &renewed.chain);
    let second = in_time(contexts.next()).await.unwrap().unwrap();
    assert_ne!(second.default_svid().unwrap().leaf(), first.default_svid().unwrap().leaf());
    assert_ne!(
        second.default_svid().unwrap().private_key().as_bytes(),
        first.default_svid().unwrap().private_key().as_bytes()
    );

    orders.replace("bundle.pem", &(authority.bundle() + &Authority::new().bundle()));
    let third = in_time(contexts.next()).await.unwrap().unwrap();
    let domain = TrustDomain::new(DOMAIN).unwrap();
    assert_eq!(third.bundle_set().get(&domain).unwrap().authorities().len(), 2);
}

/// The client that keeps itself up to date, as applications use it.
#[tokio::test]
async fn an_application_that_starts_before_its_identity_gets_it_when_it_comes() {
    let (app, authority) = (App::start().await, Authority::new());
    let complete = orders(&app, &authority);
    let folder = complete.copy();
    let svid = std::fs::read_to_string(folder.path().join("svid.pem")).unwrap();
    std::fs::remove_file(folder.path().join("svid.pem")).unwrap();
    let late = Sidecar::start_in(folder, &[Port::Inbound(app.address, "protocol: http")]);
    late.logged(|line| line["code"] == "SG0313");

    let refused = in_time(client(&late).await.fetch_x509_svid()).await.unwrap_err();
    assert!(!matches!(refused, WorkloadApiError::PermissionDenied(_)), "it will be granted: {refused}");
    let source = X509Source::builder()
        .endpoint(endpoint(&late))
        .reconnect_backoff(Duration::from_millis(20), Duration::from_millis(50))
        .build();
    let (source, ()) =
        in_time(async { tokio::join!(Box::pin(source), async { late.replace("svid.pem", &svid) }) }).await;
    assert_eq!(source.unwrap().svid().unwrap().spiffe_id().to_string(), id("orders"));
}

#[tokio::test]
async fn an_identity_without_a_valid_authority_is_taken_from_the_application() {
    let (app, authority) = (App::start().await, Authority::new());
    let orders = orders(&app, &authority);
    let mut contexts = client(&orders).await.stream_x509_contexts().await.unwrap();
    in_time(contexts.next()).await.unwrap().unwrap();
    // A new root, and no certificate of it yet.
    orders.replace("bundle.pem", &Authority::new().bundle());
    let ended = in_time(contexts.next()).await.unwrap().unwrap_err();
    assert!(matches!(ended, WorkloadApiError::PermissionDenied(_)), "{ended}");
}

/// What the application is given is a key in memory: the sidecar writes none, and a key that it cannot hand on whole
/// is refused before it is used.
#[tokio::test]
async fn a_key_that_is_not_pkcs8_is_not_served_half() {
    let (app, authority) = (App::start().await, Authority::new());
    let complete = orders(&app, &authority);
    let folder = complete.copy();
    let key = std::fs::read_to_string(folder.path().join("key.pem")).unwrap();
    std::fs::write(folder.path().join("key.pem"), sec1(&key)).unwrap();
    let refusing = Sidecar::start_in(folder, &[Port::Inbound(app.address, "protocol: http")]);
    let line = refusing.logged(|line| line["code"] == "SG0313");
    assert!(line["error"].as_str().unwrap().contains("not PKCS#8"), "{line}");
    let refused = in_time(client(&refusing).await.fetch_x509_svid()).await;
    assert!(refused.is_err());
}

/// The same key as `openssl ec` writes it.
fn sec1(pkcs8: &str) -> String {
    use rustls::pki_types::pem::PemObject;
    let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(pkcs8.as_bytes()).unwrap() else {
        unreachable!("rcgen writes PKCS#8")
    };
    let der = der.secret_pkcs8_der();
    // After the version and the algorithm an octet string holds the SEC1 key.
    let at = der.windows(2).position(|pair| pair == [0x04, 0x6d]).unwrap();
    pem("EC PRIVATE KEY", &der[at + 2..])
}

#[tokio::test]
async fn the_sockets_file_goes_with_the_sidecar() {
    let (app, authority) = (App::start().await, Authority::new());
    let mut orders = orders(&app, &authority);
    let socket = orders.file("api.sock");
    assert!(socket.exists());
    orders.terminate();
    assert!(orders.wait().success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_sidecar_with_an_unsafe_socket_does_not_start() {
    let (app, authority) = (App::start().await, Authority::new());
    let folder = orders(&app, &authority).copy();
    let config = folder.path().join("proxy.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("listen: api.sock", "listen: /tmp/sidegate-api.sock")).unwrap();
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(["proxy", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("SG0332") && said.contains("/tmp"), "{said}");
}
