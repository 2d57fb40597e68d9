//! Join tokens of the store, at a control plane that runs beside the operator.

use std::{fs, net::IpAddr};

use tonic::Code;

use crate::{
    mesh::Mesh,
    sidecar::{Key, issue, issue_from},
};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

#[tokio::test]
async fn a_token_for_one_certificate_brings_one_and_its_replay_is_on_record() {
    let mesh = Mesh::started().await;
    let (token, secret) = mesh.token(PAYMENTS, Some(1));
    let key = Key::new();
    let response = issue(&mesh, None, key.csr.clone(), secret.as_str()).await.unwrap();
    assert_eq!(key.into_credentials(response, &mesh.trust()).svid().id().as_str(), PAYMENTS);
    let replay = issue(&mesh, None, Key::new().csr, secret.as_str()).await.unwrap_err();
    assert_eq!(replay.code(), Code::Unauthenticated);
    assert!(replay.message().starts_with("SG0351"), "{replay}");
    let (issued, refused) = mesh.records();
    let issued: Vec<_> = issued.iter().filter(|issued| issued.attestor == "join-token").collect();
    assert_eq!(issued.len(), 1);
    assert_eq!(issued[0].evidence, token.id);
    assert_eq!(refused.len(), 1);
    assert_eq!(
        (refused[0].reason.as_str(), refused[0].identity.as_deref()),
        ("token_used_up", Some(PAYMENTS))
    );
}

#[tokio::test]
async fn a_request_that_cannot_be_used_costs_no_use_of_the_token() {
    let mesh = Mesh::started().await;
    let (_, secret) = mesh.token(PAYMENTS, Some(1));
    let mut csr = Key::new().csr;
    *csr.last_mut().unwrap() ^= 1;
    let refusal = issue(&mesh, None, csr, secret.as_str()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    issue(&mesh, None, Key::new().csr, secret.as_str()).await.unwrap();
}

#[tokio::test]
async fn a_token_from_a_second_address_is_served_told_and_on_record() {
    let mesh = Mesh::started().await;
    let (_, secret) = mesh.token(PAYMENTS, None);
    let (grpc, trust) = (mesh.running().grpc(), mesh.trust());
    for source in ["127.0.0.1", "127.0.0.1", "127.0.0.2"] {
        let source: IpAddr = source.parse().unwrap();
        issue_from(source, grpc, &trust, Key::new().csr, secret.as_str()).await.unwrap();
    }
    let (_, metrics) = mesh.request("/metrics", "localhost").await;
    assert!(metrics.contains("\nsidegate_join_token_new_sources_total 1\n"), "{metrics}");
    let issued = mesh.records().0;
    let told: Vec<_> = issued.iter().filter(|issued| issued.new_source).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].caller.starts_with("127.0.0.2:"), "{told:?}");
}

#[tokio::test]
async fn a_token_that_is_taken_back_is_refused_at_once() {
    let mesh = Mesh::started().await;
    let (token, secret) = mesh.token(PAYMENTS, None);
    issue(&mesh, None, Key::new().csr, secret.as_str()).await.unwrap();
    mesh.revoke(&token);
    let refusal = issue(&mesh, None, Key::new().csr, secret.as_str()).await.unwrap_err();
    assert!(refusal.message().starts_with("SG0351"), "{refusal}");
}

#[tokio::test]
async fn damaged_tokens_refuse_the_start_and_stay_as_they_are() {
    let mut mesh = Mesh::started().await;
    mesh.token(PAYMENTS, None);
    mesh.stop().await;
    let path = mesh.path("state/tokens.db");
    let bytes = fs::read(&path).unwrap();
    let cut = &bytes[..bytes.len() / 2];
    fs::write(&path, cut).unwrap();
    let refusal = mesh.start().await.unwrap_err();
    assert_eq!(refusal.code(), sidegate_codes::Code::StateUnusable, "{refusal}");
    assert!(refusal.to_string().contains("tokens.db"), "{refusal}");
    assert_eq!(fs::read(&path).unwrap(), cut);
}
