//! The operator's API.

use crate::mesh::Mesh;

#[tokio::test]
async fn status_and_policies_say_what_is_in_force() {
    let mesh = Mesh::started().await;
    let status = mesh.get("/v1/status").await;
    assert_eq!(status["apiVersion"], "api.sidegate.dev/v1");
    assert_eq!(
        (status["trustDomain"].as_str(), status["enforcement"].as_str()),
        (Some("shop.test"), Some("Enforce"))
    );
    assert_eq!(
        (status["policies"]["count"].as_u64(), status["proxies"]["total"].as_u64()),
        (Some(2), Some(0))
    );
    assert!(status["policies"]["lastError"].is_null() && status["mesh"]["lastError"].is_null());
    let policies = mesh.get("/v1/policies").await;
    let policy = &policies["policies"][1];
    assert_eq!(
        (policy["name"].as_str(), policy["action"].as_str()),
        (Some("shop/payments-callers"), Some("Allow"))
    );
    assert_eq!((&policy["selects"][0], &policy["rules"][0]), (&"shop/payments".into(), &"orders".into()));
    assert!(policy["source"].as_str().unwrap().starts_with("policies/payments.yaml:"), "{policy}");
}

#[tokio::test]
async fn the_mesh_in_force_has_its_policies_text_and_no_token() {
    let mesh = Mesh::started().await;
    let in_force = mesh.get("/v1/mesh").await;
    let services = in_force["services"].as_array().unwrap();
    let payments = services.iter().find(|service| service["name"] == "payments").unwrap();
    assert_eq!(payments["identity"], "spiffe://shop.test/ns/shop/sa/payments");
    assert_eq!((&in_force["policies"]["stale"], &in_force["egress"]), (&false.into(), &"Deny".into()));
    let files = in_force["policies"]["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["name"] == "policies/payments.yaml").unwrap();
    assert!(file["text"].as_str().unwrap().contains("payments-callers"), "{file}");
    let status = mesh.get("/v1/status").await;
    assert_eq!(in_force["policies"]["digest"], status["policies"]["digest"]);
    assert!(!in_force.to_string().contains("sha256:"), "{in_force:#}");
}

#[tokio::test]
async fn a_foreign_host_is_refused_on_every_path() {
    let mesh = Mesh::started().await;
    for path in [
        "/v1/status",
        "/v1/proxies",
        "/v1/policies",
        "/v1/edges",
        "/v1/mesh",
        "/spiffe/bundle.json",
        "/metrics",
        "/livez",
    ] {
        assert_eq!(mesh.request(path, "attacker.test").await.0, 421, "{path}");
        assert_eq!(mesh.request(path, "127.0.0.1:15180").await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn a_bad_window_is_refused() {
    let mesh = Mesh::started().await;
    for query in ["window=2h", "window=x", "windo=60s"] {
        assert_eq!(mesh.request(&format!("/v1/edges?{query}"), "localhost").await.0, 400, "{query}");
    }
}
