//! What a sidecar is told, when, and what happens to its answers.

use std::time::{Duration, Instant};

use sidegate_proto::v1::{
    Enforcement, Hello, InboundPort, Update, resource::Kind, subscribe_request::Message,
};
use tonic::Code;

use crate::{
    mesh::{ALLOW_ORDERS, Mesh, mesh_yaml},
    sidecar::{INSTANCE, Sidecar, connect, held, hello, join, names},
};

const PAYMENTS_POLICY: &str = "policy/shop/payments-callers";

async fn payments(mesh: &Mesh) -> (Sidecar, Update) {
    let credentials = join(mesh, "payments").await;
    let mut sidecar = Sidecar::subscribe(mesh, &credentials, hello(&["shop/orders"])).await.unwrap();
    let first = sidecar.acked_update().await;
    (sidecar, first)
}

fn document(update: &Update) -> &str {
    let policy = update.set.iter().find(|resource| resource.name == PAYMENTS_POLICY).unwrap();
    match &policy.kind {
        Some(Kind::Policy(policy)) => &policy.document,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_sidecar_gets_what_concerns_it_and_nothing_else() {
    let mesh = Mesh::started().await;
    let (_sidecar, update) = payments(&mesh).await;
    let expected = ["bundle/shop.test", PAYMENTS_POLICY, "quarantine", "service/shop/orders", "settings"];
    assert_eq!(names(&update), expected, "orders' own policy is not among them");
    assert!(update.removed.is_empty());
    let settings = update.set.iter().find_map(|resource| match &resource.kind {
        Some(Kind::Settings(settings)) => Some(settings),
        _ => None,
    });
    let settings = settings.unwrap();
    assert_eq!(settings.labels["app"], "payments", "the control plane's word");
    assert_eq!(settings.enforcement(), Enforcement::Enforce);
}

#[tokio::test]
async fn a_changed_policy_file_arrives_within_a_second() {
    let mesh = Mesh::started().await;
    let (mut sidecar, first) = payments(&mesh).await;
    assert!(document(&first).contains("shop/orders"));
    let written = Instant::now();
    mesh.write("policies/payments.yaml", &ALLOW_ORDERS.replace("[shop/orders]", "[shop/web]"));
    let update = sidecar.acked_update().await;
    assert!(written.elapsed() < Duration::from_secs(1), "{:?}", written.elapsed());
    assert_eq!(names(&update), [PAYMENTS_POLICY], "a delta");
    assert!(document(&update).contains("shop/web"));
    assert!(update.version > first.version);
}

#[tokio::test]
async fn a_removed_policy_is_removed() {
    let mesh = Mesh::started().await;
    let (mut sidecar, _) = payments(&mesh).await;
    mesh.remove("policies/payments.yaml");
    let update = sidecar.acked_update().await;
    assert_eq!(
        (names(&update).len(), update.removed.as_slice()),
        (0, [PAYMENTS_POLICY.to_owned()].as_slice())
    );
}

#[tokio::test]
async fn a_broken_file_sends_nothing_and_is_shown_until_it_is_whole_again() {
    let mesh = Mesh::started().await;
    let (mut sidecar, _) = payments(&mesh).await;
    mesh.write("policies/payments.yaml", &ALLOW_ORDERS.replace("action: Allow", "acton: Allow"));
    let status = mesh.wait_for("/v1/status", |status| !status["policies"]["lastError"].is_null()).await;
    let error = &status["policies"]["lastError"][0];
    assert_eq!((error["code"].as_str(), error["line"].as_u64()), (Some("SG0211"), Some(7)), "{error}");
    assert_eq!(error["file"], "policies/payments.yaml");
    assert_eq!(status["policies"]["count"], 2, "the last good set stays");
    let (_, metrics) = mesh.request("/metrics", "localhost").await;
    assert!(metrics.contains("sidegate_policy_load_failures_total{code=\"SG0211\"} 1"), "{metrics}");
    assert!(metrics.contains("sidegate_policy_stale 1"));
    mesh.write("policies/payments.yaml", &ALLOW_ORDERS.replace("[shop/orders]", "[shop/web]"));
    let update = sidecar.acked_update().await;
    assert_eq!(update.version, 2, "nothing was sent for the broken file");
    let status = mesh.get("/v1/status").await;
    assert!(status["policies"]["lastError"].is_null());
}

#[tokio::test]
async fn a_refused_update_is_shown_and_not_sent_again_until_it_changes() {
    let mesh = Mesh::started().await;
    let credentials = join(&mesh, "payments").await;
    let mut sidecar = Sidecar::subscribe(&mesh, &credentials, hello(&[])).await.unwrap();
    let refused = sidecar.update().await;
    sidecar.nack(&refused).await;
    let shown = mesh.wait_for("/v1/proxies", |document| !document["proxies"][0]["nack"].is_null()).await;
    let proxy = &shown["proxies"][0];
    assert_eq!(proxy["nack"]["path"], "policies/shop/payments-callers: spec.rules[0]");
    assert_eq!((proxy["version"].as_u64(), proxy["acked"].as_u64()), (Some(1), Some(0)));
    mesh.write("policies/payments.yaml", &ALLOW_ORDERS.replace("[shop/orders]", "[shop/web]"));
    let next = sidecar.acked_update().await;
    assert_eq!(next.version, 2, "the refused version was not repeated");
    assert_eq!(next.set.len(), refused.set.len(), "nothing of the refused update is in force");
    mesh.wait_for("/v1/proxies", |document| document["proxies"][0]["acked"] == 2).await;
}

#[tokio::test]
async fn who_holds_an_earlier_state_gets_only_the_difference() {
    let mesh = Mesh::started().await;
    let (mut before, first) = payments(&mesh).await;
    let credentials = join(&mesh, "payments").await;
    let mut held = held(&first);
    held.insert("policy/shop/gone".into(), "1".into());
    held.insert(PAYMENTS_POLICY.into(), "older".into());
    let hello = sidegate_proto::v1::Hello { held, ..hello(&["shop/orders"]) };
    let mut again = Sidecar::subscribe(&mesh, &credentials, hello).await.unwrap();
    let update = again.update().await;
    assert_eq!(names(&update), [PAYMENTS_POLICY]);
    assert_eq!(update.removed, ["policy/shop/gone"]);
    assert!(update.version > first.version, "versions of one instance grow over its streams");
    let superseded = before.end_or_update().await.unwrap_err();
    assert_eq!(superseded.code(), Code::Aborted, "an instance has one stream");
}

#[tokio::test]
async fn endpoints_come_with_a_subscription_and_go_with_its_orderly_end() {
    let mesh = Mesh::started().await;
    let (mut payments, first) = payments(&mesh).await;
    let endpoints = |update: &Update| {
        update.set.iter().find_map(|resource| match &resource.kind {
            Some(Kind::Service(service)) => Some(service.endpoints.len()),
            _ => None,
        })
    };
    assert_eq!(endpoints(&first), Some(0));
    let credentials = join(&mesh, "orders").await;
    let orders = Sidecar::subscribe(&mesh, &credentials, hello(&[])).await.unwrap();
    let update = payments.acked_update().await;
    assert_eq!((names(&update), endpoints(&update)), (vec!["service/shop/orders"], Some(1)));
    drop(orders.requests);
    let update = payments.acked_update().await;
    assert_eq!(endpoints(&update), Some(0));
}

#[tokio::test]
async fn a_service_that_may_not_have_found_back_yet_is_not_sent_empty() {
    let mesh = Mesh::started().await;
    let credentials = join(&mesh, "payments").await;
    let held = [("service/shop/orders".to_owned(), "from before the restart".to_owned())].into();
    let hello = sidegate_proto::v1::Hello { held, ..hello(&["shop/orders"]) };
    let mut sidecar = Sidecar::subscribe(&mesh, &credentials, hello).await.unwrap();
    let update = sidecar.update().await;
    assert!(!names(&update).contains(&"service/shop/orders") && update.removed.is_empty(), "{update:?}");
}

#[tokio::test]
async fn an_unknown_service_is_not_sent_and_is_shown() {
    let mesh = Mesh::started().await;
    let credentials = join(&mesh, "payments").await;
    let mut sidecar = Sidecar::subscribe(&mesh, &credentials, hello(&["shop/ghost"])).await.unwrap();
    assert!(!names(&sidecar.update().await).iter().any(|name| name.starts_with("service/")));
    let shown = mesh.get("/v1/proxies").await;
    assert_eq!(shown["proxies"][0]["unknownServices"][0], "shop/ghost");
    assert_eq!(shown["proxies"][0]["instance"], INSTANCE);
    assert_eq!(shown["proxies"][0]["inbound"][0]["address"], "127.0.0.1:15106");
}

#[tokio::test]
async fn a_changed_setting_reaches_open_streams() {
    let mesh = Mesh::started().await;
    let (mut sidecar, _) = payments(&mesh).await;
    mesh.write("mesh.yaml", &format!("{}enforcement: Observe\n", mesh_yaml("6h")));
    assert_eq!(names(&sidecar.acked_update().await), ["settings"]);
}

#[tokio::test]
async fn a_service_that_leaves_the_mesh_loses_its_stream() {
    let mesh = Mesh::started().await;
    let (mut sidecar, _) = payments(&mesh).await;
    let without: String = mesh_yaml("6h")
        .lines()
        .filter(|line| !line.contains("payments"))
        .flat_map(|line| [line, "\n"])
        .collect();
    mesh.write("mesh.yaml", &without);
    assert_eq!(sidecar.end_or_update().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn nobody_subscribes_without_a_certificate() {
    let mesh = Mesh::started().await;
    let channel = connect(&mesh, None).await.unwrap();
    let hello = sidegate_proto::v1::SubscribeRequest { message: Some(Message::Hello(hello(&[]))) };
    let mut client = sidegate_proto::v1::discovery_client::DiscoveryClient::new(channel);
    let refusal = client.subscribe(tokio_stream::iter([hello])).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
    assert!(refusal.message().starts_with("SG0301"), "{refusal}");
}

#[tokio::test]
async fn the_stream_ends_with_the_callers_certificate_and_the_servers_own_was_renewed() {
    let mut mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh_yaml("2s"));
    mesh.start().await.unwrap();
    let (mut sidecar, _) = payments(&mesh).await;
    let end = sidecar.end_or_update().await.unwrap_err();
    assert!(end.code() == Code::Unauthenticated && end.message().starts_with("SG0311"), "{end}");
}

#[tokio::test]
async fn breaking_the_protocol_ends_the_stream() {
    let mesh = Mesh::started().await;
    let (mut sidecar, _) = payments(&mesh).await;
    sidecar.answer(Message::Ack(sidegate_proto::v1::Ack { version: 99 })).await;
    assert_eq!(sidecar.end_or_update().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_hello_out_of_form_ends_the_stream() {
    let mesh = Mesh::started().await;
    let credentials = join(&mesh, "payments").await;
    let bad = sidegate_proto::v1::Hello { instance: "me".into(), ..hello(&[]) };
    let mut sidecar = Sidecar::subscribe(&mesh, &credentials, bad).await.unwrap();
    let end = sidecar.end_or_update().await.unwrap_err();
    assert!(end.code() == Code::InvalidArgument && end.message().contains("hello.instance"), "{end}");
    assert_eq!(mesh.get("/v1/status").await["proxies"]["total"], 0);
}

#[tokio::test]
async fn a_service_is_reached_on_its_own_port_and_on_no_other_listener() {
    let mesh = Mesh::started().await;
    let (mut payments, _) = payments(&mesh).await;
    let listener = |address: &str, port| InboundPort { address: address.to_owned(), port };
    let two = Hello {
        inbound: vec![listener("10.0.0.7:15106", 8080), listener("10.0.0.7:15107", 9090)],
        ..hello(&[])
    };
    let credentials = join(&mesh, "orders").await;
    let _orders = Sidecar::subscribe(&mesh, &credentials, two).await.unwrap();
    let addresses = |update: &Update| {
        update.set.iter().find_map(|resource| match &resource.kind {
            Some(Kind::Service(service)) => {
                service.endpoints.first().map(|endpoint| endpoint.address.clone())
            }
            _ => None,
        })
    };
    let update = payments.acked_update().await;
    assert_eq!(addresses(&update).as_deref(), Some("10.0.0.7:15106"), "without a port the first listener");
    let yaml = std::fs::read_to_string(mesh.path("mesh.yaml")).unwrap();
    mesh.write("mesh.yaml", &yaml.replace("name: orders,", "name: orders, port: 9090,"));
    let update = payments.acked_update().await;
    assert_eq!(addresses(&update).as_deref(), Some("10.0.0.7:15107"));
}
