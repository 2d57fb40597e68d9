//! Who may not speak: everyone without an SVID of the mesh, and everyone whose time is over.

use std::{os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use http_body_util::BodyExt;
use rustls::{NamedGroup, crypto::CryptoProvider};
use sidegate_identity::tls::provider;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::mesh::{App, Authority, Connection, Http, PATIENCE, Port, Sidecar, Svid, connect, id, tls};

const EVERYBODY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: open}
spec:
  action: Allow
  rules: [{name: everybody, to: [{paths: ['/**']}]}]
";

async fn stage() -> (App, Authority, Sidecar) {
    let (app, authority) = (App::start().await, Authority::new());
    let sidecar =
        Sidecar::start("payments", &authority, EVERYBODY, &[Port::Inbound(app.address, "protocol: http")]);
    (app, authority, sidecar)
}

/// Sends a request over a handshake that the client may believe succeeded, and expects no byte back.
async fn is_refused(stream: std::io::Result<tokio_rustls::client::TlsStream<TcpStream>>) -> bool {
    let Ok(mut stream) = stream else { return true };
    // With TLS 1.3 a client learns of its refusal with the first read.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n").await;
    matches!(stream.read(&mut [0; 1024]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn nobody_without_an_svid_of_the_mesh_reaches_the_application() {
    let (app, authority, sidecar) = stage().await;
    let foreign = Authority::new();
    let orders = authority.svid(&id("orders"));
    let address = sidecar.inbound();

    assert!(is_refused(tls(address, &authority, None, &id("payments"), b"http/1.1").await).await);
    sidecar.accessed(|line| line["code"] == "SG0301");

    // The same SPIFFE ID under another CA. The stranger trusts the server all the same.
    let stranger = trusting_client(&foreign.svid(&id("orders")));
    assert!(is_refused(connect(address, stranger).await).await);
    sidecar.accessed(|line| line["code"] == "SG0302");

    let two_names = trusting_client(&authority.svid("https://shop.test/orders"));
    assert!(is_refused(connect(address, two_names).await).await);
    sidecar.accessed(|line| line["code"] == "SG0304");

    assert!(app.seen().is_empty());
    assert!(!is_refused(tls(address, &authority, Some(&orders), &id("payments"), b"http/1.1").await).await);
    assert_eq!(app.seen().len(), 1, "and with one they do");
    let metrics = sidecar.page("/metrics").await.body;
    for code in ["SG0301", "SG0302", "SG0304"] {
        assert!(
            metrics.contains(&format!(
                "sidegate_tls_handshake_failures_total{{direction=\"inbound\",code=\"{code}\""
            )),
            "{metrics}"
        );
    }
}

/// A client without our verifier, as an attacker would write it: presents what it likes.
fn trusting_client(svid: &Svid) -> Arc<rustls::ClientConfig> {
    trusting_client_with(svid, provider())
}

fn trusting_client_with(svid: &Svid, cryptography: Arc<CryptoProvider>) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

    #[derive(Debug)]
    struct Anybody;
    impl rustls::client::danger::ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2".into()))
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    }

    let chain = CertificateDer::pem_slice_iter(svid.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(svid.key.as_bytes()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(cryptography)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn a_sidecar_that_requires_post_quantum_refuses_every_other_key_exchange_and_calls_by_none() {
    let (app, authority) = (App::start().await, Authority::new());
    let (svid, payments) = (authority.svid(&id("orders")), authority.svid(&id("payments")));
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let strict = "requirePostQuantum: true";
    let server = Sidecar::start_as("payments", &payments, &authority, EVERYBODY, &ports, strict);
    let to_server = [Port::Outbound("payments", server.inbound(), "protocol: http")];
    let client = Sidecar::start_as("orders", &svid, &authority, EVERYBODY, &to_server, strict);
    let mut called = Connection::plain(client.outbound(), Http::One).await;
    assert_eq!(called.status("GET", "/").await, 200, "two that know it");

    let mut classical = CryptoProvider::clone(&provider());
    classical.kx_groups.retain(|group| group.name() != NamedGroup::X25519MLKEM768);
    let stranger = trusting_client_with(&svid, Arc::new(classical));
    assert!(is_refused(connect(server.inbound(), Arc::clone(&stranger)).await).await);
    server.accessed(|line| line["code"] == "SG0309");
    let metrics = server.page("/metrics").await.body;
    assert!(metrics.contains("code=\"SG0309\",reason=\"key_exchange\"} 1"), "{metrics}");

    let lenient = Sidecar::start("payments", &authority, EVERYBODY, &ports);
    assert!(
        !is_refused(connect(lenient.inbound(), stranger).await).await,
        "without the requirement it is one"
    );
}

/// A log of session keys opens every recording.
#[tokio::test]
async fn no_key_of_a_session_is_written_whatever_the_environment_says() {
    let (app, authority) = (App::start().await, Authority::new());
    let folder = tempfile::TempDir::new().unwrap();
    let keys = folder.path().join("keys.log");
    let (keys_file, environment) = (keys.display(), folder.path().join("environment"));
    let script =
        format!("export SSLKEYLOGFILE='{keys_file}'; env > '{}'; exec \"$0\" \"$@\"", environment.display());
    let (own, ports) = (authority.svid(&id("payments")), [Port::Inbound(app.address, "protocol: http")]);
    let sidecar = Sidecar::start_under(&script, &own, &authority, EVERYBODY, &ports);
    assert!(std::fs::read_to_string(environment).unwrap().contains("SSLKEYLOGFILE="), "it is asked to");
    let orders = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), &authority, Some(&orders), &id("payments"), b"http/1.1").await;
    assert!(!is_refused(stream).await, "there is a session");
    assert!(!keys.exists());
}

#[tokio::test]
async fn plaintext_is_closed_before_a_byte_reaches_the_application() {
    let (app, _, sidecar) = stage().await;
    let mut plain = TcpStream::connect(sidecar.inbound()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good a refusal as an end.
    let _ = plain.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
    let line = sidecar.accessed(|line| line["code"] == "SG0101");
    assert_eq!((&line["tls"], &line["verdict"]), (&"plaintext".into(), &"failed".into()));
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn a_connection_ends_with_its_peers_certificate() {
    let (_app, authority, sidecar) = stage().await;
    let short = authority.svid_for(&id("orders"), Duration::from_secs(3));
    let stream =
        tls(sidecar.inbound(), &authority, Some(&short), &id("payments"), b"http/1.1").await.unwrap();
    let mut orders = Connection::over(stream, Http::One).await;
    assert_eq!(orders.status("GET", "/").await, 200);
    let ended = tokio::time::timeout(PATIENCE, async {
        // Asked again and again on the one open connection, until there is none.
        while orders.call("GET", "/").await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    ended.await.expect("the connection outlives its peer's certificate");
    // It ended in order, a little before the certificate: until then a new connection is still one.
    let refused = tokio::time::timeout(PATIENCE, async {
        while !is_refused(connect(sidecar.inbound(), trusting_client(&short)).await).await {}
    });
    refused.await.expect("an expired certificate is still accepted");
    // Within the last second of its life the certificate still passes a handshake, and ends right after it.
    sidecar.accessed(|line| line["code"] == "SG0303" || line["code"] == "SG0311");
}

#[tokio::test]
async fn a_removed_root_ends_open_connections_within_a_second() {
    let (_app, authority, sidecar) = stage().await;
    let svid = authority.svid(&id("orders"));
    let mut open =
        tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"http/1.1").await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n").await.unwrap();
    assert_ne!(open.read(&mut [0; 1024]).await.unwrap(), 0);

    sidecar.move_away("payments");
    let changed = std::time::Instant::now();
    let read = tokio::time::timeout(PATIENCE, open.read(&mut [0; 1024])).await.expect("still open");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
    sidecar.accessed(|line| line["code"] == "SG0311");
}

#[tokio::test]
async fn a_removed_root_ends_outbound_streams_too() {
    // A server that answers with a body that never ends, over HTTP/2: the connection lives in a task of hyper's own.
    let (authority, endless) = (Authority::new(), crate::mesh::endless().await);
    let payments = Sidecar::start(
        "payments",
        &authority,
        EVERYBODY,
        &[Port::Inbound(endless.address, "protocol: http2")],
    );
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: http2")];
    let orders = Sidecar::start("orders", &authority, EVERYBODY, &to_payments);
    let mut client = Connection::plain(orders.outbound(), Http::Two).await;
    let request = http::Request::get("http://payments/").body(http_body_util::Full::default()).unwrap();
    let mut body = client.open(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok(), "the stream is open");

    orders.move_away("orders");
    let broken = tokio::time::timeout(PATIENCE, async { while let Some(Ok(_)) = body.frame().await {} });
    broken.await.expect("the stream outlives the root of its peer");
    orders.logged(|line| line["code"] == "SG0311");
}

#[tokio::test]
async fn a_key_that_others_may_read_is_not_used() {
    let (app, authority, sidecar) = stage().await;
    let folder = sidecar.copy();
    std::fs::set_permissions(folder.path().join("key.pem"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let second = Sidecar::start_in(folder, &[Port::Inbound(app.address, "protocol: http")]);
    let line = second.logged(|line| line["code"] == "SG0312");
    assert!(line["error"].as_str().unwrap().contains("key.pem"), "{line}");
    assert_eq!(second.page("/readyz").await.status, 503);
    let orders = authority.svid(&id("orders"));
    assert!(
        is_refused(tls(second.inbound(), &authority, Some(&orders), &id("payments"), b"http/1.1").await)
            .await
    );
    second.accessed(|line| line["code"] == "SG0308");
}
