//! Who gets a certificate, for which identity, and who gets none.

use rustls_pki_types::{CertificateDer, UnixTime};
use sidegate_identity::{SvidLimits, Usage, verify};
use sidegate_proto::v1::{IssueRequest, identity_client::IdentityClient};
use tonic::Code;

use crate::{
    mesh::{Mesh, mesh_yaml},
    sidecar::{Key, connect, issue, join},
};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

#[tokio::test]
async fn a_join_token_brings_the_certificate_of_its_service() {
    let mesh = Mesh::started().await;
    let credentials = join(&mesh, "payments").await;
    assert_eq!(credentials.svid().id().as_str(), PAYMENTS);
    assert!(credentials.svid().issued_at().is_some(), "the serial carries the time of issue");
}

#[tokio::test]
async fn the_answer_brings_the_bundles_that_peers_are_verified_with() {
    let mesh = Mesh::started().await;
    let response = issue(&mesh, None, Key::new().csr, "payments").await.unwrap();
    assert_eq!(response.trust_bundles.len(), 1);
    assert_eq!(response.trust_bundles[0].trust_domain, "shop.test");
    assert_eq!(
        response.trust_bundles[0].authorities[0],
        *mesh.trust().get("shop.test").unwrap().authorities()[0]
    );
}

#[tokio::test]
async fn a_wrong_token_brings_nothing_and_is_not_repeated() {
    let mesh = Mesh::started().await;
    let refusal = issue(&mesh, None, Key::new().csr, "wrong-word").await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
    assert!(
        refusal.message().starts_with("SG0306") && !refusal.message().contains("wrong-word"),
        "{refusal}"
    );
    let nothing = issue(&mesh, None, Key::new().csr, "").await.unwrap_err();
    assert_eq!(nothing.code(), Code::Unauthenticated);
    let (issued, refused) = mesh.records();
    assert_eq!(issued.iter().filter(|issued| issued.attestor == "join-token").count(), 0);
    let reasons: Vec<_> = refused.iter().map(|refused| refused.reason.as_str()).collect();
    assert_eq!(reasons, ["unknown_token", "nothing_presented"]);
    assert!(refused.iter().all(|refused| refused.caller.starts_with("127.0.0.1:")), "{refused:?}");
}

#[tokio::test]
async fn a_certificate_of_another_ca_does_not_pass_the_handshake() {
    let (mesh, foreign) = (Mesh::started().await, Mesh::started().await);
    let credentials = join(&foreign, "payments").await;
    let channel = connect(&mesh, Some(&credentials)).await;
    // TLS 1.3: the client is done before the server has judged; the refusal may come with the first call.
    if channel.is_ok() {
        let refusal = tokio::time::timeout(std::time::Duration::from_secs(5), async {
            let request = IssueRequest { csr: Key::new().csr, join_token: String::new() };
            sidegate_proto::v1::identity_client::IdentityClient::new(channel.unwrap()).issue(request).await
        });
        assert_ne!(
            refusal.await.unwrap().unwrap_err().code(),
            Code::Unauthenticated,
            "it got as far as a call"
        );
    }
    let (_, metrics) = mesh.request("/metrics", "localhost").await;
    assert!(metrics.contains("sidegate_handshake_failures_total{reason="), "{metrics}");
}

#[tokio::test]
async fn the_names_in_a_request_are_ignored() {
    let mesh = Mesh::started().await;
    let key = Key::asking_for(&["admin.shop.test", "orders"]);
    let response = issue(&mesh, None, key.csr, "payments").await.unwrap();
    let chain: Vec<_> = response.certificate_chain.into_iter().map(CertificateDer::from).collect();
    let svid = verify(&chain, Usage::Server, &mesh.trust(), &SvidLimits::default(), UnixTime::now()).unwrap();
    assert_eq!(svid.id().as_str(), PAYMENTS);
    assert!(!chain[0].windows(15).any(|bytes| bytes == b"admin.shop.test"));
}

#[tokio::test]
async fn a_request_with_a_bad_signature_is_refused() {
    let mesh = Mesh::started().await;
    let mut csr = Key::new().csr;
    *csr.last_mut().unwrap() ^= 1;
    let refusal = issue(&mesh, None, csr, "payments").await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
}

#[tokio::test]
async fn a_certificate_renews_to_the_same_identity_with_another_serial() {
    let mesh = Mesh::started().await;
    let first = join(&mesh, "payments").await;
    let key = Key::new();
    let response = issue(&mesh, Some(&first), key.csr.clone(), "").await.unwrap();
    let second = key.into_credentials(response, &mesh.trust());
    assert_eq!(second.svid().id(), first.svid().id());
    assert_ne!(second.svid().serial(), first.svid().serial());
}

#[tokio::test]
async fn a_token_and_a_certificate_together_are_refused() {
    let mesh = Mesh::started().await;
    let orders = join(&mesh, "orders").await;
    let refusal = issue(&mesh, Some(&orders), Key::new().csr, "payments").await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated, "{refusal}");
}

#[tokio::test]
async fn a_service_that_left_the_mesh_is_not_renewed() {
    let mesh = Mesh::started().await;
    let payments = join(&mesh, "payments").await;
    let without: String = mesh_yaml("6h")
        .lines()
        .filter(|line| !line.contains("payments"))
        .flat_map(|line| [line, "\n"])
        .collect();
    mesh.write("mesh.yaml", &without);
    mesh.wait_for("/v1/policies", |document| {
        let selected = document["policies"][1]["selects"].as_array().unwrap();
        selected.is_empty()
    })
    .await;
    let refusal = issue(&mesh, Some(&payments), Key::new().csr, "").await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated, "{refusal}");
}

#[tokio::test]
async fn plaintext_is_closed_and_counted() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mesh = Mesh::started().await;
    let mut stream = tokio::net::TcpStream::connect(mesh.running().grpc()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A TLS alert at most, then the end; a reset ends it too.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() <= 7, "{answer:?}");
    let (_, metrics) = mesh.request("/metrics", "localhost").await;
    assert!(metrics.contains("sidegate_handshake_failures_total{reason=\"tls\"} 1"), "{metrics}");
}

/// Asks for 320 certificates over these connections as fast as they come, eight at a time on each; hands over the refusals.
async fn storm(channels: &[tonic::transport::Channel]) -> Vec<tonic::Status> {
    let csr = Key::new().csr;
    let mut asking = tokio::task::JoinSet::new();
    for channel in channels.iter().flat_map(|channel| std::iter::repeat_n(channel, 8)) {
        let request = IssueRequest { csr: csr.clone(), join_token: String::new() };
        let mut client = IdentityClient::new(channel.clone());
        asking.spawn(async move {
            let mut refused = Vec::new();
            for _ in 0..5 {
                refused.extend(client.issue(request.clone()).await.err());
            }
            refused
        });
    }
    asking.join_all().await.concat()
}

#[tokio::test]
async fn an_identity_that_asks_without_end_is_slowed_down_and_others_are_not() {
    let mesh = Mesh::started().await;
    let (orders, payments) = (join(&mesh, "orders").await, join(&mesh, "payments").await);
    let mut channels = Vec::new();
    for _ in 0..8 {
        channels.push(connect(&mesh, Some(&orders)).await.unwrap());
    }
    let mut refused = storm(&channels).await;
    for _ in 0..3 {
        // A slow machine may have issued no faster than is allowed for good.
        if refused.is_empty() {
            refused = storm(&channels).await;
        }
    }
    for status in &refused {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().starts_with("SG0306"), "{status}");
    }
    let recorded = mesh.records().1;
    assert!(recorded.iter().any(|refused| refused.reason == "rate_limited"), "{recorded:?}");
    assert!(issue(&mesh, Some(&payments), Key::new().csr, "").await.is_ok());
}
