//! A Require in Rego, in the whole program that was built with the feature `rego`: in a sidecar of files, and distributed by a
//! control plane.

use std::time::Instant;

use crate::mesh::{App, Authority, Connection, ControlPlane, Http, Member, PATIENCE, Port, Sidecar, id, tls};

/// Whoever the module lets: `GET` for all of orders, and `POST` for clerks.
const POLICIES: &str = r#"
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec:
  selector: {app: payments}
  action: Require
  rules:
  - name: module
    rego: |
      package sidegate
      default allow := false
      allow if input.request.method == "GET"
      allow if { input.request.method == "POST"; input.request.headers["x-role"] == ["clerk"] }
"#;

/// On a busy machine a decision may be out of time, and another one is not.
async fn comes_to(client: &mut Connection, method: &str, role: &str, status: u16) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = http::Request::builder().method(method).uri("/charge").header("host", "payments");
        let request = request.header("x-role", role).body(http_body_util::Full::default()).unwrap();
        let answered = client.send(request).await.unwrap().status;
        if answered == status {
            return;
        }
        assert!(Instant::now() < deadline, "{method} as {role}: {answered} and never {status}");
    }
}

async fn is_judged_by_the_module(client: &mut Connection) {
    comes_to(client, "GET", "nobody", 200).await;
    comes_to(client, "POST", "clerk", 200).await;
    comes_to(client, "POST", "nobody", 403).await;
    comes_to(client, "DELETE", "clerk", 403).await;
}

#[tokio::test]
async fn a_sidecar_judges_by_a_module_and_keeps_it_when_the_next_is_none() {
    let (app, authority) = (App::start().await, Authority::new());
    let sidecar =
        Sidecar::start("payments", &authority, POLICIES, &[Port::Inbound(app.address, "protocol: http")]);
    let svid = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"http/1.1").await.unwrap();
    let mut orders = Connection::over(stream, Http::One).await;
    is_judged_by_the_module(&mut orders).await;
    sidecar.accessed(|line| line["code"] == "SG0204" && line["policy"] == "shop/guard");

    let replace =
        |by: &str| sidecar.replace("policies.yaml", &POLICIES.replace("default allow := false", by));
    for (bad, told) in [
        ("allow := http.send({}).body", "http.send(…) cannot be called here"),
        ("allow if {", "data.sidegate.allow"),
    ] {
        let told = format!("policies.yaml:18:7: spec.rules[0].rego: {told}");
        replace(bad);
        sidecar.logged(|line| {
            line["code"] == "SG0212" && line["error"].as_str().is_some_and(|error| error.contains(&told))
        });
        is_judged_by_the_module(&mut orders).await;
    }
    // What leaves it undefined is doubt, and doubt denies.
    replace("");
    sidecar.applied(2);
    comes_to(&mut orders, "GET", "nobody", 200).await;
    comes_to(&mut orders, "DELETE", "clerk", 403).await;
    sidecar.accessed(|line| line["code"] == "SG0205" && line["rule"] == "module");
}

#[tokio::test]
async fn a_module_comes_from_the_control_plane_as_any_policy() {
    let app = App::start().await;
    let control_plane = ControlPlane::start("100ms", POLICIES);
    let inbound = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{}', protocol: http}}]", app.address);
    let _payments = Member::start("payments", &control_plane, &inbound);
    let outbound = "outbound: [{listen: '127.0.0.1:0', service: shop/payments, protocol: http}]";
    let orders = Member::start("orders", &control_plane, outbound);
    control_plane.serves_both().await;
    let mut client = Connection::plain(orders.address("outbound"), Http::One).await;
    is_judged_by_the_module(&mut client).await;
}
