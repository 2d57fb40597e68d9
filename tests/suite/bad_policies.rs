//! Bad input in place of the policies of a running sidecar, and of a running control plane: it is refused whole, told with
//! code, line and column, and the last good set stays in force. What else is refused, and where: `tests/conformance/refused.yaml`.

use std::time::Instant;

use serde_json::Value;

use crate::mesh::{App, Authority, Connection, ControlPlane, Http, Member, PATIENCE, Port, Sidecar, id, tls};

const GOOD: &str = "\
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  action: Allow
  rules:
  - name: orders
    from: [{serviceAccounts: [shop/orders]}]
    to: [{paths: [/charge]}]
";

/// A text that must not load, and how that is told behind the name of its file.
struct Bad {
    text: String,
    code: &'static str,
    told: &'static str,
}

/// One of each kind.
fn bad() -> Vec<Bad> {
    let bad = |text: String, code, told| Bad { text, code, told };
    let with = |good: &str, bad: &str| GOOD.replace(good, bad);
    vec![
        bad(with("spec:", "spec: ["), "SG0210", ":6:8: not valid YAML: "),
        bad(
            with("action:", "acton:"),
            "SG0211",
            ":5:3: spec.acton: unknown field \"acton\", did you mean `action`?",
        ),
        bad(with("Allow", "Alow"), "SG0213", ":5:11: spec.action: unknown \"Alow\", did you mean `Allow`?"),
        bad(
            with("[/charge]", "/charge"),
            "SG0212",
            ":9:18: spec.rules[0].to[0].paths: expected a list, found the text \"/charge\"",
        ),
        bad(with("[/charge]", "[]"), "SG0215", ":9:18: spec.rules[0].to[0].paths: is empty"),
        bad(
            with("[/charge]", "['/(charge|refund)*']"),
            "SG0212",
            ":9:19: spec.rules[0].to[0].paths[0]: \"/(charge|refund)*\": `*` stands only in a last `/**`",
        ),
        bad(
            with("to: [{paths: [/charge]}]", "when: \"['a', 'b'].all(x, request.path != x)\""),
            "SG0212",
            ":9:11: spec.rules[0].when: ",
        ),
        bad(
            with("to: [{paths: [/charge]}]", "when: request.path.matches('(a+)+$')"),
            "SG0212",
            ":9:11: spec.rules[0].when: \"request.path.matches('(a+)+$')\": at character 14: unknown function `matches`",
        ),
        bad(
            format!("{GOOD}---\n{GOOD}"),
            "SG0214",
            ":11:1: metadata.name: the policy shop/callers is also written at ",
        ),
        bad(with("[/charge]", "&a [*a]"), "SG0210", ":9:22: not valid YAML: an anchor that holds itself"),
        bad(
            with("[/charge]", &"[".repeat(100_000)),
            "SG0216",
            ":9:32: not valid YAML: lists and maps inside each other",
        ),
        bad(
            with("[/charge]", &format!("[&a {}, [*a, *a, *a, *a, *a, *a, *a, *a]]", "x".repeat(2 << 20))),
            "SG0216",
            ":9:2097201: not valid YAML: more than 16777216 bytes of text",
        ),
        bad(
            format!("{GOOD}# {}", "x".repeat(4 << 20)),
            "SG0216",
            ": 4194305 bytes; at most 4194304 are read",
        ),
        bad(String::new(), "SG0215", ": holds no policy"),
    ]
}

/// What the good set lets in, and what it does not.
async fn the_good_set_is_in_force(client: &mut Connection) {
    assert_eq!(client.status("GET", "/charge").await, 200);
    assert_eq!(client.status("GET", "/refund").await, 403);
}

#[tokio::test]
async fn bad_input_leaves_the_last_good_set_in_force_in_a_sidecar_and_says_where_it_is_bad() {
    let (app, authority) = (App::start().await, Authority::new());
    let sidecar =
        Sidecar::start("payments", &authority, GOOD, &[Port::Inbound(app.address, "protocol: http")]);
    let svid = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"http/1.1").await.unwrap();
    let mut orders = Connection::over(stream, Http::One).await;
    for Bad { text, code, told } in bad() {
        sidecar.replace("policies.yaml", &text);
        let told = format!("policies.yaml{told}");
        sidecar.logged(|line| {
            line["code"] == code && line["error"].as_str().is_some_and(|error| error.contains(&told))
        });
        the_good_set_is_in_force(&mut orders).await;
        let metrics = sidecar.page("/metrics").await.body;
        assert!(metrics.contains(&format!("sidegate_policy_refused_total{{code=\"{code}\"}} ")), "{metrics}");
        assert!(metrics.contains("sidegate_config_stale 1"), "{metrics}");
    }
    sidecar.replace("policies.yaml", &GOOD.replace("[/charge]", "[/refund]"));
    sidecar.applied(2);
    assert_eq!(orders.status("GET", "/charge").await, 403);
    assert_eq!(orders.status("GET", "/refund").await, 200);
    assert!(sidecar.page("/metrics").await.body.contains("sidegate_config_stale 0"));
}

#[tokio::test]
async fn bad_input_leaves_the_last_good_set_in_force_in_a_mesh_and_says_where_it_is_bad() {
    let app = App::start().await;
    let mut control_plane = ControlPlane::start("100ms", GOOD);
    let inbound = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{}', protocol: http}}]", app.address);
    let _payments = Member::start("payments", &control_plane, &inbound);
    let outbound = "outbound: [{listen: '127.0.0.1:0', service: shop/payments, protocol: http}]";
    let orders = Member::start("orders", &control_plane, outbound);
    control_plane.serves_both().await;
    let mut client = Connection::plain(orders.address("outbound"), Http::One).await;
    for Bad { text, code, told } in bad() {
        control_plane.policies(&text);
        let told = format!("policies/all.yaml{told}");
        refused(&control_plane, |error| error["code"] == code && shown(error).starts_with(&told)).await;
        the_good_set_is_in_force(&mut client).await;
    }
    // Nor does a control plane that starts with it take anything away.
    control_plane.policies(&bad()[0].text);
    control_plane.stop();
    control_plane.start_again();
    refused(&control_plane, |error| error["code"] == bad()[0].code).await;
    control_plane.serves_both().await;
    the_good_set_is_in_force(&mut client).await;

    control_plane.policies(&GOOD.replace("[/charge]", "[/refund]"));
    let deadline = Instant::now() + PATIENCE;
    while client.status("GET", "/refund").await != 200 {
        assert!(Instant::now() < deadline, "the newest good set is not in force");
    }
    assert_eq!(client.status("GET", "/charge").await, 403);
}

#[tokio::test]
async fn a_sidecar_that_starts_with_bad_input_lets_nobody_in() {
    let (app, authority) = (App::start().await, Authority::new());
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let (svid, orders) = (authority.svid(&id("payments")), authority.svid(&id("orders")));
    let text = GOOD.replace("action:", "acton:");
    let sidecar =
        Sidecar::start_in(Sidecar::folder("payments", &svid, &authority, &text, &ports, ""), &ports);
    sidecar.logged(|line| line["code"] == "SG0211");
    assert_eq!(sidecar.page("/readyz").await.status, 503);
    let status = match tls(sidecar.inbound(), &authority, Some(&orders), &id("payments"), b"http/1.1").await {
        Ok(stream) => Connection::over(stream, Http::One).await.call("GET", "/charge").await.ok(),
        Err(_) => None,
    };
    assert!(status.as_ref().is_none_or(|reply| reply.status == 403 || reply.status == 503), "{status:?}");
    assert!(app.seen().is_empty());
}

/// Waits until the control plane tells of a policy that it refuses.
async fn refused(control_plane: &ControlPlane, wanted: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = control_plane.get("/v1/status").await;
        let errors = status["policies"]["lastError"].as_array();
        if errors.is_some_and(|errors| errors.iter().any(&wanted)) {
            return;
        }
        assert!(Instant::now() < deadline, "{:#}", status["policies"]);
        // Nothing tells when a document of the API changes.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// As a compiler says it: `policies/all.yaml:5:3: spec.acton: unknown field`.
fn shown(error: &Value) -> String {
    let text = |field: &str| match &error[field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => format!(":{other}"),
    };
    let field = match text("field") {
        field if field.is_empty() => field,
        field => format!(": {field}"),
    };
    format!("{}{}{}{field}: {}", text("file"), text("line"), text("column"), text("message"))
}
