//! What sidecars may report, and what the operator sees of it.

use sidegate_identity::tls::Credentials;
use sidegate_proto::v1::{
    Direction, EdgeCell, ReportRequest, TlsState, Verdict, ledger_client::LedgerClient,
};
use tonic::{Code, Status};

use crate::{
    mesh::Mesh,
    sidecar::{INSTANCE, connect, join},
};

fn cell(destination: &str) -> EdgeCell {
    EdgeCell {
        direction: Direction::Inbound.into(),
        source: "spiffe://shop.test/ns/shop/sa/orders".to_owned(),
        destination: format!("spiffe://shop.test/ns/shop/sa/{destination}"),
        port: 8080,
        protocol: "http1".to_owned(),
        tls: TlsState::Mutual.into(),
        verdict: Verdict::Denied.into(),
        code: "SG0202".to_owned(),
        policy: "shop/payments-callers".to_owned(),
        count: 3,
        ..EdgeCell::default()
    }
}

async fn report(
    mesh: &Mesh,
    as_whom: &Credentials,
    sequence: u64,
    cells: Vec<EdgeCell>,
) -> Result<(), Status> {
    let channel = connect(mesh, Some(as_whom)).await.unwrap();
    let instance = INSTANCE.to_owned();
    let request = ReportRequest { instance, sequence, covers_ms: 1000, cells, dropped: 0 };
    LedgerClient::new(channel).report(request).await.map(drop)
}

#[tokio::test]
async fn a_sidecars_own_edge_is_shown_and_a_repeated_batch_is_counted_once() {
    let mesh = Mesh::started().await;
    let payments = join(&mesh, "payments").await;
    for _ in 0..2 {
        report(&mesh, &payments, 1, vec![cell("payments")]).await.unwrap();
    }
    let document = mesh.get("/v1/edges?window=60s").await;
    let [edge] = document["edges"].as_array().unwrap().as_slice() else { panic!("{document}") };
    assert_eq!((edge["count"].as_u64(), edge["rps"].as_f64()), (Some(3), Some(3.0)));
    assert_eq!((edge["verdict"].as_str(), edge["code"].as_str()), (Some("denied"), Some("SG0202")));
    assert_eq!((edge["direction"].as_str(), edge["tls"].as_str()), (Some("inbound"), Some("mutual")));
    assert!(edge["rule"].is_null() && edge["shadow"].is_null() && edge["p50Ms"].is_null(), "{edge}");
}

#[tokio::test]
async fn another_workloads_edge_refuses_the_whole_batch() {
    let mesh = Mesh::started().await;
    let payments = join(&mesh, "payments").await;
    let refusal = report(&mesh, &payments, 1, vec![cell("payments"), cell("orders")]).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    assert_eq!(mesh.get("/v1/edges").await["edges"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn nobody_reports_without_a_certificate() {
    let mesh = Mesh::started().await;
    let channel = connect(&mesh, None).await.unwrap();
    let refusal = LedgerClient::new(channel).report(ReportRequest::default()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
}
