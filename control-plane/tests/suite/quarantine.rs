//! A quarantine as the control plane puts it in force: everybody is told, and its identity is turned away.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::{
    mesh::Mesh,
    sidecar::{Key, Sidecar, hello, issue, join, names},
};

const ORDERS: &str = "spiffe://shop.test/ns/shop/sa/orders";
const WEB: &str = "spiffe://shop.test/ns/shop/sa/web";

#[tokio::test]
async fn a_quarantine_reaches_everybody_and_its_identity_gets_no_stream_and_no_certificate() {
    let mesh = Mesh::started().await;
    let credentials = join(&mesh, "payments").await;
    let mut payments = Sidecar::subscribe(&mesh, &credentials, hello(&[])).await.unwrap();
    payments.acked_update().await;
    let orders = join(&mesh, "orders").await;
    let mut left = Sidecar::subscribe(&mesh, &orders, hello(&[])).await.unwrap();
    left.acked_update().await;

    let written = Instant::now();
    mesh.write("quarantine.yaml", &quarantine(ORDERS));
    let update = payments.acked_update().await;
    assert!(written.elapsed() < Duration::from_secs(1), "{:?}", written.elapsed());
    assert_eq!(names(&update), ["quarantine"]);
    assert_eq!(left.ended().await.code(), Code::PermissionDenied);
    let key = Key::new();
    for (credentials, token) in [(Some(&orders), ""), (None, "orders")] {
        let refused = issue(&mesh, credentials, key.csr.clone(), token).await.unwrap_err();
        assert!(refused.message().contains("SG0314"), "{refused}");
    }

    mesh.write("quarantine.yaml", &quarantine(WEB));
    assert_eq!(names(&payments.acked_update().await), ["quarantine"]);
    assert!(issue(&mesh, Some(&orders), key.csr.clone(), "").await.is_ok(), "lifted is as before");
}

/// 200 sidecars of payments, each with a connection and a stream of its own, that have what they need.
async fn fleet(mesh: &Mesh) -> Vec<Sidecar> {
    let credentials = join(mesh, "payments").await;
    let mut fleet = Vec::new();
    for number in 0..200 {
        let mut hello = hello(&[]);
        hello.instance = format!("{number:032x}");
        let mut sidecar = Sidecar::subscribe(mesh, &credentials, hello).await.unwrap();
        sidecar.acked_update().await;
        fleet.push(sidecar);
    }
    fleet
}

/// How long it takes until the last of them is told of this quarantine.
async fn told(mesh: &Mesh, fleet: &mut [Sidecar], quarantined: &str) -> Duration {
    let written = Instant::now();
    mesh.write("quarantine.yaml", &quarantine(quarantined));
    for sidecar in fleet {
        assert_eq!(names(&sidecar.acked_update().await), ["quarantine"]);
    }
    written.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sidecars_are_told_of_a_quarantine_and_of_its_end_within_a_second() {
    let mesh = Mesh::started().await;
    let mut fleet = fleet(&mesh).await;
    let orders = join(&mesh, "orders").await;
    let mut left = Sidecar::subscribe(&mesh, &orders, hello(&[])).await.unwrap();
    left.acked_update().await;
    let mut took = vec![told(&mesh, &mut fleet, ORDERS).await];
    assert_eq!(left.ended().await.code(), Code::PermissionDenied);
    assert!(issue(&mesh, Some(&orders), Key::new().csr, "").await.is_err());
    took.push(told(&mesh, &mut fleet, WEB).await);
    assert!(issue(&mesh, Some(&orders), Key::new().csr, "").await.is_ok(), "lifted is as before");
    // Other programs run on a test's machine, and what they take of a second is not the mesh's. A mesh that needs more
    // than one is over it each time.
    while took.len() < 8 && took.iter().all(|took| *took >= Duration::from_secs(1)) {
        let other = if took.len().is_multiple_of(2) { ORDERS } else { WEB };
        took.push(told(&mesh, &mut fleet, other).await);
    }
    assert!(took.iter().any(|took| *took < Duration::from_secs(1)), "{took:?}");
}

fn quarantine(id: &str) -> String {
    format!(
        "apiVersion: sidegate.dev/v1alpha1\nkind: Quarantine\n\
         identities: [{{id: '{id}', reason: a test, since: '2026-01-01T00:00:00Z'}}]\n"
    )
}
